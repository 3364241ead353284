//! The demo's traffic: what the agents of some companies do, as files that grow while they are read.
//!
//! ```text
//!  texts (what people ask, what agents answer) ──> talk (a task, and one try at it)
//!                                                     │
//!  seed ──> traffic: who does what when, an endless sequence of timed records ──> this file: paced
//!             └ records: their JSON; broken: the same, spoilt                      into `.jsonl` files
//! ```
//!
//! The sequence depends on the seed alone, times included: the clock decides only how soon a record is
//! written, never what it says. So one seed and one length make the same files on every machine.

mod broken;
mod judges;
mod records;
mod talk;
mod texts;
mod traffic;

#[cfg(test)]
mod tests;

use crate::Error;
use crate::cli::{Demo, DemoOptions};
use crate::run::stopwatch;
use records::{FILES, File, Record};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use traffic::Traffic;

/// How often files grow.
const TICK: Duration = Duration::from_millis(20);

/// Writes the traffic at the pace of its own times.
pub struct DemoTraffic;

impl Demo for DemoTraffic {
    fn write(&self, options: DemoOptions<'_>, stop: &AtomicBool) -> Result<(), Error> {
        let mut files = Files::new(options.folder);
        let lasts = options.lasts.as_micros() as u64;
        let mut traffic = Traffic::new(options.seed).take_while(|record| record.at <= lasts).peekable();
        let elapsed = stopwatch();
        while traffic.peek().is_some() && !stop.load(Ordering::Acquire) {
            let now = elapsed();
            while let Some(record) = traffic.next_if(|record| record.at <= now) {
                files.take(&record);
            }
            files.grow()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }
}

/// The folder's files: open from their first record on, each with the lines that it grows by next.
struct Files<'a> {
    folder: &'a Path,
    open: [Option<std::fs::File>; FILES.len()],
    lines: [String; FILES.len()],
}

impl<'a> Files<'a> {
    fn new(folder: &'a Path) -> Self {
        Self { folder, open: Default::default(), lines: Default::default() }
    }

    fn take(&mut self, record: &Record) {
        let lines = &mut self.lines[record.file as usize];
        lines.push_str(&record.line);
        lines.push('\n');
    }

    fn grow(&mut self) -> Result<(), Error> {
        for (place, file) in FILES.into_iter().enumerate() {
            let lines = std::mem::take(&mut self.lines[place]);
            if !lines.is_empty() {
                let written = self.append(file, lines.as_bytes());
                let path = self.folder.join(file.name());
                written.map_err(|error| {
                    Error::failed(format!(
                        "the demo cannot write {}: {error}; name another folder with --dir",
                        path.display()
                    ))
                })?;
            }
        }
        Ok(())
    }

    fn append(&mut self, file: File, bytes: &[u8]) -> std::io::Result<()> {
        let open = &mut self.open[file as usize];
        if open.is_none() {
            let path = self.folder.join(file.name());
            *open = Some(std::fs::OpenOptions::new().create(true).append(true).open(path)?);
        }
        open.as_mut().map_or(Ok(()), |open| open.write_all(bytes))
    }
}
