//! `tidemill-loadtest`: runs a load in this process and prints what it cost.
//!
//! ```text
//! cargo run --release -p tidemill-loadtest -- files --input DIR [--workers N] [--set KEY=VALUE]...
//! cargo run --release -p tidemill-loadtest -- kafka --kafka BROKERS [--workers N] [--set KEY=VALUE]...
//! cargo run --release -p tidemill-loadtest -- freshness --kafka BROKERS --store DIR
//! tidemill-loadtest history --kafka-script .ci/kafka [--store DIR] [--commits N] [--publications N]
//! tidemill-loadtest crash --kafka-script .ci/kafka [--kills N] [--seed N] [--store DIR|s3://BUCKET/PREFIX] ...
//! ```
//!
//! The last line is JSON; the lines before it are for people. `crash` and `history` end with 1 where anything is wrong.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
#[cfg(target_os = "linux")]
use tidemill_loadtest::crash::{self, Crash, faults};
use tidemill_loadtest::drained::{self, Load};
use tidemill_loadtest::freshness;
#[cfg(target_os = "linux")]
use tidemill_loadtest::history::{self, History};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs a load and prints what it cost.
#[derive(Parser)]
#[command(name = "tidemill-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drains a folder of JSON lines into a fresh store.
    Files {
        /// The folder.
        #[arg(long)]
        input: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Drains what Kafka's topics hold into a fresh store; `tidemill produce` fills them.
    Kafka {
        /// The brokers.
        #[arg(long)]
        kafka: String,
        #[command(flatten)]
        how: How,
    },
    /// Says how old records were when a store's commits held them, and how soon its starts committed.
    Freshness {
        /// The brokers whose topics the store was made from.
        #[arg(long)]
        kafka: String,
        /// The store's folder.
        #[arg(long)]
        store: PathBuf,
    },
    /// Makes many small commits and publications over many rows, and says whether the last cost as much as the first
    /// and what has grown.
    #[cfg(target_os = "linux")]
    History(Lasting),
    /// Kills mills at random moments and at steps of the protocol, troubles broker and store, and holds what is left
    /// against a recomputation from what Kafka holds.
    #[cfg(target_os = "linux")]
    Crash(Killing),
}

#[cfg(target_os = "linux")]
#[derive(clap::Args)]
struct Lasting {
    /// Brokers that are there.
    #[arg(long, conflicts_with = "kafka_script")]
    kafka: Option<String>,
    /// A script that starts and kills a broker of its own, as `.ci/kafka` does.
    #[arg(long, value_name = "PATH")]
    kafka_script: Option<PathBuf>,
    /// Keep the store here (it must not be there yet); without it a temporary one is used.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Live source records.
    #[arg(long, default_value_t = 100_000)]
    rows: u64,
    /// Commits of small changes.
    #[arg(long, default_value_t = 5_000)]
    commits: u64,
    /// Publications.
    #[arg(long, default_value_t = 500)]
    publications: u64,
    /// How long commits are kept.
    #[arg(long, default_value = "30s")]
    retention: String,
    /// How long an epoch stays open. Below what a commit takes, commits follow one another without a pause.
    #[arg(long, default_value = "50ms")]
    epoch_interval: String,
    /// How often tables are published.
    #[arg(long, default_value = "500ms")]
    lake_interval: String,
    /// Decides texts and which records change.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[cfg(target_os = "linux")]
#[derive(clap::Args)]
struct Killing {
    /// The `tidemill` binary; by default the one beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Brokers that are there. They are not killed.
    #[arg(long, conflicts_with = "kafka_script")]
    kafka: Option<String>,
    /// A script that starts and kills a broker of its own, as `.ci/kafka` does.
    #[arg(long, value_name = "PATH")]
    kafka_script: Option<PathBuf>,
    /// A folder that is not there yet, or s3://BUCKET/PREFIX on the server that AWS_ENDPOINT_URL names (plain HTTP:
    /// a proxy stands before it). Without it a temporary folder is used.
    #[arg(long)]
    store: Option<String>,
    /// Kills in all.
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// Decides the traffic and what happens when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Records a second of hard traffic.
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// What happens beside kills at random moments: `all`, `none`, or some of steps, pause, takeover, broker, slow,
    /// read-only, full, throttle, answers.
    #[arg(long, default_value = "all")]
    faults: String,
    /// Worker threads of the mills, in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 1, 3])]
    workers: Vec<usize>,
    /// Live records of the stores over which starts are measured, such as `1e4,1e5,1e6`.
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [1e4])]
    sizes: Vec<f64>,
    /// Starts that are measured over each.
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// How long a stopped mill sleeps while its successor works; longer than any time-out.
    #[arg(long, default_value = "75s")]
    stop_for: String,
    /// Nothing for people: one line of JSON.
    #[arg(long)]
    json: bool,
}

