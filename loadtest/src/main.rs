//! `tidemill-loadtest`: runs a load in this process and prints what it cost.
//!
//! ```text
//! cargo run --release -p tidemill-loadtest -- files --input DIR [--workers N] [--set KEY=VALUE]...
//! ```
//!
//! The last line is JSON; the lines before it are for people.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tidemill_loadtest::files::{self, Load};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        /// Keep the store here (it must not be there yet); without it a temporary one is used.
        #[arg(long)]
        store: Option<PathBuf>,
        /// Worker threads; by default as many as cores.
        #[arg(long)]
        workers: Option<usize>,
        /// A setting, as in a settings file: `lake.interval=5s`.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
}

fn main() -> ExitCode {
    let Command::Files { input, store, workers, set } = Arguments::parse().command;
    match files::run(Load { input, store, workers, set }) {
        Ok(report) => {
            println!("{report}");
            println!("{}", report.json());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
