//! What must hold of a chain of roots: for each rule a function without effects, and no other place.
//!
//! A writer calls these before it puts a root, and for its claim; tests and the simulator call the same ones.

use crate::{FORMAT, Positions, Root};

/// A root contradicts its predecessor; the message says how.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("root {epoch} breaks an invariant: {what}")]
pub struct Broken {
    /// The later root's epoch.
    pub epoch: u64,
    /// What is wrong with it.
    pub what: String,
}

/// Whether `next` may follow `previous`: epochs without holes, generations and positions that never
/// go back, publications that never go back, a claim that changes nothing but the generation.
pub fn follows(previous: &Root, next: &Root) -> Result<(), Broken> {
    let broken = |what: String| Err(Broken { epoch: next.epoch, what });
    if next.format != FORMAT {
        return broken(format!("format {} is not {FORMAT}", next.format));
    }
    if next.epoch != previous.epoch + 1 {
        return broken(format!("it follows root {}", previous.epoch));
    }
    if next.claim && next.generation <= previous.generation {
        return broken(format!("a claim of generation {} after {}", next.generation, previous.generation));
    }
    if !next.claim && next.generation != previous.generation {
        return broken(format!(
            "generation {} without a claim after {}",
            next.generation, previous.generation
        ));
    }
    if next.claim {
        let same = next.program == previous.program
            && next.positions == previous.positions
            && next.models == previous.models
            && next.published == previous.published
            && next.gaps == previous.gaps
            && next.segments.is_empty();
        return if same { Ok(()) } else { broken("a claim that changes more than the generation".into()) };
    }
    if let Some(partition) = position_gone_back(&previous.positions, &next.positions) {
        return broken(format!("the position of {partition} went back"));
    }
    if !next.gaps.starts_with(&previous.gaps) {
        return broken("a gap that was accepted is forgotten".into());
    }
    let epoch_of = |root: &Root| root.published.as_ref().map(|p| p.epoch);
    if epoch_of(next) < epoch_of(previous) || epoch_of(next) >= Some(next.epoch) {
        return broken(format!("publication {:?} after {:?}", epoch_of(next), epoch_of(previous)));
    }
    Ok(())
}

/// The first partition whose position in `next` is lower than in `previous`, or that is gone.
pub fn position_gone_back(previous: &Positions, next: &Positions) -> Option<String> {
    for (stream, partitions) in previous {
        for (partition, offset) in partitions {
            let now = next.get(stream).and_then(|p| p.get(partition));
            if now.is_none_or(|now| now < offset) {
                return Some(format!("{stream}/{partition}"));
            }
        }
    }
    None
}
