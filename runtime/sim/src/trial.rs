//! Trials: processes that start, are killed, stop for hours and wake up, over a store that fails; then calm,
//! in which everything must come right.

use crate::judge::{Counts, Judge, snapshot_options};
use crate::mutants::Mutant;
use crate::plan::{Outcome, Plan};
use crate::process::{Started, World};
use crate::program::{PARTITIONS, Record, STREAM};
use crate::schedule::{Process, RETENTION_US, Runner, SECOND, Schedule, WORLD, actor};
use crate::storage::{Disk, Weather};
use crate::topics::Topics;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemill_connectors::lake::Snapshot;
use tidemill_core::edge::SharedEdge;
use tidemill_core::log::newest_root;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::writer::{ToPublisher, tag_alone};
use tidemill_types::Epoch;

/// How long commits stay readable.
const RETENTION: Duration = Duration::from_micros(RETENTION_US);

/// Runs the trial of a plan.
pub fn run(plan: Plan<Mutant>) -> Outcome<Counts> {
    let schedule = Schedule::seeded(plan.seed, plan.told);
    let runner = Runner::new(schedule.clone());
    let disk = Disk::default();
    let judge = Judge::new(disk.clone(), schedule.clone());
    let world = World {
        schedule: schedule.clone(),
        local: runner.local(),
        disk,
        judge: judge.clone(),
        weather: Arc::new(Mutex::new(weather(&schedule))),
        on_disk: schedule.pick(0..3) == 0,
        topics: Topics::new(judge.clone(), schedule.clone()),
        sends: schedule.pick(0..8) == 0 || plan.bug.is_some_and(Mutant::is_of_the_sink),
        retention: RETENTION,
        mixed: schedule.pick(0..5) == 0 || plan.bug == Some(Mutant::ForgetsWhoSleeps),
        commits: if schedule.pick(0..4) == 0 { schedule.pick(2..40) } else { 1 },
        mutant: plan.bug,
    };
    let ids = if schedule.pick(0..10) == 0 { 40 } else { 12 };
    let director = Director { world, processes: Rc::default(), next: Rc::new(RefCell::new(WORLD)), ids };
    let ended = runner.run(director.direct(), 10 * 24 * 3600 * SECOND);
    if !ended && judge.broken().is_none() {
        judge.breaks("the trial did not end");
    }
    let (digest, told) = schedule.trace();
    Outcome { broken: judge.broken(), counts: judge.counts(), digest, told }
}

fn weather(schedule: &Schedule) -> Weather {
    let up_to = |most: u64| schedule.pick(0..most + 1) as u32;
    Weather {
        lost: up_to(40),
        unanswered: up_to(40),
        late: up_to(40),
        twice: up_to(20),
        unread: up_to(8),
        slow: up_to(20),
        dozes: up_to(4),
        takes_us: [1_000, 10_000, 60_000][schedule.pick(0..3) as usize],
        lag_us: schedule.pick(0..5) * SECOND,
    }
}

#[derive(Clone)]
struct Director {
    world: World,
    processes: Rc<RefCell<Vec<Started>>>,
    next: Rc<RefCell<Process>>,
    /// How many documents there are.
    ids: u64,
}

impl Director {
    async fn direct(self) {
        let world = self.world.clone();
        let schedule = world.schedule.clone();
        let lasts = schedule.pick(4..10) * SECOND;
        let traffic = self.clone();
        world.local.spawn(WORLD, async move { traffic.traffic(lasts).await });
        self.start();
        while schedule.now() < lasts && world.judge.broken().is_none() {
            schedule.sleep(schedule.pick(20_000..1_800_000)).await;
            self.strike().await;
            if self.at_work().is_empty() {
                self.start();
            }
        }
        if world.judge.broken().is_none() {
            self.calm().await;
        }
    }

    fn start(&self) -> Process {
        self.start_back(None)
    }

    fn start_back(&self, to: Option<Epoch>) -> Process {
        let mut next = self.next.borrow_mut();
        *next += 1;
        self.processes.borrow_mut().push(self.world.start(*next, to));
        *next
    }

