//! The sink's thread: carries out what the machine in [`tidemill_core::sink`] decides.
//!
//! ```text
//!  gauges.newest (a slot) ──> Sinking ──reads──> the store: roots, segments, the lake's files
//!                                │ ──sends──> Kafka: a transaction for each commit that touches a table of its own
//!                                └──> gauges: epoch, since when the oldest waits, what keeps it, why it stopped
//! ```
//!
//! It follows the log from outside: nobody waits for it but the end of a run, and what is newest is a slot, so
//! that brokers which are away delay nothing and gather nothing. If it stops with an error the run goes on; the error
//! stands in the log, in `/readyz` and in the metrics, and is what the run ends with.

use super::clock::{Stopwatch, now_ms};
use super::gauges::Gauges;
use super::sink_plan::SinkPlan;
use super::start::Started;
use crate::Error;
use crate::cli::json_row;
use crate::config::Settings;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tidemill_connectors::kafka::{ChangeRecord, GoOn, SinkProducer};
use tidemill_connectors::lake::{Changelog, ChangelogOptions, LakeError, TextForm};
use tidemill_core::bodies::BodyCache;
use tidemill_core::edge::parse_ms;
use tidemill_core::log::{newest_root, read_root};
use tidemill_core::sink::{Action, End, Failure, Finish, Sink, SinkSettings, Transaction, What};
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::view::Share;
use tidemill_types::{Epoch, Root, TableSchema, Value};
use tokio::runtime::Handle;

/// How long a commit is waited for before it is looked at what the sink is told.
const TICK: Duration = Duration::from_millis(50);
/// How often the progress goes on over commits that change none of the sink's tables.
const IDLE_MS: i64 = 10_000;
/// After so long without an answer it is shown that brokers are away.
const SHOWN_AFTER: Duration = Duration::from_secs(5);
/// So often it is said again.
const SAY_AGAIN_US: u64 = 15_000_000;
/// After so long without an answer a try is given up and another begun.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a sink is told from outside.
#[derive(Default)]
struct Told(AtomicU8);

const FINISH_WHOLE: u8 = 1;
const FINISH_WHILE_THERE: u8 = 2;
const LEAVE: u8 = 3;

impl Told {
    /// Later words outweigh earlier ones only if they are more pressing.
    fn tell(&self, what: u8) {
        self.0.fetch_max(what, Ordering::AcqRel);
    }

    fn finish(&self) -> Option<Finish> {
        match self.0.load(Ordering::Acquire) {
            FINISH_WHOLE => Some(Finish::Whole),
            FINISH_WHILE_THERE => Some(Finish::WhileThere),
            _ => None,
        }
    }

    fn leaves(&self) -> bool {
        self.0.load(Ordering::Acquire) == LEAVE
    }
}

/// A sink that runs.
pub(super) struct SinkHandle {
    thread: JoinHandle<Option<End>>,
    told: Arc<Told>,
}

impl SinkHandle {
    /// Nothing more will be committed. `whole`: everything must get into the topics, else as long as brokers answer.
    pub(super) fn finish(&self, whole: bool) {
        self.told.tell(if whole { FINISH_WHOLE } else { FINISH_WHILE_THERE });
    }

    /// Leave at once.
    pub(super) fn leave(&self) {
        self.told.tell(LEAVE);
    }

