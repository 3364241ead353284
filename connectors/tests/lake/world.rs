//! A small program with its whole history in memory, and a store that fails on demand.

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use tidemill_core::segment::{SegmentDraft, encode};
use tidemill_core::store::{Created, ObjectInfo, SharedStore, Store, StoreError};
use tidemill_types::{
    Digest, FORMAT, Origin, ProgramId, Published, Root, SegmentRef, Text, Value, key_digest,
};

/// The program: documents of several lines, samples by title, a summary.
pub mod program {
    use std::sync::Arc;
    use tidemill_connectors::lake::StreamTable;
    use tidemill_core::program::Extract;
    use tidemill_types::{Digest, Kind, TableSchema};

    pub const RAW: usize = 0;
    pub const WORDS: usize = 1;
    pub const SAMPLES: usize = 2;
    pub const SUMMARY: usize = 3;

    pub fn schemas() -> Arc<[TableSchema]> {
        let source = [("source_partition", Kind::String), ("source_offset", Kind::Long)];
        let raw = [("id*", Kind::String), ("kind?", Kind::String), ("body", Kind::Text)];
        let words = [
            ("id*", Kind::String),
            ("source_partition*", Kind::String),
            ("source_offset", Kind::Long),
            ("deleted", Kind::Boolean),
            ("current", Kind::Boolean),
            ("body?", Kind::Text),
        ];
        let samples = [
            ("sample*", Kind::String),
            ("title", Kind::Text),
            ("vector?", Kind::Floats),
            ("score?", Kind::Double),
            ("rest?", Kind::Text),
            ("at?", Kind::Timestamp),
            ("blob?", Kind::Binary),
            ("copies", Kind::Int),
        ];
        let rejects = [("stream*", Kind::String), ("at*", Kind::Long), ("head", Kind::Binary)];
        Arc::new([
            TableSchema::new("raw.docs", raw.into_iter().chain(source)),
            TableSchema::new("_state.docs", words),
            TableSchema::new("curated.samples", samples),
            TableSchema::new("evals.summary", [("kind*", Kind::String), ("n", Kind::Long)]),
            TableSchema::new("ops.rejects", rejects),
        ])
    }

    pub fn streams() -> Vec<StreamTable> {
        vec![StreamTable { raw: RAW, words: WORDS }]
    }

    /// Part `n` is line `n` of the body.
    pub struct Lines;

    impl Extract for Lines {
        fn text(&self, _: u8, part: u8, body: &[u8]) -> Result<String, String> {
            let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
            text.lines().nth(part as usize).map(str::to_string).ok_or_else(|| "too few lines".to_string())
        }

        fn identity(&self, text: &str) -> Digest {
            Digest::of_parts([text.as_bytes()])
        }
    }
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

type Rows = BTreeMap<Digest, Vec<Value>>;
type Changes = Vec<(Vec<Value>, i64)>;

/// One partition's word on a document.
#[derive(Clone)]
struct Word {
    /// The word of the greatest rank counts, so that a word may come back when another sinks.
    rank: u64,
    offset: u64,
    body: Option<String>,
}

/// The program's state and history.
pub struct World {
    random: Random,
    words: BTreeMap<(String, String), Word>,
    offset: u64,
    arrived: Vec<(Digest, Bytes)>,
    texts: HashMap<Digest, String>,
    tables: Vec<Rows>,
    history: Vec<Vec<Rows>>,
    pub epoch: u64,
    pub generation: u64,
    pub published: Option<Published>,
    pub roots: Vec<Root>,
    /// Changes that the next commit carries besides the true ones.
    pub extra: Vec<(usize, Vec<Value>, i64)>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            words: BTreeMap::new(),
            offset: 0,
            arrived: Vec::new(),
            texts: HashMap::new(),
            tables: vec![Rows::new(); program::schemas().len()],
            history: Vec::new(),
            epoch: 0,
            generation: 1,
            published: None,
            roots: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// Some documents come, change, go or come back.
    pub fn change(&mut self) {
        for _ in 0..self.random.below(9) {
            let id = format!("doc-{}", self.random.below(60));
            let partition = ["a.jsonl", "b.jsonl"][self.random.below(2) as usize].to_string();
            self.offset += 1;
            let body = (self.random.below(4) > 0).then(|| self.body());
            if let Some(body) = &body {
                self.texts.insert(Digest::of(body.as_bytes()), body.clone());
                self.arrived.push((Digest::of(body.as_bytes()), Bytes::from(body.clone())));
            }
            let rank = self.random.next();
            self.words.insert((id, partition), Word { rank, offset: self.offset, body });
        }
        let mut seen = HashSet::new();
        self.arrived.retain(|(digest, _)| seen.insert(*digest));
    }

