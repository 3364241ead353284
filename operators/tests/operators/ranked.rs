//! The operators that choose by rank, each against a sort of the whole group.

use crate::support::{Change, Counts, History, add, holds, holds_on};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{cmp::Reverse, collections::BTreeMap};
use tidemill_operators::{Candidate, Table, arg_min, pair_extremes, top_k};

type Ranked = (u8, (u32, u32));

fn groups<R: Ord + Clone>(rows: &Counts<(u8, R)>) -> BTreeMap<u8, Vec<(R, isize)>> {
    let mut groups = BTreeMap::<u8, Vec<_>>::new();
    for ((key, row), count) in rows {
        groups.entry(*key).or_default().push((row.clone(), *count));
    }
    groups
}

#[test]
fn arg_min_gives_the_first_of_each_group_and_its_size() {
    let draw = |rng: &mut ChaCha8Rng| -> Ranked {
        (rng.random_range(0..3), (rng.random_range(0..4), rng.random_range(0..20)))
    };
    holds(draw, arg_min, |rows| {
        let first = groups(rows).into_iter().map(|(key, group)| {
            let total = group.iter().map(|(_, count)| *count as i64).sum::<i64>();
            ((key, (group[0].0.1, total)), 1)
        });
        first.collect()
    });
}

fn the_first_k(rows: &Counts<Ranked>, k: usize) -> Counts<(u8, u32)> {
    let mut first = Counts::new();
    for (key, group) in groups(rows) {
        let members = group.iter().flat_map(|(row, count)| (0..*count).map(move |_| row.1));
        members.take(k).for_each(|value| add(&mut first, (key, value), 1));
    }
    first
}

fn three_top_ks<'a>(rows: Table<'a, Ranked>) -> Table<'a, (usize, (u8, u32))> {
    let of = |k| top_k(rows.clone(), k).map(move |row| (k, row));
    of(0).concat(of(1)).concat(of(4))
}

#[test]
fn top_k_gives_the_k_least_of_each_group() {
    let draw = |rng: &mut ChaCha8Rng| -> Ranked {
        (rng.random_range(0..3), (rng.random_range(0..5), rng.random_range(0..6)))
    };
    holds(draw, three_top_ks, |rows| {
        let of = |k| the_first_k(rows, k).into_iter().map(move |(row, count)| ((k, row), count));
        of(1).chain(of(4)).collect()
    });
}

#[test]
fn top_k_of_a_large_group_that_is_eaten_from_its_best_end_is_the_same() {
    let eaten = |rng: &mut ChaCha8Rng| {
        let mut rows = (0..150).map(|rank| ((0, (rank, rank)), 1)).collect::<Vec<_>>();
        let best_first = rows.chunks(7).map(|eaten| eaten.iter().map(|(row, _)| (*row, -1)).collect());
        let mut history = best_first.collect::<History<Ranked>>();
        rows.shuffle(rng);
        history.insert(0, rows);
        history
    };
    let given = |epochs: &[Vec<Change<Ranked>>]| {
        let mut rows = Counts::new();
        epochs.iter().flatten().for_each(|(row, diff)| add(&mut rows, *row, *diff));
        the_first_k(&rows, 5)
    };
    holds_on(eaten, |rows| top_k(rows, 5), given);
}

type End = Candidate<(Reverse<u8>, u8), u8, (u8, u32)>;

fn best_and_worst(group: &[(End, isize)]) -> Option<((u8, u32), (u8, u32))> {
    let best = group.iter().filter_map(|(end, _)| Some((end.best?, end.value)));
    let worst = group.iter().map(|(end, _)| (end.worst, end.value));
    Some((best.min()?.1, worst.min()?.1))
}

fn apart(best: &(u8, u32), worst: &(u8, u32)) -> bool {
    best.0 >= worst.0 + 2
}

#[test]
fn pair_extremes_gives_the_best_allowed_and_the_worst_of_each_group() {
    let draw = |rng: &mut ChaCha8Rng| {
        let (quality, value) = (rng.random_range(0..6u8), rng.random_range(0..8u32));
        let best = rng.random_bool(0.6).then_some((Reverse(quality), value as u8 % 3));
        (rng.random_range(0..3u8), Candidate { best, worst: quality, value: (quality, value) })
    };
    holds(
        draw,
        |rows| pair_extremes(rows, apart),
        |rows| {
            let pairs = groups(rows).into_iter().filter_map(|(key, group)| {
                let (best, worst) = best_and_worst(&group)?;
                (best != worst && apart(&best, &worst)).then_some(((key, (best, worst)), 1))
            });
            pairs.collect()
        },
    );
}

#[test]
fn a_pair_is_of_two_values_even_where_any_two_are_accepted() {
    let draw = |rng: &mut ChaCha8Rng| {
        let quality = rng.random_range(0..2u8);
        let best = rng.random_bool(0.7).then_some((Reverse(quality), 0));
        (rng.random_range(0..4u8), Candidate { best, worst: quality, value: (quality, 0u32) })
    };
    holds(
        draw,
        |rows| pair_extremes(rows, |_, _| true),
        |rows| {
            let pairs = groups(rows).into_iter().filter_map(|(key, group)| {
                let (best, worst) = best_and_worst(&group)?;
                (best != worst).then_some(((key, (best, worst)), 1))
            });
            pairs.collect()
        },
    );
}
