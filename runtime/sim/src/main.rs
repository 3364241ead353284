//! `tidemill-sim`: runs trials by their seeds, and prints the first that breaks an invariant.
//!
//! ```text
//! cargo run -p tidemill-sim -- --seeds 10000            # seeds 0 to 9999
//! cargo run -p tidemill-sim -- --seed 4711 --tell       # one of them, and all that happens in it
//! cargo run -p tidemill-sim -- --twice                  # each seed twice: is it the same history to the byte?
//! cargo run -p tidemill-sim -- --disk --seeds 10000     # the local store under power cuts
//! ```

use clap::Parser;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill_sim::{Outcome, Plan, disk, mutants, side_by_side, trial, twice};

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
    /// Run each seed twice, and compare the histories.
    #[arg(long)]
    twice: bool,
    /// Trials of the local store under power cuts, in place of those of the runtime.
    #[arg(long)]
    disk: bool,
    /// With one of the deliberate bugs in, by its name; `list` prints the names.
    #[arg(long)]
    mutant: Option<String>,
}

/// One of the deliberate bugs, by its name.
fn named<T: Copy + Debug>(all: &[T], name: &str) -> Result<T, ExitCode> {
    all.iter().copied().find(|one| format!("{one:?}") == name).ok_or_else(|| {
        eprintln!("error: there is no mutant {name}; `--mutant list` prints their names");
        ExitCode::from(2)
    })
}

/// Prints a line. Whoever does not read on loses nothing: the verdict is the exit code.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs trials with one of the deliberate bugs, if one was named, until one breaks.
fn trials<T: Copy + Debug + Sync, C: Debug>(
    arguments: &Arguments,
    all: &[T],
    trial: impl Fn(Plan<T>) -> Outcome<C> + Sync,
) -> Result<(), ExitCode> {
    let name = arguments.mutant.as_deref();
    if name == Some("list") {
        all.iter().for_each(|mutant| say(format_args!("{mutant:?}")));
        return Ok(());
    }
    let bug = name.map(|name| named(all, name)).transpose()?;
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let failed = AtomicBool::new(false);
    side_by_side(from..from + seeds, |seed| {
        let plan = Plan { seed, told: arguments.tell, bug };
        let outcome = if arguments.twice { twice(plan, &trial) } else { trial(plan) };
        outcome.told.iter().for_each(say);
        if let Some(what) = &outcome.broken {
            say(format_args!("seed {seed}: {what}"));
            failed.store(true, Ordering::Relaxed);
        }
        if seeds == 1 {
            say(format_args!("seed {seed}: {} {:?}", outcome.digest, outcome.counts));
        }
        !failed.load(Ordering::Relaxed)
    });
    if failed.load(Ordering::Relaxed) {
        return Err(ExitCode::FAILURE);
    }
    say(format_args!("ok: {seeds} seeds from {from}"));
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.disk {
        true => trials(&arguments, &disk::BUGS, disk::run),
        false => trials(&arguments, &mutants::ALL, trial::run),
    };
    done.err().unwrap_or(ExitCode::SUCCESS)
}
