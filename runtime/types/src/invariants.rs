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
            && next.cursors == previous.cursors
            && next.models == previous.models
            && next.published == previous.published
            && next.gaps == previous.gaps
            && next.tags == previous.tags
            && next.dropped == previous.dropped
            && next.log_from == previous.log_from
            && next.trusts_ms >= previous.trusts_ms
            && next.rolled_back_to.is_none()
            && next.segments.is_empty();
        return if same { Ok(()) } else { broken("a claim that changes more than the generation".into()) };
    }
    match next.rolled_back_to {
        Some(to) if to >= next.epoch => return broken(format!("it goes back to {to}")),
        Some(_) => {}
        None => {
            if let Some(partition) = position_gone_back(&previous.positions, &next.positions) {
                return broken(format!("the position of {partition} went back"));
            }
        }
    }
    if !next.gaps.starts_with(&previous.gaps) {
        return broken("a gap that was accepted is forgotten".into());
    }
    let epoch_of = |root: &Root| root.published.as_ref().map(|p| p.epoch);
    if epoch_of(next) < epoch_of(previous) || epoch_of(next) >= Some(next.epoch) {
        return broken(format!("publication {:?} after {:?}", epoch_of(next), epoch_of(previous)));
    }
    if epoch_of(next) == epoch_of(previous) && next.published != previous.published {
        return broken(format!("publication {:?} is another one than before", epoch_of(next)));
    }
    if next.log_from < previous.log_from || next.log_from > next.epoch {
        return broken(format!("the log begins at {} after {}", next.log_from, previous.log_from));
    }
    if let Some((name, tag)) = next.tags.iter().find(|(name, tag)| previous.tags.get(*name) != Some(tag))
        && (tag.from < previous.log_from || tag.from > tag.epoch + 1 || tag.epoch >= next.epoch)
    {
        return broken(format!("tag {name} names {} to {}, not all of it kept", tag.from, tag.epoch));
    }
    Ok(())
}

/// Whether a commit that a root may have names an object that this root gives up. What is given up is never
/// named again.
pub fn gives_up_nothing_named(root: &Root) -> Result<(), Broken> {
    let named = |name: &&String| {
        let kept = |epoch| (root.log_from..=root.epoch).contains(&epoch) || tagged(root, epoch);
        crate::root_epoch(name).is_some_and(kept)
            || root.segments.iter().any(|segment| segment.name == **name)
    };
    match root.dropped.iter().find(named) {
        Some(name) => Err(Broken { epoch: root.epoch, what: format!("it gives up {name}, which is kept") }),
        None => Ok(()),
    }
}

/// Whether a tag of a root keeps the root of an epoch.
pub fn tagged(root: &Root, epoch: u64) -> bool {
    root.tags.values().any(|tag| (tag.from..=tag.epoch).contains(&epoch))
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
