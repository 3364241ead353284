//! Whether everything that a root names is in the store and fits together.

use super::LakeError;
use super::checkpoint;
use super::commit::epoch_of;
use super::files::{DataFile, Stored, listed, read_deletes, read_index};
use super::fold::{EpochSegments, Fold, FoldContext};
use super::index::KeyIndex;
use super::io::{FileRef, Io};
use super::layout::{generation_of, is_whole, name_of};
use super::segments::stored_segments;
use super::snapshot::{SnapshotOptions, tail};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tidemill_core::store::StoreError;
use tidemill_types::{Digest, Epoch, PublishedTable, Root, TableSchema};

/// Checks the segments of a root and of those after its publication, and the publication itself: the size
/// and digest of every object, footers, deletions, row counts, and that every key stands once; then that
/// the tail's changes fit the publication. All that the root refers to is read. The problems, each with
/// the object that it is about; an error only if the store cannot be asked. `log_from` is where the log begins
/// by now: what an older root's metadata lists below that has gone.
pub fn verify(options: &SnapshotOptions, root: &Root, log_from: Epoch) -> Result<Vec<String>, LakeError> {
    let io = Io { store: options.store.clone(), edge: options.edge.clone(), threads: options.threads };
    let (named, problems) = (HashSet::new(), Vec::new());
    let mut checking = Checking { sizes: sizes(&io)?, named, io, root, log_from, problems };
    let mut indexes = Vec::new();
    for schema in options.schemas.iter() {
        indexes.push(checking.table(schema));
    }
    checking.tail(options, &indexes)?;
    Ok(checking.problems)
}

/// What was found in all that is retained.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// What is wrong, each with its object and what to do.
    pub problems: Vec<String>,
    /// Objects that a writer made and no commit names: left by a publication that was cut off, or about to be named.
    /// No row of a table is in them.
    pub unnamed: Vec<String>,
}

/// Checks all that retained roots refer to, by size and digest: their segments, their publications' files and
/// metadata; and that every object of the lake is one that a writer made. All of it is read once.
///
/// # Errors
///
/// When the store cannot be asked.
pub fn verify_all(options: &SnapshotOptions, roots: &[Root]) -> Result<Verified, LakeError> {
    let Some(newest) = roots.last() else { return Ok(Verified::default()) };
    let io = Io { store: options.store.clone(), edge: options.edge.clone(), threads: options.threads };
    let (named, problems, log_from) = (HashSet::new(), Vec::new(), newest.log_from);
    let mut checking = Checking { sizes: sizes(&io)?, named, io, root: newest, log_from, problems };
    let segments = stored_segments(options.store.clone(), options.edge.clone(), 0);
    for segment in roots.iter().flat_map(|root| &root.segments) {
        if let Err(error) = segments(segment) {
            checking.found(told(error));
        }
    }
    let (mut seen, mut indexes) = (HashSet::new(), BTreeSet::new());
    let mut files: BTreeMap<String, FileRef> = BTreeMap::new();
    // Of the roots that a tag keeps, the last one's publication is kept; those before it may name an older one.
    let readable = |root: &Root| {
        root.epoch >= newest.log_from || newest.tags.values().any(|tag| tag.epoch == root.epoch)
    };
    for root in roots.iter().filter(|root| readable(root)) {
        let tables = root.published.iter().flat_map(|published| &published.tables);
        for (name, published) in tables {
            indexes.extend(&published.index);
            let schema = options.schemas.iter().find(|schema| schema.name == *name);
            let Some(schema) = schema.filter(|_| seen.insert(&published.metadata_location)) else { continue };
            match listed(&checking.io, &root.location, schema, published) {
                Ok((stored, _)) => {
                    checking.named_by(&stored);
                    let data = stored.files.data.values().map(|file| file.file.clone());
                    let all = data.chain(stored.files.deletes.iter().map(|file| file.file.clone()));
                    files.extend(all.map(|file| (file.name.clone(), file)));
                }
                Err(error) => checking.found(told(error)),
            }
        }
    }
    for file in files.values() {
        checking.is_whole(file);
    }
    for name in indexes {
        checking.named.insert(name.clone());
        if let Err(error) = checking.io.get_whole(name, |body| is_whole(name, body) == Some(true)) {
            checking.found(checkpoint_told(error));
        }
    }
    checking.named.extend(files.into_keys());
    checking.named.extend(roots.iter().flat_map(|root| &root.dropped).cloned());
    // What is damaged does not say what it names.
    let unnamed = if checking.problems.is_empty() {
        checking.unnamed()?
    } else {
        checking.strangers();
        Vec::new()
    };
    Ok(Verified { problems: checking.problems, unnamed })
}

