//! What is extracted from a body once, on arrival, and committed beside its row.
//!
//! Everything that the flow asks of a conversation stands here in a fixed few hundred bytes: digests
//! for equality, counts, and the names of the two texts that a model sees. Restored from the store
//! they are the same facts, so a retraction cancels what it should and nothing is parsed twice.

use super::conversation::{Conversation, Message, assistant_turns, render};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidemill_operators::json::{Canonical, Json, JsonKind, digest};
use tidemill_types::{Cell, CellReader, Digest, Kind, RowError};

/// A text that a model may be asked about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TextFact {
    /// Its BLAKE3-256 hash, which is its name as a request.
    pub digest: [u8; 32],
    /// Its length in bytes.
    pub len: u32,
}

impl TextFact {
    /// The fact of a text.
    pub fn of(text: &str) -> Self {
        Self { digest: *blake3::hash(text.as_bytes()).as_bytes(), len: length(text.len()) }
    }
}

/// The facts of a subject that has a sample. (Digests stand as bytes, which is how columns lend them.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SampleFacts {
    conversation: [u8; 16],
    tools: Option<[u8; 16]>,
    prompt: [u8; 16],
    completion: [u8; 16],
    /// The user's text of the last exchange.
    pub user: Option<TextFact>,
    /// The assistant's text of the last exchange.
    pub answer: Option<TextFact>,
    /// Bytes over 4, rounded up.
    pub tokens: u64,
    /// Messages of the prompt.
    pub prompt_messages: u32,
    /// Kept messages.
    pub messages: u32,
    /// Assistant messages among the kept.
    pub assistant_turns: u32,
    /// Assistant messages in the prompt.
    pub prompt_turns: u32,
    /// Length of the rendered messages in bytes; no text made of some of them is longer.
    pub messages_len: u32,
    /// Length of the tools in bytes, 0 without.
    pub tools_len: u32,
    /// The hold-out bucket, below 10,000; `None` where nothing decides it.
    pub opening_bucket: Option<u16>,
    /// Whether all content was text.
    pub text_only: bool,
}

const BYTES_PER_TOKEN: u64 = 4;
const BUCKETS: u64 = 10_000;

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Tools that count as there: not null, `""`, `[]` or `{}`.
pub fn present_tools(tools: Option<Json<'_>>) -> Option<Json<'_>> {
    tools.filter(|tools| tools.kind() != JsonKind::Null && !tools.is_empty())
}

/// The hold-out bucket of texts joined by LF.
fn bucket<'a>(texts: impl IntoIterator<Item = std::borrow::Cow<'a, str>>) -> u16 {
    let mut hasher = Sha256::new();
    for (place, text) in texts.into_iter().enumerate() {
        if place > 0 {
            hasher.update(b"\n");
        }
        hasher.update(text.as_bytes());
    }
    let hash = hasher.finalize();
    let head = hash.iter().take(8).fold(0, |head, byte| head << 8 | u64::from(*byte));
    (head % BUCKETS) as u16
}

impl SampleFacts {
    /// The facts of a conversation. `task` decides the hold-out bucket when the opening is
    /// empty; `canonical` is memory to work in.
    pub fn of(
        conversation: &Conversation<'_>,
        tools: Option<Json<'_>>,
        task: Option<&str>,
        canonical: &mut Canonical,
    ) -> Self {
        let written = Written::of(conversation, canonical);
        let tools = present_tools(tools);
        let exchange = conversation.exchange();
        let opening = conversation.opening();
        let opening_bucket = match opening {
            [] => task.map(|task| bucket([task.into()])),
            _ => Some(bucket(opening.iter().map(Message::content))),
        };
        let mut messages_len = 0;
        render(conversation.messages(), &mut |piece| messages_len += piece.len());
        Self {
            conversation: written.conversation.to_bytes(),
            tools: tools.map(|tools| digest(tools).to_bytes()),
            prompt: written.prompt.to_bytes(),
            completion: written.completion.to_bytes(),
            user: exchange.user.as_deref().map(TextFact::of),
            answer: exchange.answer.as_deref().map(TextFact::of),
            tokens: written.counted.div_ceil(BYTES_PER_TOKEN),
            prompt_messages: length(conversation.prompt().len()),
            messages: length(conversation.messages().len()),
            assistant_turns: assistant_turns(conversation.messages()),
            prompt_turns: assistant_turns(conversation.prompt()),
            messages_len: length(messages_len),
            tools_len: tools.map_or(0, |tools| length(tools.text().len())),
            opening_bucket,
            text_only: conversation.text_only(),
        }
    }
}

/// What one writing of a conversation's canonical text gives.
struct Written {
    conversation: Digest,
    prompt: Digest,
    completion: Digest,
    counted: u64,
}

impl Written {
    fn of(conversation: &Conversation<'_>, canonical: &mut Canonical) -> Self {
        canonical.clear();
        let mut counted = 0;
        let prompt_end = write_list(conversation.prompt(), canonical, &mut counted);
        let separator = usize::from(prompt_end > 0);
        if separator > 0 {
            canonical.push(",");
        }
        write_list(conversation.completion(), canonical, &mut counted);
        let text = canonical.text();
        Self {
            conversation: array_digest(text),
            prompt: array_digest(&text[..prompt_end]),
            completion: array_digest(&text[prompt_end + separator..]),
            counted,
        }
    }
}

