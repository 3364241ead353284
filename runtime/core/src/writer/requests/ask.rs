//! The side of who asks: waits for the writer that is at work, and finds out when none is.
//!
//! ```text
//!  ask ──> nobody takes it up ──no newer root──────────────────> None: no writer is at work
//!   │          │  └──newer roots all the while──────────────────> an error: one is at work and takes nothing up
//!   │          v
//!   └──> taken up, wanted of that writer ──answered────────────> what it said
//!              │  └──it is given back──> asked anew
//!              └──not heard of for long──> withdrawn; what the log says of it, or an error
//! ```
//!
//! Only an asker that has not said "of this writer" to anybody, or whose writer gave the request back, learns
//! that no writer is at work: so what it does itself then is done by nobody else.

use super::{
    Answer, Request, Sign, Wanted, answer_name, find, fulfilled, look_every, put, request_name, sign,
    taken_up_within,
};
use crate::edge::SharedEdge;
use crate::log::{Seen, newest_root};
use crate::store::{SharedStore, StoreError};
use tidemill_types::Root;

/// After so long without a sign of the writer that took it up, it counts as gone and the request is withdrawn.
const SILENT_MAX_US: u64 = 180_000_000;
/// A writer that is at it for longer than this is not waited for.
const TAKES_MAX_US: u64 = 3_600_000_000;
/// How often is said what is waited for.
const SAY_EVERY_US: u64 = 30_000_000;
/// How often a request is asked anew while somebody commits and nobody takes it up.
const ROUNDS_MAX: u32 = 6;
/// Failures of the store in a row before whoever asks is told.
const FAILURES_MAX: u32 = 20;

/// A request to the writer that is at work.
pub struct Ask<'a> {
    /// The store.
    pub store: &'a SharedStore,
    /// Clock, randomness, waiting.
    pub edge: &'a SharedEdge,
    /// The newest root, as whoever asks has seen it.
    pub newest: &'a Root,
    /// What is wanted.
    pub wanted: Wanted,
    /// Told what is waited for.
    pub say: &'a (dyn Fn(&str) + Sync),
}

/// What ends the waiting: an answer, or (`None`) that no writer is at work.
type Ended = Option<Answer>;

struct Asking<'a> {
    with: Ask<'a>,
    request: Request,
    /// The newest root that was seen.
    newest: Root,
    begun_us: u64,
    /// Since when nobody has taken it up.
    round_us: u64,
    rounds: u32,
    /// The last sign of the writer that has it: its name and number, and when that was new.
    heard: Option<(String, u64)>,
    heard_us: u64,
    said_us: u64,
    /// The last writer that was told to do it, or may have been.
    told: Option<String>,
}

impl Ask<'_> {
    /// Asks, and waits for what comes of it. `None`: no writer is at work.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn run(self) -> Result<Option<Answer>, StoreError> {
        let (now, id) = (self.edge.now_us(), self.edge.uuid().to_string());
        let (wanted, since) = (self.wanted.clone(), self.newest.epoch);
        let asking = Asking {
            request: Request { id, wanted, since, of: None, again: false },
            newest: self.newest.clone(),
            with: self,
            begun_us: now,
            round_us: now,
            rounds: 0,
            heard: None,
            heard_us: now,
            said_us: now,
            told: None,
        };
        asking.run().await
    }
}

