//! An even pace: when the next of many things is due.

/// Microseconds of a second.
const SECOND: f64 = 1e6;
/// How far behind it may be and still catch up: a pause is not made good by a burst.
const BEHIND_MAX: f64 = 0.1 * SECOND;

/// So many a second. Times are microseconds of any clock.
pub struct Pace {
    interval: f64,
    due: f64,
}

impl Pace {
    /// Of `rate` a second, the first of them at `now`.
    pub fn new(rate: f64, now: u64) -> Self {
        Self { interval: SECOND / rate, due: now as f64 }
    }

    /// Microseconds from `now` until the next one is due.
    pub fn wait(&self, now: u64) -> u64 {
        (self.due - now as f64).max(0.0) as u64
    }

    /// It happened.
    pub fn happened(&mut self, now: u64) {
        self.due = self.due.max(now as f64 - BEHIND_MAX) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times at which things happen when each is done as soon as it is due.
    fn times(pace: &mut Pace, mut now: u64, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        for _ in 0..count {
            now += pace.wait(now);
            pace.happened(now);
            times.push(now);
        }
        times
    }

    #[test]
    fn they_come_evenly_at_any_rate() {
        assert_eq!(times(&mut Pace::new(4.0, 1000), 1000, 4), [1000, 251_000, 501_000, 751_000]);
        assert_eq!(times(&mut Pace::new(0.5, 0), 0, 3), [0, 2_000_000, 4_000_000]);
        let many = times(&mut Pace::new(3e6, 0), 0, 3_000_001);
        assert!(many.is_sorted() && (999_999..=1_000_000).contains(many.last().unwrap()));
    }

    #[test]
    fn a_long_pause_is_not_made_good_by_a_burst() {
        let mut pace = Pace::new(10.0, 0);
        times(&mut pace, 0, 3);
        let late = times(&mut pace, 60_000_000, 4);
        assert_eq!(late, [60_000_000, 60_000_000, 60_100_000, 60_200_000]);
    }
}
