//! What may stand under a name: a plain model, which knows only what was asked, when, and what was answered.
//!
//! An operation happens at one moment between its beginning and its answer. One that failed, or whose
//! process was killed, has happened before its end, or never will. So a name may read as what some operation
//! gave it, unless another one, which was answered, began after that had ended and ended before the read
//! began. A power cut changes one thing: deletions are not sure, so they stand in nobody's way then.

use crate::schedule::Process;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemill_core::store::{Created, ObjectInfo, StoreError};

/// What is done to a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A put.
    Put,
    /// A create.
    Create,
    /// A deletion.
    Delete,
    /// It was there, or was not, after a power cut: that is sure.
    Found,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// None yet, or a failure.
    Unclear,
    Done,
    Exists,
}

/// An operation on a name.
struct Deed {
    kind: Kind,
    /// What the name then holds.
    body: Option<Bytes>,
    process: Process,
    from: u64,
    to: Option<u64>,
    answer: Answer,
}

impl Deed {
    /// Whether it may have given the name this content.
    fn gives(&self, body: Option<&[u8]>) -> bool {
        self.answer != Answer::Exists && self.body.as_deref() == body
    }

    /// Whether the name can hold this no more, if it held it before.
    fn ends(&self, body: Option<&[u8]>, after_a_cut: bool) -> bool {
        match self.answer {
            Answer::Unclear => false,
            Answer::Done => !(after_a_cut && self.kind == Kind::Delete),
            // Whatever it is that exists.
            Answer::Exists => body.is_none(),
        }
    }

    /// Whether it is between two others, or may be.
    fn is_among(&self, a: &Self, b: &Self) -> bool {
        let ends = a.to.max(b.to).unwrap_or(u64::MAX);
        self.from < ends && self.to.unwrap_or(u64::MAX) > a.from.min(b.from)
    }
}

/// What happened in a trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Writes and deletions that were done.
    pub done: usize,
    /// Creates of a name that was taken.
    pub exist: usize,
    /// Writes and deletions that failed or were killed.
    pub unclear: usize,
    /// Reads and lists.
    pub read: usize,
    /// Processes killed.
    pub killed: usize,
    /// Power cuts.
    pub cuts: usize,
    /// Files that power cuts tore.
    pub torn: usize,
    /// Entries of folders that power cuts set back.
    pub undone: usize,
}

#[derive(Default)]
struct Model {
    now: u64,
    names: BTreeMap<String, Vec<Deed>>,
    broken: Option<String>,
    counts: Counts,
}

/// An operation that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    name: String,
    place: usize,
}

/// Judges what a store says.
#[derive(Clone, Default)]
pub struct Judge(Arc<Mutex<Model>>);

impl Judge {
    /// The judge of an empty store with these names.
    pub fn new(names: &[&str]) -> Self {
        let judge = Self::default();
        judge.model().names.extend(names.iter().map(|name| (name.to_string(), vec![found(None, 0)])));
        judge
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first thing that was not as it must be.
    pub fn broken(&self) -> Option<String> {
        self.model().broken.clone()
    }

    /// Something is not as it must be.
    pub fn breaks(&self, what: String) {
        self.model().broken.get_or_insert(what);
    }

    /// What happened.
    pub fn counts(&self) -> Counts {
        self.model().counts
    }

    /// Counts.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.model().counts);
    }

    /// The moment before a read.
    pub fn now(&self) -> u64 {
        self.model().tick()
    }

    /// An operation begins.
    pub fn begins(&self, process: Process, kind: Kind, name: &str, body: Option<Bytes>) -> Begun {
        let mut model = self.model();
        let from = model.tick();
        let deeds = model.names.entry(name.to_string()).or_default();
        deeds.push(Deed { kind, body, process, from, to: None, answer: Answer::Unclear });
        Begun { name: name.to_string(), place: deeds.len() - 1 }
    }

    /// It was answered.
    pub fn ends(&self, begun: &Begun, answer: &Result<Created, StoreError>) {
        let mut model = self.model();
        let now = model.tick();
        let deeds = model.names.entry(begun.name.clone()).or_default();
        let Some(deed) = deeds.get_mut(begun.place) else { return };
        deed.to = Some(now);
        deed.answer = match answer {
            Ok(Created::New) => Answer::Done,
            Ok(Created::Exists) => Answer::Exists,
            Err(_) => Answer::Unclear,
        };
        match deed.answer {
            Answer::Done => model.counts.done += 1,
            Answer::Exists => model.counts.exist += 1,
            Answer::Unclear => model.counts.unclear += 1,
        }
        if let Err(what) = model.follows(begun) {
            model.broken.get_or_insert(format!("p{what}"));
        }
    }

    /// A process was killed.
    pub fn killed(&self, process: Process) {
        let mut model = self.model();
        let now = model.tick();
        let mut unclear = 0;
        for deed in model.names.values_mut().flatten().filter(|d| d.process == process && d.to.is_none()) {
            deed.to = Some(now);
            unclear += 1;
        }
        model.counts.unclear += unclear;
        model.counts.killed += 1;
    }

    /// A name was read, not before this moment.
    pub fn reads(&self, name: &str, from: u64, body: Option<&[u8]>) {
        let mut model = self.model();
        model.counts.read += 1;
        if let Err(what) = model.may_read(name, from, body, false) {
            model.broken.get_or_insert(what);
        }
    }

