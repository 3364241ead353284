//! Sums and folds, against sums over the whole group.

use crate::support::{holds, holds_on};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use tidemill_operators::{SubSum, aggregate, sums};

#[test]
fn sums_are_those_of_the_groups_that_have_values() {
    let draw = |rng: &mut ChaCha8Rng| (rng.random_range(0..4u8), rng.random_range(-3..4i64));
    holds(draw, sums, |rows| {
        let mut groups = BTreeMap::<u8, (i64, i64)>::new();
        for ((key, value), count) in rows {
            let group = groups.entry(*key).or_default();
            group.0 += value * *count as i64;
            group.1 += *count as i64;
        }
        groups.into_iter().map(|row| (row, 1)).collect()
    });
}

#[test]
fn an_epoch_of_many_changes_that_mostly_cancel_is_their_sum() {
    let many = |rng: &mut ChaCha8Rng| {
        let mut changes = (0..10_000).map(|n| ((n % 100, n as i64 % 7), 1)).collect::<Vec<_>>();
        changes.extend((0..9_950).map(|n| ((n % 100, n as i64 % 7), -1)));
        changes.shuffle(rng);
        vec![changes]
    };
    holds_on(many, sums, |_| (50..100).map(|key| ((key, ((9_900 + key as i64) % 7, 1)), 1)).collect());
}

#[test]
fn an_epoch_of_many_changes_that_stay_is_their_sum() {
    let many = |_: &mut ChaCha8Rng| {
        // The first come while all of them wait together, the last when they are divided.
        let mut changes = (0..12_000).map(|n| ((n, i64::from(n) % 7), 1)).collect::<Vec<_>>();
        changes.extend((0..12_000).step_by(2).map(|n| ((n, i64::from(n) % 7), -1)));
        let later = (0..12_000).step_by(3).map(|n| ((n, 1i64), 1)).collect();
        vec![changes, later]
    };
    holds_on(many, sums, |epochs| {
        let mut groups = BTreeMap::<i32, (i64, i64)>::new();
        for n in (1..12_000).step_by(2) {
            groups.insert(n, (i64::from(n) % 7, 1));
        }
        for n in (0..12_000).step_by(3).filter(|_| epochs.len() > 1) {
            let group = groups.entry(n).or_default();
            *group = (group.0 + 1, group.1 + 1);
        }
        groups.into_iter().map(|row| (row, 1)).collect()
    });
}

#[test]
fn a_sum_that_left_the_range_of_integers_comes_back() {
    let history = vec![vec![((0u8, i64::MAX), 1), ((0, 5), 1)], vec![((0, i64::MAX), -1)]];
    holds_on(
        move |_| history.clone(),
        sums,
        |epochs| match epochs.len() {
            1 => [((0u8, (i64::MAX.wrapping_add(5), 2)), 1)].into(),
            _ => [((0, (5, 1)), 1)].into(),
        },
    );
}

/// The mean of the first sub key that has any, but of odd totals nothing; a value that no definition
/// has where the contract is broken (a panic would leave the other workers waiting).
fn fold(sums: &[SubSum<u8>]) -> Option<(u8, i64)> {
    let ascending = sums.is_sorted_by(|a, b| a.sub < b.sub);
    if !ascending || sums.is_empty() || sums.iter().any(|sum| sum.n <= 0) {
        return Some((u8::MAX, i64::MIN));
    }
    let total = sums.iter().map(|sum| sum.n).sum::<i64>();
    (total % 2 == 0).then_some((sums[0].sub, sums[0].sum / sums[0].n))
}

#[test]
fn aggregate_folds_the_sums_of_each_key() {
    let draw = |rng: &mut ChaCha8Rng| {
        (rng.random_range(0..3u8), (rng.random_range(0..4u8), rng.random_range(0..5i64)))
    };
    holds(
        draw,
        |rows| aggregate(rows, fold),
        |rows| {
            let mut groups = BTreeMap::<u8, BTreeMap<u8, SubSum<u8>>>::new();
            for ((key, (sub, value)), count) in rows {
                let subs = groups.entry(*key).or_default();
                let sum = subs.entry(*sub).or_insert(SubSum { sub: *sub, sum: 0, n: 0 });
                sum.sum += value * *count as i64;
                sum.n += *count as i64;
            }
            let folded = groups.into_iter().filter_map(|(key, subs)| {
                let subs = subs.into_values().collect::<Vec<_>>();
                fold(&subs).map(|out| ((key, out), 1))
            });
            folded.collect()
        },
    );
}
