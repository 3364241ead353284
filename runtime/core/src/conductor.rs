//! Worker 0's part: closing epochs, handing sealed ones to the committer, and ending a run in order.
//!
//! ```text
//!  Running ──stop, drained or failed──> Closing ──all committed──> Publishing ──named──> leave
//! ```
//!
//! A drained run ends when every worker has fed everything before the ends, nothing is pending, and all
//! of it is committed: the worker's last status says below which epoch its pending requests are final,
//! so a request that the last epoch made is not overlooked. An orderly stop does not wait for what is
//! pending; it waits until every worker has said that it takes nothing more, and seals and commits what
//! was read until then.

use crate::commit::SealedEpoch;
use crate::control::{Command, Control, Status};
use crate::epoch::{EpochDriver, EpochSettings};
use crate::seal::SharedCollected;
use crossbeam_channel::{Receiver, Sender};
use tidemill_types::Epoch;

/// What the edge tells worker 0.
#[derive(Clone, PartialEq, Debug)]
pub enum ToConductor {
    /// An epoch is committed.
    Committed(Epoch),
    /// A publication is complete and waits to be named, or something else wants a commit.
    Force,
    /// The publisher is too far behind (or has caught up): sources pause (or go on).
    Pause(bool),
    /// Seal, commit, publish, leave.
    Stop,
    /// Leave at once: the store is another's, or cannot be written.
    Abort,
    /// The last publication is named, or there was nothing to publish.
    Finished,
}

/// What worker 0 tells the edge.
#[derive(Clone, Debug)]
pub enum FromConductor {
    /// Every worker holds what is stored: from now on epochs are closed. Told once.
    Filled,
    /// The flow has worked through what it was filled with.
    Computed,
    /// An epoch was closed; microseconds of the run's stopwatch.
    Closed {
        /// The epoch.
        epoch: Epoch,
        /// When it was opened: no record of it was taken in before.
        opened_at: u64,
        /// When it was closed.
        closed_at: u64,
    },
    /// A closed epoch is durable in its segments.
    Sealed(SealedEpoch),
    /// Everything is committed: publish the last epoch, then say `Finished`.
    Finish,
    /// A source stopped: what was read is to be sealed, committed and published.
    SourceFailed(String),
    /// The run cannot go on.
    Failed(String),
    /// Requests that wait for an answer, and how many of them the model has.
    Pending(u64, u64),
    /// Whether the open epoch holds anything now. (What waits before the workers is in no epoch yet.)
    Holds(bool),
    /// The workers are told to leave.
    Leaving,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    Closing,
    Publishing,
    Left,
}

pub(crate) struct Conductor {
    driver: EpochDriver,
    statuses: Vec<Status>,
    collected: SharedCollected,
    events: Receiver<ToConductor>,
    edge: Sender<FromConductor>,
    phase: Phase,
    drain: bool,
    stopping: bool,
    filled: bool,
    first: Epoch,
    computed: bool,
    pending: (u64, u64),
    holds: bool,
}

pub(crate) struct ConductorOptions {
    pub(crate) epochs: EpochSettings,
    pub(crate) first: Epoch,
    pub(crate) force_first: bool,
    pub(crate) drain: bool,
    pub(crate) workers: usize,
}

impl Conductor {
    pub(crate) fn new(
        options: ConductorOptions,
        collected: SharedCollected,
        events: Receiver<ToConductor>,
        edge: Sender<FromConductor>,
        now: u64,
    ) -> Self {
        let mut driver = EpochDriver::new(options.epochs, options.first, now);
        if options.force_first {
            driver.force();
        }
        Self {
            driver,
            statuses: vec![Status::default(); options.workers],
            collected,
            events,
            edge,
            phase: Phase::Running,
            drain: options.drain,
            stopping: false,
            filled: false,
            first: options.first,
            computed: false,
            pending: (0, 0),
            holds: false,
        }
    }

