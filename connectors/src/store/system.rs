//! The system calls that the local store makes, and this machine's.
//!
//! [`super::Disk`] says in which order they come, and why that loses nothing; here stands only what each of
//! them does. So a simulated file system can stand in for the machine, lose what no sync has made sure, and
//! drive the very code that production runs.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};
use uuid::Uuid;

/// What stands under a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file of so many bytes.
    File(u64),
    /// Anything else.
    Other,
}

/// A file system. Each method is a system call or a few; an error may come with the work done, or not.
///
/// What a power cut leaves of a file is sure after [`FileSystem::sync`], and of a folder's entries after
/// [`FileSystem::sync_folder`]. What a process has done outlives the process in any case.
pub trait FileSystem: fmt::Debug + Send + Sync + 'static {
    /// An open file. To drop it closes it, which gives its lock back.
    type File: Send;

    /// A name that nobody else gives a file, now or later, on this machine or another that has these files.
    fn unique(&self) -> String;
    /// Makes a folder in one that is there.
    ///
    /// # Errors
    ///
    /// When the name is taken, or as the system says.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes a file and opens it to write.
    ///
    /// # Errors
    ///
    /// When the name is taken, or as the system says.
    fn make_file(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file to write.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn open_to_write(&self, path: &Path) -> io::Result<Self::File>;
    /// Locks an open file, if nobody else has.
    fn try_lock(&self, file: &Self::File) -> bool;
    /// Writes all of it, after what is written already.
    ///
    /// # Errors
    ///
    /// As the system says; a part may be written.
    fn write(&self, file: &mut Self::File, body: &[u8]) -> io::Result<()>;
    /// Makes a file's content sure.
    ///
    /// # Errors
    ///
    /// As the system says. It says so once: another try may succeed and be worth nothing.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Makes a folder's entries sure.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    ///
    /// # Errors
    ///
    /// When the name is taken, or as the system says.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, in place of what has that name.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file's name away.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// What stands under a path.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn look(&self, path: &Path) -> io::Result<Entry>;
    /// The names in a folder.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn entries(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// A file's content.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Opens a file to read; says how long it is.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn open(&self, path: &Path) -> io::Result<(Self::File, u64)>;
    /// Fills a buffer with what stands in an open file from a position on.
    ///
    /// # Errors
    ///
    /// When the file ends before, or as the system says.
    fn read_at(&self, file: &Self::File, from: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// This machine's file system.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl FileSystem for Machine {
    type File = File;

    #[expect(clippy::disallowed_methods, reason = "this is the edge; a simulated file system has its own")]
    fn unique(&self) -> String {
        Uuid::new_v4().simple().to_string()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn make_file(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    fn try_lock(&self, file: &File) -> bool {
        file.try_lock().is_ok()
    }

    fn write(&self, file: &mut File, body: &[u8]) -> io::Result<()> {
        file.write_all(body)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn look(&self, path: &Path) -> io::Result<Entry> {
        let what = fs::metadata(path)?;
        Ok(match (what.is_dir(), what.is_file()) {
            (true, _) => Entry::Folder,
            (_, true) => Entry::File(what.len()),
            _ => Entry::Other,
        })
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn open(&self, path: &Path) -> io::Result<(File, u64)> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    }

    fn read_at(&self, file: &File, from: u64, buffer: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(buffer, from)
    }
}
