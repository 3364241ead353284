//! Topics that take transactions, and what a process's sink does with them.
//!
//! ```text
//!   Believes ──newest root──> a slot ──> Sending (production's) ──> Producer ──> Topics ──> judged there and then
//! ```
//!
//! The broker keeps its own promises: a transaction is seen whole or not at all, and whoever opens anew shuts out all
//! producers before it. Answers are lost on the way to it and back. Every transaction that is committed is held to
//! what readers are promised: epochs come in order, none that touched a table is passed over, and the changes so far
//! add up to the tables of the epoch that the progress names.

use crate::judge::{Judge, by_digest, difference, snapshot_options};
use crate::mutants::Mutant;
use crate::process::World;
use crate::program::{Rows, TABLES, program, shown};
use crate::schedule::{Process, Schedule};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemill_connectors::lake::{Changelog, ChangelogOptions, stored_segments};
use tidemill_connectors::sending::{Sending, SendingOptions, Sent, Stepped, Taker};
use tidemill_core::edge::SharedEdge;
use tidemill_core::sink::{End, Failure, Progress, Sink, SinkSettings};
use tidemill_core::store::SharedStore;
use tidemill_types::{Epoch, Root, TableSchema};

/// The tables that are sent: a source's and one that is made from it.
const SENT: [&str; 2] = [TABLES[0], TABLES[5]];
/// The longest rest between two looks, microseconds.
const REST_US: u64 = 200_000;
/// A sink that did nothing for so long may have missed what the log held.
const AWAY_US: u64 = 2_000_000;
/// Requests of a thousand that are lost, or whose answer is.
const LOST: u64 = 30;

/// A change on its way.
struct Change {
    table: String,
    key: String,
    row: Option<String>,
}

#[derive(Default)]
struct Broker {
    /// The producer that is not shut out.
    producer: u64,
    /// What the open transaction holds.
    open: Vec<Change>,
    progress: Option<Progress>,
    /// The tables as they follow from all changes.
    tables: BTreeMap<String, Rows>,
}

/// The topics of one trial.
#[derive(Clone)]
pub struct Topics {
    broker: Arc<Mutex<Broker>>,
    judge: Judge,
    schedule: Schedule,
}

impl Topics {
    /// Nothing is in them.
    pub fn new(judge: Judge, schedule: Schedule) -> Self {
        Self { broker: Arc::default(), judge, schedule }
    }

    fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all changes of the tables are there, up to the newest root.
    pub fn are_through(&self) -> bool {
        let Some(newest) = self.judge.newest() else { return true };
        let position = self.broker().progress.as_ref().map(|progress| progress.epoch);
        let missing = position.map_or(0, |epoch| epoch + 1)..=newest.epoch;
        position.is_some() && missing.filter_map(|epoch| self.judge.root(epoch)).all(|root| !touches(&root))
    }

    /// As a person does who is told that the log no longer holds what comes next: names empty topics.
    fn begin_anew(&self) {
        let mut broker = self.broker();
        (broker.progress, broker.tables) = (None, BTreeMap::new());
        broker.open.clear();
    }

    /// Commits the open transaction. An error: what is wrong with it.
    fn commit(&self, progress: &Progress) -> Result<(), String> {
        let mut broker = self.broker();
        let epoch = progress.epoch;
        let root = self.judge.root(epoch).filter(|root| root.nonce == progress.nonce);
        root.ok_or_else(|| format!("the progress names root {epoch}, which is not that of the chain"))?;
        if let Some(before) = &broker.progress {
            if before.epoch >= epoch {
                return Err(format!("epoch {epoch} was sent after epoch {}", before.epoch));
            }
            let between = (before.epoch + 1..epoch).filter_map(|epoch| self.judge.root(epoch));
            if let Some(passed) = between.into_iter().find(touches) {
                return Err(format!("epoch {} was passed over for {epoch}", passed.epoch));
            }
        }
        for change in std::mem::take(&mut broker.open) {
            let rows = broker.tables.entry(change.table.clone()).or_default();
            let fits = match change.row {
                Some(row) => rows.insert(change.key.clone(), row).is_none(),
                None => rows.remove(&change.key).is_some(),
            };
            if !fits {
                return Err(format!(
                    "in epoch {epoch} a change of {} {} does not fit",
                    change.table, change.key
                ));
            }
        }
        let wanted = self.judge.tables(epoch).ok_or("there are no tables of that epoch")?;
        for table in SENT {
            let none = Rows::new();
            let there = broker.tables.get(table).unwrap_or(&none);
            if let Some(what) = difference(table, there, wanted.get(table).unwrap_or(&none)) {
                return Err(format!("a topic as of epoch {epoch}: {what}"));
            }
        }
        broker.progress = Some(progress.clone());
        Ok(())
    }
}

