//! A store held against the oracle: at every commit by the log, and at every publication by the lake
//! alone.

use super::mill::{Mill, read, succeeded};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use tidemill::cli::{StoreReader, StoreTables, Tables as _};
use tidemill_connectors::lake::{Snapshot, SnapshotOptions};
use tidemill_gpu::Lexical;
use tidemill_oracle::compare::assert_equal;
use tidemill_oracle::files::{Positions, input_of, read_all};
use tidemill_oracle::model::{Input, Record, Row, Tables, needed_texts, pending_texts, recompute};
use tidemill_oracle::values::{row, rows_of_lines};
use tidemill_types::{Root, TableSchema};

/// A store that nobody writes now, and all that was ever written into its input.
pub struct Held {
    /// Reads the store.
    pub reader: StoreReader,
    records: Vec<Record>,
    /// Whether offsets count records, without holes.
    dense: bool,
}

impl Held {
    /// The store of a mill.
    pub fn of(mill: &Mill) -> Held {
        Held::open(&mill.store(), &mill.input())
    }

    /// A store and the folder that it was made from.
    pub fn open(store: &Path, input: &Path) -> Held {
        Held {
            reader: reader(store.to_str().expect("a path that is text")),
            records: read_all(input),
            dense: true,
        }
    }

    /// The store of a mill that read topics, and all that was ever committed in them.
    pub fn over(mill: &Mill, records: &[Record]) -> Held {
        Held { reader: reader(&mill.address()), records: records.to_vec(), dense: false }
    }

    /// How many records a mill's input holds.
    pub fn records_of(mill: &Mill) -> u64 {
        read_all(&mill.input()).len() as u64
    }

    /// How many records a root covers.
    pub fn covered_by(root: &Value) -> u64 {
        let positions: Positions = serde_json::from_value(root["positions"].clone()).expect("positions");
        positions.values().flat_map(BTreeMap::values).sum()
    }

    /// All retained epochs.
    pub fn epochs(&self) -> RangeInclusive<u64> {
        self.reader.oldest_readable().expect("the oldest commit")..=self.reader.newest.epoch
    }

    /// The root of an epoch.
    pub fn root(&self, epoch: u64) -> Root {
        self.reader.root(Some(epoch)).expect("a retained root")
    }

    /// All roots, oldest first.
    pub fn roots(&self) -> Vec<Root> {
        self.epochs().map(|epoch| self.root(epoch)).collect()
    }

    /// The tables of a commit by publication and log.
    pub fn at(&self, epoch: u64) -> StoreTables {
        self.reader.tables(Some(epoch)).unwrap_or_else(|error| panic!("epoch {epoch}: {error}"))
    }

    /// What a commit covers, and `ai.*` as it stands in its tables.
    pub fn input(&self, root: &Root, tables: &Tables) -> Input {
        let root = serde_json::to_value(root).expect("a root is JSON");
        input_of(&root, self.covered(&root), &tables["ai.embeddings"], &tables["ai.failures"])
    }

    fn covered(&self, root: &Value) -> Vec<Record> {
        let positions: Positions = serde_json::from_value(root["positions"].clone()).expect("positions");
        let below = |record: &&Record| {
            let next = positions.get(&record.stream).and_then(|files| files.get(&record.partition));
            next.is_some_and(|next| record.offset < *next)
        };
        let covered: Vec<Record> = self.records.iter().filter(below).cloned().collect();
        if !self.dense {
            return covered;
        }
        assert_eq!(
            covered.len() as u64,
            Held::covered_by(root),
            "positions cover records that are not in the input"
        );
        covered
    }

    /// The tables must be what the oracle makes of what the root covers.
    pub fn hold(&self, root: &Root, tables: &Tables, what: &str) -> Input {
        let input = self.input(root, tables);
        assert_equal(&recompute(&input), tables, &format!("{what} of epoch {}", root.epoch));
        input
    }

    /// A commit, read by publication and log.
    pub fn hold_commit(&self, epoch: u64) -> Input {
        let tables = self.at(epoch);
        self.hold(&tables.root, &rows(&tables), "the commit")
    }

    /// A commit, read by the binary's `show`.
    pub fn hold_shown(&self, store: &Path, epoch: u64) {
        let show = |schema: &TableSchema| {
            let arguments = ["show", &schema.name, "--at", &epoch.to_string(), "--format", "json"];
            (schema.name.clone(), rows_of_lines(&succeeded(&read(store, &arguments))))
        };
        let tables: Tables = self.at(epoch).schemas().iter().map(show).collect();
        self.hold(&self.root(epoch), &tables, "what is shown");
    }

    /// All publications, each as the root of its epoch would be if it named it itself: nothing of the
    /// log is then read.
    pub fn publications(&self) -> Vec<Root> {
        let mut found: BTreeMap<u64, Root> = BTreeMap::new();
        let oldest = *self.epochs().start();
        for root in self.roots() {
            if let Some(published) = root.published.filter(|published| published.epoch >= oldest) {
                let at = self.root(published.epoch);
                found.insert(published.epoch, Root { published: Some(published), ..at });
            }
        }
        found.into_values().collect()
    }

