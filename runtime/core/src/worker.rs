//! One timely worker: feeds what its source decoded, closes epochs as worker 0 says, hands requests to
//! the model and feeds back what it answered.
//!
//! A worker never waits for I/O: sources, uploads and models live on threads of their own behind bounded
//! channels. It takes records only while the open epoch is below its byte bound and memory is not short;
//! else the channel fills and the source pauses. Nothing here assumes memory shared with another worker: what crosses
//! goes through the control dataflow, the flow's exchanges or the collect stream.

use crate::builder::{Builder, FlowInput, PendingShare};
use crate::conductor::{Conductor, ConductorOptions, FromConductor, ToConductor};
use crate::control::{Command, Control, Status};
use crate::epoch::EpochSettings;
use crate::infer::{Ask, Inbox};
use crate::model::{Request, ResultRow, TextDigest};
use crate::program::Program;
use crate::seal::{Collected, Pinned, Report, Restored, Seal, Upload, collect};
use crate::source::SourceBatch;
use crate::view::{Portion, Share, Stored};
use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill_types::{Epoch, ModelId, Partition, TableSchema};
use timely::dataflow::operators::{Concat, Input};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;

/// What a source thread tells its worker.
pub enum FromSource {
    /// Decoded records and the positions after them.
    Batch(Box<SourceBatch>),
    /// Everything before the ends that were taken at the start has been handed over.
    Drained,
    /// The source stopped.
    Failed(String),
}

