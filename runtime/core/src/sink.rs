//! The Kafka sink: what is sent to topics and when, as a sans-IO state machine.
//!
//! ```text
//!  Open ──> LookForNewest ──> ReadProgress ──> LookInto ──> ReadRoot p ──> ReadRoot p+1, p+2, ...
//!   ^         │ not ours         │ none: begin   │ not empty   │ not the      │ touches our tables
//!   │         v                  v at the newest v             v same log     v
//!   │       leave              (the whole table) stop         stop          Write = data + progress,
//!   └──────────────────────── fenced, lost, no answer ────────────────────────┘    one transaction
//! ```
//!
//! # Why every epoch is seen once, in order
//!
//! An epoch's records and the progress that names the epoch are one Kafka transaction, so either both are seen
//! by readers of what is committed, or neither. `Open` initialises transactions: it ends what an earlier producer
//! of the same id left open and shuts that one out for good. Only then the newest root is read, and only then the
//! progress. So a writer that was superseded, and wakes up, either finds the higher generation in that root and
//! leaves, or looked before the successor claimed the store; then the successor's own `Open`, which comes after
//! its claim, shuts it out, and the successor's progress holds whatever it still got through. A sink that is
//! shut out while its generation is the newest opens again: nobody but a zombie can have shut it out.
//!
//! Epochs are read one after the other and each is written when it touches a table of ours, so a transaction
//! follows the one before it in the order of epochs. What a transaction's unclear end meant is never guessed: the
//! producer is given up, the next one's `Open` settles it, and the progress says what came of it.
//!
//! Whatever looks as if it could not be (topics that are ahead of the log, a log that lacks what comes next) may be
//! another writer's doing, of which a sink that woke up late has not heard. So it looks for the newest root once more
//! before it says that a person must see to it.
//!
//! The progress holds the nonce of its epoch's root. It must be found again in the log, so that the progress of
//! another store, or of a log that was set back, is told and not gone on from.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidemill_types::{Epoch, Root};

/// The format of a progress record that this code writes, and the only one that it reads.
pub const PROGRESS_FORMAT: u32 = 1;

/// How long the first failure in a row is waited after, and the longest that any is, milliseconds.
const PAUSE_MS: (i64, i64) = (100, 5_000);

/// How far the topics are: the value of a progress record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// Always [`PROGRESS_FORMAT`].
    pub format: u32,
    /// The store that is followed, by its address.
    pub store: String,
    /// The writer whose sink wrote this.
    pub generation: u64,
    /// Every table of the sink is in its topic as of this epoch.
    pub epoch: Epoch,
    /// The nonce of that epoch's root.
    pub nonce: String,
    /// Each table that was ever sent.
    pub tables: BTreeMap<String, TableProgress>,
}

/// How far one table's topic is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableProgress {
    /// The topic.
    pub topic: String,
    /// Its id, where the brokers know one: a topic that is made anew has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The topic holds the table as of this epoch.
    pub epoch: Epoch,
}

/// What a sink is told at its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkSettings {
    /// The store's address.
    pub store: String,
    /// The id that transactions are made under.
    pub transactional_id: String,
    /// The writer's number.
    pub generation: u64,
    /// The topic of each table that is sent.
    pub topics: BTreeMap<String, String>,
    /// How long a commit may wait before the sink gives up, milliseconds.
    pub lag_max_ms: i64,
    /// How often the progress goes on over commits that change no table of ours, milliseconds.
    pub idle_ms: i64,
    /// How long brokers let the transaction with a whole table take, milliseconds.
    pub whole_ms: i64,
}

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The brokers do not answer.
    Away(String),
    /// The producer can do no more: it was shut out, or a transaction failed.
    Lost(String),
    /// The store failed.
    Store(String),
    /// The log no longer holds what is needed.
    Gone,
    /// To try again helps nothing.
    Refused(String),
}

/// What of a table goes into a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// All its rows as of the transaction's epoch.
    Whole,
    /// Its changes from this epoch on, up to the transaction's.
    ChangesFrom(Epoch),
}

/// One table's part of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The table.
    pub table: String,
    /// Its topic.
    pub topic: String,
    /// What of it.
    pub what: What,
}

