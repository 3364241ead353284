//! The steps of the commit and of the publication at which a mill can be killed, and the trap that does it.
//!
//! A step is a request to the store, told from others by its name alone: what the store's layout lays down is enough.
//! Each step has two moments: before the store has done what was asked, and after it did but before the mill heard.
//! Between the two lies all that a crash can make of one request, so `steps x moments` covers the protocol.
//!
//! ```text
//!   mill ──asks──> [before] ──> store does it ──> [after] ──answers──> mill
//! ```

use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a request to the store is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// A writer's first root.
    Claim,
    /// The root of an epoch.
    Root,
    /// A worker's share of an epoch.
    Segment,
    /// Rows of a published table.
    DataFile,
    /// Positions of rows that a published table has no more.
    DeleteFile,
    /// A manifest, or a list of manifests.
    Manifest,
    /// A published table's metadata.
    Metadata,
    /// The checkpoint of a published table's index.
    Index,
    /// The hint of the newest root.
    Hint,
    /// The deletion of what is needed no more.
    Deletion,
    /// A listing.
    Listing,
    /// A root, or the hint, is read.
    ReadRoot,
    /// A segment is read.
    ReadSegment,
    /// Anything of a published table is read.
    ReadTable,
}

/// Before or after the store did it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Moment {
    /// The store has not done it, and never will.
    Before,
    /// The store did it; the mill was not told.
    After,
}

/// A step at one of its moments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Point(pub Step, pub Moment);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Claim => "claim",
            Step::Root => "root",
            Step::Segment => "segment",
            Step::DataFile => "data file",
            Step::DeleteFile => "delete file",
            Step::Manifest => "manifest",
            Step::Metadata => "metadata",
            Step::Index => "index",
            Step::Hint => "hint",
            Step::Deletion => "deletion",
            Step::Listing => "listing",
            Step::ReadRoot => "read of a root",
            Step::ReadSegment => "read of a segment",
            Step::ReadTable => "read of a table",
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = if self.1 == Moment::Before { "before" } else { "after" };
        write!(f, "{}, {moment}", self.0)
    }
}

impl Step {
    /// The step that writes an object of that name (relative to the store). `body` tells a claim from other roots.
    pub fn of_write(name: &str, body: &[u8]) -> Option<Step> {
        let (folder, rest) = name.split_once('/')?;
        match folder {
            "segments" => Some(Step::Segment),
            "catalog" if rest == "_hint" => Some(Step::Hint),
            "catalog" => Some(if is_claim(body) { Step::Claim } else { Step::Root }),
            "tables" if name.ends_with("-deletes.parquet") => Some(Step::DeleteFile),
            "tables" if name.ends_with(".parquet") => Some(Step::DataFile),
            "tables" if name.ends_with("-index.arrows") => Some(Step::Index),
            "tables" if name.ends_with(".metadata.json") => Some(Step::Metadata),
            "tables" => Some(Step::Manifest),
            _ => None,
        }
    }

    /// The step that reads an object of that name.
    pub fn of_read(name: &str) -> Option<Step> {
        match name.split_once('/')?.0 {
            "catalog" => Some(Step::ReadRoot),
            "segments" => Some(Step::ReadSegment),
            "tables" => Some(Step::ReadTable),
            _ => None,
        }
    }

    /// Whether it comes before a start's first commit, and may never come again in that life.
    pub fn is_of_starts(self) -> bool {
        matches!(self, Step::Claim | Step::Listing | Step::ReadRoot | Step::ReadSegment | Step::ReadTable)
    }
}

/// Whether the bytes of a root are those of a claim.
pub fn is_claim(root: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(root).is_ok_and(|root| root["claim"] == true)
}

#[derive(Default)]
struct Set {
    pid: Option<Pid>,
    point: Option<(Point, u32)>,
    sprung: bool,
}

/// Kills a mill at a point of the protocol: whoever sees its requests tells the trap of each.
#[derive(Default)]
pub struct Trap(Mutex<Set>);

impl Trap {
    fn set(&self) -> MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it for the `nth` time, from 1, that a point is met. Whom it kills may be said later.
    pub fn arm(&self, point: Point, nth: u32) {
        let mut set = self.set();
        (set.point, set.sprung) = (Some((point, nth.max(1))), false);
    }

    /// Says whom it kills.
    pub fn aim(&self, pid: Option<Pid>) {
        self.set().pid = pid;
    }

    /// Takes it away; whether it has killed.
    pub fn disarm(&self) -> bool {
        let mut set = self.set();
        set.point = None;
        std::mem::take(&mut set.sprung)
    }

    /// Whether it has killed.
    pub fn is_sprung(&self) -> bool {
        self.set().sprung
    }

    /// Tells it of a point that is met. True: the mill is dead now, and must neither be served nor answered.
    pub fn meets(&self, met: Point) -> bool {
        let mut set = self.set();
        let Some((point, left)) = set.point.filter(|(point, _)| *point == met) else { return false };
        if left > 1 {
            set.point = Some((point, left - 1));
            return false;
        }
        let Some(pid) = set.pid else { return false };
        // It may have ended by itself a moment ago; then nothing was killed.
        set.sprung = kill_process(pid, Signal::KILL).is_ok();
        set.point = None;
        set.sprung
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_layout_belongs_to_a_step() {
        let uuid = "0198c5a1-0000-8000-8000-000000000000";
        for (name, step) in [
            ("catalog/_hint".to_string(), Step::Hint),
            ("catalog/00000000000000000007.json".into(), Step::Root),
            (format!("segments/00000000000000000007-g1-w0-{uuid}.arrows"), Step::Segment),
            (format!("tables/raw.calls/data/00000000000000000007-g1-{uuid}.parquet"), Step::DataFile),
            (
                format!("tables/raw.calls/data/00000000000000000007-g1-{uuid}-deletes.parquet"),
                Step::DeleteFile,
            ),
            (format!("tables/raw.calls/metadata/00000000000000000007-g1-{uuid}-index.arrows"), Step::Index),
            (format!("tables/raw.calls/metadata/00001-{uuid}.metadata.json"), Step::Metadata),
            (format!("tables/raw.calls/metadata/00000000000000000007-g1-{uuid}-m0.avro"), Step::Manifest),
        ] {
            assert_eq!(Step::of_write(&name, b"{\"claim\":false}"), Some(step), "{name}");
        }
        assert_eq!(
            Step::of_write("catalog/00000000000000000000.json", b"{\"claim\":true}"),
            Some(Step::Claim)
        );
        assert_eq!(Step::of_write("elsewhere", b""), None);
        assert_eq!(Step::of_read("segments/x"), Some(Step::ReadSegment));
    }

    #[test]
    fn a_trap_counts_what_it_was_set_for_and_springs_for_nobody_else() {
        let trap = Trap::default();
        let point = Point(Step::Root, Moment::After);
        assert!(!trap.meets(point), "it was not set");
        trap.arm(point, 2);
        assert!(!trap.meets(Point(Step::Root, Moment::Before)));
        assert!(!trap.meets(point), "the first of two");
        assert!(!trap.meets(point), "nobody is there to be killed");
        assert!(!trap.is_sprung());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        trap.aim(Pid::from_raw(child.id() as i32));
        assert!(trap.meets(point) && trap.is_sprung());
        assert!(!child.wait().expect("its end").success());
        assert!(trap.disarm() && !trap.disarm());
    }
}
