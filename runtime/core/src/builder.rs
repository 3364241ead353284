//! The builder through which a program wires its flow to sources, results and tables.
//!
//! Everything that crosses from the edge into the flow is an input registered here, and everything that
//! leaves it is a table or the pending requests. A table's changes go to the worker that holds their
//! keys' share, where they wait, by epoch, for the seal.

use crate::model::{Outcome, Request, ResultRow, TextDigest};
use crate::program::Program;
use crate::seal::Restored;
use crate::segment::{ChangeBatch, Updates};
use crate::source::{RejectRow, SourceRow, Word};
use crate::view::{Portion, Stored, ViewError};
use crate::words::WordReader;
use differential_dataflow::{AsCollection, ExchangeData, VecCollection};
use hashbrown::HashMap;
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use tidemill_types::{Cell, CellReader, Digest, Epoch, ModelId, Row, RowError, TableSchema, key_digest};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Filter;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Scope, Stream};

/// An input of the flow whose type is forgotten.
pub(crate) trait FlowInput {
    /// Feeds a batch of the input's own type at the current epoch.
    fn feed(&mut self, batch: Box<dyn Any + Send>);
    /// Feeds this worker's portion of what is stored: the flow itself brings rows to where they belong.
    fn restore(&mut self, stored: &dyn Stored, portion: Portion) -> Result<(), ViewError>;
    /// No more will come below this epoch.
    fn advance_to(&mut self, epoch: Epoch);
}

/// An output that carries nothing but progress.
type Tokens = timely::container::CapacityContainerBuilder<Vec<()>>;

type Handle<D> = InputHandle<Epoch, timely::container::CapacityContainerBuilder<Vec<D>>>;

struct WordsInput<T: SourceRow> {
    handle: Handle<(Digest, Word<T>)>,
    state_table: String,
}

impl<T: SourceRow> FlowInput for WordsInput<T> {
    fn feed(&mut self, batch: Box<dyn Any + Send>) {
        let words = batch.downcast::<Vec<(Digest, Word<T>)>>().expect("the decoder's rows are the input's");
        words.into_iter().for_each(|word| self.handle.send(word));
    }

    fn restore(&mut self, stored: &dyn Stored, portion: Portion) -> Result<(), ViewError> {
        let (table, handle, mut reader) = (&self.state_table, &mut self.handle, WordReader::<T>::default());
        stored.for_each_row(table, Some(&reader.columns()), portion, &mut |cells| {
            handle.send(reader.read(cells).map_err(|e| ViewError(format!("{table}: {e}")))?);
            Ok(())
        })
    }

    fn advance_to(&mut self, epoch: Epoch) {
        self.handle.advance_to(epoch);
    }
}

struct ResultsInput {
    handle: Handle<(ResultRow, Epoch, isize)>,
    embeddings: String,
    failures: String,
    models: Arc<[ModelId]>,
}

impl ResultsInput {
    fn restore_table(
        &mut self,
        stored: &dyn Stored,
        portion: Portion,
        table: &str,
        failures: bool,
    ) -> Result<(), ViewError> {
        let (epoch, models, handle) = (*self.handle.time(), &self.models, &mut self.handle);
        stored.for_each_row(table, None, portion, &mut |cells| {
            let row = read_result(cells, models, failures);
            handle.send((row.map_err(|e| ViewError(format!("{table}: {e}")))?, epoch, 1));
            Ok(())
        })
    }
}

impl FlowInput for ResultsInput {
    fn feed(&mut self, batch: Box<dyn Any + Send>) {
        let rows = batch.downcast::<Vec<ResultRow>>().expect("results are fed as result rows");
        let epoch = *self.handle.time();
        rows.into_iter().for_each(|row| self.handle.send((row, epoch, 1)));
    }

    fn restore(&mut self, stored: &dyn Stored, portion: Portion) -> Result<(), ViewError> {
        let (embeddings, failures) = (self.embeddings.clone(), self.failures.clone());
        self.restore_table(stored, portion, &embeddings, false)?;
        self.restore_table(stored, portion, &failures, true)
    }

