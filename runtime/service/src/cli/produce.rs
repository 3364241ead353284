//! `produce`: the records of a folder's files into the Kafka topics of their streams, once.
//!
//! ```text
//!  files by name ──lines, each to the end that its file has now──> pace ──> outlet ──> topics
//!                                                                              │
//!           standard error, once a second: sent, acknowledged, silence <── receipts
//! ```
//!
//! Files are sent one after the other. A record that does not arrive fails the command, which goes on all the
//! same and then names the first. When it is told to stop it sends nothing more, waits for what is under way
//! as long as answers come, and says where it stopped.

use super::Call;
use super::folders::no_file;
use super::outlet::Outlet;
use super::output::{Out, human_bytes};
use super::pace::Pace;
use super::run::start_log;
use super::signals::Signals;
use crate::Error;
use crate::run::stopwatch;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemill_connectors::files::{Found, files_of, read_file_while};
use tidemill_connectors::kafka::Stopwatch;
use tidemill_core::source::{RawValue, StreamSpec};

/// How often progress is shown.
const SHOW_EVERY_US: u64 = 1_000_000;
/// How long nothing is heard before that is told.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// After how long without an answer a stopped command leaves.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so many records without a wait answers are taken.
const SERVE_EVERY: u64 = 256;
/// The longest wait between two looks at signals.
const STEP_US: u64 = 50_000;

/// A record's tag is its file's place and its line in one number.
const LINE_BITS: u32 = 40;

/// What was sent of a file.
#[derive(Clone, Default)]
struct Sent {
    records: u64,
    bytes: u64,
}

/// `produce`
pub fn produce(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let settings = call.resolved()?.settings;
    start_log(&settings.log);
    let input = settings.input_dir.clone();
    let input = input.ok_or_else(|| Error::Usage("no input: give its folder with --input DIR".into()))?;
    no_file(&input, "give the one that the files stand in with --input DIR")?;
    let outlet = Outlet::new(call.app, &settings)?;
    let files = files(&input, &outlet)?;
    let signals = Signals::listen("leaving at once; what was not acknowledged may or may not have arrived")?;
    let stopwatch = stopwatch();
    let pace = call.matches.get_one::<f64>("rate").map(|rate| Pace::new(*rate, stopwatch()));
    let sent = vec![Sent::default(); files.len()];
    let work = Work {
        input,
        outlet,
        files,
        signals,
        stopwatch,
        pace,
        sent,
        stopped_at: None,
        unserved: 0,
        shown: Cell::default(),
    };
    work.run(call.matches.get_one::<i32>("partitions").copied(), out)
}

/// The files that have a topic.
fn files(input: &Path, outlet: &Outlet) -> Result<Vec<Found>, Error> {
    let mut files = files_of(input, outlet.streams().to_vec())?;
    files.retain(|file| outlet.topic(file.stream).is_some());
    if files.is_empty() {
        let begins = |stream: &StreamSpec| stream.file_prefixes.join(", ");
        let begins: Vec<String> = outlet.streams().iter().map(begins).collect();
        return Err(Error::failed(format!(
            "{} has no file to send: names begin with one of {} and end in .jsonl, .jsonl.gz or .jsonl.zst",
            input.display(),
            begins.join(", ")
        )));
    }
    Ok(files)
}

/// The last line of progress.
#[derive(Clone, Copy, Default)]
struct Shown {
    at: u64,
    records: u64,
    bytes: u64,
}

struct Work {
    input: PathBuf,
    outlet: Outlet,
    files: Vec<Found>,
    signals: Signals,
    stopwatch: Stopwatch,
    pace: Option<Pace>,
    sent: Vec<Sent>,
    /// The first line that was not sent because the command was told to stop.
    stopped_at: Option<(usize, u64)>,
    unserved: u64,
    shown: Cell<Shown>,
}

impl Work {
    fn run(mut self, partitions: Option<i32>, out: &mut Out<'_>) -> Result<(), Error> {
        if !self.ensure(partitions)? {
            return Err(Error::failed("told to stop while waiting for Kafka: nothing was sent"));
        }
        let read = (0..self.files.len()).try_for_each(|file| self.file(file));
        let acknowledged = self.finish();
        self.show(true);
        self.summary(out)?;
        out.flush()?;
        self.verdict(acknowledged)?;
        read
    }