    /// Somebody goes back to a commit, which may no longer be kept.
    fn roll_back(&self) {
        let Some(newest) = self.world.judge.newest() else { return };
        let few = newest.epoch.saturating_sub(self.world.schedule.pick(1..12));
        let tagged = newest.tags.values().next().map(|tag| tag.epoch);
        let tagged = tagged.filter(|_| self.world.schedule.pick(0..2) == 0);
        self.start_back(Some(tagged.unwrap_or(few)));
    }

    /// A process is told to end in order.
    fn stop(&self, process: Process) {
        let processes = self.processes.borrow();
        if processes.iter().any(|p| p.process == process && p.stop()) {
            self.world.schedule.tell(|| format!("p{process} is to end"));
        }
    }

    /// Somebody names a commit where no writer is at work, as far as he knows.
    fn tag_alone(&self) -> Option<Process> {
        let newest = self.world.judge.newest()?;
        let mut next = self.next.borrow_mut();
        *next += 1;
        let (world, process) = (self.world.clone(), *next);
        world.retention_of(process);
        let epoch = newest.epoch.saturating_sub(world.schedule.pick(0..6));
        let (store, edge) = (world.store(process), crate::edge::SimEdge::shared(&world.schedule, process, 0));
        self.world.local.spawn(process, async move {
            let done = tag_alone(&store, &edge, "alone", Some(epoch)).await;
            if let Ok(root) = &done {
                world.judge.believed(root);
            }
            let said = done.map(|root| root.epoch);
            world.schedule.tell(|| format!("p{process} tags {epoch} alone: {said:?}"));
        });
        Some(process)
    }

    /// Processes that have not ended and are not stopped.
    fn at_work(&self) -> Vec<Process> {
        let schedule = &self.world.schedule;
        let mut processes = self.processes.borrow_mut();
        processes.retain(|p| p.life.ended().is_none() && !schedule.is_killed(p.process));
        processes.iter().map(|p| p.process).filter(|p| !schedule.is_stopped(*p)).collect()
    }

    fn one_of(&self, processes: &[Process]) -> Option<Process> {
        match processes.len() {
            0 => None,
            many => processes.get(self.world.schedule.pick(0..many as u64) as usize).copied(),
        }
    }

    /// Something happens.
    async fn strike(&self) {
        let (world, schedule) = (&self.world, &self.world.schedule);
        let at_work = self.at_work();
        match schedule.pick(0..100) {
            0..14 => {
                if let Some(process) = self.one_of(&at_work) {
                    schedule.tell(|| format!("p{process} is killed"));
                    schedule.kill(process);
                    world.judge.count(|counts| counts.killed += 1);
                }
            }
            14..30 => {
                if let Some(process) = self.one_of(&at_work) {
                    self.put_to_sleep(process);
                }
            }
            30..36 => {
                self.start();
            }
            36..38 => {
                // In the midst of its claim, if it comes to that.
                let process = self.start();
                schedule.sleep(schedule.pick(0..300_000)).await;
                self.put_to_sleep(process);
            }
            38..60 => self.read(),
            60..66 => self.tag(),
            66..68 => {
                let tagging = self.tag_alone();
                // Between its look and its claim another tag may come.
                if let Some(process) = tagging.filter(|_| schedule.pick(0..2) == 0) {
                    schedule.sleep(schedule.pick(0..100_000)).await;
                    schedule.stop(process, schedule.pick(SECOND / 5..3 * SECOND));
                    world.judge.count(|counts| counts.stopped += 1);
                    self.tag();
                }
            }
            68..72 => self.roll_back(),
            72..76 => {
                if let Some(process) = self.one_of(&at_work) {
                    self.stop(process);
                }
            }
            76..80 => {
                // The others go on while nobody strikes: what was stopped comes back to a store that has moved.
                schedule.sleep(schedule.pick(10 * SECOND..90 * SECOND)).await;
            }
            _ => {}
        }
    }

