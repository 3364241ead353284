//! The writer's side: takes requests up, says that it has them, and answers.
//!
//! ```text
//!  seen ──> TakenUp ──wanted of us──> Wanted ──next──> Begun ──answer──> Answered ──said──> left to who asked
//!              │ not for long            │ withdrawn     │ the run ends                         │ seen for long
//!              └──> deleted <────────────┘               └──> Begun, resumed by the next run    └──> deleted
//! ```
//!
//! The desk belongs to the process and not to one of its runs: between two of them, while one starts, and while
//! a publication takes long, requests are taken up all the same. Only the desk writes answers, under one lock, so
//! that none is overwritten by a later "taken up".

use super::{ANSWER, Answer, FOLDER, Request, Sign, answer_name, find, look_every, put, request_name, sign};
use crate::edge::SharedEdge;
use crate::store::{SharedStore, StoreError};
use futures::lock::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a request that was taken up may be wanted of nobody.
const UNWANTED_MAX_US: u64 = 60_000_000;
/// How long an answer waits for who asked.
const ANSWERED_MAX_US: u64 = 600_000_000;
/// Requests of which is remembered that they were answered.
const ANSWERED_MAX: usize = 256;

/// A request that is to be carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The request.
    pub request: Request,
    /// Whether it had been begun before, by a writer or a run that ended: it may have been done.
    pub resumed: bool,
}

#[derive(PartialEq, Eq, Debug)]
enum Stage {
    TakenUp,
    Wanted,
    Begun,
    Answered(Answer),
}

/// A request that has no answer in the store yet.
#[derive(Debug)]
struct Held {
    request: Request,
    stage: Stage,
    resumed: bool,
    /// How often it was said that it is taken up.
    beat: u64,
    beaten_us: u64,
    seen_us: u64,
}

#[derive(Debug, Default)]
struct State {
    held: Vec<Held>,
    /// Answers that stand in the store, and since when they are seen.
    said: BTreeMap<String, u64>,
    /// The last that were answered here. A store may carry a put out a second time, late: what comes back so is
    /// not done again.
    answered: VecDeque<String>,
    /// Whether nothing is taken up any more.
    left: bool,
}

impl State {
    /// An answer stands in the store.
    fn said(&mut self, id: String, now: u64) {
        self.answered.truncate(ANSWERED_MAX - 1);
        self.answered.push_front(id.clone());
        self.said.insert(id, now);
    }
}

/// What is asked of a writer; see the module.
pub struct Desk {
    store: SharedStore,
    edge: SharedEdge,
    /// Its name to those who ask.
    writer: String,
    state: Mutex<State>,
}

impl Desk {
    /// The desk of a process that has claimed its store.
    pub fn new(store: SharedStore, edge: SharedEdge) -> Self {
        let writer = edge.uuid().to_string();
        Self { store, edge, writer, state: Mutex::default() }
    }

