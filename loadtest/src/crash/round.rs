//! One round: a store and topics of its own, traffic, and lives of mills that each end by SIGKILL.
//!
//! ```text
//!  traffic ─────────────────────────────────────────────────────────> stops, what is open is aborted
//!  life 1: start .. first new commit .. fault .. SIGKILL                              │
//!                        life 2: start .. first new commit ─> verdict on kill 1 ..    v
//!                                                                     drained run ─> verdict on all
//! ```
//!
//! The commit that a kill is judged by is the first new one of the life after it: it holds what the killed mill had
//! committed, what the start made of that, and records that came since.

use super::faults::Fault;
use super::kafka::Kafka;
use super::mill::{Mill, Mills};
use super::outcome::Outcome;
use super::plan::{End, Plan, Plans};
use super::points::Point;
use super::sight::{Seen, recovered};
use super::site::Site;
use super::verdict::{Judge, Verdict, Wrong};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill::Error;
use tidemill_oracle::kafka::Truth;

/// How long a mill may take for its first new commit, or for its next one, before it counts as one that hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a point is waited for.
const POINT_PATIENCE: Duration = Duration::from_secs(12);
/// How long a mill that was fenced may take to notice.
const FENCED_PATIENCE: Duration = Duration::from_secs(90);
/// What a mill ends with that another has taken the store from.
const SUPERSEDED: i32 = 3;
/// What a mill says that was fenced.
const FENCED: &str = "another writer has taken over the store";
/// What a mill says, before it leaves, of a disk that takes nothing: a person must mend it.
const UNWRITABLE: [&str; 2] = ["Read-only file system", "No space left on device"];
/// Commits that are looked at once more at a round's end.
const SAMPLED: usize = 12;

/// A round.
pub struct Round<'a> {
    /// Where the store stands.
    pub site: &'a Site,
    /// The mills over it.
    pub mills: &'a Mills,
    /// What they read.
    pub kafka: &'a Kafka,
    /// What it holds.
    pub truth: Truth,
    /// What will happen.
    pub plans: Plans,
    /// How long a mill sleeps while another works.
    pub stop_for: Duration,
    /// What is found.
    pub outcome: &'a mut Outcome,
    /// Commits by which kills were judged.
    pub judged: BTreeSet<u64>,
    /// What the newest kill found the mill at; it is yet to be judged.
    pub waiting: Option<String>,
    /// What verdicts took until now, microseconds.
    pub judging_us: u64,
}

/// What became of a start.
enum Start {
    Recovered(Seen),
    /// The trap has killed it.
    Killed,
    Ended(ExitStatus),
    Hangs,
}

