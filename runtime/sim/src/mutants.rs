//! Deliberate bugs: what a wrong runtime would do, put between its parts and the world.
//!
//! The parts are production's and stay as they are; a bug changes what one of them is told, or what becomes
//! of what it does. So a bug here is one that somebody could write into that part. Each must be found.

use crate::process::World;
use crate::schedule::{Process, Schedule};
use crate::storage::LATEST_US;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_core::commit::SealedEpoch;
use tidemill_core::conductor::ToConductor;
use tidemill_core::log::HINT;
use tidemill_core::store::{Created, ObjectInfo, SharedStore, Store, StoreError};
use tidemill_core::writer::{ToCommitter, delete_all};
use tidemill_types::{Root, root_epoch, root_name};

/// A deliberate bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A root of another writer, read back, is taken for one's own: the fence is not checked.
    IgnoresTheFence,
    /// A create replaces what stands under the name.
    CreateReplaces,
    /// A segment counts as durable when its put was begun.
    CommitsBeforeSegments,
    /// A put without an answer counts as done.
    TrustsNoAnswer,
    /// A free name is believed however long the writer slept: names that were collected are used again.
    NeverLooksAgain,
    /// A publication is handed on when the puts of its files were begun.
    NamesBeforeFiles,
    /// Commits are given up that are younger than the retention.
    RetainsTooLittle,
    /// Of the newest commits fewer are kept than was said.
    RetainsTooFew,
    /// A claim is given up while a writer that it shut out may still take its name for a free one.
    ForgetsWhoSleeps,
    /// A segment is given up that the log's newest commits need.
    GivesUpASegment,
    /// Objects are deleted when they were found, before a root lists them.
    DeletesUnlisted,
    /// After an unclear answer another, larger root is put under the name.
    GrowsAfterNoAnswer,
    /// A complete publication does not ask for a commit that names it.
    LeavesPublicationsUnnamed,
    /// Positions run ahead of the records.
    PositionsAhead,
    /// One of an epoch's segments is left out of its root.
    ForgetsASegment,
    /// A publication is named although its predecessor is the newer one.
    NamesThePublicationBefore,
    /// A claim takes the number of the writer before.
    ClaimsTheSameNumber,
    /// A claim that was put counts at once: whether it stands in a hole is not looked for.
    ClaimsUnseen,
    /// Roots are deleted newest first, so that the log has a hole while that goes on.
    DeletesNewestFirst,
    /// What tags keep is given up like all else.
    ForgetsTags,
    /// A transaction whose end has no answer counts as committed.
    TrustsNoAnswerOfKafka,
    /// A record of a transaction is left out now and then.
    SendsTooLittle,
}

/// All of them.
pub const ALL: [Mutant; 22] = [
    Mutant::IgnoresTheFence,
    Mutant::CreateReplaces,
    Mutant::CommitsBeforeSegments,
    Mutant::TrustsNoAnswer,
    Mutant::NeverLooksAgain,
    Mutant::NamesBeforeFiles,
    Mutant::RetainsTooLittle,
    Mutant::RetainsTooFew,
    Mutant::ForgetsWhoSleeps,
    Mutant::GivesUpASegment,
    Mutant::DeletesUnlisted,
    Mutant::GrowsAfterNoAnswer,
    Mutant::LeavesPublicationsUnnamed,
    Mutant::PositionsAhead,
    Mutant::ForgetsASegment,
    Mutant::NamesThePublicationBefore,
    Mutant::ClaimsTheSameNumber,
    Mutant::ClaimsUnseen,
    Mutant::DeletesNewestFirst,
    Mutant::ForgetsTags,
    Mutant::TrustsNoAnswerOfKafka,
    Mutant::SendsTooLittle,
];

/// A part of a process that has its store through here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The claim.
    Claim,
    /// The committer.
    Commits,
    /// The uploads of segments.
    Uploads,
    /// The lake's publisher.
    Lake,
    /// The sweeper.
    Sweeper,
    /// The collector.
    Collector,
}

