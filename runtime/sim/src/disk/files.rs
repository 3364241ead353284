//! A simulated file system: what all processes see, and what of it a power cut leaves.
//!
//! ```text
//!  system call ──> contents and names, seen by all, whatever becomes of the caller
//!                     │ sync of a file: its content is sure      │ sync of a folder: its entries are sure
//!  power cut ─────────┴──────────────────────────────────────────┴──> what is sure, and of the rest anything
//! ```
//!
//! It promises what POSIX does and no more. Of a file that was not synced a power cut leaves nothing, a
//! beginning, the right length with zeroes or garbage for some blocks, or all. Of each entry of a folder it
//! leaves one of the states that the entry has had since the folder was synced, whatever it leaves of the
//! others: so a rename may come back with both names or with neither, but a name that it replaced leads to
//! the old file or to the new one. A call may fail and have done its work, or not, or a part of it; a sync of
//! a file that failed has lost the file's content for good, though another one says that all is well.

use crate::schedule::{Process, Schedule, wait};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill_connectors::store::system::{Entry, FileSystem};

/// What a device writes whole or not at all.
const BLOCK: usize = 16;
/// The longest time that a system call takes, in microseconds.
const TAKES_US: u64 = 100;
/// How many of a thousand take so many times as long.
const SLOW: (u32, u64) = (40, 20);
/// An input or output error.
const EIO: i32 = 5;
/// No space is left.
const ENOSPC: i32 = 28;

/// The number of a file or folder; never used again.
type Number = u64;
const TOP: Number = 0;

/// A file's content.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// It is on the device.
    sure: bool,
    /// A sync has failed: it will never be.
    lost: bool,
}

/// An entry of a folder.
#[derive(Default)]
struct Name {
    now: Option<Number>,
    /// What it has been since the folder was synced.
    before: Vec<Option<Number>>,
}

type Names = BTreeMap<String, Name>;

enum Node {
    File(Content),
    Folder(Names),
}

/// What power cuts did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// Files of which they did not leave all.
    pub torn: usize,
    /// Entries that they set back.
    pub undone: usize,
}

struct Kernel {
    nodes: BTreeMap<Number, Node>,
    numbered: u64,
    /// Who locks which file.
    locks: BTreeMap<Number, u64>,
    damage: Damage,
}