/// A transaction: the steps' records, then the progress.
#[derive(Clone, PartialEq, Debug)]
pub struct Transaction {
    /// The root of its epoch.
    pub root: Root,
    /// The tables' parts.
    pub steps: Vec<Step>,
    /// What holds once it is committed.
    pub progress: Progress,
}

/// What is to be done next.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Make a producer and initialise its transactions. `whole`: they may take as long as whole tables take.
    Open {
        /// See above.
        whole: bool,
    },
    /// Read the newest root from the store.
    LookForNewest,
    /// Read the newest progress.
    ReadProgress,
    /// Say of each topic whether nothing is in it.
    LookInto(Vec<String>),
    /// Read the root of an epoch.
    ReadRoot(Epoch),
    /// Send a transaction and commit it.
    Write(Box<Transaction>),
    /// Nothing until something is told or, if there is one, until that time.
    Wait(Option<i64>),
    /// Leave.
    Leave(End),
}

/// How a sink ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Everything is in the topics.
    Done,
    /// It was told to end while the brokers were away; the next start goes on.
    Unfinished(String),
    /// Another writer owns the store.
    Superseded(u64),
    /// It cannot go on.
    Stopped(String),
}

/// Up to when a sink that is told to finish tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// Until everything is in the topics.
    Whole,
    /// As long as the brokers are there.
    WhileThere,
}

#[derive(Clone, PartialEq, Debug)]
enum Stage {
    Opening,
    Opened,
    /// What was found cannot be: if another writer has the store that is why, else it stops for this reason.
    Doubting(String),
    /// No other writer has the store.
    Ours,
    /// The topics of new tables must hold nothing.
    Empty(Vec<String>),
    /// The root of the position must be that of the progress.
    Same {
        epoch: Epoch,
        nonce: String,
    },
    Following,
    Writing(Box<Transaction>, i64),
    Left(End),
}

/// Where a table stands before the next transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Its topic is to get the whole table.
    New,
    /// Its topic holds it as of an epoch before the position: it was not sent for a while.
    Behind(Epoch),
    /// As of the position.
    Current,
}

/// The machine; see the module.
#[derive(Debug)]
pub struct Sink {
    settings: SinkSettings,
    stage: Stage,
    /// When it began, milliseconds.
    began: i64,
    /// The newest commit that is known.
    newest: Epoch,
    /// The first epoch that is not dealt with yet.
    next: Epoch,
    /// The epoch that the progress names.
    position: Option<Epoch>,
    standings: BTreeMap<String, Standing>,
    /// What the progress says of tables that are not ours now.
    others: BTreeMap<String, TableProgress>,
    topic_ids: BTreeMap<String, String>,
    /// What the log must hold for the progress to be that of this log.
    same: Option<(Epoch, String)>,
    /// The last root that touched no table of ours, if it comes after the position.
    passed: Option<Root>,
    /// When a transaction was last committed, or the position was read.
    written_at: i64,
    /// When the oldest commit that may be missing was made.
    unsent: Option<i64>,
    /// Whether the producer may take as long as whole tables take.
    whole: bool,
    finish: Option<Finish>,
    failures: u32,
    not_before: i64,
    trouble: Option<String>,
}

impl Sink {
    /// A sink at the time `now`, of a store whose newest root is of epoch `newest`.
    pub fn new(settings: SinkSettings, newest: Epoch, now: i64) -> Self {
        Self {
            settings,
            stage: Stage::Opening,
            began: now,
            newest,
            next: newest,
            position: None,
            standings: BTreeMap::new(),
            others: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            same: None,
            passed: None,
            written_at: now,
            unsent: Some(now),
            whole: false,
            finish: None,
            failures: 0,
            not_before: now,
            trouble: None,
        }
    }

    /// An epoch is committed.
    pub fn committed(&mut self, epoch: Epoch, now: i64) {
        if epoch > self.newest {
            self.newest = epoch;
            self.unsent.get_or_insert(now);
        }
    }

    /// Nothing more will be committed.
    pub fn finish(&mut self, how: Finish) {
        self.finish = Some(how);
    }

    /// The epoch up to which everything is in the topics.
    pub fn position(&self) -> Option<Epoch> {
        self.position
    }

    /// The first epoch that is not dealt with yet.
    pub fn next_epoch(&self) -> Epoch {
        self.next
    }

    /// When the oldest commit was made that may be missing in the topics.
    pub fn unsent(&self) -> Option<i64> {
        self.unsent
    }

