//! The flywheel over real logs, where a folder of them lies beside the repository, against the oracle.
//!
//! In a debug build a part of each file, in a release build the whole.

mod support;

use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use support::held::Held;
use support::mill::{Mill, succeeded};
use tidemill_oracle::files::stream_of;

/// Lines of each file that a debug build takes.
const DEBUG_LINES: usize = 1500;

fn data() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    folder.is_dir().then_some(folder)
}

/// The first lines of a compressed log.
fn first_lines(path: &Path, count: usize) -> Vec<Vec<u8>> {
    let file = BufReader::new(File::open(path).expect("a readable file"));
    let lines = BufReader::new(flate2::bufread::MultiGzDecoder::new(file)).split(b'\n');
    lines.take(count).map(|line| line.expect("a sound file")).collect()
}

/// Half of the lines of each log as they are now, the rest as they come.
fn write_part(input: &Path, file: &str, lines: &[Vec<u8>]) {
    let plain = file.strip_suffix(".gz").unwrap_or(file);
    let to = fs::OpenOptions::new().create(true).append(true).open(input.join(plain));
    let mut to = std::io::BufWriter::new(to.expect("a writable file"));
    for line in lines {
        to.write_all(line).and_then(|()| to.write_all(b"\n")).expect("writing");
    }
}

#[test]
fn real_logs_equal_the_oracle_at_every_publication() {
    let Some(data) = data() else {
        eprintln!("SKIPPED: there is no folder shared/data beside the repository");
        return;
    };
    let count = if cfg!(debug_assertions) { DEBUG_LINES } else { usize::MAX };
    let mill = Mill::new(&json!({}));
    let names = fs::read_dir(&data).expect("a readable folder").flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let logs: Vec<_> = names
        .filter(|name| name.ends_with(".gz") && stream_of(name).is_some())
        .map(|name| (first_lines(&data.join(&name), count), name))
        .collect();
    assert!(logs.len() >= 3, "logs of all streams");
    for (lines, name) in &logs {
        write_part(&mill.input(), name, &lines[..lines.len() / 2]);
    }
    mill.drain(2);
    for (lines, name) in &logs {
        write_part(&mill.input(), name, &lines[lines.len() / 2..]);
    }
    mill.drain(2);
    let held = Held::of(&mill);
    held.hold_drained();
    held.hold_log();
    assert!(held.hold_publications() >= 2);
    succeeded(&mill.read(&["verify", "--recompute"]));
}
