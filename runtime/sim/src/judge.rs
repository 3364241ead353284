//! The judge: sees every write that happens at the store, and holds it to the invariants there and then.
//!
//! - *Prefix equivalence*: the tables that the chain's segments add up to equal those recomputed from the
//!   records below the root's positions and from the committed results.
//! - *All tables or none*: a root names segments and publications that are there, whole, at one epoch.
//! - *One writer*: a root may follow its predecessor ([`follows`]); what a writer takes for committed stands
//!   in the chain; a name that comes back lies in a hole.
//! - *A result is paid for once*: the owner of the store asks for nothing that is committed.
//! - *Bounds*: what a root gives up is bounded, needed by nobody who may read, and deleted only then, roots in
//!   ascending order; epochs and requests under way are bounded, and so are the files of a table.
//!
//! The predicates are those that production calls ([`follows`], [`gives_up_nothing_named`], the lake's own
//! verification); the judge adds what only somebody can know who sees all processes at once.

use crate::edge::SimEdge;
use crate::program::{PARTITIONS, Record, Rows, STREAM, TABLES, program, recomputed, shown, texts};
use crate::schedule::{Process, Schedule, WORLD};
use crate::storage::{Disk, Honest, LOCATION};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill_connectors::lake::{self, Snapshot, SnapshotOptions, StreamTable, TextForm, published_objects};
use tidemill_core::edge::parse_ms;
use tidemill_core::segment::decode_changes;
use tidemill_core::view::Share;
use tidemill_core::writer::{Retention, segment_epoch, segment_generation};
use tidemill_types::invariants::{follows, gives_up_nothing_named, tagged};
use tidemill_types::{
    Digest, Epoch, Kind, Published, PublishedTable, Root, TableSchema, Value, root_epoch, root_name,
};

/// By how much the clocks of two processes may differ, twice.
const SKEW_MS: i64 = 2_000;
/// Data files that a table of a trial may have: of each size fewer than compaction takes together.
const FILES_MAX: usize = 24;

// What is promised, in numbers of their own: those in the code are what is judged.
/// Epochs that a writer may have under way.
const IN_FLIGHT_MAX: Epoch = 2;
/// Names that a root may give up.
const DROPPED_MAX: usize = 512;

/// All tables of an epoch.
pub type Tables = BTreeMap<&'static str, Rows>;

#[derive(Default)]
struct Court {
    topic: Vec<Vec<Record>>,
    /// Of each process, how long and how many commits it keeps.
    retention: BTreeMap<Process, Retention>,
    /// The highest positions so far: what came back by a rollback has been read before.
    read: Vec<u64>,
    chain: Vec<Root>,
    /// When each root of the chain was committed, milliseconds since 1970.
    committed_ms: Vec<i64>,
    /// Of each table the rows by key digest: the row's digest, its key and its values as text.
    rows: Vec<BTreeMap<Digest, (Digest, String, String)>>,
    history: Vec<Arc<Tables>>,
    vectors: BTreeMap<String, f32>,
    /// How often somebody asked to let a tag go, and none has gone for it yet.
    let_go: BTreeMap<String, usize>,
    /// Names that were given up, and by which root first.
    dropped: BTreeMap<String, Epoch>,
    /// Roots that came into a hole.
    came_back: BTreeSet<Epoch>,
    publications: BTreeMap<Epoch, BTreeSet<String>>,
    /// Of each published table, by the address of its metadata.
    tables: BTreeMap<String, BTreeSet<String>>,
    broken: Option<String>,
    counts: Counts,
}

/// What happened in a trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Roots in the chain.
    pub roots: usize,
    /// Of these, claims.
    pub claims: usize,
    /// Publications that roots name.
    pub publications: usize,
    /// Names that roots gave up.
    pub dropped: usize,
    /// Roots that came into a hole.
    pub in_holes: usize,
    /// Snapshots that readers read whole.
    pub read: usize,
    /// Processes that were told that another owns the store.
    pub fenced: usize,
    /// Processes that were killed.
    pub killed: usize,
    /// Processes that were stopped for a time.
    pub stopped: usize,
    /// Requests before which a process stopped.
    pub dozed: usize,
    /// Results that a model was asked for.
    pub asked: usize,
    /// Transactions with which commits were sent on.
    pub sent: usize,
    /// Commits that went back to an earlier one.
    pub rolled_back: usize,
    /// Processes that left in order.
    pub left: usize,
    /// Most data files of a table.
    pub files: usize,
}

