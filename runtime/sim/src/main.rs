//! `tidemill-sim`: runs trials by their seeds, and prints the first that breaks an invariant.
//!
//! ```text
//! cargo run -p tidemill-sim -- --seeds 10000            # seeds 0 to 9999
//! cargo run -p tidemill-sim -- --seed 4711 --tell       # one of them, and all that happens in it
//! ```

use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill_sim::mutants::ALL;
use tidemill_sim::side_by_side;
use tidemill_sim::trial::{Outcome, Plan, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs trials of the simulator.
#[derive(Parser)]
#[command(name = "tidemill-sim", version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// This seed alone.
    #[arg(long, conflicts_with_all = ["from", "seeds"])]
    seed: Option<u64>,
    /// Print all that happens.
    #[arg(long, requires = "seed")]
    tell: bool,
    /// With one of the deliberate bugs in, by its name; `list` prints the names.
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.mutant.as_deref() == Some("list") {
        ALL.iter().for_each(|mutant| println!("{mutant:?}"));
        return ExitCode::SUCCESS;
    }
    let named = |name: &String| ALL.into_iter().find(|mutant| format!("{mutant:?}") == *name);
    let mutant = arguments.mutant.as_ref().map(|name| named(name).ok_or(name)).transpose();
    let mutant = match mutant {
        Ok(mutant) => mutant,
        Err(name) => {
            eprintln!("error: there is no mutant {name}; `--mutant list` prints their names");
            return ExitCode::from(2);
        }
    };
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let (failed, told) = (AtomicBool::new(false), arguments.tell);
    side_by_side(from..from + seeds, |seed| {
        let outcome = run(Plan { seed, told, mutant });
        say(seed, &outcome, told || seeds == 1);
        if outcome.broken.is_some() {
            failed.store(true, Ordering::Relaxed);
        }
        !failed.load(Ordering::Relaxed)
    });
    match failed.load(Ordering::Relaxed) {
        true => ExitCode::FAILURE,
        false => {
            println!("ok: {seeds} seeds from {from}");
            ExitCode::SUCCESS
        }
    }
}

fn say(seed: u64, outcome: &Outcome, all: bool) {
    outcome.told.iter().for_each(|line| println!("{line}"));
    if let Some(what) = &outcome.broken {
        println!("seed {seed}: {what}");
    }
    if all {
        println!("seed {seed}: {} {:?}", outcome.digest, outcome.counts);
    }
}
