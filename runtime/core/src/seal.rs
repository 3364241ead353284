//! The seal: from the tables' changes of a closed epoch to segments, and from these to worker 0.
//!
//! ```text
//!  table tokens ─┐ (progress only)              completed uploads
//!                ├─> seal: frontier passed e ──> draft e ──> [`Upload`] ──> description at time e ──┐
//!  positions of e ─────────────────────────────────────────────────────────────────────────────────┤
//!                                                       exchange to worker 0 <──────────────────────┘
//!                                                       frontier passed e: epoch e is sealed
//! ```
//!
//! Why it is right: a table's changes are in its buffer before its token's frontier passes their
//! epoch, so the draft is complete. The seal holds the capability of `e` until the segment is durable,
//! so the frontier at worker 0 passes `e` only when every worker's segment is. Encoding and upload
//! happen elsewhere; the worker is woken by its activator. The descriptions travel as records, so
//! there is no second messaging layer.

use crate::builder::TableBuffer;
use crate::commit::SealedEpoch;
use crate::segment::{ChangeBatch, SegmentDraft};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tidemill_types::{Digest, Epoch, SegmentRef};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Capability, Concatenate};
use timely::dataflow::{Scope, Stream};
use timely::scheduling::SyncActivator;

/// A finished upload: the segment's description (`None`: there was nothing to write), or why it failed.
pub type Uploaded = Result<Option<SegmentRef>, String>;

/// Encodes drafts and makes them durable, away from the worker threads.
pub trait Upload: Send + Sync {
    /// Starts; `done` is called once, from any thread.
    fn upload(&self, draft: SegmentDraft, recomputed: bool, done: Box<dyn FnOnce(Uploaded) + Send>);
}

/// What a worker reports of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// The JSON of a segment's description.
    Segment(String),
    /// A partition's position at the close: stream, partition, next offset, the source's own as JSON.
    Position(String, String, u64, String),
    /// The upload failed for good.
    Failed(String),
}

/// What a worker gathers for its epochs besides the tables.
pub(crate) type Pinned = Rc<RefCell<BTreeMap<Epoch, Vec<(Digest, Bytes)>>>>;

/// How the epoch in which the flow is filled is sealed.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    /// The epoch of the claim: nothing of it is committed as such.
    pub(crate) epoch: Epoch,
    /// The places of the tables that are recomputed, if program, settings or models differ from what is
    /// stored: their rows go into the next epoch, from which the stored rows are subtracted.
    pub(crate) recompute: Option<Vec<usize>>,
}

impl Restored {
    /// Whether a table's rows are recomputed.
    pub(crate) fn recomputes(&self, place: usize) -> bool {
        self.recompute.as_ref().is_some_and(|all| all.contains(&place))
    }
}

pub(crate) struct Seal {
    pub(crate) worker: usize,
    pub(crate) tables: Vec<(usize, Box<dyn TableBuffer>)>,
    pub(crate) pinned: Pinned,
    pub(crate) upload: Arc<dyn Upload>,
    pub(crate) restored: Restored,
}

impl Seal {
    /// The draft of an epoch; `None` if there is nothing in it.
    fn draft(&self, epoch: Epoch) -> Option<SegmentDraft> {
        if epoch <= self.restored.epoch {
            return None;
        }
        let mut tables: Vec<(usize, Box<dyn ChangeBatch>)> = Vec::new();
        for (place, buffer) in &self.tables {
            tables.extend(buffer.take(epoch).map(|changes| (*place, changes)));
        }
        if epoch == self.restored.epoch + 1 {
            self.add_restored(&mut tables);
        }
        let bodies = self.pinned.borrow_mut().remove(&epoch).unwrap_or_default();
        let empty = tables.is_empty() && bodies.is_empty() && !self.recomputes(epoch);
        (!empty).then_some(SegmentDraft { epoch, worker: self.worker, tables, bodies })
    }

    /// Whether stored rows are to be subtracted from the draft of an epoch.
    fn recomputes(&self, epoch: Epoch) -> bool {
        epoch == self.restored.epoch + 1 && self.restored.recompute.is_some()
    }

    fn add_restored(&self, tables: &mut Vec<(usize, Box<dyn ChangeBatch>)>) {
        for (place, buffer) in &self.tables {
            tables.extend(buffer.take(self.restored.epoch).map(|changes| (*place, changes)));
        }
    }