/// The judge, shared by all.
#[derive(Clone)]
pub struct Judge {
    court: Arc<Mutex<Court>>,
    disk: Disk,
    schedule: Schedule,
}

impl Judge {
    /// A judge of an empty store.
    pub fn new(disk: Disk, schedule: Schedule) -> Self {
        let court = Court {
            topic: vec![Vec::new(); PARTITIONS],
            read: vec![0; PARTITIONS],
            rows: TABLES.iter().map(|_| BTreeMap::new()).collect(),
            ..Court::default()
        };
        Self { court: Arc::new(Mutex::new(court)), disk, schedule }
    }

    fn court(&self) -> MutexGuard<'_, Court> {
        self.court.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first thing that was not as it must be.
    pub fn broken(&self) -> Option<String> {
        self.court().broken.clone()
    }

    /// Something is not as it must be.
    pub fn breaks(&self, what: impl Into<String>) {
        let what = what.into();
        self.schedule.tell(|| format!("BROKEN: {what}"));
        self.court().broken.get_or_insert(what);
    }

    /// Counts something.
    pub fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.court().counts);
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.court().counts
    }

    /// What a process gives up must be older than this.
    pub fn retains(&self, process: Process, retention: Retention) {
        self.court().retention.insert(process, retention);
    }

    /// Appends a record to a partition of the topic.
    pub fn record(&self, partition: usize, record: Record) {
        self.court().topic[partition].push(record);
    }

    /// A record of the topic.
    pub fn read(&self, partition: usize, offset: u64) -> Option<Record> {
        self.court().topic[partition].get(offset as usize).cloned()
    }

    /// The topic's ends.
    pub fn ends(&self) -> Vec<u64> {
        self.court().topic.iter().map(|records| records.len() as u64).collect()
    }

    /// The newest root.
    pub fn newest(&self) -> Option<Root> {
        self.court().chain.last().cloned()
    }

    /// A root of the chain.
    pub fn root(&self, epoch: Epoch) -> Option<Root> {
        self.court().chain.get(epoch as usize).cloned()
    }

    /// All tables of an epoch, as they must be.
    pub fn tables(&self, epoch: Epoch) -> Option<Arc<Tables>> {
        self.court().history.get(epoch as usize).cloned()
    }

    /// How whoever judges reads the store.
    pub fn reading(&self) -> SnapshotOptions {
        snapshot_options(Honest::shared(&self.disk), SimEdge::shared(&self.schedule, WORLD, 0))
    }

    /// A process puts an object under a name that must be free; `blind`: it slept and has not looked since.
    pub fn puts(&self, process: Process, name: &str, body: &[u8], blind: bool) {
        let court = self.court();
        let Some(epoch) = root_epoch(name).filter(|epoch| blind && *epoch < court.chain.len() as Epoch)
        else {
            return;
        };
        let gone = self.disk.read(name).is_none();
        drop(court);
        let claim = serde_json::from_slice::<Root>(body).is_ok_and(|root| root.claim);
        if gone && !claim {
            self.breaks(format!(
                "p{process} slept while the name of root {epoch} was used and deleted, and puts it without a look"
            ));
        }
    }

    /// An object was made.
    pub fn made(&self, name: &str, process: Process) {
        let Some(epoch) = root_epoch(name) else { return self.segment(name) };
        let body = self.disk.read(name).unwrap_or_default();
        let root: Root = match serde_json::from_slice(&body) {
            Ok(root) => root,
            Err(error) => return self.breaks(format!("{name} is no root: {error}")),
        };
        let known = self.court().chain.len() as Epoch;
        let judged = match epoch {
            _ if epoch < known => self.in_hole(epoch),
            _ if epoch > known => Err(format!("root {epoch} was made and root {known} is not there")),
            _ => self.next(root, process),
        };
        if let Err(what) = judged {
            self.breaks(what);
        }
    }

    /// The owner's epochs under way are bounded.
    fn segment(&self, name: &str) {
        let (Some(epoch), Some(generation)) = (segment_epoch(name), segment_generation(name)) else { return };
        let newest = self.newest().filter(|newest| newest.generation == generation);
        if newest.is_some_and(|newest| epoch > newest.epoch + IN_FLIGHT_MAX) {
            self.breaks(format!("{name} was made while more than {IN_FLIGHT_MAX} epochs were under way"));
        }
    }

    /// A name that came back: it must not be one that anybody reads.
    fn in_hole(&self, epoch: Epoch) -> Result<(), String> {
        self.count(|counts| counts.in_holes += 1);
        self.court().came_back.insert(epoch);
        let newest = self.newest().ok_or("the chain is empty")?;
        match epoch < newest.log_from && !tagged(&newest, epoch) {
            true => Ok(()),
            false => Err(format!("root {epoch} was made again, and the log begins at {}", newest.log_from)),
        }
    }

    // long: one root is judged from top to bottom.
    fn next(&self, root: Root, process: Process) -> Result<(), String> {
        let mut court = self.court();
        match court.chain.last() {
            Some(previous) => follows(previous, &root).map_err(|broken| broken.to_string())?,
            None if root.claim && root.generation == 1 => {}
            None => return Err("the first root is no first claim".to_string()),
        }
        gives_up_nothing_named(&root).map_err(|broken| broken.to_string())?;
        self.named(&mut court, &root)?;
        self.given_up(&mut court, &root, process)?;
        goes_back(&court, &root)?;
        keeps_tags(&mut court, &root)?;
        let program = program();
        for segment in &root.segments {
            let body = self.disk.read(&segment.name).ok_or_else(|| format!("{} is missing", segment.name))?;
            if Digest::of(&body).to_string() != segment.digest {
                return Err(format!("{} is not what root {} says", segment.name, root.epoch));
            }
        }
        for (place, schema) in program.tables().iter().enumerate() {
            for sign in [-1, 1] {
                for segment in &root.segments {
                    let Some(section) = segment.tables.get(&schema.name) else { continue };
                    let body = self.disk.read(&segment.name).unwrap_or_default();
                    let changes =
                        decode_changes(schema, &body, section).map_err(|error| error.to_string())?;
                    for change in changes.iter().filter(|change| change.diff.signum() == sign) {
                        let (key, text) = shown(schema, &change.values);
                        let fits = change.diff == sign
                            && match sign {
                                1 => court.rows[place]
                                    .insert(change.key, (change.row, key.clone(), text))
                                    .is_none(),
                                _ => court.rows[place]
                                    .remove(&change.key)
                                    .is_some_and(|row| row.0 == change.row),
                            };
                        if !fits {
                            return Err(format!(
                                "root {}: {} {:+} of {key} does not fit",
                                root.epoch, schema.name, change.diff
                            ));
                        }
                        if place == 2 && sign == 1 {
                            let (Value::Str(digest), Value::Floats(vector)) =
                                (&change.values[0], &change.values[3])
                            else {
                                return Err("a vector without numbers".to_string());
                            };
                            court.vectors.insert(digest.clone(), vector.first().copied().unwrap_or(0.0));
                        }
                    }
                }
            }
        }
        self.equals_recomputation(&mut court, &root)?;
        court.counts.roots += 1;
        court.counts.claims += usize::from(root.claim);
        court.counts.rolled_back += usize::from(root.rolled_back_to.is_some());
        court.committed_ms.push(parse_ms(&root.committed_at).unwrap_or(0));
        court.chain.push(root);
        Ok(())
    }

    /// The tables as committed, against those that follow from the records.
    fn equals_recomputation(&self, court: &mut Court, root: &Root) -> Result<(), String> {
        let at = |partition: usize| {
            let partitions = root.positions.get(STREAM)?;
            partitions.get(&partition.to_string()).copied()
        };
        let positions: Vec<u64> = (0..PARTITIONS).map(|partition| at(partition).unwrap_or(0)).collect();
        for (partition, position) in positions.iter().enumerate() {
            court.read[partition] = court.read[partition].max(*position);
            let cursor = root.cursors.get(STREAM).and_then(|at| at.get(&partition.to_string()));
            if *position > 0 && cursor != Some(&cursor_at(*position)) {
                return Err(format!(
                    "root {}: at {position} of {partition} the cursor is {cursor:?}",
                    root.epoch
                ));
            }
        }
        let wanted = recomputed(&court.topic, &positions, &court.vectors);
        for (table, rows) in TABLES.iter().zip(&court.rows) {
            // Results are no function of the records.
            if table.starts_with("ai.") {
                continue;
            }
            let there: Rows = rows.values().map(|(_, key, row)| (key.clone(), row.clone())).collect();
            let none = Rows::new();
            let wanted = wanted.get(table).unwrap_or(&none);
            if let Some(what) = difference(table, &there, wanted) {
                return Err(format!("root {}: {what}", root.epoch));
            }
        }
        let read = texts(&court.topic, &court.read);
        if let Some(early) = court.vectors.keys().find(|digest| !read.contains(*digest)) {
            return Err(format!("root {} holds a result for a text that was not read: {early}", root.epoch));
        }
        let mut tables: Tables = wanted;
        for place in [2, 3] {
            let rows = court.rows[place].values().map(|(_, key, row)| (key.clone(), row.clone()));
            tables.insert(TABLES[place], rows.collect());
        }
        court.history.push(Arc::new(tables));
        Ok(())
    }

    /// What a root names is there and was not given up.
    fn named(&self, court: &mut Court, root: &Root) -> Result<(), String> {
        let gone = |name: &String| match (self.disk.read(name), court.dropped.contains_key(name)) {
            (None, _) => Err(format!("root {} names {name}, which is not there", root.epoch)),
            (_, true) => Err(format!("root {} names {name}, which was given up", root.epoch)),
            _ => Ok(()),
        };
        root.segments.iter().try_for_each(|segment| gone(&segment.name))?;
        let Some(published) = &root.published else { return Ok(()) };
        if court.publications.contains_key(&published.epoch) {
            return Ok(());
        }
        if let Some(missing) = TABLES.iter().find(|table| !published.tables.contains_key(**table)) {
            return Err(format!("publication {} lacks {missing}", published.epoch));
        }
        let mut objects = BTreeSet::new();
        for (name, table) in &published.tables {
            if !court.tables.contains_key(&table.metadata_location) {
                let alone = BTreeMap::from([(name.clone(), table.clone())]);
                let alone = Published { epoch: published.epoch, tables: alone, put: None };
                let of_table = published_objects(&self.reading(), &alone).map_err(|error| {
                    format!("root {} names a publication that cannot be read: {error}", root.epoch)
                })?;
                court.tables.insert(table.metadata_location.clone(), of_table);
                self.lists_what_is_kept(court, name, table)?;
            }
            objects.extend(court.tables[&table.metadata_location].iter().cloned());
        }
        let gone = |name: &String| match (self.disk.read(name), court.dropped.contains_key(name)) {
            (None, _) => Err(format!("root {} names {name}, which is not there", root.epoch)),
            (_, true) => Err(format!("root {} names {name}, which was given up", root.epoch)),
            _ => Ok(()),
        };
        objects.iter().try_for_each(gone)?;
        let mut files: BTreeMap<&str, usize> = BTreeMap::new();
        for name in objects.iter().filter(|name| name.ends_with(".parquet") && !name.contains("-deletes")) {
            *files.entry(name.split('/').nth(1).unwrap_or_default()).or_default() += 1;
        }
        let most = files.values().copied().max().unwrap_or(0);
        court.counts.files = court.counts.files.max(most);
        if most > FILES_MAX {
            return Err(format!("publication {} has {most} data files of one table", published.epoch));
        }
        court.publications.insert(published.epoch, objects);
        court.counts.publications += 1;
        Ok(())
    }

    /// What a root gives up is needed by nobody who may still read.
    fn given_up(&self, court: &mut Court, root: &Root, process: Process) -> Result<(), String> {
        if root.dropped.len() > DROPPED_MAX {
            return Err(format!("root {} gives up {} objects at once", root.epoch, root.dropped.len()));
        }
        let new: Vec<String> =
            root.dropped.iter().filter(|name| !court.dropped.contains_key(*name)).cloned().collect();
        let Some(retention) = court.retention.get(&process).copied() else {
            return Err(format!("root {} is of nobody", root.epoch));
        };
        let (now, before) = (self.schedule.now_ms(), court.chain.last().map_or(0, |before| before.log_from));
        let young = |other: &&Root| retained(court, other, root.epoch, now, retention);
        let lost = court.chain.get(before as usize..).into_iter().flatten().filter(young);
        // Those that could be read until now.
        let mut lost = lost.filter(|lost| needed_from(lost) >= before);
        if let Some(lost) = lost.find(|lost| needed_from(lost) < root.log_from) {
            return Err(format!("by root {} the log begins too late for root {}", root.epoch, lost.epoch));
        }
        if new.is_empty() {
            return Ok(());
        }
        let needed = needed(court, root, now, retention);
        if let Some(name) = new.iter().find(|name| needed.contains(*name)) {
            return Err(format!("root {} gives up {name}, which a retained commit needs", root.epoch));
        }
        court.counts.dropped += new.len();
        court.dropped.extend(new.into_iter().map(|name| (name, root.epoch)));
        Ok(())
    }

    /// An object was deleted, or was to be and was not there.
    pub fn deleted(&self, name: &str, was_there: bool) {
        if !self.court().dropped.contains_key(name) {
            self.breaks(format!("{name} was deleted, and no committed root had given it up"));
        }
        let Some(epoch) = root_epoch(name).filter(|_| was_there) else { return };
        let before = (0..epoch).rev().find(|before| {
            let (name, court) = (root_name(*before), self.court());
            court.dropped.contains_key(&name)
                && !court.came_back.contains(before)
                && self.disk.read(&name).is_some()
        });
        if let Some(before) = before {
            self.breaks(format!("root {epoch} was deleted before root {before}, which is given up too"));
        }
    }

    /// A writer takes a root for committed.
    pub fn believed(&self, root: &Root) {
        let stands = self.root(root.epoch).is_some_and(|stands| stands == *root);
        if !stands {
            self.breaks(format!(
                "root {} of generation {} was taken for committed and does not stand in the chain",
                root.epoch, root.generation
            ));
        }
    }

    /// Somebody asks to let a tag go.
    pub fn lets_go(&self, tag: &str) {
        *self.court().let_go.entry(tag.to_string()).or_default() += 1;
    }

    /// A writer asks its model for a text.
    pub fn asked(&self, generation: u64, digest: &str) {
        let owner = self.newest().is_some_and(|newest| newest.generation == generation);
        self.count(|counts| counts.asked += 1);
        if owner && self.court().vectors.contains_key(digest) {
            self.breaks(format!("the owner of the store asks again for {digest}, whose result is committed"));
        }
    }

    /// Whether a root must be readable now, whoever has owned the store.
    pub fn is_retained(&self, root: &Root) -> bool {
        let court = self.court();
        let newest = court.chain.last().map_or(0, |newest| newest.epoch);
        let now = self.schedule.now_ms();
        court.retention.values().all(|retention| retained(&court, root, newest, now, *retention))
    }

    /// Whether all that changed is published, as of the newest root.
    pub fn is_published(&self) -> bool {
        let court = self.court();
        let changed = court.chain.iter().rev().find(|root| !root.segments.is_empty()).map(|root| root.epoch);
        let published = court.chain.last().and_then(|newest| newest.published.as_ref());
        published.map(|published| published.epoch) >= changed
    }

    /// The last look: what is left holds all that the newest root needs, and nothing that nobody needs.
    pub fn last_look(&self) -> Result<(), String> {
        let Some(newest) = self.newest() else { return Err("nothing was ever committed".to_string()) };
        let court = self.court();
        let mut wanted: BTreeSet<String> =
            court.publications.iter().fold(BTreeSet::new(), |mut all, (epoch, objects)| {
                let kept = court.chain[newest.log_from as usize..]
                    .iter()
                    .any(|root| root.published.as_ref().is_some_and(|p| p.epoch == *epoch));
                let tagged = newest.tags.values().any(|tag| tag.from == epoch + 1);
                if kept || tagged {
                    all.extend(objects.iter().cloned());
                }
                all
            });
        for root in
            court.chain.iter().filter(|root| root.epoch >= newest.log_from || tagged(&newest, root.epoch))
        {
            wanted.insert(root_name(root.epoch));
            wanted.extend(root.segments.iter().map(|segment| segment.name.clone()));
        }
        let left = self
            .disk
            .names("")
            .into_iter()
            .find(|name| !wanted.contains(name) && name != tidemill_core::log::HINT);
        drop(court);
        if let Some(name) = left {
            return Err(format!("at the end {name} is left, which nobody needs"));
        }
        let problems = lake::verify(&self.reading(), &newest, newest.log_from);
        let problems = problems.map_err(|error| error.to_string())?;
        let retained: Vec<Root> = (0..=newest.epoch)
            .filter(|epoch| *epoch >= newest.log_from || tagged(&newest, *epoch))
            .filter_map(|epoch| self.root(epoch))
            .collect();
        let all = lake::verify_all(&self.reading(), &retained).map_err(|error| error.to_string())?;
        if let Some(problem) = problems.iter().chain(&all.problems).next() {
            return Err(format!("at the end: {problem}"));
        }
        let snapshot = Snapshot::of(self.reading(), newest.clone()).map_err(|error| error.to_string())?;
        self.compare(&snapshot).map_err(|what| format!("at the end: {what}"))?;
        Ok(())
    }

    /// For readers of Iceberg: the snapshots that a table's metadata lists had not been given up when it was made.
    fn lists_what_is_kept(
        &self,
        court: &Court,
        table: &str,
        published: &PublishedTable,
    ) -> Result<(), String> {
        let relative = |address: &str| address.strip_prefix(&format!("{LOCATION}/")).map(str::to_string);
        let name = relative(&published.metadata_location).unwrap_or_default();
        let body = self.disk.read(&name).unwrap_or_default();
        let metadata: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let made_for = lake::epoch_of(&name).unwrap_or(0);
        let snapshots = metadata["snapshots"].as_array().into_iter().flatten();
        let mut lists = snapshots.filter_map(|snapshot| relative(snapshot["manifest-list"].as_str()?));
        match lists.find(|list| court.dropped.get(list).is_some_and(|root| *root <= made_for)) {
            None => Ok(()),
            Some(list) => {
                Err(format!("the metadata of {table} for {made_for} lists {list}, which was given up"))
            }
        }
    }

    /// Every table that a snapshot shows, against what it must be.
    pub fn compare(&self, snapshot: &Snapshot) -> Result<(), String> {
        let epoch = snapshot.root().epoch;
        let tables = self
            .tables(epoch)
            .ok_or_else(|| format!("a reader found root {epoch}, which is not committed"))?;
        if self.root(epoch).as_ref() != Some(snapshot.root()) {
            return Err(format!("a reader found another root {epoch} than was committed"));
        }
        for schema in program().tables() {
            let rows = snapshot.rows(&schema.name, TextForm::Resolved, None, Share::ALL);
            let rows = rows.map_err(|error| error.to_string())?;
            let there: Rows = rows.iter().map(|row| shown(&schema, &by_digest(&schema, row))).collect();
            let none = Rows::new();
            if let Some(what) =
                difference(&schema.name, &there, tables.get(schema.name.as_str()).unwrap_or(&none))
            {
                return Err(format!("a reader of root {epoch}: {what}"));
            }
        }
        Ok(())
    }
}

