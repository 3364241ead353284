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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelId, Published, SegmentRef, Tag};

    fn root() -> Root {
        let root = serde_json::json!({
            "format": FORMAT, "epoch": 40, "committed_at": "2026-01-01T00:00:00Z", "generation": 3, "nonce": "n",
            "location": "memory://x", "claim": false, "models": [], "segments": [], "log_from": 30, "trusts_ms": 10,
            "program": {"name": "p", "version": "1", "settings": {}}, "positions": {"in": {"0": 7}},
            "gaps": [{"stream": "in", "partition": "1", "from": 0, "to": 3, "epoch": 2,
                "resumed_in": "1", "reason": "old"}],
            "published": {"epoch": 33, "tables": {}}, "tags": {"a": {"epoch": 35, "from": 34}},
        });
        serde_json::from_value(root).unwrap()
    }

    fn next() -> Root {
        Root { epoch: 41, nonce: "m".into(), ..root() }
    }

    fn claim() -> Root {
        Root { claim: true, generation: 4, ..next() }
    }

    fn at(offset: u64) -> Positions {
        [("in".to_string(), [("0".to_string(), offset)].into())].into()
    }

    fn published(epoch: u64) -> Option<Published> {
        Some(Published { epoch, tables: Default::default(), put: None })
    }

    /// Says why a root may not follow; an alteration that says nothing may.
    fn told(of: Root, alter: impl Fn(&mut Root)) -> Option<String> {
        let mut altered = of;
        alter(&mut altered);
        follows(&root(), &altered).err().map(|broken| broken.to_string())
    }

    fn may(of: fn() -> Root, alter: impl Fn(&mut Root)) {
        assert_eq!(told(of(), alter), None);
    }

    fn may_not(of: fn() -> Root, why: &str, alter: impl Fn(&mut Root)) {
        let said = told(of(), alter).expect(why);
        assert!(said.contains(why), "{said:?} and not {why:?}");
    }

    #[test]
    fn what_may_follow_a_root() {
        let tag = |from, epoch| Tag { epoch, from };
        may(next, |_| {});
        may(next, |r| r.positions = at(9));
        may(next, |r| (r.rolled_back_to, r.positions) = (Some(34), Positions::new()));
        may(next, |r| (r.published, r.log_from) = (published(40), 40));
        may(next, |r| r.tags.extend([("b".into(), tag(34, 40))]));
        may(next, |r| r.tags.clear());
        may_not(next, "format", |r| r.format += 1);
        may_not(next, "it follows root 40", |r| r.epoch += 1);
        may_not(next, "without a claim", |r| r.generation += 1);
        may_not(next, "the position of in/0 went back", |r| r.positions = at(6));
        may_not(next, "the position of in/0 went back", |r| r.positions.clear());
        may_not(next, "it goes back to 41", |r| r.rolled_back_to = Some(41));
        may_not(next, "a gap", |r| r.gaps.clear());
        may_not(next, "publication Some(32)", |r| r.published = published(32));
        may_not(next, "publication None", |r| r.published = None);
        may_not(next, "publication Some(41)", |r| r.published = published(41));
        may_not(next, "is another one", |r| {
            r.published.as_mut().unwrap().put = Some(Default::default());
        });
        may_not(next, "the log begins at 29", |r| r.log_from = 29);
        may_not(next, "the log begins at 42", |r| r.log_from = 42);
        for tag in [tag(29, 40), tag(42, 40), tag(34, 41)] {
            may_not(next, "not all of it kept", |r| r.tags.extend([("b".into(), tag)]));
        }
    }

    #[test]
    fn a_claim_changes_nothing_but_the_generation() {
        may(claim, |_| {});
        may(claim, |r| (r.generation, r.trusts_ms) = (9, 11));
        may_not(claim, "a claim of generation 3", |r| r.generation = 3);
        let changes: [fn(&mut Root); 11] = [
            |r| r.program.version = "2".into(),
            |r| r.positions.clear(),
            |r| r.cursors.extend([("in".into(), Default::default())]),
            |r| r.gaps.clear(),
            |r| r.models.push(ModelId { model: "m".into(), version: "1".into() }),
            |r| r.published = published(34),
            |r| r.tags.clear(),
            |r| r.dropped.push("segments/x".into()),
            |r| r.log_from = 31,
            |r| r.trusts_ms = 9,
            |r| r.rolled_back_to = Some(34),
        ];
        for change in changes {
            may_not(claim, "more than the generation", change);
        }
    }

    #[test]
    fn what_a_retained_commit_or_a_tag_needs_is_not_given_up() {
        let gives_up = |name: String| {
            let (tables, bodies, digest) = (Default::default(), None, String::new());
            let segment =
                SegmentRef { name: "segments/41".into(), worker: 0, bytes: 1, digest, tables, bodies };
            gives_up_nothing_named(&Root { dropped: vec![name], segments: vec![segment], ..next() }).is_err()
        };
        assert!([30, 41, 34, 35].into_iter().all(|epoch| gives_up(crate::root_name(epoch))));
        assert!(gives_up("segments/41".into()));
        assert!(!gives_up("segments/29".into()) && !gives_up(crate::root_name(29)));
    }

    #[test]
    fn tags_keep_roots_below_the_log() {
        let root = Root { log_from: 38, ..root() };
        let kept: Vec<u64> = (30..42).filter(|epoch| tagged(&root, *epoch)).collect();
        assert_eq!(kept, [34, 35]);
        let dropped = vec![crate::root_name(35)];
        assert!(gives_up_nothing_named(&Root { dropped, ..root.clone() }).is_err());
        assert!(gives_up_nothing_named(&Root { dropped: vec![crate::root_name(36)], ..root }).is_ok());
    }
}
