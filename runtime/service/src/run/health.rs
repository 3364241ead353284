//! Where a run stands, for those who ask from outside: whether it is alive, and whether it is ready.
//!
//! ```text
//!  Starting ──every worker holds what is stored──> Ready ──told to stop, drained──> Leaving
//!      └────────────────────────┴───────── something broke ───────┴───> Failed
//! ```

/// A stage of a run; a run never goes back to an earlier one. The next run of the same process, which goes back to
/// an earlier commit, begins with the first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// It cannot commit yet; what it is at.
    Starting(String),
    /// It reads and commits.
    Ready,
    /// It seals, commits and publishes the last; why.
    Leaving(String),
    /// It cannot go on; why.
    Failed(String),
}

/// Where a run stands.
#[derive(Clone, Debug)]
pub(super) struct Health {
    phase: Phase,
    waiting: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { phase: Phase::Starting("the store is not claimed yet".into()), waiting: None }
    }
}

/// The stage alone, without its reason.
fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Starting(_) => 0,
        Phase::Ready => 1,
        Phase::Leaving(_) => 2,
        Phase::Failed(_) => 3,
    }
}

impl Health {
    /// Goes on to a stage; what would lead back is passed over. The first reason to leave stays. Whether
    /// the stage is new.
    pub(super) fn enter(&mut self, phase: Phase) -> bool {
        let (now, then) = (rank(&self.phase), rank(&phase));
        let on = then > now || (then == 0 && now == 0);
        if on {
            self.phase = phase;
        }
        on
    }

    /// What a start, or a source, waits for outside of the process.
    pub(super) fn waits(&mut self, reason: Option<String>) {
        self.waiting = reason;
    }

    /// Whether it waits for something outside.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Nothing if it has not failed, else why.
    pub(super) fn alive(&self) -> Result<(), String> {
        match &self.phase {
            Phase::Failed(why) => Err(format!("failed: {}", one_line(why))),
            _ => Ok(()),
        }
    }

    /// Nothing if records that come now are committed, else why not, in one line.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.alive()?;
        match (&self.phase, &self.waiting) {
            (Phase::Leaving(why), _) => Err(format!("leaving: {}", one_line(why))),
            (_, Some(why)) => Err(format!("not ready: {}", one_line(why))),
            (Phase::Starting(why), None) => Err(format!("not ready: {}", one_line(why))),
            (Phase::Ready | Phase::Failed(_), None) => Ok(()),
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_ready_between_its_start_and_its_leaving() {
        let mut health = Health::default();
        assert_eq!(health.ready(), Err("not ready: the store is not claimed yet".into()));
        health.enter(Phase::Starting("the lake\nis opened".into()));
        assert_eq!(health.ready(), Err("not ready: the lake is opened".into()));
        health.enter(Phase::Ready);
        assert_eq!((health.ready(), health.alive()), (Ok(()), Ok(())));
        health.waits(Some("no broker answers".into()));
        assert_eq!(health.ready(), Err("not ready: no broker answers".into()));
        health.waits(None);
        health.enter(Phase::Leaving("told to stop".into()));
        health.enter(Phase::Leaving("the input is drained".into()));
        assert_eq!((health.ready(), health.alive()), (Err("leaving: told to stop".into()), Ok(())));
        health.enter(Phase::Failed("another writer".into()));
        assert_eq!(health.alive(), Err("failed: another writer".into()));
    }

    #[test]
    fn who_was_told_to_stop_while_it_started_does_not_become_ready() {
        let mut health = Health::default();
        health.enter(Phase::Leaving("told to stop".into()));
        health.enter(Phase::Ready);
        health.enter(Phase::Starting("again".into()));
        assert_eq!(health.ready(), Err("leaving: told to stop".into()));
    }
}
