//! A process: production's own parts, wired to simulated surroundings.
//!
//! ```text
//!  SimSource ─ Reader ─> WorkerShare on a timely worker ── Uploads ──> SimStore
//!                            │  ^ Done          Commits <──> Publishing (LakePublisher, Collector)
//!                            v  │                  └──> Sweeper
//!                          a model that takes its time
//! ```
//!
//! What the service's wiring does with threads and channels, tasks and actors do here; every decision is
//! taken by the same code. The worker fills its flow from rows that were read before it was built, because it
//! stands on the scheduler's own thread, which never waits.

use crate::edge::SimEdge;
use crate::judge::{Judge, cursor_at, snapshot_options};
use crate::mutants::{Mutant, Part};
use crate::program::{PARTITIONS, STREAM, TABLES, model, program};
use crate::schedule::{Local, Process, Schedule, actor};
use crate::storage::{Disk, SimStore, Weather};
use crate::topics::{self, Slot, Topics};
use crossbeam_channel::{Receiver, Sender};
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemill_connectors::lake::{
    LakeOptions, LakePublisher, Snapshot, StreamTable, TextForm, stored_segments,
};
use tidemill_core::bodies::BodyCache;
use tidemill_core::commit::{Beginning, Committer, InForce, RollBack, models_in_force};
use tidemill_core::conductor::{FromConductor, ToConductor};
use tidemill_core::edge::{SharedEdge, parse_ms};
use tidemill_core::epoch::EpochSettings;
use tidemill_core::infer::{Ask, Outbox, mailbox};
use tidemill_core::log::{newest_root, read_root};
use tidemill_core::model::{Done, Outcome};
use tidemill_core::reader::{self, Next, Reader, ToWorker};
use tidemill_core::source::{Polled, RawRecord, RawValue, RecordSink, Source, SourceError};
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::view::{Cost, EachRow, Portion, Share, Stored, View, ViewError};
use tidemill_core::worker::{self, Plan, WorkerShare};
use tidemill_core::writer::{
    Back, Bodied, Claim, ClaimError, Claimed, Collector, CommitWatch, Commits, Due, PublicationWatch,
    Publishing, Retention, Sweeper, ToCommitter, ToPublisher, UploadWatch, Uploads, claim_store, idle_max_us,
    kept_root,
};
use tidemill_types::{Digest, Epoch, Partition, Root, TableSchema, Value, hex, key_digest};
use timely::WorkerConfig;
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::worker::Worker;

/// Bodies in memory.
const BODIES: u64 = 1 << 16;
/// Texts that a process asks its model for at a time.
const ASKED_MAX: usize = 8;
/// What holds again as it was after a rollback: source tables, words, rejects.
const RESTORED: [&str; 3] = [TABLES[0], TABLES[1], TABLES[4]];

/// The surroundings of all processes.
#[derive(Clone)]
pub struct World {
    /// Time and turns.
    pub schedule: Schedule,
    /// Starts tasks.
    pub local: Local,
    /// All objects.
    pub disk: Disk,
    /// Sees every write.
    pub judge: Judge,
    /// How the store behaves.
    pub weather: Arc<Mutex<Weather>>,
    /// Whether the store is on a local disk.
    pub on_disk: bool,
    /// The topics that tables are sent to, and whether they are.
    pub topics: Topics,
    pub sends: bool,
    /// For how long commits stay readable.
    pub retention: Duration,
    /// Whether some processes keep them for a tenth of it only.
    pub mixed: bool,
    /// How many of the newest commits stay readable, however old.
    pub commits: u64,
    /// The bug that is in, if one is.
    pub mutant: Option<Mutant>,
}

/// What a process came to, as far as it goes.
#[derive(Clone, Default)]
pub struct Life(Rc<RefCell<Option<String>>>);

