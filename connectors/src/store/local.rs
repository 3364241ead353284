//! A store on this machine's disk, durable across power cuts.
//!
//! A write goes to a temporary file beside its name, is synced, gets its name by `rename` (put) or
//! `link` (create: the kernel refuses a name that is taken), and then the folder is synced. So an
//! object is seen whole or not at all, and what has returned `Ok` survives. Folders that a write has to
//! make are synced into their parents before the object's name can count; so are those that are there, as
//! a process that was killed may have made them.
//!
//! ```text
//!  .tmp-<random> ── write, fsync ──> link | rename ──> fsync folder ──> Ok
//!        └ left behind by a killed writer: never listed, removed by the next writer
//! ```
//!
//! A writer holds a lock on its temporary file, which dies with the process; so the sweep of leftovers
//! takes only what nobody writes any more. It may take a file just before its writer has locked it, who then
//! finds it gone and starts again. So nobody else may ever make a file of that name, or the writer would name
//! that one: processes in containers have the same number and often the same count of files, so the names are
//! random. Writers of one folder that come together share one sync.
//!
//! [`Disk`] is all of this over the calls of a [`FileSystem`]. The simulator runs it over one that loses in a
//! power cut what was not synced; [`LocalStore`] is it over this machine.

use super::system::{Entry, FileSystem, Machine};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    io::{self, ErrorKind},
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use tidemill_core::store::{Created, ObjectInfo, Store, StoreError};

/// How the names of temporary files begin.
pub(super) const TEMPORARY: &str = ".tmp-";

/// How often a write starts again when its temporary file was swept away under it.
const ATTEMPTS: usize = 8;

/// A folder of this machine as a store.
#[derive(Clone, Debug)]
pub struct LocalStore(Arc<Disk<Machine>>);

impl LocalStore {
    /// The store in a folder, which need not exist yet.
    ///
    /// # Errors
    ///
    /// When the path is not UTF-8, cannot be made absolute, or holds a character at which the readers
    /// of Iceberg tables cut an address.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let root = absolute(folder).map_err(|error| {
            StoreError::Failed(format!("cannot open the store at {}: {error}", folder.display()))
        })?;
        Ok(Self(Arc::new(Disk::new(Machine, root)?)))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk<Machine>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        done.unwrap_or_else(|error| {
            Err(StoreError::Failed(format!("an operation on {}: {error}", self.0.location)))
        })
    }
}

#[async_trait]
impl Store for LocalStore {
    fn location(&self) -> &str {
        &self.0.location
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let name = name.to_string();
        self.blocking(move |disk| disk.put(&name, &body)).await
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let name = name.to_string();
        self.blocking(move |disk| disk.create(&name, &body)).await
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let name = name.to_string();
        self.blocking(move |disk| disk.get(&name)).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let name = name.to_string();
        self.blocking(move |disk| disk.get_range(&name, range)).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let folder = folder.to_string();
        self.blocking(move |disk| disk.list(&folder, "")).await
    }

    async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let (folder, after) = (folder.to_string(), after.to_string());
        self.blocking(move |disk| disk.list(&folder, &after)).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_string();
        self.blocking(move |disk| disk.delete(&name)).await
    }
}

/// A folder of a file system as a store. Its methods are those of [`Store`], and hold up their thread.
#[derive(Debug)]
pub struct Disk<F> {
    files: F,
    root: PathBuf,
    location: String,
    /// Folders that are there, synced into their parents, and swept.
    ready: Mutex<HashSet<PathBuf>>,
    syncs: Mutex<HashMap<PathBuf, Arc<FolderSync>>>,
}

impl<F: FileSystem> Disk<F> {
    /// The store in a folder, which need not exist yet, and whose path is absolute.
    ///
    /// # Errors
    ///
    /// When the path is not UTF-8, or holds a character at which the readers of Iceberg tables cut an
    /// address.
    pub fn new(files: F, root: PathBuf) -> Result<Self, StoreError> {
        let Some(text) = root.to_str() else {
            return Err(StoreError::Failed(format!("the store's path {} is not UTF-8", root.display())));
        };
        if text.contains(|c: char| matches!(c, '?' | '#') || c.is_control()) {
            return Err(StoreError::Failed(format!(
                "a store cannot stand at {text:?}: readers of Iceberg tables cut an address at `?` and `#`; \
                 choose another folder"
            )));
        }
        let location = format!("file://{}", text.trim_end_matches('/'));
        Ok(Self { files, root, location, ready: Mutex::default(), syncs: Mutex::default() })
    }