impl Round<'_> {
    /// Lives until so many kills are counted, or so many records were sent.
    ///
    /// # Errors
    ///
    /// As [`Self::life`].
    pub fn lives(&mut self, kills: u64, sent: &AtomicU64, records: u64) -> Result<(), Error> {
        // The newest kill is counted with the life after it.
        let killed = |round: &Round<'_>| round.outcome.count() + u64::from(round.waiting.is_some());
        let clean = |round: &Round<'_>| round.outcome.is_clean();
        while killed(self) < kills && sent.load(Ordering::Acquire) < records && clean(self) {
            let (began, judging) = ((self.mills.stopwatch)(), self.judging_us);
            self.life()?;
            let s = |us: u64| us as f64 / 1e6;
            let lasted = (self.mills.stopwatch)() - began;
            eprintln!(
                "  {:>3}  {:<28} {:>5.1} s, of them {:.1} s for the verdict on {} records",
                killed(self),
                self.waiting.as_deref().unwrap_or("no kill"),
                s(lasted),
                s(self.judging_us - judging),
                self.truth.records.len()
            );
        }
        Ok(())
    }

    /// One life, to its kill.
    ///
    /// # Errors
    ///
    /// When something fails that is no part of what is tested.
    pub fn life(&mut self) -> Result<(), Error> {
        let plan = self.plans.draw();
        let from = self.site.sight.count();
        self.site.life();
        plan.lies.iter().for_each(|lie| self.site.troubles.plan(*lie));
        if let End::At(point, nth) = plan.end
            && point.0.is_of_starts()
        {
            self.site.trap.arm(point, nth);
        }
        let mut mill = self.mills.start(plan.workers)?;
        self.site.trap.aim(mill.pid());
        if plan.early {
            std::thread::sleep(Duration::from_millis(self.plans.below(1200)));
            return self.kill_now(mill, "random moment of a start");
        }
        match self.started(&mut mill, from) {
            Start::Recovered(seen) => {
                self.outcome.recovered_us.push(seen.at_us.saturating_sub(mill.started_us));
                self.judge(seen.epoch)?;
                if let Some(fault) = plan.fault {
                    mill = match self.fault(fault, &plan, mill)? {
                        Some(mill) => mill,
                        None => return Ok(()),
                    };
                }
                self.end(&plan, mill)
            }
            Start::Killed => self.was_killed(mill, &plan),
            Start::Ended(status) => self.amiss(mill, &format!("a start ended by itself with {status}")),
            Start::Hangs => self.amiss(mill, "a start has not committed anything for two minutes"),
        }
    }

    fn started(&self, mill: &mut Mill, from: usize) -> Start {
        for _ in 0..PATIENCE.as_millis() / 20 {
            if let Some(seen) = self.site.sight.wait(from, Duration::from_millis(20), recovered) {
                return Start::Recovered(seen);
            }
            if self.site.trap.is_sprung() {
                return Start::Killed;
            }
            if let Some(status) = mill.ended() {
                return Start::Ended(status);
            }
        }
        Start::Hangs
    }

    /// Ends a life as planned.
    fn end(&mut self, plan: &Plan, mut mill: Mill) -> Result<(), Error> {
        let (point, nth) = match plan.end {
            End::At(point, nth) => (point, nth),
            End::Moment(after) => {
                std::thread::sleep(after);
                return self.kill_now(mill, "random moment");
            }
        };
        if !point.0.is_of_starts() {
            self.site.trap.arm(point, nth);
        } else {
            self.missed(point);
            return self.kill_now(mill, "random moment");
        }
        for _ in 0..POINT_PATIENCE.as_millis() / 10 {
            if self.site.trap.is_sprung() {
                return self.was_killed(mill, plan);
            }
            if let Some(status) = mill.ended() {
                // The trap springs a moment before the end is seen.
                return match self.site.trap.is_sprung() {
                    true => self.was_killed(mill, plan),
                    false => self.amiss(mill, &format!("a mill ended by itself with {status}")),
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.missed(point);
        self.kill_now(mill, "random moment")
    }

    fn missed(&mut self, point: Point) {
        *self.outcome.missed.entry(point.to_string()).or_default() += 1;
    }

    /// Kills it, whatever it does.
    fn kill_now(&mut self, mut mill: Mill, what: &str) -> Result<(), Error> {
        if let Some(status) = mill.ended().filter(|_| !self.site.trap.is_sprung()) {
            return self.amiss(mill, &format!("a mill ended by itself with {status}"));
        }
        mill.kill();
        self.dead(what.to_string(), &mill);
        Ok(())
    }

    /// The trap has killed it.
    fn was_killed(&mut self, mut mill: Mill, plan: &Plan) -> Result<(), Error> {
        mill.wait(Duration::from_secs(10));
        let what = match plan.end {
            End::At(point, _) => point.to_string(),
            End::Moment(_) => "random moment".to_string(),
        };
        self.dead(what, &mill);
        Ok(())
    }

    /// After a kill: it is judged by the next life's first new commit, together with those before that had none.
    fn dead(&mut self, what: String, mill: &Mill) {
        self.site.trap.disarm();
        self.site.trap.aim(None);
        self.site.troubles.forget();
        self.heard(mill);
        if let Some(earlier) = self.waiting.replace(what) {
            // No commit came between the two: what the second is judged by judges the first.
            self.outcome.killed(&earlier, Wrong::default());
        }
    }

    /// Something that must not be. The mill is killed; that kill does not count.
    fn amiss(&mut self, mut mill: Mill, what: &str) -> Result<(), Error> {
        mill.kill();
        self.site.trap.disarm();
        self.site.trap.aim(None);
        self.site.troubles.forget();
        self.heard(&mill);
        let said = format!("{what}; {}: {}", mill.log.display(), mill.last_words());
        eprintln!("amiss: {said}");
        self.outcome.verdict.tell(said);
        Ok(())
    }

    /// Counts what a mill warned of.
    fn heard(&mut self, mill: &Mill) {
        for line in mill.said().lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
                if line.contains("panicked") {
                    self.outcome.verdict.tell(format!("{}: {line}", mill.log.display()));
                }
                continue;
            };
            let message = line["fields"]["message"].as_str().unwrap_or_default();
            let retried = message.starts_with("Encountered");
            if line["level"] == "WARN" || retried {
                let said = if retried { "(client) a request is tried again" } else { message };
                *self.outcome.warnings.entry(kind_of(said)).or_default() += 1;
            }
        }
    }

    /// Holds a commit against what Kafka holds; the kill before it answers for what is wrong.
    fn judge(&mut self, epoch: u64) -> Result<(), Error> {
        let began = (self.mills.stopwatch)();
        self.read_on()?;
        let found = self.hold(epoch)?;
        let total = found.total();
        self.judging_us += (self.mills.stopwatch)() - began;
        self.judged.insert(epoch);
        if let Some(kill) = self.waiting.take() {
            self.outcome.killed(&kill, total);
        }
        if !found.is_clean() {
            eprintln!("epoch {epoch}: {total}\n  {}", found.told.join("\n  "));
        }
        self.outcome.verdict.add(found);
        Ok(())
    }

    /// A commit that is not kept any more is judged by the newest one.
    fn hold(&self, epoch: u64) -> Result<Verdict, Error> {
        let mut last = None;
        for _ in 0..6 {
            let judge = Judge::open(&self.site.store)?;
            // What was kept a moment ago may be dropped while it is read, and while that is asked.
            for epoch in [epoch, judge.newest().epoch] {
                match judge.hold(epoch, &self.truth) {
                    Ok(found) => return Ok(found),
                    Err(error) => last = Some(error),
                }
                if !matches!(judge.keeps(epoch), Ok(false)) {
                    break;
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::failed("no commit can be read")))
    }

    /// Reads Kafka to its present end; a broker that has just come back is given time.
    fn read_on(&mut self) -> Result<(), Error> {
        let mut last = None;
        for _ in 0..6 {
            match self.truth.read_on(&self.kafka.brokers) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        let error = last.map_or_else(String::new, |error| error.to_string());
        Err(Error::failed(format!("kafka at {}: {error}", self.kafka.brokers)))
    }

    /// Waits until something new is committed. False: nothing came.
    fn goes_on(&self, mill: &mut Mill) -> bool {
        let from = self.site.sight.count();
        let moved = |roots: &[Seen]| (roots.len() > 1).then_some(());
        for _ in 0..PATIENCE.as_millis() / 100 {
            if self.site.sight.wait(from, Duration::from_millis(100), moved).is_some() {
                return true;
            }
            if mill.ended().is_some() {
                return false;
            }
        }
        false
    }

    /// Brings a fault about. None: the mill is dead already, or was found amiss.
    fn fault(&mut self, fault: Fault, plan: &Plan, mut mill: Mill) -> Result<Option<Mill>, Error> {
        self.outcome.met(fault);
        match fault {
            Fault::Steps | Fault::Answers => Ok(Some(mill)),
            Fault::Pause => {
                mill.tell(Signal::STOP);
                std::thread::sleep(plan.lasts);
                mill.tell(Signal::CONT);
                std::thread::sleep(Duration::from_millis(300));
                Ok(Some(mill))
            }
            Fault::Takeover => self.takeover(plan, mill),
            Fault::Broker => {
                self.kafka.kill_for(plan.lasts)?;
                self.survived(fault, mill)
            }
            Fault::Slow | Fault::ReadOnly | Fault::Full | Fault::Throttle => {
                self.site.trouble(fault, true, plan.late)?;
                std::thread::sleep(plan.lasts);
                let ended = mill.ended();
                if plan.within {
                    mill.kill();
                }
                self.site.trouble(fault, false, plan.late)?;
                match ended {
                    Some(status) => self.left(fault, status, mill).map(|()| None),
                    None if plan.within => {
                        self.dead(format!("store {fault}"), &mill);
                        Ok(None)
                    }
                    None => self.survived(fault, mill),
                }
            }
        }
    }

    /// A mill has left in a bad spell of its store. From a disk that takes nothing it may, if it says so; the next start
    /// goes on.
    fn left(&mut self, fault: Fault, status: ExitStatus, mill: Mill) -> Result<(), Error> {
        let said = mill.said();
        if status.code() != Some(1) || !UNWRITABLE.iter().any(|words| said.contains(words)) {
            return self.amiss(mill, &format!("{fault}: a mill ended by itself with {status}"));
        }
        self.outcome.met(format!("{fault}: the mill said so and left"));
        self.heard(&mill);
        Ok(())
    }

    /// After a fault that a mill must outlive.
    fn survived(&mut self, fault: Fault, mut mill: Mill) -> Result<Option<Mill>, Error> {
        if self.goes_on(&mut mill) {
            return Ok(Some(mill));
        }
        match mill.ended() {
            // What it met in the spell may end it a moment later.
            Some(status) => self.left(fault, status, mill),
            None => self.amiss(mill, &format!("{fault}: a mill committed nothing for two minutes after it")),
        }
        .map(|()| None)
    }

    /// The mill is stopped, a successor works, and the first one wakes: it must leave by itself, and harm nothing.
    fn takeover(&mut self, plan: &Plan, mut sleeper: Mill) -> Result<Option<Mill>, Error> {
        sleeper.tell(Signal::STOP);
        // A point of a start that the sleeper did not meet is none of the successor's.
        self.site.trap.disarm();
        let from = self.site.sight.count();
        self.site.life();
        let mut successor = self.mills.start(plan.workers)?;
        self.site.trap.aim(successor.pid());
        let seen = match self.started(&mut successor, from) {
            Start::Recovered(seen) => seen,
            _ => {
                sleeper.kill();
                return self.amiss(successor, "a successor of a stopped mill did not commit").map(|()| None);
            }
        };
        let slept = Duration::from_micros((self.mills.stopwatch)().saturating_sub(seen.at_us));
        std::thread::sleep(self.stop_for.saturating_sub(slept));
        sleeper.tell(Signal::CONT);
        let ended = sleeper.wait(FENCED_PATIENCE);
        let said = sleeper.said();
        if ended.and_then(|status| status.code()) != Some(SUPERSEDED) || !said.contains(FENCED) {
            let how = ended.map_or("is still there".to_string(), |status| format!("ended with {status}"));
            self.outcome.verdict.tell(format!(
                "a mill that slept while a successor worked {how}; {}: {}",
                sleeper.log.display(),
                sleeper.last_words()
            ));
        }
        self.heard(&sleeper);
        let from = self.site.sight.count();
        let own = |roots: &[Seen]| roots.iter().find(|root| root.generation == seen.generation).cloned();
        match self.site.sight.wait(from, PATIENCE, own) {
            Some(after) => self.judge(after.epoch).map(|()| Some(successor)),
            None => {
                self.amiss(successor, "a successor stopped committing when the sleeper woke").map(|()| None)
            }
        }
    }

    /// The end of a round: what is left is drained, and held against all that Kafka holds.
    ///
    /// # Errors
    ///
    /// When something fails that is no part of what is tested.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.site.troubles.forget();
        if let Err(error) = self.mills.drain(2) {
            self.outcome.verdict.tell(error.to_string());
            return Ok(());
        }
        self.read_on()?;
        let judge = Judge::open(&self.site.store)?;
        let mut found = judge.hold_drained(&self.truth)?;
        if let Some(kill) = self.waiting.take() {
            self.outcome.killed(&kill, found.total());
        }
        found.add(judge.hold_log()?);
        // Readers of an older commit see what was true then, whatever has happened since.
        let newest = judge.newest().epoch;
        for epoch in self.judged.iter().rev().take(SAMPLED).map(|epoch| epoch + 1).filter(|e| *e < newest) {
            if judge.keeps(epoch)? {
                found.add(judge.hold(epoch, &self.truth)?);
            }
        }
        if let Err(error) = self.mills.verify() {
            found.tell(error.to_string());
        }
        self.outcome.verdict.add(found);
        self.outcome.records += self.truth.records.len() as u64;
        Ok(())
    }
}

/// A message without what differs from time to time: numbers, and what comes late in it.
fn kind_of(message: &str) -> String {
    let mut kind = String::new();
    for letter in message.chars() {
        let letter = if letter.is_ascii_digit() { '#' } else { letter };
        if letter != '#' || !kind.ends_with('#') {
            kind.push(letter);
        }
    }
    kind.chars().take(60).collect()
}
