//! The start of a run: find the newest root, refuse what may not change, claim, and say what is stored.

use super::asked::Asking;
use super::clock::{Stopwatch, stopwatch};
use super::gauges::Gauges;
use super::health::Phase;
use super::recovery::{Recovery, Step};
use super::{sources, stream_tables};
use crate::Error;
use crate::config::Settings;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemill_connectors::edge::Tokio;
use tidemill_connectors::lake::{LakeOptions, LakePublisher, Snapshot, SnapshotOptions};
use tidemill_connectors::store::SegmentCache;
use tidemill_core::bodies::BodyCache;
use tidemill_core::commit::{Beginning, Fenced, InForce, RollBack, models_in_force};
use tidemill_core::edge::{SharedEdge, parse_ms};
use tidemill_core::log::{newest_root, read_root};
use tidemill_core::program::Program;
use tidemill_core::source::SourceFactory;
use tidemill_core::store::SharedStore;
use tidemill_core::view::{EachRow, Portion, Stored, View, ViewError};
use tidemill_core::writer::{
    Back, Claim, ClaimError, Claimed, Collector, Retention, Standing, claim_store, idle_max_us, kept_root,
};
use tidemill_types::{Cell, Epoch, ModelId, Root, TableSchema};
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
    /// The commit to go back to, if one is.
    pub(super) roll_back: Option<Epoch>,
    /// Whether it goes on where records of a source are gone.
    pub(super) accept_gap: bool,
    /// Takes requests up from the claim on.
    pub(super) asking: &'a Asking,
    pub(super) recovery: Arc<Recovery>,
}