fn absent() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Kernel {
    fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    fn find(&self, path: &Path) -> io::Result<Number> {
        let mut at = TOP;
        for part in path.iter().skip(1) {
            let name = self.names(at)?.get(&*part.to_string_lossy());
            at = name.and_then(|name| name.now).ok_or_else(absent)?;
        }
        Ok(at)
    }

    fn names(&self, folder: Number) -> io::Result<&Names> {
        match self.nodes.get(&folder) {
            Some(Node::Folder(names)) => Ok(names),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn content(&mut self, file: Number) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&file) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn bytes(&self, file: Number) -> io::Result<&[u8]> {
        match self.nodes.get(&file) {
            Some(Node::File(content)) => Ok(&content.bytes),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    /// Has a path lead somewhere else, or nowhere.
    fn set(&mut self, path: &Path, to: Option<Number>) -> io::Result<()> {
        let folder = self.find(path.parent().unwrap_or(Path::new("/")))?;
        let part = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(Node::Folder(names)) = self.nodes.get_mut(&folder) else {
            return Err(ErrorKind::NotADirectory.into());
        };
        let name = names.entry(part).or_default();
        name.before.push(name.now);
        name.now = to;
        Ok(())
    }

    /// Makes something under a name that is free.
    fn make(&mut self, path: &Path, node: Node) -> io::Result<Number> {
        self.must_be_free(path)?;
        let number = self.number();
        self.set(path, Some(number))?;
        self.nodes.insert(number, node);
        Ok(number)
    }

    fn must_be_free(&self, path: &Path) -> io::Result<()> {
        match self.find(path) {
            Ok(_) => Err(ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.find(path)?;
        let Some(Node::Folder(names)) = self.nodes.get_mut(&folder) else {
            return Err(ErrorKind::NotADirectory.into());
        };
        names.retain(|_, name| name.now.is_some());
        names.values_mut().for_each(|name| name.before.clear());
        Ok(())
    }

    /// Leaves what is sure, and of the rest what the seed says.
    fn power_cut(&mut self, schedule: &Schedule) {
        self.locks.clear();
        for node in self.nodes.values_mut() {
            match node {
                Node::File(content) if !content.sure => {
                    let whole = content.bytes.clone();
                    tear(&mut content.bytes, schedule);
                    self.damage.torn += usize::from(content.bytes != whole);
                    *content = Content { bytes: std::mem::take(&mut content.bytes), sure: true, lost: false };
                }
                Node::File(_) => {}
                Node::Folder(names) => {
                    for name in names.values_mut() {
                        let back = schedule.pick(0..name.before.len() as u64 + 1) as usize;
                        let left = name.before.get(back).copied().unwrap_or(name.now);
                        self.damage.undone += usize::from(left != name.now);
                        *name = Name { now: left, before: Vec::new() };
                    }
                    names.retain(|_, name| name.now.is_some());
                }
            }
        }
    }
}

/// What a power cut leaves of a content that was not synced.
fn tear(bytes: &mut Vec<u8>, schedule: &Schedule) {
    match schedule.pick(0..5) {
        0 => {}
        1 => bytes.clear(),
        2 => bytes.truncate(schedule.pick(0..bytes.len() as u64 + 1) as usize),
        how => {
            for block in bytes.chunks_mut(BLOCK) {
                if schedule.pick(0..2) == 0 {
                    block.fill_with(|| if how == 3 { 0 } else { schedule.pick(0..256) as u8 });
                }
            }
        }
    }
}

/// One machine's disk, for all its processes.
#[derive(Clone)]
pub struct Machine {
    schedule: Schedule,
    kernel: Arc<Mutex<Kernel>>,
}

impl Machine {
    /// A machine with one folder, which is sure to be there.
    pub fn new(schedule: Schedule, folder: &Path) -> Self {
        let nodes = BTreeMap::from([(TOP, Node::Folder(Names::new()))]);
        let mut kernel = Kernel { nodes, numbered: TOP, locks: BTreeMap::new(), damage: Damage::default() };
        let made =
            kernel.make(folder, Node::Folder(Names::new())).and_then(|_| kernel.sync_folder(Path::new("/")));
        made.expect("an empty disk takes a folder");
        Self { schedule, kernel: Arc::new(Mutex::new(kernel)) }
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power; all processes must have been killed.
    pub fn power_cut(&self) {
        self.kernel().power_cut(&self.schedule);
    }

    /// What power cuts did so far.
    pub fn damage(&self) -> Damage {
        self.kernel().damage
    }

    /// Names in a folder, as they are.
    pub fn names(&self, folder: &Path) -> Vec<String> {
        let kernel = self.kernel();
        let names = kernel.find(folder).and_then(|folder| kernel.names(folder));
        let there = |(part, name): (&String, &Name)| name.now.map(|_| part.clone());
        names.map(|names| names.iter().filter_map(there).collect()).unwrap_or_default()
    }

    /// The file system as one process has it. `fails`: how many of a thousand calls; `alone`: the process
    /// has one thread.
    pub fn files(&self, process: Process, fails: u32, alone: bool) -> SimFiles {
        SimFiles { machine: self.clone(), process, fails, alone }
    }
}

/// A process's file system.
pub struct SimFiles {
    machine: Machine,
    process: Process,
    fails: u32,
    alone: bool,
}

impl std::fmt::Debug for SimFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimFiles").field("process", &self.process).finish_non_exhaustive()
    }
}

/// An open file.
#[derive(Clone)]
pub struct SimFile(Arc<Open>);

struct Open {
    kernel: Arc<Mutex<Kernel>>,
    file: Number,
    /// Whose lock it is.
    opened: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        if kernel.locks.get(&self.file) == Some(&self.opened) {
            kernel.locks.remove(&self.file);
        }
    }
}

impl SimFiles {
    /// One system call. When it is done, others may go on first, and it may be this process's last.
    fn call<T>(
        &self,
        what: impl std::fmt::Display,
        work: impl FnOnce(&mut Kernel) -> io::Result<T>,
    ) -> io::Result<T> {
        let done = self.at_once(what, work);
        self.turn();
        done
    }

    fn turn(&self) {
        let schedule = &self.machine.schedule;
        let times = if schedule.happens(SLOW.0) { SLOW.1 } else { 1 };
        wait(pin!(schedule.sleep(schedule.pick(1..TAKES_US) * times)));
    }

    fn at_once<T>(
        &self,
        what: impl std::fmt::Display,
        work: impl FnOnce(&mut Kernel) -> io::Result<T>,
    ) -> io::Result<T> {
        let schedule = &self.machine.schedule;
        let fault = schedule.happens(self.fails).then(|| {
            let kind = if schedule.pick(0..2) == 0 { EIO } else { ENOSPC };
            (schedule.pick(0..2) == 0, io::Error::from_raw_os_error(kind))
        });
        let worked = match &fault {
            Some((false, _)) => None,
            _ => Some(work(&mut self.machine.kernel())),
        };
        let done = match (worked, fault) {
            (Some(done), None) => done,
            (_, Some((_, fault))) => Err(fault),
            (None, None) => Err(absent()),
        };
        schedule.tell(|| match &done {
            Ok(_) => format!("p{} {what}", self.process),
            Err(error) => format!("p{} {what}: {error}", self.process),
        });
        done
    }

    fn opened(&self, kernel: &mut Kernel, file: Number) -> SimFile {
        SimFile(Arc::new(Open { kernel: self.machine.kernel.clone(), file, opened: kernel.number() }))
    }

    /// Opens a file and empties it, or makes it: what the store must not do.
    pub fn make_or_empty(&self, path: &Path) -> io::Result<SimFile> {
        let file = self.call(format!("makes or empties {}", path.display()), |kernel| {
            let Ok(file) = kernel.find(path) else {
                return kernel.make(path, Node::File(Content::default()));
            };
            *kernel.content(file)? = Content::default();
            Ok(file)
        })?;
        let mut kernel = self.machine.kernel();
        Ok(self.opened(&mut kernel, file))
    }
}

impl FileSystem for SimFiles {
    type File = SimFile;

    fn unique(&self) -> String {
        self.machine.kernel().number().to_string()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let made = |kernel: &mut Kernel| kernel.make(path, Node::Folder(Names::new()));
        self.call(format!("makes the folder {}", path.display()), made).map(drop)
    }

    fn make_file(&self, path: &Path) -> io::Result<SimFile> {
        self.call(format!("makes {}", path.display()), |kernel| {
            let file = kernel.make(path, Node::File(Content::default()))?;
            Ok(self.opened(kernel, file))
        })
    }

    fn open_to_write(&self, path: &Path) -> io::Result<SimFile> {
        self.call(format!("opens {}", path.display()), |kernel| {
            let file = kernel.find(path)?;
            kernel.content(file)?;
            Ok(self.opened(kernel, file))
        })
    }

    fn try_lock(&self, file: &SimFile) -> bool {
        let locked = self.call(format!("locks {}", file.0.file), |kernel| {
            let holder = *kernel.locks.entry(file.0.file).or_insert(file.0.opened);
            if holder == file.0.opened { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
        });
        locked.is_ok()
    }

    fn write(&self, file: &mut SimFile, body: &[u8]) -> io::Result<()> {
        let pieces = self.machine.schedule.pick(1..4) as usize;
        for piece in body.chunks(body.len().div_ceil(pieces).max(1)) {
            self.call(format!("writes {} bytes to {}", piece.len(), file.0.file), |kernel| {
                let content = kernel.content(file.0.file)?;
                content.bytes.extend_from_slice(piece);
                content.sure = false;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        let synced = self.call(format!("syncs {}", file.0.file), |kernel| {
            let content = kernel.content(file.0.file)?;
            content.sure = !content.lost;
            Ok(())
        });
        if synced.is_err() {
            let mut kernel = self.machine.kernel();
            let content = kernel.content(file.0.file)?;
            (content.sure, content.lost) = (false, true);
        }
        synced
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let synced = self.at_once(format!("syncs {}", path.display()), |kernel| kernel.sync_folder(path));
        // Another thread of this process may wait for this very sync, and does so where no turn can be taken.
        if self.alone {
            self.turn();
        }
        synced
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(format!("links {} to {}", from.display(), to.display()), |kernel| {
            let file = kernel.find(from)?;
            kernel.must_be_free(to)?;
            kernel.set(to, Some(file))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(format!("renames {} to {}", from.display(), to.display()), |kernel| {
            let file = kernel.find(from)?;
            if kernel.find(to).is_ok_and(|there| there == file) {
                // Two names of one file stay as they are.
                return Ok(());
            }
            kernel.set(to, Some(file))?;
            kernel.set(from, None)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(format!("removes {}", path.display()), |kernel| {
            let file = kernel.find(path)?;
            kernel.content(file)?;
            kernel.set(path, None)
        })
    }

    fn look(&self, path: &Path) -> io::Result<Entry> {
        self.call(format!("looks at {}", path.display()), |kernel| {
            let there = kernel.find(path)?;
            match kernel.bytes(there) {
                Ok(bytes) => Ok(Entry::File(bytes.len() as u64)),
                Err(_) => Ok(Entry::Folder),
            }
        })
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.call(format!("lists {}", path.display()), |kernel| {
            let names = kernel.names(kernel.find(path)?)?;
            Ok(names.iter().filter(|(_, name)| name.now.is_some()).map(|(part, _)| part.into()).collect())
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.call(format!("reads {}", path.display()), |kernel| {
            kernel.bytes(kernel.find(path)?).map(<[u8]>::to_vec)
        })
    }

    fn open(&self, path: &Path) -> io::Result<(SimFile, u64)> {
        self.call(format!("opens {}", path.display()), |kernel| {
            let file = kernel.find(path)?;
            let bytes = kernel.bytes(file)?.len() as u64;
            Ok((self.opened(kernel, file), bytes))
        })
    }

    fn read_at(&self, file: &SimFile, from: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.call(format!("reads {} from {from}", file.0.file), |kernel| {
            let rest = kernel.bytes(file.0.file)?.get(from as usize..).unwrap_or_default();
            let part = rest.get(..buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(part);
            Ok(())
        })
    }
}
