//! Trials of the commit: writers that fight for one store, and what must be true of what is left.
//!
//! A writer makes one store call at a time and a seeded scheduler says whose turn it is, so every
//! interleaving of calls can come up and each comes up again with its seed. Between calls a writer may stall
//! (it is simply not picked for a while), die, or come back with a new claim. A writer "reads" made-up
//! records: each epoch moves one position on by a number that is noted beside the epoch's nonce.
//!
//! When the time is over, its judge reads the chain as a reader would and holds it to this:
//! - every root may follow its predecessor ([`tidemill_types::invariants::follows`]);
//! - every root that a writer took for committed stands there with its nonce;
//! - the last position is the sum of what the chain's epochs noted: no record lost, none twice.

use crate::{Clock, Faults, FaultyStore, MemoryStore};
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_core::commit::{Action, Committer, InForce, PutAnswer, SealedEpoch, claim};
use tidemill_core::store::{Created, SharedStore, Store, StoreError};
use tidemill_types::invariants::follows;
use tidemill_types::{Epoch, Positions, ProgramId, Published, Root, root_epoch, root_name};

const STREAM: &str = "records";
const PARTITION: &str = "0";

/// What a trial is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The same seed is the same history.
    pub seed: u64,
    /// Writers that want the store.
    pub writers: usize,
    /// Store calls, all writers together.
    pub steps: usize,
    /// How often the store fails.
    pub faults: Faults,
    /// Deaths of a writer, in turns of a thousand.
    pub deaths: u32,
}

/// What a trial came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Roots in the chain.
    pub roots: usize,
    /// Of these, claims.
    pub claims: usize,
    /// Writers that were told that another owns the store.
    pub fenced: usize,
    /// Writers that died.
    pub died: usize,
}

/// What a writer is about to do.
#[derive(Debug)]
enum Stage {
    /// Find the newest root and make a claim that follows it.
    Look,
    /// Put this claim.
    Claim(Box<Root>),
    /// The answer to this claim was unclear: read it back.
    Settle(Box<Root>),
    /// Commit.
    Run(Box<Committer>),
}

/// A trial under way.
#[derive(Debug)]
pub struct Trial {
    plan: Plan,
    store: SharedStore,
    /// The same objects without faults, for the judge.
    honest: SharedStore,
    writers: Vec<Stage>,
    clock: Clock,
    chance: ChaCha8Rng,
    /// By nonce, how far an epoch moved the position.
    moved: BTreeMap<String, u64>,
    /// What writers took for committed.
    believed: BTreeMap<Epoch, String>,
    fenced: usize,
    died: usize,
}

fn in_force() -> InForce {
    let program = ProgramId { name: "trial".into(), version: "1".into(), settings: serde_json::json!({}) };
    InForce { program, models: Vec::new(), beginning: Default::default() }
}

fn position(root: &Root) -> u64 {
    root.positions.get(STREAM).and_then(|partitions| partitions.get(PARTITION)).copied().unwrap_or(0)
}

fn body(root: &Root) -> Bytes {
    Bytes::from(serde_json::to_vec(root).expect("a root is JSON"))
}

async fn read(store: &dyn Store, epoch: Epoch) -> Result<Option<Root>, StoreError> {
    match store.get(&root_name(epoch)).await {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).expect("only roots are put there"))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn newest(store: &dyn Store) -> Result<Option<Root>, StoreError> {
    let objects = store.list("catalog/").await?;
    match objects.iter().filter_map(|object| root_epoch(&object.name)).max() {
        Some(epoch) => read(store, epoch).await,
        None => Ok(None),
    }
}

impl Trial {
    /// A trial before its first step.
    pub fn new(plan: Plan) -> Self {
        let honest: SharedStore = Arc::new(MemoryStore::default());
        Self {
            plan,
            store: Arc::new(FaultyStore::seeded(honest.clone(), plan.faults, plan.seed)),
            honest,
            writers: (0..plan.writers).map(|_| Stage::Look).collect(),
            clock: Clock::seeded(plan.seed),
            chance: ChaCha8Rng::seed_from_u64(plan.seed.wrapping_add(1)),
            moved: BTreeMap::new(),
            believed: BTreeMap::new(),
            fenced: 0,
            died: 0,
        }
    }

    /// Runs all steps, then judges.
    ///
    /// # Errors
    ///
    /// The first thing that is not as it must be, in one line.
    pub async fn run(mut self) -> Result<Outcome, String> {
        let mut turn = 0;
        for _ in 0..self.plan.steps {
            // Mostly the same writer goes on; the others stall meanwhile.
            if self.chance.random_range(0..100) < 15 {
                turn = self.chance.random_range(0..self.plan.writers);
            }
            if self.chance.random_range(0..1000) < self.plan.deaths {
                self.writers[turn] = Stage::Look;
                self.died += 1;
            }
            let stage = std::mem::replace(&mut self.writers[turn], Stage::Look);
            self.writers[turn] = self.step(stage).await?;
        }
        self.judge().await
    }

    async fn step(&mut self, stage: Stage) -> Result<Stage, String> {
        match stage {
            Stage::Look => Ok(self.look().await),
            Stage::Claim(root) => self.claim(root).await,
            Stage::Settle(root) => self.settle(root).await,
            Stage::Run(committer) => self.commit(committer).await,
        }
    }

