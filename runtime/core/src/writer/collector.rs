//! What may be deleted, and when: a step after each commit.
//!
//! ```text
//!   gone      tag a        gone                   kept
//!  ........[ 40 .. 44 ]...................[ 71 ............. 97 ]
//!           its roots, segments            ^ log_from = the publication of the oldest
//!           and publication                  root that is young or among the newest
//! ```
//!
//! The newest root, however old, those that are younger than the retention, and as many of the newest as it
//! says must stay readable. To read one takes its publication, and the roots and segments from that
//! publication's epoch up to the root itself. So the collector looks for the oldest such root `r`, and
//! everything below `r.published.epoch` may go: roots, segments, and files of publications that a later one
//! does not share. What a tag needs stays. A step gives a bounded number of names; a root lists them as
//! dropped, and says in the same breath that the log begins later; when it is committed they are deleted.
//!
//! What no root names are *orphans*, and there are two kinds. What a writer that is gone made for an epoch
//! above all that it committed is looked for once, after the first commit. Whatever else was left behind,
//! by a publication that failed midway, by a writer that woke up late, by a deletion that was cut off, comes
//! to lie below the log; there everything is known by what the log's first root and the tags need, and is
//! looked for again and again. So nothing is taken for an orphan that somebody is about to name: a writer of
//! a lower generation names nothing any more, and this one makes nothing below the log.

use super::kept::{needed_from, no_such, taken};
use super::uploads::{segment_epoch, segment_generation};
use crate::commit::DROPPED_MAX;
use crate::edge::{SharedEdge, parse_ms};
use crate::log::read_root;
use crate::store::{SharedStore, StoreError};
use crate::view::{View, ViewFailure};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tidemill_types::{Epoch, Root, Tag, root_epoch, root_name};

/// Roots that one step looks at.
const ROOTS_A_STEP: usize = 512;
/// After so many sweeps what is still there is listed once more.
const SWEEPS: u64 = 8;

/// What stays readable: a commit that is younger than `time`, or is one of the newest `commits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// The age.
    pub time: Duration,
    /// The number.
    pub commits: u64,
}

impl Retention {
    fn ms(&self) -> i64 {
        self.time.as_millis().min(i64::MAX as u128) as i64
    }
}

/// Finds what may be deleted; see the module.
pub struct Collector {
    store: SharedStore,
    edge: SharedEdge,
    retention: Retention,
    /// The oldest root that is kept.
    log_from: Epoch,
    /// The oldest root that may be younger than the retention.
    young: Epoch,
    /// Names that wait to be listed.
    waiting: VecDeque<String>,
    tags: BTreeMap<String, Tag>,
    /// All names that tags need.
    held: BTreeSet<String>,
    /// Whether `held` is what `tags` need.
    held_known: bool,
    /// The newest root before our claim, until what its writers left has been looked for.
    left_by: Option<Option<Root>>,
    looked_at: i64,
    swept_at: i64,
    /// What the last sweep found.
    swept: BTreeSet<String>,
    sweeps: u64,
}

/// Names to list as dropped, and the oldest root that is kept from then on.
pub(super) type Dropped = (Vec<String>, Epoch);

fn text(error: impl ToString) -> String {
    error.to_string()
}

impl Collector {
    /// A collector after a claim; `before` is the newest root before it.
    pub fn new(
        store: SharedStore,
        edge: SharedEdge,
        retention: Retention,
        claim: &Root,
        before: Option<&Root>,
    ) -> Self {
        Self {
            store,
            edge,
            retention,
            log_from: claim.log_from,
            young: claim.log_from,
            waiting: VecDeque::new(),
            tags: claim.tags.clone(),
            held: BTreeSet::new(),
            held_known: claim.tags.is_empty(),
            left_by: Some(before.cloned()),
            looked_at: 0,
            swept_at: 0,
            swept: BTreeSet::new(),
            sweeps: 0,
        }
    }

    /// The oldest epoch whose publication is kept, apart from tags.
    pub(super) fn publications_from(&self) -> Epoch {
        self.log_from
    }

    /// Milliseconds between two looks at the log.
    fn look_every_ms(&self) -> i64 {
        (self.retention.ms() / 100).clamp(1000, 10_000)
    }

    /// Milliseconds between two looks for orphans below the log.
    fn sweep_every_ms(&self) -> i64 {
        self.retention.ms().clamp(10_000, 3_600_000)
    }

