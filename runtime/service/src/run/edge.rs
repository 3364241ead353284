//! The threads and tasks around the timely workers: launched together, torn down together.

use super::clock::Stopwatch;
use super::counted;
use super::finding::Finder;
use super::gauges::Gauges;
use super::memory::MemoryWatch;
use super::recovery::Recovery;
use super::start::{Filling, Started, StoredAtStart};
use crate::Error;
use crate::config::Settings;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use futures::channel::mpsc::UnboundedReceiver;
use futures::channel::mpsc::{UnboundedSender, unbounded as tasks};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tidemill_connectors::store::SegmentCache;
use tidemill_core::bodies::BodyCache;
use tidemill_core::commit::{Committer, SealedEpoch};
use tidemill_core::conductor::{FromConductor, ToConductor};
use tidemill_core::epoch::EpochSettings;
use tidemill_core::infer::{Ask, Dispatcher, Inbox, mailbox};
use tidemill_core::model::Inference;
use tidemill_core::program::Program;
use tidemill_core::reader::{self, ToWorker, read};
use tidemill_core::source::SourceFactory;
use tidemill_core::worker::{self, Plan};
use tidemill_core::writer::{
    CommitWatch, Commits, CommitsEnded, Due, Publishing, Sweeper, ToCommitter, ToPublisher, UploadWatch,
    Uploads,
};
use tidemill_gpu::InferenceService;
use tidemill_types::{Asked, Root};
use timely::WorkerConfig;
use timely::communication::WorkerGuards;

/// Batches that wait between a source and its worker.
pub(super) const BATCHES: usize = 4;
/// Requests that wait for the dispatcher.
const ASKS: usize = 4096;
/// Requests that one worker has on their way.
const IN_FLIGHT_MAX: usize = 32_768;

/// What a launch needs besides the claimed store.
pub(super) struct Launch<'a> {
    pub(super) settings: &'a Settings,
    pub(super) sources: &'a dyn SourceFactory,
    pub(super) inference: Arc<InferenceService>,
    pub(super) bodies: BodyCache,
    pub(super) ends: reader::Ends,
    pub(super) drain: bool,
}

/// A running edge.
pub(super) struct Edge {
    pub(super) from_conductor: Receiver<FromConductor>,
    to_conductor: Sender<ToConductor>,
    committer: UnboundedSender<ToCommitter>,
    publisher: UnboundedSender<ToPublisher>,
    failures: Receiver<String>,
    abort: Arc<AtomicBool>,
    workers: Option<WorkerGuards<Result<(), String>>>,
    threads: Vec<JoinHandle<()>>,
    inference: Arc<InferenceService>,
    leave: Arc<AtomicBool>,
}

impl Edge {
    pub(super) fn tell(&self, event: ToConductor) {
        // Worker 0 has left if this fails, and then nothing waits for it.
        let _ = self.to_conductor.send(event);
    }

    pub(super) fn sealed(&self, epoch: SealedEpoch) {
        let _ = self.committer.unbounded_send(ToCommitter::Sealed(epoch));
    }

    /// Where the publisher is told something.
    pub(super) fn publisher(&self) -> UnboundedSender<ToPublisher> {
        self.publisher.clone()
    }

    /// Everything is committed: publish the last change.
    pub(super) fn finish(&self) {
        let _ = self.publisher.unbounded_send(ToPublisher::Finish);
    }

    /// Why a thread or task gave up, if one did.
    pub(super) fn failure(&self) -> Option<String> {
        self.failures.try_recv().ok()
    }

    /// Leaves at once; what is not committed is not.
    pub(super) fn abort(&self) {
        self.abort.store(true, Ordering::Release);
        let _ = self.publisher.unbounded_send(ToPublisher::Leave);
        self.tell(ToConductor::Abort);
    }

