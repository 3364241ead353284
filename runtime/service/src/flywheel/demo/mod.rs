//! The demo's traffic: what the agents of some companies do, as records that come while they are read.
//!
//! ```text
//!  texts (what people ask, what agents answer) ──> talk (a task, and one try at it)
//!                                                     │
//!  seed ──> traffic: who does what when, an endless sequence of timed records ──> this file: paced
//!             └ records: their JSON; broken: the same, spoilt                      into files or topics
//! ```
//!
//! The sequence depends on the seed alone, times included: the clock decides only how soon a record is
//! written, never what it says. So one seed and one length make the same files on every machine.

mod broken;
mod judges;
mod records;
mod talk;
mod texts;
mod traffic;

#[cfg(test)]
mod tests;

use crate::Error;
use crate::cli::{Demo, DemoOptions, Destination};
use crate::run::stopwatch;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use traffic::Traffic;

/// How often what was written is shown.
const TICK: Duration = Duration::from_millis(20);

/// Writes the traffic at the pace of its own times.
pub struct DemoTraffic;

impl Demo for DemoTraffic {
    fn write(&self, options: DemoOptions, to: &mut dyn Destination, stop: &AtomicBool) -> Result<(), Error> {
        let lasts = options.lasts.as_micros() as u64;
        let mut traffic = Traffic::new(options.seed).take_while(|record| record.at <= lasts).peekable();
        let elapsed = stopwatch();
        while traffic.peek().is_some() && !stop.load(Ordering::Acquire) {
            let now = elapsed();
            while let Some(record) = traffic.next_if(|record| record.at <= now) {
                to.take(record.file.name(), &record.line)?;
            }
            to.show()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }
}