impl Life {
    /// Why it ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

/// Where a process is told something: its publisher and its conductor.
pub type Told = (UnboundedSender<ToPublisher>, Sender<ToConductor>);

/// A process that was started.
pub struct Started {
    /// Its number.
    pub process: Process,
    /// What it came to.
    pub life: Life,
    /// Its publisher and its conductor, once it has them.
    pub told: Rc<RefCell<Option<Told>>>,
    /// Ends its source.
    pub stop: Arc<AtomicBool>,
}

impl Started {
    /// Tells it to end in order, if it is so far.
    pub fn stop(&self) -> bool {
        let told = self.told.borrow();
        let Some((_, conductor)) = told.as_ref() else { return false };
        self.stop.store(true, Ordering::Release);
        conductor.send(ToConductor::Stop).is_ok()
    }
}

impl World {
    /// The store of a process.
    pub fn store(&self, process: Process) -> SharedStore {
        Arc::new(SimStore {
            schedule: self.schedule.clone(),
            disk: self.disk.clone(),
            judge: self.judge.clone(),
            process,
            weather: self.weather.clone(),
            local: self.on_disk,
            looked_at: AtomicU64::new(0),
        })
    }

    /// What a process keeps, from its start on.
    pub fn retention_of(&self, process: Process) -> Retention {
        let short = self.mixed && self.schedule.pick(0..2) == 0;
        let time = if short { self.retention / 10 } else { self.retention };
        let retention = Retention { time, commits: self.commits };
        self.judge.retains(process, retention);
        retention
    }

    /// Starts a process; it may have to go back to a commit.
    pub fn start(&self, process: Process, back: Option<Epoch>) -> Started {
        let life = Life::default();
        let (told, stop) = (Rc::new(RefCell::new(None)), Arc::new(AtomicBool::new(false)));
        let skew = self.schedule.pick(0..1000) as i64 - 500;
        let starting = Starting {
            world: self.clone(),
            process,
            edge: SimEdge::shared(&self.schedule, process, skew),
            store: self.store(process),
            retention: self.retention_of(process),
            back,
            told: told.clone(),
            stop: stop.clone(),
        };
        let (world, ended) = (self.clone(), life.clone());
        self.schedule.tell(|| format!("p{process} starts {back:?}"));
        self.local.spawn(process, async move {
            let why = starting.run().await;
            let why = why.unwrap_or_else(|error| error);
            world.schedule.tell(|| format!("p{process} ends: {why}"));
            *ended.0.borrow_mut() = Some(why);
            world.schedule.kill(process);
        });
        Started { process, life, told, stop }
    }
}

struct Starting {
    world: World,
    process: Process,
    edge: SharedEdge,
    store: SharedStore,
    retention: Retention,
    /// The commit to go back to, if it is to.
    back: Option<Epoch>,
    told: Rc<RefCell<Option<Told>>>,
    stop: Arc<AtomicBool>,
}

/// What was read at the start.
struct Loaded {
    /// As of the claim.
    stored: Arc<Held>,
    /// What the worker is filled with.
    filling: Arc<Held>,
    back: Option<Back>,
    lake: LakePublisher,
    due: Due,
}

/// How a process ends.
enum Ending {
    /// In order.
    Left,
    Failed(String),
}

impl Starting {
    fn part(&self, part: Part) -> SharedStore {
        match self.world.mutant {
            Some(mutant) => mutant.store(part, self.store.clone(), &self.world, self.process),
            None => self.store.clone(),
        }
    }