    /// Whether a worker has ended although nobody told it to: it panicked, and the others wait for it.
    pub(super) fn has_lost_a_worker(&self) -> bool {
        let guards = self.workers.as_ref().map_or(&[][..], |workers| workers.guards());
        guards.iter().any(JoinHandle::is_finished)
    }

    /// Lets everything go without waiting; the process ends soon.
    pub(super) fn forget(mut self) {
        std::mem::forget(self.workers.take());
    }

    /// Waits until every thread has ended.
    pub(super) fn join(mut self) -> Result<(), String> {
        let workers = self.workers.take().map(WorkerGuards::join).unwrap_or_default();
        drop((self.committer, self.publisher, self.to_conductor, self.from_conductor));
        self.leave.store(true, Ordering::Release);
        let stopped = self.inference.stop().map_err(|error| error.to_string());
        for thread in self.threads {
            thread.join().map_err(|_| "a thread of the run stopped by an internal error".to_string())?;
        }
        for worker in workers {
            worker.map_err(|_| "a worker stopped by an internal error".to_string())??;
        }
        stopped.and_then(|()| self.failures.try_recv().map_or(Ok(()), Err))
    }
}

fn spawn(
    name: &str,
    failures: &Sender<String>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let failures = failures.clone();
    let run = move || {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        if let Err(error) = ended.unwrap_or_else(|_| Err(super::internal_error())) {
            // Whoever watches the run is gone only when it has ended already.
            let _ = failures.send(error);
        }
    };
    let spawned = std::thread::Builder::new().name(name.to_string()).spawn(run);
    spawned.map_err(|error| Error::failed(format!("cannot start a thread: {error}")))
}

/// One worker's ends before the worker takes them.
type Slot = Mutex<Option<worker::Ends>>;

/// Starts everything, or leaves nothing behind that runs.
pub(super) fn launch(started: &Started, launch: Launch<'_>) -> Result<Edge, Error> {
    let (leave, stop) = (Arc::new(AtomicBool::new(false)), launch.ends.stop.clone());
    join_up(started, launch, leave.clone()).inspect_err(|_| {
        leave.store(true, Ordering::Release);
        stop.store(true, Ordering::Release);
    })
}

