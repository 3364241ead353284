//! A store as commands read it: its roots, and the tables of any retained epoch.

use super::{App, Tables};
use crate::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use tidemill_connectors::edge::Tokio;
use tidemill_connectors::lake::{self, LakeError, Snapshot, SnapshotOptions, TextForm, Verified};
use tidemill_connectors::store;
use tidemill_core::log;
use tidemill_core::program::{Extract, Program};
use tidemill_core::segment::{Change, decode_changes};
use tidemill_core::store::SharedStore;
use tidemill_core::view::Share;
use tidemill_types::invariants::tagged;
use tidemill_types::{Cell, Digest, Epoch, Root, TableSchema, Value, root_name, row_digest};

impl From<LakeError> for Error {
    fn from(error: LakeError) -> Self {
        Self::failed(error)
    }
}

/// An open store that is only read.
pub struct StoreReader {
    /// The store.
    pub store: SharedStore,
    /// Where its I/O runs; this thread blocks on it.
    pub runtime: tokio::runtime::Runtime,
    /// The newest root when it was opened.
    pub newest: Root,
    make: super::MakeProgram,
}

impl StoreReader {
    /// Opens a store that is there, with at least one commit.
    pub fn open(app: &App, address: &str) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| Error::failed(format!("cannot start threads for I/O: {e}")))?;
        let (store, newest) = runtime.block_on(async {
            let store = store::open_existing(address).await?;
            let newest = log::newest_root(store.as_ref(), None).await?;
            let none = || Error::failed(format!("the store {} holds no commit yet", store.location()));
            let newest = newest.ok_or_else(none)?;
            Ok::<_, Error>((store, newest))
        })?;
        Ok(Self { store, runtime, newest, make: app.program.clone() })
    }

    /// The oldest epoch whose root is there and kept.
    pub fn oldest(&self) -> Result<Epoch, Error> {
        let start = self.runtime.block_on(log::log_start(self.store.as_ref()))?;
        // A root below what the newest one keeps is dropped, or was put there by a writer that had slept.
        Ok(start.unwrap_or(self.newest.epoch).max(self.newest.log_from))
    }

    /// The root of an epoch; of the newest without one. Its tables may be gone already: see
    /// [`Self::readable_root`].
    pub fn root(&self, epoch: Option<Epoch>) -> Result<Root, Error> {
        let newest = self.newest.epoch;
        let Some(epoch) = epoch.filter(|epoch| *epoch != newest) else { return Ok(self.newest.clone()) };
        if epoch > newest {
            return Err(Error::failed(format!("epoch {epoch} is not committed; the newest is {newest}")));
        }
        if !tagged(&self.newest, epoch) && epoch < self.oldest()? {
            return Err(self.forgotten(epoch));
        }
        Ok(self.runtime.block_on(log::read_root(self.store.as_ref(), epoch))?)
    }

    /// The root of an epoch whose tables can be read, with a publication at which they can begin. The
    /// oldest roots of the log name one of which the log is gone already; they are there as the tail of
    /// one that a younger root names, and so are read with that.
    pub fn readable_root(&self, epoch: Option<Epoch>) -> Result<Root, Error> {
        let root = self.root(epoch)?;
        let wanted = root.epoch;
        if self.newest.tags.values().any(|tag| tag.epoch == wanted) {
            return Ok(root);
        }
        self.based(root, self.oldest()?)?.ok_or_else(|| self.forgotten(wanted))
    }

    /// The oldest epoch whose tables can be read.
    pub fn oldest_readable(&self) -> Result<Epoch, Error> {
        let oldest = self.oldest()?;
        for epoch in oldest..self.newest.epoch {
            if self.based(self.root(Some(epoch))?, oldest)?.is_some() {
                return Ok(epoch);
            }
        }
        Ok(self.newest.epoch)
    }

    /// The root with a publication after which the log, which begins at `oldest`, holds every root.
    fn based(&self, root: Root, oldest: Epoch) -> Result<Option<Root>, Error> {
        if root.epoch == self.newest.epoch {
            return Ok(Some(root));
        }
        let (mut base, mut named_by) = (root.published.clone(), root.epoch);
        loop {
            match begins(base.as_ref().map(|base| base.epoch), root.epoch, oldest) {
                Begins::Here => return Ok(Some(Root { published: base, ..root })),
                Begins::Later if named_by < self.newest.epoch => named_by += 1,
                Begins::Later | Begins::Never => return Ok(None),
            }
            base = self.root(Some(named_by))?.published;
        }
    }

    fn forgotten(&self, epoch: Epoch) -> Error {
        let kept = match self.oldest_readable() {
            Ok(oldest) => format!("commits {oldest} to {} are", self.newest.epoch),
            Err(error) => return error,
        };
        Error::failed(format!(
            "epoch {epoch} is no longer retained; {kept} (see the setting store.retention)"
        ))
    }

    /// A root as it stands in the store, on one line.
    pub fn root_text(&self, epoch: Epoch) -> Result<String, Error> {
        let bytes = self.runtime.block_on(self.store.get(&root_name(epoch)))?;
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::failed(format!("{} is not text", root_name(epoch))))?;
        if !text.trim_end().contains('\n') {
            return Ok(text.trim_end().to_string());
        }
        let value: serde_json::Value = serde_json::from_str(&text).map_err(Error::failed)?;
        Ok(value.to_string())
    }

    /// The program with the settings that a root holds.
    pub fn program(&self, root: &Root) -> Result<Arc<dyn Program>, Error> {
        let other = || {
            let (store, wrote) = (self.store.location(), &root.program.name);
            Error::failed(format!(
                "the store {store} was written by the program {wrote}; read it with that program's binary"
            ))
        };
        let program = (self.make)(&root.program.settings);
        let program = program.map_err(|e| {
            let wrote = &root.program.name;
            Error::failed(format!(
                "commit {} of program {wrote} has settings that cannot be used: {e}",
                root.epoch
            ))
        })?;
        if program.id().name == root.program.name { Ok(program) } else { Err(other()) }
    }

    fn options(&self, program: &Arc<dyn Program>) -> SnapshotOptions {
        let schemas: Arc<[TableSchema]> = program.tables().into();
        SnapshotOptions {
            store: self.store.clone(),
            edge: Tokio::shared(self.runtime.handle().clone()),
            threads: READERS,
            streams: crate::run::stream_tables(program.as_ref()),
            schemas: schemas.clone(),
            extract: Arc::new(ProgramExtract(program.clone())),
            memory_bytes_max: READ_BYTES,
        }
    }

    /// All tables as of an epoch; of the newest without one.
    pub fn tables(&self, epoch: Option<Epoch>) -> Result<StoreTables, Error> {
        let root = self.readable_root(epoch)?;
        let program = self.program(&root)?;
        let snapshot = Arc::new(Snapshot::of(self.options(&program), root.clone())?);
        Ok(StoreTables { root, program, snapshot })
    }

    /// What is wrong with what a root refers to.
    pub fn check(&self, root: &Root) -> Result<Vec<String>, Error> {
        let mut log_from = self.newest.log_from;
        let mut round = 1;
        loop {
            let problems = self.check_from(root, log_from)?;
            // Beside a run, what this root's metadata lists of older ones goes while it is looked at.
            let now = self.runtime.block_on(log::newest_root(self.store.as_ref(), None))?;
            match now.filter(|now| round < ROUNDS_MAX && !problems.is_empty() && now.log_from > log_from) {
                Some(now) => log_from = now.log_from,
                None => return Ok(problems),
            }
            round += 1;
        }
    }

    fn check_from(&self, root: &Root, log_from: Epoch) -> Result<Vec<String>, Error> {
        let program = self.program(root)?;
        Ok(lake::verify(&self.options(&program), root, log_from)?)
    }

    /// Checks all that is retained: the log, what its roots refer to, and the newest commit in depth. The newest root of
    /// which that was found, and what was found.
    pub fn check_all(&self) -> Result<(Root, Verified), Error> {
        let mut newest = self.newest.clone();
        let mut round = 1;
        loop {
            let (mut problems, roots) = self.runtime.block_on(log::verify(self.store.as_ref(), &newest))?;
            let program = self.program(&newest)?;
            let Verified { problems: more, unnamed } = lake::verify_all(&self.options(&program), &roots)?;
            problems.extend(more);
            for problem in self.check_from(&newest, newest.log_from)? {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            // Beside a run, old commits go while they are looked at.
            let now = self.runtime.block_on(log::newest_root(self.store.as_ref(), None))?;
            let moved = |now: &Root| now.log_from > newest.log_from && !problems.is_empty();
            match now.filter(|now| round < ROUNDS_MAX && moved(now)) {
                Some(now) => newest = now,
                None => return Ok((newest, Verified { problems, unnamed })),
            }
            round += 1;
        }
    }

    /// The changes of one table in one commit, texts as handles.
    pub fn changes(&self, root: &Root, schema: &TableSchema) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for segment in &root.segments {
            let Some(section) = segment.tables.get(&schema.name) else { continue };
            let bytes = self.runtime.block_on(self.store.get(&segment.name))?;
            let found = decode_changes(schema, &bytes, section);
            changes.extend(found.map_err(|e| Error::failed(format!("{}: {e}", segment.name)))?);
        }
        Ok(changes)
    }
}

