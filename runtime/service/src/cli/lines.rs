//! The lines of one file, plain or compressed, with the memory of one line bounded.

use crate::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Bytes of a line that is over the limit that are kept.
const HEAD_BYTES: usize = 4096;

/// A file's lines.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    compressed: bool,
    keep: u64,
    number: u64,
    line: Vec<u8>,
}

/// One line.
pub struct Record<'a> {
    /// From 1.
    pub number: u64,
    /// Its bytes without the line end; of one over the limit only the first.
    pub bytes: &'a [u8],
    /// Its size.
    pub size: u64,
    /// Whether a line end follows.
    pub ended: bool,
}

impl Lines {
    /// Opens a file; `.gz` and `.zst` by its name. Lines over `keep` bytes are not kept whole.
    pub fn open(path: &Path, keep: u64) -> Result<Self, Error> {
        let failed = |e: io::Error| Error::failed(format!("cannot read {}: {e}", path.display()));
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(Error::failed(format!("{} is a folder; give one file", path.display())));
        }
        let file = BufReader::with_capacity(1 << 18, file);
        let (reader, compressed): (Box<dyn BufRead>, bool) = match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => (
                Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(file))),
                true,
            ),
            Some("zst") => {
                let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?;
                (Box::new(BufReader::with_capacity(1 << 18, decoder)), true)
            }
            _ => (Box::new(file), false),
        };
        Ok(Self { path: path.into(), reader, compressed, keep, number: 0, line: Vec::new() })
    }

    /// Whether the last line may lack its end and is a record all the same.
    pub fn compressed(&self) -> bool {
        self.compressed
    }

    /// The next line.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Error> {
        self.line.clear();
        let mut size = 0;
        loop {
            let failed = |e: io::Error| {
                let place = format!("{}: line {}", self.path.display(), self.number + 1);
                Error::failed(format!(
                    "{place} cannot be read: {e}; the file is damaged or still being written"
                ))
            };
            let chunk = self.reader.fill_buf().map_err(failed)?;
            if chunk.is_empty() && size == 0 {
                return Ok(None);
            }
            let end = memchr::memchr(b'\n', chunk);
            let (taken, ended) = (end.unwrap_or(chunk.len()), end.is_some() || chunk.is_empty());
            size += taken as u64;
            match size <= self.keep {
                true => self.line.extend_from_slice(&chunk[..taken]),
                false => {
                    let room = HEAD_BYTES.saturating_sub(self.line.len());
                    self.line.extend_from_slice(&chunk[..taken.min(room)]);
                    self.line.truncate(HEAD_BYTES);
                }
            }
            let last = chunk.is_empty();
            self.reader.consume(taken + usize::from(end.is_some()));
            if ended {
                self.number += 1;
                return Ok(Some(Record { number: self.number, bytes: &self.line, size, ended: !last }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(name: &str, bytes: &[u8], keep: u64) -> Vec<(Vec<u8>, u64, bool)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut lines = Lines::open(&path, keep).unwrap();
        let mut out = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            out.push((line.bytes.to_vec(), line.size, line.ended));
        }
        out
    }

    #[test]
    fn lines_come_whole_with_empty_ones_and_an_open_end() {
        let got = read("a.jsonl", b"one\n\nthree\r\nfour", 100);
        let want = [("one", true), ("", true), ("three\r", true), ("four", false)];
        let want: Vec<_> = want.map(|(s, ended)| (s.as_bytes().to_vec(), s.len() as u64, ended)).into();
        assert_eq!(got, want);
        assert!(read("a.jsonl", b"", 100).is_empty());
    }

    #[test]
    fn a_huge_line_is_measured_and_only_its_head_is_kept() {
        let huge = [vec![b'x'; 1_000_000], b"\nend\n".to_vec()].concat();
        let got = read("a.jsonl", &huge, 10_000);
        assert_eq!((got[0].0.len(), got[0].1), (HEAD_BYTES, 1_000_000));
        assert_eq!(got[1].0, b"end");
    }

    #[test]
    fn compressed_files_are_read_by_their_names() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"a\nb").unwrap();
        assert_eq!(read("x.jsonl.gz", &gz.finish().unwrap(), 100).len(), 2);
        assert_eq!(read("x.jsonl.zst", &zstd::encode_all(&b"a\nb"[..], 1).unwrap(), 100).len(), 2);
    }
}