/// Whether a root changes a table that is sent.
fn touches(root: &Root) -> bool {
    let mut tables = root.segments.iter().flat_map(|segment| segment.tables.keys());
    tables.any(|table| SENT.contains(&table.as_str()))
}

/// A producer of a process.
struct Producer {
    topics: Topics,
    edge: SharedEdge,
    /// Whether answers are lost.
    stormy: Box<dyn Fn() -> bool + Send>,
    number: Option<u64>,
    mutant: Option<Mutant>,
    /// How many records it was handed.
    sent: u64,
}

/// What is asked of the broker.
type Asked<'a, T> = &'a mut dyn FnMut(&mut Broker) -> Result<T, Failure>;

impl Producer {
    /// Asks something of the broker: it takes time, and the question or the answer may be lost.
    fn ask<T>(&mut self, ask: Asked<'_, T>) -> Result<T, Failure> {
        let schedule = self.topics.schedule.clone();
        self.edge.block_on(self.edge.sleep(Duration::from_micros(schedule.pick(100..20_000))));
        let fate = if (self.stormy)() { schedule.pick(0..1000) } else { 1000 };
        let lost = || Failure::Away("no answer".to_string());
        if fate < LOST {
            return Err(lost());
        }
        let answer = ask(&mut self.topics.broker());
        if fate < 2 * LOST { Err(lost()) } else { answer }
    }

    fn ask_as_producer<T>(&mut self, ask: Asked<'_, T>) -> Result<T, Failure> {
        let number = self.number;
        self.ask(&mut |broker| match Some(broker.producer) == number {
            true => ask(broker),
            false => Err(Failure::Lost("it was shut out".to_string())),
        })
    }
}

impl Taker for Producer {
    fn open(&mut self, _: bool) -> Result<(), Failure> {
        self.number = None;
        let number = self.ask(&mut |broker| {
            broker.open.clear();
            broker.producer += 1;
            Ok(broker.producer)
        })?;
        self.number = Some(number);
        Ok(())
    }

    fn progress(&mut self) -> Result<Option<Progress>, Failure> {
        self.ask(&mut |broker| Ok(broker.progress.clone()))
    }

    fn topic_ids(&mut self) -> Result<BTreeMap<String, String>, Failure> {
        Ok(BTreeMap::new())
    }

    fn is_empty(&mut self, topic: &str) -> Result<bool, Failure> {
        self.ask(&mut |broker| Ok(broker.tables.get(topic).is_none_or(|rows| rows.is_empty())))
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.ask_as_producer(&mut |_| Ok(()))
    }

    fn send(&mut self, sent: &Sent<'_>) -> Result<(), Failure> {
        self.sent += 1;
        if self.mutant == Some(Mutant::SendsTooLittle) && self.sent.is_multiple_of(7) {
            return Ok(());
        }
        let (key, row) = shown(sent.schema, &by_digest(sent.schema, sent.row));
        let change = Change { table: sent.schema.name.clone(), key, row: (sent.diff > 0).then_some(row) };
        // A record waits for no answer of its own.
        let number = self.number;
        let mut broker = self.topics.broker();
        if Some(broker.producer) != number {
            return Err(Failure::Lost("it was shut out".to_string()));
        }
        broker.open.push(change);
        Ok(())
    }

