//! When the sources wait for memory.
//!
//! A quarter of `memory.bytes_max` is divided in fixed shares among what is in flight and what is cached. What takes
//! the rest has no share that could be kept: live rows, working copies, the program, what the allocator has not given
//! back yet. So resident memory itself is looked at, which leaves nothing out, and the one thing is held back that
//! makes all others grow: reading. From [`MemorySettings::pause_bytes`] on nothing is read until so much is committed
//! that memory is below it again; what was taken in by then needs the rest of the bound to be sealed, judged and
//! published.
//!
//! To wait for ever would be wrong: where live rows alone take so much there is nothing to wait for. Once nothing has
//! been under way for a second, or memory has not fallen in a minute, the sources go on for a fifth of a second, and
//! the log says what to do.

use super::clock::Stopwatch;
use super::gauges::Gauges;
use crate::config::MemorySettings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long memory is given to sink once nothing is under way, microseconds: the allocator returns it by then.
const REST_US: u64 = 1_000_000;
/// How long is waited for memory to fall while something is under way, microseconds: results of a model may be for
/// hours.
const PATIENCE_US: u64 = 60_000_000;
/// How long a step lasts in which records are taken in although memory is short, microseconds.
const STEP_US: u64 = 200_000;
/// Between two looks: where memory is near, and where it is not. Records come at some megabytes in the shorter time.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// How often it is said that live rows take too much, microseconds.
const CROWDED_US: u64 = 60_000_000;

/// Resident memory of the process in bytes, where the system tells it.
pub fn resident_bytes() -> Option<u64> {
    memory_stats::memory_stats().map(|stats| stats.physical_mem as u64)
}

/// The thread that looks at memory.
pub(super) struct MemoryWatch {
    pub(super) settings: MemorySettings,
    pub(super) gauges: Arc<Gauges>,
    pub(super) stopwatch: Stopwatch,
    /// Set while the workers take nothing in.
    pub(super) hold: Arc<AtomicBool>,
    /// Set when the run ends.
    pub(super) leave: Arc<AtomicBool>,
}

impl MemoryWatch {
    /// Looks until the run ends.
    pub(super) fn run(self) -> Result<(), String> {
        let mut bound = MemoryBound::new(&self.settings);
        let mut said_at = None;
        while !self.leave.load(Ordering::Acquire) {
            let (resident, at) = (resident_bytes(), (self.stopwatch)());
            let room = bound.room(Seen { resident, under_way: self.gauges.under_way(), at });
            let waits = room == Room::Wait;
            self.hold.store(waits, Ordering::Relaxed);
            if self.gauges.pause_for_memory(waits) {
                tracing::debug!(waits, resident, "the sources and memory");
            }
            if room == Room::Never && said_at.is_none_or(|said: u64| at.saturating_sub(said) >= CROWDED_US) {
                said_at = Some(at);
                tracing::warn!(
                    resident,
                    bytes_max = self.settings.bytes_max,
                    "memory stays near its bound, mostly with live rows: records are taken in slowly; raise \
                     memory.bytes_max"
                );
            }
            let near = resident.is_some_and(|bytes| bytes >= self.settings.pause_bytes() / 2);
            std::thread::sleep(if near { LOOKS.0 } else { LOOKS.1 });
        }
        Ok(())
    }
}

/// What was seen of a run at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Resident memory; `None` if it is not known.
    pub(super) resident: Option<u64>,
    /// Whether something is held that will be let go by itself: records that are not committed, a publication.
    pub(super) under_way: bool,
    /// Microseconds of the stopwatch.
    pub(super) at: u64,
}

/// What follows for the sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// They take records in.
    Enough,
    /// They wait.
    Wait,
    /// There is too little, and nothing to wait for: they take records in.
    Never,
}

/// The sources' way with memory: a machine without I/O.
#[derive(Debug)]
pub(super) struct MemoryBound {
    pause_at: u64,
    go_on_below: u64,
    waits: bool,
    quiet_since: Option<u64>,
    waits_since: Option<u64>,
    step_until: Option<u64>,
}

