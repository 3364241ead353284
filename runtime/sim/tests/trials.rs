//! The runtime under simulation: many histories, the same history twice, and deliberate bugs.

mod support;

use support::seeds;
use tidemill_sim::Counts;
use tidemill_sim::mutants::ALL;
use tidemill_sim::trial::run;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn added(a: &Counts, b: Counts) -> Counts {
    Counts {
        roots: a.roots + b.roots,
        claims: a.claims + b.claims,
        publications: a.publications + b.publications,
        dropped: a.dropped + b.dropped,
        in_holes: a.in_holes + b.in_holes,
        read: a.read + b.read,
        fenced: a.fenced + b.fenced,
        killed: a.killed + b.killed,
        stopped: a.stopped + b.stopped,
        dozed: a.dozed + b.dozed,
        asked: a.asked + b.asked,
        sent: a.sent + b.sent,
        rolled_back: a.rolled_back + b.rolled_back,
        left: a.left + b.left,
        files: a.files.max(b.files),
    }
}

#[test]
fn no_history_breaks_an_invariant() {
    let all = support::none_breaks(run, added, "");
    let few = |counts: &[usize], least: u64| counts.iter().any(|n| (*n as u64) < least);
    let tame = few(&[all.fenced, all.killed, all.stopped, all.dozed, all.read], seeds() / 2)
        || few(&[all.rolled_back, all.left], seeds() / 20);
    assert!(all.sent as u64 > seeds(), "little was sent: {all:?}");
    assert!(!tame && all.in_holes > 0 && all.dropped as u64 > 50 * seeds(), "the trials were tame: {all:?}");
}

#[test]
fn the_same_seed_is_the_same_history_to_the_byte() {
    support::replays(run);
}

#[test]
fn every_deliberate_bug_is_found() {
    support::all_are_found(&ALL, run);
}
