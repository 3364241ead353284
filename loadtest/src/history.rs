//! The load `history`: thousands of small commits and hundreds of publications over many rows. Does the last tenth take
//! as long as the first, and what has grown?
//!
//! ```text
//!   light traffic ──> Kafka ──> mill in this process ──> store
//!     first all rows,                │                     └── looked at twenty times: roots, segments, files, bytes
//!     then a few versions a commit   └── durations of all commits and publications
//! ```
//!
//! Two runs over one store: the first takes all rows in, and is not measured. In the second, epochs and publications
//! come at a pace that the machine holds: at one that it does not hold, publications run without a pause and their
//! work is measured in the commits. What is compared are medians of one run, so that the machine's own speed falls
//! out.

use crate::crash::kafka::{Kafka, PATIENCE};
use crate::crash::light::Light;
use crate::drained::{run_here, settings};
use serde_json::{Value, json};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemill::Error;
use tidemill::cli::{Progress, ProgressSink, RunSettings, RunSummary, Until, human_bytes};
use tidemill::config::flag;
use tidemill::run::percentile;

/// What the median of the last tenth may be of that of the first.
const FLAT: f64 = 1.3;
/// How often the store is looked at.
const LOOKS: u64 = 20;
/// How often the disk is measured at a look.
const TRIES: usize = 9;
/// The pause between two changes.
const PAUSE: Duration = Duration::from_millis(10);

/// What to do.
#[derive(Clone, Debug)]
pub struct History {
    /// Live source records.
    pub rows: u64,
    /// Commits of small changes.
    pub commits: u64,
    /// Publications, of which there may be more.
    pub publications: u64,
    /// How long commits are kept.
    pub retention: String,
    /// How long an epoch stays open.
    pub epoch_interval: String,
    /// How often tables are published.
    pub lake_interval: String,
    /// Decides texts and which records change.
    pub seed: u64,
    /// Where to keep the store.
    pub store: Option<PathBuf>,
}

/// What stands in the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Look {
    commits: u64,
    roots: u64,
    segments: u64,
    log_bytes: u64,
    lake_files: u64,
    lake_bytes: u64,
    /// Most files of one table, and which.
    most: (u64, String),
    /// What the disk takes now. A commit waits for that a few times, a publication a hundred times.
    disk: Disk,
}

/// What the disk beside a store takes now: medians of a few times, microseconds; 0 where nothing can be written there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Disk {
    /// To make a file. Where ext4 has no journal, it looks at each inode that was freed in the last minutes.
    create_us: u64,
    /// To make four kilobytes durable.
    sync_us: u64,
}

/// What was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    rows: u64,
    summary: RunSummary,
    looks: Vec<Look>,
}

/// Medians of each tenth of durations, in order, milliseconds.
fn tenths(durations_us: &[u64]) -> [f64; 10] {
    let at = |tenth: usize| durations_us.len() * tenth / 10;
    std::array::from_fn(|tenth| percentile(&durations_us[at(tenth)..at(tenth + 1)], 50) as f64 / 1e3)
}

/// The last by the first, or 1 where nothing was measured.
fn ratio([first, .., last]: [f64; 10]) -> f64 {
    if first > 0.0 { last / first } else { 1.0 }
}

impl Found {
    fn commits(&self) -> [f64; 10] {
        tenths(&self.summary.figures.commit_us)
    }

    fn publications(&self) -> [f64; 10] {
        tenths(&self.summary.figures.publish_us)
    }

    /// What the disk took to make a file in the first looks and in the last, milliseconds.
    fn files_made(&self) -> Option<(f64, f64)> {
        let part = (self.looks.len() / 10).max(1);
        let of = |looks: &[Look]| {
            let us: Vec<u64> = looks.iter().map(|look| look.disk.create_us).collect();
            percentile(&us, 50) as f64 / 1e3
        };
        let last = self.looks.len().checked_sub(part)?;
        Some((of(&self.looks[..part]), of(&self.looks[last..])))
    }

    /// Whether neither commits nor publications have become slower.
    pub fn is_flat(&self) -> bool {
        ratio(self.commits()) <= FLAT && ratio(self.publications()) <= FLAT
    }

