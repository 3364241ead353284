//! What workers say to worker 0 and what worker 0 says to all, as a small dataflow of its own.
//!
//! Statuses are exchanged to worker 0, commands are broadcast from it. Its times only number the messages
//! of an input; nothing waits for a frontier. Whether the workers share a process makes no difference.

use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use tidemill_types::Epoch;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Exchange, Input};
use timely::dataflow::{InputHandle, Stream};
use timely::worker::Worker;

/// What a worker tells worker 0 when it changed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The worker.
    pub(crate) worker: usize,
    /// Records and results fed since the last status.
    pub(crate) changes: u64,
    /// Bytes of values fed since the last status.
    pub(crate) bytes: u64,
    /// Its share of the sources has nothing more before the ends.
    pub(crate) drained: bool,
    /// Requests that wait for an answer here, in flight or not.
    pub(crate) pending: u64,
    /// Requests that were handed to the model.
    pub(crate) in_flight: u64,
    /// Below this epoch the pending requests are final.
    pub(crate) settled: Epoch,
    /// Why this worker's source stopped.
    pub(crate) failed: Option<String>,
    /// The flow has been filled with what is stored.
    pub(crate) filled: bool,
    /// Why it could not be filled.
    pub(crate) broken: Option<String>,
    /// It knows of positions that no epoch has reported.
    pub(crate) moved: bool,
    /// It was told to stop and takes nothing more: what it has reported is all.
    pub(crate) stopped: bool,
}

/// What worker 0 tells all workers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Report the positions of this epoch and go on in the next.
    Close(Epoch),
    /// Take no more records (or go on taking them).
    Pause(bool),
    /// Take nothing more, neither records nor answers, and ask for nothing.
    Stop,
    /// Everything is committed: leave.
    Leave,
}

type Handle<D> = InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<D>>>;

/// One worker's end of the control dataflow.
pub(crate) struct Control {
    status: Handle<Status>,
    command: Handle<Command>,
    statuses: Rc<RefCell<VecDeque<Status>>>,
    commands: Rc<RefCell<VecDeque<Command>>>,
}

fn gather<D: 'static>(stream: Stream<'_, u64, Vec<D>>) -> Rc<RefCell<VecDeque<D>>> {
    type Tokens = timely::container::CapacityContainerBuilder<Vec<()>>;
    let queue = Rc::new(RefCell::new(VecDeque::new()));
    let into = queue.clone();
    let _ = stream.unary::<Tokens, _, _, _>(Pipeline, "gather", move |_, _| {
        move |input, _| {
            input.for_each_stamp(|_, batches| {
                into.borrow_mut().extend(batches.flat_map(|batch| batch.drain(..)));
            });
        }
    });
    queue
}

/// Sends what an input holds. Only the end of a time wakes the operators behind an input, so each
/// message ends one.
fn pass_on<D: Clone + 'static>(input: &mut Handle<D>) {
    let next = input.time() + 1;
    input.advance_to(next);
}

impl Control {
    pub(crate) fn build(worker: &mut Worker) -> Self {
        worker.dataflow::<u64, _, _>(|scope| {
            let (status, up) = scope.new_input::<Vec<Status>>();
            let (command, down) = scope.new_input::<Vec<Command>>();
            let statuses = gather(up.exchange(|_| 0));
            let commands = gather(down.broadcast());
            Self { status, command, statuses, commands }
        })
    }

    pub(crate) fn tell_first(&mut self, status: Status) {
        self.status.send(status);
        pass_on(&mut self.status);
    }

    pub(crate) fn tell_all(&mut self, command: Command) {
        self.command.send(command);
        pass_on(&mut self.command);
    }

    /// The next status that reached this worker (worker 0 only).
    pub(crate) fn next_status(&self) -> Option<Status> {
        self.statuses.borrow_mut().pop_front()
    }

    /// The next command of worker 0.
    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.borrow_mut().pop_front()
    }
}