    /// A part of what a name holds was read, not before this moment.
    pub fn reads_part(&self, name: &str, from: u64, start: usize, part: &[u8]) {
        let mut model = self.model();
        model.counts.read += 1;
        let bodies = model.deeds(name).iter().filter_map(|deed| deed.body.as_deref());
        let mut bodies = bodies.filter(|body| body.get(start..start + part.len()) == Some(part));
        if !bodies.any(|body| model.may_hold(name, from, Some(body), false)) {
            let text = String::from_utf8_lossy(part).into_owned();
            model.broken.get_or_insert(format!("{name} reads as {text:?} from {start} on"));
        }
    }

    /// A folder was listed, not before this moment.
    pub fn lists(&self, folder: &str, from: u64, found: &[ObjectInfo]) {
        let mut model = self.model();
        model.counts.read += 1;
        if let Err(what) = model.may_list(folder, from, found, false) {
            model.broken.get_or_insert(what);
        }
    }

    /// While nobody else was at work, not before this moment, all of this was found. After a power cut it is sure.
    pub fn finds(
        &self,
        from: u64,
        listed: &[ObjectInfo],
        read: &BTreeMap<String, Option<Bytes>>,
        after_a_cut: bool,
    ) {
        let mut model = self.model();
        let bodies = read.iter().map(|(name, body)| model.may_read(name, from, body.as_deref(), after_a_cut));
        let first = bodies.chain([model.may_list("", from, listed, after_a_cut)]).find_map(Result::err);
        if let Some(what) = first {
            let after = if after_a_cut { "a power cut" } else { "kills" };
            model.broken.get_or_insert(format!("after {after} {what}"));
        }
        if after_a_cut {
            let now = model.tick();
            for (name, body) in read {
                model.names.insert(name.clone(), vec![found(body.clone(), now)]);
            }
        }
    }
}

fn found(body: Option<Bytes>, now: u64) -> Deed {
    Deed { kind: Kind::Found, body, process: 0, from: now, to: Some(now), answer: Answer::Done }
}

impl Model {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn deeds(&self, name: &str) -> &[Deed] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a name may have held this at some time since a moment.
    fn may_hold(&self, name: &str, since: u64, body: Option<&[u8]>, after_a_cut: bool) -> bool {
        let deeds = self.deeds(name);
        deeds.iter().filter(|deed| deed.gives(body)).any(|gave| {
            !deeds.iter().any(|later| {
                later.ends(body, after_a_cut)
                    && gave.to.is_some_and(|to| to < later.from)
                    && later.to.is_some_and(|to| to < since)
            })
        })
    }

    fn may_read(&self, name: &str, from: u64, body: Option<&[u8]>, after_a_cut: bool) -> Result<(), String> {
        let Some(bytes) = body else {
            return match self.may_hold(name, from, None, after_a_cut) {
                true => Ok(()),
                false => Err(format!("{name} is gone")),
            };
        };
        let text = String::from_utf8_lossy(bytes);
        match self.deeds(name).iter().any(|deed| deed.gives(body)) {
            false => Err(format!("{name} reads as {text:?}, which nobody has written there whole")),
            true if self.may_hold(name, from, body, after_a_cut) => Ok(()),
            true => Err(format!("{name} reads as {text:?} again, and something else was there since")),
        }
    }

    fn may_list(
        &self,
        folder: &str,
        from: u64,
        found: &[ObjectInfo],
        after_a_cut: bool,
    ) -> Result<(), String> {
        for ObjectInfo { name, bytes } in found {
            let bodies = self.deeds(name).iter().filter_map(|deed| deed.body.as_deref());
            let mut bodies = bodies.filter(|body| body.len() as u64 == *bytes);
            if !bodies.any(|body| self.may_hold(name, from, Some(body), after_a_cut)) {
                return Err(format!("{name} is listed with {bytes} bytes, which cannot be"));
            }
        }
        let missing =
            |name: &&String| name.starts_with(folder) && !found.iter().any(|info| info.name == **name);
        match self.names.keys().filter(missing).find(|name| !self.may_hold(name, from, None, after_a_cut)) {
            Some(name) => Err(format!("{name} is not listed")),
            None => Ok(()),
        }
    }

    /// Whether the answer of a create can be.
    fn follows(&self, begun: &Begun) -> Result<(), String> {
        let (name, deeds) = (&begun.name, self.deeds(&begun.name));
        let Some(deed) = deeds.get(begun.place).filter(|deed| deed.kind == Kind::Create) else {
            return Ok(());
        };
        let process = deed.process;
        let mut bodies = deeds.iter().filter_map(|deed| deed.body.as_deref());
        match deed.answer {
            Answer::Unclear => Ok(()),
            Answer::Exists if bodies.any(|body| self.may_hold(name, deed.from, Some(body), false)) => Ok(()),
            Answer::Exists => Err(format!("{process} is told that {name} exists, and it does not")),
            Answer::Done if !self.may_hold(name, deed.from, None, false) => {
                Err(format!("{process} is told that {name} is new, and it exists"))
            }
            Answer::Done => {
                let new = |other: &&Deed| other.kind == Kind::Create && other.answer == Answer::Done;
                let mut others = deeds.iter().filter(new).filter(|other| other.from != deed.from);
                let freed =
                    |other: &Deed| deeds.iter().any(|d| d.kind == Kind::Delete && d.is_among(deed, other));
                match others.all(freed) {
                    true => Ok(()),
                    false => Err(format!("{process} is told that {name} is new, and so was another")),
                }
            }
        }
    }
}