    fn body(&mut self) -> String {
        let title = format!("title {} \u{e9}", self.random.below(40));
        let size = match self.random.below(20) {
            0 => 300_000,
            1..5 => 5_000,
            _ => 50,
        };
        let filler: String = (0..size / 16).map(|_| format!("{:016x}", self.random.next())).collect();
        format!("{title}\nrest of {}\n{filler}", self.random.below(1000))
    }

    /// Every table, from the words alone.
    fn compute(&mut self) -> Vec<Rows> {
        let mut tables = vec![Rows::new(); program::schemas().len()];
        let mut current: BTreeMap<&String, (&String, &Word)> = BTreeMap::new();
        for ((id, partition), word) in &self.words {
            let best = current.entry(id).or_insert((partition, word));
            if word.rank > best.1.rank {
                *best = (partition, word);
            }
        }
        for ((id, partition), word) in &self.words {
            let counts = current[id].0 == partition;
            let body = word.body.as_ref().filter(|_| !counts);
            let row = vec![
                Value::Str(id.clone()),
                Value::Str(partition.clone()),
                Value::Long(word.offset as i64),
                Value::Bool(word.body.is_none()),
                Value::Bool(counts),
                body.map_or(Value::Null, |body| Value::Text(Text::body(body.as_bytes()))),
            ];
            put(&mut tables, program::WORDS, row);
        }
        let mut samples: BTreeMap<String, (String, u64, i32)> = BTreeMap::new();
        let mut kinds: BTreeMap<String, i64> = BTreeMap::new();
        for (id, (partition, word)) in current {
            let Some(body) = &word.body else { continue };
            let kind = format!("kind-{}", word.offset % 5);
            *kinds.entry(kind.clone()).or_default() += 1;
            let row = vec![
                Value::Str(id.clone()),
                if word.offset % 7 == 0 { Value::Null } else { Value::Str(kind) },
                Value::Text(Text::body(body.as_bytes())),
                Value::Str(partition.clone()),
                Value::Long(word.offset as i64),
            ];
            put(&mut tables, program::RAW, row);
            let title = body.lines().next().unwrap_or_default().to_string();
            samples.entry(title).or_insert((id.clone(), word.offset, 0)).2 += 1;
        }
        for (kind, n) in kinds {
            put(&mut tables, program::SUMMARY, vec![Value::Str(kind), Value::Long(n)]);
        }
        self.samples(samples, &mut tables);
        tables
    }

    fn samples(&mut self, samples: BTreeMap<String, (String, u64, i32)>, tables: &mut [Rows]) {
        let schemas = program::schemas();
        for (title, (id, offset, copies)) in samples {
            let word = &current_word(&self.words, &id);
            let rest = word.lines().nth(1).unwrap_or_default().to_string();
            let key = key_digest(&schemas[program::RAW], [Value::Str(id.clone()).cell()]);
            let mut text = |part: u8, text: &str| {
                let digest = Digest::of_parts([text.as_bytes()]);
                self.texts.insert(digest, text.to_string());
                Value::Text(Text { digest, len: 40, origin: Some(Origin { stream: 0, key, part }) })
            };
            let row = vec![
                Value::Str(format!("sample {title}")),
                text(0, &title),
                if offset % 3 == 0 { Value::Null } else { Value::Floats(vec![offset as f32 / 3.0; 4]) },
                if offset % 4 == 0 { Value::Null } else { Value::Double(offset as f64 / 7.0) },
                if offset % 5 == 0 { Value::Null } else { text(1, &rest) },
                if offset % 6 == 0 {
                    Value::Null
                } else {
                    Value::Micros(1_700_000_000_000_000 + offset as i64)
                },
                if offset % 2 == 0 { Value::Null } else { Value::Bytes(vec![offset as u8, 0, 255]) },
                Value::Int(copies),
            ];
            put(tables, program::SAMPLES, row);
        }
    }

