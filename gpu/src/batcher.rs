//! Which of the waiting rows make the next batch.
//!
//! Pure: no I/O, no clock, no randomness. Time is counted in batches.
//!
//! Rows wait in bins by length, one for each power of two of tokens, so that a batch holds rows of
//! similar length. A batch starts in the bin that fills it best and is topped up from the bins nearest
//! to it; from each bin it takes the oldest first and stops at one that does not fit.
//!
//! Nothing starves. Let a row have `k` older rows beside it. Once `passes_max` batches have been taken
//! since it came, every batch begins with the oldest row of all (which has waited at least as long), so
//! each removes this row or one of the `k`: it leaves in at most the `passes_max + k + 1`-th batch.

use std::{cmp::Reverse, collections::VecDeque};

/// One bin for zero tokens and one for each power of two.
const BINS: usize = 65;

/// Limits of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatcherOptions {
    /// The most tokens in a batch, summed over its rows. A longer row goes alone.
    pub batch_tokens: u64,
    /// The most rows in a batch; 0 counts as 1.
    pub batch_rows: usize,
    /// After so many batches without it, a row's age counts for more than how full the batch becomes.
    pub passes_max: u64,
}

/// A row in the queue or in a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting<T> {
    /// What waits.
    pub item: T,
    /// Its length.
    pub tokens: u64,
    /// Whether it must have a batch to itself.
    pub alone: bool,
    arrival: u64,
    since: u64,
}

struct Bin<T> {
    /// In order of arrival.
    rows: VecDeque<Waiting<T>>,
    tokens: u64,
}

/// The queue.
pub struct Batcher<T> {
    options: BatcherOptions,
    bins: Vec<Bin<T>>,
    arrivals: u64,
    batches: u64,
}

impl<T> Batcher<T> {
    /// An empty queue.
    pub fn new(options: BatcherOptions) -> Self {
        let bins = (0..BINS).map(|_| Bin { rows: VecDeque::new(), tokens: 0 }).collect();
        Self { options, bins, arrivals: 0, batches: 0 }
    }

    /// Adds a row, the youngest of all.
    pub fn push(&mut self, item: T, tokens: u64) {
        let waiting = Waiting { item, tokens, alone: false, arrival: self.arrivals, since: self.batches };
        self.arrivals += 1;
        self.give_back(waiting);
    }

    /// Puts a row of an earlier batch back where its age belongs.
    pub fn give_back(&mut self, waiting: Waiting<T>) {
        let bin = &mut self.bins[bin_of(waiting.tokens)];
        bin.tokens = bin.tokens.saturating_add(waiting.tokens);
        let place = bin.rows.partition_point(|other| other.arrival < waiting.arrival);
        bin.rows.insert(place, waiting);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bins.iter().all(|bin| bin.rows.is_empty())
    }

    /// Takes the next batch; empty when nothing waits.
    pub fn next_batch(&mut self) -> Vec<Waiting<T>> {
        let mut batch = Vec::new();
        let Some(first) = self.first_bin() else { return batch };
        self.batches += 1;
        let mut tokens = 0;
        for bin in nearest(first) {
            self.take_from(bin, &mut batch, &mut tokens);
        }
        batch
    }

    /// The bin whose oldest row opens the next batch.
    fn first_bin(&self) -> Option<usize> {
        let heads = || self.bins.iter().enumerate().filter_map(|(i, bin)| Some((i, bin.rows.front()?)));
        let (oldest, head) = heads().min_by_key(|(_, head)| head.arrival)?;
        if self.batches - head.since >= self.options.passes_max {
            return Some(oldest);
        }
        let best = heads().max_by_key(|&(i, head)| (self.fill_permille(i), Reverse(head.arrival)));
        best.map(|(i, _)| i)
    }

    /// How full a batch of this bin alone would be, by tokens or by rows, whichever fills first.
    fn fill_permille(&self, bin: usize) -> u128 {
        let bin = &self.bins[bin];
        let share = |have: u64, most: u64| u128::from(have.min(most)) * 1000 / u128::from(most.max(1));
        let by_rows = share(bin.rows.len() as u64, self.options.batch_rows as u64);
        share(bin.tokens, self.options.batch_tokens).max(by_rows)
    }

    fn take_from(&mut self, bin: usize, batch: &mut Vec<Waiting<T>>, tokens: &mut u64) {
        let options = self.options;
        let bin = &mut self.bins[bin];
        while let Some(head) = bin.rows.pop_front_if(|head| fits(head, batch, *tokens, options)) {
            bin.tokens = bin.tokens.saturating_sub(head.tokens);
            *tokens = tokens.saturating_add(head.tokens);
            batch.push(head);
        }
    }
}

fn fits<T>(head: &Waiting<T>, batch: &[Waiting<T>], tokens: u64, options: BatcherOptions) -> bool {
    let Some(first) = batch.first() else { return true };
    !first.alone
        && !head.alone
        && batch.len() < options.batch_rows
        && tokens.saturating_add(head.tokens) <= options.batch_tokens
}

/// 0 for 0, else one more than the power of two at or below.
fn bin_of(tokens: u64) -> usize {
    (u64::BITS - tokens.leading_zeros()) as usize
}

