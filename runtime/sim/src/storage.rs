//! The object store as processes meet it: slow, and now and then without an answer.
//!
//! ```text
//!  request ──delay──> it happens, or does not, or happens later, or twice ──> what the judge sees
//!     └────── delay, or a time-out ──────> the answer
//! ```
//!
//! What happens at the store happens whatever becomes of the process that asked. A store of the network may
//! carry a request out long after its time-out, and a second time; one on a local disk carries it out before
//! the answer or not at all. Lists may lag: they may lack what was made a moment ago, and show what was
//! deleted a moment ago. A read never lies, but its answer may reach a process that slept meanwhile, and be old.

use crate::judge::Judge;
use crate::schedule::{Process, Schedule};
use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill_core::store::{Created, ObjectInfo, SharedStore, Store, StoreError};

/// Where all objects stand.
pub const LOCATION: &str = "memory://simulated";

/// How a store behaves: in requests of a thousand, and in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Writes that do not happen and get no answer.
    pub lost: u32,
    /// Writes that happen and get no answer.
    pub unanswered: u32,
    /// Writes that get no answer and happen later, at most a minute.
    pub late: u32,
    /// Writes that happen a second time, at most a minute later.
    pub twice: u32,
    /// Reads and lists that fail.
    pub unread: u32,
    /// Requests that take a hundred times as long.
    pub slow: u32,
    /// Requests about the catalog before which the process stops, after it has decided on them; of creates, which are
    /// roots there, four times as many.
    pub dozes: u32,
    /// The longest time that a request takes.
    pub takes_us: u64,
    /// How far lists may lag.
    pub lag_us: u64,
}

/// The latest that a write may happen after its request.
pub const LATEST_US: u64 = 60_000_000;

struct Object {
    body: Bytes,
    made_at: u64,
}

#[derive(Default)]
struct Objects {
    there: BTreeMap<String, Object>,
    /// Names that are gone, and since when.
    gone: BTreeMap<String, u64>,
}

/// All objects.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Objects>>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object's bytes.
    pub fn read(&self, name: &str) -> Option<Bytes> {
        self.lock().there.get(name).map(|object| object.body.clone())
    }

    /// All names below a folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        self.lock().there.keys().filter(|name| name.starts_with(folder)).cloned().collect()
    }

    fn put(&self, name: &str, body: Bytes, now: u64) {
        let mut objects = self.lock();
        objects.gone.remove(name);
        objects.there.insert(name.to_string(), Object { body, made_at: now });
    }

    fn create(&self, name: &str, body: Bytes, now: u64) -> Created {
        if self.lock().there.contains_key(name) {
            return Created::Exists;
        }
        self.put(name, body, now);
        Created::New
    }

    /// Whether it was there.
    fn delete(&self, name: &str, now: u64) -> bool {
        let mut objects = self.lock();
        let was_there = objects.there.remove(name).is_some();
        if was_there {
            objects.gone.insert(name.to_string(), now);
        }
        was_there
    }

    /// A list that may lack what is younger than `lag`, and show what has been gone for less.
    fn list(&self, folder: &str, now: u64, lag: u64, mut seen: impl FnMut() -> bool) -> Vec<ObjectInfo> {
        let objects = self.lock();
        let mut found = Vec::new();
        for (name, object) in objects.there.iter().filter(|(name, _)| name.starts_with(folder)) {
            if object.made_at + lag <= now || seen() {
                found.push(ObjectInfo { name: name.clone(), bytes: object.body.len() as u64 });
            }
        }
        for (name, since) in objects.gone.iter().filter(|(name, _)| name.starts_with(folder)) {
            if since + lag > now && seen() {
                found.push(ObjectInfo { name: name.clone(), bytes: 1 });
            }
        }
        found
    }
}

/// A write.
#[derive(Clone)]
enum Write {
    Put(String, Bytes),
    Create(String, Bytes),
    Delete(String),
}

/// What the trace says of an object: the same history has the same bytes. Of Iceberg's metadata, for which a
/// library draws marks and orders that no seed reaches, and of the roots, which tell its digests, it has as many.
fn told(name: &str, body: &[u8]) -> String {
    match name.contains("/metadata/") || name.starts_with("catalog/") {
        true => body.len().to_string(),
        false => format!("{} {}", body.len(), &blake3::hash(body).to_hex()[..16]),
    }
}

