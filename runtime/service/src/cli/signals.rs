//! Ctrl-C and SIGTERM for a command that ends in order; told twice, the process leaves at once.

use crate::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Listens as long as it lives.
pub struct Signals {
    stop: Arc<AtomicBool>,
    _listening: Runtime,
}

impl Signals {
    /// Listens from here on. `left_undone` is said when the process leaves at once.
    pub fn listen(left_undone: &'static str) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::failed(format!("cannot listen for signals: {error}"));
        let listening = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let guard = listening.enter();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut told = signal(kind).map_err(failed)?;
            let stop = stop.clone();
            listening.spawn(async move {
                while told.recv().await.is_some() {
                    if stop.swap(true, Ordering::AcqRel) {
                        // Nobody is left to tell when standard error is closed.
                        let _ = writeln!(std::io::stderr(), "error: told to stop twice: {left_undone}");
                        std::process::exit(1);
                    }
                }
            });
        }
        drop(guard);
        Ok(Self { stop, _listening: listening })
    }

    /// Whether the process was told to stop.
    pub fn told(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