/// What all workers of a run share at its start; each takes its own ends out of it.
pub struct Plan {
    /// The program.
    pub program: Arc<dyn Program>,
    /// Its tables.
    pub schemas: Arc<[TableSchema]>,
    /// The store's models, the one in force last.
    pub models: Arc<[ModelId]>,
    /// What is stored at the claim.
    pub stored: Arc<dyn Stored>,
    /// The epoch of the claim.
    pub claim: Epoch,
    /// Whether program, settings or models differ from what is stored.
    pub changed: bool,
    /// Whether the first epoch is committed at once, whatever it holds.
    pub force_first: bool,
    /// Where segments go.
    pub upload: Arc<dyn Upload>,
    /// When epochs close.
    pub epochs: EpochSettings,
    /// Whether the workers begin paused: they take no records before they are told to go on.
    pub paused: bool,
    /// Whether the run ends when the sources are drained.
    pub drain: bool,
    /// While it is set no records are taken in: memory of this process is short.
    pub hold: Arc<AtomicBool>,
    /// Requests that one worker has in flight at most.
    pub in_flight_max: usize,
    /// Microseconds of a monotonic clock.
    pub now: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// One worker's ends of the channels to the edge.
pub struct Ends {
    /// From its source thread.
    pub source: Receiver<FromSource>,
    /// Bytes of values that are on that channel.
    pub waiting: Arc<AtomicU64>,
    /// To the dispatcher of requests.
    pub ask: Sender<Ask>,
    /// Answers.
    pub inbox: Inbox,
    /// Worker 0 only: from and to the edge.
    pub conductor: Option<(Receiver<ToConductor>, Sender<FromConductor>)>,
}

/// Requests that are on their way: from being asked until the flow has taken their results in.
#[derive(Default)]
struct Flights {
    /// All of them.
    asked: HashMap<TextDigest, Request>,
    /// Those whose result was fed, by the epoch that it was fed in, oldest first.
    answered: VecDeque<(Epoch, TextDigest)>,
    /// Those whose text was not found, by the time at which they may be asked again, oldest first.
    missing: VecDeque<(u64, TextDigest)>,
}

/// What a record takes in an epoch besides its value, bytes: empty values must count too.
const RECORD_BYTES: u64 = 128;

/// How long a request rests whose text was not found, microseconds.
const MISSING_REST: u64 = 500_000;

struct Running {
    index: usize,
    workers: u64,
    plan: Arc<Plan>,
    ends: Ends,
    control: Control,
    words: BTreeMap<usize, Box<dyn FlowInput>>,
    results: Option<Box<dyn FlowInput>>,
    rejects: Option<Box<dyn FlowInput>>,
    reports: InputHandle<Epoch, timely::container::CapacityContainerBuilder<Vec<Report>>>,
    pinned: Pinned,
    pending: PendingShare,
    pending_probe: ProbeHandle<Epoch>,
    flights: Flights,
    streams: Vec<String>,
    positions: BTreeMap<(usize, Partition), (u64, serde_json::Value)>,
    epoch: Epoch,
    epoch_bytes: u64,
    paused: bool,
    drained: bool,
    failed: Option<String>,
    filled: bool,
    broken: Option<String>,
    stopping: bool,
    unreported: (u64, u64),
    told: Status,
    left: bool,
}

/// Runs one worker to the end of the run. An error: what is stored could not be taken in.
pub fn run(worker: &mut Worker, plan: Arc<Plan>, ends: Ends) -> Result<(), String> {
    let mut share = WorkerShare::build(worker, plan, ends);
    let mut quiet_rounds = 0;
    while !share.has_left() {
        let busy = share.round();
        quiet_rounds = if busy { 0 } else { u32::saturating_add(quiet_rounds, 1) };
        worker.step_or_park(Some(rest(quiet_rounds)));
    }
    Ok(())
}

/// One worker's share of a run: what it does between two steps of its dataflows.
pub struct WorkerShare {
    running: Running,
    conductor: Option<Conductor>,
    now: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl WorkerShare {
    /// Builds the dataflows on a worker, and fills them with its share of what is stored.
    pub fn build(worker: &mut Worker, plan: Arc<Plan>, ends: Ends) -> Self {
        let control = Control::build(worker);
        let collected = Collected::starting_at(plan.claim + 1);
        let into = collected.clone();
        let mut running = build(worker, &plan, ends, control, into);
        let conductor = running.ends.conductor.take().map(|(events, edge)| {
            let options = ConductorOptions {
                epochs: plan.epochs,
                first: plan.claim + 1,
                force_first: plan.force_first,
                drain: plan.drain,
                workers: worker.peers(),
            };
            Conductor::new(options, collected, events, edge, (plan.now)())
        });
        let share = Share { number: worker.index(), of: worker.peers() };
        if let Err(error) = running.restore(share) {
            running.broken = Some(error);
        }
        Self { running, conductor, now: plan.now.clone() }
    }

    /// Looks at all channels once. Says whether anything happened.
    pub fn round(&mut self) -> bool {
        let mut busy = self.running.step();
        if let Some(conductor) = &mut self.conductor {
            busy |= conductor.step(&mut self.running.control, (self.now)());
        }
        busy
    }

    /// Whether it was told to leave.
    pub fn has_left(&self) -> bool {
        self.running.left
    }
}

/// How long a worker rests, at most, before it looks at its channels again: briefly at first, and longer
/// when nothing has come for a while, so that an idle service takes next to no time.
fn rest(quiet_rounds: u32) -> Duration {
    match quiet_rounds {
        0 => Duration::ZERO,
        1..=500 => Duration::from_millis(1),
        _ => Duration::from_millis(5),
    }
}

fn build(
    worker: &mut Worker,
    plan: &Arc<Plan>,
    ends: Ends,
    control: Control,
    collected: crate::seal::SharedCollected,
) -> Running {
    let pinned = Pinned::default();
    let derived = plan.schemas.iter().enumerate().filter(|(_, s)| plan.program.is_derived(&s.name));
    let derived = derived.map(|(place, _)| place).collect();
    let restored = Restored { epoch: plan.claim, recompute: plan.changed.then_some(derived) };
    let index = worker.index();
    let (wired, reports) = worker.dataflow::<Epoch, _, _>(|scope| {
        let builder = Builder::new(scope, plan.schemas.clone(), plan.models.clone(), Some(restored.clone()));
        let (mut wired, tokens) = builder.wire(&*plan.program);
        let seal = Seal {
            worker: index,
            tables: std::mem::take(&mut wired.tables),
            pinned: pinned.clone(),
            upload: plan.upload.clone(),
            restored,
        };
        let segments = seal.build(scope, tokens);
        let (reports, positions) = scope.new_input::<Vec<Report>>();
        collect(segments.concat(positions), collected);
        (wired, reports)
    });
    Running {
        index,
        workers: worker.peers() as u64,
        plan: plan.clone(),
        ends,
        control,
        words: wired.words,
        results: wired.results,
        rejects: wired.rejects,
        reports,
        pinned,
        pending: wired.pending,
        pending_probe: wired.pending_probe,
        flights: Flights::default(),
        streams: plan.program.streams().into_iter().map(|stream| stream.name).collect(),
        positions: BTreeMap::new(),
        epoch: plan.claim,
        epoch_bytes: 0,
        paused: plan.paused,
        drained: false,
        failed: None,
        filled: false,
        broken: None,
        stopping: false,
        unreported: (0, 0),
        told: Status::default(),
        left: false,
    }
}

impl Running {
    fn inputs(&mut self) -> impl Iterator<Item = &mut Box<dyn FlowInput>> {
        self.words.values_mut().chain(&mut self.results).chain(&mut self.rejects)
    }

