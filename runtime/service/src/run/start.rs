//! The start of a run: find the newest root, refuse what may not change, claim, and say what is stored.

use super::clock::{Stopwatch, now_ms, parse_ms, stopwatch};
use super::collecting::{Collector, collector};
use super::committing::{delete_all, stamp};
use super::gauges::Gauges;
use super::health::Phase;
use super::stream_tables;
use crate::Error;
use crate::config::Settings;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_connectors::lake::{LakeOptions, LakePublisher, Snapshot, SnapshotOptions};
use tidemill_connectors::store::SegmentCache;
use tidemill_connectors::store::log::{newest_root, read_hint, read_root};
use tidemill_core::bodies::BodyCache;
use tidemill_core::commit::{self, Beginning, InForce, models_in_force};
use tidemill_core::program::Program;
use tidemill_core::source::SourceFactory;
use tidemill_core::store::{Created, SharedStore, StoreError};
use tidemill_core::view::{EachRow, Share, Stored, ViewError};
use tidemill_types::invariants::follows;
use tidemill_types::{Epoch, ModelId, Root, TableSchema, root_name};
use tokio::runtime::Handle;

/// What a claim needs.
pub(super) struct Claiming<'a> {
    pub(super) store: SharedStore,
    pub(super) program: Arc<dyn Program>,
    pub(super) sources: &'a dyn SourceFactory,
    pub(super) stop: &'a AtomicBool,
    pub(super) settings: &'a Settings,
    pub(super) model: ModelId,
    pub(super) runtime: Handle,
    pub(super) stopwatch: Stopwatch,
    pub(super) bodies: BodyCache,
    pub(super) gauges: Arc<Gauges>,
}

/// A claimed store, before anything runs.
pub(super) struct Started {
    pub(super) store: SharedStore,
    pub(super) program: Arc<dyn Program>,
    pub(super) schemas: Arc<[TableSchema]>,
    pub(super) runtime: Handle,
    pub(super) stopwatch: Stopwatch,
    pub(super) gauges: Arc<Gauges>,
    pub(super) claim: Root,
    pub(super) in_force: InForce,
    pub(super) changed: bool,
    pub(super) stored: Arc<StoredAtStart>,
    pub(super) segments: Arc<SegmentCache>,
    pub(super) snapshots: SnapshotOptions,
    pub(super) lake: Mutex<Option<Lake>>,
}

/// What is stored at the claim, until the first commit after it: then nobody asks any more, and the
/// memory is given back.
pub(super) struct StoredAtStart(Mutex<Option<Arc<Snapshot>>>);

impl StoredAtStart {
    /// Gives the memory back.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Stored for StoredAtStart {
    fn for_each_row(
        &self,
        table: &str,
        columns: Option<&[usize]>,
        share: Share,
        each: EachRow<'_>,
    ) -> Result<(), ViewError> {
        let snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match snapshot {
            Some(snapshot) => Stored::for_each_row(&*snapshot, table, columns, share, each),
            None => Err(ViewError("what was stored at the start is asked for after the first commit".into())),
        }
    }
}

/// The lake as it is at the claim.
pub(super) struct Lake {
    pub(super) publisher: LakePublisher,
    pub(super) collector: Collector,
    /// When the epoch of the newest publication was committed, milliseconds since 1970.
    pub(super) newest_named: i64,
    /// When the oldest unpublished change was committed.
    pub(super) changed_since: Option<i64>,
}

/// The fixed settings in which a program differs from the store's.
fn refused(program: &dyn Program, newest: &Root) -> Option<String> {
    let ours = program.id();
    if ours.name != newest.program.name {
        return Some(format!(
            "the store belongs to the program `{}`, this is `{}`: choose another store",
            newest.program.name, ours.name
        ));
    }
    let mut fixed = program.fixed_settings().into_iter();
    let differs = |name: &&str| ours.settings.get(name) != newest.program.settings.get(name);
    let name = fixed.find(differs)?;
    let value =
        |settings: &serde_json::Value| settings.get(name).map_or("absent".into(), ToString::to_string);
    Some(format!(
        "the setting `{name}` is fixed by the store's first commit: it is {} there and {} now. Start with the old \
         value, or with a new store",
        value(&newest.program.settings),
        value(&ours.settings)
    ))
}