impl MemoryBound {
    pub(super) fn new(settings: &MemorySettings) -> Self {
        let pause_at = settings.pause_bytes();
        let go_on_below = pause_at / 32 * 31;
        Self { pause_at, go_on_below, waits: false, quiet_since: None, waits_since: None, step_until: None }
    }

    /// What follows from what is seen.
    pub(super) fn room(&mut self, seen: Seen) -> Room {
        let resident = seen.resident.unwrap_or(0);
        let limit = if self.waits { self.go_on_below } else { self.pause_at };
        if resident < limit {
            (self.waits, self.quiet_since, self.waits_since, self.step_until) = (false, None, None, None);
            return Room::Enough;
        }
        match seen.under_way {
            true => self.quiet_since = None,
            false => drop(self.quiet_since.get_or_insert(seen.at)),
        }
        let waits_since = *self.waits_since.get_or_insert(seen.at);
        let past = |since: u64, span: u64| seen.at.saturating_sub(since) >= span;
        if self.quiet_since.is_some_and(|since| past(since, REST_US)) || past(waits_since, PATIENCE_US) {
            (self.quiet_since, self.waits_since) = (None, None);
            self.step_until = Some(seen.at + STEP_US);
        }
        self.waits = self.step_until.is_none_or(|until| seen.at >= until);
        if self.waits { Room::Wait } else { Room::Never }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: MemorySettings = MemorySettings { bytes_max: 256 << 20 };
    const FULL: u64 = 128 << 20;

    fn rooms(seen: &[(u64, bool, u64)]) -> Vec<Room> {
        let mut bound = MemoryBound::new(&BOUND);
        let seen =
            seen.iter().map(|&(resident, under_way, at)| Seen { resident: Some(resident), under_way, at });
        seen.map(|seen| bound.room(seen)).collect()
    }

    #[test]
    fn the_sources_wait_from_the_bound_on_until_memory_is_well_below_it() {
        let seen = [
            (FULL - 1, true, 0),
            (FULL, true, 1),
            (FULL - 1, true, 2),
            (FULL / 32 * 31 - 1, true, 3),
            (FULL - 1, true, 4),
        ];
        assert_eq!(rooms(&seen), [Room::Enough, Room::Wait, Room::Wait, Room::Enough, Room::Enough]);
    }

    #[test]
    fn where_nothing_will_be_let_go_the_sources_take_one_step_after_the_other() {
        let seen = [
            (FULL, true, 0),
            (FULL, false, 10),
            (FULL, false, 10 + REST_US),
            // A step is taken, and waited for.
            (FULL, true, 9 + REST_US + STEP_US),
            (FULL, true, 10 + REST_US + STEP_US),
            (FULL, false, 20 + REST_US + STEP_US),
            (FULL, false, 20 + 2 * REST_US + STEP_US),
        ];
        let rooms = rooms(&seen);
        assert_eq!(rooms[..4], [Room::Wait, Room::Wait, Room::Never, Room::Never]);
        assert_eq!(rooms[4..], [Room::Wait, Room::Wait, Room::Never]);
    }

    #[test]
    fn memory_that_does_not_fall_is_not_waited_for_without_end_nor_does_an_idle_hour_count() {
        let seen = [(FULL, true, 0), (FULL, true, PATIENCE_US - 1), (FULL, true, PATIENCE_US)];
        assert_eq!(rooms(&seen), [Room::Wait, Room::Wait, Room::Never]);
        let seen = [(0, false, 0), (FULL, false, 2 * REST_US)];
        assert_eq!(rooms(&seen), [Room::Enough, Room::Wait]);
    }

    #[test]
    fn a_system_that_does_not_tell_holds_nothing_back() {
        let mut bound = MemoryBound::new(&BOUND);
        assert_eq!(bound.room(Seen { resident: None, under_way: true, at: 0 }), Room::Enough);
    }
}