    /// Waits for the topics to be there. `false`: it was told to stop meanwhile.
    fn ensure(&self, partitions: Option<i32>) -> Result<bool, Error> {
        let streams: BTreeSet<usize> = self.files.iter().map(|file| file.stream).collect();
        let streams: Vec<usize> = streams.into_iter().collect();
        let began = (self.stopwatch)();
        let mut told = None;
        let ensured = self.outlet.ensure(&streams, partitions, &mut |why| {
            let now = (self.stopwatch)();
            if told.is_none_or(|told| now >= told + SHOW_EVERY_US) {
                told = Some(now);
                let (brokers, seconds) = (&self.outlet.brokers, (now - began) as f64 / 1e6);
                say(&format!("waiting for Kafka at {brokers} for {seconds:.0} s: {why}"));
            }
            !self.signals.told()
        })?;
        for topic in ensured.iter().flatten() {
            let (name, has) = (&topic.topic, topic.partitions);
            match partitions {
                _ if topic.created => say(&format!("made the topic {name} with {has} partitions")),
                Some(wanted) if wanted as usize != has => {
                    say(&format!("the topic {name} is there with {has} partitions, and keeps them"));
                }
                _ => {}
            }
        }
        Ok(ensured.is_some())
    }

    /// Sends a file's lines.
    fn file(&mut self, place: usize) -> Result<(), Error> {
        if self.stopped_at.is_some() {
            return Ok(());
        }
        let path = self.input.join(&self.files[place].name);
        let most = self.outlet.producer.value_bytes_max();
        let read = read_file_while(&path, most, &mut |line, value| {
            let goes_on = self.line(place, line + 1, value);
            if !goes_on {
                self.stopped_at = Some((place, line + 1));
            }
            goes_on
        });
        Ok(read?)
    }

    /// Sends a line when it is its time. `false`: told to stop before.
    fn line(&mut self, place: usize, line: u64, value: RawValue<'_>) -> bool {
        if !self.wait_for_pace() {
            return false;
        }
        let tag = ((place as u64) << LINE_BITS) | line;
        let (stream, bytes) = (self.files[place].stream, size(&value));
        let taken = self.outlet.send(stream, value, tag, &mut || {
            self.show(false);
            !self.signals.told()
        });
        if taken {
            let sent = &mut self.sent[place];
            sent.records += 1;
            sent.bytes += bytes;
        }
        taken
    }

    /// Waits until the next record is due. `false`: told to stop.
    fn wait_for_pace(&mut self) -> bool {
        loop {
            let now = (self.stopwatch)();
            let wait = self.pace.as_ref().map_or(0, |pace| pace.wait(now));
            // Answers cannot be waited for in less than a millisecond.
            if wait < 1000 {
                if let Some(pace) = &mut self.pace {
                    pace.happened(now);
                }
                self.unserved += 1;
                return self.unserved < SERVE_EVERY || self.tick(0);
            }
            if !self.tick(wait.min(STEP_US)) {
                return false;
            }
        }
    }

    /// Takes answers for so long, and shows progress when it is time. `false`: told to stop.
    fn tick(&mut self, wait: u64) -> bool {
        self.outlet.producer.serve(Duration::from_micros(wait));
        self.unserved = 0;
        self.show(false);
        !self.signals.told()
    }

    /// Waits for all answers; `false` if some never came.
    fn finish(&self) -> bool {
        let all = self.outlet.producer.finish(&mut || {
            self.show(false);
            !self.signals.told() || self.outlet.producer.silence().0 < PATIENCE
        });
        if !all {
            self.outlet.producer.give_up();
        }
        all
    }

    fn totals(&self) -> Sent {
        self.sent.iter().fold(Sent::default(), |all, of| Sent {
            records: all.records + of.records,
            bytes: all.bytes + of.bytes,
        })
    }

