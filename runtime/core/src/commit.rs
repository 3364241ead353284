//! The commit: what a writer may put, as a sans-IO state machine.
//!
//! ```text
//!  sealed epochs ──> build root e on root e-1 ──> Put ──New──────────> committed
//!                                                  │ Exists, error
//!                                                  v
//!                                              ReadBack ──own nonce──> committed
//!                                                  │ another's ──────> fenced: stop
//!                                                  └ not there ──────> Put, the same bytes
//! ```
//!
//! Why it holds. A root's name is made once (conditional create), so of two writers one wins each
//! epoch. No two bodies share a nonce, and after a body this writer puts no other one under the same
//! name: so what an unclear answer meant is found out by reading back, and a retry cannot commit twice
//! or commit something else. A claim is a root like any other with a higher generation: after it the older
//! writer's next name is taken, by another's nonce. Root `e` is put only after root `e-1` is known to be
//! there, so the chain has no holes. The claim repeats everything but the generation.

use std::collections::{BTreeMap, VecDeque};
use tidemill_types::{
    Asked, Cursors, Epoch, FORMAT, Gap, ModelId, Positions, ProgramId, Published, Root, SegmentRef, Tag,
};

/// Names that one root gives up at most.
pub const DROPPED_MAX: usize = 512;

/// All that the workers report of one closed epoch.
#[derive(Clone, Debug, Default)]
pub struct SealedEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// The segments that workers wrote.
    pub segments: Vec<SegmentRef>,
    /// The positions that moved.
    pub positions: Positions,
    /// What the sources need to go on from there.
    pub cursors: Cursors,
}

/// What the program brings to a root.
#[derive(Clone, PartialEq, Debug)]
pub struct InForce {
    /// Program, version, settings.
    pub program: ProgramId,
    /// The models, the one in force last.
    pub models: Vec<ModelId>,
    /// Where the sources begin, as far as the claim does not say it: part of the first commit.
    pub beginning: Beginning,
    /// The commit that the first one goes back to, if it does.
    pub roll_back: Option<RollBack>,
}

/// A commit that another goes back to.
#[derive(Clone, PartialEq, Debug)]
pub struct RollBack {
    /// Its epoch.
    pub to: Epoch,
    /// Its positions.
    pub positions: Positions,
    /// What the sources needed to go on from there.
    pub cursors: Cursors,
}

/// What sources found before they began: what is gone and was allowed to be, and where they begin.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Beginning {
    /// The new gaps.
    pub gaps: Vec<Gap>,
    /// The positions behind them, and of partitions that are seen for the first time.
    pub positions: Positions,
    /// What the sources need to go on from there.
    pub cursors: Cursors,
}

impl Beginning {
    /// Positions and cursors of a root, with those of the beginning in their place.
    pub fn applied_to(&self, positions: &Positions, cursors: &Cursors) -> (Positions, Cursors) {
        let (mut positions, mut cursors) = (positions.clone(), cursors.clone());
        merge(&mut positions, self.positions.clone());
        merge(&mut cursors, self.cursors.clone());
        (positions, cursors)
    }
}

/// Lays entries of partitions over others.
fn merge<V>(into: &mut BTreeMap<String, BTreeMap<String, V>>, from: BTreeMap<String, BTreeMap<String, V>>) {
    for (stream, partitions) in from {
        into.entry(stream).or_default().extend(partitions);
    }
}

/// What the edge hands in for each root: the clock and a unique nonce.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// RFC 3339, UTC.
    pub committed_at: String,
    /// Unique.
    pub nonce: String,
    /// For how long this writer takes a free name for one that was never used.
    pub trusts_ms: u64,
    /// What was asked of the store until then, if that is counted.
    pub asked: Option<Asked>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put this root by conditional create.
    Put(Box<Root>),
    /// Read the root of this epoch.
    ReadBack(Epoch),
    /// Nothing now.
    Wait,
}

/// The answer to a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutAnswer {
    /// The name was free: committed.
    New,
    /// The name is taken, or the answer is unclear.
    Unclear,
}

/// Another writer owns the store.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "another writer has taken over the store: root {epoch} is of generation {theirs}, ours is {ours}. This run \
     stops; nothing that it committed is lost. Run one writer for each store"
)]
pub struct Fenced {
    /// The root that is another's.
    pub epoch: Epoch,
    /// Its generation.
    pub theirs: u64,
    /// Ours.
    pub ours: u64,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Putting(Box<Root>),
    Reading(Box<Root>),
}

