//! A small program that has one of everything, and its tables recomputed without any of the runtime.
//!
//! Documents come, change and go in two partitions: `id|title|text`, `id|` to delete, anything else is
//! rejected. Derived are the titles with their numbers, and the texts with what a model made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemill_core::builder::{failures_schema, results_schema};
use tidemill_core::model::{Outcome, Request, ResultRow, TextDigest};
use tidemill_core::program::{Builder, Extract, Program};
use tidemill_core::source::{
    Decode, Decoded, ErasedDecode, RawRecord, RawValue, Reject, SourceRow, StreamSpec, erase,
    identity_digest, rejects_schema,
};
use tidemill_core::words::{SourceTableRow, StateRow, source_schema, state_schema};
use tidemill_operators::{join, pending, sums, upsert};
use tidemill_types::{
    Cell, CellReader, Digest, Kind, ModelId, Origin, Partition, ProgramId, Row, RowError, TableSchema, Text,
    Value, hex,
};

/// The stream's name.
pub const STREAM: &str = "docs";
/// How many partitions it has.
pub const PARTITIONS: usize = 2;
/// The tables, in order.
pub const TABLES: [&str; 7] =
    ["raw.docs", "_state.docs", "ai.vectors", "ai.failures", "ops.rejects", "made.titles", "made.judged"];

/// A document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Doc {
    id: String,
    body: Text,
    title: String,
    text: Vec<u8>,
    bytes: i64,
}

impl SourceRow for Doc {
    fn columns() -> Vec<(&'static str, Kind)> {
        vec![("id*", Kind::String), ("body", Kind::Text)]
    }

    fn facts() -> Vec<(&'static str, Kind)> {
        vec![("title", Kind::String), ("text", Kind::Binary), ("bytes", Kind::Long)]
    }

    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.id));
        out(Cell::Text(self.body));
    }

    fn fact_cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.title));
        out(Cell::Bytes(&self.text));
        out(Cell::Long(self.bytes));
    }

    fn read(cells: &mut CellReader<'_>) -> Result<Self, RowError> {
        let (id, body) = (cells.str()?.to_string(), cells.text()?);
        let (title, text) = (cells.str()?.to_string(), cells.bytes()?.to_vec());
        Ok(Self { id, body, title, text, bytes: cells.long()? })
    }

    fn identity(&self) -> &str {
        &self.id
    }

    fn body(&self) -> Text {
        self.body
    }
}

/// What a value says.
enum Said<'a> {
    Doc { id: &'a str, title: &'a str, text: &'a str },
    Gone(&'a str),
    Nothing,
}

fn said(value: &[u8]) -> Said<'_> {
    let Ok(value) = std::str::from_utf8(value) else { return Said::Nothing };
    let Some((id, rest)) = value.split_once('|') else { return Said::Nothing };
    match rest.split_once('|') {
        Some((title, text)) => Said::Doc { id, title, text },
        None => Said::Gone(id),
    }
}

struct Decoder;

impl Decode for Decoder {
    type Row = Doc;

    fn decode(&mut self, record: &RawRecord<'_>) -> Decoded<Doc> {
        let RawValue::Bytes(value) = record.value else { return Decoded::Nothing };
        match said(value) {
            Said::Doc { id, title, text } => Decoded::Row(Doc {
                id: id.to_string(),
                body: Text::body(value),
                title: title.to_string(),
                text: blake3::hash(text.as_bytes()).as_bytes().to_vec(),
                bytes: value.len() as i64,
            }),
            Said::Gone(id) => Decoded::Delete(id.to_string()),
            Said::Nothing => {
                Decoded::Reject(Reject { code: "no_document", message: "it has no bar".to_string() })
            }
        }
    }
}

/// A title.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
struct Title(String, i64, i64);

impl Row for Title {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.0));
        out(Cell::Long(self.1));
        out(Cell::Long(self.2));
    }
}

/// A document's text with what a model made of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
struct Judged(String, Text, u64);

impl Row for Judged {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Str(&self.0));
        out(Cell::Text(self.1));
        out(Cell::Double(f64::from_bits(self.2)));
    }
}

/// The program.
pub struct Docs;

impl Extract for Docs {
    fn text(&self, _: u8, _: u8, body: &[u8]) -> Result<String, String> {
        match said(body) {
            Said::Doc { text, .. } => Ok(text.to_string()),
            _ => Err("the body is no document".to_string()),
        }
    }

    fn identity(&self, text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }
}

