//! What people ask of a running writer: tags and rollbacks, left in the store for it.
//!
//! ```text
//!  process   claim ── Desk: takes requests up, all the time ───────────────> gives back what is left
//!  runs        └─ starts ─ Asked: carries out ─ ends ──┬─ starts, goes back ─ Asked: answers ...
//!                                └─ rollback ──────────┘
//! ```
//!
//! A tag is done beside the run. A rollback is a new beginning: once it is sure that the commit is kept and
//! that the sources still hold what followed it, the run ends in order, and the next one, in the same process,
//! goes back in its first commit. Whoever asked is answered when a root says it. Where the next run finds that it
//! cannot go back after all, it says so to whoever asked, and another one goes on from the newest commit as if
//! nobody had asked.

use super::gauges::Gauges;
use super::start::Started;
use crate::Error;
use futures::channel::mpsc::UnboundedSender;
use futures::future::{Either, select};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemill_core::edge::SharedEdge;
use tidemill_core::log::newest_root;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::writer::requests::{Answer, Desk, Request, Taken, Wanted, fulfilled};
use tidemill_core::writer::{ToPublisher, kept_root};
use tidemill_types::{Epoch, Root};
use tokio::runtime::Handle;

/// A rollback on its way through the end of one run and the beginning of the next.
#[derive(Clone)]
struct Back {
    to: Epoch,
    request: Request,
    /// Everything of the run that goes back is started.
    begun: bool,
}

#[derive(Default)]
struct Inner {
    desk: Option<Arc<Desk>>,
    looking: Option<super::Aborted>,
    /// What the run ends for.
    wanted: Option<Back>,
    /// What the run does first.
    doing: Option<Back>,
}

/// What is asked of a process, over all its runs.
#[derive(Clone, Default)]
pub(super) struct Asking(Arc<Mutex<Inner>>);

/// What comes after a run.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum After {
    /// Another run, which goes back first if it says where to.
    Another(Option<Epoch>),
    /// Nothing.
    Nothing,
}

impl Asking {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store is claimed: requests are taken up from now on. The first run of a process begins it.
    pub(super) fn begin(&self, store: &SharedStore, edge: &SharedEdge, runtime: &Handle) {
        let mut inner = self.inner();
        if inner.desk.is_none() {
            let desk = Arc::new(Desk::new(store.clone(), edge.clone()));
            let looking = desk.clone();
            let looking = runtime.spawn(async move { looking.run().await });
            inner.looking = Some(super::Aborted(looking.abort_handle()));
            inner.desk = Some(desk);
        }
    }

    /// Where the next run goes back to, if this one ends for that.
    pub(super) fn to(&self) -> Option<Epoch> {
        self.inner().wanted.as_ref().map(|back| back.to)
    }

    /// A run starts: it does what the one before ended for.
    pub(super) fn run_starts(&self) {
        let mut inner = self.inner();
        inner.doing = inner.wanted.take();
    }

    /// Everything of the run is started: what fails from now on may have gone back before.
    pub(super) fn run_begins(&self) {
        if let Some(back) = &mut self.inner().doing {
            back.begun = true;
        }
    }

    fn desk(&self) -> Option<Arc<Desk>> {
        self.inner().desk.clone()
    }

    fn answer(&self, runtime: &Handle, back: &Back, answer: Answer) {
        if let Some(desk) = self.desk() {
            runtime.block_on(desk.answer(&back.request.id, answer));
        }
    }