    fn root(&self, epoch: Epoch) -> Result<Option<Root>, String> {
        match self.edge.block_on(read_root(&*self.store, epoch)) {
            Ok(root) => Ok(Some(root)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One step after `newest` was committed. An error: the store did not answer; the next look goes on.
    pub(super) fn step<V: View>(
        &mut self,
        view: &V,
        newest: &Root,
        now: i64,
    ) -> Result<Option<Dropped>, String> {
        // Times to come, from before the clock was set back, must not hold up what follows.
        (self.looked_at, self.swept_at) = (self.looked_at.min(now), self.swept_at.min(now));
        if self.waiting.is_empty() && now - self.looked_at >= self.look_every_ms() {
            self.looked_at = now;
            if let Some(before) = &self.left_by {
                let left = self.edge.block_on(left(&self.store, view, before.as_ref(), newest.generation));
                self.waiting.extend(left.map_err(text)?);
                self.left_by = None;
            }
            self.look(view, newest, now)?;
            // Whatever the look has found: where commits come all the time, each finds something.
            if now - self.swept_at >= self.sweep_every_ms() {
                self.swept_at = now;
                self.sweep_below(view)?;
            }
        }
        // A look may have ended early, by a failure: what it had found by then is looked through here.
        self.know_held(view)?;
        let mut names = Vec::new();
        while names.len() < DROPPED_MAX
            && let Some(name) = self.waiting.pop_front()
        {
            names.extend((!self.held.contains(&name)).then_some(name));
        }
        Ok((!names.is_empty()).then_some((names, self.log_from)))
    }

    /// Names a commit, or lets a name go; all tags that there are then. An error: what to tell who asked.
    pub(super) fn tag<V: View>(
        &mut self,
        view: &V,
        name: String,
        epoch: Option<Epoch>,
    ) -> Result<BTreeMap<String, Tag>, String> {
        let Some(epoch) = epoch else {
            self.tags.remove(&name).ok_or_else(|| no_such(&name))?;
            self.held_known = false;
            // What it alone kept lies below the log.
            self.swept_at = 0;
            return Ok(self.tags.clone());
        };
        let gone = || {
            let from = self.log_from;
            format!("epoch {epoch} is not kept any more, or not whole: the log begins at {from}")
        };
        let known = self.tags.values().find(|tag| tag.epoch == epoch).copied();
        let tag = match known {
            Some(tag) => tag,
            None if epoch < self.log_from => return Err(gone()),
            None => {
                let root = self.root(epoch)?.ok_or_else(|| format!("epoch {epoch} is not committed yet"))?;
                let from = needed_from(&root);
                if from < self.log_from {
                    return Err(gone());
                }
                Tag { epoch, from }
            }
        };
        taken(&self.tags, &name, epoch)?;
        let before = self.tags.insert(name.clone(), tag);
        self.held_known = false;
        if let Err(error) = self.know_held(view) {
            // As if nobody had asked: a name that stood before stands on.
            match before {
                Some(before) => drop(self.tags.insert(name, before)),
                None => drop(self.tags.remove(&name)),
            }
            return Err(error);
        }
        Ok(self.tags.clone())
    }

    /// Reads what all tags need.
    fn know_held<V: View>(&mut self, view: &V) -> Result<(), String> {
        if self.held_known {
            return Ok(());
        }
        let mut held = BTreeSet::new();
        for tag in self.tags.values() {
            let mut published = None;
            for epoch in tag.from..=tag.epoch {
                let root = self.root(epoch)?;
                let root = root.ok_or_else(|| format!("root {epoch}, which a tag keeps, is missing"))?;
                held.insert(root_name(epoch));
                held.extend(root.segments.into_iter().map(|segment| segment.name));
                published = root.published;
            }
            if let Some(published) = published {
                held.extend(view.objects(&published).map_err(text)?);
            }
        }
        (self.held, self.held_known) = (held, true);
        Ok(())
    }

    /// Finds the oldest root that must stay readable, and lists what is below its publication.
    fn look<V: View>(&mut self, view: &V, newest: &Root, now: i64) -> Result<(), String> {
        let few = newest.epoch.saturating_sub(self.retention.commits.saturating_sub(1));
        let mut last = None;
        for _ in 0..ROOTS_A_STEP {
            if self.young >= newest.epoch {
                last = Some(newest.clone());
                break;
            }
            let root = self.root(self.young)?;
            let young = root.as_ref().is_some_and(|root| self.is_young(root, now));
            last = root.or(last);
            if self.young >= few || young {
                break;
            }
            self.young += 1;
        }
        // Where the look ended early, more is old and the next one goes on. Publications never go back, so
        // what is below that of the last root looked at is needed by none that is kept.
        let keep_from = last.and_then(|root| root.published).map_or(self.log_from, |p| p.epoch);
        self.drop_below(view, keep_from)
    }

    /// Whether a root must stay for its age. A claim stays, too, while a writer that it shut out may take the name for
    /// one that was never used.
    fn is_young(&self, root: &Root, now: i64) -> bool {
        let trusted =
            if root.claim { root.trusts_ms.saturating_mul(2).min(i64::MAX as u64) as i64 } else { 0 };
        parse_ms(&root.committed_at).is_some_and(|at| now - at < self.retention.ms().max(trusted))
    }

    fn drop_below<V: View>(&mut self, view: &V, keep_from: Epoch) -> Result<(), String> {
        let until = keep_from.min(self.log_from + ROOTS_A_STEP as Epoch);
        while self.log_from < until {
            if let Some(root) = self.root(self.log_from)? {
                let next = self.root(self.log_from + 1)?.and_then(|next| next.published);
                if let (Some(older), Some(newer)) = (&root.published, &next)
                    && older.epoch != newer.epoch
                {
                    match view.garbage(older, newer) {
                        Ok(names) => self.waiting.extend(names),
                        Err(ViewFailure::Store(error @ StoreError::Failed(_))) => {
                            return Err(error.to_string());
                        }
                        // A deletion that was cut off has taken a part; the rest is found as orphans.
                        Err(error) => {
                            tracing::warn!(%error, epoch = older.epoch, "a publication cannot be collected")
                        }
                    }
                }
                self.waiting.extend(root.segments.into_iter().map(|segment| segment.name));
                self.waiting.push_back(root_name(self.log_from));
            }
            self.log_from += 1;
        }
        Ok(())
    }

    /// Lists what lies below the log and is needed neither by its first root nor by a tag.
    fn sweep_below<V: View>(&mut self, view: &V) -> Result<(), String> {
        let from = self.log_from;
        let Some(first) = self.root(from)? else { return Ok(()) };
        let list = |folder: &str| self.edge.block_on(self.store.list(folder)).map_err(text);
        let (roots, segments) = (list("catalog/")?, list("segments/")?);
        let below = roots.into_iter().filter(|object| root_epoch(&object.name).is_some_and(|e| e < from));
        let mut names: Vec<String> = below.map(|object| object.name).collect();
        let below =
            segments.into_iter().filter(|object| segment_epoch(&object.name).is_some_and(|e| e < from));
        names.extend(below.map(|object| object.name));
        if let Some(published) = &first.published {
            let needed = view.objects(published).map_err(text)?;
            let made = |name: &str| view.made_for(name).is_some_and(|(epoch, _)| epoch <= published.epoch);
            let objects = list(view.folder())?.into_iter().map(|object| object.name);
            names.extend(objects.filter(|name| made(name) && !needed.contains(name)));
        }
        // What the last sweep found is being deleted; where that takes long it is not listed again at once.
        let (waiting, found): (BTreeSet<&String>, BTreeSet<String>) =
            (self.waiting.iter().collect(), names.iter().cloned().collect());
        names.retain(|name| !waiting.contains(name) && !self.swept.contains(name));
        self.sweeps += 1;
        self.swept = if self.sweeps.is_multiple_of(SWEEPS) { BTreeSet::new() } else { found };
        self.waiting.extend(names);
        Ok(())
    }
}

/// Objects of lower generations for epochs above all that these committed. `before` is the newest root before
/// our claim.
async fn left<V: View>(
    store: &SharedStore,
    view: &V,
    before: Option<&Root>,
    ours: u64,
) -> Result<Vec<String>, StoreError> {
    let last = before.map(|root| root.epoch);
    let published = before.and_then(|root| root.published.as_ref()).map(|p| p.epoch);
    let mut names = Vec::new();
    for object in store.list("segments/").await? {
        let lower = segment_generation(&object.name).is_some_and(|generation| generation < ours);
        names.extend((lower && segment_epoch(&object.name) > last).then_some(object.name));
    }
    for object in store.list(view.folder()).await? {
        let made = view.made_for(&object.name);
        let left = made.is_some_and(|(epoch, generation)| Some(epoch) > published && generation < ours);
        names.extend(left.then_some(object.name));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Clock, Nothing, Objects, roots};
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    /// It was taken out of the tags, so that the next commit gave up what it kept.
    #[test]
    fn a_tag_that_is_asked_for_again_while_the_store_does_not_answer_stays() {
        let roots = roots(3);
        let store = Arc::new(Objects::of(&roots));
        let silent = store.silent.clone();
        let retention = Retention { time: Duration::from_secs(60), commits: 1 };
        let mut collector = Collector::new(store, Arc::<Clock>::default(), retention, &roots[2], None);
        let mut tag = |name: &str, epoch| collector.tag(&Nothing, name.to_string(), Some(epoch));
        tag("a", 1).unwrap();
        silent.store(true, Ordering::Relaxed);
        assert!(tag("a", 1).unwrap_err().contains("no answer"));
        assert!(tag("b", 1).unwrap_err().contains("no answer"));
        silent.store(false, Ordering::Relaxed);
        let tags = tag("c", 2).unwrap();
        assert_eq!(tags.keys().collect::<Vec<_>>(), ["a", "c"]);
    }

    fn collector(time: Duration, claim: &Root, roots: &[Root]) -> Collector {
        let retention = Retention { time, commits: 1 };
        Collector::new(Arc::new(Objects::of(roots)), Arc::<Clock>::default(), retention, claim, None)
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_up() {
        let roots = roots(60);
        let mut collector = collector(Duration::ZERO, &roots[0], &roots);
        let year = 365 * 86_400_000;
        let dropped = collector.step(&Nothing, &roots[20], year).unwrap().expect("old roots");
        assert!(collector.step(&Nothing, &roots[21], year + 1).unwrap().is_none(), "it has looked just now");
        assert!(collector.step(&Nothing, &roots[49], 5000).unwrap().is_none(), "it takes that for now");
        let later = collector.step(&Nothing, &roots[50], 6000).unwrap().expect("old roots");
        assert!(dropped.1 < later.1);
    }

    /// Of one list the sweeper deletes roots in their order; so they must come into lists in that order, too.
    #[test]
    fn roots_are_given_up_in_the_order_of_their_epochs() {
        let roots = roots(60);
        let mut collector = collector(Duration::ZERO, &roots[0], &roots);
        let (names, from) = collector.step(&Nothing, &roots[59], 5_000).unwrap().expect("old roots");
        let given_up: Vec<Epoch> = names.iter().filter_map(|name| root_epoch(name)).collect();
        assert_eq!(given_up, (0..from).collect::<Vec<_>>());
        assert!(from > 10, "{from}");
    }

    #[test]
    fn a_claim_is_young_for_twice_as_long_as_a_free_name_was_trusted() {
        let roots = roots(2);
        let collector = collector(Duration::from_secs(10), &roots[0], &roots);
        let claim = Root { trusts_ms: 60_000, ..roots[0].clone() };
        assert!(collector.is_young(&claim, 119_999) && !collector.is_young(&claim, 120_000));
        let commit = Root { claim: false, ..claim };
        assert!(collector.is_young(&commit, 9_999) && !collector.is_young(&commit, 10_000));
    }

    #[test]
    fn what_a_writer_left_above_its_last_commit_is_collected_and_nothing_of_this_one() {
        let segment = |epoch: u64, generation: u64| format!("segments/{epoch:020}-g{generation}-w0-x.arrows");
        let roots = roots(3);
        let ours = Root { epoch: 3, generation: 5, claim: true, ..roots[2].clone() };
        let names = [segment(2, 4), segment(3, 4), segment(3, 5)];
        let store = names.iter().fold(Objects::of(&roots), |store, name| store.and(name));
        let retention = Retention { time: Duration::from_secs(60), commits: 10 };
        let edge = Arc::<Clock>::default();
        let mut collector = Collector::new(Arc::new(store), edge, retention, &ours, Some(&roots[2]));
        let dropped = collector.step(&Nothing, &ours, 5_000).unwrap().expect("something");
        assert_eq!(dropped.0, [segment(3, 4)]);
    }
}
