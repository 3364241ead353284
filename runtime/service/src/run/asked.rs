//! What people ask of a running writer: tags and rollbacks, left in the store for it.
//!
//! A tag is done beside the run. A rollback is a new beginning: once it is sure that the commit is kept and
//! that the sources still hold what followed it, the run ends in order, and the next one, in the same process,
//! goes back in its first commit. Whoever asked is answered when a root says it.

use super::gauges::Gauges;
use super::start::Started;
use futures::channel::mpsc::UnboundedSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemill_core::edge::SharedEdge;
use tidemill_core::log::newest_root;
use tidemill_core::store::{SharedStore, StoreError};
use tidemill_core::writer::requests::{Answer, Request, Wanted, answer, look_every, open_requests, take_up};
use tidemill_core::writer::{ToPublisher, kept_root};
use tidemill_types::{Epoch, Root};

/// A rollback on its way through the end of one run and the beginning of the next.
#[derive(Clone, Default)]
pub(super) struct GoingBack(Arc<Mutex<Option<(Epoch, Request)>>>);

impl GoingBack {
    /// Where the next run goes back to, if this one ends for that.
    pub(super) fn to(&self) -> Option<Epoch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(to, _)| *to)
    }

    /// Takes it, for the run that does it.
    pub(super) fn take(&self) -> Option<(Epoch, Request)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn wants(&self, to: Epoch, request: Request) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((to, request));
    }
}

/// Whether the sources can be read on from a root's positions. An error: why not.
pub(super) type Readable = Arc<dyn Fn(&Root) -> Result<(), String> + Send + Sync>;

/// Looks for requests and has them done.
pub(super) struct Asked {
    store: SharedStore,
    edge: SharedEdge,
    publisher: UnboundedSender<ToPublisher>,
    gauges: Arc<Gauges>,
    readable: Readable,
    going_back: GoingBack,
    /// The request that this run's first commit fulfils.
    fulfils: Option<(Epoch, Request)>,
}

/// How often is looked whether a commit says what was asked for.
const LOOK: Duration = Duration::from_millis(50);

impl Asked {
    /// Of a run that was started.
    pub(super) fn of(
        started: &Started,
        publisher: UnboundedSender<ToPublisher>,
        readable: Readable,
        going_back: GoingBack,
        fulfils: Option<(Epoch, Request)>,
    ) -> Self {
        let (store, edge, gauges) = (started.store.clone(), started.edge.clone(), started.gauges.clone());
        Self { store, edge, publisher, gauges, readable, going_back, fulfils }
    }

    /// Until the run ends.
    pub(super) async fn run(mut self) {
        if let Some((to, request)) = self.fulfils.take() {
            while self.gauges.is_going_back() {
                self.edge.sleep(LOOK).await;
            }
            let epoch = self.gauges.show().epoch;
            self.say(&request, &Ok(format!("commit {epoch} went back to epoch {to}"))).await;
        }
        loop {
            self.edge.sleep(look_every(&self.store)).await;
            match open_requests(&self.store, &self.edge).await {
                Ok(requests) => {
                    for request in requests {
                        self.fulfil(request).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "requests cannot be looked for; trying again"),
            }
        }
    }

    async fn fulfil(&self, request: Request) {
        tracing::info!(wanted = ?request.wanted, "asked");
        let answered = match &request.wanted {
            Wanted::Tag { name, epoch } => self.tag(name, Some(*epoch)).await,
            Wanted::Untag { name } => self.tag(name, None).await,
            Wanted::RollBack { to } => match self.can_go_back(*to).await {
                Ok(()) => {
                    if let Err(error) = take_up(&self.store, &request).await {
                        return tracing::warn!(%error, "a request cannot be taken up; trying again");
                    }
                    self.going_back.wants(*to, request);
                    // The run ends now; the next one answers.
                    return futures::future::pending().await;
                }
                Err(why) => Err(why),
            },
        };
        self.say(&request, &answered).await;
    }

    async fn say(&self, request: &Request, said: &Answer) {
        match said {
            Ok(done) => tracing::info!(done, "answered"),
            Err(why) => tracing::warn!(why, "refused"),
        }
        if let Err(error) = answer(&self.store, request, said).await {
            tracing::warn!(%error, "whoever asked cannot be answered");
        }
    }

    async fn tag(&self, name: &str, epoch: Option<Epoch>) -> Answer {
        let (told, done) = futures::channel::oneshot::channel();
        let leaving = || "the run is ending; ask again".to_string();
        let tag = ToPublisher::Tag(name.to_string(), epoch, told);
        self.publisher.unbounded_send(tag).map_err(|_| leaving())?;
        done.await.map_err(|_| leaving())??;
        while self.gauges.tag(name).map(|tag| tag.epoch) != epoch {
            self.edge.sleep(LOOK).await;
        }
        Ok(match epoch {
            Some(epoch) => format!("epoch {epoch} is kept as {name}"),
            None => format!("the tag {name} is gone"),
        })
    }

    async fn can_go_back(&self, to: Epoch) -> Result<(), String> {
        let failed = |error: StoreError| error.to_string();
        let newest = newest_root(&*self.store, None).await.map_err(failed)?.ok_or("the store is empty")?;
        let root = kept_root(&self.store, &newest, to).await?;
        let readable = self.readable.clone();
        let looked = self.edge.computed(move || readable(&root)).await;
        looked.unwrap_or_else(|| Err("looking at the sources was cut off by an internal error".into()))
    }
}