    async fn run(self) -> Result<String, String> {
        let start = InForce {
            program: program().id(),
            models: vec![model()],
            beginning: Beginning::default(),
            roll_back: None,
        };
        let idle_max_us = match self.world.mutant {
            Some(Mutant::NeverLooksAgain) => u64::MAX,
            _ => idle_max_us(self.retention.time),
        };
        let back = match self.back {
            Some(to) => {
                let newest = newest_root(&*self.store, None).await.map_err(|error| error.to_string())?;
                let newest = newest.ok_or("there is nothing to go back to")?;
                Some(kept_root(&self.store, &newest, to).await?)
            }
            None => None,
        };
        let claiming = Claim {
            store: &self.part(Part::Claim),
            edge: &self.edge,
            in_force: &start,
            refused: &|_| None,
            idle_max_us,
        };
        let claimed = claim_store(claiming).await.map_err(|error| {
            // Whatever the weather: nobody damages the store, and what a claim changes is not up to the writer.
            if let ClaimError::Refused(_) | ClaimError::Store(StoreError::Damaged(_)) = &error {
                self.world.judge.breaks(format!("p{} cannot claim the store: {error}", self.process));
            }
            error.to_string()
        })?;
        self.world.judge.believed(&claimed.claim);
        if let Some(to) = self.back {
            kept_root(&self.store, &claimed.claim, to).await?;
        }
        let (store, edge, claim) = (self.store.clone(), self.edge.clone(), claimed.claim.clone());
        let lake_store = self.part(Part::Lake);
        let (before, old) = (claimed.before.is_some(), back.clone());
        let loaded = actor(move || load(store, lake_store, &edge, &claim, before, old)).await;
        // What was there at a look may be gone by now, where another goes on.
        let loaded = loaded.map_err(|error| match error.contains("no answer") || back.is_some() {
            true => error,
            false => self.told(&claimed.claim, &error),
        })?;
        self.join_up(claimed, loaded, back).await
    }

    /// An error of a part: if another writer is there, that is why. A run waits for its store.
    fn told(&self, ours: &Root, error: &str) -> String {
        let judge = &self.world.judge;
        let newest = judge.newest().map_or(0, |newest| newest.generation);
        if newest > ours.generation {
            judge.count(|counts| counts.fenced += 1);
        } else {
            judge.breaks(format!("p{} owns the store and stopped: {error}", self.process));
        }
        error.to_string()
    }

    /// Joins the parts up, and runs until one of them ends.
    // long: one place shows which channel joins which two parts of a process.
    async fn join_up(self, claimed: Claimed, loaded: Loaded, back: Option<Root>) -> Result<String, String> {
        let Claimed { before, claim, standing } = claimed;
        let world = &self.world;
        let (to_conductor, events) = crossbeam_channel::unbounded();
        let (conductor, from_conductor) = crossbeam_channel::unbounded();
        let (publisher, publications) = unbounded();
        let (committer, commits) = unbounded();
        let (sweeper, given_up) = unbounded();
        let (failed, mut failures) = unbounded();
        let abort = Arc::new(AtomicBool::new(false));
        let newest = Slot::default();
        // What the publisher tells the other two passes through the hands of a bug, if there is one.
        let (published, by_publisher) = unbounded();
        let (forces, by_force) = crossbeam_channel::unbounded();
        let relay = Relay { world: world.clone(), process: self.process, store: self.store.clone() };
        world.local.spawn(self.process, relay.run(by_publisher, committer.clone()));

        let collector = Collector::new(
            self.part(Part::Collector),
            self.edge.clone(),
            match world.mutant {
                Some(Mutant::RetainsTooLittle) => Retention { time: Duration::from_secs(1), commits: 1 },
                Some(Mutant::RetainsTooFew) => Retention { commits: 1, ..self.retention },
                _ => self.retention,
            },
            &claim,
            before.as_ref(),
        );
        let publishing = Publishing {
            view: loaded.lake,
            due: loaded.due,
            told: publications,
            committer: published,
            sweeper: sweeper.clone(),
            conductor: forces,
            watch: Arc::new(OneAtATime {
                judge: world.judge.clone(),
                generation: claim.generation,
                last: Mutex::default(),
            }),
            edge: self.edge.clone(),
            collector,
            failures: 0,
        };
        let failing = failed.clone();
        world.local.spawn(self.process, async move {
            if let Err(error) = actor(move || publishing.run()).await {
                let _ = failing.unbounded_send(Ending::Failed(error));
            }
        });
        let _ = sweeper.unbounded_send(claim.clone());
        let sweeping = Sweeper {
            store: self.part(Part::Sweeper),
            edge: self.edge.clone(),
            told: given_up,
            abort: abort.clone(),
        };
        world.schedule.spawn(self.process, Box::pin(sweeping.run()));
        let in_force = InForce {
            program: program().id(),
            models: models_in_force(Some(&claim), model()),
            beginning: Beginning::default(),
            roll_back: back.as_ref().map(|root| RollBack {
                to: root.epoch,
                positions: root.positions.clone(),
                cursors: root.cursors.clone(),
            }),
        };
        let committing = Commits {
            store: self.part(Part::Commits),
            edge: self.edge.clone(),
            conductor: to_conductor.clone(),
            publisher: publisher.clone(),
            sweeper,
            abort: abort.clone(),
            watch: Arc::new(Believes(world.judge.clone(), newest.clone(), to_conductor.clone())),
            standing,
        };
        if world.sends {
            let ends = (self.store.clone(), self.edge.clone());
            let sending = topics::send(world, self.process, &claim, newest, ends);
            world.local.spawn(self.process, actor(sending));
        }
        let machine = Committer::new(claim.clone(), in_force.clone());
        let failing = failed.clone();
        world.schedule.spawn(
            self.process,
            Box::pin(async move {
                if let Err(error) = committing.run(machine, commits).await {
                    let _ = failing.unbounded_send(Ending::Failed(error.to_string()));
                }
            }),
        );
        self.told.borrow_mut().replace((publisher.clone(), to_conductor.clone()));
        let (batches, source) = crossbeam_channel::bounded(4);
        let to_worker = ToWorker { batches, waiting: Arc::default() };
        let waiting = to_worker.waiting.clone();
        self.read(back.as_ref().unwrap_or(&claim), to_worker);
        let (ask, asks) = crossbeam_channel::bounded(16);
        let (outbox, inbox) = mailbox();
        self.answer(claim.generation, asks, outbox);
        let ends = worker::Ends { source, waiting, ask, inbox, conductor: Some((events, conductor)) };
        let held = (loaded.stored, loaded.filling, loaded.back);
        let plan = self.plan(&claim, &in_force, held, &abort);
        let work = Work {
            world: world.clone(),
            to_conductor,
            by_force,
            from_conductor,
            committer,
            publisher,
            failed,
        };
        world.local.spawn(self.process, work.run(plan, ends));
        match failures.next().await {
            Some(Ending::Failed(error)) => Err(self.told(&claim, &error)),
            Some(Ending::Left) | None => {
                let owner = world.judge.newest().is_some_and(|newest| newest.generation == claim.generation);
                world.judge.count(|counts| counts.left += 1);
                if owner && !world.judge.is_published() {
                    world.judge.breaks(format!("p{} left in order, and not all is published", self.process));
                }
                Ok("it left".to_string())
            }
        }
    }