impl Write {
    fn name(&self) -> &str {
        let (Self::Put(name, _) | Self::Create(name, _) | Self::Delete(name)) = self;
        name
    }

    fn told(&self) -> String {
        match self {
            Self::Put(name, body) => format!("put {name} {}", told(name, body)),
            Self::Create(name, body) => format!("create {name} {}", told(name, body)),
            Self::Delete(name) => format!("delete {name}"),
        }
    }
}

/// The store of one process.
pub struct SimStore {
    /// Whose turn it is.
    pub schedule: Schedule,
    /// All objects.
    pub disk: Disk,
    /// Sees every write.
    pub judge: Judge,
    /// The process.
    pub process: Process,
    /// How the store behaves.
    pub weather: Arc<Mutex<Weather>>,
    /// Whether it is on a local disk.
    pub local: bool,
    /// When this process got the answer to its latest question about the catalog.
    pub looked_at: AtomicU64,
}

impl std::fmt::Debug for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStore").field("process", &self.process).finish_non_exhaustive()
    }
}

impl SimStore {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn takes(&self, weather: &Weather) -> u64 {
        let long = if self.schedule.happens(weather.slow) { 100 } else { 1 };
        self.schedule.pick(1..weather.takes_us.max(1) + 1) * long
    }

    /// When a write happens that is late: often about when it is tried again.
    fn late(&self, takes: u64) -> u64 {
        let latest = if self.schedule.pick(0..2) == 0 { 10 * takes } else { LATEST_US };
        self.schedule.pick(takes..latest.max(takes + 1))
    }

    /// Stops the process now and then before a request leaves it: what led to it may have changed when it does.
    async fn doze(&self, often: u32, name: &str) {
        if name.starts_with("catalog/") && self.schedule.happens(often) {
            self.judge.count(|counts| counts.dozed += 1);
            self.schedule.put_to_sleep(self.process);
            self.schedule.sleep(0).await;
        }
    }

    fn failed(&self, what: &str) -> StoreError {
        StoreError::Failed(format!("{what}: no answer"))
    }

    /// Has a write happen after a time; `answer` learns of it.
    fn happen(&self, write: Write, after: u64, answer: Option<oneshot::Sender<Created>>) {
        let (disk, judge, schedule, process) =
            (self.disk.clone(), self.judge.clone(), self.schedule.clone(), self.process);
        let local = self.local;
        self.schedule.after(after, move || {
            // A local disk is part of the machine: what a killed process had not done is not done.
            if local && schedule.is_killed(process) {
                return;
            }
            let now = schedule.now();
            let what = write.told();
            let done = match &write {
                Write::Put(name, body) => {
                    disk.put(name, body.clone(), now);
                    Created::New
                }
                Write::Create(name, body) => disk.create(name, body.clone(), now),
                Write::Delete(name) => match disk.delete(name, now) {
                    true => Created::New,
                    false => Created::Exists,
                },
            };
            schedule.tell(|| format!("p{process} {what}: {done:?}"));
            match (&write, done) {
                (Write::Create(name, _) | Write::Put(name, _), Created::New) => judge.made(name, process),
                (Write::Delete(name), done) => judge.deleted(name, matches!(done, Created::New)),
                _ => {}
            }
            // Who asked may be gone.
            let _ = answer.map(|answer| answer.send(done));
        });
    }