    fn advance_to(&mut self, epoch: Epoch) {
        self.handle.advance_to(epoch);
    }
}

struct RejectsInput(Handle<(RejectRow, Epoch, isize)>);

impl FlowInput for RejectsInput {
    fn feed(&mut self, batch: Box<dyn Any + Send>) {
        let rows = batch.downcast::<Vec<RejectRow>>().expect("rejects are fed as reject rows");
        let epoch = *self.0.time();
        rows.into_iter().for_each(|row| self.0.send((row, epoch, 1)));
    }

    /// Rejects are appended to; nothing in the flow depends on the old ones.
    fn restore(&mut self, _: &dyn Stored, _: Portion) -> Result<(), ViewError> {
        Ok(())
    }

    fn advance_to(&mut self, epoch: Epoch) {
        self.0.advance_to(epoch);
    }
}

/// One table's changes on this worker, by epoch.
pub(crate) trait TableBuffer {
    /// Takes the changes of an epoch.
    fn take(&self, epoch: Epoch) -> Option<Box<dyn ChangeBatch>>;
}

/// Changes that wait for the seal, by epoch.
type Waiting<R> = Rc<RefCell<BTreeMap<Epoch, Vec<(R, isize)>>>>;

struct TypedBuffer<R>(Waiting<R>);

impl<R: Row + Ord + Send + 'static> TableBuffer for TypedBuffer<R> {
    fn take(&self, epoch: Epoch) -> Option<Box<dyn ChangeBatch>> {
        let updates = self.0.borrow_mut().remove(&epoch)?;
        Some(Box::new(Updates(updates)))
    }
}

/// This worker's share of the pending requests, and those that nobody has looked at yet, oldest first.
#[derive(Default)]
pub(crate) struct PendingRequests {
    pub(crate) counts: HashMap<Request, isize>,
    pub(crate) fresh: VecDeque<Request>,
}

impl PendingRequests {
    fn update(&mut self, request: Request, diff: isize) {
        let count = self.counts.entry(request).or_insert(0);
        let before = *count;
        *count += diff;
        if *count == 0 {
            self.counts.remove(&request);
        } else if before <= 0 && *count > 0 {
            self.fresh.push_back(request);
        }
    }

    pub(crate) fn waits(&self, request: &Request) -> bool {
        self.counts.get(request).is_some_and(|count| *count > 0)
    }
}

pub(crate) type PendingShare = Rc<RefCell<PendingRequests>>;

/// What a built flow consists of on one worker.
pub(crate) struct Wired {
    pub(crate) words: BTreeMap<usize, Box<dyn FlowInput>>,
    pub(crate) results: Option<Box<dyn FlowInput>>,
    pub(crate) rejects: Option<Box<dyn FlowInput>>,
    pub(crate) tables: Vec<(usize, Box<dyn TableBuffer>)>,
    pub(crate) pending: PendingShare,
    pub(crate) pending_probe: ProbeHandle<Epoch>,
}

/// Wires a flow on one worker.
pub struct Builder<'s> {
    scope: Scope<'s, Epoch>,
    schemas: Arc<[TableSchema]>,
    models: Arc<[ModelId]>,
    /// What the flow is filled with at a start; `None`: it begins with nothing.
    restored: Option<Restored>,
    wired: Wired,
    tokens: Vec<Stream<'s, Epoch, Vec<()>>>,
}

impl<'s> Builder<'s> {
    /// A builder for a program's flow in a scope.
    pub(crate) fn new(
        scope: Scope<'s, Epoch>,
        schemas: Arc<[TableSchema]>,
        models: Arc<[ModelId]>,
        restored: Option<Restored>,
    ) -> Self {
        let wired = Wired {
            words: BTreeMap::new(),
            results: None,
            rejects: None,
            tables: Vec::new(),
            pending: PendingShare::default(),
            pending_probe: ProbeHandle::new(),
        };
        Self { scope, schemas, models, restored, wired, tokens: Vec::new() }
    }