/// Commits sealed epochs in order.
#[derive(Debug)]
pub struct Committer {
    newest: Root,
    in_force: InForce,
    sealed: VecDeque<SealedEpoch>,
    complete: Option<Published>,
    dropped: Vec<String>,
    log_from: Epoch,
    tags: BTreeMap<String, Tag>,
    stage: Stage,
}

impl Committer {
    /// Goes on after our own claim.
    pub fn new(claim: Root, in_force: InForce) -> Self {
        Self {
            log_from: claim.log_from,
            tags: claim.tags.clone(),
            newest: claim,
            in_force,
            sealed: VecDeque::new(),
            complete: None,
            dropped: Vec::new(),
            stage: Stage::Idle,
        }
    }

    /// The newest root that is known to be there.
    pub fn newest(&self) -> &Root {
        &self.newest
    }

    /// A closed epoch is durable in its segments. Epochs come in order.
    pub fn sealed(&mut self, epoch: SealedEpoch) {
        self.sealed.push_back(epoch);
    }

    /// A publication is complete: the next root names it.
    pub fn published(&mut self, published: Published) {
        self.complete = Some(published);
    }

    /// Objects that the next root lists as dropped, and the oldest root that is kept from then on.
    pub fn drop_objects(&mut self, names: Vec<String>, log_from: Epoch) {
        self.dropped.extend(names);
        self.log_from = self.log_from.max(log_from);
    }

    /// All tags, from the next root on.
    pub fn tags(&mut self, tags: BTreeMap<String, Tag>) {
        self.tags = tags;
    }

    /// What to do next. `stamp` is asked for each new root only.
    pub fn next(&mut self, stamp: impl FnOnce() -> Stamp) -> Action {
        match &self.stage {
            Stage::Putting(root) => return Action::Put(root.clone()),
            Stage::Reading(root) => return Action::ReadBack(root.epoch),
            Stage::Idle => {}
        }
        match self.sealed.front() {
            Some(sealed) if sealed.epoch == self.newest.epoch + 1 => {}
            _ => return Action::Wait,
        }
        let Some(sealed) = self.sealed.pop_front() else { return Action::Wait };
        let root = Box::new(self.build(sealed, stamp()));
        self.stage = Stage::Putting(root.clone());
        Action::Put(root)
    }

    fn build(&mut self, sealed: SealedEpoch, stamp: Stamp) -> Root {
        let mut root = Root {
            format: FORMAT,
            epoch: sealed.epoch,
            committed_at: stamp.committed_at,
            nonce: stamp.nonce,
            claim: false,
            program: self.in_force.program.clone(),
            models: self.in_force.models.clone(),
            segments: sealed.segments,
            published: self.complete.take().or_else(|| self.newest.published.clone()),
            dropped: self.dropped.drain(..self.dropped.len().min(DROPPED_MAX)).collect(),
            log_from: self.log_from,
            tags: self.tags.clone(),
            rolled_back_to: None,
            trusts_ms: stamp.trusts_ms,
            asked: stamp.asked,
            ..self.newest.clone()
        };
        root.segments.sort_by_key(|segment| segment.worker);
        if let Some(back) = self.in_force.roll_back.take() {
            (root.positions, root.cursors) = (back.positions, back.cursors);
            root.rolled_back_to = Some(back.to);
        }
        let beginning = std::mem::take(&mut self.in_force.beginning);
        root.gaps.extend(beginning.gaps.into_iter().map(|gap| Gap { epoch: root.epoch, ..gap }));
        // What was read since stands above where reading began.
        for positions in [beginning.positions, sealed.positions] {
            merge(&mut root.positions, positions);
        }
        for cursors in [beginning.cursors, sealed.cursors] {
            merge(&mut root.cursors, cursors);
        }
        root
    }

    /// The store answered a put. The root that is committed by it, if it is.
    pub fn put_answered(&mut self, answer: PutAnswer) -> Option<&Root> {
        match (std::mem::replace(&mut self.stage, Stage::Idle), answer) {
            (Stage::Putting(root), PutAnswer::New) => {
                self.newest = *root;
                return Some(&self.newest);
            }
            (Stage::Putting(root), PutAnswer::Unclear) => self.stage = Stage::Reading(root),
            (stage, _) => self.stage = stage,
        }
        None
    }

