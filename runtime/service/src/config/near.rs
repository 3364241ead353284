//! The nearest known name to one that is not known; none where nothing is near, because a far-fetched
//! proposal misleads more than none.

/// How alike two names must be for one to be proposed for the other: 1 is equal, 0 has nothing in common.
const ALIKE: f64 = 0.5;

/// Whether one name may have been meant by the other.
pub fn alike(name: &str, known: &str) -> bool {
    strsim::normalized_damerau_levenshtein(name, known) >= ALIKE
}

/// The known name that is nearest to a name, if one is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().filter(|known| alike(name, known));
    near.min_by_key(|known| strsim::damerau_levenshtein(name, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_proposed() {
        let known = ["workers", "lake.interval", "epoch.interval"];
        assert_eq!(nearest("wrokers", known), Some("workers"));
        assert_eq!(nearest("lak.interval", known), Some("lake.interval"));
        for far in ["kafka.x", "nope", ""] {
            assert_eq!(nearest(far, known), None, "{far}");
        }
    }
}