    /// One round. Says whether anything happened.
    pub(crate) fn step(&mut self, control: &mut Control, now: u64) -> bool {
        let mut busy = false;
        while let Some(status) = control.next_status() {
            busy = true;
            self.take_status(status);
        }
        self.tell_pending();
        while let Ok(event) = self.events.try_recv() {
            busy = true;
            self.take_event(event, control);
        }
        while let Some(sealed) = self.pop_sealed() {
            busy = true;
            match sealed {
                Ok(epoch) => self.tell_edge(FromConductor::Sealed(epoch)),
                Err(error) => self.tell_edge(FromConductor::Failed(error)),
            }
        }
        // Nothing is sealed before every worker holds what is stored: a table would lose what is missing.
        if self.phase != Phase::Left && self.statuses.iter().all(|status| status.filled) {
            if !std::mem::replace(&mut self.filled, true) {
                self.tell_edge(FromConductor::Filled);
            }
            let computed = self.statuses.iter().all(|status| status.settled >= self.first);
            if computed && !std::mem::replace(&mut self.computed, true) {
                self.tell_edge(FromConductor::Computed);
            }
            self.advance_phase();
            let opened_at = self.driver.opened_at();
            if let Some(closed) = self.driver.close(now) {
                busy = true;
                self.tell_edge(FromConductor::Closed { epoch: closed, opened_at, closed_at: now });
                control.tell_all(Command::Close(closed));
            }
        }
        self.tell_holds();
        busy
    }

    fn pop_sealed(&mut self) -> Option<Result<SealedEpoch, String>> {
        self.collected.borrow_mut().pop()
    }

    fn tell_edge(&self, message: FromConductor) {
        // The edge is gone only when the run is being torn down.
        let _ = self.edge.send(message);
    }

    fn take_status(&mut self, status: Status) {
        self.driver.took(status.changes, status.bytes);
        if let Some(error) = &status.failed {
            self.tell_edge(FromConductor::SourceFailed(error.clone()));
        }
        if let Some(error) = &status.broken {
            self.tell_edge(FromConductor::Failed(error.clone()));
        }
        let worker = status.worker;
        self.statuses[worker] = status;
    }

    fn tell_pending(&mut self) {
        let pending = self.statuses.iter().map(|s| s.pending).sum();
        let in_flight = self.statuses.iter().map(|s| s.in_flight).sum();
        if self.pending != (pending, in_flight) {
            self.pending = (pending, in_flight);
            self.tell_edge(FromConductor::Pending(pending, in_flight));
        }
    }

    fn tell_holds(&mut self) {
        let holds = self.driver.has_changes();
        if std::mem::replace(&mut self.holds, holds) != holds {
            self.tell_edge(FromConductor::Holds(holds));
        }
    }

    fn take_event(&mut self, event: ToConductor, control: &mut Control) {
        match event {
            ToConductor::Committed(epoch) => self.driver.committed(epoch),
            ToConductor::Force => self.driver.force(),
            ToConductor::Pause(paused) => control.tell_all(Command::Pause(paused)),
            ToConductor::Stop if self.phase == Phase::Running => {
                control.tell_all(Command::Stop);
                self.phase = Phase::Closing;
                self.stopping = true;
            }
            ToConductor::Stop => {}
            ToConductor::Abort | ToConductor::Finished => {
                self.tell_edge(FromConductor::Leaving);
                control.tell_all(Command::Leave);
                self.phase = Phase::Left;
            }
        }
    }

    fn advance_phase(&mut self) {
        if self.phase == Phase::Running && self.drain && self.is_drained() {
            self.phase = Phase::Closing;
        }
        if self.phase == Phase::Closing {
            let all_said = !self.stopping || self.statuses.iter().all(|status| status.stopped);
            match self.driver.is_idle() {
                // What the sources have passed over is no change, but where they stand is worth a last commit.
                true if all_said && self.statuses.iter().any(|status| status.moved) => self.driver.force(),
                true if all_said => {
                    self.phase = Phase::Publishing;
                    self.tell_edge(FromConductor::Finish);
                }
                false if self.driver.has_changes() => self.driver.force(),
                true | false => {}
            }
        }
    }

