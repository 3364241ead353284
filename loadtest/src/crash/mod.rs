//! The load `crash`: real mills over a real Kafka, killed and troubled in every way that can be brought about, and the
//! verdict on what they left by a recomputation from what Kafka holds.
//!
//! ```text
//!  traffic (seeded, hard) ──> Kafka <──────────────── killed, started again
//!                               │
//!                               ├──read_committed──> oracle ──────────┐
//!                               v                                     v
//!       SIGKILL, SIGSTOP ──> mills ──> watch | proxy ──> store ──> verdict: rows lost, duplicated, early, wrong
//!                                        │   └── slow, read-only, full, 503, 409, 412, silence
//!                                        └── kills at a step, before or after the store did it
//! ```
//!
//! - [`points`]: the steps of the protocol, and the trap that kills at one; [`trouble`]: false answers and bad spells;
//! - [`watch`], [`proxy`]: who sees the steps, in a folder or before a server; [`sight`]: the roots that were seen;
//! - [`site`]: where a round's store stands; [`mill`], [`kafka`], [`traffic`], [`light`]: what takes part;
//! - [`faults`], [`plan`], [`round`]: what happens; [`verdict`]: what must be; [`recovery`]: how long starts take;
//! - [`outcome`]: what was found.
//!
//! Why the verdict can be trusted: the oracle shares no code with the flow and starts from the topics themselves, so
//! neither what was meant to be sent nor what a mill says of itself plays a part. The seed decides traffic and plans; the
//! moments at which processes meet them are real, so another run of a seed is alike and not the same.

pub mod faults;
pub mod kafka;
pub mod light;
pub mod mill;
pub mod outcome;
pub mod plan;
pub mod points;
pub mod proxy;
pub mod recovery;
pub mod round;
pub mod sight;
pub mod site;
pub mod traffic;
pub mod trouble;
pub mod verdict;
pub mod watch;

use self::faults::Fault;
use self::kafka::Kafka;
use self::mill::Mills;
use self::outcome::Outcome;
use self::plan::Plans;
use self::recovery::Measured;
use self::round::Round;
use self::site::Site;
use self::traffic::Traffic;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;
use tidemill::Error;
use tidemill::run::Stopwatch;
use tidemill_oracle::kafka::Truth;
use tidemill_oracle::traffic::configuration;
use tokio::runtime::Runtime;

/// Kills of one round; then another store and another seed's traffic begin, so that the oracle stays quick.
const KILLS_A_ROUND: u64 = 25;
/// Records of one round, likewise.
const RECORDS_A_ROUND: u64 = 6000;
/// What the rounds that forget what is old keep.
const RETENTION: &str = "20s";

/// What to do.
#[derive(Clone, Debug)]
pub struct Crash {
    /// The binary.
    pub binary: PathBuf,
    /// Brokers that are there.
    pub kafka: Option<String>,
    /// The script that keeps a broker of our own.
    pub kafka_script: Option<PathBuf>,
    /// A folder that is not there yet, or `s3://bucket/prefix`; a temporary folder without it.
    pub store: Option<String>,
    /// How many kills.
    pub kills: u64,
    /// Decides the traffic and the plans.
    pub seed: u64,
    /// Records a second.
    pub rate: f64,
    /// What may happen beside kills at random moments.
    pub faults: Vec<Fault>,
    /// Workers of the mills, in turn.
    pub workers: Vec<usize>,
    /// Sizes at which starts are measured.
    pub sizes: Vec<u64>,
    /// Starts of each size.
    pub starts: usize,
    /// How long a mill sleeps while a successor works.
    pub stop_for: Duration,
}

/// What all rounds share.
struct Stage {
    crash: Crash,
    kafka: Kafka,
    runtime: Runtime,
    stopwatch: Stopwatch,
    place: Place,
    /// Tells this run's topics and prefixes from those of others.
    run: String,
    /// Whether a small file system can be mounted.
    mounts: bool,
}

/// Runs the load.
///
/// # Errors
///
/// When the settings are wrong, or something fails that is no part of what is tested. What is tested and fails stands in
/// the outcome.
pub fn run(crash: Crash) -> Result<Outcome, Error> {
    if !crash.binary.is_file() {
        let binary = crash.binary.display();
        return Err(Error::Usage(format!("there is no binary at {binary}: build it, or give --binary PATH")));
    }
    let place = Place::of(&crash)?;
    let (seed, stores) = (crash.seed, if place.s3.is_some() { "s3" } else { "folder" });
    let mut outcome = Outcome { seed, stores, ..Outcome::default() };
    let (folder, temporary) = (place.folder.clone(), place.temporary);
    let ended = Stage::new(crash, place, &mut outcome).and_then(|stage| stage.all(&mut outcome));
    match ended {
        Ok(()) => {}
        Err(error @ Error::Usage(_)) => {
            if temporary {
                // Nothing has happened in it that is worth a look.
                let _ = std::fs::remove_dir_all(&folder);
            }
            return Err(error);
        }
        Err(error) => {
            let folder = folder.display();
            return Err(Error::failed(format!("{error}\nseed {seed}; kept for inspection: {folder}")));
        }
    }
    if !outcome.is_clean() {
        outcome.kept = Some(folder.display().to_string());
    }
    Ok(outcome)
}

