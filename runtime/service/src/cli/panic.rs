//! Panics: remembered, never printed as they are. What catches one (the supervisor of a model, a join
//! of a worker, the reader of a Parquet file, [`super::main`]) decides what it means and says so in its own words.

use std::sync::Mutex;

static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Replaces the printing of panics by remembering the last one.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let text = text.lines().next().unwrap_or_default();
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        let told = format!("{text}{place}");
        tracing::debug!(panic = %told, "a thread panicked");
        if let Ok(mut last) = LAST.lock() {
            *last = Some(told);
        }
    }));
}

/// The message and place of the newest panic of this process, in one line.
pub fn last_panic() -> Option<String> {
    LAST.lock().ok()?.clone()
}
