//! The operators of two inputs, against loops over both.

use crate::support::{Change, Counts, add, holds};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use tidemill_operators::{Slot, Table, join, keyed::Side, latest_pair, lookup, pending};

type Both<V, W> = Side<V, W>;

/// The two tables whose rows stand in one, so that one history drives both.
fn split<'a, V: Clone + 'static, W: Clone + 'static>(
    rows: Table<'a, Both<V, W>>,
) -> (Table<'a, V>, Table<'a, W>) {
    let left = rows.clone().flat_map(|row| match row {
        Side::Left(row) => Some(row),
        Side::Right(_) => None,
    });
    let right = rows.flat_map(|row| match row {
        Side::Left(_) => None,
        Side::Right(row) => Some(row),
    });
    (left, right)
}

fn sides<V: Clone, W: Clone>(rows: &Counts<Both<V, W>>) -> (Vec<Change<V>>, Vec<Change<W>>) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (row, count) in rows {
        match row {
            Side::Left(row) => left.push((row.clone(), *count)),
            Side::Right(row) => right.push((row.clone(), *count)),
        }
    }
    (left, right)
}

fn draw_pair(rng: &mut ChaCha8Rng) -> Both<(u8, u16), (u8, char)> {
    let key = rng.random_range(0..4);
    if rng.random_bool(0.6) {
        Side::Left((key, rng.random_range(0..9)))
    } else {
        Side::Right((key, rng.random_range('a'..'d')))
    }
}

#[test]
fn join_gives_every_pair_of_equal_key() {
    holds(
        draw_pair,
        |rows| {
            let (left, right) = split(rows);
            join(left, right, |key: &u8, v: &u16, w: &char| (*key, *v, *w)).consolidate()
        },
        |rows| {
            let (left, right) = sides(rows);
            let mut joined = Counts::new();
            for ((key, v), n) in &left {
                for ((_, w), m) in right.iter().filter(|((other, _), _)| other == key) {
                    add(&mut joined, (*key, *v, *w), n * m);
                }
            }
            joined
        },
    );
}

#[test]
fn lookup_gives_every_row_with_its_counterpart_or_none() {
    holds(
        draw_pair,
        |rows| {
            let (left, right) = split(rows);
            lookup(left, right)
        },
        |rows| {
            let (left, right) = sides(rows);
            let counterpart = |key| right.iter().map(|(row, _)| *row).find(|row| row.0 == key);
            let found = left.into_iter().map(|((key, v), n)| ((key, (v, counterpart(key).map(|w| w.1))), n));
            found.collect()
        },
    );
}

#[test]
fn pending_gives_one_request_of_each_key_without_result() {
    let draw = |rng: &mut ChaCha8Rng| {
        let key = rng.random_range(0..6u8);
        if rng.random_bool(0.6) {
            Side::Left((key, rng.random_range(0..5u16)))
        } else {
            Side::Right((key, ()))
        }
    };
    holds(
        draw,
        |rows| {
            let (left, right) = split(rows);
            pending(left, right)
        },
        |rows| {
            let (requests, results) = sides(rows);
            let mut open = Counts::new();
            for ((key, request), _) in requests {
                let answered = results.iter().any(|((other, ()), _)| *other == key);
                let first = open.keys().all(|(other, _)| *other != key);
                if !answered && first {
                    add(&mut open, (key, request), 1);
                }
            }
            open
        },
    );
}

type Need = (u8, (u8, Slot));
type Answer = (u8, (u32, Arc<Vec<u8>>));

fn draw_need_or_answer(rng: &mut ChaCha8Rng) -> Both<Need, Answer> {
    let text = rng.random_range(0..5);
    if rng.random_bool(0.5) {
        let slot = if rng.random_bool(0.5) { Slot::First } else { Slot::Second };
        Side::Left((text, (rng.random_range(0..5), slot)))
    } else {
        let output = Arc::new(vec![text, rng.random_range(0..2)]);
        Side::Right((text, (rng.random_range(0..3), output)))
    }
}

/// The outputs that a key has for a slot at a priority, ascending.
fn outputs(
    needs: &[(Need, isize)],
    answers: &[(Answer, isize)],
    wanted: (u8, Slot),
    at: u32,
) -> Vec<Arc<Vec<u8>>> {
    let mut outputs = Vec::new();
    for ((text, need), _) in needs {
        for ((answered, (priority, output)), _) in answers {
            if *need == wanted && answered == text && *priority == at {
                outputs.push(output.clone());
            }
        }
    }
    outputs.sort();
    outputs
}

#[test]
fn latest_pair_gives_both_outputs_of_the_greatest_priority_that_has_both() {
    holds(
        draw_need_or_answer,
        |rows| {
            let (left, right) = split(rows);
            latest_pair(left, right)
        },
        |rows| {
            let (needs, answers) = sides(rows);
            let mut pairs = Counts::new();
            for key in 0..5 {
                let at = |slot, priority| outputs(&needs, &answers, (key, slot), priority).into_iter().next();
                let both =
                    |priority| Some((priority, at(Slot::First, priority)?, at(Slot::Second, priority)?));
                if let Some(pair) = (0..3).rev().find_map(both) {
                    add(&mut pairs, (key, pair), 1);
                }
            }
            pairs
        },
    );
}