    /// What keeps it from going on, if something does.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What to do next.
    pub fn next(&mut self, now: i64) -> Action {
        self.give_up_if_late(now);
        if let Stage::Left(end) = &self.stage {
            return Action::Leave(end.clone());
        }
        if now < self.not_before {
            return Action::Wait(Some(self.not_before));
        }
        match &self.stage {
            Stage::Opening => Action::Open { whole: self.whole },
            Stage::Opened | Stage::Doubting(_) => Action::LookForNewest,
            Stage::Ours => Action::ReadProgress,
            Stage::Empty(topics) => Action::LookInto(topics.clone()),
            Stage::Same { epoch, .. } => Action::ReadRoot(*epoch),
            Stage::Following => self.follow(now),
            Stage::Writing(transaction, _) => Action::Write(transaction.clone()),
            Stage::Left(end) => Action::Leave(end.clone()),
        }
    }

    fn follow(&mut self, now: i64) -> Action {
        if self.next <= self.newest {
            return Action::ReadRoot(self.next);
        }
        self.unsent = None;
        let idle = now.saturating_sub(self.written_at) >= self.settings.idle_ms;
        match (self.passed.take(), self.finish) {
            (Some(root), finish) if idle || finish.is_some() => {
                let transaction = Box::new(self.transaction(root, Vec::new()));
                self.stage = Stage::Writing(transaction.clone(), now);
                Action::Write(transaction)
            }
            (None, Some(_)) => {
                self.stage = Stage::Left(End::Done);
                Action::Leave(End::Done)
            }
            (passed, _) => {
                let due = passed.is_some().then(|| self.written_at.saturating_add(self.settings.idle_ms));
                self.passed = passed;
                Action::Wait(due)
            }
        }
    }

    fn give_up_if_late(&mut self, now: i64) {
        let Some(unsent) = self.unsent.filter(|_| !matches!(self.stage, Stage::Left(_))) else { return };
        let waited = now.saturating_sub(unsent.max(self.began));
        if waited > self.settings.lag_max_ms {
            let trouble = self.trouble.take().map_or(String::new(), |trouble| format!(" ({trouble})"));
            self.stop(format!(
                "commits wait for Kafka for {} s, which is longer than sink.lag_max{trouble}; once Kafka takes \
                 records again, start anew: the sink goes on behind epoch {}, as long as the log holds what comes \
                 next (store.retention)",
                waited / 1000,
                self.position.map_or("0, or with whole tables".to_string(), |epoch| epoch.to_string()),
            ));
        }
    }

    /// Something was found that only another writer, or a person, can have brought about.
    fn doubt(&mut self, why: String) {
        self.stage = Stage::Doubting(why);
    }

    fn stop(&mut self, why: String) {
        self.stage = Stage::Left(End::Stopped(format!("the Kafka sink has stopped: {why}")));
    }

    /// The producer is made, and whoever had its id is shut out.
    pub fn opened(&mut self) {
        self.stage = Stage::Opened;
    }

    /// The store's newest root.
    pub fn newest_is(&mut self, root: &Root) {
        if root.generation != self.settings.generation {
            self.stage = Stage::Left(End::Superseded(root.generation));
            return;
        }
        if let Stage::Doubting(why) = &self.stage {
            let why = why.clone();
            return self.stop(why);
        }
        self.newest = self.newest.max(root.epoch);
        self.stage = Stage::Ours;
    }

