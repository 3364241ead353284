//! How old the oldest of what waits is, where what waits is numbered and is done in the order of its
//! numbers: records of a partition until their commit, commits until a publication holds them, or until the
//! Kafka sink has dealt with them.

use std::collections::VecDeque;

/// Entries of one queue. What comes when it is full is counted with the newest entry and its time: the
/// answer may then be too old, and never too young.
const ENTRIES_MAX: usize = 512;

/// What waits: ends of what came, with the times at which it came.
#[derive(Clone, Default, Debug)]
pub(super) struct Ages {
    entries: VecDeque<(u64, i64)>,
}

impl Ages {
    /// All up to `end` that did not wait already waits since `at`.
    pub(super) fn waits(&mut self, end: u64, at: i64) {
        let full = self.entries.len() >= ENTRIES_MAX;
        match self.entries.back_mut() {
            Some((last, _)) if full => *last = end,
            _ => self.entries.push_back((end, at)),
        }
    }

    /// What lies at or below `end` waits no more.
    pub(super) fn done(&mut self, end: u64) {
        while self.entries.front().is_some_and(|(waits, _)| *waits <= end) {
            self.entries.pop_front();
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
        let more = ENTRIES_MAX as u64 + 100;
        (1..=more).for_each(|end| ages.waits(end, end as i64));
        assert_eq!(ages.entries.len(), ENTRIES_MAX);
        ages.done(more - 1);
        assert_eq!(ages.oldest(), Some(ENTRIES_MAX as i64));
        ages.done(more);
        assert_eq!(ages.oldest(), None);
    }
}
