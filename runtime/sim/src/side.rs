//! Many trials, one to a core.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::atomic::{AtomicU64, Ordering};

/// Works on the numbers of a range, a thread to a core, until `work` says that it is enough. The threads of one
/// history take turns, so they are kept on one core: handing the turn over is then cheap.
pub fn side_by_side(numbers: std::ops::Range<u64>, work: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(numbers.start);
    let cores = sched_getaffinity(None).map_or(Vec::new(), |set| {
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect::<Vec<usize>>()
    });
    std::thread::scope(|scope| {
        for thread in 0..cores.len().max(1) {
            let (next, work, core) = (&next, &work, cores.get(thread).copied());
            let end = numbers.end;
            scope.spawn(move || {
                if let Some(core) = core {
                    let mut one = CpuSet::new();
                    one.set(core);
                    // Where it may not, it is only slower.
                    let _ = sched_setaffinity(None, &one);
                }
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end || !work(number) {
                        return;
                    }
                }
            });
        }
    });
}
