//! How a file is known again: which file it is, and what stood below a byte of it.
//!
//! Files are opened for a turn and closed again, so nothing but these few bytes is held for each. A
//! [`Mark`] is checked before every turn that reads, whatever the file's times and numbers say.

use super::trouble::Trouble;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};
use tidemill_types::Digest;

/// How much of the beginning, and of what stands before the position, is remembered as a digest.
pub(super) const WINDOW: u64 = 4096;

/// Which file it is and whether it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    /// Device and inode: another pair is another file under the same name.
    pub(super) file: (u64, u64),
    /// Its size.
    pub(super) size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn new(what: &Metadata) -> Self {
        Self {
            file: (what.dev(), what.ino()),
            size: what.size(),
            modified: (what.mtime(), what.mtime_nsec()),
        }
    }

    /// Of the file that has this name now.
    pub(super) fn of(path: &Path) -> Result<Self, Trouble> {
        Ok(Self::new(&fs::metadata(path)?))
    }

    /// Opens a file; its identity is that of what was opened.
    pub(super) fn open(path: &Path) -> Result<(File, Self), Trouble> {
        let file = File::open(path)?;
        let identity = Self::new(&file.metadata()?);
        Ok((file, identity))
    }
}

/// A byte position and digests of what stands at the file's beginning and right before the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The position.
    pub(super) bytes: u64,
    /// Of the first `min(bytes, WINDOW)` bytes.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    head: Digest,
    /// Of the last `min(bytes, WINDOW)` bytes before the position.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    tail: Digest,
}

impl Mark {
    /// The position at a file's beginning.
    pub(super) fn start() -> Self {
        Self { bytes: 0, head: Digest::of(b""), tail: Digest::of(b"") }
    }

    /// How many bytes before the position `advance` wants to see.
    pub(super) fn window(&self) -> u64 {
        self.bytes.min(WINDOW)
    }

    /// Moves on. `read` is what stood in the file from `bytes - window()` to the new position.
    pub(super) fn advance(&mut self, read: &[u8]) {
        let before = self.bytes - self.window();
        self.bytes = before + read.len() as u64;
        let window = self.window() as usize;
        if before == 0 {
            self.head = Digest::of(&read[..window]);
        }
        self.tail = Digest::of(&read[read.len() - window..]);
    }

    /// Moves on to a position of which the bytes before were not kept, by reading them again.
    pub(super) fn jump(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        let window = bytes.min(WINDOW);
        if self.bytes < WINDOW {
            self.head = digest_of(file, 0, window)?;
        }
        self.tail = digest_of(file, bytes - window, window)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Whether the file still holds what it held below the position, as far as the digests tell.
    pub(super) fn stands_in(&self, file: &File) -> io::Result<bool> {
        let window = self.window();
        if digest_of(file, self.bytes - window, window)? != self.tail {
            return Ok(false);
        }
        Ok(self.bytes <= WINDOW || digest_of(file, 0, WINDOW)? == self.head)
    }
}

fn digest_of(file: &File, from: u64, bytes: u64) -> io::Result<Digest> {
    let mut buffer = [0; WINDOW as usize];
    let read = read_at(file, &mut buffer[..bytes as usize], from)?;
    Ok(Digest::of(&buffer[..read]))
}

/// Fills as much of `buffer` as the file has from a byte on.
fn read_at(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a byte range into a buffer that is used again and again. Shorter than asked for only when the
/// file has become shorter.
pub(super) fn fill<'a>(file: &File, buffer: &'a mut Vec<u8>, from: u64, bytes: u64) -> io::Result<&'a [u8]> {
    let wanted = bytes as usize;
    if buffer.len() < wanted {
        buffer.resize(wanted, 0);
    }
    let read = read_at(file, &mut buffer[..wanted], from)?;
    Ok(&buffer[..read])
}

/// Writes a digest as hex.
pub(super) fn to_hex<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(digest)
}

/// Reads a digest from hex.
pub(super) fn from_hex<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(from)?;
    u128::from_str_radix(&text, 16).map(Digest).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_mark_is_the_same_however_it_got_there() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..20_000u32).map(|n| (n * 7 / 3) as u8).collect();
        file.write_all(&content).unwrap();
        for steps in [vec![20_000], vec![100, 3996, 1, 4095, 4096, 7712], vec![4096, 4096, 1000]] {
            let mut mark = Mark::start();
            for step in steps {
                let from = (mark.bytes - mark.window()) as usize;
                let to = mark.bytes as usize + step;
                mark.advance(&content[from..to]);
                let mut jumped = Mark::start();
                jumped.jump(&file, to as u64).unwrap();
                assert_eq!(mark, jumped);
                assert!(mark.stands_in(&file).unwrap());
                let json = serde_json::to_value(mark).unwrap();
                assert_eq!(serde_json::from_value::<Mark>(json).unwrap(), mark);
            }
        }
    }

    #[test]
    fn a_change_in_either_window_and_a_cut_are_seen() {
        let content = vec![b'x'; 10_000];
        let mut mark = Mark::start();
        mark.advance(&content[..9_000]);
        let stands = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = content.clone();
            change(&mut changed);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&changed).unwrap();
            mark.stands_in(&file).unwrap()
        };
        assert!(stands(&|_| {}));
        assert!(stands(&|bytes| bytes[9_000] = b'y'));
        assert!(!stands(&|bytes| bytes[8_999] = b'y'));
        assert!(!stands(&|bytes| bytes[0] = b'y'));
        assert!(!stands(&|bytes| bytes.truncate(8_999)));
    }
}