    /// Commits the changes so far: the root, and the segments to be put before it.
    pub fn commit(&mut self, location: &str) -> (Root, Vec<(String, Bytes)>) {
        let next = self.compute();
        let mut drafts: Vec<Vec<Changes>> = vec![vec![Vec::new(); next.len()]; 2];
        for (table, (old, new)) in self.tables.iter().zip(&next).enumerate() {
            let gone = old.iter().filter(|(key, row)| new.get(*key) != Some(*row)).map(|(_, row)| (row, -1));
            let come = new.iter().filter(|(key, row)| old.get(*key) != Some(*row)).map(|(_, row)| (row, 1));
            for (row, diff) in gone.chain(come) {
                let worker = self.random.below(2) as usize;
                drafts[worker][table].push((row.clone(), diff));
            }
        }
        for (table, row, diff) in std::mem::take(&mut self.extra) {
            drafts[0][table].push((row, diff));
        }
        let mut bodies = std::mem::take(&mut self.arrived);
        let mut segments = Vec::new();
        let mut objects = Vec::new();
        for (worker, tables) in drafts.into_iter().enumerate() {
            let share =
                if worker == 0 { bodies.split_off(bodies.len() / 2) } else { std::mem::take(&mut bodies) };
            let tables = tables.into_iter().enumerate();
            let tables = tables.map(|(table, changes)| (table, Box::new(changes) as _)).collect();
            let draft = SegmentDraft { epoch: self.history.len() as u64, worker, tables, bodies: share };
            let encoded = encode(&program::schemas(), draft).unwrap();
            if !encoded.is_empty() {
                let name = format!("segments/{:020}-{worker}", self.history.len());
                segments.push(SegmentRef {
                    name: name.clone(),
                    worker,
                    bytes: encoded.bytes.len() as u64,
                    digest: Digest::of(&encoded.bytes).to_string(),
                    tables: encoded.tables.clone(),
                    bodies: encoded.bodies.clone(),
                });
                objects.push((name, encoded.bytes));
            }
        }
        self.tables = next;
        let root = self.root(location, segments);
        (root, objects)
    }

    fn root(&mut self, location: &str, segments: Vec<SegmentRef>) -> Root {
        self.epoch = self.history.len() as u64;
        self.history.push(self.tables.clone());
        let settings = serde_json::json!({});
        let root = Root {
            format: FORMAT,
            epoch: self.epoch,
            committed_at: "2026-11-21T00:00:00Z".into(),
            generation: self.generation,
            nonce: String::new(),
            location: location.to_string(),
            claim: self.epoch == 0,
            program: ProgramId { name: "docs".into(), version: "1".into(), settings },
            positions: Default::default(),
            cursors: Default::default(),
            gaps: Vec::new(),
            models: Vec::new(),
            segments,
            published: self.published.clone(),
            dropped: Vec::new(),
            log_from: 0,
            tags: Default::default(),
            rolled_back_to: None,
            trusts_ms: 0,
            asked: None,
        };
        self.roots.push(root.clone());
        root
    }

    /// A table's rows at an epoch with their texts, sorted.
    pub fn resolved(&self, epoch: u64, table: usize) -> Vec<Vec<Value>> {
        let mut rows: Vec<Vec<Value>> = self.history[epoch as usize][table].values().cloned().collect();
        for value in rows.iter_mut().flatten() {
            if let Value::Text(text) = value {
                *value = Value::Str(self.texts[&text.digest].clone());
            }
        }
        sort(&mut rows);
        rows
    }