    /// Writes an object, replacing one of that name.
    ///
    /// # Errors
    ///
    /// When it is unclear whether that has happened.
    pub fn put(&self, name: &str, body: &[u8]) -> Result<(), StoreError> {
        self.write(name, body, false).map(drop)
    }

    /// Writes an object if the name is free.
    ///
    /// # Errors
    ///
    /// When it is unclear whether that has happened.
    pub fn create(&self, name: &str, body: &[u8]) -> Result<Created, StoreError> {
        self.write(name, body, true)
    }

    /// Reads an object.
    ///
    /// # Errors
    ///
    /// When it is not there or cannot be read.
    pub fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        super::check_name(name)?;
        let body = self.files.read(&self.root.join(name));
        body.map(Bytes::from).map_err(|error| self.failed("read", name, &error))
    }

    /// Reads a part of an object.
    ///
    /// # Errors
    ///
    /// When it is not there, is shorter, or cannot be read.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        super::check_name(name)?;
        let body = self.read_range(&self.root.join(name), range);
        body.map_err(|error| self.failed("read", name, &error))
    }

    /// The objects in a folder, at any depth, whose names come after a name (or after nothing).
    ///
    /// # Errors
    ///
    /// When a folder cannot be read.
    pub fn list(&self, folder: &str, after: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let folder = super::check_folder(folder)?;
        let mut found = Vec::new();
        self.walk(folder, after, &mut found).map_err(|error| self.failed("list", folder, &error))?;
        Ok(found)
    }

    /// Deletes an object. Not synced: after a power cut it may be there again.
    ///
    /// # Errors
    ///
    /// When it may be there still.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        super::check_name(name)?;
        match self.files.remove(&self.root.join(name)) {
            Err(error) if !is_absent(&error) => Err(self.failed("delete", name, &error)),
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, body: &[u8], only_new: bool) -> Result<Created, StoreError> {
        super::check_name(name)?;
        let failed = |error: io::Error| self.failed("write", name, &error);
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        for _ in 0..ATTEMPTS {
            self.prepare(folder).map_err(failed)?;
            let created = match self.write_once(folder, &path, body, only_new) {
                Ok(created) => created,
                // The folder, or the temporary file before it was locked, was taken away under us.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    lock(&self.ready).clear();
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            // Also when the name was taken: who finds an object may rely on it from now on.
            let sync = Arc::clone(lock(&self.syncs).entry(folder.to_path_buf()).or_default());
            sync.run(|| self.files.sync_folder(folder)).map_err(failed)?;
            return Ok(created);
        }
        Err(failed(io::Error::other("the folder is being removed by someone else again and again")))
    }

    fn write_once(&self, folder: &Path, path: &Path, body: &[u8], only_new: bool) -> io::Result<Created> {
        let (temporary, mut file) = self.temporary(folder)?;
        let done = (|| {
            self.files.write(&mut file, body)?;
            self.files.sync(&file)?;
            if !only_new {
                self.files.rename(&temporary, path)?;
                return Ok(Created::New);
            }
            match self.files.link(&temporary, path) {
                Ok(()) => Ok(Created::New),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
                Err(error) => Err(error),
            }
        })();
        if only_new || done.is_err() {
            // A leftover does no harm: it is never listed and is swept later.
            let _ = self.files.remove(&temporary);
        }
        done
    }

    /// A new temporary file in a folder, locked for as long as it is open.
    fn temporary(&self, folder: &Path) -> io::Result<(PathBuf, F::File)> {
        let path = folder.join(format!("{TEMPORARY}{}", self.files.unique()));
        let file = self.files.make_file(&path)?;
        // Without locks on this file system, sweeps find none either and remove nothing.
        self.files.try_lock(&file);
        Ok((path, file))
    }

    /// Makes a folder, syncs it into its parents, and sweeps it; once for each folder.
    fn prepare(&self, folder: &Path) -> io::Result<()> {
        let (ready, first) = {
            let ready = lock(&self.ready);
            (ready.contains(folder), ready.is_empty())
        };
        if ready {
            return Ok(());
        }
        let there = folder.ancestors().find(|path| self.is_folder(path)).unwrap_or(folder);
        self.make_folders(folder)?;
        for parent in folder.ancestors().skip(1) {
            if parent.starts_with(&self.root) || parent.starts_with(there) {
                self.files.sync_folder(parent)?;
            } else if first {
                // Not made by us. A killed process may have made it, and not have come to its sync.
                self.files.sync_folder(parent).or_else(if_closed_to_us)?;
            }
        }
        self.sweep(folder);
        lock(&self.ready).insert(folder.to_path_buf());
        Ok(())
    }

    /// Makes a folder and those that hold it, as far as they are missing.
    fn make_folders(&self, folder: &Path) -> io::Result<()> {
        let mut made = self.files.make_folder(folder);
        if let (Err(error), Some(parent)) = (&made, folder.parent())
            && is_absent(error)
        {
            self.make_folders(parent)?;
            made = self.files.make_folder(folder);
        }
        match made {
            Err(_) if self.is_folder(folder) => Ok(()),
            made => made,
        }
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.files.look(path).is_ok_and(|what| what == Entry::Folder)
    }

    /// Removes the temporary files that no living writer holds.
    fn sweep(&self, folder: &Path) {
        let Ok(names) = self.files.entries(folder) else { return };
        for name in names.iter().filter(|name| name.to_string_lossy().starts_with(TEMPORARY)) {
            let path = folder.join(name);
            if let Ok(file) = self.files.open_to_write(&path)
                && self.files.try_lock(&file)
            {
                let _ = self.files.remove(&path);
            }
        }
    }

    /// What is not after a name is not looked at: a catalog may be long.
    fn walk(&self, folder: &str, after: &str, found: &mut Vec<ObjectInfo>) -> io::Result<()> {
        let path = self.root.join(folder);
        let names = match self.files.entries(&path) {
            Err(error) if is_absent(&error) => return Ok(()),
            names => names?,
        };
        for part in names {
            let what = path.join(&part);
            let Ok(part) = part.into_string() else { continue };
            if part.starts_with(TEMPORARY) {
                continue;
            }
            let name = if folder.is_empty() { part } else { format!("{folder}/{part}") };
            if name.as_str() <= after && format!("{name}/{}", char::MAX).as_str() <= after {
                continue;
            }
            match self.files.look(&what) {
                Ok(Entry::Folder) => self.walk(&name, after, found)?,
                Ok(Entry::File(bytes)) if name.as_str() > after => found.push(ObjectInfo { name, bytes }),
                Err(error) if !is_absent(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Bytes> {
        let (file, size) = self.files.open(path)?;
        if range.start > range.end || range.end > size {
            let what = format!("bytes {} to {} were asked for, it has {size}", range.start, range.end);
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "the range does not fit in memory"))?;
        let mut bytes = vec![0; length];
        self.files.read_at(&file, range.start, &mut bytes)?;
        Ok(bytes.into())
    }

    fn failed(&self, operation: &str, name: &str, error: &io::Error) -> StoreError {
        if is_absent(error) && operation == "read" {
            return StoreError::NotFound { name: name.to_string(), location: self.location.clone() };
        }
        let path = self.root.join(name);
        let advice = advice(error);
        let message = format!("cannot {operation} {}: {error}{advice}", path.display());
        // What a person must mend, and what must first be made under a name that cannot be had.
        match operation == "write" && (!advice.is_empty() || is_absent(error)) {
            true => StoreError::Closed(message),
            false => StoreError::Failed(message),
        }
    }
}

/// What a person can do about an error.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free space on that disk or raise its quota, then start again: nothing that was committed is lost"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; the store must be readable, and for `run` also writable, for this user"
        }
        ErrorKind::Unsupported | ErrorKind::CrossesDevices => {
            "; a store needs a file system with hard links, on one device"
        }
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "; something else stands in the store's folder under that name"
        }
        _ => "",
    }
}

