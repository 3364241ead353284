//! Time and turns: a clock that only this module moves, and tasks of which a seed says whose turn it is.
//!
//! ```text
//!  ready tasks ── the seed picks one ──> it runs until it waits
//!      ^                                     │ sleeps, asks the store
//!      └── the clock jumps to the next event <┘
//! ```
//!
//! A task is a future. Code that holds up its thread runs on a thread of its own, as an *actor*: the
//! scheduler lets it run and stands still until it waits or ends, so that of all threads one moves at a time.
//! A task belongs to a process. A process can be *stopped*, and then its tasks are not picked for a time,
//! whatever they wait for; and it can be *killed*: its tasks are dropped where they stand, its actors are
//! unwound.
//!
//! Everything that happens is written into a trace, whose digest two runs of a seed have in common.

use futures::future::{BoxFuture, LocalBoxFuture};
use futures::task::{ArcWake, waker};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

/// A process; 0 is the world around them, which is never stopped or killed.
pub type Process = u32;
/// The world around the processes.
pub const WORLD: Process = 0;

/// Microseconds of a second.
pub const SECOND: u64 = 1_000_000;
/// For how long commits of a trial stay readable, microseconds.
pub const RETENTION_US: u64 = 20 * SECOND;

/// 2026-01-01T00:00:00Z, in milliseconds since 1970.
const START_MS: i64 = 1_767_225_600_000;

type Event = Box<dyn FnOnce() + Send>;

struct State {
    now: u64,
    numbered: u64,
    chance: ChaCha8Rng,
    ready: BTreeSet<u64>,
    events: BTreeMap<(u64, u64), Event>,
    spawned: Vec<(Process, BoxFuture<'static, ()>)>,
    stopped: BTreeMap<Process, u64>,
    /// When each process that was stopped went on the last time.
    woke: BTreeMap<Process, u64>,
    killed: BTreeSet<Process>,
    trace: blake3::Hasher,
    told: Option<Vec<String>>,
    steps: u64,
}

/// A handle of the scheduler, for any thread.
#[derive(Clone)]
pub struct Schedule(Arc<Mutex<State>>);

impl Schedule {
    /// The schedule of a seed; `told`: keep the trace as text.
    pub fn seeded(seed: u64, told: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: 0,
            numbered: 0,
            chance: ChaCha8Rng::seed_from_u64(seed),
            ready: BTreeSet::new(),
            events: BTreeMap::new(),
            spawned: Vec::new(),
            stopped: BTreeMap::new(),
            woke: BTreeMap::new(),
            killed: BTreeSet::new(),
            trace: blake3::Hasher::new(),
            told: told.then(Vec::new),
            steps: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        self.state().now
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        START_MS + (self.now() / 1000) as i64
    }

    /// A number of a range.
    pub fn pick(&self, range: std::ops::Range<u64>) -> u64 {
        self.state().chance.random_range(range)
    }

    /// True in so many cases of a thousand.
    pub fn happens(&self, per_mille: u32) -> bool {
        self.pick(0..1000) < u64::from(per_mille)
    }

    /// 128 bits.
    pub fn bits(&self) -> u128 {
        self.state().chance.random()
    }

    /// Writes what happened into the trace.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        let mut state = self.state();
        let line = format!("{:>12} {}", state.now, what());
        state.trace.update(line.as_bytes());
        state.trace.update(b"\n");
        if let Some(told) = &mut state.told {
            told.push(line);
        }
    }

    /// The trace's digest, and its lines if they were kept.
    pub fn trace(&self) -> (String, Vec<String>) {
        let state = self.state();
        (state.trace.finalize().to_hex().to_string(), state.told.clone().unwrap_or_default())
    }

    /// Turns so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Does something later, whatever becomes of the processes.
    pub fn after(&self, us: u64, event: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        state.numbered += 1;
        let at = (state.now + us, state.numbered);
        state.events.insert(at, Box::new(event));
    }