    /// The progress that stands in Kafka, and the ids of the topics.
    pub fn progress_is(&mut self, found: Option<Progress>, topic_ids: BTreeMap<String, String>, now: i64) {
        (self.topic_ids, self.written_at, self.passed) = (topic_ids, now, None);
        if let Some(why) = found.as_ref().and_then(|found| self.foreign(found)) {
            return self.doubt(why);
        }
        let tables = found.as_ref().map(|found| &found.tables);
        let standing = |table: &String, topic: &String| {
            let known = tables.and_then(|tables| tables.get(table)).filter(|known| {
                let ids = (known.topic_id.as_ref(), self.topic_ids.get(topic));
                known.topic == *topic && !matches!(ids, (Some(then), Some(now)) if then != now)
            });
            match (known, &found) {
                (Some(known), Some(found)) if known.epoch < found.epoch => Standing::Behind(known.epoch),
                (Some(_), Some(_)) => Standing::Current,
                _ => Standing::New,
            }
        };
        let topics = &self.settings.topics;
        let standings = topics.iter().map(|(table, topic)| (table.clone(), standing(table, topic)));
        self.standings = standings.collect();
        self.others = tables.into_iter().flatten().map(|(t, p)| (t.clone(), p.clone())).collect();
        self.others.retain(|table, _| !self.settings.topics.contains_key(table));
        self.position = found.as_ref().map(|found| found.epoch);
        let new = |table: &String| self.standings.get(table) == Some(&Standing::New);
        let empty = self.settings.topics.iter().filter(|(table, _)| new(table));
        let empty: Vec<String> = empty.map(|(_, topic)| topic.clone()).collect();
        // Whole tables only: what the log holds between the position and the newest commit is not needed.
        let begins = empty.len() == self.settings.topics.len();
        self.next = match self.position {
            Some(epoch) if begins => self.newest.max(epoch + 1),
            Some(epoch) => epoch + 1,
            None => self.newest,
        };
        self.same = found.filter(|_| !begins).map(|found| (found.epoch, found.nonce));
        let whole = self.standings.values().any(|standing| *standing != Standing::Current);
        if std::mem::replace(&mut self.whole, whole) != whole {
            self.stage = Stage::Opening;
        } else if empty.is_empty() {
            self.verify();
        } else {
            self.stage = Stage::Empty(empty);
        }
    }

    fn verify(&mut self) {
        self.stage = match self.same.take() {
            Some((epoch, nonce)) => Stage::Same { epoch, nonce },
            None => Stage::Following,
        };
    }

    /// Why a progress cannot be ours, if it cannot.
    fn foreign(&self, found: &Progress) -> Option<String> {
        let id = &self.settings.transactional_id;
        if found.format != PROGRESS_FORMAT {
            return Some(format!(
                "the progress of {id} has the format {}, and this build reads format {PROGRESS_FORMAT} only; use \
                 the release that wrote it",
                found.format
            ));
        }
        (found.epoch > self.newest).then(|| {
            format!(
                "the topics are as of epoch {}, and the store's newest commit is {}: the store was set back, or the \
                 progress is that of another ({}). Give another sink.transactional_id and other topics",
                found.epoch, self.newest, found.store
            )
        })
    }

    /// Whether each of the topics that were asked about is empty.
    pub fn looked_into(&mut self, empty: &[bool]) {
        let Stage::Empty(topics) = &self.stage else { return };
        match topics.iter().zip(empty).find(|(_, empty)| !**empty) {
            None => self.verify(),
            Some((topic, _)) => {
                let (topic, id) = (topic.clone(), &self.settings.transactional_id);
                let table = self.settings.topics.iter().find(|(_, of)| **of == topic);
                let table = table.map_or("a table", |(table, _)| table.as_str());
                let why = format!(
                    "the topic {topic} of table {table} holds records, and the progress of {id} does not say which: \
                     name a topic that is empty or not there. If the store was moved, or the topic was this sink's \
                     under another id, set sink.transactional_id to the id that it had"
                );
                self.doubt(why);
            }
        }
    }

    /// The root that was asked for, made at `committed_ms`.
    pub fn root_is(&mut self, root: Root, committed_ms: i64, now: i64) {
        if root.generation > self.settings.generation {
            self.stage = Stage::Left(End::Superseded(root.generation));
            return;
        }
        match &self.stage {
            Stage::Same { nonce, .. } if *nonce == root.nonce => {
                (self.failures, self.trouble) = (0, None);
                self.stage = Stage::Following;
            }
            Stage::Same { epoch, .. } => {
                let why = format!(
                    "the progress of {} at epoch {epoch} is not that of this store's log: another store uses the \
                     same id, or this one was set back. Give this store a sink.transactional_id and topics of its own",
                    self.settings.transactional_id
                );
                self.doubt(why);
            }
            Stage::Following if root.epoch == self.next => self.take_root(root, committed_ms, now),
            _ => {}
        }
    }

