//! Rows on loan to a device, and how a row is answered once and only once.
//!
//! A [`Lease`] holds a batch's rows with one flag each. Whoever turns a row's flag first owns the row:
//! the device, to answer it, or the scheduler, to take it back after the device has died. A thread that
//! outlives its device finds every flag turned and can neither answer nor try anything again. So a row is
//! never answered twice, and none is lost: what the device did not claim, the scheduler does.

use crate::{
    admission::{Admission, Counters},
    batcher::Waiting,
};
use crossbeam_channel::{SendTimeoutError, Sender};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed},
    },
    time::Duration,
};
use tidemill_core::model::{Done, Job, Outcome};

/// How long a blocked reply waits before it looks whether the service stops.
const REPLY_WAIT: Duration = Duration::from_millis(20);

/// An admitted job.
pub(crate) struct Row {
    pub(crate) job: Job,
    /// What it was admitted with.
    pub(crate) weight: u64,
    /// The model's count; `None`: the model panicked when it was asked.
    pub(crate) tokens: Option<u64>,
    /// How often it was tried by itself, or blamed by itself.
    pub(crate) attempts: AtomicU32,
    pub(crate) reply: Sender<Done>,
}

impl Row {
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Relaxed)
    }
}

/// A batch on loan.
pub(crate) struct Lease {
    /// Sets a late word on an older lease apart from one on this.
    pub(crate) number: u64,
    rows: Vec<Waiting<Arc<Row>>>,
    claimed: Vec<AtomicBool>,
    attempts_before: Vec<u32>,
}

impl Lease {
    pub(crate) fn new(number: u64, rows: Vec<Waiting<Arc<Row>>>) -> Self {
        let claimed = rows.iter().map(|_| AtomicBool::new(false)).collect();
        let attempts_before = rows.iter().map(|row| row.item.attempts()).collect();
        Self { number, rows, claimed, attempts_before }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn row(&self, place: usize) -> &Row {
        &self.rows[place].item
    }

    pub(crate) fn is_claimed(&self, place: usize) -> bool {
        self.claimed[place].load(Ordering::Acquire)
    }

    /// True for the first caller only: the row is its own now.
    pub(crate) fn claim(&self, place: usize) -> bool {
        !self.claimed[place].swap(true, Ordering::AcqRel)
    }

    /// Takes back what the device has not claimed, each row to go alone next. A row that was alone on loan
    /// has used up an attempt, even if the device died before it had counted it.
    pub(crate) fn take_back(&self) -> Vec<Waiting<Arc<Row>>> {
        let unclaimed = (0..self.len()).filter(|&place| self.claim(place));
        let mut returned: Vec<_> = unclaimed.map(|place| self.rows[place].clone()).collect();
        returned.iter_mut().for_each(|row| row.alone = true);
        if self.len() == 1 {
            for row in &returned {
                row.item.attempts.fetch_max(self.attempts_before[0] + 1, Relaxed);
            }
        }
        returned
    }
}

/// What the scheduler and the devices share.
pub(crate) struct Desk {
    pub(crate) admission: Admission,
    pub(crate) counters: Counters,
    /// How often a row is tried by itself.
    pub(crate) attempts_max: u32,
    /// Set when the scheduler has ended as it should.
    pub(crate) ended_orderly: AtomicBool,
}

impl Desk {
    pub(crate) fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) {
        counter(&self.counters).fetch_add(1, Relaxed);
    }

    /// Answers a row of a lease unless somebody else has claimed it. Blocks while the reply channel is
    /// full.
    pub(crate) fn settle(&self, lease: &Lease, place: usize, outcome: Outcome) {
        if lease.claim(place) {
            self.answer(lease.row(place), outcome);
        }
    }

    /// Answers a row that the caller has claimed. Blocks while the reply channel is full, unless the
    /// service stops; a receiver that is gone wants no answer.
    pub(crate) fn answer(&self, row: &Row, outcome: Outcome) {
        self.admission.release(row.weight);
        match &outcome {
            Outcome::Vector { tokens, .. } => {
                self.count(|c| &c.rows_done);
                self.counters.tokens_done.fetch_add(*tokens, Relaxed);
            }
            Outcome::Failure { error, attempts } => {
                self.count(|c| &c.failures);
                tracing::debug!(error, attempts, "row failed for good");
            }
        }
        let mut done = Done { digest: row.job.digest, outcome };
        while let Err(SendTimeoutError::Timeout(back)) = row.reply.send_timeout(done, REPLY_WAIT) {
            if self.admission.is_closed() {
                return;
            }
            done = back;
        }
    }
}