/// Snapshots that a table's metadata lists and whose manifest lists are not there, by epoch.
fn listed_snapshots(stored: &Stored, location: &str, sizes: &HashMap<String, u64>) -> Vec<(u64, String)> {
    let lists = stored.metadata.snapshots().filter_map(|snapshot| {
        Some((epoch_of(snapshot)?, name_of(location, snapshot.manifest_list()).ok()?))
    });
    lists.filter(|(_, list)| !sizes.contains_key(list)).collect()
}

/// An error as a problem that says what to do.
fn told(error: impl ToString) -> String {
    let text = error.to_string();
    if text.contains("restore") { text } else { format!("{text}; restore it from a copy of the store") }
}

/// What is wrong with the checkpoint of an index, and that nothing is lost by it.
fn checkpoint_told(error: impl ToString) -> String {
    let without = "it is the checkpoint of an index, without which a start reads the data files";
    format!("{}; or let a later publication replace it: {without}", told(error))
}

fn sizes(io: &Io) -> Result<HashMap<String, u64>, LakeError> {
    let listed = io.edge.block_on(io.store.list("tables/"))?;
    Ok(listed.into_iter().map(|object| (object.name, object.bytes)).collect())
}

struct Checking<'a> {
    io: Io,
    root: &'a Root,
    log_from: Epoch,
    sizes: HashMap<String, u64>,
    /// What a root refers to, as far as it was looked at.
    named: HashSet<String>,
    problems: Vec<String>,
}