#[cfg(target_os = "linux")]
impl Killing {
    fn load(self) -> Result<Crash, tidemill::Error> {
        let usage =
            |what: &str, error: &dyn std::fmt::Display| tidemill::Error::Usage(format!("{what}: {error}"));
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("tidemill"));
        if self.rate <= 0.0 || self.workers.is_empty() || self.workers.contains(&0) {
            return Err(usage("--rate, --workers", &"give numbers above 0"));
        }
        Ok(Crash {
            binary: self.binary.or_else(beside).unwrap_or_else(|| "tidemill".into()),
            kafka: self.kafka,
            kafka_script: self.kafka_script,
            store: self.store,
            kills: self.kills,
            seed: self.seed,
            rate: self.rate,
            faults: faults::parse(&self.faults).map_err(|error| usage("--faults", &error))?,
            workers: self.workers,
            sizes: self.sizes.iter().map(|size| *size as u64).filter(|size| *size > 0).collect(),
            starts: self.starts,
            stop_for: humantime::parse_duration(&self.stop_for)
                .map_err(|error| usage("--stop-for", &error))?,
        })
    }
}

#[derive(clap::Args)]
struct How {
    /// Keep the store here (it must not be there yet); without it a temporary one is used.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Worker threads; by default as many as cores.
    #[arg(long)]
    workers: Option<usize>,
    /// A setting, as in a settings file: `lake.interval=5s`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl How {
    fn load(self, input: Option<PathBuf>, kafka: Option<String>) -> Load {
        Load { input, kafka, store: self.store, workers: self.workers, set: self.set }
    }
}

/// What is said of a load.
struct Told {
    /// Lines for people, if they are wanted.
    people: Option<String>,
    json: serde_json::Value,
    well: bool,
}

impl Told {
    fn of(people: String, json: serde_json::Value) -> Told {
        Told { people: Some(people), json, well: true }
    }
}

fn told() -> Result<Told, tidemill::Error> {
    let drained = |load| drained::run(load).map(|report| Told::of(report.to_string(), report.json()));
    match Arguments::parse().command {
        Command::Files { input, how } => drained(how.load(Some(input), None)),
        Command::Kafka { kafka, how } => drained(how.load(None, Some(kafka))),
        Command::Freshness { kafka, store } => {
            freshness::of(&store, &kafka).map(|found| Told::of(found.to_string(), found.json()))
        }
        #[cfg(target_os = "linux")]
        Command::History(lasting) => {
            let (rows, commits, publications) = (lasting.rows, lasting.commits, lasting.publications);
            let (retention, seed) = (lasting.retention, lasting.seed);
            let (epoch_interval, lake_interval) = (lasting.epoch_interval, lasting.lake_interval);
            let store = lasting.store;
            let wanted = History {
                rows,
                commits,
                publications,
                retention,
                epoch_interval,
                lake_interval,
                seed,
                store,
            };
            let found = history::run(&wanted, lasting.kafka, lasting.kafka_script)?;
            Ok(Told { people: Some(found.to_string()), json: found.json(), well: found.is_flat() })
        }
        #[cfg(target_os = "linux")]
        Command::Crash(killing) => {
            let quiet = killing.json;
            let outcome = crash::run(killing.load()?)?;
            let people = (!quiet).then(|| outcome.to_string());
            Ok(Told { people, json: outcome.json(), well: outcome.is_clean() })
        }
    }
}

fn main() -> ExitCode {
    match told() {
        Ok(told) => {
            if let Some(people) = told.people {
                println!("{people}");
            }
            println!("{}", told.json);
            if told.well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
