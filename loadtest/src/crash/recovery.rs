//! How long a start takes, against what the store holds: from the start of the process after a SIGKILL to its first new
//! commit, while light traffic goes on.
//!
//! A third of the records are trajectories, calls and scores each, of a few hundred bytes; every one is live. What a
//! start must read and join grows with their number, which is what is measured.

use super::kafka::{Kafka, PATIENCE};
use super::light::Light;
use super::mill::{Mills, phases};
use super::outcome::percentiles;
use super::sight::recovered;
use super::site::Site;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill::Error;
use tidemill::run::percentile;

/// How long a start of the largest store may take.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// The pause between two records of the light traffic.
const PAUSE: Duration = Duration::from_millis(20);
/// What the log of a start says, in this order.
const PHASES: [&str; 5] =
    ["starting", "the store is claimed", "the lake is open", "the flow is filled", "ready"];

/// The starts over one size.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recovered {
    /// Live source records.
    pub rows: u64,
    /// From the start of each process to its first new commit, microseconds.
    pub starts_us: Vec<u64>,
    /// From the start of each process to what its log said, microseconds.
    pub phases_us: BTreeMap<String, Vec<u64>>,
    /// What filling took, seconds.
    pub filled_s: f64,
}

impl Recovered {
    /// The size, in words.
    pub fn title(&self) -> String {
        format!("{} live records", self.rows)
    }

    /// The figures as one object.
    pub fn json(&self) -> Value {
        let phases: serde_json::Map<String, Value> =
            self.phases_us.iter().map(|(phase, times)| (phase.clone(), percentiles(times))).collect();
        json!({
            "rows": self.rows,
            "start_to_commit_ms": percentiles(&self.starts_us),
            "phases_ms": phases,
            "filled_s": self.filled_s,
        })
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |times: &[u64], percent| percentile(times, percent) as f64 / 1e3;
        let [p50, p99, max] = [50, 99, 100].map(|percent| ms(&self.starts_us, percent));
        write!(f, "{} starts: p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms;", self.starts_us.len())?;
        for phase in PHASES {
            if let Some(times) = self.phases_us.get(phase) {
                write!(f, " {phase} {:.0} ms,", ms(times, 50))?;
            }
        }
        write!(f, " commit {p50:.0} ms")
    }
}

/// Where starts are measured.
pub struct Measured<'a> {
    /// The store.
    pub site: &'a Site,
    /// The mills over it.
    pub mills: &'a Mills,
    /// What they read.
    pub kafka: &'a Kafka,
    /// Live source records.
    pub rows: u64,
    /// How many starts.
    pub starts: usize,
    /// Decides texts and moments.
    pub seed: u64,
}

impl Measured<'_> {
    fn fill(&self) -> Result<f64, Error> {
        let began = (self.mills.stopwatch)();
        let mut light = Light::to(self.kafka, &self.mills.prefix, self.seed)?;
        (0..self.rows).try_for_each(|number| light.send(number))?;
        light.flush(START_PATIENCE)?;
        self.mills.drain(2)?;
        Ok(((self.mills.stopwatch)() - began) as f64 / 1e6)
    }

    /// New versions of records that are there, until it is told to stop.
    fn trickle(&self, stop: &AtomicBool) -> Result<(), Error> {
        let mut light = Light::to(self.kafka, &self.mills.prefix, self.seed ^ 0x7c)?;
        while !stop.load(Ordering::Acquire) {
            light.send_any(self.rows)?;
            std::thread::sleep(PAUSE);
        }
        light.flush(PATIENCE)
    }

    fn start(&self, rng: &mut ChaCha8Rng, found: &mut Recovered) -> Result<(), Error> {
        let from = self.site.sight.count();
        self.site.life();
        let begun_us = tidemill::run::now_ms() * 1000;
        let mut mill = self.mills.start(2)?;
        let mut seen = None;
        for _ in 0..START_PATIENCE.as_millis() / 50 {
            seen = self.site.sight.wait(from, Duration::from_millis(50), recovered);
            if seen.is_some() || mill.ended().is_some() {
                break;
            }
        }
        let Some(seen) = seen else {
            let said = mill.last_words();
            return Err(Error::failed(format!("a start over {} records did not commit: {said}", self.rows)));
        };
        found.starts_us.push(seen.at_us.saturating_sub(mill.started_us));
        std::thread::sleep(Duration::from_millis(rng.random_range(200..800)));
        mill.kill();
        for (phase, at) in phases(&mill.log) {
            if PHASES.contains(&&*phase) {
                found.phases_us.entry(phase).or_default().push((at - begun_us).max(0) as u64);
            }
        }
        Ok(())
    }

    /// Fills a store, then kills and starts.
    ///
    /// # Errors
    ///
    /// When a start does not commit, or something fails that is no part of what is measured.
    pub fn run(&self) -> Result<Recovered, Error> {
        let mut found = Recovered { rows: self.rows, filled_s: self.fill()?, ..Recovered::default() };
        let (stop, mut rng) = (AtomicBool::new(false), ChaCha8Rng::seed_from_u64(self.seed ^ 0x11));
        let ended = std::thread::scope(|scope| {
            let trickle = scope.spawn(|| self.trickle(&stop));
            let measured = (0..self.starts).try_for_each(|_| self.start(&mut rng, &mut found));
            stop.store(true, Ordering::Release);
            let trickled =
                trickle.join().unwrap_or_else(|_| Err(Error::failed("the light traffic panicked")));
            measured.and(trickled)
        });
        ended.map(|()| found)
    }
}
