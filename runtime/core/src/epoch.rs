//! When an epoch closes: a sans-IO state machine that worker 0 drives.
//!
//! Three things close the open epoch together: something is in it, it is due, and fewer than
//! [`IN_FLIGHT_MAX`] commits are under way. Due: it has been open for the interval, or holds its bytes,
//! or something waits for a commit whatever the records (a complete publication to be named, new
//! settings, an end). While that many commits are under way, what arrives is added to the open epoch up
//! to its byte bound; from there on the workers take no records, which stops the sources. Times are
//! microseconds of any monotonic clock.

use std::collections::BTreeSet;
use tidemill_types::Epoch;

/// Commits under way at once.
pub const IN_FLIGHT_MAX: usize = 2;

/// What the driver is told once.
#[derive(Clone, Copy, Debug)]
pub struct EpochSettings {
    /// The longest time that records wait in an open epoch, microseconds.
    pub interval: u64,
    /// An epoch that holds this many bytes is due.
    pub bytes_max: u64,
}

/// The driver of epochs.
#[derive(Debug)]
pub struct EpochDriver {
    settings: EpochSettings,
    open: Epoch,
    opened_at: u64,
    changes: u64,
    bytes: u64,
    forced: bool,
    in_flight: BTreeSet<Epoch>,
}

impl EpochDriver {
    /// Starts with an open epoch.
    pub fn new(settings: EpochSettings, open: Epoch, now: u64) -> Self {
        Self {
            settings,
            open,
            opened_at: now,
            changes: 0,
            bytes: 0,
            forced: false,
            in_flight: BTreeSet::new(),
        }
    }

    /// When the open epoch was opened.
    pub fn opened_at(&self) -> u64 {
        self.opened_at
    }

    /// The open epoch.
    pub fn open(&self) -> Epoch {
        self.open
    }

    /// Records or results were put into the open epoch, or into one that just closed (they then count
    /// for the open one; the worst that follows is an early close).
    pub fn took(&mut self, changes: u64, bytes: u64) {
        self.changes += changes;
        self.bytes += bytes;
    }

    /// The open epoch is to be committed soon whatever it holds.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// Whether nothing waits in the open epoch and no commit is under way.
    pub fn is_idle(&self) -> bool {
        self.changes == 0 && !self.forced && self.in_flight.is_empty()
    }

    /// Whether something waits in the open epoch.
    pub fn has_changes(&self) -> bool {
        self.changes > 0 || self.forced
    }

    /// Closes the open epoch if it is time; the closed epoch is then under way.
    pub fn close(&mut self, now: u64) -> Option<Epoch> {
        let waited = now.saturating_sub(self.opened_at) >= self.settings.interval;
        let full = self.bytes >= self.settings.bytes_max;
        let due = self.forced || (self.changes > 0 && (waited || full));
        if !due || self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let closed = self.open;
        self.in_flight.insert(closed);
        *self = Self {
            open: closed + 1,
            opened_at: now,
            changes: 0,
            bytes: 0,
            forced: false,
            settings: self.settings,
            in_flight: std::mem::take(&mut self.in_flight),
        };
        Some(closed)
    }

    /// A closed epoch has been committed.
    pub fn committed(&mut self, epoch: Epoch) {
        self.in_flight.remove(&epoch);
    }

    /// Microseconds until the open epoch may become due by time, if something waits in it.
    pub fn wait(&self, now: u64) -> Option<u64> {
        let due = self.opened_at + self.settings.interval;
        (self.changes > 0 && self.in_flight.len() < IN_FLIGHT_MAX).then(|| due.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver() -> EpochDriver {
        EpochDriver::new(EpochSettings { interval: 100, bytes_max: 1000 }, 1, 0)
    }

    #[test]
    fn an_empty_epoch_never_closes_by_time() {
        assert_eq!(driver().close(1_000_000), None);
    }

    #[test]
    fn an_epoch_closes_by_time_or_size() {
        let mut d = driver();
        d.took(1, 10);
        assert_eq!(d.close(99), None);
        assert_eq!(d.close(100), Some(1));
        d.took(1, 1000);
        assert_eq!(d.close(101), Some(2));
    }

    #[test]
    fn two_commits_in_flight_hold_the_third() {
        let mut d = driver();
        for now in [100, 200] {
            d.took(1, 1);
            assert!(d.close(now).is_some());
        }
        d.took(1, 5000);
        assert_eq!(d.close(1000), None);
        d.committed(1);
        assert_eq!(d.close(1000), Some(3));
    }

    #[test]
    fn a_forced_epoch_closes_at_once_and_only_once() {
        let mut d = driver();
        d.force();
        assert_eq!(d.close(0), Some(1));
        assert_eq!(d.close(0), None);
    }
}