impl Mutant {
    /// Whether it is in what sends commits on.
    pub fn is_of_the_sink(self) -> bool {
        matches!(self, Self::TrustsNoAnswerOfKafka | Self::SendsTooLittle)
    }

    /// A part's store with the bug in it, if it is there.
    pub fn store(self, part: Part, store: SharedStore, world: &World, process: Process) -> SharedStore {
        let here = match self {
            Self::IgnoresTheFence | Self::GrowsAfterNoAnswer => part == Part::Commits,
            Self::CreateReplaces => matches!(part, Part::Claim | Part::Commits),
            Self::ClaimsTheSameNumber | Self::ClaimsUnseen => part == Part::Claim,
            Self::TrustsNoAnswer => matches!(part, Part::Commits | Part::Claim | Part::Uploads),
            Self::CommitsBeforeSegments => part == Part::Uploads,
            Self::NamesBeforeFiles => part == Part::Lake,
            Self::DeletesNewestFirst => part == Part::Sweeper,
            Self::ForgetsWhoSleeps => part == Part::Collector,
            _ => false,
        };
        match here {
            true => Arc::new(Wrong {
                mutant: self,
                store,
                schedule: world.schedule.clone(),
                process,
                tried: Mutex::default(),
            }),
            false => store,
        }
    }

    /// What the committer is told by the publisher.
    pub async fn to_committer(
        self,
        message: ToCommitter,
        world: &World,
        process: Process,
        store: &SharedStore,
    ) -> Option<ToCommitter> {
        match (self, message) {
            (Self::DeletesUnlisted, ToCommitter::Dropped(names, log_from)) => {
                let (store, deleted) = (store.clone(), names.clone());
                world
                    .schedule
                    .spawn(process, Box::pin(async move { drop(delete_all(&store, &deleted).await) }));
                Some(ToCommitter::Dropped(names, log_from))
            }
            (Self::GivesUpASegment, ToCommitter::Dropped(mut names, log_from)) => {
                let newest = world.judge.newest();
                names.extend(newest.and_then(|root| Some(root.segments.first()?.name.clone())));
                Some(ToCommitter::Dropped(names, log_from))
            }
            (Self::NamesThePublicationBefore, ToCommitter::Published(published)) => {
                let older = world.judge.newest().and_then(|root| root.published);
                let mut mixed = published;
                // One table stays where it was.
                if let Some(older) = older
                    && let Some((table, before)) = older.tables.last_key_value()
                {
                    mixed.tables.insert(table.clone(), before.clone());
                }
                Some(ToCommitter::Published(mixed))
            }
            (Self::ForgetsTags, ToCommitter::Dropped(mut names, log_from)) => {
                let tags = world.judge.newest().map(|root| root.tags).unwrap_or_default();
                names.extend(tags.values().map(|tag| root_name(tag.epoch)));
                Some(ToCommitter::Dropped(names, log_from))
            }
            (_, message) => Some(message),
        }
    }

    /// What the conductor is told by the publisher.
    pub fn to_conductor(self, message: ToConductor) -> Option<ToConductor> {
        (self != Self::LeavesPublicationsUnnamed || message != ToConductor::Force).then_some(message)
    }

    /// What the committer is told of a sealed epoch.
    pub fn sealed(self, mut epoch: SealedEpoch, schedule: &Schedule) -> SealedEpoch {
        match self {
            Self::PositionsAhead if schedule.pick(0..10) == 0 => {
                epoch.positions.values_mut().flat_map(|at| at.values_mut()).for_each(|next| *next += 1);
            }
            Self::ForgetsASegment if schedule.pick(0..10) == 0 => drop(epoch.segments.pop()),
            _ => {}
        }
        epoch
    }
}

/// A store with a bug.
#[derive(Debug)]
struct Wrong {
    mutant: Mutant,
    store: SharedStore,
    schedule: Schedule,
    process: Process,
    /// Bodies that were put under a name before.
    tried: Mutex<BTreeMap<String, Bytes>>,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schedule")
    }
}