impl Asking<'_> {
    async fn run(mut self) -> Result<Ended, StoreError> {
        self.put().await?;
        let seconds = taken_up_within(self.with.store).as_secs();
        let poll = look_every(self.with.store) / 5;
        (self.with.say)(&format!(
            "asking the writer that is at work; if none takes it up within {seconds} s, it is done here"
        ));
        let mut failures = 0;
        loop {
            self.with.edge.sleep(poll).await;
            match self.step().await {
                Ok(None) => failures = 0,
                Ok(Some(ended)) => {
                    // What stays behind is nobody's, and a writer deletes it.
                    if let Err(error) = self.withdraw().await {
                        tracing::warn!(%error, "the request cannot be taken back");
                    }
                    return Ok(ended);
                }
                Err(StoreError::Failed(error)) if failures < FAILURES_MAX => {
                    failures += 1;
                    tracing::debug!(error, failures, "the store does not answer; trying again");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One look at what became of it.
    async fn step(&mut self) -> Result<Option<Ended>, StoreError> {
        match sign(&**self.with.store, &self.request.id).await? {
            Some(Sign::Answered(answer)) => Ok(Some(Some(answer))),
            Some(Sign::Taken { by, beat }) => self.taken(by, beat).await,
            None => self.not_taken().await,
        }
    }

    fn now(&self) -> u64 {
        self.with.edge.now_us()
    }

    async fn put(&self) -> Result<(), StoreError> {
        put(&**self.with.store, &request_name(&self.request.id), &self.request).await
    }

    /// First the request: an answer without one is nobody's.
    async fn withdraw(&self) -> Result<(), StoreError> {
        self.with.store.delete(&request_name(&self.request.id)).await?;
        self.with.store.delete(&answer_name(&self.request.id)).await
    }

    fn say_at_times(&mut self, what: impl FnOnce(u64) -> String) {
        let now = self.now();
        if now - self.said_us >= SAY_EVERY_US {
            self.said_us = now;
            (self.with.say)(&what((now - self.begun_us) / 1_000_000));
        }
    }

    /// A writer has it.
    async fn taken(&mut self, by: String, beat: u64) -> Result<Option<Ended>, StoreError> {
        let now = self.now();
        if self.request.of.as_ref() != Some(&by) {
            (self.with.say)("the writer that is at work has taken it up");
            self.request.again |= self.told.as_ref().is_some_and(|told| *told != by);
            self.told = Some(by.clone());
            let of_it = Request { of: Some(by.clone()), ..self.request.clone() };
            put(&**self.with.store, &request_name(&of_it.id), &of_it).await?;
            self.request = of_it;
        }
        let heard = Some((by, beat));
        if self.heard != heard {
            (self.heard, self.heard_us) = (heard, now);
        }
        let silent = now - self.heard_us;
        if silent > SILENT_MAX_US {
            return self.given_up(silent / 1_000_000).await.map(Some);
        }
        if now - self.begun_us > TAKES_MAX_US {
            let why = "the writer that is at work has taken it up and is still at it after an hour; it may yet be \
                       done: `log` and `tag` show it when it is";
            return Ok(Some(Some(Err(why.to_string()))));
        }
        let lost = silent > taken_up_within(self.with.store).as_micros() as u64;
        self.say_at_times(|seconds| match lost {
            false => format!("waiting for {seconds} s: the writer that is at work has it, and is at something else"),
            true => format!(
                "waiting for {seconds} s: the writer that took it up is not heard of any more; if it is started again, \
                 or another one is, that one goes on with it"
            ),
        });
        Ok(None)
    }

    /// The writer that took it up is gone, and none has come.
    async fn given_up(&mut self, seconds: u64) -> Result<Ended, StoreError> {
        let store = self.with.store.clone();
        store.delete(&request_name(&self.request.id)).await?;
        if let Some(Sign::Answered(answer)) = sign(&*store, &self.request.id).await? {
            return Ok(Some(answer));
        }
        self.look().await?;
        let done = fulfilled(&*store, &self.newest, &self.request).await?;
        Ok(Some(done.unwrap_or_else(|| {
            Err(format!(
                "a writer took it up and has not been heard of for {seconds} s; the request is withdrawn, and the log \
                 does not say that it was done. If no writer is at work, repeat the command, and it is done here; `log` \
                 and `tag` show it if that writer was only slow and does it yet"
            ))
        })))
    }

    /// Looks for the newest root; whether there is a newer one.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let newest = newest_root(&**self.with.store, Some(&Seen::of(&self.newest))).await?;
        let newer = newest.filter(|newest| newest.epoch > self.newest.epoch);
        let is_newer = newer.is_some();
        self.newest = newer.unwrap_or_else(|| self.newest.clone());
        Ok(is_newer)
    }

    /// No writer has it.
    async fn not_taken(&mut self) -> Result<Option<Ended>, StoreError> {
        if self.heard.take().is_some() {
            // It was given back, by a writer that has ended.
            (self.request.of, self.round_us) = (None, self.now());
            self.put().await?;
            self.look().await?;
            (self.with.say)("the writer that took it up has ended; asking for the next one");
            return Ok(None);
        }
        if self.now() - self.round_us < taken_up_within(self.with.store).as_micros() as u64 {
            return Ok(None);
        }
        // Who throws requests away is at work, too.
        let thrown = find(&**self.with.store, &request_name(&self.request.id)).await?.is_none();
        if self.look().await? || thrown {
            return self.is_at_work().await;
        }
        if self.told.is_some()
            && let Some(answer) = fulfilled(&**self.with.store, &self.newest, &self.request).await?
        {
            return Ok(Some(Some(answer)));
        }
        Ok(Some(None))
    }

    /// Somebody commits and has not taken it up.
    async fn is_at_work(&mut self) -> Result<Option<Ended>, StoreError> {
        self.rounds += 1;
        if self.rounds >= ROUNDS_MAX {
            let seconds = (self.now() - self.begun_us) / 1_000_000;
            let epoch = self.newest.epoch;
            return Ok(Some(Some(Err(format!(
                "a writer is at work (the newest commit is {epoch} now) and has taken nothing up within {seconds} s: it \
                 is of another release, or it cannot list the store. Nothing was done; end that writer, then repeat \
                 the command, and it is done here"
            )))));
        }
        self.put().await?;
        self.round_us = self.now();
        self.say_at_times(|seconds| {
            format!("waiting for {seconds} s: a writer is at work and has not taken it up yet")
        });
        Ok(None)
    }
}