    /// Waits.
    pub fn sleep(&self, us: u64) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (wake, woken) = futures::channel::oneshot::channel();
        self.after(us, move || {
            // Whoever waited may be gone.
            let _ = wake.send(());
        });
        async move {
            let _ = woken.await;
        }
    }

    /// Starts a task of a process.
    pub fn spawn(&self, process: Process, task: BoxFuture<'static, ()>) {
        self.state().spawned.push((process, task));
    }

    /// Lets none of a process's tasks run for a time.
    pub fn stop(&self, process: Process, us: u64) {
        self.tell(|| format!("p{process} stops for {us}"));
        let mut state = self.state();
        let until = state.now + us;
        state.stopped.insert(process, until);
        state.woke.insert(process, until);
    }

    /// Stops a process, for long enough now and then that what it knows is long gone when it wakes up.
    pub fn put_to_sleep(&self, process: Process) {
        let long = match self.pick(0..4) {
            0 => self.pick(3600 * SECOND..30 * 3600 * SECOND),
            1 => self.pick(RETENTION_US..RETENTION_US * 4),
            _ => self.pick(10_000..10 * SECOND),
        };
        self.stop(process, long);
    }

    /// Lets all go on that are stopped.
    pub fn wake_all(&self) {
        let mut state = self.state();
        let now = state.now;
        let stopped: Vec<Process> =
            state.stopped.iter().filter(|(_, until)| **until > now).map(|(p, _)| *p).collect();
        for process in stopped {
            state.stopped.insert(process, now);
            state.woke.insert(process, now);
        }
    }

    /// When a process went on that was stopped, the last time; 0 if it never was.
    pub fn woke_at(&self, process: Process) -> u64 {
        self.state().woke.get(&process).copied().unwrap_or(0)
    }

    /// Whether a process is stopped now.
    pub fn is_stopped(&self, process: Process) -> bool {
        let state = self.state();
        state.stopped.get(&process).is_some_and(|until| *until > state.now)
    }

    /// Ends a process where it stands.
    pub fn kill(&self, process: Process) {
        self.state().killed.insert(process);
    }

    /// Whether a process was killed.
    pub fn is_killed(&self, process: Process) -> bool {
        self.state().killed.contains(&process)
    }
}

struct Wake {
    schedule: Schedule,
    task: u64,
}

impl ArcWake for Wake {
    fn wake_by_ref(this: &Arc<Self>) {
        this.schedule.state().ready.insert(this.task);
    }
}

