//! What goes into a trial, and what comes out of it.

/// What a trial is made of. `B`: the deliberate bugs that there are.
#[derive(Clone, Copy, Debug)]
pub struct Plan<B> {
    /// The same seed is the same history.
    pub seed: u64,
    /// Whether the trace is kept as text.
    pub told: bool,
    /// The bug that is in, if one is.
    pub bug: Option<B>,
}

/// What a trial came to. `C`: counts of what happened.
#[derive(Clone, Debug)]
pub struct Outcome<C> {
    /// The first thing that was not as it must be.
    pub broken: Option<String>,
    /// What happened.
    pub counts: C,
    /// The digest of all that happened.
    pub digest: String,
    /// All that happened, if it was to be kept.
    pub told: Vec<String>,
}