    /// The figures as one object; times in milliseconds.
    pub fn json(&self) -> Value {
        let of = |tenths: [f64; 10]| json!({"tenths": tenths, "ratio": ratio(tenths)});
        let look = |look: &Look| {
            json!({"commits": look.commits, "roots": look.roots, "segments": look.segments,
                "log_bytes": look.log_bytes, "lake_files": look.lake_files, "lake_bytes": look.lake_bytes,
                "most_files_of_a_table": look.most.0, "table": look.most.1, "create_us": look.disk.create_us,
                "sync_us": look.disk.sync_us})
        };
        json!({
            "ok": self.is_flat(),
            "rows": self.rows,
            "commits": self.summary.commits,
            "publications": self.summary.publications,
            "wall_s": self.summary.lasted.as_secs_f64(),
            "commit_p50_ms": of(self.commits()),
            "publication_p50_ms": of(self.publications()),
            "store": self.looks.iter().map(look).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (commits, publications) = (self.summary.commits, self.summary.publications);
        let seconds = self.summary.lasted.as_secs_f64();
        writeln!(
            f,
            "{commits} commits and {publications} publications over {} records in {seconds:.0} s",
            self.rows
        )?;
        for (what, tenths) in [("commit", self.commits()), ("publication", self.publications())] {
            let each = tenths.map(|ms| format!("{ms:.1}")).join(" ");
            writeln!(f, "{what}: p50 of each tenth {each} ms, last by first {:.2}", ratio(tenths))?;
        }
        writeln!(
            f,
            "commits  roots  segments  log         lake files  lake        a file    a sync    most files of a table"
        )?;
        for look in &self.looks {
            let (log, lake) = (human_bytes(look.log_bytes), human_bytes(look.lake_bytes));
            let (commits, roots, segments, files) =
                (look.commits, look.roots, look.segments, look.lake_files);
            let (most, table) = (look.most.0, &look.most.1);
            let [create, sync] = [look.disk.create_us, look.disk.sync_us].map(|us| us as f64 / 1e3);
            writeln!(
                f,
                "{commits:>7}  {roots:>5}  {segments:>8}  {log:<10}  {files:>10}  {lake:<10}  {create:>5.2} ms  \
                 {sync:>5.2} ms  {most} of {table}"
            )?;
        }
        if self.is_flat() {
            return write!(f, "flat");
        }
        write!(f, "NOT FLAT")?;
        match self.files_made() {
            Some((first, last)) if last > 2.0 * first => write!(
                f,
                ": in {first:.2} ms the disk made a file at first, and in {last:.2} ms at last; ext4 without a journal is \
                 like that once files are deleted. Measure on a file system with a journal (--store)"
            ),
            _ => Ok(()),
        }
    }
}

/// Counts what stands in a store; what goes while it is counted is passed over.
fn look(store: &Path, commits: u64) -> Look {
    let mut look = Look { commits, ..Look::default() };
    let files = |folder: PathBuf| -> Vec<(PathBuf, u64)> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
    };
    for (folder, count) in [("catalog", &mut look.roots), ("segments", &mut look.segments)] {
        let found = files(store.join(folder));
        *count = found.len() as u64;
        look.log_bytes += found.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    for (table, _) in files(store.join("tables")) {
        let found: Vec<(PathBuf, u64)> =
            ["data", "metadata"].into_iter().flat_map(|part| files(table.join(part))).collect();
        look.lake_files += found.len() as u64;
        look.lake_bytes += found.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let name = table.file_name().map(|name| name.to_string_lossy().to_string()).unwrap_or_default();
        look.most = look.most.max((found.len() as u64, name));
    }
    look
}

/// Measures the disk beside a store.
fn disk(store: &Path) -> Disk {
    let stopwatch = tidemill::run::stopwatch();
    let once = || -> std::io::Result<(u64, u64)> {
        let begun = stopwatch();
        let mut file = tempfile::NamedTempFile::new_in(store.parent().unwrap_or(store))?;
        let made = stopwatch();
        file.write_all(&[7; 4096])?;
        file.as_file().sync_all()?;
        Ok((made.saturating_sub(begun), stopwatch().saturating_sub(made)))
    };
    let (creates, syncs): (Vec<u64>, Vec<u64>) = (0..TRIES).filter_map(|_| once().ok()).unzip();
    Disk { create_us: percentile(&creates, 50), sync_us: percentile(&syncs, 50) }
}

/// A store, and what it is filled from.
struct Bench<'a> {
    history: &'a History,
    kafka: Kafka,
    prefix: String,
    store: PathBuf,
}

impl Bench<'_> {
    fn light(&self, seed: u64) -> Result<Light, Error> {
        Light::to(&self.kafka, &self.prefix, self.history.seed ^ seed)
    }

    fn run(&self, set: &[(&str, &str)], until: Until, progress: ProgressSink) -> Result<RunSummary, Error> {
        let mut flags = vec![("kafka-brokers".to_string(), self.kafka.brokers.clone())];
        flags.extend(set.iter().map(|(key, value)| (flag(key), value.to_string())));
        flags.push((flag("store.retention"), self.history.retention.clone()));
        for stream in tidemill_oracle::kafka::STREAMS {
            flags.push((flag(&format!("kafka.topics.{stream}")), format!("{}{stream}", self.prefix)));
        }
        run_here(RunSettings { until, progress, ..settings(flags, &self.store)? })
    }

