//! The sink's thread: Kafka as [`Sending`] wants it, and what a run shows of it.
//!
//! ```text
//!  gauges.newest (a slot) ──> Sending, step by step ──> Kafka: a transaction for each commit
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
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tidemill_connectors::kafka::{ChangeRecord, SinkClient, SinkProducer};
use tidemill_connectors::lake::{Changelog, ChangelogOptions};
use tidemill_connectors::sending::{Sending, SendingOptions, Sent, Stepped, Taker, committed_ms};
use tidemill_core::bodies::BodyCache;
use tidemill_core::sink::{End, Failure, Finish, Progress, Sink, SinkSettings};
use tidemill_types::{Epoch, Root, Value};

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
    let newest = started.gauges.clone();
    let sending = Sending::new(SendingOptions {
        machine: Sink::new(machine, started.claim.epoch, now_ms()),
        store: started.store.clone(),
        edge: started.edge.clone(),
        schemas: started.schemas.clone(),
        changelog,
        newest: Box::new(move || newest.newest.after(0, Duration::ZERO)),
    });
    let sinking = Sinking {
        sending,
        seen: started.claim.epoch,
        gauges: started.gauges.clone(),
        stopwatch: started.stopwatch.clone(),
        told: told.clone(),
        away: None,
    };
    let thread = std::thread::Builder::new().name("sink".into()).spawn(move || sinking.run(&plan));
    let thread = thread.map_err(|error| Error::failed(format!("cannot start a thread: {error}")))?;
    Ok(SinkHandle { thread, told })
}

struct Sinking {
    sending: Sending,
    /// The newest commit that was waited for.
    seen: Epoch,
    gauges: Arc<Gauges>,
    stopwatch: Stopwatch,
    told: Arc<Told>,
    /// Since when brokers are away, in words, and when that was last said.
    away: Option<(String, u64)>,
}

impl Sinking {
    /// Runs until the machine leaves. `None`: it was told to leave at once.
    fn run(mut self, plan: &SinkPlan) -> Option<End> {
        let (told, gauges) = (self.told.clone(), self.gauges.clone());
        let mut kafka = Kafka { client: &plan.client, producer: None, told, gauges };
        while !self.told.leaves() {
            self.look_around();
            let began = (self.stopwatch)();
            match self.sending.step(&mut kafka) {
                Stepped::Wait(until) => {
                    let until = until.map(|until| Duration::from_millis((until - now_ms()).max(1) as u64));
                    self.wait(until.unwrap_or(TICK).min(TICK));
                    self.answered(&plan.brokers);
                }
                Stepped::Done(sent) => {
                    if let Some((epoch, records)) = sent {
                        self.gauges.sink_sent(records);
                        let ms = ((self.stopwatch)() - began) / 1000;
                        tracing::debug!(epoch, records, ms, "sent to Kafka");
                    }
                    self.answered(&plan.brokers);
                }
                Stepped::Failed(failure) => self.failed(failure, &plan.brokers),
                Stepped::Left(end) => {
                    self.ended(&end, kafka.producer.as_ref());
                    return Some(end);
                }
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
        self.sending.look();
        if let Some(finish) = self.told.finish() {
            self.sending.finish(finish);
        }
        let machine = self.sending.machine();
        self.gauges.sink_stands(machine.position(), machine.next_epoch(), machine.unsent());
    }

    /// Waits for a commit.
    fn wait(&mut self, time: Duration) {
        if let Some(root) = self.gauges.newest.after(self.seen, time) {
            self.seen = self.seen.max(root.epoch);
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
    }

    /// Something was done: brokers answer, unless the machine says that something keeps it.
    fn answered(&mut self, brokers: &str) {
        if self.sending.machine().trouble().is_some() {
            return;
        }
        if let Some((since, _)) = self.away.take() {
            tracing::warn!("kafka at {brokers} takes what the sink sends again; it did not since {since}");
        }
        self.gauges.sink_waits(None);
    }
}

/// Kafka, as it takes transactions. What is asked of it is asked for as long as there is a point in it.
struct Kafka<'a> {
    client: &'a SinkClient,
    producer: Option<SinkProducer<'a>>,
    told: Arc<Told>,
    gauges: Arc<Gauges>,
}

impl<'a> Kafka<'a> {
    fn producer(&self) -> Result<&SinkProducer<'a>, Failure> {
        self.producer.as_ref().ok_or_else(|| Failure::Lost("there is no producer".to_string()))
    }
}

impl Taker for Kafka<'_> {
    fn open(&mut self, whole: bool) -> Result<(), Failure> {
        // The old one first: two would fence each other.
        drop(self.producer.take());
        self.producer = Some(self.client.open(whole, &mut patience(&self.told, &self.gauges))?);
        Ok(())
    }

    fn progress(&mut self) -> Result<Option<Progress>, Failure> {
        self.producer()?.progress(&mut patience(&self.told, &self.gauges))
    }

    fn topic_ids(&mut self) -> Result<BTreeMap<String, String>, Failure> {
        self.producer()?.topic_ids()
    }

    fn is_empty(&mut self, topic: &str) -> Result<bool, Failure> {
        self.producer()?.is_empty(topic, &mut patience(&self.told, &self.gauges))
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.producer()?.begin()
    }

    /// The key is a JSON object of the key columns, the value that of all columns.
    fn send(&mut self, sent: &Sent<'_>) -> Result<(), Failure> {
        let columns = &sent.schema.columns;
        let all: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let (names, key): (Vec<&str>, Vec<Value>) =
            sent.schema.key_places().map(|place| (all[place], sent.row[place].clone())).unzip();
        let key = json_row(&names, &key, "");
        let value = (sent.diff > 0).then(|| json_row(&all, sent.row, ""));
        let change = ChangeRecord {
            topic: sent.topic,
            key: key.as_bytes(),
            value: value.as_ref().map(String::as_bytes),
            epoch: sent.root.epoch,
            timestamp: committed_ms(sent.root).unwrap_or_else(now_ms),
        };
        self.producer()?.send(&change, &mut patience(&self.told, &self.gauges))
    }

    fn commit(&mut self, progress: &Progress, root: &Root) -> Result<(), Failure> {
        let at = committed_ms(root).unwrap_or_else(now_ms);
        self.producer()?.commit(progress, at, &mut patience(&self.told, &self.gauges))
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
