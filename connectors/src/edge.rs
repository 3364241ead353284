//! The edge of a process: the machine's clock and randomness, and a tokio runtime for I/O.

use futures::future::BoxFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidemill_core::edge::{Edge, SharedEdge};
use tokio::runtime::Handle;
use uuid::Uuid;

/// The edge over a tokio runtime. Threads that wait must not be the runtime's own.
#[derive(Debug)]
pub struct Tokio {
    handle: Handle,
    start: Instant,
}

impl Tokio {
    /// The edge over the runtime of a handle; its clock begins now.
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time is read")]
    pub fn shared(handle: Handle) -> SharedEdge {
        Arc::new(Self { handle, start: Instant::now() })
    }
}

impl Edge for Tokio {
    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    #[expect(clippy::disallowed_methods, reason = "this is the edge where time is read")]
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the edge where time is read")]
    fn now_text(&self) -> String {
        format!("{:.6}", jiff::Timestamp::now())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the edge where randomness is drawn")]
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let _runtime = self.handle.enter();
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.handle.spawn(task));
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let done = self.handle.spawn_blocking(work);
        Box::pin(async move { drop(done.await) })
    }

    fn wait(&self, future: Pin<&mut dyn Future<Output = ()>>) {
        self.handle.block_on(future);
    }
}
