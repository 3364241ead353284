//! What the kernel says of this process: CPU time and peak memory, from `/proc/self`.
//!
//! Where there is no such place (other systems than Linux) all figures are 0.

use std::time::Duration;

/// Clock ticks a second in `/proc`: a constant of Linux's interface on all its common platforms.
const TICKS: f64 = 100.0;

/// Resources used by this process until now.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The most memory that was resident at once, in bytes.
    pub peak_bytes: u64,
}

impl Usage {
    /// What was used since an earlier moment; the peak is that of the whole process.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            peak_bytes: self.peak_bytes,
        }
    }
}

/// Reads the figures.
pub fn usage() -> Usage {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (user, system) = cpu(&read("stat"));
    Usage { user, system, peak_bytes: peak(&read("status")) }
}

/// User and system time: the 14th and 15th field, counted after the name in parentheses.
fn cpu(stat: &str) -> (Duration, Duration) {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |place: usize| {
        let ticks: f64 = after_name.split_whitespace().nth(place).and_then(|n| n.parse().ok()).unwrap_or(0.0);
        Duration::from_secs_f64(ticks / TICKS)
    };
    (ticks(11), ticks(12))
}

fn peak(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_misleads_nobody() {
        let stat = "7 (a b) c) S 1 1 1 0 -1 4 5 6 7 8 250 50 0 0 20 0";
        assert_eq!(cpu(stat), (Duration::from_millis(2500), Duration::from_millis(500)));
        assert_eq!(peak("VmPeak:\t 9 kB\nVmHWM:\t     12 kB\n"), 12 * 1024);
        assert_eq!(cpu(""), (Duration::ZERO, Duration::ZERO));
    }
}
