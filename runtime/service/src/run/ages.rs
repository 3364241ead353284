//! How old the oldest of what waits is, where what waits is numbered and is done in the order of its
//! numbers: records of a partition until their commit, commits until a publication holds them, or until the
//! Kafka sink has dealt with them.

use std::collections::VecDeque;

/// Entries of one queue. When it is full, each is taken together with the one after it, and from then on twice as
/// much with each new one, until nothing waits: the answer may then be too old by one entry, and is never too young.
const ENTRIES_MAX: usize = 512;

/// What waits: ends of what came, with the times at which it came.
#[derive(Clone, Default, Debug)]
pub(super) struct Ages {
    entries: VecDeque<(u64, i64)>,
    /// How many times something comes for each entry, where that is more than once.
    grain: u32,
    /// How many times something came for the newest entry.
    newest: u32,
}

impl Ages {
    /// All up to `end` that did not wait already waits since `at`.
    pub(super) fn waits(&mut self, end: u64, at: i64) {
        if let Some((last, _)) = self.entries.back_mut().filter(|_| self.newest < self.grain) {
            (*last, self.newest) = (end, self.newest + 1);
            return;
        }
        if self.entries.len() >= ENTRIES_MAX {
            let pairs = self.entries.make_contiguous().chunks(2);
            self.entries = pairs.map(|pair| (pair[pair.len() - 1].0, pair[0].1)).collect();
            self.grain = self.grain.max(1).saturating_mul(2);
        }
        self.entries.push_back((end, at));
        self.newest = 1;
    }

    /// What lies at or below `end` waits no more.
    pub(super) fn done(&mut self, end: u64) {
        while self.entries.front().is_some_and(|(waits, _)| *waits <= end) {
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            self.grain = 1;
        }
    }

    /// Since when the oldest waits, if anything does.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.entries.front().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_that_which_is_not_done() {
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        for (end, at) in [(10, 100), (20, 200), (30, 300)] {
            ages.waits(end, at);
        }
        for (done, oldest) in [(9, Some(100)), (10, Some(200)), (25, Some(300)), (30, None)] {
            ages.done(done);
            assert_eq!(ages.oldest(), oldest, "done up to {done}");
        }
    }

    #[test]
    fn a_full_queue_errs_towards_the_older() {
        let mut ages = Ages::default();
        let more = 10 * ENTRIES_MAX as u64;
        (1..=more).for_each(|end| ages.waits(end, end as i64));
        assert!(ages.entries.len() <= ENTRIES_MAX);
        for done in (0..more).step_by(7) {
            ages.done(done);
            let oldest = ages.oldest().unwrap();
            let (waits, grain) = (done as i64 + 1, i64::from(ages.grain));
            assert!(oldest <= waits && waits - oldest <= grain && grain <= 32, "{oldest} for {waits}");
        }
        ages.done(more);
        assert_eq!(ages.oldest(), None);
        // What comes then is told apart again.
        (1..=3).for_each(|end| ages.waits(more + end, end as i64));
        ages.done(more + 2);
        assert_eq!(ages.oldest(), Some(3));
    }
}