/// Where things are kept.
struct Place {
    /// Logs, the broker's data, and stores in folders.
    folder: PathBuf,
    /// Whether the folder is to go when all ends well.
    temporary: bool,
    /// Where the stores stand, if not in the folder.
    s3: Option<String>,
}

impl Place {
    fn of(crash: &Crash) -> Result<Place, Error> {
        let store = crash.store.as_deref();
        let s3 =
            store.filter(|store| store.starts_with("s3://")).map(|store| store.trim_end_matches('/').into());
        match store.filter(|_| s3.is_none()) {
            Some(other) if other.contains("://") => {
                Err(Error::Usage(format!("--store {other}: give a folder, or s3://BUCKET/PREFIX")))
            }
            Some(folder) if Path::new(folder).exists() => {
                Err(Error::Usage(format!("{folder} is there already; a load needs a fresh place")))
            }
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(Error::failed)?;
                let folder = Path::new(folder).canonicalize().map_err(Error::failed)?;
                Ok(Place { folder, temporary: false, s3 })
            }
            None => {
                let folder = tempfile::Builder::new().prefix("tidemill-crash-").tempdir();
                // It goes only when all has ended well.
                Ok(Place { folder: folder.map_err(Error::failed)?.keep(), temporary: true, s3 })
            }
        }
    }
}

