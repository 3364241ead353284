//! What a program hands to the command line: its settings, its flow, and what only it can say of its
//! own tables. Everything here has a plain default, so that a small program gives a name and a flow.

use crate::Error;
use crate::config::ProgramSettings;
use arrow::datatypes::SchemaRef;
use serde_json::Value as Json;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tidemill_core::program::Program;
use tidemill_types::{Digest, Epoch, TableSchema, Value};

/// Makes the program that some settings describe.
pub type MakeProgram = Arc<dyn Fn(&Json) -> Result<Arc<dyn Program>, String> + Send + Sync>;

/// A program as the command line serves it.
#[derive(Clone)]
pub struct App {
    /// The binary's name.
    pub name: &'static str,
    /// One line that says what it is for.
    pub about: &'static str,
    /// The program's own settings.
    pub settings: ProgramSettings,
    /// From full settings to the program.
    pub program: MakeProgram,
    /// What only the program can say.
    pub hooks: Arc<dyn Hooks>,
    /// Made-up traffic for `demo`; without it there is no such command.
    pub demo: Option<Arc<dyn Demo>>,
}

/// The tables of one committed epoch.
pub trait Tables {
    /// The epoch.
    fn epoch(&self) -> Epoch;
    /// Every table's schema, in the program's order.
    fn schemas(&self) -> &[TableSchema];
    /// Hands out every row of a table once, in any order, texts as strings.
    fn for_each(
        &self,
        table: &str,
        each: &mut dyn FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error>;
}

/// Tables, each with one of its rows; none where the table is empty.
pub type Showcase = Vec<(&'static str, Option<Vec<Value>>)>;

/// What a program can say of its own tables; every method has a default.
pub trait Hooks: Send + Sync {
    /// Lines that end a run and `log --last`: what was left unused, what was rejected, and why.
    fn summary(&self, _tables: &dyn Tables) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Lines that the demo tells of its store: such as a row that came and one that went, and why.
    fn story(&self, _store: &super::StoreReader) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// How lines of files go into Kafka under full settings; unless a program says so, without a key.
    fn keying(&self, _settings: &Json) -> Result<Box<dyn Keying>, String> {
        Ok(Box::new(Unkeyed))
    }

    /// Counts what would come of checked records; `None` where there is nothing to count.
    fn tally(&self, _stream: usize) -> Option<Box<dyn Tally>> {
        None
    }

    /// The exports that the program offers.
    fn exports(&self) -> Vec<Box<dyn Exporter>> {
        Vec::new()
    }

    /// Rows that the demo shows whole at its end, each with its table; none where the table is empty.
    fn showcase(&self, _tables: &dyn Tables) -> Result<Showcase, Error> {
        Ok(Vec::new())
    }
}

/// How the lines of files become records of Kafka, such that the same rows come of them there.
pub trait Keying: Send {
    /// The record of a stream's line. Lines over the stream's limit are not asked about.
    fn keyed(&self, stream: usize, line: &[u8]) -> Keyed;
}

/// What a line is as a record of Kafka.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Keyed {
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// Whether its value is null instead of the line.
    pub deletes: bool,
}

/// Every line as it is, without a key.
struct Unkeyed;

impl Keying for Unkeyed {
    fn keyed(&self, _stream: usize, _line: &[u8]) -> Keyed {
        Keyed::default()
    }
}

/// Counts what would come of records that were decoded but not committed.
pub trait Tally {
    /// Takes in a batch of one stream: what [`tidemill_core::source::ErasedDecode::take`] gave.
    fn words(&mut self, words: Box<dyn Any + Send>);
    /// What would come of all, such as `120 samples`.
    fn result(&self) -> String;
}

/// One table in another tool's shape.
pub trait Exporter {
    /// The table that it exports.
    fn table(&self) -> &'static str;
    /// The name of the shape, such as `trl`.
    fn format(&self) -> &'static str;
    /// The shape of a record, for Parquet.
    fn schema(&self) -> SchemaRef;
    /// A row as one line of JSON, with the fields of `schema` in order. The same text for the same row,
    /// however the JSON in it was written at its source.
    fn line(&self, schema: &TableSchema, row: &[Value]) -> Result<Line, String>;
}

/// One exported record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The record's JSON, without a line end.
    pub json: String,
    /// A bit for each optional field that is not null in it. Records that are the first to set a bit
    /// stand first in the file, so that readers that infer types from its beginning infer them right.
    pub present: u64,
}

/// What a demo's traffic looks like.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// The same seed makes the same records.
    pub seed: u64,
    /// How long to write.
    pub lasts: Duration,
}

/// A generator of made-up traffic.
pub trait Demo: Send + Sync {
    /// Writes records until the time is over or `stop` is set.
    fn write(&self, options: DemoOptions, to: &mut dyn Destination, stop: &AtomicBool) -> Result<(), Error>;
}

/// Where made-up records go.
pub trait Destination: Send {
    /// Takes a record: the name of the file that it stands in where there are files, and its line.
    fn take(&mut self, file: &str, line: &str) -> Result<(), Error>;
    /// Makes what was taken visible to readers.
    fn show(&mut self) -> Result<(), Error>;
}

/// The digest of a row's key, as the log and the lake have it.
pub fn key_of(schema: &TableSchema, row: &[Value]) -> Digest {
    tidemill_types::key_digest(schema, row.iter().map(Value::cell))
}
