//! The scheduler: the actor that owns the queue, lends batches to the device and supervises it.
//!
//! It never calls the model and never blocks. Everything that it decides follows from four events: a row
//! was offered, a lease was finished, the device died, the service stops. One lease is out at a time; the
//! next is cut when it is back, so what arrives meanwhile is packed together.

use crate::{
    batcher::{Batcher, BatcherOptions, Waiting},
    device::{Device, DeviceArguments, Run, failure},
    lease::{Desk, Lease, Row},
};
use crossbeam_channel::Sender;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::sync::{Arc, atomic::Ordering};
use tidemill_core::model::{AttemptError, Model};

/// What the scheduler is told.
pub(crate) enum SchedulerMessage {
    /// An admitted row.
    Offer(Arc<Row>),
    /// The device has worked off the lease of this number.
    Finished(u64),
    /// End after the lease that is out.
    Stop,
}

/// What the scheduler needs.
pub(crate) struct SchedulerArguments {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) batcher: BatcherOptions,
    /// Dropped when the scheduler has ended, however it did.
    pub(crate) ended: Sender<()>,
}

/// Its state.
pub(crate) struct SchedulerState {
    model: Arc<dyn Model>,
    desk: Arc<Desk>,
    batcher: Batcher<Arc<Row>>,
    device: ActorRef<Run>,
    lease: Option<Arc<Lease>>,
    leases: u64,
    stopping: bool,
    _ended: Sender<()>,
}

/// The actor.
pub(crate) struct Scheduler;

#[ractor::async_trait]
impl Actor for Scheduler {
    type Msg = SchedulerMessage;
    type State = SchedulerState;
    type Arguments = SchedulerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SchedulerMessage>,
        arguments: SchedulerArguments,
    ) -> Result<SchedulerState, ActorProcessingErr> {
        let SchedulerArguments { model, desk, batcher, ended } = arguments;
        Ok(SchedulerState {
            device: start_device(&myself, &model, &desk).await?,
            model,
            desk,
            batcher: Batcher::new(batcher),
            lease: None,
            leases: 0,
            stopping: false,
            _ended: ended,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SchedulerMessage>,
        message: SchedulerMessage,
        state: &mut SchedulerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SchedulerMessage::Offer(row) => state.batcher.push(row.clone(), row.weight),
            SchedulerMessage::Finished(number) => {
                state.take_back(|lease| lease.number == number);
            }
            SchedulerMessage::Stop => state.stopping = true,
        }
        state.go_on(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SchedulerMessage>,
        event: SupervisionEvent,
        state: &mut SchedulerState,
    ) -> Result<(), ActorProcessingErr> {
        let reason = match event {
            SupervisionEvent::ActorFailed(_, error) => error.to_string(),
            SupervisionEvent::ActorTerminated(_, _, reason) => reason.unwrap_or_default(),
            _ => return Ok(()),
        };
        let rows = state.take_back(|_| true);
        tracing::warn!(reason, rows, "device died, starting another");
        if !state.stopping {
            state.desk.count(|c| &c.device_restarts);
            state.device = start_device(&myself, &state.model, &state.desk).await?;
        }
        state.go_on(&myself);
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<SchedulerMessage>,
        state: &mut SchedulerState,
    ) -> Result<(), ActorProcessingErr> {
        state.desk.ended_orderly.store(true, Ordering::Release);
        Ok(())
    }
}

async fn start_device(
    scheduler: &ActorRef<SchedulerMessage>,
    model: &Arc<dyn Model>,
    desk: &Arc<Desk>,
) -> Result<ActorRef<Run>, ActorProcessingErr> {
    let arguments =
        DeviceArguments { model: model.clone(), desk: desk.clone(), scheduler: scheduler.clone() };
    let (device, _) = Actor::spawn_linked(None, Device, arguments, scheduler.get_cell()).await?;
    Ok(device)
}

impl SchedulerState {
    /// Ends the lease that is out, if it is the one meant, and queues again what was not answered;
    /// returns how many rows those were.
    fn take_back(&mut self, is_meant: impl Fn(&Lease) -> bool) -> usize {
        let Some(lease) = self.lease.take_if(|lease| is_meant(lease)) else { return 0 };
        let rows = lease.take_back();
        let count = rows.len();
        rows.into_iter().for_each(|row| self.queue_again(row));
        count
    }

    /// A row whose devices keep dying fails for good like any other.
    fn queue_again(&mut self, row: Waiting<Arc<Row>>) {
        if row.item.attempts() < self.desk.attempts_max {
            return self.batcher.give_back(row);
        }
        let desk = self.desk.clone();
        let error = AttemptError("its device died in every attempt".into());
        // Not here: an answer may block on the reply channel.
        tokio::task::spawn_blocking(move || {
            desk.answer(&row.item, failure(error, row.item.attempts()));
        });
    }

    /// Lends the next batch when none is out; when stopping, ends instead.
    fn go_on(&mut self, myself: &ActorRef<SchedulerMessage>) {
        if self.lease.is_some() {
            return;
        }
        if self.stopping {
            return myself.stop(None);
        }
        let rows = self.batcher.next_batch();
        if rows.is_empty() {
            return;
        }
        self.leases += 1;
        self.desk.count(|c| &c.batches);
        let lease = Arc::new(Lease::new(self.leases, rows));
        self.lease = Some(lease.clone());
        if self.device.cast(Run(lease)).is_err() {
            tracing::debug!("device is gone; the news of its death brings the batch back");
        }
    }
}