/// How a simulated process reads the store.
pub fn snapshot_options(
    store: tidemill_core::store::SharedStore,
    edge: tidemill_core::edge::SharedEdge,
) -> SnapshotOptions {
    SnapshotOptions {
        store,
        edge,
        threads: 1,
        schemas: program().tables().into(),
        streams: vec![StreamTable { raw: 0, words: 1 }],
        extract: program(),
        memory_bytes_max: 1 << 20,
    }
}

/// A row whose resolved texts are handles again: all texts of the program are named by their bytes.
pub fn by_digest(schema: &TableSchema, row: &[Value]) -> Vec<Value> {
    let value = |(column, value): (&tidemill_types::Column, &Value)| match value {
        Value::Str(text) if column.kind == Kind::Text => {
            Value::Text(tidemill_types::Text::body(text.as_bytes()))
        }
        other => other.clone(),
    };
    schema.columns.iter().zip(row).map(value).collect()
}

pub fn difference(table: &str, there: &Rows, wanted: &Rows) -> Option<String> {
    for (key, row) in wanted {
        match there.get(key) {
            None => return Some(format!("{table} lacks {key}")),
            Some(other) if other != row => return Some(format!("{table}: {other} instead of {row}")),
            Some(_) => {}
        }
    }
    let more = there.keys().find(|key| !wanted.contains_key(*key));
    more.map(|key| format!("{table} has {key}, which does not follow from the records"))
}