    fn is_drained(&self) -> bool {
        let open = self.driver.open();
        let settled = |s: &Status| s.drained && s.pending == 0 && s.in_flight == 0 && s.settled >= open;
        self.driver.is_idle() && self.statuses.iter().all(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Collected;

    const FIRST: Epoch = 5;

    /// Worker 0's part beside two workers whose statuses a test says.
    struct Seat {
        conductor: Conductor,
        control: Control,
        tell: Sender<ToConductor>,
        told: Receiver<FromConductor>,
    }

    impl Seat {
        fn of_two(worker: &mut timely::worker::Worker, drain: bool, force_first: bool) -> Self {
            let (tell, events) = crossbeam_channel::unbounded();
            let (edge, told) = crossbeam_channel::unbounded();
            let epochs = EpochSettings { interval: 1_000_000, bytes_max: 1 << 20 };
            let options = ConductorOptions { epochs, first: FIRST, force_first, drain, workers: 2 };
            let conductor = Conductor::new(options, Collected::starting_at(FIRST), events, edge, 0);
            Self { conductor, control: Control::build(worker), tell, told }
        }

        /// What is told of once both workers have these statuses.
        fn tells(&mut self, statuses: [Status; 2]) -> Vec<&'static str> {
            for (worker, status) in statuses.into_iter().enumerate() {
                self.conductor.take_status(Status { worker, ..status });
            }
            self.conductor.step(&mut self.control, 1);
            let name = |message| match message {
                FromConductor::Filled => Some("filled"),
                FromConductor::Computed => Some("computed"),
                FromConductor::Closed { .. } => Some("closed"),
                FromConductor::Finish => Some("finish"),
                _ => None,
            };
            self.told.try_iter().filter_map(name).collect()
        }
    }

    fn filled() -> Status {
        Status { filled: true, settled: Epoch::MAX, ..Status::default() }
    }

    fn beside_two(drain: bool, force_first: bool, test: impl FnOnce(Seat) + Send + Sync + 'static) {
        timely::execute_directly(move |worker| test(Seat::of_two(worker, drain, force_first)));
    }

    #[test]
    fn no_epoch_is_closed_before_every_worker_is_filled() {
        beside_two(false, true, |mut seat| {
            assert!(seat.tells([filled(), Status::default()]).is_empty());
            assert!(seat.tells([Status::default(), filled()]).is_empty());
            assert_eq!(seat.tells([filled(), filled()]), ["filled", "computed", "closed"]);
            assert!(seat.tells([filled(), filled()]).is_empty(), "each is told once");
        });
    }

    #[test]
    fn it_is_computed_when_every_worker_has_worked_through_what_was_stored() {
        beside_two(false, false, |mut seat| {
            let works = || Status { settled: FIRST - 1, ..filled() };
            assert_eq!(seat.tells([filled(), works()]), ["filled"]);
            assert!(seat.tells([works(), filled()]).is_empty());
            assert_eq!(seat.tells([filled(), filled()]), ["computed"]);
        });
    }

    #[test]
    fn a_run_is_drained_when_every_worker_is_and_nothing_is_pending() {
        let drained = || Status { drained: true, ..filled() };
        let others = [
            filled(),
            Status { pending: 1, ..drained() },
            Status { in_flight: 1, ..drained() },
            Status { settled: FIRST - 1, ..drained() },
        ];
        beside_two(true, false, move |mut seat| {
            for other in others {
                let told = seat.tells([drained(), other.clone()]);
                assert!(!told.contains(&"finish"), "beside {other:?}");
                assert!(!seat.tells([other.clone(), drained()]).contains(&"finish"), "beside {other:?}");
            }
            assert!(seat.tells([drained(), drained()]).contains(&"finish"));
        });
    }

    #[test]
    fn an_orderly_stop_waits_until_every_worker_takes_nothing_more() {
        beside_two(false, false, |mut seat| {
            seat.tells([filled(), filled()]);
            seat.tell.send(ToConductor::Stop).expect("it listens");
            let stopped = || Status { stopped: true, ..filled() };
            assert!(seat.tells([stopped(), filled()]).is_empty());
            assert!(seat.tells([filled(), stopped()]).is_empty());
            assert_eq!(seat.tells([stopped(), stopped()]), ["finish"]);
        });
    }

    #[test]
    fn where_a_source_stands_is_worth_a_last_commit() {
        beside_two(false, false, |mut seat| {
            seat.tells([filled(), filled()]);
            seat.tell.send(ToConductor::Stop).expect("it listens");
            let moved = Status { stopped: true, moved: true, ..filled() };
            assert_eq!(seat.tells([Status { stopped: true, ..filled() }, moved]), ["closed"]);
        });
    }
}