    /// Fills the flow with what is stored, at the claim's epoch, and opens the next.
    fn restore(&mut self, share: Share) -> Result<(), String> {
        let (epoch, stored) = (self.epoch, self.plan.stored.clone());
        for input in self.inputs() {
            input.advance_to(epoch);
            input.restore(&*stored, Portion::Any(share)).map_err(|error| error.to_string())?;
        }
        self.reports.advance_to(epoch);
        self.open(epoch + 1);
        self.filled = true;
        Ok(())
    }

    fn open(&mut self, epoch: Epoch) {
        self.inputs().for_each(|input| input.advance_to(epoch));
        self.reports.advance_to(epoch);
        self.epoch = epoch;
        self.epoch_bytes = 0;
    }

    fn step(&mut self) -> bool {
        let mut busy = false;
        while let Some(command) = self.control.next_command() {
            busy = true;
            match command {
                Command::Close(epoch) => self.close(epoch),
                Command::Pause(paused) => self.paused = paused,
                Command::Stop => self.stopping = true,
                Command::Leave => self.left = true,
            }
        }
        if self.filled && !self.stopping {
            busy |= self.take_records();
            busy |= self.take_answers();
            busy |= self.ask();
        }
        self.tell_status();
        busy
    }

    /// Reports where the sources stand and goes on in the next epoch.
    fn close(&mut self, epoch: Epoch) {
        debug_assert_eq!(epoch, self.epoch, "epochs close in order");
        for ((stream, partition), (next, cursor)) in std::mem::take(&mut self.positions) {
            let stream = self.streams[stream].clone();
            self.reports.send(Report::Position(stream, partition.to_string(), next, cursor.to_string()));
        }
        self.open(epoch + 1);
    }

    fn take_records(&mut self) -> bool {
        let full = self.epoch_bytes >= self.plan.epochs.bytes_max / self.workers;
        let held = self.paused || self.plan.hold.load(Ordering::Relaxed);
        if held || full || self.failed.is_some() {
            return false;
        }
        match self.ends.source.try_recv() {
            Ok(FromSource::Batch(batch)) => {
                self.ends.waiting.fetch_sub(batch.bytes, Ordering::AcqRel);
                self.feed(*batch);
            }
            Ok(FromSource::Drained) => self.drained = true,
            Ok(FromSource::Failed(error)) => self.failed = Some(error),
            Err(_) => return false,
        }
        true
    }

