//! The bound of the queue, kept outside every mailbox, and what is counted on the way.
//!
//! An actor's mailbox takes whatever is sent to it, so a job is counted before it is sent and until it is
//! answered: what waits in the mailbox, in the queue and in a batch is never more than the limits say
//! (except that a job which is longer than the whole limit enters an empty queue, or it never could).

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What an inference service holds and has done; totals are since its start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Metrics {
    /// Rows that were admitted and are not answered, the batch in hand included.
    pub queue_rows: usize,
    /// Their tokens.
    pub queue_tokens: u64,
    /// Batches that were lent to a device.
    pub batches: u64,
    /// Calls of the model: a batch that is halved, or a row that is tried again, takes several.
    pub calls: u64,
    /// Rows that were answered with an output.
    pub rows_done: u64,
    /// The tokens of those rows.
    pub tokens_done: u64,
    /// Rows that failed for good.
    pub failures: u64,
    /// How often a device died and was replaced.
    pub device_restarts: u64,
}

/// The limits and the counts.
pub(crate) struct Admission {
    rows_max: usize,
    tokens_max: u64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    rows: usize,
    tokens: u64,
    closed: bool,
}

impl Admission {
    pub(crate) fn new(rows_max: usize, tokens_max: u64) -> Self {
        Self { rows_max, tokens_max, queue: Mutex::default() }
    }

    /// Counts a job in, if there is room.
    pub(crate) fn admit(&self, tokens: u64) -> bool {
        let mut queue = self.queue();
        let fits = queue.rows < self.rows_max && queue.tokens.saturating_add(tokens) <= self.tokens_max;
        let admitted = !queue.closed && (fits || queue.rows == 0);
        if admitted {
            queue.rows += 1;
            queue.tokens += tokens;
        }
        admitted
    }

    /// Counts a job out.
    pub(crate) fn release(&self, tokens: u64) {
        let mut queue = self.queue();
        queue.rows = queue.rows.saturating_sub(1);
        queue.tokens = queue.tokens.saturating_sub(tokens);
    }

    /// Admits nothing from now on.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// `(rows, tokens)` that are admitted and not answered.
    pub(crate) fn held(&self) -> (usize, u64) {
        let queue = self.queue();
        (queue.rows, queue.tokens)
    }

    /// Every change of the counts is complete before the lock is let go, poisoned or not.
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The totals of [`Metrics`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) batches: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) rows_done: AtomicU64,
    pub(crate) tokens_done: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) device_restarts: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self, admission: &Admission) -> Metrics {
        let (queue_rows, queue_tokens) = admission.held();
        Metrics {
            queue_rows,
            queue_tokens,
            batches: self.batches.load(Relaxed),
            calls: self.calls.load(Relaxed),
            rows_done: self.rows_done.load(Relaxed),
            tokens_done: self.tokens_done.load(Relaxed),
            failures: self.failures.load(Relaxed),
            device_restarts: self.device_restarts.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_tokens_are_bounded_and_come_back() {
        let admission = Admission::new(2, 10);
        assert!(admission.admit(4));
        assert!(!admission.admit(7), "11 tokens are over the limit");
        assert!(admission.admit(6));
        assert!(!admission.admit(0), "a third row is over the limit");
        admission.release(4);
        assert!(admission.admit(0));
        assert_eq!(admission.held(), (2, 6));
    }

    #[test]
    fn a_job_over_the_whole_limit_enters_an_empty_queue_only() {
        let admission = Admission::new(2, 10);
        assert!(admission.admit(99));
        assert!(!admission.admit(1));
        admission.release(99);
        assert!(admission.admit(1));
        assert!(!admission.admit(99));
    }

    #[test]
    fn nothing_enters_once_it_is_closed() {
        let admission = Admission::new(2, 10);
        admission.close();
        assert!(admission.is_closed() && !admission.admit(1));
    }
}
