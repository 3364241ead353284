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

/// Runs a plan twice. Where the second history is another than the first, that is what is broken.
pub fn twice<B: Copy, C>(plan: Plan<B>, trial: impl Fn(Plan<B>) -> Outcome<C>) -> Outcome<C> {
    let run = || trial(Plan { told: true, ..plan });
    let (first, second) = (run(), run());
    let same = first.told.iter().zip(&second.told).take_while(|(a, b)| a == b).count();
    let line = |told: &[String]| told.get(same).map_or("its end", |line| line.trim()).to_string();
    let differs = (first.digest != second.digest)
        .then(|| format!("line {} is {:?}, and again {:?}", same + 1, line(&first.told), line(&second.told)));
    Outcome {
        broken: first.broken.or(differs),
        told: if plan.told { first.told } else { Vec::new() },
        ..first
    }
}