/// Whether an epoch can be read from a publication and the log after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begins {
    /// It can.
    Here,
    /// Roots between the two are gone; a later root may name a publication that stands nearer.
    Later,
    /// The publication is younger than the epoch, and so are all that come after it.
    Never,
}

/// Whether `epoch` can be read from the publication of epoch `base` (`None`: from nothing) in a log
/// that begins at `oldest`: every root after the one and up to the other must be there.
fn begins(base: Option<Epoch>, epoch: Epoch, oldest: Epoch) -> Begins {
    match base.map_or(0, |base| base + 1) {
        first if first > epoch + 1 => Begins::Never,
        first if first < oldest => Begins::Later,
        _ => Begins::Here,
    }
}

/// How often all is looked at again where a run gives up commits meanwhile.
const ROUNDS_MAX: usize = 3;
/// Threads that read side by side.
const READERS: usize = 4;
/// Bounds the segments and bodies that a reading command holds.
const READ_BYTES: usize = 256 << 20;

/// A program as what makes its texts.
struct ProgramExtract(Arc<dyn Program>);

impl Extract for ProgramExtract {
    fn text(&self, stream: u8, part: u8, body: &[u8]) -> Result<String, String> {
        self.0.text(stream, part, body)
    }

    fn identity(&self, text: &str) -> Digest {
        self.0.identity(text)
    }
}

