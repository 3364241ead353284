//! Looking for files: which of a folder's names are partitions, and of which stream.

use super::FilesOptions;
use std::{collections::HashSet, ffi::OsString, fs, io, path::Path};
use tidemill_core::source::StreamSpec;

/// The ends of the names of files that are read.
const SUFFIXES: [&str; 3] = [".jsonl", ".jsonl.gz", ".jsonl.zst"];

/// A file that is a partition.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Found {
    /// Its full name, without folder.
    pub name: String,
    /// The place of its stream.
    pub stream: usize,
    /// Its size now.
    pub bytes: u64,
}

/// Remembers what was seen, so that each name is reported and each ignored file logged once.
#[derive(Debug)]
pub(super) struct Scan {
    known: HashSet<OsString>,
    /// One share of several does the logging.
    logs: bool,
}

impl Scan {
    /// Knows no file yet.
    pub(super) fn new(logs: bool) -> Self {
        Self { known: HashSet::new(), logs }
    }

    /// The files that were not there before, by name.
    pub(super) fn look(&mut self, options: &FilesOptions) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&options.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if self.known.contains(&name) || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match judge(&entry.path(), &options.streams) {
                Ok(Some(file)) => {
                    self.known.insert(name);
                    found.push(file);
                }
                Ok(None) => {}
                Err(why) => {
                    if self.logs {
                        tracing::warn!(file = %entry.path().display(), "ignored: {why}");
                    }
                    self.known.insert(name);
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Whether a path is a partition: `None` when that may change without its name, else why it is not.
fn judge(path: &Path, streams: &[StreamSpec]) -> Result<Option<Found>, &'static str> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err("its name is not UTF-8");
    };
    let stream = stream_of(name, streams).ok_or("its name matches no stream")?;
    match fs::metadata(path) {
        Ok(what) if what.is_file() => Ok(Some(Found { name: name.to_string(), stream, bytes: what.len() })),
        Ok(what) if !what.is_dir() => Err("it is not a regular file"),
        _ => Ok(None),
    }
}

/// The stream that a file's name belongs to: the first one with a prefix that it begins with.
pub fn stream_of(name: &str, streams: &[StreamSpec]) -> Option<usize> {
    if !SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        return None;
    }
    let begins =
        |stream: &StreamSpec| stream.file_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    streams.iter().position(begins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::ffi::OsStringExt, path::PathBuf};

    fn streams() -> Vec<StreamSpec> {
        let stream = |name: &str, prefixes: &[&str]| StreamSpec {
            name: name.into(),
            topic: name.into(),
            file_prefixes: prefixes.iter().map(|prefix| prefix.to_string()).collect(),
            value_bytes_max: 10,
        };
        vec![stream("trajectories", &["trajectories"]), stream("calls", &["calls", "chat_logs"])]
    }

    #[test]
    fn a_name_belongs_to_the_stream_whose_prefix_it_has() {
        for (name, stream) in [
            ("trajectories.jsonl", Some(0)),
            ("trajectories-2.jsonl.gz", Some(0)),
            ("chat_logs_7.jsonl.zst", Some(1)),
            ("calls.json", None),
            ("calls.jsonl.bz2", None),
            ("calls", None),
            ("old-calls.jsonl", None),
            ("calls.jsonl.tmp", None),
        ] {
            assert_eq!(stream_of(name, &streams()), stream, "{name}");
        }
    }

    #[test]
    fn only_new_regular_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let options = FilesOptions::new(folder.path(), streams());
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        fs::write(path("calls-1.jsonl"), "1").unwrap();
        fs::write(path("other.jsonl"), "").unwrap();
        fs::create_dir(path("calls-folder.jsonl")).unwrap();
        fs::write(path("calls-folder.jsonl").join("calls.jsonl"), "").unwrap();
        fs::write(folder.path().join(OsString::from_vec(b"calls-\xff.jsonl".to_vec())), "").unwrap();
        std::os::unix::fs::symlink(path("elsewhere"), path("calls-link.jsonl")).unwrap();
        let mut scan = Scan::new(true);
        let names = |scan: &mut Scan| {
            scan.look(&options).unwrap().into_iter().map(|file| file.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&mut scan), ["calls-1.jsonl"]);
        fs::write(path("elsewhere"), "").unwrap();
        fs::write(path("calls-2.jsonl"), "").unwrap();
        assert_eq!(names(&mut scan), ["calls-2.jsonl", "calls-link.jsonl"]);
        assert_eq!(names(&mut scan), Vec::<String>::new());
    }
}
