//! From pending requests to jobs: the dispatcher finds each request's text and offers it to the model.
//!
//! It lives on a thread of its own. A body that has just arrived is in the cache; any other is read back
//! from its owner, the committed row of the source table, many at a time. A text whose row is not
//! committed yet (or is gone) is *missing*: its worker asks again later if the request still stands.
//! Both directions are bounded: the channel of asks here, the model's queue behind `offer`, and each
//! worker has a limited number of requests in flight, so answers never pile up beyond that.

use crate::bodies::BodyCache;
use crate::model::{Done, Inference, Job, Outcome, Request, TextDigest};
use crate::program::Program;
use crate::view::{ViewError, ViewFailure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_types::Digest;

/// Misses that are read back together.
const MISSES_MAX: usize = 4096;

/// A request of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The worker.
    pub worker: usize,
    /// Its request.
    pub request: Request,
}

/// Where a worker's answers arrive.
pub struct Inbox {
    /// Results.
    pub done: Receiver<Done>,
    /// Requests whose text was not found.
    pub missing: Receiver<TextDigest>,
}

/// Where to send a worker's answers.
pub struct Outbox {
    /// Results.
    pub done: Sender<Done>,
    /// Requests whose text was not found.
    pub missing: Sender<TextDigest>,
}

/// Both ends of a worker's answers. Unbounded as channels, bounded by the worker's requests in flight.
pub fn mailbox() -> (Outbox, Inbox) {
    let (done, done_in) = crossbeam_channel::unbounded();
    let (missing, missing_in) = crossbeam_channel::unbounded();
    (Outbox { done, missing }, Inbox { done: done_in, missing: missing_in })
}

/// A body that is wanted: stream, key of the source table's row, the body's digest.
pub type Wanted = (u8, Digest, Digest);

/// Reads bodies back from committed rows.
pub trait BodyFinder: Send + Sync {
    /// Hands out the bodies of the rows, by their places in `wanted` and in no order; what the newest
    /// commit does not have is left out.
    fn find(&self, wanted: &[Wanted], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), ViewFailure>;
    /// Nothing is wanted for the moment: what was kept for the next call may be forgotten.
    fn rest(&self);
}

/// The dispatcher.
pub struct Dispatcher {
    /// Asks of all workers.
    pub asks: Receiver<Ask>,
    /// One for each worker.
    pub outboxes: Vec<Outbox>,
    /// What has just arrived.
    pub bodies: BodyCache,
    /// Reads back the rest.
    pub finder: Arc<dyn BodyFinder>,
    /// Makes texts of bodies.
    pub program: Arc<dyn Program>,
    /// The model's service.
    pub inference: Arc<dyn Inference>,
    /// Set when the run ends: what still waits is left.
    pub leave: Arc<AtomicBool>,
}

impl Dispatcher {
    /// Runs until all workers have left. An error: the store cannot be read.
    pub fn run(self) -> Result<(), ViewError> {
        let mut misses: Vec<Ask> = Vec::new();
        while !self.leave.load(Ordering::Acquire) {
            // What was missed is read back when no more is asked for a moment.
            let wait = if misses.is_empty() { 50 } else { 5 };
            match self.asks.recv_timeout(Duration::from_millis(wait)) {
                Ok(ask) => match self.bodies.get(ask.request.body) {
                    Some(body) => self.offer(&ask, &body),
                    None => misses.push(ask),
                },
                Err(RecvTimeoutError::Timeout) if misses.is_empty() => self.finder.rest(),
                Err(RecvTimeoutError::Timeout) => self.read_back(&mut misses)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if misses.len() >= MISSES_MAX {
                self.read_back(&mut misses)?;
            }
        }
        Ok(())
    }

    fn read_back(&self, misses: &mut Vec<Ask>) -> Result<(), ViewError> {
        let wanted = |ask: &Ask| {
            let origin = ask.request.text.origin?;
            Some((origin.stream, origin.key, ask.request.body))
        };
        let asks = misses.drain(..).filter_map(|ask| Some((wanted(&ask)?, Some(ask))));
        let (wanted, mut waiting): (Vec<Wanted>, Vec<Option<Ask>>) = asks.unzip();
        if wanted.is_empty() {
            return Ok(());
        }
        let read = self.finder.find(&wanted, &mut |place, body| {
            if let Some(ask) = waiting[place].take() {
                self.offer(&ask, body);
            }
        });
        match read {
            Ok(()) => {}
            Err(ViewFailure::Store(error)) => {
                tracing::warn!(%error, "bodies cannot be read back; trying again")
            }
            Err(ViewFailure::Broken(error)) => return Err(error),
        }
        for ask in waiting.into_iter().flatten() {
            // The worker has left if this fails.
            let _ = self.outboxes[ask.worker].missing.send(ask.request.digest);
        }
        Ok(())
    }

    fn offer(&self, ask: &Ask, body: &[u8]) {
        let outbox = &self.outboxes[ask.worker];
        let Some(origin) = ask.request.text.origin else { return };
        let text = match self.program.text(origin.stream, origin.part, body) {
            Ok(text) => text,
            Err(error) => {
                let outcome = Outcome::Failure { error, attempts: 1 };
                let _ = outbox.done.send(Done { digest: ask.request.digest, outcome });
                return;
            }
        };
        let mut job = Job { digest: ask.request.digest, text: text.into() };
        while let Err(back) = self.inference.offer(job, outbox.done.clone()) {
            // A service that has stopped gives every job back.
            if self.leave.load(Ordering::Acquire) {
                return;
            }
            job = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
