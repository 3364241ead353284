//! Carries out what the sink's machine in [`tidemill_core::sink`] decides, between a store and whatever takes records.
//!
//! ```text
//!  newest commit ──> Sending ──reads──> the store: roots, segments, the lake's files
//!                       │ ──sends──> a Taker: a transaction for each commit that touches a table of its own
//!                       └──> what came of a step
//! ```
//!
//! Whoever runs it decides when: a step does one thing that the machine asks for and tells it what came of it. The
//! taker is Kafka in production; nothing here knows. So what is right about transactions rests on the machine and on
//! what a [`Taker`] promises, and both can be tried with any other.

use crate::lake::{Changelog, LakeError, TextForm};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use tidemill_core::edge::SharedEdge;
use tidemill_core::log::{newest_root, read_root};
use tidemill_core::sink::{Action, End, Failure, Finish, Progress, Sink, Transaction, What};
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::view::Share;
use tidemill_types::{Cell, Epoch, Root, TableSchema, Value};

/// Takes transactions of records under one id.
pub trait Taker {
    /// Begins anew: what whoever had the id left open is undone, and it is shut out for good. `whole`: transactions
    /// may take as long as whole tables take.
    ///
    /// # Errors
    ///
    /// As all calls here: nothing is taken, or it is not known what was.
    fn open(&mut self, whole: bool) -> Result<(), Failure>;
    /// The progress of the last transaction that was committed under the id.
    fn progress(&mut self) -> Result<Option<Progress>, Failure>;
    /// The ids of topics, where they have any.
    fn topic_ids(&mut self) -> Result<BTreeMap<String, String>, Failure>;
    /// Whether a topic holds nothing.
    fn is_empty(&mut self, topic: &str) -> Result<bool, Failure>;
    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), Failure>;
    /// Takes a change of a table: a row that came (`diff` above 0), or the key of one that went.
    fn send(&mut self, change: &Sent<'_>) -> Result<(), Failure>;
    /// Commits the transaction together with its progress: all of it is seen by readers, or nothing.
    fn commit(&mut self, progress: &Progress, root: &Root) -> Result<(), Failure>;
}

/// One change.
#[derive(Debug)]
pub struct Sent<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// Of which table.
    pub schema: &'a TableSchema,
    /// In which commit.
    pub root: &'a Root,
    /// All columns of a row that came; of one that went those of the key.
    pub row: &'a [Value],
    /// 1 or -1.
    pub diff: i64,
}

/// What came of a step.
#[derive(Debug)]
pub enum Stepped {
    /// Something was done; of a transaction, its epoch and its records.
    Done(Option<(Epoch, u64)>),
    /// Nothing is to be done before that time, or before something is told.
    Wait(Option<i64>),
    /// It failed; the machine knows, and says when it is tried again.
    Failed(Failure),
    /// It is over.
    Left(End),
}

/// What it is made of.
pub struct SendingOptions {
    /// The machine.
    pub machine: Sink,
    /// The store.
    pub store: SharedStore,
    /// Clock and waiting.
    pub edge: SharedEdge,
    /// The program's tables.
    pub schemas: Arc<[TableSchema]>,
    /// Reads what commits changed.
    pub changelog: Changelog,
    /// The newest commit of this process, as often as it is asked.
    pub newest: Newest,
}

/// A slot with the newest commit.
pub type Newest = Box<dyn Fn() -> Option<Arc<Root>> + Send>;

/// A sink at work; see the module. Its calls hold up their thread, which must not be one of I/O.
pub struct Sending {
    with: SendingOptions,
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

impl Sending {
    /// Nothing is done yet.
    pub fn new(with: SendingOptions) -> Self {
        Self { with }
    }

    /// The machine.
    pub fn machine(&self) -> &Sink {
        &self.with.machine
    }

    /// Takes in what is committed by now.
    pub fn look(&mut self) {
        if let Some(newest) = (self.with.newest)() {
            self.with.machine.committed(newest.epoch, self.with.edge.now_ms());
        }
    }

    /// Nothing more will be committed.
    pub fn finish(&mut self, how: Finish) {
        self.with.machine.finish(how);
    }

    /// Does the next thing.
    pub fn step(&mut self, taker: &mut dyn Taker) -> Stepped {
        self.look();
        let action = match self.with.machine.next(self.with.edge.now_ms()) {
            Action::Wait(until) => return Stepped::Wait(until),
            Action::Leave(end) => return Stepped::Left(end),
            action => action,
        };
        match self.carry_out(action, taker) {
            Ok(sent) => Stepped::Done(sent),
            Err(Broken(failure)) => {
                self.with.machine.failed(failure.clone(), self.with.edge.now_ms());
                Stepped::Failed(failure)
            }
        }
    }

