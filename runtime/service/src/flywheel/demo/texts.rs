//! What is said in the demo: templates by topic, and the words that fill them.
//!
//! Every word is drawn once a task, so that question, tools and answers speak of the same order or table,
//! and a good answer shares its words with the question that it answers.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Everything that can be said; see `texts.toml`.
#[derive(Deserialize, Debug)]
pub struct Texts {
    /// What a question may begin with.
    pub openers: Vec<String>,
    /// What a question may end with.
    pub closers: Vec<String>,
    /// What an agent says before it uses a tool.
    pub plans: Vec<String>,
    /// What a user says at the end.
    pub thanks: Vec<String>,
    /// Answers that are none.
    pub refusals: Vec<String>,
    /// What a user asks after the answer, and what an agent answers to that.
    pub follow_ups: Vec<(String, String)>,
    /// The words that templates name.
    pub words: BTreeMap<String, Vec<String>>,
    /// What people ask about.
    pub domains: Vec<Domain>,
}

/// A kind of work, with an agent's instructions for it.
#[derive(Deserialize, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The system message.
    pub system: String,
    /// What comes up in it.
    pub topics: Vec<Topic>,
}

/// One thing that people ask, and how it is answered well and badly.
#[derive(Deserialize, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// What it is about, in a few words.
    pub subject: String,
    /// Questions.
    pub asks: Vec<String>,
    /// What an agent looks up.
    pub tool: Tool,
    /// Answers that solve it.
    pub good: Vec<String>,
    /// Answers that help a little.
    pub fair: Vec<String>,
    /// Answers that are wrong.
    pub poor: Vec<String>,
}

/// A tool with one argument, and what it gives.
#[derive(Deserialize, Debug)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// The argument's name.
    pub argument: String,
    /// What is passed.
    pub value: String,
    /// What comes back.
    pub result: String,
}

impl Texts {
    /// The texts that are built in.
    pub fn load() -> Self {
        toml::from_str(include_str!("texts.toml")).expect("the demo's texts are TOML of this shape")
    }
}

/// One of some texts, of which there is at least one.
pub fn pick<'a>(rng: &mut ChaCha8Rng, from: &'a [String]) -> &'a str {
    &from[rng.random_range(0..from.len())]
}

/// The words of one task.
#[derive(Clone, Debug)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// Draws every word, `subject` among them.
    pub fn draw(rng: &mut ChaCha8Rng, texts: &Texts, topic: &Topic) -> Self {
        let words = texts.words.iter();
        let mut facts = Self(words.map(|(name, from)| (name.clone(), pick(rng, from).to_string())).collect());
        let mut number = |name: &str, shown: String| drop(facts.0.insert(name.to_string(), shown));
        number("order", format!("TM-{}", rng.random_range(10_000..99_999)));
        number("days", rng.random_range(3..29).to_string());
        number("day", rng.random_range(1..28).to_string());
        number("digit", rng.random_range(2..9).to_string());
        number("percent", rng.random_range(11..64).to_string());
        number("n", rng.random_range(12..900).to_string());
        number("amount", format!("{}.{:02}", rng.random_range(18..260), rng.random_range(0..20) * 5));
        let subject = facts.fill(&topic.subject);
        facts.0.insert("subject".to_string(), subject);
        facts
    }

    /// A template with its words. Braces around anything else stand for themselves, as in JSON and code.
    pub fn fill(&self, template: &str) -> String {
        let mut out = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            rest = &rest[open..];
            let word = rest.find('}').and_then(|close| Some((close, self.0.get(&rest[1..close])?)));
            let (skip, shown) = word.map_or((1, "{"), |(close, word)| (close + 1, word.as_str()));
            out.push_str(shown);
            rest = &rest[skip..];
        }
        out.push_str(rest);
        out
    }
}