    fn commit(&mut self, progress: &Progress, _: &Root) -> Result<(), Failure> {
        let (topics, mut committed) = (self.topics.clone(), false);
        let answer = self.ask_as_producer(&mut |_| {
            committed = true;
            Ok(())
        });
        if committed && let Err(what) = topics.commit(progress) {
            topics.judge.breaks(what);
        }
        match answer {
            Err(Failure::Away(_)) if self.mutant == Some(Mutant::TrustsNoAnswerOfKafka) => Ok(()),
            answer => answer,
        }
    }
}

/// The newest root of a process.
pub type Slot = Arc<Mutex<Option<Arc<Root>>>>;

/// Sends what a process commits until the process ends; on a thread of its own.
pub fn send(
    world: &World,
    process: Process,
    claim: &Root,
    newest: Slot,
    (store, edge): (SharedStore, SharedEdge),
) -> impl FnOnce() + Send + use<> {
    let schemas: Arc<[TableSchema]> = program().tables().into();
    let changelog = Changelog::new(ChangelogOptions {
        snapshots: snapshot_options(store.clone(), edge.clone()),
        segments: stored_segments(store.clone(), edge.clone(), 1 << 20),
        bodies: None,
    });
    let settings = SinkSettings {
        store: claim.location.clone(),
        transactional_id: "mill".to_string(),
        generation: claim.generation,
        topics: SENT.iter().map(|table| (table.to_string(), table.to_string())).collect(),
        lag_max_ms: i64::MAX / 4,
        idle_ms: 3_000,
        whole_ms: 60_000,
    };
    let sending = Sending::new(SendingOptions {
        machine: Sink::new(settings, claim.epoch, edge.now_ms()),
        store,
        edge: edge.clone(),
        schemas,
        changelog,
        newest: Box::new(move || newest.lock().unwrap_or_else(PoisonError::into_inner).clone()),
    });
    let weather = world.weather.clone();
    let producer = Producer {
        topics: world.topics.clone(),
        edge: edge.clone(),
        stormy: Box::new(move || weather.lock().unwrap_or_else(PoisonError::into_inner).lost > 0),
        number: None,
        mutant: world.mutant,
        sent: 0,
    };
    let (judge, schedule) = (world.judge.clone(), world.schedule.clone());
    move || run(sending, producer, &judge, &schedule, process, &edge)
}

fn run(
    mut sending: Sending,
    mut producer: Producer,
    judge: &Judge,
    schedule: &Schedule,
    process: Process,
    edge: &SharedEdge,
) {
    let (started, mut last, mut away) = (edge.now_us(), edge.now_us(), false);
    loop {
        let now = edge.now_us();
        // It slept, or waited long for an answer.
        away |= now - last > AWAY_US;
        last = now;
        match sending.step(&mut producer) {
            Stepped::Done(Some((epoch, records))) => {
                judge.count(|counts| counts.sent += 1);
                schedule.tell(|| format!("p{process} sends epoch {epoch}: {records} records"));
            }
            Stepped::Done(None) => {}
            Stepped::Failed(failure) => schedule.tell(|| format!("p{process} cannot send: {failure:?}")),
            Stepped::Wait(until) => {
                let most = until.map_or(REST_US, |until| (until - edge.now_ms()).max(1) as u64 * 1000);
                edge.block_on(edge.sleep(Duration::from_micros(most.min(REST_US))));
            }
            Stepped::Left(End::Stopped(why)) => {
                schedule.tell(|| format!("p{process} sends no more: {why}"));
                let may = away || edge.now_us() - started < 2 * AWAY_US;
                stopped(&producer.topics, judge, sending.machine().position(), may, &why);
                return;
            }
            Stepped::Left(end) => return schedule.tell(|| format!("p{process} sends no more: {end:?}")),
        }
    }
}

/// A sink stops only where the log no longer holds what it needs; `may`: because nobody sent for so long.
fn stopped(topics: &Topics, judge: &Judge, position: Option<Epoch>, may: bool, why: &str) {
    let next = position.and_then(|epoch| judge.root(epoch + 1));
    let gone = next.is_some_and(|root| !judge.is_retained(&root));
    match why.contains("no longer in the log") && gone && may {
        true => topics.begin_anew(),
        false => judge.breaks(format!("a sink stopped at {position:?}: {why}")),
    }
}