    fn carry_out(&mut self, action: Action, taker: &mut dyn Taker) -> Result<Option<(Epoch, u64)>, Broken> {
        match action {
            Action::Open { whole } => {
                taker.open(whole)?;
                self.with.machine.opened();
            }
            Action::LookForNewest => {
                let newest = self.with.edge.block_on(newest_root(&*self.with.store, None))?;
                let gone = || Failure::Store("the store holds no root any more".to_string());
                self.with.machine.newest_is(&newest.ok_or_else(gone)?);
            }
            Action::ReadProgress => {
                let found = taker.progress()?;
                let ids = taker.topic_ids()?;
                self.with.machine.progress_is(found, ids, self.with.edge.now_ms());
            }
            Action::LookInto(topics) => {
                let empty: Vec<bool> =
                    topics.iter().map(|topic| taker.is_empty(topic)).collect::<Result<_, _>>()?;
                self.with.machine.looked_into(&empty);
            }
            Action::ReadRoot(epoch) => {
                let (root, now) = (self.root(epoch)?, self.with.edge.now_ms());
                let committed = committed_ms(&root).unwrap_or(now);
                self.with.machine.root_is(root, committed, now);
            }
            Action::Write(transaction) => {
                let records = self.write(&transaction, taker)?;
                self.with.machine.written(self.with.edge.now_ms());
                return Ok(Some((transaction.root.epoch, records)));
            }
            Action::Wait(_) | Action::Leave(_) => {}
        }
        Ok(None)
    }

    /// A root of the log: what lies below the oldest that is kept is not part of it, even if a name is there.
    fn root(&self, epoch: Epoch) -> Result<Root, Broken> {
        match (self.with.newest)() {
            Some(newest) if newest.epoch == epoch => Ok((*newest).clone()),
            Some(newest) if epoch < newest.log_from => Err(Failure::Gone.into()),
            _ => Ok(self.with.edge.block_on(read_root(&*self.with.store, epoch))?),
        }
    }

    /// Sends a transaction; how many records it has.
    fn write(&mut self, transaction: &Transaction, taker: &mut dyn Taker) -> Result<u64, Broken> {
        let mut records = 0;
        taker.begin()?;
        for step in &transaction.steps {
            let schema = self.with.schemas.iter().find(|schema| schema.name == step.table).cloned();
            let unknown = || Failure::Refused(format!("there is no table {}", step.table));
            let to = To { topic: &step.topic, schema: &schema.ok_or_else(unknown)? };
            records += match step.what {
                What::Whole => self.send_whole(&transaction.root, &to, taker)?,
                What::ChangesFrom(first) => self.send_changes(first, &transaction.root, &to, taker)?,
            };
        }
        taker.commit(&transaction.progress, &transaction.root)?;
        Ok(records)
    }

    /// Sends all rows of a table as of a commit; how many they are.
    fn send_whole(&self, root: &Root, to: &To<'_>, taker: &mut dyn Taker) -> Result<u64, Broken> {
        let snapshot = self.with.changelog.whole(root)?;
        let (mut records, mut ended) = (0, Ok(()));
        let read = snapshot.for_each_row(&to.schema.name, TextForm::Resolved, None, Share::ALL, &mut |row| {
            let row: Vec<Value> = row.iter().map(Cell::to_value).collect();
            ended = taker.send(&to.change(root, &row, 1));
            records += 1;
            if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match read {
            // A reader this slow finds a later commit when it begins anew.
            Err(LakeError::Store(error)) => Err(Failure::Store(error.to_string()).into()),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(ended.map(|()| records)?),
        }
    }

    /// Sends the changes of a table from one commit to another; how many they are.
    fn send_changes(
        &mut self,
        first: Epoch,
        last: &Root,
        to: &To<'_>,
        taker: &mut dyn Taker,
    ) -> Result<u64, Broken> {
        let mut records = 0;
        for epoch in first..=last.epoch {
            let root = if epoch == last.epoch { last.clone() } else { self.root(epoch)? };
            self.with.changelog.changes(&root, &to.schema.name, &mut |row, diff| {
                records += 1;
                taker.send(&to.change(&root, &row, diff)).map_err(Broken)
            })?;
        }
        Ok(records)
    }
}

/// When a root was made, milliseconds since 1970.
pub fn committed_ms(root: &Root) -> Option<i64> {
    tidemill_core::edge::parse_ms(&root.committed_at)
}

/// Where changes of a table go.
struct To<'a> {
    topic: &'a str,
    schema: &'a TableSchema,
}

impl To<'_> {
    fn change<'s>(&'s self, root: &'s Root, row: &'s [Value], diff: i64) -> Sent<'s> {
        Sent { topic: self.topic, schema: self.schema, root, row, diff }
    }
}