/// All tables of a store as of one epoch.
pub struct StoreTables {
    /// The commit.
    pub root: Root,
    /// The program with that commit's settings.
    pub program: Arc<dyn Program>,
    /// What reads them.
    pub snapshot: Arc<Snapshot>,
}

/// How large a table is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSize {
    /// Its name.
    pub table: String,
    /// Rows as of the commit.
    pub rows: u64,
    /// Files of the publication that the commit names.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl StoreTables {
    /// Rows of a table.
    pub fn count(&self, table: &str) -> Result<u64, Error> {
        Ok(self.snapshot.count(table)?)
    }

    /// All tables' sizes, in the program's order.
    pub fn sizes(&self) -> Result<Vec<TableSize>, Error> {
        let size = |schema: &TableSchema| {
            let (table, files) = (schema.name.clone(), self.snapshot.files(&schema.name)?);
            let count = (files.data_files + files.delete_files) as u64;
            Ok(TableSize { rows: self.count(&table)?, files: count, bytes: files.bytes, table })
        };
        self.schemas().iter().map(size).collect()
    }

    /// Where a table's Iceberg metadata stands, and the epoch that it is as of.
    pub fn metadata_location(&self, table: &str) -> Result<(String, Epoch), Error> {
        let found = self.snapshot.metadata_location(table)?;
        let none = || {
            Error::failed(format!(
                "epoch {} came before the first publication; read it with `show`, or take a later one (one comes \
                 every lake.interval)",
                self.root.epoch
            ))
        };
        found.map(|(location, epoch)| (location.to_string(), epoch)).ok_or_else(none)
    }

    /// Hands out every row of a table, texts as handles.
    pub fn handles(
        &self,
        table: &str,
        each: &mut dyn FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each(table, TextForm::Handles, each)
    }

    /// Hands out the digests of key and row of every row of a table.
    pub fn digests(&self, schema: &TableSchema, each: &mut dyn FnMut(Digest, Digest)) -> Result<(), Error> {
        self.handles(&schema.name, &mut |row| {
            each(super::key_of(schema, &row), row_digest(row.iter().map(Value::cell)));
            Ok(())
        })
    }

    fn each(
        &self,
        table: &str,
        form: TextForm,
        each: &mut dyn FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut ended = Ok(());
        self.snapshot.for_each_row(table, form, None, Share::ALL, &mut |row| {
            ended = each(row.iter().map(Cell::to_value).collect());
            match ended {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        ended
    }
}

impl Tables for StoreTables {
    fn epoch(&self) -> Epoch {
        self.root.epoch
    }

    fn schemas(&self) -> &[TableSchema] {
        self.snapshot.schemas()
    }

    fn for_each(
        &self,
        table: &str,
        each: &mut dyn FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each(table, TextForm::Resolved, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that began at 42 held root 44 with publication 38, root 45 with 40 and root 46 with 42.
    /// Readers took the first publication that was newer than root 44's own, 40, and asked for root 41,
    /// which had been collected.
    #[test]
    fn an_epoch_is_read_from_a_publication_whose_log_is_all_there() {
        assert_eq!(begins(Some(38), 44, 42), Begins::Later);
        assert_eq!(begins(Some(40), 44, 42), Begins::Later);
        assert_eq!(begins(Some(42), 44, 42), Begins::Here);
        assert_eq!(begins(Some(41), 44, 42), Begins::Here);
        assert_eq!(begins(Some(44), 44, 42), Begins::Here);
        assert_eq!(begins(Some(45), 44, 42), Begins::Never);
        assert_eq!(begins(None, 3, 0), Begins::Here);
        assert_eq!(begins(None, 3, 2), Begins::Later);
    }
}
