//! Upsert, against a recomputation from all records received so far.

use crate::support::{Change, Counts, History, add, holds_on};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, sync::Arc};
use tidemill_core::source::Word;
use tidemill_operators::{StateWord, Table, keyed::Side, upsert};
use tidemill_types::{Digest, Epoch, Partition};
use timely::dataflow::{StreamVec, channels::pact::Pipeline, operators::generic::operator::Operator};

type Record = (Digest, Word<u32>);
type Maintained = Side<(Digest, Arc<Word<u32>>), (Digest, StateWord<u32>)>;

/// Records at the epochs that stand beside them, as a source would send them.
fn sent<'a>(records: Table<'a, Record>) -> StreamVec<'a, Epoch, Record> {
    records.inner.unary(Pipeline, "Sent", |_capability, _info| {
        |input, output| {
            input.for_each(|capability, data| {
                for (record, epoch, copies) in data.drain(..) {
                    let capability = capability.delayed(&epoch, output.output_index());
                    let records = (0..copies).map(|_| record.clone());
                    output.session(&capability).give_iterator(records);
                }
            });
        }
    })
}

fn flow<'a>(records: Table<'a, Record>) -> Table<'a, Maintained> {
    let upserted = upsert(sent(records));
    let current = upserted.current.map(Side::Left);
    current.concat(upserted.words.map(Side::Right))
}

fn partitions() -> Vec<Partition> {
    let mut partitions = (0..3).map(Partition::number).collect::<Vec<_>>();
    partitions.push(Partition::Name("b.jsonl".into()));
    partitions.push(Partition::Name("a.jsonl.gz".into()));
    partitions
}

/// Logs of several partitions, delivered out of order, some records twice, some epochs late.
fn deliveries(rng: &mut ChaCha8Rng, partitions: &[Partition]) -> History<Record> {
    let mut epochs = vec![Vec::new(); 20];
    for offset in 0..120 {
        let partition = partitions[rng.random_range(0..partitions.len())].clone();
        let key = rng.random_range(0..12u32);
        let word = Word {
            timestamp: rng.random_bool(0.7).then(|| rng.random_range(-2..4)),
            partition,
            offset,
            identity: key.to_string().into(),
            value: rng.random_bool(0.7).then(|| Arc::new(rng.random_range(0..3))),
        };
        let record = (Digest::of(&key.to_le_bytes()), word);
        let epoch = (offset as usize / 6 + rng.random_range(0..3)).min(19);
        if rng.random_bool(0.2) {
            epochs[(epoch + rng.random_range(0..4)).min(19)].push((record.clone(), 1));
        }
        epochs[epoch].push((record, 1));
    }
    epochs.iter_mut().for_each(|epoch| epoch.shuffle(rng));
    epochs
}

fn recomputed(epochs: &[Vec<Change<Record>>]) -> Counts<Maintained> {
    let mut keys = BTreeMap::<Digest, BTreeMap<Partition, Word<u32>>>::new();
    for ((key, word), _) in epochs.iter().flatten() {
        let words = keys.entry(*key).or_default();
        let kept = words.entry(word.partition.clone()).or_insert_with(|| word.clone());
        if kept.offset < word.offset {
            *kept = word.clone();
        }
    }
    let mut rows = Counts::new();
    for (key, words) in keys {
        let winner = words.values().max_by_key(|word| (word.timestamp, &word.partition)).cloned();
        for word in words.into_values() {
            let current = Some(&word) == winner.as_ref();
            add(&mut rows, Side::Right((key, StateWord { word: Arc::new(word), current })), 1);
        }
        let row = winner.filter(|word| word.value.is_some());
        row.into_iter().for_each(|word| add(&mut rows, Side::Left((key, Arc::new(word))), 1));
    }
    rows
}

#[test]
fn of_many_partitions_the_greatest_word_is_the_row() {
    let partitions = partitions();
    holds_on(|rng| deliveries(rng, &partitions), flow, recomputed);
}

#[test]
fn of_one_partition_the_last_record_is_the_row() {
    let partitions = [Partition::number(0)];
    holds_on(|rng| deliveries(rng, &partitions), flow, recomputed);
}

#[test]
fn the_words_alone_bring_the_table_back() {
    let partitions = partitions();
    let restarted = |rng: &mut ChaCha8Rng| {
        let words = recomputed(&deliveries(rng, &partitions));
        let words = words.into_keys().filter_map(|row| match row {
            Side::Right((key, state)) => Some(((key, (*state.word).clone()), 1)),
            Side::Left(_) => None,
        });
        vec![words.collect(), Vec::new()]
    };
    holds_on(restarted, flow, recomputed);
}