/// How often a store that does not take the claim is asked again, and after which time: a start says soon
/// what is wrong, while a run waits for its store.
const CLAIM_FAILURES_MAX: u32 = 20;
const CLAIM_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Claims the store: a root of a higher generation that repeats all else.
async fn claim_root(
    store: &SharedStore,
    program: &dyn Program,
    model: &ModelId,
) -> Result<(Option<Root>, Root), Error> {
    let mut failures = 0;
    loop {
        let newest = newest_for(store, program).await?;
        let start =
            InForce { program: program.id(), models: vec![model.clone()], beginning: Beginning::default() };
        let claim = commit::claim(newest.as_ref(), store.location(), &start, stamp());
        if let Some(newest) = &newest {
            follows(newest, &claim).map_err(Error::failed)?;
        }
        let body = serde_json::to_vec(&claim).map_err(Error::failed)?;
        match store.create(&root_name(claim.epoch), Bytes::from(body)).await {
            Ok(Created::New) => return Ok((newest, claim)),
            answer => match read_root(&**store, claim.epoch).await {
                Ok(found) if found.nonce == claim.nonce => return Ok((newest, claim)),
                // Taken by another, which we go on from, or not there, so the same again.
                Ok(_) | Err(StoreError::NotFound { .. }) => {
                    if let Err(error) = answer {
                        failures += 1;
                        if failures >= CLAIM_FAILURES_MAX || matches!(error, StoreError::Closed(_)) {
                            return Err(error.into());
                        }
                        tracing::warn!(%error, "the store could not be claimed; trying again");
                        tokio::time::sleep(CLAIM_PAUSE).await;
                    }
                }
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// The newest root, if the program may go on from it.
async fn newest_for(store: &SharedStore, program: &dyn Program) -> Result<Option<Root>, Error> {
    let hint = read_hint(&**store).await.unwrap_or_default();
    let newest = newest_root(&**store, hint).await?;
    match newest.as_ref().and_then(|newest| refused(program, newest)) {
        Some(why) => Err(Error::Failed(why)),
        None => Ok(newest),
    }
}

/// Claims the store and reads what a run goes on from; `None` if told to stop while a source was waited for.
pub(super) fn claim(claiming: Claiming<'_>) -> Result<Option<Started>, Error> {
    let Claiming { store, program, sources, stop, settings, model, runtime, stopwatch, bodies, gauges } =
        claiming;
    // A run that cannot begin must not shut out the writer that is at work.
    let newest = runtime.block_on(newest_for(&store, &*program))?;
    let (positions, cursors) = newest.map(|root| (root.positions, root.cursors)).unwrap_or_default();
    if sources.begin(&positions, &cursors, stop)?.is_none() {
        return Ok(None);
    }
    let (before, claim) = runtime.block_on(claim_root(&store, &*program, &model))?;
    let (epoch, published) = (claim.epoch, claim.published.as_ref().map(|p| p.epoch));
    tracing::info!(generation = claim.generation, epoch, published, "the store is claimed");
    gauges.enter(Phase::Starting("the store is claimed; what it holds is being read".into()));
    // The writer before may have committed more since.
    let Some(beginning) = sources.begin(&claim.positions, &claim.cursors, stop)? else { return Ok(None) };
    beginning
        .gaps
        .iter()
        .for_each(|gap| tracing::warn!(reason = gap.reason, "going on without what is gone"));
    if let Some(before) = &before {
        runtime.block_on(delete_all(&store, &before.dropped));
    }
    let in_force = InForce { program: program.id(), models: models_in_force(Some(&claim), model), beginning };
    let changed = in_force.program != claim.program || in_force.models != claim.models;
    let schemas: Arc<[TableSchema]> = program.tables().into();
    let snapshots = SnapshotOptions {
        store: store.clone(),
        handle: runtime.clone(),
        schemas: schemas.clone(),
        streams: stream_tables(&*program),
        extract: program.clone(),
        memory_bytes_max: settings.memory.publish_bytes() as usize,
    };
    let stored = Snapshot::of(snapshots.clone(), claim.clone())?;
    gauges.start(&claim, rows(&stored, &schemas)?);
    let segments = Arc::new(SegmentCache::new(settings.memory.segment_cache_bytes()));
    let mut started = Started {
        store,
        program,
        schemas,
        runtime,
        stopwatch,
        gauges,
        claim,
        in_force,
        changed,
        stored: Arc::new(StoredAtStart(Mutex::new(Some(Arc::new(stored))))),
        segments,
        snapshots,
        lake: Mutex::default(),
    };
    let lake = open_lake(&started, settings, before.as_ref(), bodies)?;
    started.lake = Mutex::new(Some(lake));
    Ok(Some(started))
}

fn rows(stored: &Snapshot, schemas: &[TableSchema]) -> Result<BTreeMap<String, i64>, Error> {
    let mut rows = BTreeMap::new();
    for schema in schemas {
        rows.insert(schema.name.clone(), stored.count(&schema.name)? as i64);
    }
    Ok(rows)
}

fn open_lake(
    started: &Started,
    settings: &Settings,
    before: Option<&Root>,
    bodies: BodyCache,
) -> Result<Lake, Error> {
    let (store, runtime, claim) = (&started.store, &started.runtime, &started.claim);
    let (cache, reading, handle) = (started.segments.clone(), store.clone(), runtime.clone());
    let options = LakeOptions {
        store: store.clone(),
        handle: runtime.clone(),
        schemas: started.schemas.clone(),
        streams: started.snapshots.streams.clone(),
        extract: started.program.clone(),
        segments: Arc::new(move |segment| {
            let body = handle.block_on(cache.segment(&*reading, segment))?;
            // Of the log's tail at a start: the publication reads it once for each table.
            cache.insert(&segment.name, body.clone());
            Ok(body)
        }),
        bodies: Some(Arc::new(move |digest| bodies.get(digest))),
        uuids: Arc::new(super::clock::uuid),
        clock: Arc::new(now_ms),
        memory_bytes_max: settings.memory.publish_bytes() as usize,
    };
    let timer = stopwatch();
    let mut publisher = LakePublisher::open(options, claim)?;
    let published = claim.published.as_ref().map(|p| p.epoch);
    let newest_named = match published.or(before.map(|_| claim.log_from)) {
        Some(epoch) => committed_ms(&runtime.block_on(read_root(&**store, epoch))?),
        None => committed_ms(claim),
    };
    let mut changed_since = None;
    for epoch in publisher.next_root()..=claim.epoch {
        let root = catch_up(started, epoch)?;
        tidemill_core::view::View::committed(&mut publisher, &root);
        started.gauges.found(&root);
        if publisher.unpublished().is_some() {
            changed_since.get_or_insert(committed_ms(&root));
        }
    }
    let collector = collector(store.clone(), runtime.clone(), settings.store.retention, claim, before);
    tracing::info!(ms = timer() / 1000, epoch = claim.epoch, "the lake is open");
    Ok(Lake { publisher, collector, newest_named, changed_since })
}

fn catch_up(started: &Started, epoch: Epoch) -> Result<Root, Error> {
    if epoch == started.claim.epoch {
        return Ok(started.claim.clone());
    }
    Ok(started.runtime.block_on(read_root(&*started.store, epoch))?)
}

fn committed_ms(root: &Root) -> i64 {
    parse_ms(&root.committed_at).unwrap_or_else(now_ms)
}
