//! The edge of a simulated process: its clock goes by the schedule, its randomness by the seed.

use crate::schedule::{Process, Schedule, wait};
use futures::future::BoxFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tidemill_core::edge::{Edge, SharedEdge};
use uuid::Uuid;

/// A process's edge.
pub struct SimEdge {
    schedule: Schedule,
    process: Process,
    /// How far its clock of the day is ahead, milliseconds.
    skew_ms: i64,
}

impl SimEdge {
    /// The edge of a process.
    pub fn shared(schedule: &Schedule, process: Process, skew_ms: i64) -> SharedEdge {
        Arc::new(Self { schedule: schedule.clone(), process, skew_ms })
    }
}

impl Edge for SimEdge {
    fn now_us(&self) -> u64 {
        self.schedule.now()
    }

    fn now_ms(&self) -> i64 {
        self.schedule.now_ms() + self.skew_ms
    }

    fn now_text(&self) -> String {
        let micros = self.now_ms() * 1000 + (self.schedule.now() % 1000) as i64;
        let at = jiff::Timestamp::from_microsecond(micros).expect("a time of this century");
        format!("{at:.6}")
    }

    fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.schedule.bits().to_be_bytes()).into_uuid()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.schedule.sleep(time.as_micros() as u64))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.schedule.spawn(self.process, task);
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }

    fn wait(&self, future: Pin<&mut dyn Future<Output = ()>>) {
        wait(future);
    }
}