    /// The store answered a read-back (`None`: no such object). The root that is committed, if it is.
    pub fn read_back(&mut self, found: Option<&Root>) -> Result<Option<&Root>, Fenced> {
        match (std::mem::replace(&mut self.stage, Stage::Idle), found) {
            (Stage::Reading(ours), Some(found)) if found.nonce == ours.nonce => {
                self.newest = *ours;
                Ok(Some(&self.newest))
            }
            (Stage::Reading(ours), Some(found)) => {
                let fenced = Fenced { epoch: ours.epoch, theirs: found.generation, ours: ours.generation };
                self.stage = Stage::Reading(ours);
                Err(fenced)
            }
            (Stage::Reading(ours), None) => {
                self.stage = Stage::Putting(ours);
                Ok(None)
            }
            (stage, _) => {
                self.stage = stage;
                Ok(None)
            }
        }
    }
}

/// The root by which a writer claims a store whose newest root is `newest`.
pub fn claim(newest: Option<&Root>, location: &str, start: &InForce, stamp: Stamp) -> Root {
    match newest {
        None => Root {
            format: FORMAT,
            epoch: 0,
            committed_at: stamp.committed_at,
            generation: 1,
            nonce: stamp.nonce,
            location: location.to_string(),
            claim: true,
            program: start.program.clone(),
            positions: Positions::new(),
            cursors: Cursors::new(),
            gaps: Vec::new(),
            models: start.models.clone(),
            segments: Vec::new(),
            published: None,
            dropped: Vec::new(),
            log_from: 0,
            tags: Default::default(),
            rolled_back_to: None,
            trusts_ms: stamp.trusts_ms,
            asked: None,
        },
        Some(newest) => Root {
            epoch: newest.epoch + 1,
            committed_at: stamp.committed_at,
            generation: newest.generation + 1,
            nonce: stamp.nonce,
            location: location.to_string(),
            claim: true,
            segments: Vec::new(),
            rolled_back_to: None,
            trusts_ms: stamp.trusts_ms.max(newest.trusts_ms),
            asked: None,
            ..newest.clone()
        },
    }
}

