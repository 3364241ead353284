//! An ordered multiset that is small when it has few members and fast when it has many.
//!
//! Most groups in real data have one or two members (a sample without copies, a task tried once), a
//! few have millions. A balanced tree costs a node of eleven entries for the first member; a sorted
//! array costs a shift of the whole group for each change. So: a sorted array, allocated to measure, up
//! to `FEW_MAX` distinct members, a B-tree above, and back again only well below that line, so that a
//! group that stays near it is not converted over and over. Every operation is O(log members).

use crate::keyed::KeyState;
use std::{collections::BTreeMap, collections::btree_map, slice};

/// The most distinct members that stand in a sorted array.
const FEW_MAX: usize = 32;

/// A B-tree goes back to a sorted array at this many.
const FEW_AGAIN: usize = 8;

/// Members of type `T`, ascending, each with a count that is not zero.
///
/// Between complete epochs of a well-formed table no count is negative. Of one that is not well-formed
/// a count may be; such a member is kept, so that what was owed can be paid later, and is not
/// [`present`](Self::present) until then.
#[derive(Clone, Debug)]
pub struct Multiset<T> {
    members: Members<T>,
}

#[derive(Clone, Debug)]
enum Members<T> {
    Few(Vec<(T, isize)>),
    #[expect(clippy::box_collection, reason = "a bare tree would make every small group larger")]
    Many(Box<BTreeMap<T, isize>>),
}

impl<T> Default for Multiset<T> {
    fn default() -> Self {
        Self { members: Members::Few(Vec::new()) }
    }
}

impl<T: Ord + 'static> KeyState for Multiset<T> {
    fn is_empty(&self) -> bool {
        match &self.members {
            Members::Few(few) => few.is_empty(),
            Members::Many(many) => many.is_empty(),
        }
    }
}

impl<T: Ord> Multiset<T> {
    /// Changes the count of a member by `diff`; returns its count before and after.
    pub fn update(&mut self, member: T, diff: isize) -> (isize, isize) {
        let counts = match &mut self.members {
            Members::Few(few) => update_few(few, member, diff),
            Members::Many(many) => update_many(many, member, diff),
        };
        self.rebalance();
        counts
    }

    /// The members with their counts, ascending, negative counts included.
    pub fn iter(&self) -> Iter<'_, T> {
        match &self.members {
            Members::Few(few) => Iter::Few(few.iter()),
            Members::Many(many) => Iter::Many(many.iter()),
        }
    }

    /// The members that are there, with their counts, ascending.
    pub fn present(&self) -> impl Iterator<Item = (&T, isize)> {
        self.iter().filter(|(_, count)| *count > 0)
    }

    /// The least member that is there.
    pub fn least(&self) -> Option<&T> {
        self.present().next().map(|(member, _)| member)
    }

    fn rebalance(&mut self) {
        match &mut self.members {
            Members::Few(few) if few.len() > FEW_MAX => {
                let many = std::mem::take(few).into_iter().collect();
                self.members = Members::Many(Box::new(many));
            }
            Members::Many(many) if many.len() <= FEW_AGAIN => {
                let few = std::mem::take(&mut **many).into_iter().collect();
                self.members = Members::Few(few);
            }
            _ => {}
        }
    }
}

fn update_few<T: Ord>(few: &mut Vec<(T, isize)>, member: T, diff: isize) -> (isize, isize) {
    match few.binary_search_by(|(other, _)| other.cmp(&member)) {
        Ok(place) => {
            let before = few[place].1;
            few[place].1 += diff;
            if few[place].1 == 0 {
                few.remove(place);
                if few.len() * 4 <= few.capacity() {
                    few.shrink_to(few.len() * 2);
                }
            }
            (before, before + diff)
        }
        Err(_) if diff == 0 => (0, 0),
        Err(place) => {
            // The first growth of a plain `push` would make room for four.
            if few.len() == few.capacity() {
                few.reserve_exact(few.len().max(1));
            }
            few.insert(place, (member, diff));
            (0, diff)
        }
    }
}

fn update_many<T: Ord>(many: &mut BTreeMap<T, isize>, member: T, diff: isize) -> (isize, isize) {
    match many.entry(member) {
        btree_map::Entry::Occupied(mut entry) => {
            let before = *entry.get();
            *entry.get_mut() += diff;
            if before + diff == 0 {
                entry.remove();
            }
            (before, before + diff)
        }
        btree_map::Entry::Vacant(_) if diff == 0 => (0, 0),
        btree_map::Entry::Vacant(entry) => {
            entry.insert(diff);
            (0, diff)
        }
    }
}

/// Members and counts, ascending.
#[derive(Clone, Debug)]
pub enum Iter<'a, T> {
    /// Of a small multiset.
    Few(slice::Iter<'a, (T, isize)>),
    /// Of a large one.
    Many(btree_map::Iter<'a, T, isize>),
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (&'a T, isize);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(few) => few.next().map(|(member, count)| (member, *count)),
            Self::Many(many) => many.next().map(|(member, count)| (member, *count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, cmp::Ordering};

    #[test]
    fn it_equals_a_map_of_counts_at_every_size() {
        let mut set = Multiset::default();
        let mut map = BTreeMap::<u64, isize>::new();
        let mut number = 7u64;
        for step in 0..4000 {
            number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // The range of members grows and shrinks, so that both forms are passed through.
            let range = if step % 1000 < 500 { 64 } else { 6 };
            let member = (number >> 33) % range;
            let diff = ((number >> 20) % 5) as isize - 2;
            let before = map.get(&member).copied().unwrap_or(0);
            assert_eq!(set.update(member, diff), (before, before + diff));
            map.insert(member, before + diff);
            map.retain(|_, count| *count != 0);
            if step % 1000 > 500 && member == 0 {
                for (other, count) in std::mem::take(&mut map) {
                    set.update(other, -count);
                }
            }
            assert!(set.iter().eq(map.iter().map(|(member, count)| (member, *count))));
            assert_eq!(set.least(), map.iter().find(|(_, count)| **count > 0).map(|(m, _)| m));
            assert_eq!(set.is_empty(), map.is_empty());
        }
    }

    thread_local!(static COMPARISONS: Cell<usize> = const { Cell::new(0) });

    #[derive(PartialEq, Eq)]
    struct Counted(u32);

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARISONS.set(COMPARISONS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn a_change_of_a_large_group_costs_its_logarithm() {
        let mut set = Multiset::default();
        for n in 0..100_000u32 {
            set.update(Counted(n.wrapping_mul(2654435761)), 1);
        }
        COMPARISONS.set(0);
        set.update(Counted(12345), 1);
        set.least();
        set.update(Counted(12345), -1);
        assert!(COMPARISONS.get() < 400, "{} comparisons", COMPARISONS.get());
    }

    #[test]
    fn a_group_of_one_takes_room_for_one() {
        let mut set = Multiset::default();
        set.update(1u64, 1);
        let Members::Few(few) = &set.members else { panic!("one member is few") };
        assert_eq!(few.capacity(), 1);
    }

    #[test]
    fn a_member_that_is_owed_is_not_present() {
        let mut set = Multiset::default();
        set.update('a', -1);
        set.update('b', 1);
        assert_eq!(set.least(), Some(&'b'));
        set.update('a', 2);
        assert_eq!(set.least(), Some(&'a'));
    }
}