    /// Builds a program's flow; gives its parts and one token stream a table.
    pub(crate) fn wire(mut self, program: &dyn Program) -> (Wired, Vec<Stream<'s, Epoch, Vec<()>>>) {
        program.build(&mut self);
        (self.wired, self.tokens)
    }

    /// The scope to build in.
    pub fn scope(&self) -> Scope<'s, Epoch> {
        self.scope
    }

    /// The store's models, sorted by when each last came into force: the one in use is at the end.
    pub fn models(&self) -> Arc<[ModelId]> {
        self.models.clone()
    }

    /// The words of a source stream, as they arrive: an append-only stream, not a collection. At a
    /// start it begins with what the stream's state table holds.
    pub fn words<T: SourceRow>(
        &mut self,
        stream: usize,
        state_table: &str,
    ) -> Stream<'s, Epoch, Vec<(Digest, Word<T>)>> {
        let (handle, words) = self.scope.new_input::<Vec<(Digest, Word<T>)>>();
        let input = WordsInput { handle, state_table: state_table.to_string() };
        self.wired.words.insert(stream, Box::new(input));
        words
    }

    /// What was rejected, as it arrives.
    pub fn rejects(&mut self) -> VecCollection<'s, Epoch, RejectRow> {
        let (handle, rejects) = self.scope.new_input::<Vec<(RejectRow, Epoch, isize)>>();
        self.wired.rejects = Some(Box::new(RejectsInput(handle)));
        rejects.as_collection()
    }

    /// The committed results of all models, and those that arrive. They are committed to the two
    /// tables, whose columns are [`results_schema`] and [`failures_schema`].
    pub fn results(&mut self, embeddings: &str, failures: &str) -> VecCollection<'s, Epoch, ResultRow> {
        let (handle, results) = self.scope.new_input::<Vec<(ResultRow, Epoch, isize)>>();
        let input = ResultsInput {
            handle,
            embeddings: embeddings.to_string(),
            failures: failures.to_string(),
            models: self.models.clone(),
        };
        self.wired.results = Some(Box::new(input));
        let results = results.as_collection();
        let models = self.models.clone();
        let rows = results.clone().map(move |row| ResultTableRow {
            model: models.get(row.model as usize).cloned().unwrap_or_else(unknown_model),
            row,
        });
        let failed = |row: &ResultTableRow| matches!(*row.row.outcome, Outcome::Failure { .. });
        self.table(embeddings, rows.clone().filter(move |row| !failed(row)));
        self.table(failures, rows.filter(failed));
        results
    }

    /// The requests that wait for an answer of the model in force: this is its queue.
    pub fn pending(&mut self, pending: VecCollection<'s, Epoch, Request>) {
        let share = self.wired.pending.clone();
        let by_digest = Exchange::new(|(request, _, _): &(Request, Epoch, isize)| first_8(&request.digest));
        let done: Stream<'s, Epoch, Vec<()>> =
            pending.inner.unary::<Tokens, _, _, _>(by_digest, "pending", move |_, _| {
                move |input, _| {
                    input.for_each_stamp(|_, batches| {
                        let mut share = share.borrow_mut();
                        for (request, _, diff) in batches.flat_map(|batch| batch.drain(..)) {
                            share.update(request, diff);
                        }
                    });
                }
            });
        self.tokens.push(done.probe_with(&self.wired.pending_probe));
    }

    /// Commits a collection as a table of the program.
    ///
    /// # Panics
    /// If the program has no table of that name.
    pub fn table<R>(&mut self, name: &str, rows: VecCollection<'s, Epoch, R>)
    where
        R: Row + ExchangeData + Send,
    {
        let place = self.schemas.iter().position(|schema| schema.name == name);
        let place = place.unwrap_or_else(|| panic!("the program declares no table {name}"));
        let (schemas, buffer) =
            (self.schemas.clone(), Rc::new(RefCell::new(BTreeMap::<Epoch, Vec<_>>::new())));
        self.wired.tables.push((place, Box::new(TypedBuffer(buffer.clone()))));
        let by_key =
            Exchange::new(move |(row, _, _): &(R, Epoch, isize)| row_key(&schemas[place], row).low64());
        // What the flow is filled with is stored: unless it is made anew, nobody asks for it again.
        let filled = self.restored.as_ref().filter(|restored| !restored.recomputes(place));
        let new_from = filled.map_or(0, |restored| restored.epoch + 1);
        let new = rows.inner.filter(move |(_, epoch, _)| *epoch >= new_from);
        let token = new.unary::<Tokens, _, _, _>(by_key, "table", move |_, _| {
            move |input, _| {
                input.for_each_stamp(|_, batches| {
                    let mut buffer = buffer.borrow_mut();
                    for (row, epoch, diff) in batches.flat_map(|batch| batch.drain(..)) {
                        buffer.entry(epoch).or_default().push((row, diff));
                    }
                });
            }
        });
        self.tokens.push(token);
    }
}

