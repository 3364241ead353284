//! Texts made again from bodies.
//!
//! A live body is always owned by some row. A body that changed hands during the fold stands in
//! a segment of the fold, in the cache, or in the lake: at the row's own old place, or at the old place
//! of its partner (the state table's word that became current, or the other way round). An extracted
//! text is made from the body that its source row carries as of the new epoch, and must have the
//! identity that its handle says. Bodies are visited one by one; only the texts that come of them stay.

use super::fold::{Fold, FoldContext};
use super::index::Place;
use super::io::{FileRef, Io, select_positions};
use super::segments::{BodyCache, body_digests};
use super::{LakeError, unusable};
use arrow::array::{Array, RecordBatch, StringArray};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use tidemill_core::program::Extract;
use tidemill_core::segment::decode_bodies;
use tidemill_types::{Digest, Kind, SegmentRef, Text, Value};

/// The lake as it is before the fold.
pub(super) trait Lake: Sync {
    /// Where a row stands.
    fn place(&self, table: usize, key: Digest) -> Result<Option<Place>, LakeError>;
    /// A data file of a table.
    fn file(&self, table: usize, number: u32) -> Option<FileRef>;
}

/// The bodies in the fold's segments: in memory while they are few, else where they stand.
#[derive(Clone, Default)]
pub(super) struct FoldBodies {
    loaded: HashMap<Digest, Bytes>,
    segment: HashMap<Digest, u32>,
}

/// Makes the texts of rows.
pub(super) struct Texts<'a> {
    io: &'a Io,
    context: &'a FoldContext<'a>,
    fold: &'a Fold,
    lake: &'a dyn Lake,
    extract: &'a dyn Extract,
    cache: Option<&'a BodyCache>,
    /// Those of a fold that is made for one use, or of one that grows.
    bodies: Cow<'a, FoldBodies>,
}

/// A body that is needed, and what for.
struct Need {
    /// Its place among the needs.
    place: usize,
    /// `None`: whichever the row holds in the lake.
    digest: Option<Digest>,
    /// Rows of the lake that may hold it, the likeliest first.
    candidates: Vec<(usize, Digest)>,
    uses: Vec<Text>,
}

/// Takes a body that is needed.
type EachBody<'e> = &'e mut dyn FnMut(&Need, &[u8]) -> Result<(), LakeError>;

/// The texts made so far.
pub(super) type Made = HashMap<Text, String>;

impl<'a> Texts<'a> {
    /// `bodies` are those of the fold.
    pub fn new(
        io: &'a Io,
        context: &'a FoldContext<'a>,
        fold: &'a Fold,
        lake: &'a dyn Lake,
        extract: &'a dyn Extract,
        cache: Option<&'a BodyCache>,
        bodies: Cow<'a, FoldBodies>,
    ) -> Self {
        Self { io, context, fold, lake, extract, cache, bodies }
    }

    /// The texts of rows of one table, by their handles.
    pub fn resolve(&self, table: usize, rows: &[(Digest, Vec<Value>)]) -> Result<Made, LakeError> {
        let needs = self.needs(table, rows)?;
        let mut made = Made::new();
        let left =
            self.visit(needs.iter().collect(), &mut |need, body| self.make(table, need, body, &mut made))?;
        match left.first() {
            None => Ok(made),
            Some(need) => Err(self.failed(table, missing(need))),
        }
    }

    /// Hands out the bodies of rows of a source table, `(key, body's digest)`, by their places in
    /// `wanted`; what is not there is left out.
    pub fn bodies(
        &self,
        table: usize,
        wanted: &[(Digest, Digest)],
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), LakeError> {
        let need = |(place, (key, digest)): (usize, &(Digest, Digest))| Need {
            place,
            digest: Some(*digest),
            candidates: self.candidates((table, *key)),
            uses: Vec::new(),
        };
        let needs: Vec<Need> = wanted.iter().enumerate().map(need).collect();
        self.visit(needs.iter().collect(), &mut |need, body| {
            each(need.place, body);
            Ok(())
        })?;
        Ok(())
    }

    /// Visits the body of each need, wherever it stands; those whose body is nowhere are given back.
    fn visit<'n>(&self, needs: Vec<&'n Need>, each: EachBody<'_>) -> Result<Vec<&'n Need>, LakeError> {
        let mut by_segment: BTreeMap<u32, Vec<&Need>> = BTreeMap::new();
        let mut in_lake = Vec::new();
        for need in needs {
            match need.digest.and_then(|digest| self.at_hand(digest)) {
                Some(body) => each(need, &body)?,
                None => match need.digest.and_then(|digest| self.bodies.segment.get(&digest)) {
                    Some(segment) => by_segment.entry(*segment).or_default().push(need),
                    None => in_lake.push(need),
                },
            }
        }
        for (segment, needs) in by_segment {
            self.read_segment(&self.fold.segments[segment as usize], &needs, each)?;
        }
        self.read_lake(in_lake, each)
    }