/// All bins, nearest first; of two at the same distance the shorter.
fn nearest(first: usize) -> impl Iterator<Item = usize> {
    let outward = (1..BINS).flat_map(move |d| [first.checked_sub(d), Some(first + d)]);
    std::iter::once(first).chain(outward.flatten().filter(|&bin| bin < BINS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: BatcherOptions = BatcherOptions { batch_tokens: 100, batch_rows: 4, passes_max: 3 };

    fn batcher(lengths: &[u64]) -> Batcher<usize> {
        let mut batcher = Batcher::new(OPTIONS);
        for (item, &tokens) in lengths.iter().enumerate() {
            batcher.push(item, tokens);
        }
        batcher
    }

    fn items(batch: Vec<Waiting<usize>>) -> Vec<usize> {
        batch.into_iter().map(|row| row.item).collect()
    }

    #[test]
    fn bins_are_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 7, 8].map(bin_of), [0, 1, 2, 2, 3, 3, 4]);
        assert_eq!(bin_of(u64::MAX), BINS - 1);
        let mut all: Vec<_> = nearest(3).collect();
        assert_eq!(all[..5], [3, 2, 4, 1, 5]);
        all.sort_unstable();
        assert_eq!(all, (0..BINS).collect::<Vec<_>>());
    }

    #[test]
    fn the_oldest_of_a_bin_goes_first() {
        let mut batcher = batcher(&[10, 11, 12, 13, 14]);
        assert_eq!(items(batcher.next_batch()), [0, 1, 2, 3]);
        assert_eq!(items(batcher.next_batch()), [4]);
        assert!(batcher.is_empty());
        assert!(batcher.next_batch().is_empty());
    }

    #[test]
    fn a_batch_is_topped_up_from_the_nearest_lengths() {
        let mut batcher = batcher(&[1, 60, 30, 100]);
        assert_eq!(items(batcher.next_batch()), [3], "the fullest bin opens");
        assert_eq!(items(batcher.next_batch()), [1, 2, 0]);
    }

    #[test]
    fn a_row_longer_than_the_budget_goes_alone() {
        let mut batcher = batcher(&[500, 0, 1]);
        assert_eq!(items(batcher.next_batch()), [0]);
        assert_eq!(items(batcher.next_batch()).len(), 2);
    }

    #[test]
    fn what_came_back_keeps_its_age_and_can_ask_to_go_alone() {
        let mut batcher = batcher(&[10, 10, 10]);
        let batch = batcher.next_batch();
        batcher.push(3, 10);
        for mut row in batch.into_iter().rev() {
            row.alone = row.item == 1;
            batcher.give_back(row);
        }
        assert_eq!(items(batcher.next_batch()), [0]);
        assert_eq!(items(batcher.next_batch()), [1]);
        assert_eq!(items(batcher.next_batch()), [2, 3]);
    }

    #[test]
    fn a_lone_length_is_not_passed_over_for_ever() {
        let mut batcher = batcher(&[60]);
        let mut waited = 0;
        loop {
            (0..4).for_each(|_| batcher.push(1, 25));
            match items(batcher.next_batch())[..] {
                [0, ..] => break,
                _ => waited += 1,
            }
        }
        assert_eq!(waited, OPTIONS.passes_max);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Take { give_back: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let tokens = prop_oneof![0..4u64, 0..120u64, Just(u64::MAX)];
        let step = prop_oneof![
            3 => tokens.prop_map(Step::Push),
            1 => prop::bool::weighted(0.1).prop_map(|give_back| Step::Take { give_back }),
        ];
        prop::collection::vec(step, 0..200)
    }

    fn check_batch(batch: &[Waiting<usize>]) {
        let tokens = batch.iter().fold(0u64, |sum, row| sum.saturating_add(row.tokens));
        assert!(batch.len() == 1 || tokens <= OPTIONS.batch_tokens);
        assert!(batch.len() <= OPTIONS.batch_rows);
        assert!(batch.len() == 1 || batch.iter().all(|row| !row.alone));
        for (i, row) in batch.iter().enumerate() {
            let same_bin = batch[i..].iter().filter(|other| bin_of(other.tokens) == bin_of(row.tokens));
            assert!(same_bin.into_iter().all(|other| other.arrival >= row.arrival));
        }
    }

    proptest! {
        #[test]
        fn every_row_leaves_once_within_limits_and_in_time(steps in steps()) {
            let mut batcher = Batcher::new(OPTIONS);
            let (mut pushed, mut left, mut taken, mut delays) = (Vec::new(), Vec::new(), 0u64, 0u64);
            for step in steps {
                match step {
                    Step::Push(tokens) => {
                        batcher.push(pushed.len(), tokens);
                        pushed.push((taken, (pushed.len() - left.len()) as u64));
                    }
                    Step::Take { give_back } => {
                        let batch = batcher.next_batch();
                        taken += u64::from(!batch.is_empty());
                        check_batch(&batch);
                        if give_back {
                            delays += 1;
                            batch.into_iter().for_each(|row| batcher.give_back(Waiting { alone: true, ..row }));
                        } else {
                            left.extend(batch.into_iter().map(|row| (row.item, taken)));
                        }
                    }
                }
            }
            while !batcher.is_empty() {
                taken += 1;
                left.extend(batcher.next_batch().into_iter().map(|row| (row.item, taken)));
            }
            for &(item, batch) in &left {
                let (since, older) = pushed[item];
                prop_assert!(batch - since <= OPTIONS.passes_max + older + 1 + delays);
            }
            let mut items: Vec<_> = left.into_iter().map(|(item, _)| item).collect();
            items.sort_unstable();
            prop_assert_eq!(items, (0..pushed.len()).collect::<Vec<_>>());
        }
    }
}