    fn take_root(&mut self, root: Root, committed_ms: i64, now: i64) {
        let touched: BTreeSet<&String> =
            root.segments.iter().flat_map(|segment| segment.tables.keys()).collect();
        let from = |table: &String, standing: &Standing| match standing {
            Standing::New => Some(What::Whole),
            Standing::Behind(epoch) => Some(What::ChangesFrom(epoch + 1)),
            Standing::Current => touched.contains(table).then_some(What::ChangesFrom(root.epoch)),
        };
        let step = |(table, standing): (&String, &Standing)| {
            let topic = self.settings.topics.get(table)?.clone();
            Some(Step { table: table.clone(), topic, what: from(table, standing)? })
        };
        let steps: Vec<Step> = self.standings.iter().filter_map(step).collect();
        (self.failures, self.trouble) = (0, None);
        if steps.is_empty() {
            self.next = root.epoch + 1;
            self.passed = Some(root);
            return;
        }
        self.unsent = Some(committed_ms);
        self.stage = Stage::Writing(Box::new(self.transaction(root, steps)), now);
    }

    fn transaction(&self, root: Root, steps: Vec<Step>) -> Transaction {
        let ours = self.settings.topics.iter().map(|(table, topic)| {
            let topic_id = self.topic_ids.get(topic).cloned();
            (table.clone(), TableProgress { topic: topic.clone(), topic_id, epoch: root.epoch })
        });
        let progress = Progress {
            format: PROGRESS_FORMAT,
            store: self.settings.store.clone(),
            generation: self.settings.generation,
            epoch: root.epoch,
            nonce: root.nonce.clone(),
            tables: self.others.clone().into_iter().chain(ours).collect(),
        };
        Transaction { root, steps, progress }
    }

    /// The transaction is committed.
    pub fn written(&mut self, now: i64) {
        let Stage::Writing(transaction, _) = &self.stage else { return };
        let epoch = transaction.progress.epoch;
        (self.position, self.next, self.written_at) = (Some(epoch), epoch + 1, now);
        self.standings.values_mut().for_each(|standing| *standing = Standing::Current);
        (self.passed, self.failures, self.trouble) = (None, 0, None);
        self.unsent = self.unsent.filter(|_| self.next <= self.newest);
        // A producer whose transactions may take long would, once killed, hold readers up as long.
        let goes_on = self.finish.is_none() || self.next <= self.newest;
        self.stage = match std::mem::take(&mut self.whole) {
            true if goes_on => Stage::Opening,
            _ => Stage::Following,
        };
    }

    /// What was to be done was not.
    pub fn failed(&mut self, failure: Failure, now: i64) {
        let why = match failure {
            Failure::Refused(why) => return self.stop(why),
            Failure::Gone => return self.gone(),
            Failure::Away(why) if self.finish == Some(Finish::WhileThere) => {
                self.stage = Stage::Left(End::Unfinished(why));
                return;
            }
            Failure::Lost(why) if self.took_too_long(now) => {
                return self.stop(format!(
                    "whole tables did not get into their topics within {} s, the time of one transaction ({why}): \
                     raise sink.properties.transaction.timeout.ms, and the brokers' transaction.max.timeout.ms to \
                     at least as much",
                    self.settings.whole_ms / 1000
                ));
            }
            Failure::Store(why) => {
                if matches!(self.stage, Stage::Writing(..)) {
                    self.stage = Stage::Opening;
                }
                why
            }
            Failure::Away(why) | Failure::Lost(why) => {
                self.stage = Stage::Opening;
                why
            }
        };
        self.failures += 1;
        let pause = PAUSE_MS.0 << (self.failures - 1).min(10);
        self.not_before = now.saturating_add(pause.min(PAUSE_MS.1));
        self.trouble = Some(why);
    }

    fn took_too_long(&self, now: i64) -> bool {
        let Stage::Writing(_, since) = &self.stage else { return false };
        self.whole && now.saturating_sub(*since) >= self.settings.whole_ms
    }

    fn gone(&mut self) {
        let behind: Vec<String> = self
            .standings
            .iter()
            .filter_map(|(table, standing)| match standing {
                Standing::Behind(epoch) => Some(format!("{table} is as of epoch {epoch}")),
                Standing::New | Standing::Current => None,
            })
            .collect();
        let behind = if behind.is_empty() { behind.join("") } else { format!(" ({})", behind.join(", ")) };
        self.doubt(format!(
            "what comes after epoch {} is no longer in the log (store.retention), so the topics cannot be continued\
             {behind}: name empty topics, which get the whole tables, or raise the retention for the next time",
            self.position.map_or("0".to_string(), |epoch| epoch.to_string()),
        ));
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
