//! Deliberate bugs of the local store: what a wrong store would ask of the file system, or believe of it.
//!
//! The store is production's own and stays as it is; a bug stands between it and the system calls, and
//! changes, leaves out or moves one. So a bug here is one that somebody could write into the store. Each must
//! be found.

use super::files::{SimFile, SimFiles};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidemill_connectors::store::system::{Entry, FileSystem};

/// A deliberate bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A file gets its name without a sync of its content.
    SkipsTheFileSync,
    /// No folder is synced.
    SkipsTheFolderSync,
    /// The folder of a name is synced, and not those in which that folder was made.
    SkipsTheParents,
    /// Folders above the store's own are not synced.
    StopsAtTheStore,
    /// A file is synced when it has its name.
    NamesBeforeTheSync,
    /// After a create of a name that was taken the folder is not synced.
    BelievesWhatExists,
    /// A create replaces what stands under the name.
    CreateReplaces,
    /// A create looks whether the name is free, and then replaces what stands there.
    LooksAndReplaces,
    /// A put removes what it replaces, and then takes the name.
    RemovesFirst,
    /// A put writes its file anew under the name.
    PutCopies,
    /// A part that was written counts as all.
    BelievesAShortWrite,
    /// A sync that fails counts as done.
    BelievesAFailedSync,
    /// A sync that fails is asked for again until it succeeds.
    SyncsAgain,
    /// Temporary files have the names that another process gives them too, and are not made new.
    UsesLeftovers,
    /// Temporary files have the names that another process gives them too.
    SharesNames,
    /// What a killed process left is never removed.
    NeverSweeps,
}

/// All of them.
pub const BUGS: [Bug; 16] = [
    Bug::SkipsTheFileSync,
    Bug::SkipsTheFolderSync,
    Bug::SkipsTheParents,
    Bug::StopsAtTheStore,
    Bug::NamesBeforeTheSync,
    Bug::BelievesWhatExists,
    Bug::CreateReplaces,
    Bug::LooksAndReplaces,
    Bug::RemovesFirst,
    Bug::PutCopies,
    Bug::BelievesAShortWrite,
    Bug::BelievesAFailedSync,
    Bug::SyncsAgain,
    Bug::UsesLeftovers,
    Bug::SharesNames,
    Bug::NeverSweeps,
];

/// A process's file system, with a bug in it if there is one.
#[derive(Debug)]
pub struct Wrong {
    files: SimFiles,
    bug: Option<Bug>,
    store: PathBuf,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    numbered: u64,
    /// Files without a name of their own, by their temporary ones.
    made: BTreeMap<PathBuf, SimFile>,
    /// Folders in which something got a name.
    named: BTreeSet<PathBuf>,
    /// Folders whose next sync is left out.
    skipped: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notes")
    }
}

impl Wrong {
    /// The file system of a process whose store stands in a folder.
    pub fn new(files: SimFiles, bug: Option<Bug>, store: &Path) -> Self {
        Self { files, bug, store: store.to_path_buf(), notes: Mutex::default() }
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this sync of a folder is left out.
    fn leaves_out(&self, folder: &Path) -> bool {
        match self.bug {
            Some(Bug::SkipsTheFolderSync) => true,
            Some(Bug::SkipsTheParents) => !self.notes().named.contains(folder),
            Some(Bug::StopsAtTheStore) => !folder.starts_with(&self.store),
            Some(Bug::BelievesWhatExists) => self.notes().skipped.remove(folder),
            _ => false,
        }
    }

    /// A file has its name, or did not get it.
    fn named(&self, from: &Path, to: &Path, done: io::Result<()>) -> io::Result<()> {
        let folder = to.parent().unwrap_or(to).to_path_buf();
        let file = self.notes().made.remove(from);
        self.notes().named.insert(folder.clone());
        if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
            self.notes().skipped.insert(folder);
        }
        done?;
        file.map_or(Ok(()), |file| self.files.sync(&file))
    }

    /// What a copy does in place of a rename.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let body = self.files.read(from)?;
        let mut file = self.files.make_or_empty(to)?;
        self.files.write(&mut file, &body)?;
        self.files.sync(&file)?;
        self.files.remove(from)
    }
}

impl FileSystem for Wrong {
    type File = SimFile;

    fn unique(&self) -> String {
        if !self.is(Bug::SharesNames) && !self.is(Bug::UsesLeftovers) {
            return self.files.unique();
        }
        let mut notes = self.notes();
        notes.numbered += 1;
        format!("1-{}", notes.numbered)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.files.make_folder(path)
    }

    fn make_file(&self, path: &Path) -> io::Result<SimFile> {
        if self.is(Bug::UsesLeftovers) {
            return self.files.make_or_empty(path);
        }
        let file = self.files.make_file(path)?;
        if self.is(Bug::NamesBeforeTheSync) {
            self.notes().made.insert(path.to_path_buf(), file.clone());
        }
        Ok(file)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<SimFile> {
        match self.is(Bug::NeverSweeps) {
            true => Err(ErrorKind::PermissionDenied.into()),
            false => self.files.open_to_write(path),
        }
    }

    fn try_lock(&self, file: &SimFile) -> bool {
        self.files.try_lock(file)
    }

    fn write(&self, file: &mut SimFile, body: &[u8]) -> io::Result<()> {
        let written = self.files.write(file, body);
        if self.is(Bug::BelievesAShortWrite) { Ok(()) } else { written }
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        match self.bug {
            Some(Bug::SkipsTheFileSync | Bug::NamesBeforeTheSync) => Ok(()),
            Some(Bug::BelievesAFailedSync) => self.files.sync(file).or(Ok(())),
            Some(Bug::SyncsAgain) => self.files.sync(file).or_else(|_| self.files.sync(file)),
            _ => self.files.sync(file),
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match self.bug {
            _ if self.leaves_out(path) => Ok(()),
            Some(Bug::BelievesAFailedSync) => self.files.sync_folder(path).or(Ok(())),
            _ => self.files.sync_folder(path),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let done = match self.bug {
            Some(Bug::CreateReplaces) => self.files.rename(from, to),
            Some(Bug::LooksAndReplaces) => match self.files.look(to) {
                Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => self.files.rename(from, to),
            },
            _ => self.files.link(from, to),
        };
        self.named(from, to, done)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let done = match self.bug {
            Some(Bug::RemovesFirst) => match self.files.remove(to) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => self.files.rename(from, to),
            },
            Some(Bug::PutCopies) => self.copy(from, to),
            _ => self.files.rename(from, to),
        };
        self.named(from, to, done)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn look(&self, path: &Path) -> io::Result<Entry> {
        self.files.look(path)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.files.entries(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.read(path)
    }

    fn open(&self, path: &Path) -> io::Result<(SimFile, u64)> {
        self.files.open(path)
    }

    fn read_at(&self, file: &SimFile, from: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.files.read_at(file, from, buffer)
    }
}