    fn plan(
        &self,
        claim: &Root,
        in_force: &InForce,
        (stored, filling, back): (Arc<Held>, Arc<Held>, Option<Back>),
        abort: &Arc<AtomicBool>,
    ) -> Arc<Plan> {
        let schemas: Arc<[TableSchema]> = program().tables().into();
        let upload = Uploads {
            store: self.part(Part::Uploads),
            edge: self.edge.clone(),
            schemas: schemas.clone(),
            program: program(),
            stored,
            generation: claim.generation,
            workers: 1,
            abort: abort.clone(),
            back,
            watch: Arc::new(Silent),
        };
        let edge = self.edge.clone();
        let goes_back = in_force.roll_back.is_some();
        Arc::new(Plan {
            program: program(),
            schemas,
            models: in_force.models.clone().into(),
            stored: filling,
            claim: claim.epoch,
            changed: goes_back,
            force_first: goes_back,
            upload: Arc::new(upload),
            epochs: EpochSettings { interval: 200_000, bytes_max: 4096 },
            // The commit that goes back holds nothing else.
            paused: goes_back,
            drain: false,
            hold: Arc::default(),
            in_flight_max: ASKED_MAX,
            now: Arc::new(move || edge.now_us()),
        })
    }

    /// The task of the source; it goes on from a root.
    fn read(&self, from: &Root, to_worker: ToWorker) {
        let (world, process) = (self.world.clone(), self.process);
        let at = |partition: usize| {
            let partitions = from.positions.get(STREAM);
            partitions.and_then(|at| at.get(&partition.to_string())).copied().unwrap_or(0)
        };
        let next = (0..PARTITIONS).map(at).collect();
        let stop = self.stop.clone();
        let source = SimSource { judge: world.judge.clone(), schedule: world.schedule.clone(), next };
        world.local.clone().spawn(process, async move {
            let (bodies, ends) = (BodyCache::new(BODIES), reader::Ends { stop, ..reader::Ends::default() });
            let decoders = vec![program().decoder(0)];
            let mut reader = Reader::new(Box::new(source), decoders, &bodies, &|_| {}, &to_worker, &ends);
            let mut quiet = 0u64;
            loop {
                match reader.turn() {
                    Next::Left => return,
                    Next::Again => quiet = 0,
                    Next::Rest(_) => quiet += 1,
                }
                world.schedule.sleep((quiet * 20_000).clamp(1_000, 300_000)).await;
            }
        });
    }

