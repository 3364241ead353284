//! The local store under power cuts: production's own code over a disk that tears what no sync has made sure.
//!
//! ```text
//!  seed ──> trial   processes put, create, delete, read and list; one is killed, or the power is cut
//!             │
//!             v
//!  Disk::{put, create, ..}  of tidemill-connectors, call by call, several at a time
//!             │ system calls                                 │ answers
//!             v                                              v
//!           files   fail at times; keep what is sure       judge   what may stand under a name by now
//! ```
//!
//! A process may die between any two system calls, and those of others come in between. After each power cut
//! a new process reads and lists everything before others start: each name must hold exactly a body that was
//! put there whole, and nothing may be gone, or be back, that the answers exclude. In the end no temporary
//! file may be left once a new writer has been there.
//!
//! Threads of one process share what the process knows of its folders. That they also share syncs of a folder
//! is not simulated: who waits for another's sync waits where the scheduler cannot see it.

mod bugs;
mod files;
mod judge;

pub use bugs::{BUGS, Bug};
pub use judge::Counts;

use crate::plan::{Outcome, Plan};
use crate::schedule::{Local, Process, Runner, Schedule, WORLD, actor, wait};
use bugs::Wrong;
use bytes::Bytes;
use files::Machine;
use judge::{Judge, Kind};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use tidemill_connectors::store::Disk;
use tidemill_core::store::{Created, StoreError};

/// The folder that is there before the store is.
const VOLUME: &str = "/volume";
/// Where the store stands. Two folders are to be made before its first object.
const STORE: &str = "/volume/some/store";
/// All names of objects, some side by side and some not.
const NAMES: [&str; 7] = ["hint", "log/1", "log/2", "data/a/x", "data/a/y", "data/a/z", "data/b/x"];
/// Those in one folder: in some trials all that is done is done here.
const NARROW: Range<u64> = 3..6;
/// Folders to list.
const FOLDERS: [&str; 4] = ["", "log/", "data/", "data/a/"];
/// Processes at a time.
const PROCESSES: usize = 4;
const MS: u64 = 1000;

/// Runs the trial of a plan.
pub fn run(plan: Plan<Bug>) -> Outcome<Counts> {
    let schedule = Schedule::seeded(plan.seed, plan.told);
    let runner = Runner::new(schedule.clone());
    let judge = Judge::new(&NAMES);
    let machine = Machine::new(schedule.clone(), Path::new(VOLUME));
    let trial = Trial {
        local: runner.local(),
        fails: [0, 5, 30][schedule.pick(0..3) as usize],
        names: if schedule.pick(0..2) == 0 { NARROW } else { 0..NAMES.len() as u64 },
        schedule: schedule.clone(),
        machine: machine.clone(),
        judge: judge.clone(),
        bug: plan.bug,
        started: WORLD,
        alive: Vec::new(),
    };
    if !runner.run(trial.direct(), 3600 * 1000 * MS) {
        judge.breaks("the trial did not end".to_string());
    }
    let damage = machine.damage();
    judge.count(|counts| (counts.torn, counts.undone) = (damage.torn, damage.undone));
    let (digest, told) = schedule.trace();
    Outcome { broken: judge.broken(), counts: judge.counts(), digest, told }
}

struct Trial {
    schedule: Schedule,
    local: Local,
    machine: Machine,
    judge: Judge,
    bug: Option<Bug>,
    /// How many of a thousand system calls fail.
    fails: u32,
    /// Which names are in use until the end.
    names: Range<u64>,
    started: Process,
    alive: Vec<Process>,
}

impl Trial {
    async fn direct(mut self) {
        let ends = self.schedule.now() + self.schedule.pick(20..60) * MS;
        while self.schedule.now() < ends && self.judge.broken().is_none() {
            if self.alive.is_empty() {
                self.start();
            }
            self.schedule.sleep(self.schedule.pick(100..4 * MS)).await;
            match self.schedule.pick(0..10) {
                0..5 if self.alive.len() < PROCESSES => self.start(),
                0..8 => {
                    let one = self.schedule.pick(0..self.alive.len() as u64) as usize;
                    let process = self.alive.swap_remove(one);
                    self.kill(process);
                }
                _ => self.cut_power().await,
            }
        }
        if self.judge.broken().is_none() {
            self.calm().await;
        }
    }

    fn next(&mut self) -> Process {
        self.started += 1;
        self.started
    }

    fn disk(&self, process: Process, fails: u32, alone: bool) -> Arc<Disk<Wrong>> {
        let files = self.machine.files(process, fails, alone);
        let files = Wrong::new(files, self.bug, Path::new(STORE));
        Arc::new(Disk::new(files, PathBuf::from(STORE)).expect("the store's path is plain"))
    }

    /// A process of one thread or two.
    fn start(&mut self) {
        let process = self.next();
        self.schedule.tell(|| format!("p{process} starts"));
        let threads = 1 + self.schedule.pick(0..3) / 2;
        let disk = self.disk(process, self.fails, threads == 1);
        for _ in 0..threads {
            let client = Client {
                schedule: self.schedule.clone(),
                disk: disk.clone(),
                judge: self.judge.clone(),
                names: self.names.clone(),
                process,
            };
            self.local.spawn(process, actor(move || client.work()));
        }
        self.alive.push(process);
    }