    /// What comes after a run that ended so; `went`: the commit that went back, if one did. A run that could not
    /// go back, and did nothing yet, is followed by one that does not.
    pub(super) fn after<T>(
        &self,
        runtime: &Handle,
        ended: &Result<T, Error>,
        stopped: bool,
        went: Option<Epoch>,
    ) -> After {
        let (doing, wanted) = {
            let mut inner = self.inner();
            (inner.doing.take(), inner.wanted.clone())
        };
        // Whoever has the store now has the request, too.
        if let Err(Error::Superseded(_)) = ended {
            return After::Nothing;
        }
        let begun = doing.as_ref().is_some_and(|back| back.begun);
        if let Some(back) = &doing {
            match (ended, went.filter(|_| begun)) {
                (_, Some(by)) => self.answer(runtime, back, Ok(back.request.wanted.done(by))),
                (Err(error), None) => {
                    let why = format!("epoch {} was not gone back to: {error}", back.to);
                    self.answer(runtime, back, Err(why));
                }
                // Told to stop before: it is given back.
                (Ok(_), None) => {}
            }
        }
        match (ended, wanted) {
            _ if stopped => After::Nothing,
            (Err(_), _) if doing.is_some() && !begun => After::Another(None),
            (Ok(_), Some(back)) => After::Another(Some(back.to)),
            _ => After::Nothing,
        }
    }

    /// The process ends. Where it ended in order, what is not answered is given back; else the next writer finds
    /// it taken up by one that is gone.
    pub(super) fn end(&self, runtime: &Handle, in_order: bool) {
        // Before the looks end: one that is cut off midway may have a request to the store under way.
        if let Some(desk) = self.desk().filter(|_| in_order) {
            let left = runtime.block_on(async { tokio::time::timeout(LEAVING_MAX, desk.leave()).await });
            if left.is_err() {
                tracing::warn!("what was asked could not be given back: the store does not answer");
            }
        }
        self.inner().looking = None;
    }
}

/// Ends a look at the sources when nobody waits for it any more.
#[derive(Default)]
struct Enough(Arc<AtomicBool>);

impl Drop for Enough {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Whether what lies between an earlier root and the newest can be read again from the sources, which are waited
/// for until the flag is set. An error: why not.
pub(super) type Readable = Arc<dyn Fn(&Root, &Root, &AtomicBool) -> Result<(), String> + Send + Sync>;

/// Carries out what the desk has, as long as a run lasts.
pub(super) struct Asked {
    store: SharedStore,
    edge: SharedEdge,
    publisher: UnboundedSender<ToPublisher>,
    gauges: Arc<Gauges>,
    readable: Readable,
    asking: Asking,
    desk: Arc<Desk>,
}

/// How often is looked for a commit that says what was asked for, and for the next request.
const LOOK: Duration = Duration::from_millis(50);
/// How long sources are waited for before a rollback is refused.
const SOURCES_MAX: Duration = Duration::from_secs(60);
/// How long an ending process tries to give back what was asked.
const LEAVING_MAX: Duration = Duration::from_secs(5);

impl Asked {
    /// Of a run that was started; `None` where the process has no desk.
    pub(super) fn of(
        started: &Started,
        publisher: UnboundedSender<ToPublisher>,
        readable: Readable,
        asking: Asking,
    ) -> Option<Self> {
        let (store, edge, gauges) = (started.store.clone(), started.edge.clone(), started.gauges.clone());
        let desk = asking.desk()?;
        Some(Self { store, edge, publisher, gauges, readable, asking, desk })
    }

    /// Until the run ends.
    pub(super) async fn run(self) {
        while self.gauges.is_going_back() {
            self.edge.sleep(LOOK).await;
        }
        let done = self.asking.inner().doing.clone();
        if let Some(back) = done {
            let went = back.request.wanted.done(self.gauges.show().epoch);
            self.desk.answer(&back.request.id, Ok(went)).await;
            // A run that ends before this answers once more, which does no harm.
            self.asking.inner().doing = None;
        }
        loop {
            match self.desk.next().await {
                Some(taken) => self.fulfil(taken).await,
                None => self.edge.sleep(LOOK).await,
            }
        }
    }

