//! The edge's clock and randomness: the one place where the process asks for them.
//!
//! Everything below takes times and names as arguments, so that it can be driven by a simulator.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the edge where time is read")]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// The time in RFC 3339, UTC, with microseconds.
#[expect(clippy::disallowed_methods, reason = "this is the edge where time is read")]
pub fn now_rfc3339() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// Microseconds since the start of a run.
pub type Stopwatch = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Microseconds since the call of this function.
#[expect(clippy::disallowed_methods, reason = "this is the edge where time is read")]
pub fn stopwatch() -> Stopwatch {
    let start = Instant::now();
    Arc::new(move || start.elapsed().as_micros() as u64)
}