    async fn look(&mut self) -> Stage {
        match newest(&*self.store).await {
            Ok(newest) => {
                let stamp = self.clock.stamp();
                Stage::Claim(Box::new(claim(newest.as_ref(), self.store.location(), &in_force(), stamp)))
            }
            Err(_) => Stage::Look,
        }
    }

    async fn claim(&mut self, root: Box<Root>) -> Result<Stage, String> {
        match self.store.create(&root_name(root.epoch), body(&root)).await {
            Ok(Created::New) => self.claimed(*root),
            Ok(Created::Exists) | Err(_) => Ok(Stage::Settle(root)),
        }
    }

    async fn settle(&mut self, ours: Box<Root>) -> Result<Stage, String> {
        match read(&*self.store, ours.epoch).await {
            Ok(Some(found)) if found.nonce == ours.nonce => self.claimed(*ours),
            Ok(Some(_)) => Ok(Stage::Look),
            Ok(None) => Ok(Stage::Claim(ours)),
            Err(_) => Ok(Stage::Settle(ours)),
        }
    }

    fn claimed(&mut self, root: Root) -> Result<Stage, String> {
        self.believe(&root)?;
        Ok(Stage::Run(Box::new(Committer::new(root, in_force()))))
    }

    /// Notes what a writer takes for committed.
    fn believe(&mut self, root: &Root) -> Result<(), String> {
        match self.believed.insert(root.epoch, root.nonce.clone()) {
            Some(other) if other != root.nonce => {
                Err(format!("epoch {} was committed twice: by {other} and by {}", root.epoch, root.nonce))
            }
            _ => Ok(()),
        }
    }

    /// One store call of a writer that owns the store, as far as it knows.
    async fn commit(&mut self, mut committer: Box<Committer>) -> Result<Stage, String> {
        let clock = &mut self.clock;
        match committer.next(|| clock.stamp()) {
            Action::Wait => self.seal(&mut committer),
            Action::Put(root) => {
                let before = position(committer.newest());
                self.moved.insert(root.nonce.clone(), position(&root) - before);
                let answer = match self.store.create(&root_name(root.epoch), body(&root)).await {
                    Ok(Created::New) => PutAnswer::New,
                    Ok(Created::Exists) | Err(_) => PutAnswer::Unclear,
                };
                if let Some(root) = committer.put_answered(answer).cloned() {
                    self.believe(&root)?;
                }
            }
            Action::ReadBack(epoch) => {
                let Ok(found) = read(&*self.store, epoch).await else { return Ok(Stage::Run(committer)) };
                match committer.read_back(found.as_ref()).map(|root| root.cloned()) {
                    Ok(Some(root)) => self.believe(&root)?,
                    Ok(None) => {}
                    Err(_) => {
                        self.fenced += 1;
                        return Ok(Stage::Look);
                    }
                }
            }
        }
        Ok(Stage::Run(committer))
    }

    /// Closes the next epoch over some made-up records; now and then a publication is complete too.
    fn seal(&mut self, committer: &mut Committer) {
        let newest = committer.newest();
        let epoch = newest.epoch + 1;
        let next = position(newest) + self.chance.random_range(0..100);
        let published = newest.published.as_ref().map(|p| p.epoch);
        let complete = self.chance.random_range(0..4) == 0 && published < Some(newest.epoch);
        let publication = Published { epoch: newest.epoch, tables: BTreeMap::new() };
        let partitions = BTreeMap::from([(PARTITION.to_string(), next)]);
        let positions = Positions::from([(STREAM.to_string(), partitions)]);
        committer.sealed(SealedEpoch { epoch, positions, ..SealedEpoch::default() });
        if complete {
            committer.published(publication);
        }
    }

    /// Reads what is left and says whether it is right.
    async fn judge(self) -> Result<Outcome, String> {
        let failed = |error: StoreError| error.to_string();
        let Some(last) = newest(&*self.honest).await.map_err(failed)? else {
            return Ok(Outcome { roots: 0, claims: 0, fenced: self.fenced, died: self.died });
        };
        let mut chain = Vec::new();
        for epoch in 0..=last.epoch {
            let root = read(&*self.honest, epoch).await.map_err(failed)?;
            chain.push(root.ok_or_else(|| format!("the chain has a hole at {epoch}"))?);
        }
        for pair in chain.windows(2) {
            follows(&pair[0], &pair[1]).map_err(|broken| broken.to_string())?;
        }
        for (epoch, nonce) in &self.believed {
            let stands = chain.get(*epoch as usize).is_some_and(|root| root.nonce == *nonce);
            if !stands {
                return Err(format!("root {epoch} was taken for committed as {nonce} and is not there"));
            }
        }
        let sum: u64 = chain.iter().filter_map(|root| self.moved.get(&root.nonce)).sum();
        if position(&last) != sum {
            return Err(format!("the position is {} and the epochs' sum {sum}", position(&last)));
        }
        let claims = chain.iter().filter(|root| root.claim).count();
        Ok(Outcome { roots: chain.len(), claims, fenced: self.fenced, died: self.died })
    }
}