    /// Whether it has left.
    pub(super) fn has_left(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it has left. An error: it had stopped.
    pub(super) fn join(self) -> Result<(), String> {
        match self.thread.join() {
            Ok(Some(End::Stopped(why))) => Err(why),
            Ok(Some(End::Unfinished(why))) => {
                tracing::warn!(%why, "not all is in Kafka; the next start sends the rest");
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(_) => Err(super::internal_error()),
        }
    }
}

/// Starts a sink over a claimed store.
pub(super) fn spawn(
    started: &Started,
    settings: &Settings,
    bodies: BodyCache,
    plan: SinkPlan,
) -> Result<SinkHandle, Error> {
    let (store, handle, cache) = (started.store.clone(), started.runtime.clone(), started.segments.clone());
    let changelog = Changelog::new(ChangelogOptions {
        snapshots: started.snapshots.clone(),
        segments: Arc::new(move |segment| handle.block_on(cache.segment(&*store, segment))),
        bodies: Some(Arc::new(move |digest| bodies.get(digest))),
    });
    let told = Arc::new(Told::default());
    let machine = SinkSettings {
        store: started.store.location().to_string(),
        transactional_id: plan.transactional_id.clone(),
        generation: started.claim.generation,
        topics: plan.topics.clone(),
        lag_max_ms: settings.sink.lag_max.as_millis().min(i64::MAX as u128) as i64,
        idle_ms: IDLE_MS,
        whole_ms: plan.client.whole_ms(),
    };
    started.gauges.sink_begins(plan.topics.keys().cloned().collect(), now_ms());
    let (topics, id) = (&plan.topics, &plan.transactional_id);
    tracing::info!(transactional_id = id, ?topics, "the Kafka sink begins");
    let sinking = Sinking {
        machine: Sink::new(machine, started.claim.epoch, now_ms()),
        seen: started.claim.epoch,
        schemas: started.schemas.clone(),
        store: started.store.clone(),
        runtime: started.runtime.clone(),
        gauges: started.gauges.clone(),
        stopwatch: started.stopwatch.clone(),
        told: told.clone(),
        changelog,
        away: None,
    };
    let thread = std::thread::Builder::new().name("sink".into()).spawn(move || sinking.run(&plan));
    let thread = thread.map_err(|error| Error::failed(format!("cannot start a thread: {error}")))?;
    Ok(SinkHandle { thread, told })
}

struct Sinking {
    machine: Sink,
    /// The newest commit that the machine knows of.
    seen: Epoch,
    schemas: Arc<[TableSchema]>,
    store: SharedStore,
    runtime: Handle,
    gauges: Arc<Gauges>,
    stopwatch: Stopwatch,
    told: Arc<Told>,
    changelog: Changelog,
    /// Since when brokers are away, in words, and when that was last said.
    away: Option<(String, u64)>,
}

/// A failure, with room for what reading the tables says.
struct Broken(Failure);

impl From<LakeError> for Broken {
    fn from(error: LakeError) -> Self {
        Self(match error {
            LakeError::Store(StoreError::NotFound { .. }) => Failure::Gone,
            LakeError::Store(error @ StoreError::Failed(_)) => Failure::Store(error.to_string()),
            error => Failure::Refused(error.to_string()),
        })
    }
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        LakeError::from(error).into()
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl Sinking {
    /// Runs until the machine leaves. `None`: it was told to leave at once.
    fn run(mut self, plan: &SinkPlan) -> Option<End> {
        let mut producer: Option<SinkProducer<'_>> = None;
        while !self.told.leaves() {
            self.look_around();
            let now = now_ms();
            let done = match self.machine.next(now) {
                Action::Wait(until) => {
                    let most = until.map_or(TICK, |until| Duration::from_millis((until - now).max(1) as u64));
                    self.wait(most.min(TICK));
                    Ok(())
                }
                Action::Leave(end) => {
                    self.ended(&end, producer.as_ref());
                    return Some(end);
                }
                Action::Open { whole } => {
                    // The old one first: two would fence each other.
                    drop(producer.take());
                    let opened = self.answering(|go_on| plan.client.open(whole, go_on));
                    opened.map(|opened| {
                        producer = Some(opened);
                        self.machine.opened();
                    })
                }
                action => match &producer {
                    Some(producer) => self.carry_out(action, producer),
                    None => Err(Broken(Failure::Lost("there is no producer".to_string()))),
                },
            };
            match done {
                Ok(()) => self.answered(&plan.brokers),
                Err(Broken(failure)) => self.failed(failure, &plan.brokers),
            }
        }
        None
    }

    fn ended(&self, end: &End, producer: Option<&SinkProducer<'_>>) {
        self.gauges.sink_ended(match end {
            End::Stopped(why) => Some(why.clone()),
            End::Done | End::Unfinished(_) | End::Superseded(_) => None,
        });
        match end {
            End::Stopped(error) => {
                tracing::error!(%error, "the run goes on without the sink");
                producer.inspect(|producer| producer.abandon());
            }
            End::Superseded(by) => tracing::warn!(by, "another writer has the store: the sink leaves"),
            End::Done | End::Unfinished(_) => {}
        }
    }

    /// Takes in what has happened meanwhile, and shows where the sink is.
    fn look_around(&mut self) {
        self.wait(Duration::ZERO);
        if let Some(finish) = self.told.finish() {
            self.machine.finish(finish);
        }
        self.gauges.sink_stands(self.machine.position(), self.machine.unsent());
    }

    fn wait(&mut self, time: Duration) {
        if let Some(root) = self.gauges.newest.after(self.seen, time) {
            self.seen = self.seen.max(root.epoch);
            self.machine.committed(root.epoch, now_ms());
        }
    }

    fn failed(&mut self, failure: Failure, brokers: &str) {
        match &failure {
            Failure::Away(error) => {
                let now = (self.stopwatch)();
                let (since, said) = self.away.get_or_insert_with(|| (super::clock::now_rfc3339(), 0));
                let waits =
                    format!("kafka at {brokers} does not take what the sink sends since {since}: {error}");
                if *said == 0 || now.saturating_sub(*said) > SAY_AGAIN_US {
                    tracing::warn!("{waits}");
                    *said = now.max(1);
                }
                self.gauges.sink_waits(Some(waits));
            }
            Failure::Lost(error) => tracing::warn!(%error, "the sink begins anew with Kafka"),
            Failure::Store(error) => tracing::warn!(%error, "the sink cannot read the store; trying again"),
            Failure::Gone | Failure::Refused(_) => {}
        }
        self.machine.failed(failure, now_ms());
    }

    /// Something was done: brokers answer, unless the machine says that something keeps it.
    fn answered(&mut self, brokers: &str) {
        if self.machine.trouble().is_some() {
            return;
        }
        if let Some((since, _)) = self.away.take() {
            tracing::warn!("kafka at {brokers} takes what the sink sends again; it did not since {since}");
        }
        self.gauges.sink_waits(None);
    }

    /// Asks something of Kafka, for as long as there is a point in it.
    fn answering<T>(&self, ask: impl FnOnce(GoOn<'_>) -> Result<T, Failure>) -> Result<T, Broken> {
        Ok(ask(&mut patience(&self.told, &self.gauges))?)
    }

    fn carry_out(&mut self, action: Action, producer: &SinkProducer<'_>) -> Result<(), Broken> {
        match action {
            Action::LookForNewest => {
                let newest = self.runtime.block_on(newest_root(&*self.store, None))?;
                let gone = || Failure::Store("the store holds no root any more".to_string());
                self.machine.newest_is(&newest.ok_or_else(gone)?);
            }
            Action::ReadProgress => {
                let found = self.answering(|go_on| producer.progress(go_on))?;
                let ids = producer.topic_ids()?;
                self.machine.progress_is(found, ids, now_ms());
            }
            Action::LookInto(topics) => {
                let empty = |topic: &String| self.answering(|go_on| producer.is_empty(topic, go_on));
                let empty: Vec<bool> = topics.iter().map(empty).collect::<Result<_, _>>()?;
                self.machine.looked_into(&empty);
            }
            Action::ReadRoot(epoch) => {
                let root = self.root(epoch)?;
                let committed = parse_ms(&root.committed_at).unwrap_or_else(now_ms);
                self.machine.root_is(root, committed, now_ms());
            }
            Action::Write(transaction) => {
                self.write(&transaction, producer)?;
                self.machine.written(now_ms());
            }
            Action::Open { .. } | Action::Wait(_) | Action::Leave(_) => {}
        }
        Ok(())
    }

    /// A root of the log: what lies below the oldest that is kept is not part of it, even if a name is there.
    fn root(&self, epoch: Epoch) -> Result<Root, Broken> {
        match self.gauges.newest.after(0, Duration::ZERO) {
            Some(newest) if newest.epoch == epoch => Ok((*newest).clone()),
            Some(newest) if epoch < newest.log_from => Err(Failure::Gone.into()),
            _ => Ok(self.runtime.block_on(read_root(&*self.store, epoch))?),
        }
    }

    fn write(&mut self, transaction: &Transaction, producer: &SinkProducer<'_>) -> Result<(), Broken> {
        let began = (self.stopwatch)();
        let mut records = 0;
        producer.begin()?;
        for step in &transaction.steps {
            let schema = self.schemas.iter().find(|schema| schema.name == step.table).cloned();
            let unknown = || Failure::Refused(format!("there is no table {}", step.table));
            let to = To { topic: &step.topic, schema: &schema.ok_or_else(unknown)?, producer };
            records += match step.what {
                What::Whole => self.send_whole(&transaction.root, &to)?,
                What::ChangesFrom(first) => self.send_changes(first, &transaction.root, &to)?,
            };
        }
        let at = committed_ms(&transaction.root);
        self.answering(|go_on| producer.commit(&transaction.progress, at, go_on))?;
        self.gauges.sink_sent(records);
        let (epoch, ms) = (transaction.root.epoch, ((self.stopwatch)() - began) / 1000);
        tracing::debug!(epoch, records, ms, "sent to Kafka");
        Ok(())
    }

    /// Sends all rows of a table as of a commit; how many they are.
    fn send_whole(&self, root: &Root, to: &To<'_>) -> Result<u64, Broken> {
        let snapshot = self.changelog.whole(root)?;
        let (mut records, mut ended) = (0, Ok(()));
        let read = snapshot.for_each_row(&to.schema.name, TextForm::Resolved, None, Share::ALL, &mut |row| {
            ended = self.answering(|go_on| to.send(root, &row, 1, go_on));
            records += 1;
            if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match read {
            // A reader this slow finds a later commit when it begins anew.
            Err(LakeError::Store(error)) => Err(Failure::Store(error.to_string()).into()),
            Err(error) => Err(error.into()),
            Ok(()) => ended.map(|()| records),
        }
    }

    /// Sends the changes of a table from one commit to another; how many they are.
    fn send_changes(&mut self, first: Epoch, last: &Root, to: &To<'_>) -> Result<u64, Broken> {
        let mut records = 0;
        for epoch in first..=last.epoch {
            let root = if epoch == last.epoch { last.clone() } else { self.root(epoch)? };
            let mut go_on = patience(&self.told, &self.gauges);
            self.changelog.changes(&root, &to.schema.name, &mut |row, diff| {
                records += 1;
                to.send(&root, &row, diff, &mut go_on).map_err(Broken)
            })?;
        }
        Ok(records)
    }
}

/// How long an answer is waited for: by a sink that is told to stop, not longer than is needed to see that none comes.
fn patience(told: &Told, gauges: &Gauges) -> impl FnMut(Duration, Option<&str>) -> bool {
    |waited, why| {
        if waited > SHOWN_AFTER {
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            gauges.sink_waits(Some(format!("kafka does not take what the sink sends{why}")));
        }
        let most = if told.finish() == Some(Finish::WhileThere) { SHOWN_AFTER } else { PATIENCE };
        !told.leaves() && waited < most
    }
}

fn committed_ms(root: &Root) -> i64 {
    parse_ms(&root.committed_at).unwrap_or_else(now_ms)
}

/// Where changes of a table go.
struct To<'a> {
    topic: &'a str,
    schema: &'a TableSchema,
    producer: &'a SinkProducer<'a>,
}

impl To<'_> {
    /// Sends one change. The key is a JSON object of the key columns, the value that of all columns.
    fn send(&self, root: &Root, row: &[Value], diff: i64, go_on: GoOn<'_>) -> Result<(), Failure> {
        let names = |of: &dyn Fn(usize) -> bool| {
            let columns = self.schema.columns.iter().enumerate().filter(|(place, _)| of(*place));
            columns.map(|(_, column)| column.name.as_str()).collect::<Vec<&str>>()
        };
        let is_key = |place: usize| self.schema.columns[place].key;
        let key: Vec<Value> = self.schema.key_places().map(|place| row[place].clone()).collect();
        let key = json_row(&names(&is_key), &key, "");
        let value = (diff > 0).then(|| json_row(&names(&|_| true), row, ""));
        let change = ChangeRecord {
            topic: self.topic,
            key: key.as_bytes(),
            value: value.as_ref().map(String::as_bytes),
            epoch: root.epoch,
            timestamp: committed_ms(root),
        };
        self.producer.send(&change, go_on)
    }
}