    /// The task of the model.
    fn answer(&self, generation: u64, asks: Receiver<Ask>, outbox: Outbox) {
        let (world, process) = (self.world.clone(), self.process);
        world.local.clone().spawn(process, async move {
            let (outbox, under_way) = (Rc::new(outbox), Rc::new(Cell::new(0)));
            loop {
                let ask = match asks.try_recv() {
                    Ok(ask) => ask,
                    Err(crossbeam_channel::TryRecvError::Empty) => {
                        world.schedule.sleep(100_000).await;
                        continue;
                    }
                    Err(crossbeam_channel::TryRecvError::Disconnected) => return,
                };
                let (schedule, outbox) = (world.schedule.clone(), outbox.clone());
                world.judge.asked(generation, &hex(&ask.request.digest));
                under_way.set(under_way.get() + 1);
                if under_way.get() > ASKED_MAX {
                    world.judge.breaks(format!("p{process} asks for more than {ASKED_MAX} texts at a time"));
                }
                let under_way = under_way.clone();
                world.local.spawn(process, async move {
                    schedule.sleep(schedule.pick(1_000..2_000_000)).await;
                    let outcome = match schedule.pick(0..20) {
                        0 => Outcome::Failure { error: "it would not".to_string(), attempts: 1 },
                        _ => {
                            let number = schedule.pick(0..1 << 20) as f32;
                            Outcome::Vector { vector: vec![number], tokens: 1 }
                        }
                    };
                    under_way.set(under_way.get() - 1);
                    // The worker may have left.
                    let _ = outbox.done.send(Done { digest: ask.request.digest, outcome });
                });
            }
        });
    }
}

/// Reads what a process needs of the store at its start.
fn load(
    store: SharedStore,
    lake_store: SharedStore,
    edge: &SharedEdge,
    claim: &Root,
    before: bool,
    back: Option<Root>,
) -> Result<Loaded, String> {
    let text = |error: tidemill_connectors::lake::LakeError| error.to_string();
    let options = snapshot_options(store.clone(), edge.clone());
    let snapshot = Snapshot::of(options.clone(), claim.clone()).map_err(text)?;
    let stored = Held::of(&snapshot, &TABLES, false)?;
    let mut filling = stored.rows.clone();
    let back = match back {
        Some(root) => {
            let old = Snapshot::of(options.clone(), root).map_err(text)?;
            let old = Held::of(&old, &RESTORED, true)?;
            filling.extend(old.rows.clone());
            let restored = RESTORED.iter().map(|table| table.to_string()).collect();
            Some(Back { tables: Arc::new(old), restored })
        }
        None => None,
    };
    let filling = Held { rows: filling, bodies: BTreeMap::new() };
    let lake = LakeOptions {
        segments: stored_segments(lake_store.clone(), edge.clone(), 1 << 20),
        store: lake_store,
        edge: edge.clone(),
        threads: 1,
        schemas: options.schemas,
        streams: vec![StreamTable { raw: 0, words: 1 }],
        extract: program(),
        bodies: None,
        memory_bytes_max: 1 << 20,
    };
    let mut lake = LakePublisher::open(lake, claim).map_err(text)?;
    let root = |epoch| match epoch == claim.epoch {
        true => Ok(claim.clone()),
        false => edge.block_on(read_root(&*store, epoch)).map_err(|error| error.to_string()),
    };
    let at = |root: &Root| parse_ms(&root.committed_at).unwrap_or(0);
    let published = claim.published.as_ref().map(|published| published.epoch);
    let newest_named = match published.or(before.then_some(claim.log_from)) {
        Some(epoch) => at(&root(epoch)?),
        None => at(claim),
    };
    let mut changed_since = None;
    for epoch in lake.next_root()..=claim.epoch {
        let root = root(epoch)?;
        lake.committed(&root);
        if lake.unpublished().is_some() {
            changed_since.get_or_insert(at(&root));
        }
    }
    let due = Due { interval: 2_000, changed_since, newest_named, awaiting: None, finishing: false };
    Ok(Loaded { stored: Arc::new(stored), filling: Arc::new(filling), back, lake, due })
}

/// Rows in memory, and the bodies that they name.
struct Held {
    rows: BTreeMap<&'static str, Vec<Vec<Value>>>,
    bodies: BTreeMap<(Digest, Digest), Vec<u8>>,
}

impl Held {
    /// Those of a snapshot.
    fn of(snapshot: &Snapshot, tables: &[&'static str], bodied: bool) -> Result<Self, String> {
        let (mut held, schemas) =
            (Self { rows: BTreeMap::new(), bodies: BTreeMap::new() }, program().tables());
        for (place, schema) in schemas.iter().enumerate() {
            let Some(table) = tables.iter().find(|table| **table == schema.name) else { continue };
            let rows = snapshot.rows(table, TextForm::Handles, None, Share::ALL);
            let rows = rows.map_err(|error| error.to_string())?;
            let wanted: Vec<(Digest, Digest)> = rows
                .iter()
                .filter(|_| bodied)
                .flat_map(|row| {
                    let key = key_digest(schema, row.iter().map(Value::cell));
                    row.iter().filter_map(move |value| match value {
                        Value::Text(text) => Some((key, text.digest)),
                        _ => None,
                    })
                })
                .collect();
            if !wanted.is_empty() {
                let each = &mut |place: usize, body: &[u8]| {
                    held.bodies.insert(wanted[place], body.to_vec());
                };
                snapshot.bodies(place, &wanted, each).map_err(|error| error.to_string())?;
            }
            held.rows.insert(table, rows);
        }
        Ok(held)
    }
}

impl Bodied for Held {
    fn bodies(
        &self,
        _: &str,
        wanted: &[(Digest, Digest)],
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ViewError> {
        for (place, wanted) in wanted.iter().enumerate() {
            if let Some(body) = self.bodies.get(wanted) {
                each(place, body);
            }
        }
        Ok(())
    }
}

impl Stored for Held {
    fn for_each_row(
        &self,
        table: &str,
        columns: Option<&[usize]>,
        _: Portion,
        each: EachRow<'_>,
    ) -> Result<(), ViewError> {
        for row in self.rows.get(table).into_iter().flatten() {
            let cells: Vec<_> = match columns {
                Some(columns) => columns.iter().map(|place| row[*place].cell()).collect(),
                None => row.iter().map(Value::cell).collect(),
            };
            each(&cells)?;
        }
        Ok(())
    }
}

/// Sees that no publication is begun before a root names the one before.
struct OneAtATime {
    judge: Judge,
    generation: u64,
    last: Mutex<Option<Epoch>>,
}

impl PublicationWatch for OneAtATime {
    fn publishing(&self, now: bool) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.judge.newest().filter(|newest| newest.generation == self.generation);
        let named = newest.and_then(|newest| newest.published).map(|published| published.epoch);
        if now && named.is_some() && named < last {
            self.judge.breaks(format!("a publication is begun while {last:?} is not named"));
        }
    }