    async fn fulfil(&self, taken: Taken) {
        let request = taken.request;
        if taken.resumed {
            match self.done_before(&request).await {
                Ok(None) => {}
                Ok(Some(answer)) => return self.desk.answer(&request.id, answer).await,
                Err(error) => {
                    tracing::warn!(%error, "it cannot be told whether a request was fulfilled; trying again");
                    return self.edge.sleep(LOOK * 10).await;
                }
            }
        }
        let answer = match &request.wanted {
            Wanted::Tag { name, epoch } => self.tag(name, Some(*epoch), &request).await,
            Wanted::Untag { name } => self.tag(name, None, &request).await,
            Wanted::RollBack { to } => match self.can_go_back(*to).await {
                Ok(()) => {
                    self.asking.inner().wanted = Some(Back { to: *to, request, begun: false });
                    // The run ends now; the next one answers.
                    return futures::future::pending().await;
                }
                Err(why) => Err(why),
            },
        };
        self.desk.answer(&request.id, answer).await;
    }

    /// What came of a request that was begun before.
    async fn done_before(&self, request: &Request) -> Result<Option<Answer>, StoreError> {
        match newest_root(&*self.store, None).await? {
            Some(newest) => fulfilled(&*self.store, &newest, request).await,
            None => Ok(None),
        }
    }

    async fn tag(&self, name: &str, epoch: Option<Epoch>, request: &Request) -> Answer {
        let (told, done) = futures::channel::oneshot::channel();
        let tag = ToPublisher::Tag(name.to_string(), epoch, told);
        let sent = self.publisher.unbounded_send(tag).is_ok();
        match done.await {
            Ok(tagged) if sent => tagged?,
            // The run is ending: the next one, or the next writer, does it.
            _ => return futures::future::pending().await,
        }
        while self.gauges.tag(name).map(|tag| tag.epoch) != epoch {
            self.edge.sleep(LOOK).await;
        }
        Ok(request.wanted.done(self.gauges.show().epoch))
    }

    async fn can_go_back(&self, to: Epoch) -> Result<(), String> {
        let failed = |error: StoreError| error.to_string();
        let newest = newest_root(&*self.store, None).await.map_err(failed)?.ok_or("the store is empty")?;
        let root = kept_root(&self.store, &newest, to).await?;
        let (readable, enough) = (self.readable.clone(), Enough::default());
        let stop = enough.0.clone();
        let looked = Box::pin(self.edge.computed(move || readable(&root, &newest, &stop)));
        let looked = match select(looked, self.edge.sleep(SOURCES_MAX)).await {
            Either::Left((looked, _)) => looked,
            Either::Right(((), looked)) => {
                enough.0.store(true, Ordering::Release);
                looked.await
            }
        };
        looked.unwrap_or_else(|| Err("looking at the sources was cut off by an internal error".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(to: Epoch) -> Back {
        let (id, wanted) = ("1".into(), Wanted::RollBack { to });
        Back { to, request: Request { id, wanted, since: 9, of: None, again: false }, begun: false }
    }

    #[test]
    fn a_run_that_cannot_go_back_is_followed_by_one_that_does_not_and_no_other_error_is() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let after = |asking: &Asking, ended: &Result<(), Error>, stopped| {
            asking.after(runtime.handle(), ended, stopped, Some(3))
        };
        let (asking, broken) = (Asking::default(), Err(Error::failed("epoch 5 is no longer retained")));
        assert_eq!(after(&asking, &broken, false), After::Nothing);
        asking.inner().wanted = Some(back(5));
        assert_eq!(after(&asking, &broken, false), After::Nothing, "the run failed before it ended for that");
        assert_eq!(after(&asking, &Ok(()), true), After::Nothing, "told to stop");
        assert_eq!(after(&asking, &Ok(()), false), After::Another(Some(5)));
        asking.run_starts();
        assert_eq!(asking.to(), None);
        assert_eq!(after(&asking, &broken, false), After::Another(None));
        assert_eq!(after(&asking, &broken, false), After::Nothing, "it was not for going back");
        asking.inner().wanted = Some(back(5));
        asking.run_starts();
        asking.run_begins();
        assert_eq!(after(&asking, &broken, false), After::Nothing, "it had begun");
        asking.inner().wanted = Some(back(5));
        asking.run_starts();
        let superseded = Err(Error::Superseded("another writer has the store".into()));
        assert_eq!(after(&asking, &superseded, false), After::Nothing, "another writer has the store");
    }
}