impl Checking<'_> {
    fn found(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Takes down the metadata of a publication as what a root refers to.
    fn named_by(&mut self, stored: &Stored) {
        self.named.insert(stored.name.clone());
        self.named.extend(stored.manifests.iter().cloned());
    }

    /// Checks a table's publication; its index, if it can be read.
    fn table(&mut self, schema: &TableSchema) -> Option<KeyIndex> {
        let Some(publication) = &self.root.published else { return Some(KeyIndex::default()) };
        let Some(published) = publication.tables.get(&schema.name) else {
            self.found(format!("publication {} does not name table {}", publication.epoch, schema.name));
            return None;
        };
        let listed = listed(&self.io, &self.root.location, schema, published);
        let (mut stored, addresses) = listed.map_err(|error| self.found(told(error))).ok()?;
        self.named_by(&stored);
        self.seen_by_others(schema, published, &stored);
        // Held to their digests before they are read: bytes that nobody wrote decode to anything.
        if !self.are_whole(&stored) {
            return None;
        }
        let deletes = read_deletes(&self.io, &mut stored.files, &addresses);
        deletes.map_err(|error| self.found(told(error))).ok()?;
        self.files(schema, published, &stored)
    }

    /// Whether all data and delete files of a table are there with the bytes that were written.
    fn are_whole(&mut self, stored: &Stored) -> bool {
        let data = stored.files.data.values().map(|file| &file.file);
        let mut whole = true;
        for file in data.chain(stored.files.deletes.iter().map(|file| &file.file)) {
            whole &= self.is_whole(file);
        }
        whole
    }

    /// What Iceberg's readers go by: the current snapshot, and the others that are listed and retained.
    fn seen_by_others(&mut self, schema: &TableSchema, published: &PublishedTable, stored: &Stored) {
        let (table, name) = (&schema.name, &stored.name);
        if stored.metadata.current_snapshot_id() != Some(published.snapshot_id) {
            let current = stored.metadata.current_snapshot_id();
            self.found(told(format!(
                "{name}: the current snapshot of table {table} is {current:?}, and the root names {}",
                published.snapshot_id
            )));
        }
        let missing = listed_snapshots(stored, &self.root.location, &self.sizes);
        let log_from = self.log_from;
        for (epoch, list) in missing.into_iter().filter(|(epoch, _)| *epoch >= log_from) {
            self.found(told(format!(
                "{list} is missing, the manifest list of table {table} at epoch {epoch}"
            )));
        }
    }

    /// Whether a data or delete file is there with the bytes that were written.
    fn is_whole(&mut self, file: &FileRef) -> bool {
        match self.sizes.get(&file.name).copied() {
            None => self.found(told(format!("{} is missing", file.name))),
            Some(bytes) if bytes != file.bytes => {
                let (name, wanted) = (&file.name, file.bytes);
                self.found(told(format!("{name} has {bytes} bytes, its manifest says {wanted}")));
            }
            Some(_) => {
                match self.io.get_whole(&file.name, |body| is_whole(&file.name, body) != Some(false)) {
                    Ok(_) => return true,
                    Err(error) => self.found(told(error)),
                }
            }
        }
        false
    }

    fn stranger(&mut self, name: &str) {
        self.problems.push(format!(
            "{name} was made by no writer of this store, and no row of a table is in it; remove it"
        ));
    }

    /// Finds objects whose names no writer makes.
    fn strangers(&mut self) {
        let mut names: Vec<String> =
            self.sizes.keys().filter(|name| generation_of(name).is_none()).cloned().collect();
        names.sort();
        names.iter().for_each(|name| self.stranger(name));
    }

    /// Objects of the lake that no root refers to. Those that no writer can have made are problems.
    fn unnamed(&mut self) -> Result<Vec<String>, LakeError> {
        let mut names: Vec<String> =
            self.sizes.keys().filter(|name| !self.named.contains(*name)).cloned().collect();
        names.sort();
        let mut made = Vec::new();
        for name in names {
            let whole = match name.contains("/data/") {
                false => true,
                true => match self.io.get(&name) {
                    Ok(body) => is_whole(&name, &body) == Some(true),
                    // It has been deleted since it was listed.
                    Err(LakeError::Store(StoreError::NotFound { .. })) => continue,
                    Err(error) => return Err(error),
                },
            };
            match whole && generation_of(&name).is_some() {
                true => made.push(name),
                false => self.stranger(&name),
            }
        }
        Ok(made)
    }

    fn files(
        &mut self,
        schema: &TableSchema,
        published: &PublishedTable,
        stored: &Stored,
    ) -> Option<KeyIndex> {
        for file in stored.files.data.values() {
            self.data_file(file);
        }
        if stored.files.rows() != published.rows {
            let rows = stored.files.rows();
            self.found(format!("table {} has {rows} rows, its root says {}", schema.name, published.rows));
        }
        match read_index(&self.io, schema, &stored.files) {
            Ok(index) => {
                if let Some(name) = &published.index
                    && let Err(error) = checkpoint::check(&self.io, &stored.files, name, &index)
                {
                    self.found(checkpoint_told(error));
                }
                Some(index)
            }
            Err(error) => {
                self.found(error.to_string());
                None
            }
        }
    }

    fn data_file(&mut self, file: &DataFile) {
        match self.io.footer_rows(&file.file) {
            Ok(rows) if rows != file.rows as u64 => {
                self.found(format!("{} holds {rows} rows, its manifest says {}", file.file.name, file.rows));
            }
            Ok(_) => {}
            Err(error) => self.found(error.to_string()),
        }
        if file.deleted.max().is_some_and(|last| last >= file.rows) {
            self.found(format!("{} has fewer rows than are deleted from it", file.file.name));
        }
    }

    fn tail(&mut self, options: &SnapshotOptions, indexes: &[Option<KeyIndex>]) -> Result<(), LakeError> {
        let roots = match self.io.edge.block_on(tail(&self.io.store, self.root)) {
            Ok(roots) => roots,
            Err(error) => {
                self.found(error.to_string());
                return Ok(());
            }
        };
        let (store, edge) = (options.store.clone(), options.edge.clone());
        let segments = stored_segments(store, edge, options.memory_bytes_max as u64 / 2);
        let before = self.problems.len();
        for segment in roots.iter().flat_map(|root| &root.segments).chain(&self.root.segments) {
            if let Err(error) = segments(segment) {
                self.found(error.to_string());
            }
        }
        if self.problems.len() > before {
            return Ok(());
        }
        let holds = |table: usize, key: Digest| indexes[table].as_ref().map(|index| index.get(key).is_some());
        let (schemas, streams) = (&options.schemas, &options.streams);
        let context = FoldContext { schemas, streams, segments: &segments, holds: &holds };
        let epochs = roots.iter().map(|r| EpochSegments { epoch: r.epoch, segments: &r.segments });
        if let Err(error) = Fold::of(&context, epochs) {
            self.found(error.to_string());
        }
        Ok(())
    }
}