    fn at_hand(&self, digest: Digest) -> Option<Bytes> {
        let loaded = self.bodies.loaded.get(&digest).cloned();
        loaded.or_else(|| self.cache.and_then(|cache| cache(digest)))
    }

    fn needs(&self, table: usize, rows: &[(Digest, Vec<Value>)]) -> Result<Vec<Need>, LakeError> {
        let mut numbers: HashMap<(usize, Digest, Option<Digest>), usize> = HashMap::new();
        let mut needs: Vec<Need> = Vec::new();
        let mut seen = HashSet::new();
        for (key, values) in rows {
            for value in values {
                let Value::Text(text) = value else { continue };
                if !seen.insert(*text) {
                    continue;
                }
                let (owner, digest) = self.owner(table, *key, text)?;
                let number = *numbers.entry((owner.0, owner.1, digest)).or_insert_with(|| {
                    let (place, candidates) = (needs.len(), self.candidates(owner));
                    needs.push(Need { place, digest, candidates, uses: Vec::new() });
                    place
                });
                needs[number].uses.push(*text);
            }
        }
        Ok(needs)
    }

    /// The row that owns the body of a text as of the new epoch, and the body's digest if the log tells.
    fn owner(
        &self,
        table: usize,
        key: Digest,
        text: &Text,
    ) -> Result<((usize, Digest), Option<Digest>), LakeError> {
        let Some(origin) = text.origin else { return Ok(((table, key), Some(text.digest))) };
        let stream = self.context.streams.get(origin.stream as usize);
        let raw =
            stream.ok_or_else(|| self.failed(table, format!("there is no stream {}", origin.stream)))?.raw;
        let Some(change) = self.fold.tables[raw].keys.get(&origin.key) else {
            return Ok(((raw, origin.key), None));
        };
        let carried = change.current.and(self.fold.tables[raw].carried.get(&origin.key));
        match carried.and_then(|carried| carried.body) {
            Some((digest, _)) => Ok(((raw, origin.key), Some(digest))),
            None => {
                let owner = &self.context.schemas[raw].name;
                Err(self
                    .failed(table, format!("the row {} of {owner} that it is made from is gone", origin.key)))
            }
        }
    }

    /// The row's own old place, then that of its partner.
    fn candidates(&self, owner: (usize, Digest)) -> Vec<(usize, Digest)> {
        let carried = self.fold.tables[owner.0].carried.get(&owner.1);
        let partner = self.context.partner(owner.0).zip(carried.map(|carried| carried.partner));
        std::iter::once(owner).chain(partner).collect()
    }

    fn read_segment(
        &self,
        segment: &SegmentRef,
        needs: &[&Need],
        each: EachBody<'_>,
    ) -> Result<(), LakeError> {
        let Some(section) = &segment.bodies else { return Ok(()) };
        let mut wanted: HashMap<Digest, Vec<&Need>> = HashMap::new();
        for need in needs {
            if let Some(digest) = need.digest {
                wanted.entry(digest).or_default().push(need);
            }
        }
        let bodies = decode_bodies(&self.context.bytes(segment)?, section, |d| wanted.contains_key(&d))?;
        for (digest, body) in bodies {
            for need in wanted.remove(&digest).unwrap_or_default() {
                each(need, &body)?;
            }
        }
        Ok(())
    }

