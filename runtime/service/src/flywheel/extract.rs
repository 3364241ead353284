//! A text of a body, made again from the body.
//!
//! Rows name extracted texts by digest, stream, key and part; whoever shows or embeds one gets the
//! body from its row's owner and cuts the text out here, by the same normalisation that measured it.
//! So `identity(text(MESSAGES)) == facts.conversation()`, and likewise for tools, prompt and
//! completion.

use super::{
    conversation::{Conversation, Message, render},
    decode::{call_conversation, trajectory_conversation},
    facts::present_tools,
    fields::{FieldMap, Found, Stream},
    settings::FlywheelSettings,
};
use tidemill_operators::json::{DEPTH_MAX, Json, digest};
use tidemill_types::Digest;

/// The kept messages, normalised: a JSON array.
pub const MESSAGES: u8 = 0;
/// The tools as they were received: JSON.
pub const TOOLS: u8 = 1;
/// The messages of the prompt: a JSON array.
pub const PROMPT: u8 = 2;
/// The messages after the prompt: a JSON array.
pub const COMPLETION: u8 = 3;
/// The user's text of the last exchange: plain text.
pub const USER: u8 = 4;
/// The assistant's text of the last exchange: plain text.
pub const ANSWER: u8 = 5;

/// Levels that normalisation may add: a `function_call` is wrapped into a list, and an answer's tool
/// calls move into a message.
const LEVELS_ADDED: usize = 8;

/// Makes texts again, under the settings that a store was written with.
pub struct Extractor {
    maps: [FieldMap; Stream::ALL.len()],
}

impl Extractor {
    /// An extractor under checked settings.
    pub fn new(settings: &FlywheelSettings) -> Self {
        Self { maps: Stream::ALL.map(|stream| FieldMap::new(stream, settings)) }
    }

    /// The text that is `part` of a body of stream number `stream`. Fails where the body does not
    /// have it, which says that row and body do not belong together.
    pub fn text(&self, stream: u8, part: u8, body: &[u8]) -> Result<String, String> {
        let absent = || format!("a body of stream {stream} has no part {part}");
        let known = Stream::ALL.get(usize::from(stream)).ok_or_else(absent)?;
        let found = self.maps[usize::from(stream)].find(body).map_err(|reject| reject.message)?;
        if part == TOOLS {
            let tools = if *known == Stream::Scores { None } else { found.value("tools") };
            return present_tools(tools).map(|tools| tools.text().to_string()).ok_or_else(absent);
        }
        let conversation = conversation(*known, &found).ok_or_else(absent)?;
        part_of(&conversation, part).ok_or_else(absent)
    }
}

fn conversation<'a>(stream: Stream, found: &Found<'a, '_>) -> Option<Conversation<'a>> {
    match stream {
        Stream::Trajectories => trajectory_conversation(found),
        Stream::Calls => call_conversation(found),
        Stream::Scores => None,
    }
}

fn part_of(conversation: &Conversation<'_>, part: u8) -> Option<String> {
    match part {
        MESSAGES => Some(rendered(conversation.messages())),
        PROMPT => Some(rendered(conversation.prompt())),
        COMPLETION => Some(rendered(conversation.completion())),
        USER => conversation.exchange().user.map(|text| text.into_owned()),
        ANSWER => conversation.exchange().answer.map(|text| text.into_owned()),
        _ => None,
    }
}

fn rendered(messages: &[Message<'_>]) -> String {
    let mut text = String::new();
    render(messages, &mut |piece| text.push_str(piece));
    text
}

/// The digest by which rows name a text: of JSON its canonical form's, of any other text that of its
/// bytes.
pub fn identity(text: &str) -> Digest {
    match Json::parse_nested(text.as_bytes(), DEPTH_MAX + LEVELS_ADDED) {
        Ok(value) => digest(value),
        Err(_) => Digest::of(text.as_bytes()),
    }
}