    fn put_to_sleep(&self, process: Process) {
        self.world.schedule.put_to_sleep(process);
        self.world.judge.count(|counts| counts.stopped += 1);
    }

    /// Somebody reads the newest commit.
    fn read(&self) {
        let mut next = self.next.borrow_mut();
        *next += 1;
        let (world, process) = (self.world.clone(), *next);
        let store = world.store(process);
        self.world.local.spawn(process, async move {
            let edge = crate::edge::SimEdge::shared(&world.schedule, process, 0);
            let (judge, reading) = (world.judge.clone(), store.clone());
            let what = actor(move || read_newest(&judge, &reading, &edge)).await;
            world.schedule.tell(|| format!("r{process} {what}"));
        });
    }

    /// Somebody names the newest commit, or takes a name back.
    fn tag(&self) {
        let (world, schedule) = (&self.world, &self.world.schedule);
        let Some(newest) = world.judge.newest() else { return };
        let name = format!("t{}", schedule.pick(0..2));
        // It may be one that is no longer kept, or not whole.
        let back = if schedule.pick(0..4) == 0 { newest.epoch + 1 } else { 6 };
        let epoch = newest.epoch.saturating_sub(schedule.pick(0..back));
        self.ask_for_tag(name.clone(), (!newest.tags.contains_key(&name)).then_some(epoch));
    }

    /// Asks a writer to name a commit, or to let a name go.
    fn ask_for_tag(&self, name: String, epoch: Option<Epoch>) {
        let (world, schedule) = (&self.world, &self.world.schedule);
        let at_work = self.at_work();
        let Some(process) = self.one_of(&at_work) else { return };
        let processes = self.processes.borrow();
        let told = processes.iter().find(|p| p.process == process).map(|p| p.told.clone());
        let Some((publisher, _)) = told.and_then(|told| told.borrow().clone()) else { return };
        if epoch.is_none() {
            world.judge.lets_go(&name);
        }
        let (answer, answered) = futures::channel::oneshot::channel();
        schedule.tell(|| format!("p{process} is to tag {name} {epoch:?}"));
        drop(publisher.unbounded_send(ToPublisher::Tag(name, epoch, answer)));
        let (world, publisher) = (world.clone(), process);
        self.world.local.spawn(WORLD, async move {
            let said = answered.await;
            world.schedule.tell(|| format!("p{publisher} on a tag: {said:?}"));
        });
    }

    /// Records come.
    async fn traffic(&self, lasts: u64) {
        let schedule = &self.world.schedule;
        while schedule.now() < lasts {
            schedule.sleep(schedule.pick(1_000..600_000)).await;
            for _ in 0..schedule.pick(1..6) {
                self.record();
            }
        }
    }

    fn record(&self) {
        let schedule = &self.world.schedule;
        let id = schedule.pick(0..self.ids);
        let value = match schedule.pick(0..12) {
            0 => "no document at all".to_string(),
            1 | 2 => format!("{STREAM}-{id}|"),
            _ => {
                let (title, text) = (schedule.pick(0..4), schedule.pick(0..30));
                format!(
                    "{STREAM}-{id}|title {title}|text {text} {}",
                    "x".repeat(schedule.pick(0..200) as usize)
                )
            }
        };
        let timestamp = 1_700_000_000_000_000 + schedule.pick(0..50) as i64;
        let partition = schedule.pick(0..PARTITIONS as u64) as usize;
        self.world.judge.record(partition, Record { timestamp, value: value.into_bytes() });
    }

