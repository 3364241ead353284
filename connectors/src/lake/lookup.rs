//! Where rows of a published table stand, for a reader that follows the log from publication to publication.
//!
//! Keys are kept file by file, those of deleted rows too: a data file never changes, so that of the next
//! publication only the files are read that this one lacks. Which rows are gone is asked of the publication's
//! deletions. An entry takes 24 bytes.

use super::LakeError;
use super::files::{DataFile, Files, batch_keys, load};
use super::index::Place;
use super::io::{FileRef, Io};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_types::{Digest, PublishedTable, TableSchema};

/// The keys of one data file with their positions, sorted; a digest in halves, so that 8 bytes align it.
struct FileKeys(Vec<([u64; 2], u32)>);

fn halves(digest: Digest) -> [u64; 2] {
    [(digest.0 >> 64) as u64, digest.0 as u64]
}

impl FileKeys {
    fn read(io: &Io, schema: &TableSchema, file: &FileRef) -> Result<Self, LakeError> {
        let columns: Vec<usize> = schema.key_places().collect();
        let mut keys = Vec::new();
        io.scan(file, Some(&columns), None, &mut |batch| {
            let more = batch_keys(schema, &batch, &columns)?;
            let positions = keys.len() as u32..;
            keys.extend(more.into_iter().map(halves).zip(positions));
            Ok(ControlFlow::Continue(()))
        })?;
        keys.sort_unstable();
        keys.shrink_to_fit();
        Ok(Self(keys))
    }

    /// The positions of a key: of a table's rows at most one is live.
    fn positions(&self, key: Digest) -> impl Iterator<Item = u32> + '_ {
        let key = halves(key);
        let first = self.0.partition_point(|(other, _)| *other < key);
        self.0[first..].iter().take_while(move |(other, _)| *other == key).map(|(_, position)| *position)
    }
}

/// A publication's files, with the keys of each.
struct Loaded {
    files: Files,
    keys: BTreeMap<u32, Arc<FileKeys>>,
}

/// One table of a publication; it is read when a row is first looked for.
pub(super) struct Lookup {
    published: Option<PublishedTable>,
    /// The location of the root that names it.
    location: String,
    /// Keys of files that an earlier publication had, by their names.
    known: HashMap<String, Arc<FileKeys>>,
    loaded: Mutex<Option<Arc<Loaded>>>,
}

impl Lookup {
    pub fn new(published: Option<PublishedTable>, location: &str) -> Self {
        let location = location.to_string();
        Self { published, location, known: HashMap::new(), loaded: Mutex::default() }
    }

    /// The same table of another publication.
    pub fn next(self, published: Option<PublishedTable>, location: &str) -> Self {
        if self.published == published {
            return self;
        }
        let loaded = self.loaded.into_inner().unwrap_or_else(PoisonError::into_inner);
        let known = match loaded {
            None => self.known,
            Some(loaded) => {
                let name = |number: &u32| loaded.files.data[number].file.name.clone();
                loaded.keys.iter().map(|(number, keys)| (name(number), keys.clone())).collect()
            }
        };
        Self { known, ..Self::new(published, location) }
    }

    fn load(&self, io: &Io, schema: &TableSchema) -> Result<Option<Arc<Loaded>>, LakeError> {
        let Some(published) = &self.published else { return Ok(None) };
        let mut slot = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &*slot {
            return Ok(Some(loaded.clone()));
        }
        let files = load(io, &self.location, schema, published)?.files;
        let read = |(number, file): (&u32, &Arc<DataFile>)| {
            let keys = match self.known.get(&file.file.name) {
                Some(known) => known.clone(),
                None => Arc::new(FileKeys::read(io, schema, &file.file)?),
            };
            Ok((*number, keys))
        };
        let keys = files.data.iter().map(read).collect::<Result<_, LakeError>>()?;
        Ok(Some(slot.insert(Arc::new(Loaded { files, keys })).clone()))
    }

    /// Where the live row of a key stands.
    pub fn place(&self, io: &Io, schema: &TableSchema, key: Digest) -> Result<Option<Place>, LakeError> {
        let Some(loaded) = self.load(io, schema)? else { return Ok(None) };
        let live = |(number, keys): (&u32, &Arc<FileKeys>)| {
            let deleted = &loaded.files.data[number].deleted;
            let position = keys.positions(key).find(|position| !deleted.contains(*position))?;
            Some(Place { file: *number, position })
        };
        Ok(loaded.keys.iter().find_map(live))
    }

    /// A data file by its number; none before a row was looked for.
    pub fn file(&self, number: u32) -> Option<FileRef> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref()?.files.data.get(&number).map(|file| file.file.clone())
    }
}
