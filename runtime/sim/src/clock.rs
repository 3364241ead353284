//! A clock that goes by a seed, and the nonces that stand in for random ones.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_core::commit::Stamp;

/// Microseconds since the start of a simulation; every look at it moves it on.
#[derive(Debug)]
pub struct Clock {
    now: u64,
    chance: ChaCha8Rng,
    stamps: u64,
}

impl Clock {
    /// The clock of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self { now: 0, chance: ChaCha8Rng::seed_from_u64(seed), stamps: 0 }
    }

    /// The time, which is later than at the last look by up to 50 ms.
    pub fn now(&mut self) -> u64 {
        self.now += self.chance.random_range(1..50_000);
        self.now
    }

    /// The time and a nonce for a root; no two are alike.
    pub fn stamp(&mut self) -> Stamp {
        let now = self.now();
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        self.stamps += 1;
        Stamp {
            committed_at: format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}.{micros:06}Z"),
            nonce: format!("nonce-{}", self.stamps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_time() {
        let times = |seed| {
            let mut clock = Clock::seeded(seed);
            (0..9).map(|_| clock.now()).collect::<Vec<_>>()
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
        assert!(times(3).is_sorted_by(|a, b| a < b));
    }
}
