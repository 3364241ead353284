//! What happens to a mill before it is killed, by name.

use std::fmt;
use std::str::FromStr;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Kills at chosen steps of the protocol, not only at random moments.
    Steps,
    /// SIGSTOP, and SIGCONT soon after.
    Pause,
    /// SIGSTOP for longer than any time-out while a successor works, then SIGCONT.
    Takeover,
    /// The broker is killed, and started again.
    Broker,
    /// The store's answers are late.
    Slow,
    /// The store takes no writes.
    ReadOnly,
    /// The store has no room.
    Full,
    /// The store answers 503 to everything.
    Throttle,
    /// Single answers of the store are false or missing: 409, 412, 503, time-outs, broken connections.
    Answers,
}

/// All of them, with the names that people use.
pub const FAULTS: [(Fault, &str); 9] = [
    (Fault::Steps, "steps"),
    (Fault::Pause, "pause"),
    (Fault::Takeover, "takeover"),
    (Fault::Broker, "broker"),
    (Fault::Slow, "slow"),
    (Fault::ReadOnly, "read-only"),
    (Fault::Full, "full"),
    (Fault::Throttle, "throttle"),
    (Fault::Answers, "answers"),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FAULTS.iter().find(|(fault, _)| fault == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Fault, String> {
        let known = FAULTS.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault);
        known.ok_or_else(|| {
            let names = FAULTS.map(|(_, name)| name).join(", ");
            format!("there is no fault `{name}`; give `all`, `none`, or some of {names}")
        })
    }
}

/// What was given for `--faults`.
///
/// # Errors
///
/// When a name is unknown.
pub fn parse(given: &str) -> Result<Vec<Fault>, String> {
    match given {
        "all" => Ok(FAULTS.map(|(fault, _)| fault).to_vec()),
        "none" => Ok(Vec::new()),
        some => some.split(',').map(|name| name.trim().parse()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_go_by_their_names() {
        assert_eq!(parse("all").expect("all").len(), FAULTS.len());
        assert_eq!(parse("pause, read-only"), Ok(vec![Fault::Pause, Fault::ReadOnly]));
        assert!(parse("none").expect("none").is_empty());
        assert!(parse("paus").expect_err("no such fault").contains("takeover"));
    }
}