/// A task of a process.
type Task = (Process, LocalBoxFuture<'static, ()>);

/// Starts tasks that cannot leave the scheduler's thread.
#[derive(Clone, Default)]
pub struct Local(std::rc::Rc<RefCell<Vec<Task>>>);

impl Local {
    /// Starts a task of a process.
    pub fn spawn(&self, process: Process, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push((process, Box::pin(task)));
    }
}

/// Runs tasks.
pub struct Runner {
    schedule: Schedule,
    local: Local,
    tasks: BTreeMap<u64, Task>,
    next: u64,
}

impl Runner {
    /// A runner without tasks.
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, local: Local::default(), tasks: BTreeMap::new(), next: 0 }
    }

    /// Where tasks of this thread are started.
    pub fn local(&self) -> Local {
        self.local.clone()
    }

    /// Runs until a task of the world is done, or nothing happens any more. The clock stops at `until`.
    pub fn run(mut self, task: impl Future<Output = ()> + 'static, until: u64) -> bool {
        let done = std::rc::Rc::new(std::cell::Cell::new(false));
        let told = done.clone();
        self.local.spawn(WORLD, async move {
            task.await;
            told.set(true);
        });
        while !done.get() && self.schedule.now() < until && self.turn() {}
        // Actors are unwound here, in the order of their tasks.
        self.tasks.clear();
        done.get()
    }

    fn turn(&mut self) -> bool {
        self.take_new();
        let killed = self.schedule.state().killed.clone();
        if !killed.is_empty() {
            let gone: Vec<u64> =
                self.tasks.iter().filter(|(_, (p, _))| killed.contains(p)).map(|(id, _)| *id).collect();
            for id in gone {
                self.tasks.remove(&id);
            }
        }
        let Some(task) = self.pick() else { return self.next_event() };
        let Some((_, future)) = self.tasks.get_mut(&task) else { return true };
        let waker = waker(Arc::new(Wake { schedule: self.schedule.clone(), task }));
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(&task);
        }
        true
    }

    fn take_new(&mut self) {
        let spawned = std::mem::take(&mut self.schedule.state().spawned);
        let local = std::mem::take(&mut *self.local.0.borrow_mut());
        let spawned =
            spawned.into_iter().map(|(process, task)| (process, task as LocalBoxFuture<'static, ()>));
        for (process, task) in spawned.chain(local) {
            self.tasks.insert(self.next, (process, task));
            self.schedule.state().ready.insert(self.next);
            self.next += 1;
        }
    }

    /// One of the ready tasks whose process runs.
    fn pick(&mut self) -> Option<u64> {
        let mut state = self.schedule.state();
        state.steps += 1;
        let tasks = &self.tasks;
        state.ready.retain(|task| tasks.contains_key(task));
        let now = state.now;
        state.stopped.retain(|_, until| *until > now);
        let may: Vec<u64> = state
            .ready
            .iter()
            .copied()
            .filter(|task| tasks.get(task).is_some_and(|(process, _)| !state.stopped.contains_key(process)))
            .collect();
        if may.is_empty() {
            return None;
        }
        let place = state.chance.random_range(0..may.len());
        state.ready.remove(&may[place]);
        Some(may[place])
    }

    /// Moves the clock to the next event, or to the end of a stop, if that comes first.
    fn next_event(&mut self) -> bool {
        let event = {
            let mut state = self.schedule.state();
            let goes_on = state.stopped.values().min().copied();
            let next = state.events.keys().next().map(|(at, _)| *at);
            match (next, goes_on) {
                (None, None) => return false,
                (next, Some(goes_on)) if next.is_none_or(|next| goes_on < next) => {
                    state.now = goes_on;
                    return true;
                }
                _ => {}
            }
            let Some(((at, _), event)) = state.events.pop_first() else { return false };
            state.now = state.now.max(at);
            event
        };
        event();
        true
    }
}

/// An actor's end of the baton.
struct Link {
    resume: Receiver<Waker>,
    parked: SyncSender<Parked>,
    waker: RefCell<Waker>,
}

enum Parked {
    Waits,
    Done(Result<(), Box<dyn Any + Send>>),
}

thread_local! {
    static LINK: RefCell<Option<std::rc::Rc<Link>>> = const { RefCell::new(None) };
}

/// The unwinding of an actor whose process was killed.
struct Killed;

/// Code on a thread of its own that moves only while the scheduler lets it.
struct Actor {
    resume: Option<SyncSender<Waker>>,
    parked: Receiver<Parked>,
    thread: Option<JoinHandle<()>>,
}

impl Future for Actor {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let sent = self.resume.as_ref().is_some_and(|resume| resume.send(context.waker().clone()).is_ok());
        match self.parked.recv() {
            Ok(Parked::Waits) if sent => Poll::Pending,
            Ok(Parked::Done(Err(panic))) => std::panic::resume_unwind(panic),
            _ => {
                self.resume = None;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.resume = None;
        // It unwinds, and says that it is done to nobody.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What code that may hold up its thread gives.
pub async fn actor<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    let (resume, resumed) = sync_channel::<Waker>(1);
    let (parked, waits) = sync_channel(1);
    let (give, given) = futures::channel::oneshot::channel();
    let run = move || {
        let Ok(first) = resumed.recv() else { return };
        let link = Link { resume: resumed, parked: parked.clone(), waker: RefCell::new(first) };
        LINK.with(|slot| *slot.borrow_mut() = Some(std::rc::Rc::new(link)));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(give.send(code()))));
        let ended = match ended {
            Err(panic) if panic.is::<Killed>() => return,
            other => other,
        };
        let _ = parked.send(Parked::Done(ended));
    };
    let thread = std::thread::Builder::new().spawn(run).expect("a thread for an actor");
    Actor { resume: Some(resume), parked: waits, thread: Some(thread) }.await;
    given.await.expect("an actor that is done has given its value")
}

/// Holds up an actor until a future is done. On the scheduler's own thread it must be done at once.
pub fn wait(mut future: Pin<&mut dyn Future<Output = ()>>) {
    let Some(link) = LINK.with(|slot| slot.borrow().clone()) else {
        let waker = futures::task::noop_waker();
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => return,
            Poll::Pending => panic!("the scheduler's own thread would wait"),
        }
    };
    loop {
        let waker = link.waker.borrow().clone();
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        let told = link.parked.send(Parked::Waits).is_ok();
        match link.resume.recv() {
            Ok(waker) if told => *link.waker.borrow_mut() = waker,
            _ => std::panic::resume_unwind(Box::new(Killed)),
        }
    }
}