/// The list of models of a run that follows `newest`: the same, with the model in force moved to the end.
pub fn models_in_force(newest: Option<&Root>, model: ModelId) -> Vec<ModelId> {
    let mut models = newest.map(|root| root.models.clone()).unwrap_or_default();
    if models.last() != Some(&model) {
        models.retain(|other| *other != model);
        models.push(model);
    }
    models
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_types::invariants::follows;

    fn stamp(n: u32) -> Stamp {
        Stamp {
            committed_at: "2026-01-01T00:00:00Z".into(),
            nonce: n.to_string(),
            trusts_ms: 10,
            asked: None,
        }
    }

    fn in_force() -> InForce {
        let program = ProgramId { name: "p".into(), version: "1".into(), settings: serde_json::json!({}) };
        InForce { program, models: vec![], beginning: Beginning::default(), roll_back: None }
    }

    fn started() -> Committer {
        Committer::new(claim(None, "memory://x", &in_force(), stamp(0)), in_force())
    }

    fn sealed(epoch: Epoch) -> SealedEpoch {
        SealedEpoch { epoch, ..SealedEpoch::default() }
    }

    #[test]
    fn roots_are_put_in_order_without_holes() {
        let mut c = started();
        let before = c.newest().clone();
        c.sealed(sealed(1));
        c.sealed(sealed(2));
        let Action::Put(first) = c.next(|| stamp(1)) else { panic!("a put") };
        follows(&before, &first).unwrap();
        assert_eq!(c.put_answered(PutAnswer::New).unwrap().epoch, 1);
        let Action::Put(second) = c.next(|| stamp(2)) else { panic!("a put") };
        follows(&first, &second).unwrap();
    }

    #[test]
    fn an_unclear_answer_is_settled_by_our_nonce() {
        let mut c = started();
        c.sealed(sealed(1));
        let Action::Put(root) = c.next(|| stamp(1)) else { panic!("a put") };
        assert!(c.put_answered(PutAnswer::Unclear).is_none());
        assert_eq!(c.next(|| stamp(9)), Action::ReadBack(1));
        assert_eq!(c.read_back(Some(&root)).unwrap().unwrap().nonce, "1");
    }

    #[test]
    fn a_put_that_did_not_happen_is_repeated_with_the_identical_body() {
        let mut c = started();
        c.sealed(sealed(1));
        let first = c.next(|| stamp(1));
        c.put_answered(PutAnswer::Unclear);
        c.next(|| stamp(2));
        assert!(c.read_back(None).unwrap().is_none());
        assert_eq!(c.next(|| stamp(3)), first);
    }

    #[test]
    fn anothers_nonce_fences_for_good() {
        let mut c = started();
        let other = claim(Some(c.newest()), "memory://x", &in_force(), stamp(7));
        c.sealed(sealed(1));
        c.next(|| stamp(1));
        c.put_answered(PutAnswer::Unclear);
        assert_eq!(c.read_back(Some(&other)).unwrap_err(), Fenced { epoch: 1, theirs: 2, ours: 1 });
        assert_eq!(c.next(|| stamp(3)), Action::ReadBack(1), "it never puts again");
    }

    #[test]
    fn a_claim_repeats_all_but_the_generation() {
        let first = claim(None, "memory://x", &in_force(), stamp(0));
        let second = claim(Some(&first), "memory://x", &in_force(), stamp(1));
        follows(&first, &second).unwrap();
    }

    #[test]
    fn a_claim_says_for_how_long_those_before_it_trust_a_free_name() {
        let root = Root { trusts_ms: 500, ..claim(None, "memory://x", &in_force(), stamp(0)) };
        let second = claim(Some(&root), "memory://x", &in_force(), stamp(1));
        assert_eq!(second.trusts_ms, 500);
        let third = claim(Some(&second), "memory://x", &in_force(), stamp(2));
        assert_eq!(third.trusts_ms, 500, "the writer in between has made nothing but its claim");
        let mut c = Committer::new(third, in_force());
        c.sealed(sealed(3));
        let Action::Put(own) = c.next(|| stamp(3)) else { panic!("a put") };
        assert_eq!(own.trusts_ms, 10);
    }

    #[test]
    fn a_gap_stands_in_the_first_commit_with_the_positions_behind_it_and_in_every_later_one() {
        let gap = |epoch| Gap {
            epoch,
            stream: "s".into(),
            partition: "0".into(),
            from: 3,
            to: 9,
            resumed_in: "0".into(),
            reason: "deleted".into(),
        };
        let at = |offset: u64| Positions::from([("s".into(), BTreeMap::from([("0".into(), offset)]))]);
        let beginning = Beginning { gaps: vec![gap(0)], positions: at(9), cursors: Cursors::new() };
        let claim = claim(None, "memory://x", &in_force(), stamp(0));
        let mut c = Committer::new(claim, InForce { beginning, ..in_force() });
        c.sealed(sealed(1));
        c.sealed(SealedEpoch { positions: at(12), ..sealed(2) });
        let Action::Put(first) = c.next(|| stamp(1)) else { panic!("a put") };
        assert_eq!((&first.gaps, &first.positions), (&vec![gap(1)], &at(9)));
        c.put_answered(PutAnswer::New);
        let Action::Put(second) = c.next(|| stamp(2)) else { panic!("a put") };
        assert_eq!((&second.gaps, &second.positions), (&vec![gap(1)], &at(12)));
        follows(&first, &second).unwrap();
        let mut forgetful = *second;
        forgetful.gaps.clear();
        assert!(follows(&first, &forgetful).unwrap_err().to_string().contains("gap"));
    }

    #[test]
    fn what_was_read_since_stands_above_where_reading_began() {
        let at = |offset: u64| Positions::from([("s".into(), BTreeMap::from([("0".into(), offset)]))]);
        let beginning = Beginning { positions: at(9), ..Beginning::default() };
        let claim = claim(None, "memory://x", &in_force(), stamp(0));
        let mut c = Committer::new(claim, InForce { beginning, ..in_force() });
        c.sealed(SealedEpoch { positions: at(12), ..sealed(1) });
        let Action::Put(first) = c.next(|| stamp(1)) else { panic!("a put") };
        assert_eq!(first.positions, at(12));
    }

    #[test]
    fn the_model_in_force_stands_last_and_once() {
        let id = |model: &str| ModelId { model: model.into(), version: "1".into() };
        let mut root = claim(None, "x", &in_force(), stamp(0));
        root.models = vec![id("a"), id("b")];
        assert_eq!(models_in_force(Some(&root), id("a")), vec![id("b"), id("a")]);
        assert_eq!(models_in_force(Some(&root), id("b")), vec![id("a"), id("b")]);
        assert_eq!(models_in_force(None, id("c")), vec![id("c")]);
    }
}