/// Starts everything.
// long: one place shows which channel joins which two parts of a run.
fn join_up(started: &Started, launch: Launch<'_>, leave: Arc<AtomicBool>) -> Result<Edge, Error> {
    let workers = launch.settings.workers;
    let (failed, failures) = unbounded();
    let (to_conductor, events) = unbounded();
    let (conductor, from_conductor) = unbounded();
    let (publisher, publications) = tasks();
    let (committer, commits) = tasks();
    let (ask, asks) = bounded::<Ask>(ASKS);
    let abort = Arc::new(AtomicBool::new(false));
    let sweeper = spawn_sweeper(started, &abort);
    let mut threads = Vec::new();

    let lake = started.lake.lock().unwrap_or_else(PoisonError::into_inner).take();
    let lake = lake.ok_or_else(|| Error::failed("a run can be launched once"))?;
    let due = Due {
        interval: launch.settings.lake.interval.as_millis() as i64,
        changed_since: lake.changed_since,
        newest_named: lake.newest_named,
        awaiting: None,
        finishing: false,
    };
    let overdue = started.claim.epoch > 0 && due.now(started.edge.now_ms());
    if overdue {
        tracing::info!("the sources begin paused: a publication is overdue");
    }
    // The commit that goes back holds nothing else; the watch lets the sources go on after it.
    let paused = overdue || started.back.is_some();
    started.gauges.pause_for_the_lake(paused);
    started.gauges.overdue_start(overdue);
    started.gauges.goes_back(started.back.is_some());
    started.gauges.lag(due.changed_since);
    let publishing = Publishing {
        view: lake.publisher,
        due,
        told: publications,
        committer: committer.clone(),
        sweeper: sweeper.clone(),
        conductor: to_conductor.clone(),
        watch: started.gauges.clone(),
        edge: started.edge.clone(),
        collector: lake.collector,
        failures: 0,
    };
    threads.push(spawn("publisher", &failed, move || publishing.run())?);
    let memory = MemoryWatch {
        settings: launch.settings.memory.clone(),
        gauges: started.gauges.clone(),
        stopwatch: started.stopwatch.clone(),
        hold: launch.ends.hold.clone(),
        leave: leave.clone(),
    };
    threads.push(spawn("memory", &failed, move || memory.run())?);
    spawn_committer(started, commits, sweeper, &to_conductor, &publisher, &abort, &failed);

    let (mut slots, mut outboxes): (Vec<Slot>, Vec<_>) = (Vec::new(), Vec::new());
    let mut conductor_ends = Some((events, conductor));
    for index in 0..workers {
        let (batches, source) = bounded(BATCHES);
        let batches = ToWorker { batches, waiting: Arc::default() };
        let waiting = batches.waiting.clone();
        threads.push(spawn_reader(started, &launch, index, batches, &failed)?);
        let (outbox, inbox): (_, Inbox) = mailbox();
        outboxes.push(outbox);
        let ends =
            worker::Ends { source, waiting, ask: ask.clone(), inbox, conductor: conductor_ends.take() };
        slots.push(Mutex::new(Some(ends)));
    }
    drop(ask);
    let dispatcher = Dispatcher {
        asks,
        outboxes,
        bodies: launch.bodies.clone(),
        finder: Arc::new(Finder::new(started.snapshots.clone())),
        program: started.program.clone(),
        inference: launch.inference.clone(),
        leave: leave.clone(),
    };
    threads.push(spawn("dispatcher", &failed, move || dispatcher.run().map_err(|error| error.to_string()))?);
    let workers = spawn_workers(plan(started, &launch, &abort, paused), workers, slots)?;
    Ok(Edge {
        from_conductor,
        to_conductor,
        committer,
        publisher,
        failures,
        abort,
        workers: Some(workers),
        threads,
        inference: launch.inference,
        leave,
    })
}

/// What is done at each commit before anybody else is told.
struct Committed {
    gauges: Arc<Gauges>,
    stored: Arc<StoredAtStart>,
    recovery: Arc<Recovery>,
    stopwatch: Stopwatch,
}

impl CommitWatch for Committed {
    fn asked(&self) -> Option<Asked> {
        Some(counted::asked(&self.gauges.store))
    }

    fn committed(&self, root: &Root) {
        self.stored.release();
        self.recovery.committed();
        self.gauges.committed(root, (self.stopwatch)());
    }
}

/// What is done with each segment that is durable.
struct Durable {
    gauges: Arc<Gauges>,
    segments: Arc<SegmentCache>,
}

impl UploadWatch for Durable {
    fn durable(&self, name: &str, bytes: &Bytes, unpinned: u64) {
        self.segments.insert(name, bytes.clone());
        self.gauges.segment(bytes.len() as u64, unpinned);
    }
}

/// Starts what deletes; where it is told what.
fn spawn_sweeper(started: &Started, abort: &Arc<AtomicBool>) -> UnboundedSender<Root> {
    let (sweeper, told) = tasks();
    let (store, edge) = (started.store.clone(), started.edge.clone());
    // What the predecessor gave up and had no time to delete.
    let _ = sweeper.unbounded_send(started.claim.clone());
    started.runtime.spawn(Sweeper { store, edge, told, abort: abort.clone() }.run());
    sweeper
}