    /// A table's rows at an epoch with handles, sorted; lengths and origins left out.
    pub fn handles(&self, epoch: u64, table: usize) -> Vec<Vec<Value>> {
        let mut rows: Vec<Vec<Value>> = self.history[epoch as usize][table].values().cloned().collect();
        for value in rows.iter_mut().flatten() {
            if let Value::Text(text) = value {
                text.origin = None;
            }
        }
        forget_lengths(&mut rows);
        sort(&mut rows);
        rows
    }

    /// Writes what other readers must find in each publication.
    pub fn dump(&self, folder: &Path) {
        let mut publications = Vec::new();
        for published in self.roots.iter().filter_map(|root| root.published.as_ref()) {
            let mut tables = serde_json::Map::new();
            for (place, schema) in program::schemas().iter().enumerate() {
                let rows = self.resolved(published.epoch, place);
                let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(json).collect()).collect();
                let columns: Vec<_> = schema.columns.iter().map(|column| &column.name).collect();
                let location = &published.tables[&schema.name].metadata_location;
                let table = serde_json::json!({"metadata": location, "columns": columns, "rows": rows});
                tables.insert(schema.name.clone(), table);
            }
            publications.push(serde_json::json!({"epoch": published.epoch, "tables": tables}));
        }
        publications.dedup();
        std::fs::write(folder.join("expected.json"), serde_json::to_vec(&publications).unwrap()).unwrap();
    }
}

fn put(tables: &mut [Rows], table: usize, row: Vec<Value>) {
    let key = key_digest(&program::schemas()[table], row.iter().map(Value::cell));
    assert!(tables[table].insert(key, row).is_none());
}

fn current_word(words: &BTreeMap<(String, String), Word>, id: &str) -> String {
    let of_id = words.iter().filter(|((word, _), _)| word == id);
    let best = of_id.max_by_key(|(_, word)| word.rank);
    best.and_then(|(_, word)| word.body.clone()).unwrap_or_default()
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null | Value::Text(_) => serde_json::Value::Null,
        Value::Str(text) => text.as_str().into(),
        Value::Long(n) | Value::Micros(n) => (*n).into(),
        Value::Int(n) => (*n).into(),
        Value::Double(x) => (*x).into(),
        Value::Bool(b) => (*b).into(),
        Value::Bytes(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect::<String>().into(),
        Value::Floats(floats) => floats.iter().map(|x| f64::from(*x)).collect::<Vec<_>>().into(),
    }
}

/// Sorts rows by what they look like.
pub fn sort(rows: &mut [Vec<Value>]) {
    rows.sort_by_cached_key(|row| format!("{row:?}"));
}

/// An extracted text's length is an upper bound in the log and exact in the lake.
pub fn forget_lengths(rows: &mut [Vec<Value>]) {
    for value in rows.iter_mut().flatten() {
        if let Value::Text(text) = value {
            text.len = 0;
        }
    }
}

/// Copies a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false => std::fs::copy(entry.path(), to.join(entry.file_name())).map(|_| ()).unwrap(),
        }
    }
}

/// A store whose puts and reads fail after a while.
#[derive(Debug)]
pub struct Faulty {
    inner: SharedStore,
    calls_left: AtomicI64,
}

impl Faulty {
    pub fn new(inner: SharedStore) -> Self {
        Self { inner, calls_left: AtomicI64::new(i64::MAX) }
    }

    /// Lets some calls through and fails those after.
    pub fn fail_after(&self, calls: u64) {
        self.calls_left.store(calls as i64, Ordering::SeqCst);
    }

    /// All calls work again.
    pub fn heal(&self) {
        self.calls_left.store(i64::MAX, Ordering::SeqCst);
    }

    fn call(&self) -> Result<(), StoreError> {
        match self.calls_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            true => Ok(()),
            false => Err(StoreError::Failed("the store is out of order".into())),
        }
    }
}

#[async_trait]
impl Store for Faulty {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.call()?;
        self.inner.put(name, body).await
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        self.inner.create(name, body).await
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        self.call()?;
        self.inner.get(name).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.call()?;
        self.inner.get_range(name, range).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(folder).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }
}