/// What a source needs to go on from a position.
pub fn cursor_at(next: u64) -> serde_json::Value {
    serde_json::json!({"read": next})
}

/// No tag goes but by request.
fn keeps_tags(court: &mut Court, root: &Root) -> Result<(), String> {
    let Court { chain, let_go, .. } = court;
    let before = chain.last().map(|previous| &previous.tags);
    for name in
        before.into_iter().flatten().map(|(name, _)| name).filter(|name| !root.tags.contains_key(*name))
    {
        match let_go.get_mut(name).filter(|asked| **asked > 0) {
            Some(asked) => *asked -= 1,
            None => return Err(format!("root {} lacks the tag {name}, which nobody let go", root.epoch)),
        }
    }
    Ok(())
}

/// A root that goes back goes to a commit that is kept, and to no other positions than that one's.
fn goes_back(court: &Court, root: &Root) -> Result<(), String> {
    let Some(to) = root.rolled_back_to else { return Ok(()) };
    let newest = court.chain.last().ok_or("the first root goes back")?;
    let old = court.chain.get(to as usize).ok_or_else(|| format!("it goes back to {to}"))?;
    if to < newest.log_from && !tagged(newest, to) {
        return Err(format!("root {} goes back to {to}, which is not kept", root.epoch));
    }
    match old.positions == root.positions && old.cursors == root.cursors {
        true => Ok(()),
        false => Err(format!("root {} goes back to {to} and not to its positions", root.epoch)),
    }
}