/// A claimed store, before anything runs.
pub(super) struct Started {
    pub(super) store: SharedStore,
    pub(super) program: Arc<dyn Program>,
    pub(super) schemas: Arc<[TableSchema]>,
    pub(super) runtime: Handle,
    pub(super) edge: SharedEdge,
    pub(super) stopwatch: Stopwatch,
    pub(super) gauges: Arc<Gauges>,
    pub(super) claim: Root,
    /// How sure this writer may be that it is the newest.
    pub(super) standing: Standing,
    pub(super) in_force: InForce,
    pub(super) changed: bool,
    /// The commit that the run goes back to, if it does.
    pub(super) back: Option<Back>,
    pub(super) stored: Arc<StoredAtStart>,
    pub(super) segments: Arc<SegmentCache>,
    pub(super) snapshots: SnapshotOptions,
    pub(super) lake: Mutex<Option<Lake>>,
    pub(super) recovery: Arc<Recovery>,
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
        portion: Portion,
        each: EachRow<'_>,
    ) -> Result<(), ViewError> {
        let snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match snapshot {
            Some(snapshot) => Stored::for_each_row(&*snapshot, table, columns, portion, each),
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

/// The newest root, if the program may go on from it.
async fn newest_for(store: &SharedStore, program: &dyn Program) -> Result<Option<Root>, Error> {
    let newest = newest_root(&**store, None).await?;
    match newest.as_ref().and_then(|newest| refused(program, newest)) {
        Some(why) => Err(Error::Failed(why)),
        None => Ok(newest),
    }
}

/// The tables of a commit that a run goes back to.
fn gone_back(snapshots: &SnapshotOptions, program: &dyn Program, root: Root) -> Result<Back, Error> {
    let sources = program.source_tables().into_iter().flat_map(|(raw, words)| [raw, words]);
    let restored = sources.chain([program.rejects_table().to_string()]).collect();
    Ok(Back { tables: Arc::new(Snapshot::of(snapshots.clone(), root)?), restored })
}

/// Rows that are counted at once.
const ROWS_COUNTED: u64 = 1024;

/// What the workers are filled with: the words of the commit that the run goes back to, if it does, and all
/// else as it is at the claim.
pub(super) struct Filling {
    pub(super) stored: Arc<StoredAtStart>,
    pub(super) back: Option<Back>,
    pub(super) recovery: Arc<Recovery>,
}

impl Stored for Filling {
    fn for_each_row(
        &self,
        table: &str,
        columns: Option<&[usize]>,
        portion: Portion,
        each: EachRow<'_>,
    ) -> Result<(), ViewError> {
        let mut rows = 0;
        let mut counted = |row: &[Cell<'_>]| {
            rows += 1;
            if rows == ROWS_COUNTED {
                self.recovery.filled(std::mem::take(&mut rows));
            }
            each(row)
        };
        let each: EachRow<'_> = &mut counted;
        let read =
            match self.back.as_ref().filter(|back| back.restored.iter().any(|restored| restored == table)) {
                Some(back) => back.tables.for_each_row(table, columns, portion, each),
                None => self.stored.for_each_row(table, columns, portion, each),
            };
        self.recovery.filled(rows);
        read
    }
}

/// Claims the store and reads what a run goes on from; `None` if told to stop while a source was waited for.
pub(super) fn claim(claiming: Claiming<'_>) -> Result<Option<Started>, Error> {
    let (sources, stop) = (claiming.sources, claiming.stop);
    // A run that cannot begin must not shut out the writer that is at work.
    let newest = claiming.runtime.block_on(newest_for(&claiming.store, &*claiming.program))?;
    let back = claiming.goes_back_to(newest.as_ref())?;
    if let (Some(back), Some(newest)) = (&back, &newest) {
        sources::hold(sources, claiming.accept_gap, back, newest)?;
    }
    let goes_on_from = back.clone().or(newest);
    let (positions, cursors) = goes_on_from.map(|root| (root.positions, root.cursors)).unwrap_or_default();
    if sources.begin(&positions, &cursors, stop)?.is_none() {
        return Ok(None);
    }
    let edge = Tokio::shared(claiming.runtime.clone());
    let claimed = claiming.claim(&edge)?;
    let (runtime, store, ours) = (claiming.runtime.clone(), claiming.store.clone(), claimed.claim.generation);
    go_on(claiming, edge, claimed).map_err(|error| or_superseded(error, &runtime, &store, ours))
}

/// Goes on from a claim that stands.
fn go_on(claiming: Claiming<'_>, edge: SharedEdge, claimed: Claimed) -> Result<Option<Started>, Error> {
    let (sources, stop) = (claiming.sources, claiming.stop);
    claiming.asking.begin(&claiming.store, &edge, &claiming.runtime);
    let claim = &claimed.claim;
    // What the writer before gave up until then is being deleted.
    let back = claiming.goes_back_to(Some(claim))?;
    let (epoch, published) = (claim.epoch, claim.published.as_ref().map(|p| p.epoch));
    tracing::info!(generation = claim.generation, epoch, published, "the store is claimed");
    claiming.recovery.enter(Step::Log);
    claiming.gauges.enter(Phase::Starting("the store is claimed; what it holds is being read".into()));
    // The writer before may have committed more since.
    let goes_on_from = back.as_ref().unwrap_or(claim);
    let beginning = sources.begin(&goes_on_from.positions, &goes_on_from.cursors, stop)?;
    let Some(beginning) = beginning else { return Ok(None) };
    beginning
        .gaps
        .iter()
        .for_each(|gap| tracing::warn!(reason = gap.reason, "going on without what is gone"));
    claiming.load(edge, claimed, beginning, back).map(Some)
}

impl Claiming<'_> {
    /// The root of the commit to go back to, if one is.
    fn goes_back_to(&self, newest: Option<&Root>) -> Result<Option<Root>, Error> {
        let Some(to) = self.roll_back else { return Ok(None) };
        let empty = || Error::failed(format!("epoch {to} is not committed: the store is empty"));
        let kept = self.runtime.block_on(kept_root(&self.store, newest.ok_or_else(empty)?, to));
        kept.map(Some).map_err(Error::failed)
    }

    fn claim(&self, edge: &SharedEdge) -> Result<Claimed, Error> {
        let start = InForce {
            program: self.program.id(),
            models: vec![self.model.clone()],
            beginning: Beginning::default(),
            roll_back: None,
        };
        let refused = |newest: &Root| refused(&*self.program, newest);
        let claimed = claim_store(Claim {
            store: &self.store,
            edge,
            in_force: &start,
            refused: &refused,
            idle_max_us: idle_max_us(self.settings.store.retention),
        });
        Ok(self.runtime.block_on(claimed)?)
    }

    /// Reads what the run goes on from.
    fn load(
        self,
        edge: SharedEdge,
        claimed: Claimed,
        beginning: Beginning,
        back: Option<Root>,
    ) -> Result<Started, Error> {
        let Claimed { before, claim, standing } = claimed;
        let roll_back = back.as_ref().map(|root| RollBack {
            to: root.epoch,
            positions: root.positions.clone(),
            cursors: root.cursors.clone(),
        });
        let models = models_in_force(Some(&claim), self.model);
        let in_force = InForce { program: self.program.id(), models, beginning, roll_back };
        let changed = in_force.program != claim.program || in_force.models != claim.models || back.is_some();
        let schemas: Arc<[TableSchema]> = self.program.tables().into();
        let snapshots = SnapshotOptions {
            store: self.store.clone(),
            edge: edge.clone(),
            threads: self.settings.workers,
            schemas: schemas.clone(),
            streams: stream_tables(&*self.program),
            extract: self.program.clone(),
            memory_bytes_max: self.settings.memory.publish_bytes() as usize,
        };
        let stored = Snapshot::of(snapshots.clone(), claim.clone())?;
        let back = back.map(|root| gone_back(&snapshots, &*self.program, root)).transpose()?;
        self.gauges.start(&claim, rows(&stored, &schemas)?);
        let mut started = Started {
            store: self.store,
            program: self.program,
            schemas,
            runtime: self.runtime,
            edge,
            stopwatch: self.stopwatch,
            gauges: self.gauges,
            claim,
            standing,
            in_force,
            changed,
            back,
            stored: Arc::new(StoredAtStart(Mutex::new(Some(Arc::new(stored))))),
            segments: Arc::new(SegmentCache::new(self.settings.memory.segment_cache_bytes())),
            snapshots,
            lake: Mutex::default(),
            recovery: self.recovery,
        };
        let lake = open_lake(&started, self.settings, before.as_ref(), self.bodies)?;
        started.lake = Mutex::new(Some(lake));
        Ok(started)
    }
}

impl Started {
    /// Whether another writer has taken the store over, in words; `None` if none is known to have.
    pub(super) fn fenced(&self) -> Option<String> {
        fenced(&self.runtime, &self.store, self.claim.generation)
    }

    /// Why the run failed: that another writer has the store, if one has, or the error.
    pub(super) fn or_superseded(&self, error: Error) -> Error {
        or_superseded(error, &self.runtime, &self.store, self.claim.generation)
    }
}

/// How long a store that does not answer is asked for its newest root, and how often.
const LOOK: (Duration, usize) = (Duration::from_secs(5), 3);

fn fenced(runtime: &Handle, store: &SharedStore, ours: u64) -> Option<String> {
    let newest = runtime.block_on(async {
        for _ in 0..LOOK.1 {
            match tokio::time::timeout(LOOK.0, newest_root(&**store, None)).await {
                Ok(Ok(newest)) => return newest,
                Ok(Err(_)) => tokio::time::sleep(LOOK.0 / 5).await,
                Err(_) => {}
            }
        }
        None
    })?;
    let fenced = Fenced { epoch: newest.epoch, theirs: newest.generation, ours };
    (newest.generation > ours).then(|| fenced.to_string())
}

/// What a successor has deleted is missing for that reason and no other.
fn or_superseded(error: Error, runtime: &Handle, store: &SharedStore, ours: u64) -> Error {
    fenced(runtime, store, ours).map_or(error, Error::Superseded)
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
    let (store, edge, claim) = (&started.store, &started.edge, &started.claim);
    let (cache, reading, waiting) = (started.segments.clone(), store.clone(), edge.clone());
    let options = LakeOptions {
        store: store.clone(),
        edge: edge.clone(),
        threads: settings.workers,
        schemas: started.schemas.clone(),
        streams: started.snapshots.streams.clone(),
        extract: started.program.clone(),
        segments: Arc::new(move |segment| {
            let body = waiting.block_on(cache.segment(&*reading, segment))?;
            // Of the log's tail at a start: the publication reads it once for each table.
            cache.insert(&segment.name, body.clone());
            Ok(body)
        }),
        bodies: Some(Arc::new(move |digest| bodies.get(digest))),
        memory_bytes_max: settings.memory.publish_bytes() as usize,
    };
    started.recovery.enter(Step::Lake);
    let timer = stopwatch();
    let mut publisher = LakePublisher::open(options, claim)?;
    let published = claim.published.as_ref().map(|p| p.epoch);
    let newest_named = match published.or(before.map(|_| claim.log_from)) {
        Some(epoch) => committed_ms(started, &edge.block_on(read_root(&**store, epoch))?),
        None => committed_ms(started, claim),
    };
    let mut changed_since = None;
    for epoch in publisher.next_root()..=claim.epoch {
        let root = catch_up(started, epoch)?;
        publisher.committed(&root);
        started.gauges.found(&root);
        if publisher.unpublished().is_some() {
            changed_since.get_or_insert(committed_ms(started, &root));
        }
    }
    let retention = Retention { time: settings.store.retention, commits: settings.store.retention_commits };
    let collector = Collector::new(store.clone(), edge.clone(), retention, claim, before);
    tracing::info!(ms = timer() / 1000, epoch = claim.epoch, "the lake is open");
    started.recovery.enter(Step::Fill);
    Ok(Lake { publisher, collector, newest_named, changed_since })
}

fn catch_up(started: &Started, epoch: Epoch) -> Result<Root, Error> {
    if epoch == started.claim.epoch {
        return Ok(started.claim.clone());
    }
    Ok(started.edge.block_on(read_root(&*started.store, epoch))?)
}

fn committed_ms(started: &Started, root: &Root) -> i64 {
    parse_ms(&root.committed_at).unwrap_or_else(|| started.edge.now_ms())
}

impl From<ClaimError> for Error {
    fn from(error: ClaimError) -> Self {
        Self::failed(error)
    }
}