impl Stage {
    fn new(crash: Crash, place: Place, outcome: &mut Outcome) -> Result<Stage, Error> {
        let kafka = match (&crash.kafka, &crash.kafka_script) {
            (Some(brokers), None) => Kafka::at(brokers),
            (None, Some(script)) => Kafka::own(script, &place.folder.join("kafka"))?,
            _ => {
                return Err(Error::Usage(
                    "give --kafka BROKERS, or --kafka-script PATH for a broker of its own, which can be killed".into(),
                ));
            }
        };
        let mounts = place.s3.is_none() && mounts(&crash, &place.folder, outcome);
        let of_s3 = [Fault::Slow, Fault::Throttle, Fault::Answers];
        if place.s3.is_none() && crash.kills > 0 && crash.faults.iter().any(|fault| of_s3.contains(fault)) {
            outcome.skip(
                "a store that is slow, answers 503, or answers falsely: give --store s3://BUCKET/PREFIX"
                    .into(),
            );
        }
        if crash.faults.contains(&Fault::Broker) && !kafka.is_own() && crash.kills > 0 {
            outcome.skip(
                "kills of the broker: it is not ours; give --kafka-script PATH in place of --kafka".into(),
            );
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(Error::failed)?;
        let run = format!("crash-{}-{}", crash.seed, tidemill::run::now_ms());
        let stopwatch = tidemill::run::stopwatch();
        Ok(Stage { crash, kafka, runtime, stopwatch, place, run, mounts })
    }

    fn all(self, outcome: &mut Outcome) -> Result<(), Error> {
        while outcome.count() < self.crash.kills {
            let number = outcome.rounds;
            self.round(number, outcome)?;
            outcome.rounds += 1;
            let (kills, total) = (outcome.count(), outcome.verdict.total());
            eprintln!("round {number}: {kills} kills of {} so far; {total}", self.crash.kills);
            if !outcome.is_clean() {
                break;
            }
        }
        for (number, rows) in self.crash.sizes.iter().enumerate() {
            self.measure(number, *rows, outcome)?;
        }
        let (folder, temporary) = (self.place.folder.clone(), self.place.temporary);
        // The broker ends here, before its folder goes.
        drop(self);
        if temporary && outcome.is_clean() {
            std::fs::remove_dir_all(&folder)
                .map_err(|error| Error::failed(format!("{} cannot be removed: {error}", folder.display())))?;
        }
        Ok(())
    }

    /// A store of its own; every second folder is a small file system.
    fn site(&self, name: &str, number: u64, folder: &Path) -> Result<Site, Error> {
        let stopwatch = self.stopwatch.clone();
        match &self.place.s3 {
            Some(address) => {
                let address = format!("{address}/{}-{name}", self.run);
                Site::s3(self.runtime.handle(), &address, stopwatch)
            }
            None if self.mounts && number.is_multiple_of(2) => Site::tmpfs(&folder.join("disk"), stopwatch),
            None => Site::folder(&folder.join("store"), stopwatch),
        }
    }

    fn mills(&self, name: &str, folder: &Path, site: &Site, flags: &[&str]) -> Mills {
        Mills {
            binary: self.crash.binary.clone(),
            folder: folder.to_path_buf(),
            store: site.store.clone(),
            brokers: self.kafka.brokers.clone(),
            prefix: format!("{}-{name}.", self.run),
            flags: flags.iter().map(ToString::to_string).collect(),
            variables: site.variables(),
            stopwatch: self.stopwatch.clone(),
            started: AtomicUsize::new(0),
        }
    }

    fn round(&self, number: u64, outcome: &mut Outcome) -> Result<(), Error> {
        let name = format!("round-{number}");
        let folder = self.place.folder.join(&name);
        std::fs::create_dir_all(&folder).map_err(Error::failed)?;
        let site = self.site(&name, number, &folder)?;
        let mut flags = match self.place.s3 {
            Some(_) => vec!["--epoch-interval", "100ms", "--lake-interval", "1s"],
            None => vec!["--epoch-interval", "30ms", "--lake-interval", "250ms"],
        };
        // Most rounds forget what is old; all that stand on a small file system, which would be full soon.
        if number % 4 < 3 {
            flags.extend(["--store-retention", RETENTION]);
        }
        let mills = self.mills(&name, &folder, &site, &flags);
        let seed = self.crash.seed.wrapping_add(number);
        mills.configure(&configuration(seed))?;
        self.kafka.create(self.runtime.handle(), &mills.prefix)?;
        let faults: Vec<Fault> = self
            .crash
            .faults
            .iter()
            .copied()
            .filter(|fault| site.can(*fault) && (*fault != Fault::Broker || self.kafka.is_own()))
            .collect();
        let mut plans = Plans::new(self.crash.seed, number, site.points(), &faults, &self.crash.workers);
        plans.skip((number * KILLS_A_ROUND) as usize);
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let traffic = Traffic {
            kafka: &self.kafka,
            prefix: &mills.prefix,
            seed,
            rate: self.crash.rate,
            stop: &stop,
            sent: &sent,
        };
        let upto = self.crash.kills.min(outcome.count() + KILLS_A_ROUND);
        let mut round = Round {
            site: &site,
            mills: &mills,
            kafka: &self.kafka,
            truth: Truth::of_topics(&mills.prefix),
            plans,
            stop_for: self.crash.stop_for,
            outcome: &mut *outcome,
            judged: BTreeSet::new(),
            waiting: None,
            judging_us: 0,
        };
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| traffic.run());
            let lives = round.lives(upto, &sent, RECORDS_A_ROUND);
            stop.store(true, std::sync::atomic::Ordering::Release);
            lives
        });
        let ended = ended.and_then(|()| traffic.settle()).and_then(|()| round.finish());
        if ended.is_err() {
            site.keep(&folder);
        }
        ended.map(|()| self.after(&site, &mills, &folder, outcome))
    }

    /// Counts what the store did, and keeps or removes what a round leaves.
    fn after(&self, site: &Site, mills: &Mills, folder: &Path, outcome: &mut Outcome) {
        let (lies, refused, tries) = site.troubles.counts();
        for (lie, count) in lies {
            *outcome.lies.entry(lie).or_default() += count;
        }
        outcome.refused += refused;
        outcome.tries_most = outcome.tries_most.max(tries);
        if !outcome.is_clean() {
            site.keep(folder);
            return;
        }
        self.kafka.delete(self.runtime.handle(), &mills.prefix);
        if self.place.temporary {
            // It would go at the end anyway.
            let _ = std::fs::remove_dir_all(folder.join("store"));
        }
    }

    fn measure(&self, number: usize, rows: u64, outcome: &mut Outcome) -> Result<(), Error> {
        let name = format!("size-{rows}-{number}");
        let folder = self.place.folder.join(&name);
        std::fs::create_dir_all(&folder).map_err(Error::failed)?;
        // On the disk, not on a small file system.
        let site = self.site(&name, 1, &folder)?;
        let mills = self.mills(&name, &folder, &site, &[]);
        mills.configure(&serde_json::json!({}))?;
        self.kafka.create(self.runtime.handle(), &mills.prefix)?;
        let (starts, seed) = (self.crash.starts, self.crash.seed);
        let measured = Measured { site: &site, mills: &mills, kafka: &self.kafka, rows, starts, seed };
        let found = measured.run()?;
        eprintln!("{}: {found}", found.title());
        outcome.recovery.push(found);
        self.kafka.delete(self.runtime.handle(), &mills.prefix);
        if self.place.temporary {
            // Likewise.
            let _ = std::fs::remove_dir_all(folder.join("store"));
        }
        Ok(())
    }
}

/// Whether rounds may stand on a small file system, which some faults take.
fn mounts(crash: &Crash, folder: &Path, outcome: &mut Outcome) -> bool {
    let wanted: Vec<Fault> =
        crash.faults.iter().copied().filter(|f| matches!(f, Fault::ReadOnly | Fault::Full)).collect();
    if wanted.is_empty() || crash.kills == 0 {
        return false;
    }
    match site::can_mount(folder) {
        Ok(()) => true,
        Err(error) => {
            outcome.skip(format!("a store that is read-only or full: it takes a tmpfs, so root ({error})"));
            false
        }
    }
}