/// The first root after the publication of a root.
fn needed_from(root: &Root) -> Epoch {
    root.published.as_ref().map_or(0, |published| published.epoch + 1)
}

fn retained(court: &Court, root: &Root, newest: Epoch, now_ms: i64, retention: Retention) -> bool {
    let at = court.committed_ms.get(root.epoch as usize).copied().unwrap_or(now_ms);
    let few = newest.saturating_sub(root.epoch) < retention.commits.max(1);
    few || now_ms - at < retention.time.as_millis() as i64 - SKEW_MS
}

/// The names that somebody may still need who reads a retained commit, with `newest` as the newest. What a writer of
/// a shorter retention has put out of the log is no longer there to be retained.
fn needed(court: &Court, newest: &Root, now_ms: i64, retention: Retention) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let all = || court.chain.iter().chain([newest]);
    let mut ranges: Vec<(Epoch, Epoch)> = newest.tags.values().map(|tag| (tag.from, tag.epoch)).collect();
    let log_from = court.chain.last().map_or(0, |before| before.log_from);
    let of_log = all().filter(|root| root.epoch >= log_from && needed_from(root) >= log_from);
    for root in of_log.filter(|root| retained(court, root, newest.epoch, now_ms, retention)) {
        ranges.push((needed_from(root), root.epoch));
    }
    for (from, to) in &ranges {
        names.insert(root_name(*to));
        let within = court.chain.get(*from as usize..).unwrap_or_default().iter().chain([newest]);
        for root in within.take_while(|root| root.epoch <= *to) {
            names.insert(root_name(root.epoch));
            names.extend(root.segments.iter().map(|segment| segment.name.clone()));
        }
        if let Some(objects) = from.checked_sub(1).and_then(|published| court.publications.get(&published)) {
            names.extend(objects.iter().cloned());
        }
    }
    names
}