    /// One line of progress, if it is time or the last.
    fn show(&self, last: bool) {
        let (now, shown) = ((self.stopwatch)(), self.shown.get());
        if now < shown.at + SHOW_EVERY_US && !last {
            return;
        }
        let sent = self.totals();
        let seconds = (now - shown.at).max(1) as f64 / 1e6;
        let rate = (sent.records - shown.records) as f64 / seconds;
        let bytes_rate = ((sent.bytes - shown.bytes) as f64 / seconds) as u64;
        let delivered = self.outlet.producer.delivered();
        let (mut acknowledged, mut failed) = (0, 0);
        delivered.values().for_each(|of| {
            acknowledged += of.records;
            failed += of.failed;
        });
        let failed = if failed > 0 { format!(" failed {failed}") } else { String::new() };
        say(&format!(
            "{:.0}s sent {} ({rate:.0}/s) {} ({}/s) acknowledged {acknowledged}{failed}{}",
            now as f64 / 1e6,
            sent.records,
            human_bytes(sent.bytes),
            human_bytes(bytes_rate),
            self.silence(),
        ));
        self.shown.set(Shown { at: now, records: sent.records, bytes: sent.bytes });
    }

    /// That nothing is heard, and since when.
    fn silence(&self) -> String {
        let (silent, why) = self.outlet.producer.silence();
        if silent < SILENT_AFTER {
            return String::new();
        }
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        format!("; Kafka at {} has not answered for {} s{why}", self.outlet.brokers, silent.as_secs())
    }

    /// A line for each topic.
    fn summary(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let delivered = self.outlet.producer.delivered();
        let streams: BTreeSet<usize> = self.files.iter().map(|file| file.stream).collect();
        for (stream, topic) in
            streams.into_iter().filter_map(|stream| Some((stream, self.outlet.topic(stream)?)))
        {
            let own = self.files.iter().zip(&self.sent).filter(|(file, _)| file.stream == stream);
            let (mut files, mut records, mut bytes) = (0, 0, 0);
            own.filter(|(_, sent)| sent.records > 0).for_each(|(_, sent)| {
                files += 1;
                records += sent.records;
                bytes += sent.bytes;
            });
            let of = delivered.get(topic).copied().unwrap_or_default();
            let failed = if of.failed > 0 { format!(", {} failed", of.failed) } else { String::new() };
            let (bytes, s) = (human_bytes(bytes), if files == 1 { "" } else { "s" });
            out.line(&format!(
                "{topic}: {records} records, {bytes}, of {files} file{s}; {} acknowledged{failed}",
                of.records
            ))?;
        }
        if let Some((file, line)) = self.stopped_at {
            out.line(&format!(
                "told to stop: {} was not sent, nor anything after it",
                self.place(file, line)
            ))?;
        }
        Ok(())
    }

    fn place(&self, file: usize, line: u64) -> String {
        format!("{}:{line}", self.input.join(&self.files[file].name).display())
    }

    /// Whether all that was sent arrived.
    fn verdict(&self, acknowledged: bool) -> Result<(), Error> {
        let failed: u64 = self.outlet.producer.delivered().values().map(|of| of.failed).sum();
        if let Some(first) = self.outlet.producer.first_failure() {
            let line = first.tag & ((1 << LINE_BITS) - 1);
            let place = self.place((first.tag >> LINE_BITS) as usize, line);
            let (topic, reason) = (first.topic, first.reason);
            return Err(Error::failed(format!(
                "{failed} records did not arrive; the first is {place} (topic {topic}): {reason}"
            )));
        }
        if !acknowledged {
            let unknown = self.outlet.producer.awaited();
            return Err(Error::failed(format!(
                "{unknown} records were not acknowledged by Kafka at {}{}; some of them may have arrived",
                self.outlet.brokers,
                self.silence()
            )));
        }
        Ok(())
    }
}

fn size(value: &RawValue<'_>) -> u64 {
    match value {
        RawValue::Bytes(bytes) => bytes.len() as u64,
        RawValue::Null => 0,
        RawValue::TooLarge { bytes, .. } => *bytes,
    }
}

/// Says a line on standard error; nobody is left to tell when that is closed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