    fn read_lake<'n>(
        &self,
        mut needs: Vec<&'n Need>,
        each: EachBody<'_>,
    ) -> Result<Vec<&'n Need>, LakeError> {
        let (mut round, mut nowhere) = (0, Vec::new());
        while !needs.is_empty() {
            let mut placed: BTreeMap<(usize, u32), BTreeMap<u32, Vec<&'n Need>>> = BTreeMap::new();
            let mut left = Vec::new();
            for need in needs {
                let Some((owner, key)) = need.candidates.get(round).copied() else {
                    nowhere.push(need);
                    continue;
                };
                match self.lake.place(owner, key)? {
                    Some(place) => {
                        let file = placed.entry((owner, place.file)).or_default();
                        file.entry(place.position).or_default().push(need);
                    }
                    None => left.push(need),
                }
            }
            for ((owner, number), positions) in placed {
                self.read_file(owner, number, positions, each, &mut left)?;
            }
            needs = left;
            round += 1;
        }
        Ok(nowhere)
    }

    /// Visits the bodies at some positions of a data file; needs that do not match are `left`.
    fn read_file<'n>(
        &self,
        owner: usize,
        number: u32,
        positions: BTreeMap<u32, Vec<&'n Need>>,
        each: EachBody<'_>,
        left: &mut Vec<&'n Need>,
    ) -> Result<(), LakeError> {
        let schema = &self.context.schemas[owner];
        let Some(file) = self.lake.file(owner, number) else {
            return Err(unusable(&schema.name)(format!("it has no data file {number}")));
        };
        let texts = schema.columns.iter().enumerate().filter(|(_, c)| c.kind == Kind::Text);
        let columns: Vec<usize> = texts.map(|(place, _)| place).collect();
        let selection = select_positions(&positions.keys().copied().collect::<Vec<_>>());
        let mut waiting = positions.into_values();
        self.io.scan(&file, Some(&columns), Some(selection), &mut |batch| {
            for row in 0..batch.num_rows() {
                for need in waiting.next().unwrap_or_default() {
                    match matching(&batch, row, need.digest) {
                        Some(body) => each(need, body.as_bytes())?,
                        None => left.push(need),
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn make(&self, table: usize, need: &Need, body: &[u8], made: &mut Made) -> Result<(), LakeError> {
        for text in &need.uses {
            let string = match text.origin {
                None => std::str::from_utf8(body).map(str::to_string).map_err(|error| {
                    self.failed(table, format!("body {} is not UTF-8: {error}", text.digest))
                })?,
                Some(origin) => {
                    let made = self.extract.text(origin.stream, origin.part, body);
                    let made = made.map_err(|problem| self.failed(table, problem))?;
                    // A body that was found by its digest can only give the text that it gave on arrival.
                    if need.digest.is_none() && self.extract.identity(&made) != text.digest {
                        let problem =
                            format!("part {} of row {} is not what its handle says", origin.part, origin.key);
                        return Err(self.failed(table, problem));
                    }
                    made
                }
            };
            made.insert(*text, string);
        }
        Ok(())
    }

    fn failed(&self, table: usize, problem: String) -> LakeError {
        LakeError::Text { table: self.context.schemas[table].name.clone(), problem }
    }
}

fn missing(need: &Need) -> String {
    match (need.digest, need.uses.first()) {
        (Some(digest), _) => format!("body {digest} is neither in the log nor in the lake"),
        (None, Some(text)) => format!("the row that text {} is made from is not in the lake", text.digest),
        (None, None) => "a row is not in the lake".to_string(),
    }
}

/// The text of a row that has the digest; the first, if any will do.
fn matching(batch: &RecordBatch, row: usize, digest: Option<Digest>) -> Option<&str> {
    let columns = batch.columns().iter().filter_map(|column| column.as_any().downcast_ref::<StringArray>());
    let mut texts = columns.filter(|column| !column.is_null(row)).map(|column| column.value(row));
    match digest {
        None => texts.next(),
        Some(digest) => texts.find(|text| Digest::of(text.as_bytes()) == digest),
    }
}

impl FoldBodies {
    /// Lists the bodies of the fold's segments from a number on, and loads none.
    pub fn list(&mut self, context: &FoldContext<'_>, fold: &Fold, from: usize) -> Result<(), LakeError> {
        for (number, segment) in fold.segments.iter().enumerate().skip(from) {
            if let Some(section) = &segment.bodies {
                let digests = body_digests(&context.bytes(segment)?, section)?;
                self.segment.extend(digests.into_iter().map(|digest| (digest, number as u32)));
            }
        }
        Ok(())
    }

    /// Those of a fold's segments; `bytes_max` bounds what is kept in memory, the rest is listed.
    pub fn load(
        context: &FoldContext<'_>,
        fold: &Fold,
        cache: Option<&BodyCache>,
        bytes_max: usize,
    ) -> Result<Self, LakeError> {
        let mut bodies = Self::default();
        let mut bytes = 0;
        for (number, segment) in fold.segments.iter().enumerate() {
            let Some(section) = &segment.bodies else { continue };
            let segment = context.bytes(segment)?;
            let digests = body_digests(&segment, section)?;
            let cached = cache.is_some_and(|cache| digests.iter().all(|digest| cache(*digest).is_some()));
            // Compressed text grows by a small factor; a section that might not fit is only listed, as is
            // one that is at hand.
            if cached || bytes + 8 * section.length as usize > bytes_max {
                bodies.segment.extend(digests.into_iter().map(|digest| (digest, number as u32)));
                continue;
            }
            for (digest, body) in decode_bodies(&segment, section, |_| true)? {
                bytes += body.len();
                bodies.loaded.insert(digest, body);
            }
        }
        Ok(bodies)
    }
}

/// The cells of a row with its texts put in.
pub(super) fn resolved<'r>(
    values: &'r [Value],
    made: &'r Made,
) -> impl Iterator<Item = tidemill_types::Cell<'r>> {
    values.iter().map(|value| match value {
        Value::Text(text) => match made.get(text) {
            Some(string) => tidemill_types::Cell::Str(string),
            None => tidemill_types::Cell::Text(*text),
        },
        other => other.cell(),
    })
}
