//! A task as its user states it, and one try at it as an agent's conversation.

use super::records::Message;
use super::texts::{Facts, Texts, Topic, pick};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value as Json, json};

/// How good an answer is, in truth; judges see it more or less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grade {
    /// It solves the task.
    Good,
    /// It helps a little.
    Fair,
    /// It is wrong, or no answer.
    Poor,
}

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub struct Agent {
    /// Its name.
    pub name: &'static str,
    /// The model that it runs on.
    pub model: &'static str,
    /// How often its answers are good.
    pub skill: f64,
    /// Whether it logs tools as older clients did.
    pub legacy: bool,
}

/// All agents, the best first.
pub const AGENTS: [Agent; 4] = [
    Agent { name: "atlas", model: "harbor-70b", skill: 0.80, legacy: false },
    Agent { name: "birch", model: "harbor-8b", skill: 0.62, legacy: false },
    Agent { name: "cobalt", model: "quill-2", skill: 0.45, legacy: false },
    Agent { name: "drift", model: "quill-nano", skill: 0.25, legacy: true },
];

impl Agent {
    /// How its next answer turns out.
    pub fn grade(&self, rng: &mut ChaCha8Rng) -> Grade {
        match rng.random_range(0.0..1.0) {
            luck if luck < self.skill => Grade::Good,
            luck if luck < self.skill + (1.0 - self.skill) / 2.0 => Grade::Fair,
            _ => Grade::Poor,
        }
    }
}

/// Something that a user wants, the same for all who try it.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its number.
    pub number: u64,
    /// Its domain and topic, as places in the texts.
    pub topic: (usize, usize),
    /// Its words.
    pub facts: Facts,
    /// Whose it is.
    pub tenant: &'static str,
    /// Who asked.
    pub user_id: String,
    /// The messages that state it.
    pub opening: Vec<Message>,
    /// What can be used for it.
    pub tools: Json,
}

impl Task {
    /// Draws a task of a tenant.
    pub fn draw(rng: &mut ChaCha8Rng, texts: &Texts, number: u64, tenant: &'static str) -> Self {
        let domain = rng.random_range(0..texts.domains.len());
        let place = rng.random_range(0..texts.domains[domain].topics.len());
        let topic = &texts.domains[domain].topics[place];
        let facts = Facts::draw(rng, texts, topic);
        let (opener, closer) = (pick(rng, &texts.openers), pick(rng, &texts.closers));
        let ask = sentence(&format!("{opener}{}{closer}", facts.fill(pick(rng, &topic.asks))));
        let mut question = Message::text("user", ask.clone());
        if rng.random_bool(0.02) {
            let picture = json!({"type": "image_url", "image_url": {"url": format!("shot-{number}.png")}});
            question.content = json!([{"type": "text", "text": ask}, picture]);
        }
        let opening = vec![Message::text("system", texts.domains[domain].system.as_str()), question];
        let user_id = format!("{tenant}-u{}", rng.random_range(100..400));
        let tools = if rng.random_bool(0.85) { tools(topic) } else { Json::Null };
        Self { number, topic: (domain, place), facts, tenant, user_id, opening, tools }
    }

