//! The local store under power cuts: many histories, the same history twice, and deliberate bugs.

mod support;

use support::seeds;
use tidemill_sim::disk::{BUGS, Counts, run};

fn added(a: &Counts, b: Counts) -> Counts {
    Counts {
        done: a.done + b.done,
        exist: a.exist + b.exist,
        unclear: a.unclear + b.unclear,
        read: a.read + b.read,
        killed: a.killed + b.killed,
        cuts: a.cuts + b.cuts,
        torn: a.torn + b.torn,
        undone: a.undone + b.undone,
    }
}

#[test]
fn what_was_answered_survives_and_nothing_is_torn() {
    let all = support::none_breaks(run, added, " --disk");
    let few = [all.exist, all.unclear, all.read, all.killed, all.cuts, all.torn, all.undone];
    let tame = few.iter().any(|count| (*count as u64) < seeds());
    assert!(!tame && all.done as u64 > 20 * seeds(), "the trials were tame: {all:?}");
}

#[test]
fn the_same_seed_is_the_same_history_to_the_byte() {
    support::replays(run);
}

#[test]
fn every_deliberate_bug_is_found() {
    support::all_are_found(&BUGS, run);
}
