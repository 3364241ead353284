//! What a store may do to its writers short of losing what it holds: answers that are wrong, late or missing, and
//! spells in which it is slow, takes nothing, or asks to be left alone.
//!
//! A lie is told once, of one step; a spell lasts until it is ended. Both are counted, so that a run that claims to
//! have met them did.

use super::points::Step;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is answered in place of the truth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Answer {
    /// 412: the name is taken.
    Taken,
    /// 409: somebody else writes it just now.
    Conflict,
    /// 503: slow down.
    SlowDown,
    /// None, until the client's time-out.
    Silence,
    /// None: the connection breaks.
    Broken,
}

/// A false answer: what is said, and whether the store did what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lie {
    /// Of which step.
    pub step: Step,
    /// What is said.
    pub answer: Answer,
    /// Whether it was done.
    pub done: bool,
}

/// A time in which the store is not well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spell {
    /// Every answer is late by so much.
    Slow(Duration),
    /// Nothing can be written: 403.
    ReadOnly,
    /// Nothing can be written: 507.
    Full,
    /// Nothing is answered but 503.
    Throttled,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Taken => "412",
            Answer::Conflict => "409",
            Answer::SlowDown => "503",
            Answer::Silence => "time-out",
            Answer::Broken => "broken connection",
        })
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.step, self.answer, if self.done { "written" } else { "not written" })
    }
}

/// The status, code and words of an error as S3 gives it.
pub type Refusal = (u16, &'static str);

impl Answer {
    /// As S3 says it; none where nothing is said.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Answer::Taken => Some((412, "PreconditionFailed")),
            Answer::Conflict => Some((409, "ConditionalRequestConflict")),
            Answer::SlowDown => Some((503, "SlowDown")),
            Answer::Silence | Answer::Broken => None,
        }
    }

    /// Whether a put without a condition may get it.
    pub fn is_of_any_write(self) -> bool {
        !matches!(self, Answer::Taken | Answer::Conflict)
    }
}

impl Spell {
    /// What a request is refused with, if it is.
    pub fn refusal(self, writes: bool) -> Option<Refusal> {
        match self {
            Spell::ReadOnly if writes => Some((403, "AccessDenied")),
            Spell::Full if writes => Some((507, "InsufficientStorage")),
            Spell::Throttled => Some((503, "SlowDown")),
            _ => None,
        }
    }
}

#[derive(Default)]
struct State {
    lies: Vec<Lie>,
    spell: Option<Spell>,
    told: BTreeMap<Lie, u64>,
    refused: u64,
    tries: HashMap<String, u64>,
    tries_most: u64,
}

/// The troubles of one store.
#[derive(Default)]
pub struct Troubles(Mutex<State>);

impl Troubles {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lie that is to be told of the next request of its step.
    pub fn plan(&self, lie: Lie) {
        self.state().lies.push(lie);
    }

    /// Lies that nobody asked for are not told any more.
    pub fn forget(&self) {
        self.state().lies.clear();
    }

    /// Whether every lie was told.
    pub fn are_told(&self) -> bool {
        self.state().lies.is_empty()
    }

    /// Begins a spell, or ends it.
    pub fn spell(&self, spell: Option<Spell>) {
        self.state().spell = spell;
    }

    /// The spell that is on.
    pub fn on(&self) -> Option<Spell> {
        self.state().spell
    }

    /// The lie for a request, which is told now.
    pub fn lie(&self, step: Step) -> Option<Lie> {
        let mut state = self.state();
        let place = state.lies.iter().position(|lie| lie.step == step)?;
        let lie = state.lies.remove(place);
        *state.told.entry(lie).or_default() += 1;
        Some(lie)
    }

    /// Counts a request that a spell refused.
    pub fn refused(&self) {
        self.state().refused += 1;
    }

    /// Counts a try to write an object, until one succeeds.
    pub fn tried(&self, name: &str, succeeded: bool) {
        let mut state = self.state();
        if succeeded {
            state.tries.remove(name);
            return;
        }
        let tries = state.tries.entry(name.to_string()).or_default();
        *tries += 1;
        state.tries_most = (*tries).max(state.tries_most);
    }

    /// Every lie that was told, how often; requests that spells refused; most failed tries of one object.
    pub fn counts(&self) -> (BTreeMap<Lie, u64>, u64, u64) {
        let state = self.state();
        (state.told.clone(), state.refused, state.tries_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_is_told_once_and_counted() {
        let troubles = Troubles::default();
        let lie = Lie { step: Step::Root, answer: Answer::Conflict, done: true };
        troubles.plan(lie);
        assert_eq!(troubles.lie(Step::Segment), None);
        assert!(!troubles.are_told());
        assert_eq!((troubles.lie(Step::Root), troubles.lie(Step::Root)), (Some(lie), None));
        assert_eq!(troubles.counts().0, BTreeMap::from([(lie, 1)]));
        assert_eq!(lie.to_string(), "root, 409, written");
    }

    #[test]
    fn tries_count_until_one_succeeds() {
        let troubles = Troubles::default();
        for succeeded in [false, false, true, false] {
            troubles.tried("a", succeeded);
        }
        assert_eq!(troubles.counts().2, 2);
        assert_eq!(Spell::ReadOnly.refusal(false), None);
        assert_eq!(Spell::Throttled.refusal(false), Some((503, "SlowDown")));
    }
}