/// The identity of an extracted text, from its BLAKE3-256.
fn text_of(doc: &Doc) -> (TextDigest, Text) {
    let digest: TextDigest = doc.text.as_slice().try_into().unwrap_or_default();
    let origin = Some(Origin { stream: 0, key: identity_digest(&doc.id), part: 0 });
    // The digest of one part is that of its bytes, cut to 128 bits.
    let cut = Digest::from_bytes(std::array::from_fn(|i| digest[i]));
    (digest, Text { digest: cut, len: doc.bytes as u32, origin })
}

impl Program for Docs {
    fn id(&self) -> ProgramId {
        ProgramId { name: STREAM.into(), version: "1".into(), settings: serde_json::json!({}) }
    }

    fn fixed_settings(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn streams(&self) -> Vec<StreamSpec> {
        vec![StreamSpec {
            name: STREAM.into(),
            file_prefixes: vec![STREAM.into()],
            topic: STREAM.into(),
            value_bytes_max: 1 << 20,
        }]
    }

    fn source_tables(&self) -> Vec<(String, String)> {
        vec![(TABLES[0].into(), TABLES[1].into())]
    }

    fn decoder(&self, _: usize) -> Box<dyn ErasedDecode> {
        erase(STREAM, 1 << 20, Decoder)
    }

    fn tables(&self) -> Vec<TableSchema> {
        let titles = [("title*", Kind::String), ("sum", Kind::Long), ("n", Kind::Long)];
        let judged = [("id*", Kind::String), ("text", Kind::Text), ("first", Kind::Double)];
        vec![
            source_schema::<Doc>(TABLES[0]),
            state_schema::<Doc>(TABLES[1]),
            results_schema(TABLES[2]),
            failures_schema(TABLES[3]),
            rejects_schema(TABLES[4]),
            TableSchema::new(TABLES[5], titles),
            TableSchema::new(TABLES[6], judged),
        ]
    }

    fn is_derived(&self, table: &str) -> bool {
        table.starts_with("made.")
    }

    fn build(&self, builder: &mut Builder<'_>) {
        let upserted = upsert(builder.words::<Doc>(0, TABLES[1]));
        let words = upserted.words.map(|(_, word)| StateRow { word: word.word, current: word.current });
        builder.table(TABLES[1], words);
        let current = upserted.current.map(|(_, word)| word);
        builder.table(TABLES[0], current.clone().map(SourceTableRow));
        let results = builder.results(TABLES[2], TABLES[3]);
        let rejects = builder.rejects();
        builder.table(TABLES[4], rejects);
        let docs = current.flat_map(|word| word.value.clone());
        let titles = sums(docs.clone().map(|doc| (doc.title.clone(), doc.bytes)));
        builder.table(TABLES[5], titles.map(|(title, (sum, n))| Title(title, sum, n)));
        let texts = docs.map(|doc| {
            let (digest, text) = text_of(&doc);
            (digest, (doc.id.clone(), text, doc.body.digest))
        });
        let vectors = results.clone().flat_map(|result: ResultRow| match &*result.outcome {
            Outcome::Vector { vector, .. } => {
                Some((result.digest, f64::from(vector.first().copied().unwrap_or(0.0)).to_bits()))
            }
            Outcome::Failure { .. } => None,
        });
        let judged =
            join(texts.clone(), vectors, |_, (id, text, _), first| Judged(id.clone(), *text, *first));
        builder.table(TABLES[6], judged);
        let requests = texts.map(|(digest, (_, text, body))| (digest, Request { digest, text, body }));
        let answered = results.map(|result| (result.digest, ()));
        builder.pending(pending(requests, answered).map(|(_, request)| request));
    }
}

/// The model's name.
pub fn model() -> ModelId {
    ModelId { model: "dice".into(), version: "1".into() }
}

/// A record of the topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Microseconds since 1970.
    pub timestamp: i64,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A table as rows by key, each row as text: what differs is seen.
pub type Rows = BTreeMap<String, String>;

/// A committed row's key and text, from its values; texts count by their digests.
pub fn shown(schema: &TableSchema, values: &[Value]) -> (String, String) {
    let cell = |value: &Value| match value {
        Value::Text(text) => format!("text {}", text.digest),
        Value::Double(x) => format!("{:016x}", x.to_bits()),
        other => format!("{other:?}"),
    };
    let key = schema.key_places().map(|place| cell(&values[place])).collect::<Vec<_>>().join(" ");
    (key, values.iter().map(cell).collect::<Vec<_>>().join(" "))
}

/// The tables that follow from the records below some positions and from some results: each of `vectors` is
/// a text's digest in hex and the first number of its vector.
// long: it is the definition of all tables, read from top to bottom.
pub fn recomputed(
    topic: &[Vec<Record>],
    positions: &[u64],
    vectors: &BTreeMap<String, f32>,
) -> BTreeMap<&'static str, Rows> {
    let schemas = Docs.tables();
    let mut words: BTreeMap<(String, usize), (u64, &Record)> = BTreeMap::new();
    let mut tables: BTreeMap<&'static str, Rows> = BTreeMap::new();
    let mut put = |table: usize, values: Vec<Value>| {
        let (key, row) = shown(&schemas[table], &values);
        tables.entry(TABLES[table]).or_default().insert(key, row);
    };
    let place = |partition: usize| Value::Str(Partition::number(partition as u32).text().to_string());
    for (partition, records) in topic.iter().enumerate() {
        for (offset, record) in records.iter().take(positions[partition] as usize).enumerate() {
            match said(&record.value) {
                Said::Doc { id, .. } | Said::Gone(id) => {
                    words.insert((id.to_string(), partition), (offset as u64, record));
                }
                Said::Nothing => put(
                    4,
                    vec![
                        Value::Str(STREAM.into()),
                        place(partition),
                        Value::Long(offset as i64),
                        Value::Null,
                        Value::Str("no_document".into()),
                        Value::Str("it has no bar".into()),
                        Value::Bytes(record.value.clone()),
                        Value::Long(record.value.len() as i64),
                    ],
                ),
            }
        }
    }
    let mut current: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
    for ((id, partition), (_, record)) in &words {
        let rank = (record.timestamp, *partition);
        let best = current.entry(id).or_insert(rank);
        *best = rank.max(*best);
    }
    let mut titles: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for ((id, partition), (offset, record)) in &words {
        let counts = current[id.as_str()].1 == *partition;
        let (doc, body) = match said(&record.value) {
            Said::Doc { title, text, .. } => (Some((title, text)), Value::Text(Text::body(&record.value))),
            _ => (None, Value::Null),
        };
        let fact = |value: Value| if doc.is_some() { value } else { Value::Null };
        let hash = doc.map(|(_, text)| blake3::hash(text.as_bytes()));
        put(
            1,
            vec![
                Value::Str(id.clone()),
                place(*partition),
                Value::Long(*offset as i64),
                Value::Micros(record.timestamp),
                Value::Bool(doc.is_none()),
                Value::Bool(counts),
                fact(Value::Bytes(Digest::of(&record.value).to_bytes().to_vec())),
                fact(Value::Long(record.value.len() as i64)),
                doc.map_or(Value::Null, |(title, _)| Value::Str(title.to_string())),
                hash.map_or(Value::Null, |hash| Value::Bytes(hash.as_bytes().to_vec())),
                fact(Value::Long(record.value.len() as i64)),
                if counts { Value::Null } else { body.clone() },
            ],
        );
        let (true, Some((title, text)), Some(hash)) = (counts, doc, hash) else { continue };
        let offset = Value::Long(*offset as i64);
        put(
            0,
            vec![Value::Str(id.clone()), body, place(*partition), offset, Value::Micros(record.timestamp)],
        );
        let title = titles.entry(title).or_default();
        *title = (title.0 + record.value.len() as i64, title.1 + 1);
        if let Some(first) = vectors.get(&hex(hash.as_bytes())) {
            let text = Text { digest: Docs.identity(text), len: 0, origin: None };
            put(6, vec![Value::Str(id.clone()), Value::Text(text), Value::Double(f64::from(*first))]);
        }
    }
    for (title, (sum, n)) in titles {
        put(5, vec![Value::Str(title.into()), Value::Long(sum), Value::Long(n)]);
    }
    tables
}

/// The digests in hex of all texts below some positions.
pub fn texts(topic: &[Vec<Record>], positions: &[u64]) -> BTreeSet<String> {
    let read = topic.iter().zip(positions).flat_map(|(records, next)| records.iter().take(*next as usize));
    let text = |record: &Record| match said(&record.value) {
        Said::Doc { text, .. } => Some(hex(blake3::hash(text.as_bytes()).as_bytes())),
        _ => None,
    };
    read.filter_map(text).collect()
}

/// The program, shared.
pub fn program() -> Arc<dyn Program> {
    Arc::new(Docs)
}
