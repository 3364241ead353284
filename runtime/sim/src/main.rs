//! `tidemill-sim`: runs trials by their seeds, and prints the first that breaks an invariant.
//!
//! ```text
//! cargo run -p tidemill-sim -- --seeds 10000            # seeds 0 to 9999
//! cargo run -p tidemill-sim -- --seed 4711 --tell       # one of them, and all that happens in it
//! cargo run -p tidemill-sim -- --disk --seeds 10000     # the local store under power cuts
//! ```

use clap::Parser;
use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemill_sim::{disk, mutants, side_by_side, trial};

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

/// Runs trials with one of the deliberate bugs, if one was named, until one breaks.
fn trials<T: Copy + Debug + Sync>(
    arguments: &Arguments,
    all: &[T],
    trial: impl Fn(u64, Option<T>) -> Said + Sync,
) -> Result<(), ExitCode> {
    let name = arguments.mutant.as_deref();
    if name == Some("list") {
        all.iter().for_each(|mutant| println!("{mutant:?}"));
        return Ok(());
    }
    let mutant = name.map(|name| named(all, name)).transpose()?;
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let failed = AtomicBool::new(false);
    side_by_side(from..from + seeds, |seed| {
        let said = trial(seed, mutant);
        said.told.iter().for_each(|line| println!("{line}"));
        if let Some(what) = &said.broken {
            println!("seed {seed}: {what}");
            failed.store(true, Ordering::Relaxed);
        }
        if seeds == 1 {
            println!("seed {seed}: {}", said.sum);
        }
        !failed.load(Ordering::Relaxed)
    });
    if failed.load(Ordering::Relaxed) {
        return Err(ExitCode::FAILURE);
    }
    println!("ok: {seeds} seeds from {from}");
    Ok(())
}

/// What is printed of a trial.
struct Said {
    told: Vec<String>,
    broken: Option<String>,
    sum: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = arguments.tell;
    let done = match arguments.disk {
        true => trials(&arguments, &disk::BUGS, |seed, bug| {
            let disk::Outcome { broken, counts, digest, told } = disk::run(disk::Plan { seed, told, bug });
            Said { told, broken, sum: format!("{digest} {counts:?}") }
        }),
        false => trials(&arguments, &mutants::ALL, |seed, mutant| {
            let trial::Outcome { broken, counts, digest, told } =
                trial::run(trial::Plan { seed, told, mutant });
            Said { told, broken, sum: format!("{digest} {counts:?}") }
        }),
    };
    done.err().unwrap_or(ExitCode::SUCCESS)
}