    fn fill(&self) -> Result<(), Error> {
        let mut light = self.light(0)?;
        (0..self.history.rows).try_for_each(|number| light.send(number))?;
        light.flush(PATIENCE * 10)?;
        self.run(&[], Until::Drained, Arc::new(|_| {})).map(drop)
    }

    /// Changes a few records at a time until it is told to stop.
    fn change(&self, stop: &AtomicBool) -> Result<(), Error> {
        let mut light = self.light(1)?;
        while !stop.load(Ordering::Acquire) {
            light.send_any(self.history.rows)?;
            std::thread::sleep(PAUSE);
        }
        light.flush(PATIENCE)
    }

    fn measure(&self) -> Result<Found, Error> {
        let enough = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(Mutex::new(Vec::new()));
        let progress = {
            let (enough, looks, store) = (enough.clone(), looks.clone(), self.store.clone());
            let (commits, publications) = (self.history.commits, self.history.publications);
            let next = AtomicU64::new(1);
            move |shown: &Progress| {
                let done = shown.commits >= commits && shown.publications >= publications;
                if done || shown.commits * LOOKS >= next.load(Ordering::Relaxed) * commits {
                    next.store(shown.commits * LOOKS / commits.max(1) + 1, Ordering::Relaxed);
                    if !enough.swap(done, Ordering::AcqRel) {
                        let look = Look { disk: disk(&store), ..look(&store, shown.commits) };
                        looks.lock().unwrap_or_else(PoisonError::into_inner).push(look);
                    }
                }
            }
        };
        let (epoch, lake) = (&self.history.epoch_interval, &self.history.lake_interval);
        let pace = [("epoch.interval", epoch.as_str()), ("lake.interval", lake.as_str())];
        let (summary, changed) = std::thread::scope(|scope| {
            let changes = scope.spawn(|| self.change(&enough));
            let run = self.run(&pace, Until::DrainedOnce(enough.clone()), Arc::new(progress));
            // Where the run failed, too.
            enough.store(true, Ordering::Release);
            (run, changes.join().unwrap_or_else(|_| Err(Error::failed("the traffic panicked"))))
        });
        changed?;
        let looks = looks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Found { rows: self.history.rows, summary: summary?, looks })
    }
}

/// Runs the load beside brokers that are there, or one that a script keeps.
///
/// # Errors
///
/// When the settings are wrong, the store is there already, or a run fails.
pub fn run(history: &History, brokers: Option<String>, script: Option<PathBuf>) -> Result<Found, Error> {
    let temporary = tempfile::tempdir().map_err(Error::failed)?;
    let kafka = match (&brokers, &script) {
        (Some(brokers), None) => Kafka::at(brokers),
        (None, Some(script)) => Kafka::own(script, &temporary.path().join("kafka"))?,
        _ => {
            let what = "give --kafka BROKERS, or --kafka-script PATH for a broker of its own";
            return Err(Error::Usage(what.into()));
        }
    };
    let store = history.store.clone().unwrap_or_else(|| temporary.path().join("store"));
    if store.exists() {
        let store = store.display();
        return Err(Error::failed(format!("{store} is there already; a load needs a fresh store")));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::failed)?;
    let prefix = format!("history-{}-{}.", history.seed, tidemill::run::now_ms());
    kafka.create(runtime.handle(), &prefix)?;
    let bench = Bench { history, kafka, prefix, store };
    bench.fill()?;
    let found = bench.measure();
    bench.kafka.delete(runtime.handle(), &bench.prefix);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_are_in_order() {
        let durations: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        assert_eq!(tenths(&durations), [5.0, 15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0, 85.0, 95.0]);
        assert_eq!((ratio(tenths(&durations)), ratio(tenths(&[]))), (19.0, 1.0));
    }

    #[test]
    fn a_store_is_counted_by_folders() {
        let store = tempfile::tempdir().expect("a folder");
        for name in [
            "catalog/a",
            "catalog/b",
            "segments/c",
            "tables/t/data/d",
            "tables/t/metadata/e",
            "tables/u/data/f",
        ] {
            let path = store.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, "abc").expect("a file");
        }
        let found = look(store.path(), 7);
        assert_eq!((found.roots, found.segments, found.log_bytes), (2, 1, 9));
        assert_eq!((found.lake_files, found.lake_bytes, found.most), (3, 9, (2, "t".to_string())));
    }
}
