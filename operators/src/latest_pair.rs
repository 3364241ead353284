//! Two results at once: what a sample needs whose two texts went to a model each.
//!
//! ```text
//!  needs (text, (sample, slot)) ──┐
//!                                 ├─ join ──> (sample, (slot, priority, output)) ── keyed ──> pair
//!  results (text, (priority, output))
//! ```
//!
//! A text may be needed by many samples, and by both slots of one; a result may be there at several
//! priorities (models or versions), of which the greatest that both slots have counts. The pair is a
//! function of what stands in one epoch, so it appears in the very epoch that completes it, and falls
//! back to a lower priority when a result is taken away.
//!
//! Outputs are long (vectors), and travel as [`Arc`]: each is kept once in a process, however many
//! samples refer to it. The first half is differential's join, as any number of needs may meet any
//! number of results; the second keeps a handful of references for each sample.

use crate::{
    join::join,
    keyed::{Table, keyed, replace},
    multiset::Multiset,
};
use differential_dataflow::ExchangeData;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, hash::Hash, sync::Arc};

/// The place of a result in its pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Slot {
    /// The left one.
    First,
    /// The right one.
    Second,
}

/// A priority and the outputs of both slots at it.
pub type Pair<O> = (u32, Arc<O>, Arc<O>);

type Answers<O> = Multiset<(Reverse<u32>, Slot, Arc<O>)>;

/// For each key both of whose slots are answered at one priority, `(priority, first, second)` at the
/// greatest such priority.
///
/// `needs` says `(text, (key, slot))`, one text for each key and slot; `results` says `(text,
/// (priority, output))`, one output for each text and priority. Where the inputs break that, the least
/// output of a slot and priority is taken. Outputs are compared by content, so that a retraction need
/// not hold the same allocation as its insertion.
pub fn latest_pair<'scope, Q, K, O>(
    needs: Table<'scope, (Q, (K, Slot))>,
    results: Table<'scope, (Q, (u32, Arc<O>))>,
) -> Table<'scope, (K, Pair<O>)>
where
    Q: ExchangeData + Hash,
    K: ExchangeData + Hash,
    O: ExchangeData + Sync,
{
    let answers = join(needs, results, |_text, (key, slot), (priority, output)| {
        (key.clone(), (Reverse(*priority), *slot, output.clone()))
    });
    keyed(answers, "LatestPair", |key: &K, answers: &mut Answers<O>, changes, out| {
        let before = latest(answers);
        changes.for_each(|(answer, diff)| {
            answers.update(answer, diff);
        });
        let row = |pair| (key.clone(), pair);
        replace(before.map(row), latest(answers).map(row), out);
    })
}

/// Goes through the priorities from the greatest; of one, the answers of the first slot come first.
fn latest<O: Ord>(answers: &Answers<O>) -> Option<Pair<O>> {
    let mut first: Option<(Reverse<u32>, &Arc<O>)> = None;
    for ((priority, slot, output), _) in answers.present() {
        match (slot, first) {
            (Slot::First, Some((of, _))) if of == *priority => {}
            (Slot::First, _) => first = Some((*priority, output)),
            (Slot::Second, Some((of, first))) if of == *priority => {
                return Some((priority.0, first.clone(), output.clone()));
            }
            (Slot::Second, _) => {}
        }
    }
    None
}