/// Appends messages, separated by commas, and returns where they end.
fn write_list(messages: &[Message<'_>], canonical: &mut Canonical, counted: &mut u64) -> usize {
    for (place, message) in messages.iter().enumerate() {
        if place > 0 {
            canonical.push(",");
        }
        *counted += message.canonical(canonical);
    }
    canonical.text().len()
}

/// The digest of the array whose canonical elements these are.
fn array_digest(elements: &str) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"[");
    hasher.update(elements.as_bytes());
    hasher.update(b"]");
    Digest::finish(&hasher.finalize())
}

impl SampleFacts {
    /// Canonical digest of the kept messages.
    pub fn conversation(&self) -> Digest {
        Digest::from_bytes(self.conversation)
    }

    /// Canonical digest of the tools; `None` where there are none.
    pub fn tools(&self) -> Option<Digest> {
        self.tools.map(Digest::from_bytes)
    }

    /// Canonical digest of the messages of the prompt.
    pub fn prompt(&self) -> Digest {
        Digest::from_bytes(self.prompt)
    }

    /// Canonical digest of the messages after the prompt.
    pub fn completion(&self) -> Digest {
        Digest::from_bytes(self.completion)
    }

    /// Assistant messages after the prompt.
    pub fn completion_turns(&self) -> u32 {
        self.assistant_turns - self.prompt_turns
    }
}

/// The columns that facts are stored in; all of them null where a subject has no sample.
pub fn columns() -> Vec<(&'static str, Kind)> {
    COLUMNS.to_vec()
}

const COLUMNS: [(&str, Kind); 17] = [
    ("conversation_digest?", Kind::Binary),
    ("tools_digest?", Kind::Binary),
    ("prompt_digest?", Kind::Binary),
    ("completion_digest?", Kind::Binary),
    ("user_digest?", Kind::Binary),
    ("user_len?", Kind::Long),
    ("answer_digest?", Kind::Binary),
    ("answer_len?", Kind::Long),
    ("tokens?", Kind::Long),
    ("prompt_messages?", Kind::Long),
    ("messages_kept?", Kind::Long),
    ("assistant_turns?", Kind::Long),
    ("prompt_turns?", Kind::Long),
    ("messages_len?", Kind::Long),
    ("tools_len?", Kind::Long),
    ("opening_bucket?", Kind::Int),
    ("text_only?", Kind::Boolean),
];

/// One cell for each of [`columns`].
pub fn cells<'a>(facts: Option<&'a SampleFacts>, out: &mut dyn FnMut(Cell<'a>)) {
    let Some(facts) = facts else {
        return COLUMNS.iter().for_each(|_| out(Cell::Null));
    };
    let optional = |bytes: Option<&'a [u8]>| bytes.map_or(Cell::Null, Cell::Bytes);
    let long = |number: u32| Cell::Long(i64::from(number));
    out(Cell::Bytes(&facts.conversation));
    out(optional(facts.tools.as_ref().map(<[u8; 16]>::as_slice)));
    out(Cell::Bytes(&facts.prompt));
    out(Cell::Bytes(&facts.completion));
    for text in [&facts.user, &facts.answer] {
        out(optional(text.as_ref().map(|text| text.digest.as_slice())));
        out(text.map_or(Cell::Null, |text| long(text.len)));
    }
    out(Cell::Long(facts.tokens as i64));
    out(long(facts.prompt_messages));
    out(long(facts.messages));
    out(long(facts.assistant_turns));
    out(long(facts.prompt_turns));
    out(long(facts.messages_len));
    out(long(facts.tools_len));
    out(facts.opening_bucket.map_or(Cell::Null, |bucket| Cell::Int(i32::from(bucket))));
    out(Cell::Bool(facts.text_only));
}

/// The facts whose cells these are.
pub fn read(cells: &mut CellReader<'_>) -> Result<Option<SampleFacts>, RowError> {
    let Some(conversation) = cells.bytes_opt()? else {
        for _ in 1..COLUMNS.len() {
            cells.bytes_opt()?;
        }
        return Ok(None);
    };
    Ok(Some(SampleFacts {
        conversation: fixed(conversation)?,
        tools: cells.bytes_opt()?.map(fixed).transpose()?,
        prompt: fixed(cells.bytes()?)?,
        completion: fixed(cells.bytes()?)?,
        user: read_text(cells)?,
        answer: read_text(cells)?,
        tokens: cells.long()? as u64,
        prompt_messages: read_count(cells)?,
        messages: read_count(cells)?,
        assistant_turns: read_count(cells)?,
        prompt_turns: read_count(cells)?,
        messages_len: read_count(cells)?,
        tools_len: read_count(cells)?,
        opening_bucket: cells.int_opt()?.map(|bucket| bucket as u16),
        text_only: cells.bool()?,
    }))
}

fn read_text(cells: &mut CellReader<'_>) -> Result<Option<TextFact>, RowError> {
    let digest = cells.bytes_opt()?.map(fixed).transpose()?;
    let len = cells.long_opt()?.map(|len| len as u32);
    Ok(digest.zip(len).map(|(digest, len)| TextFact { digest, len }))
}

fn read_count(cells: &mut CellReader<'_>) -> Result<u32, RowError> {
    Ok(cells.long()? as u32)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], RowError> {
    let found = || format!("{} bytes", bytes.len());
    bytes.try_into().map_err(|_| RowError { column: 0, found: found(), expected: "the bytes of a digest" })
}