    fn published(&self, epoch: Epoch, _: u64, _: Cost) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(epoch);
    }
}

/// Nobody who wants to know.
struct Silent;

impl UploadWatch for Silent {
    fn durable(&self, _: &str, _: &bytes::Bytes, _: u64) {}
}

/// Tells the judge what a process takes for committed; lets the sources go on after a commit that goes back.
struct Believes(Judge, Slot, Sender<ToConductor>);

impl CommitWatch for Believes {
    fn committed(&self, root: &Root) {
        self.0.believed(root);
        if root.rolled_back_to.is_some() {
            let _ = self.2.send(ToConductor::Pause(false));
        }
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(root.clone()));
    }
}

/// Passes on what the publisher tells the committer.
struct Relay {
    world: World,
    process: Process,
    store: SharedStore,
}

impl Relay {
    async fn run(self, mut from: UnboundedReceiver<ToCommitter>, to: UnboundedSender<ToCommitter>) {
        while let Some(message) = from.next().await {
            let message = match self.world.mutant {
                Some(mutant) => mutant.to_committer(message, &self.world, self.process, &self.store).await,
                None => Some(message),
            };
            if let Some(message) = message {
                let _ = to.unbounded_send(message);
            }
        }
    }
}

/// The timely worker's task, and what the conductor on it says.
struct Work {
    world: World,
    to_conductor: Sender<ToConductor>,
    by_force: Receiver<ToConductor>,
    from_conductor: Receiver<FromConductor>,
    committer: UnboundedSender<ToCommitter>,
    publisher: UnboundedSender<ToPublisher>,
    failed: UnboundedSender<Ending>,
}