fn spawn_committer(
    started: &Started,
    told: UnboundedReceiver<ToCommitter>,
    sweeper: UnboundedSender<Root>,
    conductor: &Sender<ToConductor>,
    publisher: &UnboundedSender<ToPublisher>,
    abort: &Arc<AtomicBool>,
    failed: &Sender<String>,
) {
    let commits = Commits {
        store: started.store.clone(),
        edge: started.edge.clone(),
        sweeper,
        conductor: conductor.clone(),
        publisher: publisher.clone(),
        abort: abort.clone(),
        watch: Arc::new(Committed {
            gauges: started.gauges.clone(),
            stored: started.stored.clone(),
            recovery: started.recovery.clone(),
            stopwatch: started.stopwatch.clone(),
        }),
        standing: started.standing,
    };
    let committer = Committer::new(started.claim.clone(), started.in_force.clone());
    let (failed, gauges) = (failed.clone(), started.gauges.clone());
    started.runtime.spawn(async move {
        if let Err(error) = commits.run(committer, told).await {
            if let CommitsEnded::Fenced(_) = error {
                gauges.superseded();
            }
            let _ = failed.send(error.to_string());
        }
    });
}

fn spawn_reader(
    started: &Started,
    launch: &Launch<'_>,
    index: usize,
    batches: ToWorker,
    failed: &Sender<String>,
) -> Result<JoinHandle<()>, Error> {
    let claim = &started.claim;
    let back = started.in_force.roll_back.as_ref();
    let at = back.map_or((&claim.positions, &claim.cursors), |back| (&back.positions, &back.cursors));
    let (positions, cursors) = started.in_force.beginning.applied_to(at.0, at.1);
    let source = launch.sources.open(index, launch.settings.workers, &positions, &cursors)?;
    let streams = started.program.streams().len();
    let decoders = (0..streams).map(|stream| started.program.decoder(stream)).collect();
    let (bodies, ends) = (launch.bodies.clone(), launch.ends.clone());
    let (gauges, now): (Arc<Gauges>, _) = (started.gauges.clone(), started.stopwatch.clone());
    spawn(&format!("source-{index}"), failed, move || {
        read(source, decoders, &bodies, &|taken| gauges.took(taken, now()), &batches, &ends);
        Ok(())
    })
}

fn plan(started: &Started, launch: &Launch<'_>, abort: &Arc<AtomicBool>, paused: bool) -> Arc<Plan> {
    let program: Arc<dyn Program> = started.program.clone();
    let upload = Uploads {
        store: started.store.clone(),
        edge: started.edge.clone(),
        schemas: started.schemas.clone(),
        program: program.clone(),
        stored: started.stored.clone(),
        generation: started.claim.generation,
        workers: launch.settings.workers,
        back: started.back.clone(),
        abort: abort.clone(),
        watch: Arc::new(Durable { gauges: started.gauges.clone(), segments: started.segments.clone() }),
    };
    let epoch = &launch.settings.epoch;
    Arc::new(Plan {
        program,
        schemas: started.schemas.clone(),
        models: started.in_force.models.clone().into(),
        stored: Arc::new(Filling {
            stored: started.stored.clone(),
            back: started.back.clone(),
            recovery: started.recovery.clone(),
        }),
        claim: started.claim.epoch,
        changed: started.changed,
        upload: Arc::new(upload),
        epochs: EpochSettings { interval: epoch.interval.as_micros() as u64, bytes_max: epoch.bytes_max },
        force_first: started.changed || !started.in_force.beginning.positions.is_empty(),
        paused,
        drain: launch.drain,
        hold: launch.ends.hold.clone(),
        in_flight_max: IN_FLIGHT_MAX,
        now: started.stopwatch.clone(),
    })
}

fn spawn_workers(
    plan: Arc<Plan>,
    workers: usize,
    slots: Vec<Slot>,
) -> Result<WorkerGuards<Result<(), String>>, Error> {
    let config = timely::Config {
        communication: timely::CommunicationConfig::Process(workers),
        worker: WorkerConfig::default(),
    };
    let guards = timely::execute(config, move |worker| {
        let ends = slots[worker.index()].lock().unwrap_or_else(PoisonError::into_inner).take();
        let ends = ends.ok_or("a worker was started twice")?;
        worker::run(worker, plan.clone(), ends)
    });
    guards.map_err(|error| Error::failed(format!("the workers cannot start: {error}")))
}