impl Wrong {
    /// Puts beside whoever asked for it.
    fn put_later(&self, name: &str, body: Bytes) {
        let (store, name, schedule) = (self.store.clone(), name.to_string(), self.schedule.clone());
        let put = async move {
            schedule.sleep(schedule.pick(0..LATEST_US / 100)).await;
            drop(store.put(&name, body).await);
        };
        self.schedule.spawn(self.process, Box::pin(put));
    }

    fn keep(&self, name: &str, body: &Bytes) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.insert(name.to_string(), body.clone());
    }

    fn tried(&self, name: &str) -> Option<Bytes> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn has_tried(&self) -> bool {
        !self.tried.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn grown(&self, name: &str, body: Bytes) -> Bytes {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.insert(name.to_string(), body.clone()).is_none() {
            return body;
        }
        let Ok(mut root) = serde_json::from_slice::<Root>(&body) else { return body };
        root.committed_at.push_str(" and more");
        root.to_bytes().map_or(body, Bytes::from)
    }
}

/// A root as if no writer believed a free name.
fn trusted_by_nobody(body: Bytes) -> Bytes {
    let Ok(mut root) = serde_json::from_slice::<Root>(&body) else { return body };
    root.trusts_ms = 0;
    root.to_bytes().map_or(body, Bytes::from)
}

#[async_trait]
impl Store for Wrong {
    fn location(&self) -> &str {
        self.store.location()
    }

    fn is_local(&self) -> bool {
        self.store.is_local()
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        match self.mutant {
            Mutant::CommitsBeforeSegments | Mutant::NamesBeforeFiles => {
                self.put_later(name, body);
                Ok(())
            }
            Mutant::TrustsNoAnswer => {
                // Whatever the answer was.
                drop(self.store.put(name, body).await);
                Ok(())
            }
            _ => self.store.put(name, body).await,
        }
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        match self.mutant {
            Mutant::TrustsNoAnswer => match self.store.create(name, body).await {
                Err(StoreError::Failed(_)) => Ok(Created::New),
                answer => answer,
            },
            Mutant::CreateReplaces => self.store.put(name, body).await.map(|()| Created::New),
            Mutant::GrowsAfterNoAnswer => self.store.create(name, self.grown(name, body)).await,
            Mutant::ClaimsTheSameNumber => {
                let Ok(mut root) = serde_json::from_slice::<Root>(&body) else {
                    return self.store.create(name, body).await;
                };
                root.generation = (root.generation - 1).max(1);
                let body = root.to_bytes().map_or(body, Bytes::from);
                self.store.create(name, body).await
            }
            Mutant::IgnoresTheFence => {
                self.keep(name, &body);
                self.store.create(name, body).await
            }
            Mutant::ClaimsUnseen => {
                let created = self.store.create(name, body.clone()).await;
                if matches!(created, Ok(Created::New)) {
                    self.keep(name, &body);
                }
                created
            }
            _ => self.store.create(name, body).await,
        }
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        if self.mutant == Mutant::ClaimsUnseen && self.has_tried() {
            let missing =
                StoreError::NotFound { name: name.to_string(), location: self.location().to_string() };
            return self.tried(name).ok_or(missing);
        }
        let there = self.store.get(name).await?;
        match self.mutant {
            Mutant::IgnoresTheFence if name != HINT => Ok(self.tried(name).unwrap_or(there)),
            Mutant::ForgetsWhoSleeps if root_epoch(name).is_some() => Ok(trusted_by_nobody(there)),
            _ => Ok(there),
        }
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.store.get_range(name, range).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut listed = self.store.list(folder).await?;
        if self.mutant == Mutant::ClaimsUnseen && self.has_tried() {
            listed.retain(|object| self.tried(&object.name).is_some());
        }
        Ok(listed)
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        if self.mutant == Mutant::DeletesNewestFirst
            && let Some(epoch) = root_epoch(name)
        {
            // The one after it goes before it.
            drop(self.store.delete(&root_name(epoch + 1)).await);
        }
        self.store.delete(name).await
    }
}