    /// Builds the operator; gives one report a segment.
    pub(crate) fn build<'s>(
        self,
        scope: Scope<'s, Epoch>,
        tokens: Vec<Stream<'s, Epoch, Vec<()>>>,
    ) -> Stream<'s, Epoch, Vec<Report>> {
        let (sender, receiver) = crossbeam_channel::unbounded::<(Epoch, Uploaded)>();
        let activations = scope.activations().borrow().sync();
        scope.concatenate(tokens).unary_frontier(Pipeline, "seal", move |first, info| {
            let path = info.address.to_vec();
            let mut open = Some(first);
            let mut uploading: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
            move |(input, frontier), output| {
                input.for_each_stamp(|_, _| {});
                let upper = frontier.frontier().first().copied();
                while let Some(capability) = open.take_if(|c| upper.is_none_or(|upper| *c.time() < upper)) {
                    let epoch = *capability.time();
                    let start = self.restored.epoch.min(upper.unwrap_or(Epoch::MAX));
                    open = upper.map(|_| capability.delayed(&(epoch + 1).max(start)));
                    if let Some(draft) = self.draft(epoch) {
                        let (sender, path) = (sender.clone(), path.clone());
                        let activator = SyncActivator::new(path, activations.clone());
                        let done = Box::new(move |uploaded| {
                            // Both fail only when the worker is gone, and then nobody waits for it.
                            let _ = sender.send((epoch, uploaded));
                            let _ = activator.activate();
                        });
                        self.upload.upload(draft, self.recomputes(epoch), done);
                        uploading.insert(epoch, capability);
                    }
                }
                while let Ok((epoch, uploaded)) = receiver.try_recv() {
                    if let Some(capability) = uploading.remove(&epoch) {
                        output.session(&capability).give_iterator(report(uploaded).into_iter());
                    }
                }
            }
        })
    }
}

fn report(uploaded: Uploaded) -> Option<Report> {
    match uploaded {
        Ok(None) => None,
        Ok(Some(segment)) => match serde_json::to_string(&segment) {
            Ok(json) => Some(Report::Segment(json)),
            Err(error) => Some(Report::Failed(error.to_string())),
        },
        Err(error) => Some(Report::Failed(error)),
    }
}

/// Epochs that are sealed on all workers, in order, as worker 0 sees them.
#[derive(Default)]
pub(crate) struct Collected {
    reports: BTreeMap<Epoch, Vec<Report>>,
    upper: Epoch,
    next: Epoch,
}

pub(crate) type SharedCollected = Rc<RefCell<Collected>>;

impl Collected {
    pub(crate) fn starting_at(next: Epoch) -> SharedCollected {
        Rc::new(RefCell::new(Self { reports: BTreeMap::new(), upper: 0, next }))
    }

    /// The next sealed epoch, or why one cannot be sealed.
    pub(crate) fn pop(&mut self) -> Option<Result<SealedEpoch, String>> {
        if self.next >= self.upper {
            return None;
        }
        let epoch = self.next;
        self.next += 1;
        Some(sealed(epoch, self.reports.remove(&epoch).unwrap_or_default()))
    }
}

fn sealed(epoch: Epoch, reports: Vec<Report>) -> Result<SealedEpoch, String> {
    let mut sealed = SealedEpoch { epoch, ..SealedEpoch::default() };
    for report in reports {
        match report {
            Report::Failed(error) => return Err(error),
            Report::Segment(json) => {
                sealed.segments.push(serde_json::from_str(&json).map_err(|e| e.to_string())?);
            }
            Report::Position(stream, partition, next, cursor) => {
                let cursor = serde_json::from_str(&cursor).map_err(|e| e.to_string())?;
                sealed.positions.entry(stream.clone()).or_default().insert(partition.clone(), next);
                sealed.cursors.entry(stream).or_default().insert(partition, cursor);
            }
        }
    }
    Ok(sealed)
}

/// Brings all reports to worker 0; gives a token stream whose frontier says what has been collected.
pub(crate) fn collect<'s>(reports: Stream<'s, Epoch, Vec<Report>>, into: SharedCollected) {
    type Tokens = timely::container::CapacityContainerBuilder<Vec<()>>;
    let to_first = Exchange::new(|_: &Report| 0);
    let _ = reports.unary_frontier::<Tokens, _, _, _>(to_first, "collect", move |_, _| {
        move |(input, frontier), _| {
            let mut collected = into.borrow_mut();
            input.for_each_stamp(|stamp, batches| {
                // A report is sent at one time, so its stamp has that one.
                let Some(epoch) = stamp.least() else { return };
                let of = collected.reports.entry(*epoch).or_default();
                batches.for_each(|batch| of.append(batch));
            });
            collected.upper = frontier.frontier().first().copied().unwrap_or(Epoch::MAX);
        }
    });
}
