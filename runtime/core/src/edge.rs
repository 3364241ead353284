//! The edge, as the protocols of a writer see it: clock, randomness, waiting and tasks.
//!
//! What decides never asks the system for any of these; it is handed an [`Edge`]. In a service that is the
//! machine's clock and a runtime of threads. The simulator's edge is a clock that it moves itself and a
//! scheduler that it seeds, so that the same code runs there and a history is repeated by its number.

use crate::commit::Stamp;
use futures::future::BoxFuture;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Clock, randomness, waiting and tasks.
pub trait Edge: Send + Sync {
    /// Microseconds of a clock that never goes back.
    fn now_us(&self) -> u64;
    /// The time, in milliseconds since 1970.
    fn now_ms(&self) -> i64;
    /// The time in RFC 3339, UTC, with microseconds.
    fn now_text(&self) -> String;
    /// A unique id.
    fn uuid(&self) -> Uuid;
    /// Lets time pass.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
    /// Starts a task that nobody waits for.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// Computes away from the threads of I/O. The future ends when the work is done, or was cut off.
    fn compute(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
    /// Holds up the calling thread, which must be one that may wait, until a future is done.
    fn wait(&self, future: Pin<&mut dyn Future<Output = ()>>);
}

/// A shared edge.
pub type SharedEdge = Arc<dyn Edge>;

impl dyn Edge {
    /// What a future gives; the calling thread, which must be one that may wait, is held up until then.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut given = None;
        let filled = async { given = Some(future.await) };
        self.wait(pin!(filled));
        given.expect("an edge waits until the future is done")
    }

    /// Time and nonce of a new root.
    pub fn stamp(&self) -> Stamp {
        Stamp { committed_at: self.now_text(), nonce: self.uuid().to_string(), trusts_ms: 0, asked: None }
    }

    /// What a computation gives; `None` if it was cut off.
    pub async fn computed<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (give, given) = futures::channel::oneshot::channel();
        // Whoever waits for it may have given up.
        self.compute(Box::new(move || drop(give.send(work())))).await;
        given.await.ok()
    }
}

/// Milliseconds since 1970 of an RFC 3339 time; `None` if it is not one.
pub fn parse_ms(rfc3339: &str) -> Option<i64> {
    rfc3339.parse::<jiff::Timestamp>().ok().map(|at| at.as_millisecond())
}