    fn kill(&self, process: Process) {
        self.schedule.tell(|| format!("p{process} is killed"));
        self.schedule.kill(process);
        self.judge.killed(process);
    }

    /// All processes die where they stand, and what is not sure may be gone. Then everything is read.
    async fn cut_power(&mut self) {
        for process in std::mem::take(&mut self.alive) {
            self.kill(process);
        }
        // The scheduler takes them away before anything else happens.
        self.schedule.sleep(1).await;
        self.schedule.tell(|| "the power is cut".to_string());
        self.machine.power_cut();
        self.judge.count(|counts| counts.cuts += 1);
        self.look(true).await;
    }

    /// A new process reads and lists everything.
    async fn look(&mut self, after_a_cut: bool) {
        let process = self.next();
        let (disk, judge) = (self.disk(process, 0, true), self.judge.clone());
        if let Err(error) = actor(move || read_all(&disk, &judge, after_a_cut)).await {
            self.judge.breaks(format!("of everything: {error}"));
        }
    }

    /// No more faults: a new process can do everything, and removes what the killed ones left; and once more
    /// the power is cut.
    async fn calm(&mut self) {
        self.schedule.tell(|| "calm".to_string());
        if self.schedule.pick(0..2) == 0 {
            self.cut_power().await;
        } else {
            std::mem::take(&mut self.alive).into_iter().for_each(|process| self.kill(process));
            self.look(false).await;
        }
        let process = self.next();
        let client = Client {
            schedule: self.schedule.clone(),
            disk: self.disk(process, 0, true),
            judge: self.judge.clone(),
            names: self.names.clone(),
            process,
        };
        let written =
            actor(move || NAMES.into_iter().try_for_each(|name| client.write(Kind::Put, name).map(drop)));
        if let Err(error) = written.await {
            self.judge.breaks(format!("in calm: {error}"));
        }
        for name in NAMES {
            let path = Path::new(STORE).join(name);
            let folder = path.parent().unwrap_or(&path);
            let left = self.machine.names(folder).into_iter().find(|part| part.starts_with(".tmp-"));
            if let Some(left) = left {
                self.judge.breaks(format!("{left} is left in {}", folder.display()));
            }
        }
        self.cut_power().await;
    }
}

/// Reads and lists everything.
fn read_all(disk: &Disk<Wrong>, judge: &Judge, after_a_cut: bool) -> Result<(), StoreError> {
    let (mut found, from) = (BTreeMap::new(), judge.now());
    for name in NAMES {
        let body = match disk.get(name) {
            Err(StoreError::NotFound { .. }) => None,
            body => Some(body?),
        };
        found.insert(name.to_string(), body);
    }
    judge.finds(from, &disk.list("", "")?, &found, after_a_cut);
    Ok(())
}

/// A thread of a process.
struct Client {
    schedule: Schedule,
    disk: Arc<Disk<Wrong>>,
    judge: Judge,
    names: Range<u64>,
    process: Process,
}

impl Client {
    /// Works until it is killed, or something is broken.
    fn work(&self) {
        while self.judge.broken().is_none() {
            wait(pin!(self.schedule.sleep(self.schedule.pick(1..300))));
            let name = NAMES[self.schedule.pick(self.names.clone()) as usize];
            match self.schedule.pick(0..100) {
                0..30 => drop(self.write(Kind::Put, name)),
                30..55 => drop(self.write(Kind::Create, name)),
                55..70 => drop(self.write(Kind::Delete, name)),
                70..85 => self.read(name),
                85..92 => self.read_range(name),
                _ => self.list(),
            }
        }
    }

    /// A body that no other write has, over some blocks.
    fn body(&self, name: &str) -> Bytes {
        let rest = "tidemill".repeat(self.schedule.pick(0..8) as usize);
        Bytes::from(format!("{name} {:x} {rest}", self.schedule.pick(0..u64::MAX)))
    }

    fn write(&self, kind: Kind, name: &str) -> Result<Created, StoreError> {
        let body = (kind != Kind::Delete).then(|| self.body(name));
        let begun = self.judge.begins(self.process, kind, name, body.clone());
        let done = match (kind, &body) {
            (Kind::Create, Some(body)) => self.disk.create(name, body),
            (_, Some(body)) => self.disk.put(name, body).map(|()| Created::New),
            (_, None) => self.disk.delete(name).map(|()| Created::New),
        };
        self.judge.ends(&begun, &done);
        self.schedule.tell(|| format!("p{} {kind:?} {name}: {done:?}", self.process));
        done
    }

    fn read(&self, name: &str) {
        let from = self.judge.now();
        match self.disk.get(name) {
            Ok(body) => self.judge.reads(name, from, Some(&body)),
            Err(StoreError::NotFound { .. }) => self.judge.reads(name, from, None),
            // It says nothing.
            Err(_) => {}
        }
    }

    /// A part of an object is the same part of a whole one.
    fn read_range(&self, name: &str) {
        let from = self.judge.now();
        if let Ok(part) = self.disk.get_range(name, 3..9) {
            self.judge.reads_part(name, from, 3, &part);
        }
    }

    fn list(&self) {
        let folder = FOLDERS[self.schedule.pick(0..FOLDERS.len() as u64) as usize];
        let from = self.judge.now();
        if let Ok(found) = self.disk.list(folder, "") {
            self.judge.lists(folder, from, &found);
        }
    }
}