    fn feed(&mut self, batch: SourceBatch) {
        for (stream, words) in batch.words {
            if let Some(input) = self.words.get_mut(&stream) {
                input.feed(words);
            }
        }
        if let Some(input) = self.rejects.as_mut().filter(|_| !batch.rejects.is_empty()) {
            input.feed(Box::new(batch.rejects));
        }
        for (stream, partition, next, cursor) in batch.positions {
            self.positions.insert((stream, partition), (next, cursor));
        }
        if !batch.bodies.is_empty() {
            self.pinned.borrow_mut().entry(self.epoch).or_default().extend(batch.bodies);
        }
        let bytes = batch.bytes + RECORD_BYTES * batch.records;
        self.epoch_bytes += bytes;
        self.unreported.0 += batch.records.max(u64::from(batch.matters));
        self.unreported.1 += bytes;
    }

    /// Feeds what the model answered into the open epoch.
    fn take_answers(&mut self) -> bool {
        let model = (self.plan.models.len() - 1) as u32;
        let mut rows = Vec::new();
        while let Ok(done) = self.ends.inbox.done.try_recv() {
            self.flights.answered.push_back((self.epoch, done.digest));
            rows.push(ResultRow { digest: done.digest, model, outcome: Arc::new(done.outcome) });
        }
        while let Ok(digest) = self.ends.inbox.missing.try_recv() {
            self.flights.missing.push_back(((self.plan.now)() + MISSING_REST, digest));
        }
        let Some(input) = self.results.as_mut().filter(|_| !rows.is_empty()) else { return false };
        self.unreported.0 += rows.len() as u64;
        input.feed(Box::new(rows));
        true
    }

    /// Forgets requests whose results the flow has taken in; those without a text wait again.
    fn land(&mut self) {
        let (flights, pending) = (&mut self.flights, &mut *self.pending.borrow_mut());
        while let Some((_, digest)) =
            flights.answered.pop_front_if(|(epoch, _)| !self.pending_probe.less_equal(epoch))
        {
            // It may be wanted again: its result was taken in, so then it is not pending.
            if let Some(request) = flights.asked.remove(&digest).filter(|request| pending.waits(request)) {
                pending.fresh.push_back(request);
            }
        }
        let now = (self.plan.now)();
        while let Some((_, digest)) = flights.missing.pop_front_if(|(until, _)| *until <= now) {
            if let Some(request) = flights.asked.remove(&digest).filter(|request| pending.waits(request)) {
                pending.fresh.push_back(request);
            }
        }
    }

    /// Hands pending requests to the dispatcher, oldest first, as many as may be in flight.
    fn ask(&mut self) -> bool {
        self.land();
        let (flights, pending) = (&mut self.flights, &mut *self.pending.borrow_mut());
        let mut asked = false;
        while flights.asked.len() < self.plan.in_flight_max {
            let Some(request) = pending.fresh.front().copied() else { break };
            let (waits, flies) = (pending.waits(&request), flights.asked.contains_key(&request.digest));
            let ask = Ask { worker: self.index, request };
            if waits && !flies && self.ends.ask.try_send(ask).is_err() {
                break;
            }
            pending.fresh.pop_front();
            if waits {
                // Of one that is on its way the newer origin is kept, should the older be gone.
                flights.asked.insert(request.digest, request);
                asked |= !flies;
            }
        }
        asked
    }

    fn tell_status(&mut self) {
        let settled = self.pending_probe.with_frontier(|frontier| frontier.first().copied());
        let status = Status {
            worker: self.index,
            changes: self.unreported.0,
            bytes: self.unreported.1,
            drained: self.drained,
            pending: self.pending.borrow().counts.len() as u64,
            in_flight: self.flights.asked.len() as u64,
            settled: settled.unwrap_or(Epoch::MAX),
            failed: self.failed.clone(),
            filled: self.filled,
            broken: self.broken.clone(),
            moved: !self.positions.is_empty(),
            stopped: self.stopping,
        };
        if status != self.told {
            self.unreported = (0, 0);
            self.told = Status { changes: 0, bytes: 0, ..status.clone() };
            self.control.tell_first(status);
        }
    }
}