    /// No more faults: everything that was read is committed and published, who slept wakes up and harms
    /// nobody, and in the end nothing is left that nobody needs.
    async fn calm(&self) {
        let (world, schedule) = (&self.world, &self.world.schedule);
        *world.weather.lock().unwrap_or_else(PoisonError::into_inner) =
            Weather { takes_us: 2_000, ..Weather::default() };
        schedule.tell(|| "calm".to_string());
        if self.at_work().is_empty() {
            self.start();
        }
        self.until(120, "all records are committed and published", |judge| self.is_through(judge)).await;
        // Whoever sleeps shall find that the names which it would use next were used, and deleted since.
        let asleep = self.processes.borrow().iter().any(|p| schedule.is_stopped(p.process));
        for _ in 0..if asleep { 5 } else { 0 } {
            self.record();
            schedule.sleep(RETENTION.as_micros() as u64 / 3).await;
        }
        // Writes that were late arrive, and whoever slept wakes up.
        schedule.wake_all();
        schedule.sleep(70 * SECOND).await;
        for _ in 0..3 {
            self.record();
            schedule.sleep(2 * SECOND).await;
        }
        self.until(60, "only one writer is left, and at work", |judge| {
            self.at_work().len() == 1 && self.is_through(judge)
        })
        .await;
        // Half of the tags are let go: what only they kept must be deleted by the last look.
        let tags = world.judge.newest().map(|newest| newest.tags).unwrap_or_default();
        for name in tags.into_keys().filter(|_| schedule.pick(0..2) == 0) {
            self.ask_for_tag(name, None);
        }
        let mut left = Ok(());
        for _ in 0..8 {
            if world.judge.broken().is_some() {
                return;
            }
            schedule.sleep(RETENTION.as_micros() as u64 * 6 / 5).await;
            for _ in 0..3 {
                self.record();
                schedule.sleep(2 * SECOND).await;
            }
            left = world.judge.last_look();
            if left.is_ok() {
                return;
            }
        }
        if let Err(what) = left {
            world.judge.breaks(what);
        }
    }

    /// Whether the newest root holds and publishes all that came.
    fn is_through(&self, judge: &Judge) -> bool {
        let (Some(newest), ends) = (judge.newest(), judge.ends()) else { return false };
        let at = |partition: usize| newest.positions.get(STREAM)?.get(&partition.to_string()).copied();
        let read = ends.iter().enumerate().all(|(partition, end)| at(partition).unwrap_or(0) == *end);
        let sent = !self.world.sends || self.world.topics.are_through();
        read && sent && judge.is_published()
    }

    async fn until(&self, seconds: u64, what: &str, holds: impl Fn(&Judge) -> bool) {
        let (world, schedule) = (&self.world, &self.world.schedule);
        let end = schedule.now() + seconds * SECOND;
        while !holds(&world.judge) && world.judge.broken().is_none() {
            if schedule.now() > end {
                return world
                    .judge
                    .breaks(format!("in {seconds} seconds of calm it did not come to this: {what}"));
            }
            if self.at_work().is_empty() {
                self.start();
            }
            schedule.sleep(SECOND / 4).await;
        }
    }
}

/// Reads the newest commit whole; what came of it.
fn read_newest(judge: &Judge, store: &SharedStore, edge: &SharedEdge) -> String {
    let before = judge.newest().map(|newest| newest.epoch);
    let root = match edge.block_on(newest_root(&**store, None)) {
        Ok(root) => root,
        Err(error) => {
            if let StoreError::Damaged(what) = &error {
                judge.breaks(format!("a reader takes the log for damaged: {what}"));
            }
            return error.to_string();
        }
    };
    if root.as_ref().map(|root| root.epoch) < before {
        judge.breaks(format!("a reader found {:?} where {before:?} was newest", root.map(|root| root.epoch)));
        return "it read too old a root".to_string();
    }
    let Some(root) = root else { return "nothing is there yet".to_string() };
    let read = Snapshot::of(snapshot_options(store.clone(), edge.clone()), root.clone());
    let read = read.map_err(|error| error.to_string()).and_then(|snapshot| judge.compare(&snapshot));
    match read {
        Ok(()) => {
            judge.count(|counts| counts.read += 1);
            format!("read {}", root.epoch)
        }
        Err(error) if error.contains("no answer") || !judge.is_retained(&root) => error,
        Err(error) => {
            judge.breaks(error.clone());
            error
        }
    }
}
