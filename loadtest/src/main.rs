//! `tidemill-loadtest`: runs a load in this process and prints what it cost.
//!
//! ```text
//! cargo run --release -p tidemill-loadtest -- files --input DIR [--workers N] [--set KEY=VALUE]...
//! cargo run --release -p tidemill-loadtest -- kafka --kafka BROKERS [--workers N] [--set KEY=VALUE]...
//! cargo run --release -p tidemill-loadtest -- freshness --kafka BROKERS --store DIR
//! ```
//!
//! The last line is JSON; the lines before it are for people.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tidemill_loadtest::drained::{self, Load};
use tidemill_loadtest::freshness;

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

fn told() -> Result<(String, serde_json::Value), tidemill::Error> {
    let drained = |load| drained::run(load).map(|report| (report.to_string(), report.json()));
    match Arguments::parse().command {
        Command::Files { input, how } => drained(how.load(Some(input), None)),
        Command::Kafka { kafka, how } => drained(how.load(None, Some(kafka))),
        Command::Freshness { kafka, store } => {
            freshness::of(&store, &kafka).map(|found| (found.to_string(), found.json()))
        }
    }
}

fn main() -> ExitCode {
    match told() {
        Ok((people, json)) => {
            println!("{people}");
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