    /// The tables of a publication alone.
    pub fn published(&self, root: &Root) -> Tables {
        let program = self.reader.program(root).expect("the program");
        let options = SnapshotOptions {
            store: self.reader.store.clone(),
            edge: tidemill_connectors::edge::Tokio::shared(self.reader.runtime.handle().clone()),
            threads: 2,
            streams: tidemill::run::stream_tables(&*program),
            schemas: program.tables().into(),
            extract: program.clone(),
            memory_bytes_max: 64 << 20,
        };
        let snapshot = Arc::new(Snapshot::of(options, root.clone()).expect("a publication"));
        let tables = rows(&StoreTables { root: root.clone(), program, snapshot });
        for (name, published) in &root.published.as_ref().expect("a publication").tables {
            assert_eq!(tables[name].len() as u64, published.rows, "rows of {name} at {}", root.epoch);
        }
        tables
    }

    /// Every publication must be what the oracle makes of what its epoch covers. How many there are.
    pub fn hold_publications(&self) -> usize {
        let publications = self.publications();
        for root in &publications {
            self.hold(root, &self.published(root), "the publication");
        }
        publications.len()
    }

    /// Every commit and every publication, and what holds over all of them: `(commits, publications)`.
    pub fn hold_all(&self) -> (usize, usize) {
        let roots = self.roots();
        roots.iter().for_each(|root| drop(self.hold_commit(root.epoch)));
        self.hold_log();
        (roots.len(), self.hold_publications())
    }

    /// The log is one history: contiguous roots, positions and generations that never go back, at most a
    /// segment a worker in each commit, and no result that came twice.
    pub fn hold_log(&self) {
        let roots = self.roots();
        for pair in roots.windows(2) {
            tidemill_types::invariants::follows(&pair[0], &pair[1])
                .unwrap_or_else(|broken| panic!("root {}: {broken}", pair[1].epoch));
            hold_positions(&pair[0], &pair[1]);
        }
        let mut results = BTreeMap::new();
        for root in &roots {
            let workers: BTreeSet<usize> = root.segments.iter().map(|segment| segment.worker).collect();
            assert_eq!(workers.len(), root.segments.len(), "more than a segment a worker at {}", root.epoch);
            for change in self.results(root) {
                assert_eq!(change.1, 1, "a result was taken back at epoch {}: {:?}", root.epoch, change.0);
                let before = results.insert(change.0.clone(), root.epoch);
                assert_eq!(before, None, "{:?} was computed again at epoch {}", change.0, root.epoch);
            }
        }
    }

    /// Keys of results that came (or went) in one commit.
    pub fn results(&self, root: &Root) -> Vec<(String, i64)> {
        let program = self.reader.program(root).expect("the program");
        let schemas = program.tables().into_iter().filter(|schema| schema.name.starts_with("ai."));
        let of_table = |schema: TableSchema| {
            let changes = self.reader.changes(root, &schema).expect("a readable segment");
            changes.into_iter().map(|change| (format!("{:?}", &change.values[..3]), change.diff))
        };
        schemas.flat_map(of_table).collect()
    }

    /// The newest commit covers everything, leaves nothing pending, and is published.
    pub fn hold_drained(&self) {
        let newest = &self.reader.newest;
        let input = self.hold_commit(newest.epoch);
        assert_eq!(input.records.len(), self.records.len(), "records of a drained run");
        let pending = pending_texts(&input);
        assert!(pending.is_empty(), "{} texts are pending after a drained run", pending.len());
        hold_vectors(&input);
        let published = newest.published.as_ref().expect("a drained run publishes").epoch;
        let publications = self.publications();
        let last = publications.last().expect("a publication");
        assert_eq!(last.epoch, published);
        // Of a topic, positions may move on behind the last change over what is no record.
        let covered = |root: &Root| self.covered(&serde_json::to_value(root).expect("a root is JSON")).len();
        assert_eq!(covered(last), covered(newest), "a drained run publishes its last change");
        assert_eq!(self.published(last), rows(&self.at(newest.epoch)), "publication and newest commit");
    }
}

fn reader(address: &str) -> StoreReader {
    StoreReader::open(&tidemill::flywheel::app::app(), address).expect("a store")
}

/// Every vector is that of its own text, not of a neighbour in its batch.
fn hold_vectors(input: &Input) {
    let Some((model, version)) = input.models.last() else { return };
    let dimensions = version.rsplit('-').next().and_then(|number| number.parse().ok());
    let lexical = Lexical { dimensions: dimensions.expect("the version ends in the dimensions") };
    for (digest, text) in needed_texts(input) {
        let vector = input.embeddings.get(&(digest, model.clone(), version.clone()));
        assert_eq!(vector, Some(&lexical.vector(&text)), "the vector of {text:?}");
    }
}

fn hold_positions(older: &Root, newer: &Root) {
    for (stream, files) in &older.positions {
        for (file, next) in files {
            let now = newer.positions.get(stream).and_then(|files| files.get(file));
            assert!(now >= Some(next), "{stream} {file} went back at epoch {}", newer.epoch);
        }
    }
}

/// All rows of all tables, by their keys.
pub fn rows(tables: &StoreTables) -> Tables {
    let of_table = |schema: &TableSchema| {
        let mut found: Vec<Row> = Vec::new();
        let mut take = |values: Vec<tidemill_types::Value>| {
            found.push(row(schema, &values));
            Ok(())
        };
        tables.for_each(&schema.name, &mut take).unwrap_or_else(|error| panic!("{}: {error}", schema.name));
        found.sort_by_cached_key(|row| key(schema, row));
        (schema.name.clone(), found)
    };
    tables.schemas().iter().map(of_table).collect()
}

fn key(schema: &TableSchema, row: &Row) -> String {
    let columns = schema.columns.iter().filter(|column| column.key);
    columns.map(|column| format!("{}\u{0}", row[&column.name])).collect()
}
