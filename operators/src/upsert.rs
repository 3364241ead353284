//! From a log of words to the table of current rows.
//!
//! A source hands out records, not changes: a record says what a key's row is from now on, as far as
//! its partition knows. What a partition said of a key at its highest offset is its *word*: a row or a
//! deletion. Where partitions differ, the word with the latest timestamp counts (no timestamp is earlier
//! than any), and among equal timestamps that of the greatest partition. This operator keeps every word,
//! as any of them may count again when another is replaced, and says what changed.
//!
//! Why it is right: offsets only grow, so "highest offset" is a maximum, and a maximum does not care
//! for order, repetition or how records fall into epochs. Records may be read twice (after a restart,
//! by two readers) without harm. A retraction repeats the very word that was inserted, by reference.
//!
//! Differential's own `arrange_from_upsert` knows one log per key and takes the last record of it; the
//! contest between partitions, and the words that lost it, have no place there. State is one reference
//! for each word, inline for a key that only one partition speaks of.

use crate::keyed::{KeyState, Output, Table, keyed_routed};
use differential_dataflow::{AsCollection, ExchangeData};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidemill_core::source::Word;
use tidemill_types::{Digest, Epoch};
use timely::dataflow::{StreamVec, channels::pact::Pipeline, operators::generic::operator::Operator};

/// A word that stands, and whether it is the one that counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StateWord<T> {
    /// A partition's last word on the key.
    pub word: Arc<Word<T>>,
    /// Whether it is the greatest of the key's words.
    pub current: bool,
}

/// What an upsert maintains.
pub struct Upserted<'scope, T: 'static> {
    /// `(key, word)` for each key whose current word is a row; the word's value is never `None`.
    pub current: Table<'scope, (Digest, Arc<Word<T>>)>,
    /// `(key, word)` for each key and partition that has a word, rows and deletions alike: all that a
    /// later start needs to go on.
    pub words: Table<'scope, (Digest, StateWord<T>)>,
}

/// Maintains the current row of each key from a stream of `(key, word)` records, in any order.
///
/// A record whose offset is not above that of the word which the key has from its partition is
/// ignored. Keys live on the worker with the number `low64` of the digest modulo the workers.
///
/// ```
/// use std::sync::Arc;
/// use tidemill_core::source::{SourceRow, Word};
/// use tidemill_operators::{Table, upsert};
/// use tidemill_types::{Digest, Epoch};
/// use timely::dataflow::StreamVec;
///
/// fn rows<'a, T: SourceRow>(log: StreamVec<'a, Epoch, (Digest, Word<T>)>) -> Table<'a, Arc<T>> {
///     upsert(log).current.flat_map(|(_key, word)| word.value.clone())
/// }
/// ```
pub fn upsert<'scope, T>(records: StreamVec<'scope, Epoch, (Digest, Word<T>)>) -> Upserted<'scope, T>
where
    T: ExchangeData + Sync,
{
    let words = keyed_routed(
        dated(records),
        "Upsert",
        |key: &Digest| key.low64(),
        |key, words: &mut Words<T>, records, out| {
            let mut changes = Vec::new();
            words.speak(records.map(|(word, _)| word), &mut changes);
            out.extend(changes.into_iter().map(|(word, diff)| ((*key, word), diff)));
        },
    );
    let current = words.clone().flat_map(|(key, word)| word.into_current().map(|word| (key, word)));
    Upserted { current, words }
}

impl<T> StateWord<T> {
    /// The word, if it is current and a row.
    fn into_current(self) -> Option<Arc<Word<T>>> {
        (self.current && self.word.value.is_some()).then_some(self.word)
    }
}

/// The records as insertions at their epochs, which a stream knows only by its messages.
fn dated<'scope, D: 'static>(records: StreamVec<'scope, Epoch, D>) -> Table<'scope, D> {
    records
        .unary(Pipeline, "Dated", |_capability, _info| {
            |input, output| {
                input.for_each_stamp(|capability, data| {
                    // An input sends at one time, so a stamp has that one.
                    let Some(capability) = capability.retain_least(output.output_index()) else { return };
                    let epoch = *capability.time();
                    let records = data.flat_map(|batch| batch.drain(..));
                    output.session(&capability).give_iterator(records.map(|record| (record, epoch, 1)));
                });
            }
        })
        .as_collection()
}

/// The words of a key, one for each partition that has spoken, in the order of their first words.
#[derive(Default)]
enum Words<T> {
    #[default]
    None,
    One(Arc<Word<T>>),
    #[expect(clippy::box_collection, reason = "keeps the state of the common case at two words")]
    Many(Box<Vec<Arc<Word<T>>>>),
}

impl<T: 'static> KeyState for Words<T> {
    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl<T> Words<T> {
    fn as_slice(&self) -> &[Arc<Word<T>>] {
        match self {
            Self::None => &[],
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Arc<Word<T>>] {
        match self {
            Self::None => &mut [],
            Self::One(word) => std::slice::from_mut(word),
            Self::Many(words) => words,
        }
    }

    fn push(&mut self, word: Arc<Word<T>>) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(word),
            Self::One(first) => Self::Many(Box::new(vec![first, word])),
            Self::Many(mut words) => {
                words.push(word);
                Self::Many(words)
            }
        };
    }

    /// Takes in records of the key and reports what they changed.
    fn speak(&mut self, records: impl Iterator<Item = Word<T>>, out: &mut Output<StateWord<T>>) {
        let before = self.as_slice().to_vec();
        records.for_each(|word| self.accept(word));
        let after = self.as_slice();
        let (winner_before, winner_after) = (winner(&before), winner(after));
        for (place, word) in after.iter().enumerate() {
            let old = before.get(place);
            let was_current = winner_before == Some(place);
            let current = winner_after == Some(place);
            if current == was_current && old.is_some_and(|old| Arc::ptr_eq(old, word)) {
                continue;
            }
            let retracted = old.map(|old| StateWord { word: old.clone(), current: was_current });
            out.extend(retracted.map(|row| (row, -1)));
            out.push((StateWord { word: word.clone(), current }, 1));
        }
    }

    fn accept(&mut self, word: Word<T>) {
        let mut kept = self.as_mut_slice().iter_mut();
        match kept.find(|kept| kept.partition == word.partition) {
            Some(kept) if kept.offset >= word.offset => {}
            Some(kept) => *kept = Arc::new(word),
            None => self.push(Arc::new(word)),
        }
    }
}

/// The place of the word that counts.
fn winner<T>(words: &[Arc<Word<T>>]) -> Option<usize> {
    (0..words.len()).max_by_key(|place| (words[*place].timestamp, &words[*place].partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_key_with_one_partition_is_two_machine_words() {
        assert_eq!(size_of::<Words<u64>>(), 16);
        assert_eq!(size_of::<(Digest, Words<u64>)>(), 32);
    }
}