/// A store may stand in a folder that this user cannot sync. Whoever gave it to this user has then to answer for
/// its being there.
fn if_closed_to_us(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::InvalidInput
        | ErrorKind::Unsupported => Ok(()),
        _ => Err(error),
    }
}

/// Not there, whether the name is free or a folder on the way to it is missing.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The absolute form of a path of which only the beginning need exist, with links resolved in that.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for there in path.ancestors() {
        let mut whole = match there.canonicalize() {
            Ok(whole) => whole,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        for component in path.strip_prefix(there).unwrap_or(Path::new("")).components() {
            match component {
                Component::ParentDir => drop(whole.pop()),
                Component::Normal(part) => whole.push(part),
                _ => {}
            }
        }
        return Ok(whole);
    }
    Ok(path)
}

/// Lets those who want the same folder synced share one sync. A caller is served by a sync that
/// *began* after it asked; one that was already running may have missed its name.
#[derive(Debug, Default)]
struct FolderSync {
    state: Mutex<SyncState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    began: u64,
    ended: u64,
    running: bool,
    /// The last sync that failed. The kernel may report a failure only once, so all who shared it,
    /// or asked before it, must see it.
    failed: Option<(u64, ErrorKind, String)>,
}

impl FolderSync {
    fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.state);
        let wanted = state.began + 1;
        while state.running && state.ended < wanted {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended < wanted {
            state.began += 1;
            state.running = true;
            let number = state.began;
            drop(state);
            let done = sync();
            state = lock(&self.state);
            state.running = false;
            state.ended = number;
            if let Err(error) = done {
                state.failed = Some((number, error.kind(), error.to_string()));
            }
            self.ended.notify_all();
        }
        match &state.failed {
            Some((number, kind, what)) if *number >= wanted => Err(io::Error::new(*kind, what.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use std::fs;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn store(folder: &Path) -> LocalStore {
        LocalStore::open(folder).unwrap()
    }

    #[tokio::test]
    async fn a_folder_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b/ü %20/store");
        let store = store(&path);
        assert_eq!(store.location(), format!("file://{}", path.display()));
        assert!(!path.exists(), "opening writes nothing");
        conformance::check(Arc::new(store)).await.unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn a_location_is_absolute_and_has_no_links_dots_or_trailing_slash() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        let expected = format!("file://{}/store", real.display());
        for path in ["link/store", "link/./store/", "link/none/../store"] {
            assert_eq!(store(&real.join(path)).location(), expected);
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(
            store(Path::new("some/where")).location(),
            format!("file://{}/some/where", here.display())
        );
        let error = LocalStore::open(&real.join("a#b")).unwrap_err().to_string();
        assert!(error.contains("choose another folder"), "{error}");
    }

    #[tokio::test]
    async fn leftovers_are_never_listed_and_only_dead_ones_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join(".tmp-1-0");
        fs::write(&dead, "half").unwrap();
        let store = store(folder.path());
        let (living, _open) = store.0.temporary(folder.path()).unwrap();
        assert_eq!(store.list("").await.unwrap(), []);
        store.put("a", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(store.list("").await.unwrap(), [ObjectInfo { name: "a".into(), bytes: 1 }]);
        assert!(!dead.exists() && living.exists());
    }

    #[tokio::test]
    async fn a_store_that_is_removed_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("store"));
        store.put("a/b", Bytes::from_static(b"1")).await.unwrap();
        fs::remove_dir_all(folder.path().join("store")).unwrap();
        assert_eq!(store.create("a/b", Bytes::from_static(b"2")).await.unwrap(), Created::New);
        assert_eq!(store.get("a/b").await.unwrap(), "2");
    }

    #[tokio::test]
    async fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let store = store(&folder.path().join("file"));
        let error = store.put("a", Bytes::new()).await.unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("/file/a"), "{error}");
    }

    #[test]
    fn a_sync_that_had_begun_does_not_serve_a_later_caller() {
        let sync = Arc::new(FolderSync::default());
        let runs = Arc::new(AtomicU64::new(0));
        let inside = Arc::new(std::sync::Barrier::new(2));
        let first = std::thread::spawn({
            let (sync, runs, inside) = (sync.clone(), runs.clone(), inside.clone());
            move || {
                sync.run(|| {
                    inside.wait();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            }
        });
        inside.wait();
        sync.run(|| {
            assert_eq!(runs.fetch_add(1, Ordering::SeqCst), 1, "the second begins after the first");
            Ok(())
        })
        .unwrap();
        first.join().unwrap().unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert!(sync.run(|| Err(io::Error::other("disk"))).is_err());
        sync.run(|| Ok(())).unwrap();
    }
}