    /// Its topic.
    pub fn topic<'a>(&self, texts: &'a Texts) -> &'a Topic {
        &texts.domains[self.topic.0].topics[self.topic.1]
    }

    /// The name that its tries share.
    pub fn name(&self, texts: &Texts) -> String {
        let (domain, topic) = (&texts.domains[self.topic.0], self.topic(texts));
        format!("{}/{}/{:05}", domain.name, topic.name, self.number)
    }

    /// An answer of some quality.
    pub fn answer(&self, rng: &mut ChaCha8Rng, texts: &Texts, grade: Grade) -> String {
        let topic = self.topic(texts);
        let from = match grade {
            Grade::Good => &topic.good,
            Grade::Fair => &topic.fair,
            Grade::Poor if rng.random_bool(0.3) => &texts.refusals,
            Grade::Poor => &topic.poor,
        };
        sentence(&self.facts.fill(pick(rng, from)))
    }

    /// What an agent says before it looks something up.
    pub fn plan(&self, rng: &mut ChaCha8Rng, texts: &Texts) -> String {
        self.facts.fill(pick(rng, &texts.plans))
    }

    /// A call of the topic's tool.
    pub fn tool_call(&self, texts: &Texts, id: &str) -> Json {
        json!([{"id": id, "type": "function", "function": self.function(texts)}])
    }

    fn function(&self, texts: &Texts) -> Json {
        let tool = &self.topic(texts).tool;
        let arguments = json!({tool.argument.as_str(): self.facts.fill(&tool.value)});
        json!({"name": tool.name, "arguments": arguments.to_string()})
    }

    /// What the tool gives.
    pub fn tool_result(&self, texts: &Texts) -> String {
        self.facts.fill(&self.topic(texts).tool.result)
    }

    /// What the user asks next, and its answer.
    pub fn follow_up(&self, rng: &mut ChaCha8Rng, texts: &Texts) -> (String, String) {
        let (asks, answer) = &texts.follow_ups[rng.random_range(0..texts.follow_ups.len())];
        (self.facts.fill(asks), sentence(&self.facts.fill(answer)))
    }

    /// The answer to what the user asked next, if that is what was said last.
    pub fn follow_answer(&self, texts: &Texts, said: &Message) -> Option<String> {
        let said = said.content.as_str().filter(|_| said.role == "user")?;
        let (_, answer) = texts.follow_ups.iter().find(|(asks, _)| self.facts.fill(asks) == said)?;
        Some(sentence(&self.facts.fill(answer)))
    }

    /// A whole try: the opening, often a tool, the answer, and what the user says to it.
    pub fn conversation(
        &self,
        rng: &mut ChaCha8Rng,
        texts: &Texts,
        agent: &Agent,
        grade: Grade,
    ) -> Vec<Message> {
        let mut messages = self.opening.clone();
        if !self.tools.is_null() && rng.random_bool(0.75) {
            messages.extend(self.look_up(rng, texts, agent));
        }
        messages.push(Message::text("assistant", self.answer(rng, texts, grade)));
        if grade == Grade::Good && rng.random_bool(0.2) {
            let (asked, answered) = self.follow_up(rng, texts);
            messages.push(Message::text("user", asked));
            messages.push(Message::text("assistant", answered));
        }
        if grade == Grade::Good && rng.random_bool(0.25) {
            messages.push(Message::text("user", pick(rng, &texts.thanks)));
        }
        messages
    }

    fn look_up(&self, rng: &mut ChaCha8Rng, texts: &Texts, agent: &Agent) -> [Message; 2] {
        let (said, result) = (self.plan(rng, texts), self.tool_result(texts));
        let name = Some(self.topic(texts).tool.name.clone());
        if agent.legacy {
            let function_call = Some(self.function(texts));
            let asked = Message { function_call, ..Message::text("assistant", said) };
            return [asked, Message { name, ..Message::text("function", result) }];
        }
        let id = format!("call_{:08x}", rng.random_range(0..u32::MAX));
        let asked =
            Message { tool_calls: Some(self.tool_call(texts, &id)), ..Message::text("assistant", said) };
        [asked, Message { tool_call_id: Some(id), name, ..Message::text("tool", result) }]
    }
}

/// The schema of a topic's tool, as models are given it.
fn tools(topic: &Topic) -> Json {
    let tool = &topic.tool;
    let parameters = json!({
        "type": "object",
        "properties": {tool.argument.as_str(): {"type": "string"}},
        "required": [tool.argument],
    });
    json!([{"type": "function",
            "function": {"name": tool.name, "description": tool.about, "parameters": parameters}}])
}

/// A text that begins as sentences do.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