    /// Looks for requests until the task is dropped.
    pub async fn run(&self) {
        loop {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "requests cannot be looked for; trying again");
            }
            self.edge.sleep(self.pause().await).await;
        }
    }

    /// Until the next look: short while somebody is about to say that a request is wanted of us.
    async fn pause(&self) -> Duration {
        let held = &self.state.lock().await.held;
        let soon = held.iter().any(|held| held.stage == Stage::TakenUp);
        look_every(&self.store) / if soon { 5 } else { 1 }
    }

    /// Takes up what is new, learns what is wanted of us, and deletes what was left behind.
    ///
    /// # Errors
    ///
    /// When the store fails; the next look goes on.
    pub async fn look(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        if state.left {
            return Ok(());
        }
        let (mut requests, mut answers) = (BTreeSet::new(), BTreeSet::new());
        for object in self.store.list(FOLDER).await? {
            let name = object.name.strip_prefix(FOLDER).unwrap_or_default();
            match (name.strip_suffix(ANSWER), name.strip_suffix(".json")) {
                (Some(id), _) => drop(answers.insert(id.to_string())),
                (_, Some(id)) => drop(requests.insert(id.to_string())),
                _ => {}
            }
        }
        for id in &requests {
            if !state.said.contains_key(id) && state.held.iter().all(|held| held.request.id != *id) {
                self.take_up(&mut state, id).await?;
            }
        }
        let mut place = 0;
        while place < state.held.len() {
            match self.look_at(&mut state.held[place], &requests).await? {
                Some(Left::Deleted) => drop(state.held.remove(place)),
                Some(Left::Said) => {
                    let held = state.held.remove(place);
                    state.said(held.request.id, self.edge.now_us());
                }
                None => place += 1,
            }
        }
        self.clear(&mut state, &requests, &answers).await
    }

    /// The request of an id, if it is there; what cannot be read is deleted.
    async fn request(&self, id: &str) -> Result<Option<Request>, StoreError> {
        let Some(body) = find(&*self.store, &request_name(id)).await? else { return Ok(None) };
        let request: Option<Request> = serde_json::from_slice(&body).ok();
        let request = request.filter(|request| request.id == id);
        if request.is_none() {
            self.store.delete(&request_name(id)).await?;
        }
        Ok(request)
    }

    async fn take_up(&self, state: &mut State, id: &str) -> Result<(), StoreError> {
        if state.answered.iter().any(|answered| answered == id) {
            return self.store.delete(&request_name(id)).await;
        }
        let Some(request) = self.request(id).await? else { return Ok(()) };
        let now = self.edge.now_us();
        let resumed = match sign(&*self.store, id).await? {
            Some(Sign::Answered(_)) => {
                state.said.insert(request.id, now);
                return Ok(());
            }
            Some(Sign::Taken { by, .. }) => by != self.writer,
            None => false,
        };
        tracing::info!(wanted = ?request.wanted, resumed, "asked");
        let taken = Sign::Taken { by: self.writer.clone(), beat: 0 };
        put(&*self.store, &answer_name(id), &taken).await?;
        let stage = Stage::TakenUp;
        state.held.push(Held { request, stage, resumed, beat: 0, beaten_us: now, seen_us: now });
        Ok(())
    }

    /// Looks at a request that is held; whether it no longer is.
    async fn look_at(
        &self,
        held: &mut Held,
        requests: &BTreeSet<String>,
    ) -> Result<Option<Left>, StoreError> {
        let (id, now) = (held.request.id.clone(), self.edge.now_us());
        match &held.stage {
            Stage::Answered(answer) => {
                put(&*self.store, &answer_name(&id), &Sign::Answered(answer.clone())).await?;
                return Ok(Some(Left::Said));
            }
            Stage::TakenUp => match self.request(&id).await? {
                None => return self.let_go(&id).await.map(Some),
                Some(request) if request.of.as_ref() == Some(&self.writer) => {
                    held.resumed |= request.again;
                    (held.request, held.stage) = (request, Stage::Wanted);
                }
                Some(_) if now - held.seen_us > UNWANTED_MAX_US => {
                    tracing::warn!(wanted = ?held.request.wanted, "whoever asked has gone; it is not done");
                    return self.let_go(&id).await.map(Some);
                }
                Some(_) => {}
            },
            Stage::Wanted if !requests.contains(&id) && self.request(&id).await?.is_none() => {
                tracing::info!(wanted = ?held.request.wanted, "whoever asked wants it no more");
                return self.let_go(&id).await.map(Some);
            }
            Stage::Wanted | Stage::Begun => {}
        }
        if now - held.beaten_us >= look_every(&self.store).as_micros() as u64 {
            held.beat += 1;
            let taken = Sign::Taken { by: self.writer.clone(), beat: held.beat };
            put(&*self.store, &answer_name(&id), &taken).await?;
            held.beaten_us = now;
        }
        Ok(None)
    }

    async fn let_go(&self, id: &str) -> Result<Left, StoreError> {
        self.store.delete(&request_name(id)).await?;
        self.store.delete(&answer_name(id)).await?;
        Ok(Left::Deleted)
    }

    /// Deletes answers that nobody waits for: their requests are gone, or they were seen for long.
    async fn clear(
        &self,
        state: &mut State,
        requests: &BTreeSet<String>,
        answers: &BTreeSet<String>,
    ) -> Result<(), StoreError> {
        for id in answers.difference(requests) {
            let held = state.held.iter().any(|held| held.request.id == *id);
            // A list may lag behind what was put.
            if !held && self.request(id).await?.is_none() {
                self.store.delete(&answer_name(id)).await?;
                state.said.remove(id);
            }
        }
        let now = self.edge.now_us();
        let old = |since: &u64| now - since > ANSWERED_MAX_US;
        let ids: Vec<String> =
            state.said.iter().filter(|(_, at)| old(at)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.let_go(&id).await?;
            state.said.remove(&id);
        }
        Ok(())
    }

    /// The next request that is to be carried out. One that was handed out before and not answered is handed
    /// out again.
    pub async fn next(&self) -> Option<Taken> {
        let mut state = self.state.lock().await;
        let held = state.held.iter_mut().find(|held| matches!(held.stage, Stage::Wanted | Stage::Begun))?;
        let resumed = held.resumed || held.stage == Stage::Begun;
        held.stage = Stage::Begun;
        Some(Taken { request: held.request.clone(), resumed })
    }

    /// Says what came of a request. What the store does not take now is said at a later look.
    pub async fn answer(&self, id: &str, answer: Answer) {
        match &answer {
            Ok(done) => tracing::info!(done, "answered"),
            Err(why) => tracing::warn!(why, "refused"),
        }
        let mut state = self.state.lock().await;
        let Some(place) = state.held.iter().position(|held| held.request.id == id) else { return };
        state.held[place].stage = Stage::Answered(answer.clone());
        match put(&*self.store, &answer_name(id), &Sign::Answered(answer)).await {
            Ok(()) => {
                state.held.remove(place);
                state.said(id.to_string(), self.edge.now_us());
            }
            Err(error) => tracing::warn!(%error, "whoever asked cannot be answered; trying again"),
        }
    }

    /// Takes nothing up any more, and gives back what is not answered, for the next writer or for who asked. Only
    /// for a process that ended in order and commits nothing more.
    pub async fn leave(&self) {
        let mut state = self.state.lock().await;
        state.left = true;
        for held in std::mem::take(&mut state.held) {
            let name = answer_name(&held.request.id);
            let done = match held.stage {
                Stage::Answered(answer) => put(&*self.store, &name, &Sign::Answered(answer)).await,
                _ => self.store.delete(&name).await,
            };
            if let Err(error) = done {
                tracing::warn!(%error, wanted = ?held.request.wanted, "a request cannot be given back");
            }
        }
    }
}

/// Why a request is not held any more.
enum Left {
    Deleted,
    Said,
}