fn first_8(digest: &TextDigest) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

fn unknown_model() -> ModelId {
    ModelId { model: "unknown".into(), version: String::new() }
}

/// The key digest of a typed row.
pub fn row_key(schema: &TableSchema, row: &dyn Row) -> Digest {
    let mut cells = Vec::with_capacity(schema.columns.len());
    row.cells(&mut |cell| cells.push(cell));
    key_digest(schema, cells)
}

/// The schema of a table of model outputs.
pub fn results_schema(table: &str) -> TableSchema {
    use tidemill_types::Kind;
    TableSchema::new(
        table,
        [
            ("text_digest*", Kind::String),
            ("model*", Kind::String),
            ("version*", Kind::String),
            ("vector", Kind::Floats),
            ("tokens", Kind::Long),
        ],
    )
}

/// The schema of a table of final failures.
pub fn failures_schema(table: &str) -> TableSchema {
    use tidemill_types::Kind;
    TableSchema::new(
        table,
        [
            ("text_digest*", Kind::String),
            ("model*", Kind::String),
            ("version*", Kind::String),
            ("error", Kind::String),
            ("attempts", Kind::Int),
        ],
    )
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
struct ResultTableRow {
    row: ResultRow,
    model: ModelId,
}

impl Row for ResultTableRow {
    fn cells<'a>(&'a self, out: &mut dyn FnMut(Cell<'a>)) {
        out(Cell::Hex(&self.row.digest));
        out(Cell::Str(&self.model.model));
        out(Cell::Str(&self.model.version));
        match &*self.row.outcome {
            Outcome::Vector { vector, tokens } => {
                out(Cell::Floats(vector));
                out(Cell::Long(*tokens as i64));
            }
            Outcome::Failure { error, attempts } => {
                out(Cell::Str(error));
                out(Cell::Int(*attempts as i32));
            }
        }
    }
}

fn read_result(cells: &[Cell<'_>], models: &[ModelId], failure: bool) -> Result<ResultRow, RowError> {
    let wrong = |column, found: &str, expected| RowError { column, found: found.to_string(), expected };
    let mut reader = CellReader::new(cells);
    let hex = reader.str()?;
    let digest = parse_hex(hex).ok_or_else(|| wrong(0, hex, "64 hex digits"))?;
    let (model, version) = (reader.str()?, reader.str()?);
    let known = models.iter().position(|known| known.model == model && known.version == version);
    let model = known.ok_or_else(|| wrong(1, model, "a model that the root lists"))? as u32;
    let outcome = match failure {
        false => Outcome::Vector { vector: reader.floats()?.to_vec(), tokens: reader.long()? as u64 },
        true => Outcome::Failure { error: reader.str()?.to_string(), attempts: reader.int()? as u32 },
    };
    Ok(ResultRow { digest, model, outcome: Arc::new(outcome) })
}

fn parse_hex(hex: &str) -> Option<TextDigest> {
    let mut digest = [0; 32];
    let digits = hex.as_bytes();
    if digits.len() != 2 * digest.len() {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    for (byte, digits) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(digest)
}
