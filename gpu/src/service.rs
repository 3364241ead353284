//! The inference service: options, start, offer, stop.
//!
//! The service is a handle. The work is done by two actors on the runtime that it was started on, and by
//! one blocking thread while a batch is in hand.

use crate::{
    admission::{Admission, Counters, Metrics},
    batcher::BatcherOptions,
    device::guarded,
    lease::{Desk, Row},
    scheduler::{Scheduler, SchedulerArguments, SchedulerMessage},
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use ractor::{ActorRef, ActorRuntime};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tidemill_core::{
    model::{Done, Inference, Job, Model},
    source::SourceError,
};
use tidemill_types::ModelId;

/// How a service batches, bounds and retries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The most tokens in a batch; a longer row goes alone.
    pub batch_tokens: u64,
    /// The most rows in a batch.
    pub batch_rows: usize,
    /// After so many batches without it, a row goes before all younger ones.
    pub passes_max: u64,
    /// The most tokens that may be admitted and not answered; one longer job enters an empty queue.
    pub queue_tokens_max: u64,
    /// The most rows that may be admitted and not answered.
    pub queue_rows_max: usize,
    /// How often a row is tried by itself before it has failed for good.
    pub attempts_max: u32,
    /// How long a stop waits for the batch in hand.
    pub stop_wait: Duration,
}

impl Default for Options {
    /// Batches of 512 rows or 65,536 tokens, a queue of 32 of them, three attempts, a minute for a stop.
    fn default() -> Self {
        Self {
            batch_tokens: 1 << 16,
            batch_rows: 512,
            passes_max: 8,
            queue_tokens_max: 1 << 21,
            queue_rows_max: 1 << 14,
            attempts_max: 3,
            stop_wait: Duration::from_secs(60),
        }
    }
}

/// An option has a value with which nothing could ever be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the inference option {0} is 0; set it to at least 1")]
pub struct OptionsError(pub &'static str);

impl Options {
    /// Names the first option that is 0 and must not be.
    pub fn check(&self) -> Result<(), OptionsError> {
        let zeros = [
            ("batch_tokens", self.batch_tokens == 0),
            ("batch_rows", self.batch_rows == 0),
            ("queue_tokens_max", self.queue_tokens_max == 0),
            ("queue_rows_max", self.queue_rows_max == 0),
            ("attempts_max", self.attempts_max == 0),
        ];
        zeros.into_iter().find(|(_, zero)| *zero).map_or(Ok(()), |(name, _)| Err(OptionsError(name)))
    }

    fn batcher(&self) -> BatcherOptions {
        BatcherOptions {
            batch_tokens: self.batch_tokens,
            batch_rows: self.batch_rows,
            passes_max: self.passes_max,
        }
    }
}

/// A running service. Dropping it stops it without waiting.
pub struct InferenceService {
    id: ModelId,
    model: Arc<dyn Model>,
    desk: Arc<Desk>,
    scheduler: ActorRef<SchedulerMessage>,
    /// Disconnected once the scheduler has ended.
    ended: Receiver<()>,
    stop_wait: Duration,
}

impl InferenceService {
    /// Starts the actors on a runtime, which must outlive the service; may be called from anywhere.
    /// Fails when an option makes no sense.
    pub fn start(
        model: Arc<dyn Model>,
        options: Options,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, OptionsError> {
        options.check()?;
        let desk = Arc::new(Desk {
            admission: Admission::new(options.queue_rows_max, options.queue_tokens_max),
            counters: Counters::default(),
            attempts_max: options.attempts_max,
            ended_orderly: AtomicBool::new(false),
        });
        let (sender, ended) = bounded(0);
        let arguments = SchedulerArguments {
            model: model.clone(),
            desk: desk.clone(),
            batcher: options.batcher(),
            ended: sender,
        };
        let _inside = runtime.enter();
        let (scheduler, _) = ActorRuntime::spawn_instant(None, Scheduler, arguments)
            .expect("only a name that is taken is refused, and the scheduler has none");
        let stop_wait = options.stop_wait;
        Ok(Self { id: model.id(), model, desk, scheduler, ended, stop_wait })
    }

    /// What it holds and has done.
    pub fn metrics(&self) -> Metrics {
        self.desk.counters.snapshot(&self.desk.admission)
    }

    /// Whether it still takes and answers jobs. Once it does not, all that it holds is lost; where nobody
    /// has stopped it, [`Inference::stop`] says why it ended.
    pub fn is_running(&self) -> bool {
        !self.desk.admission.is_closed() && self.ended.try_recv() != Err(TryRecvError::Disconnected)
    }

    /// Counts the tokens of a job's text. A model that panics at it shall do so in an attempt, where it
    /// counts against the row; until then a quarter of the bytes stands for them.
    fn row(&self, job: Job, reply: Sender<Done>) -> Row {
        let tokens = guarded(|| self.model.tokens(&job.text)).ok();
        let weight = tokens.unwrap_or_else(|| (job.text.len() as u64).div_ceil(4));
        Row { job, weight, tokens, attempts: AtomicU32::new(0), reply }
    }

    fn ask_to_stop(&self) {
        self.desk.admission.close();
        if self.scheduler.cast(SchedulerMessage::Stop).is_err() {
            tracing::debug!("scheduler has ended already");
        }
    }
}

impl Inference for InferenceService {
    fn model(&self) -> ModelId {
        self.id.clone()
    }

    /// Never waits. `Err` also when the service stops or has ended.
    fn offer(&self, job: Job, reply: Sender<Done>) -> Result<(), Job> {
        let row = self.row(job, reply);
        let weight = row.weight;
        if !self.desk.admission.admit(weight) {
            return Err(row.job);
        }
        let row = Arc::new(row);
        self.scheduler.cast(SchedulerMessage::Offer(row.clone())).map_err(|_| {
            tracing::error!("scheduler is gone, all jobs are refused");
            self.desk.admission.close();
            self.desk.admission.release(weight);
            row.job.clone()
        })
    }

    /// Blocks until the batch in hand is over, so it must not be called on the runtime's own threads.
    /// The replies of that batch are sent as far as their channels have room. May be called again.
    fn stop(&self) -> Result<(), SourceError> {
        self.ask_to_stop();
        let id = || format!("{}@{}", self.id.model, self.id.version);
        match self.ended.recv_timeout(self.stop_wait) {
            Err(RecvTimeoutError::Timeout) => Err(SourceError(format!(
                "a batch of the model {} still runs {:?} after it was asked to stop; raise stop_wait, or \
                 lower batch_tokens",
                id(),
                self.stop_wait
            ))),
            _ if self.desk.ended_orderly.load(Ordering::Acquire) => Ok(()),
            _ => Err(SourceError(format!(
                "the scheduler of the model {} ended before it was asked to, because it panicked or its \
                 runtime was shut down; jobs that waited got no reply, so start the service again",
                id()
            ))),
        }
    }
}

impl Drop for InferenceService {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

#[cfg(test)]
mod tests;