impl Work {
    async fn run(self, plan: Arc<Plan>, ends: worker::Ends) {
        let allocator = Allocator::Thread(Thread::default());
        let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
        let mut share = WorkerShare::build(&mut worker, plan, ends);
        let mut quiet = 0u64;
        while !share.has_left() {
            for message in self.by_force.try_iter() {
                let message = match self.world.mutant {
                    Some(mutant) => mutant.to_conductor(message),
                    None => Some(message),
                };
                if let Some(message) = message {
                    let _ = self.to_conductor.send(message);
                }
            }
            let mut busy = false;
            for _ in 0..self.world.schedule.pick(1..6) {
                busy |= share.round();
                worker.step();
            }
            busy |= self.hear();
            quiet = if busy { 0 } else { quiet + 1 };
            self.world.schedule.sleep((quiet * 10_000).clamp(1_000, 200_000)).await;
        }
        let _ = self.failed.unbounded_send(Ending::Left);
    }

    /// Passes on what the conductor says.
    fn hear(&self) -> bool {
        let messages: VecDeque<FromConductor> = self.from_conductor.try_iter().collect();
        let busy = !messages.is_empty();
        for message in messages {
            match message {
                FromConductor::Sealed(epoch) => {
                    let epoch = match self.world.mutant {
                        Some(mutant) => mutant.sealed(epoch, &self.world.schedule),
                        None => epoch,
                    };
                    let _ = self.committer.unbounded_send(ToCommitter::Sealed(epoch));
                }
                FromConductor::Failed(error) | FromConductor::SourceFailed(error) => {
                    let _ = self.failed.unbounded_send(Ending::Failed(error));
                }
                FromConductor::Finish => drop(self.publisher.unbounded_send(ToPublisher::Finish)),
                _ => {}
            }
        }
        busy
    }
}

/// A share of the topic.
struct SimSource {
    judge: Judge,
    schedule: Schedule,
    next: Vec<u64>,
}

impl Source for SimSource {
    fn poll(&mut self, sink: &mut dyn RecordSink) -> Result<Polled, SourceError> {
        let partition = self.schedule.pick(0..PARTITIONS as u64) as usize;
        let from = self.next[partition];
        let name = Partition::number(partition as u32);
        for _ in 0..self.schedule.pick(1..8) {
            let offset = self.next[partition];
            let Some(record) = self.judge.read(partition, offset) else { break };
            let timestamp = Some(record.timestamp);
            let value = RawValue::Bytes(&record.value);
            self.next[partition] += 1;
            if !sink.record(0, RawRecord { partition: &name, offset, timestamp, key: None, value }) {
                break;
            }
        }
        if self.next[partition] == from {
            return Ok(Polled::Idle);
        }
        sink.position(0, &name, self.next[partition], cursor_at(self.next[partition]));
        Ok(Polled::More)
    }
}