    async fn write(&self, write: Write) -> Result<Created, StoreError> {
        let schedule = &self.schedule;
        if let Write::Create(name, body) = &write {
            // Asked when it is decided, before a doze: who sleeps after that may put it, and must look afterwards.
            let blind = self.looked_at.load(Ordering::Relaxed) < schedule.woke_at(self.process);
            self.judge.puts(self.process, name, body, blind);
        }
        // Most before roots: one that comes late is what a writer's looks guard against.
        let often = if matches!(write, Write::Create(..)) { 4 } else { 1 };
        self.doze(often * self.weather().dozes, write.name()).await;
        let weather = self.weather();
        let (what, takes) = (write.told(), self.takes(&weather));
        let chance = schedule.pick(0..1000) as u32;
        let (lost, unanswered) = (weather.lost, weather.lost + weather.unanswered);
        let late = if self.local { unanswered } else { unanswered + weather.late };
        let twice = if self.local { late } else { late + weather.twice };
        if chance < late {
            match chance {
                _ if chance < lost => {}
                _ if chance < unanswered => self.happen(write, takes / 2, None),
                _ => self.happen(write, self.late(takes), None),
            }
            schedule.sleep(takes).await;
            return Err(self.failed(&what));
        }
        if chance < twice {
            self.happen(write.clone(), self.late(takes), None);
        }
        let (answer, answered) = oneshot::channel();
        self.happen(write, takes / 2, Some(answer));
        schedule.sleep(takes).await;
        answered.await.map_err(|_| self.failed(&what))
    }

    /// Looks at the objects after a time; the answer comes later, and may then be an old one.
    async fn look<T: Send + 'static>(
        &self,
        what: &str,
        look: impl FnOnce(&Disk, &Schedule) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.doze(self.weather().dozes, what).await;
        let (weather, schedule, disk) = (self.weather(), self.schedule.clone(), self.disk.clone());
        let (takes, unread) = (self.takes(&weather), schedule.happens(weather.unread));
        let (answer, answered) = oneshot::channel();
        // Who asked may be gone.
        self.schedule.after(takes / 2, move || drop(answer.send(look(&disk, &schedule))));
        self.schedule.sleep(takes).await;
        if unread {
            return Err(self.failed(what));
        }
        let found = answered.await.map_err(|_| self.failed(what))?;
        if what.starts_with("catalog/") {
            self.looked_at.store(self.schedule.now(), Ordering::Relaxed);
        }
        Ok(found)
    }
}

#[async_trait]
impl Store for SimStore {
    fn location(&self) -> &str {
        LOCATION
    }

    fn is_local(&self) -> bool {
        self.local
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        self.write(Write::Put(name.to_string(), body)).await.map(drop)
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        self.write(Write::Create(name.to_string(), body)).await
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let missing = || StoreError::NotFound { name: name.to_string(), location: LOCATION.to_string() };
        let wanted = name.to_string();
        self.look(name, move |disk, _| disk.read(&wanted)).await?.ok_or_else(missing)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        cut(self.get(name).await?, name, range)
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let lag = if self.local { 0 } else { self.weather().lag_us };
        let wanted = folder.to_string();
        let list = move |disk: &Disk, schedule: &Schedule| {
            disk.list(&wanted, schedule.now(), lag, || schedule.happens(500))
        };
        self.look(folder, list).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.write(Write::Delete(name.to_string())).await.map(drop)
    }
}

fn cut(body: Bytes, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
    let bounds = range.start as usize..range.end as usize;
    let outside = || StoreError::Failed(format!("{name} has no bytes {range:?}"));
    body.get(bounds.clone()).is_some().then(|| body.slice(bounds)).ok_or_else(outside)
}

/// The same objects without time or faults, for whoever judges.
#[derive(Clone)]
pub struct Honest(pub Disk);

impl std::fmt::Debug for Honest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Honest")
    }
}

impl Honest {
    /// As a store.
    pub fn shared(disk: &Disk) -> SharedStore {
        Arc::new(Self(disk.clone()))
    }
}

#[async_trait]
impl Store for Honest {
    fn location(&self) -> &str {
        LOCATION
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn put(&self, name: &str, _: Bytes) -> Result<(), StoreError> {
        Err(StoreError::Failed(format!("{name}: whoever judges writes nothing")))
    }

    async fn create(&self, name: &str, _: Bytes) -> Result<Created, StoreError> {
        Err(StoreError::Failed(format!("{name}: whoever judges writes nothing")))
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let missing = || StoreError::NotFound { name: name.to_string(), location: LOCATION.to_string() };
        self.0.read(name).ok_or_else(missing)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        cut(self.get(name).await?, name, range)
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        Ok(self.0.list(folder, u64::MAX / 2, 0, || true))
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        Err(StoreError::Failed(format!("{name}: whoever judges deletes nothing")))
    }
}
