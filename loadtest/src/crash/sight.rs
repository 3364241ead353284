//! What is seen of a store from outside while mills work on it: each root, and when it came.
//!
//! The watch of a folder and the proxy before a server tell of every root the moment it stands there. So a start can
//! be timed, and a mill that hangs is noticed, without asking the store or the mill.

use serde_json::Value;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use tidemill::run::Stopwatch;

/// A root that came.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    /// Its number.
    pub epoch: u64,
    /// Its writer.
    pub generation: u64,
    /// Whether it is a writer's first, which repeats its predecessor.
    pub claim: bool,
    /// Where the sources are.
    pub positions: Value,
    /// Microseconds of the stopwatch.
    pub at_us: u64,
}

/// All roots that came, in that order.
pub struct Sight {
    stopwatch: Stopwatch,
    roots: Mutex<Vec<Seen>>,
    came: Condvar,
}

impl Sight {
    /// Nothing is seen yet.
    pub fn new(stopwatch: Stopwatch) -> Sight {
        Sight { stopwatch, roots: Mutex::default(), came: Condvar::new() }
    }

    /// A root came; text that is none is let be.
    pub fn root(&self, text: &[u8]) {
        let Ok(root) = serde_json::from_slice::<Value>(text) else { return };
        let (Some(epoch), Some(generation)) = (root["epoch"].as_u64(), root["generation"].as_u64()) else {
            return;
        };
        let (claim, positions) = (root["claim"] == true, root["positions"].clone());
        let seen = Seen { epoch, generation, claim, positions, at_us: (self.stopwatch)() };
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        self.came.notify_all();
    }

    /// How many were seen; what [`Self::wait`] takes to look at later ones only.
    pub fn count(&self) -> usize {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those that came after the first `from`.
    pub fn since(&self, from: usize) -> Vec<Seen> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).get(from..).unwrap_or_default().to_vec()
    }

    /// Waits for something in what came after the first `from`, at most so long.
    pub fn wait<T>(&self, from: usize, most: Duration, find: impl Fn(&[Seen]) -> Option<T>) -> Option<T> {
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let lacks = |roots: &mut Vec<Seen>| find(roots.get(from..).unwrap_or_default()).is_none();
        let waited = self.came.wait_timeout_while(roots, most, lacks);
        let (roots, _) = waited.unwrap_or_else(PoisonError::into_inner);
        find(roots.get(from..).unwrap_or_default())
    }
}

/// The first commit of the newest writer that took something in after its claim.
pub fn recovered(roots: &[Seen]) -> Option<Seen> {
    let (place, claim) = roots.iter().enumerate().rfind(|(_, root)| root.claim)?;
    let new = |root: &&Seen| root.generation == claim.generation && root.positions != claim.positions;
    roots[place..].iter().find(new).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_start_has_recovered_when_its_own_commit_moved_a_position() {
        let sight = Sight::new(tidemill::run::stopwatch());
        let root = |epoch: u64, generation: u64, claim: bool, next: u64| {
            let positions = json!({"calls": {"0": next}});
            json!({"epoch": epoch, "generation": generation, "claim": claim, "positions": positions})
                .to_string()
        };
        sight.root(b"no root");
        sight.root(root(0, 1, true, 0).as_bytes());
        sight.root(root(1, 1, false, 5).as_bytes());
        let from = sight.count();
        assert_eq!((from, recovered(&sight.since(0)).map(|seen| seen.epoch)), (2, Some(1)));
        sight.root(root(2, 2, true, 5).as_bytes());
        sight.root(root(3, 2, false, 5).as_bytes());
        assert_eq!(sight.wait(from, Duration::from_millis(1), recovered), None);
        sight.root(root(4, 2, false, 6).as_bytes());
        let seen = sight.wait(from, Duration::from_secs(9), recovered).expect("a commit");
        assert_eq!((seen.epoch, seen.generation), (4, 2));
    }
}
