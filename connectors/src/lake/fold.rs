//! The net change of a run of epochs: for each table and key, what the lake holds and what it shall hold.
//!
//! Within one epoch all retractions of all workers' segments come first, then all insertions; epochs come
//! in order. A key's first retraction names the row that the lake holds, so that a fold needs no look at
//! the lake to know what is net nothing. Rows stay in their segments: a key takes about 90 bytes.

use super::segments::{Head, SegmentBytes, heads};
use super::{LakeError, StreamTable};
use bytes::Bytes;
use std::collections::HashMap;
use tidemill_core::segment::{decode_changes, decode_columns};
use tidemill_types::{Cell, Digest, Kind, SectionRef, SegmentRef, TableSchema, Value, key_digest};

/// Where the row of a change stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At {
    pub row: Digest,
    /// The segment's number in the fold.
    pub segment: u32,
    /// The change's number in its section.
    pub place: u32,
}

/// What the fold says of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyChange {
    /// The row that the lake holds; `None`: none.
    pub held: Option<Digest>,
    /// The row that it shall hold; `None`: none.
    pub current: Option<At>,
}

impl KeyChange {
    /// Whether the lake must change.
    pub fn is_net(&self) -> bool {
        self.held != self.current.map(|at| at.row)
    }
}

/// The body that a current row of a source or state table carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Carried {
    /// The body's digest and length; a word that counts carries none.
    pub body: Option<(Digest, u32)>,
    /// The key in the stream's other table of the row that may have held the body before.
    pub partner: Digest,
}

/// The changes of one table.
#[derive(Default)]
pub(super) struct TableFold {
    pub keys: HashMap<Digest, KeyChange>,
    /// Of source and state tables.
    pub carried: HashMap<Digest, Carried>,
}

/// The net change of a run of epochs.
pub(super) struct Fold {
    pub segments: Vec<SegmentRef>,
    pub tables: Vec<TableFold>,
}

/// The segments of one epoch.
pub(super) struct EpochSegments<'a> {
    pub epoch: u64,
    pub segments: &'a [SegmentRef],
}

/// What a fold needs besides the segments.
pub(super) struct FoldContext<'a> {
    pub schemas: &'a [TableSchema],
    pub streams: &'a [StreamTable],
    pub segments: &'a SegmentBytes,
    /// Whether the lake holds a key, where that is known: contradictions are found by it.
    pub holds: &'a (dyn Fn(usize, Digest) -> Option<bool> + Sync),
}

impl FoldContext<'_> {
    /// The changes of a section as rows.
    pub fn changes(
        &self,
        table: usize,
        segment: &SegmentRef,
        section: &SectionRef,
    ) -> Result<Vec<tidemill_core::segment::Change>, LakeError> {
        let bytes = self.bytes(segment)?;
        Ok(decode_changes(&self.schemas[table], &bytes, section)?)
    }

    pub fn bytes(&self, segment: &SegmentRef) -> Result<Bytes, LakeError> {
        Ok((self.segments)(segment)?)
    }

    /// The other table of the stream that a table belongs to.
    pub fn partner(&self, table: usize) -> Option<usize> {
        self.streams.iter().find_map(|stream| match table {
            t if t == stream.raw => Some(stream.words),
            t if t == stream.words => Some(stream.raw),
            _ => None,
        })
    }
}

/// The key of a row's partner: its key columns by name, from this row's columns.
fn partner_key(own: &TableSchema, partner: &TableSchema, values: &[Value]) -> Digest {
    let cells = partner.columns.iter().map(|column| match own.place(&column.name) {
        Some(place) if column.key => values[place].cell(),
        _ => Cell::Null,
    });
    key_digest(partner, cells)
}

impl Fold {
    /// Folds epochs, in ascending order.
    pub fn of<'a>(
        context: &FoldContext<'_>,
        epochs: impl IntoIterator<Item = EpochSegments<'a>>,
    ) -> Result<Self, LakeError> {
        let mut fold = Self::empty(context);
        for epoch in epochs {
            fold.extend(context, epoch, 0..context.schemas.len())?;
        }
        Ok(fold)
    }

    /// The fold of no epoch.
    pub fn empty(context: &FoldContext<'_>) -> Self {
        let tables = context.schemas.iter().map(|_| TableFold::default()).collect();
        Self { segments: Vec::new(), tables }
    }

    /// Folds one more epoch, of some tables: always the same ones. Where it fails, the fold is of no use any more.
    pub fn extend(
        &mut self,
        context: &FoldContext<'_>,
        epoch: EpochSegments<'_>,
        tables: impl IntoIterator<Item = usize>,
    ) -> Result<(), LakeError> {
        let first = self.segments.len();
        self.segments.extend(epoch.segments.iter().cloned());
        tables.into_iter().try_for_each(|table| self.take_table(context, epoch.epoch, table, first))
    }

    /// The sections of a table, with their segments' numbers.
    pub fn sections(&self, table: &str) -> impl Iterator<Item = (u32, &SegmentRef, &SectionRef)> {
        let numbered = self.segments.iter().enumerate();
        let table = table.to_string();
        numbered.filter_map(move |(n, segment)| Some((n as u32, segment, segment.tables.get(&table)?)))
    }

    fn take_table(
        &mut self,
        context: &FoldContext<'_>,
        epoch: u64,
        table: usize,
        first: usize,
    ) -> Result<(), LakeError> {
        let mut sections = Vec::new();
        for (n, segment) in self.segments.iter().enumerate().skip(first) {
            if let Some(section) = segment.tables.get(&context.schemas[table].name) {
                sections.push((n as u32, self.read_section(context, table, segment, section)?));
            }
        }
        let into = &mut self.tables[table];
        for sign in [-1, 1] {
            for (segment, (heads, carried)) in &sections {
                for (place, head) in heads.iter().enumerate().filter(|(_, head)| head.diff == sign) {
                    let at = At { row: head.row, segment: *segment, place: place as u32 };
                    let held = || (context.holds)(table, head.key);
                    let taken = match sign < 0 {
                        true => into.retract(head, held),
                        false => into.insert(head, at, carried.get(place).copied(), held),
                    };
                    if let Err(problem) = taken {
                        return Err(contradiction(
                            context,
                            epoch,
                            table,
                            self.segments.as_slice(),
                            at,
                            problem,
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn read_section(
        &self,
        context: &FoldContext<'_>,
        table: usize,
        segment: &SegmentRef,
        section: &SectionRef,
    ) -> Result<(Vec<Head>, Vec<Carried>), LakeError> {
        let schema = &context.schemas[table];
        let Some(partner) = context.partner(table) else {
            return Ok((heads(&schema.name, &context.bytes(segment)?, section)?, Vec::new()));
        };
        let text = schema.columns.iter().position(|column| column.kind == Kind::Text);
        let partner_keys: Vec<usize> = context.schemas[partner]
            .key_places()
            .filter_map(|place| schema.place(&context.schemas[partner].columns[place].name))
            .collect();
        let wanted = |place: usize| Some(place) == text || partner_keys.contains(&place);
        let changes = decode_columns(schema, &context.bytes(segment)?, section, wanted)?;
        let carried = changes.iter().map(|change| Carried {
            body: match text.map(|place| &change.values[place]) {
                Some(Value::Text(text)) => Some((text.digest, text.len)),
                _ => None,
            },
            partner: partner_key(schema, &context.schemas[partner], &change.values),
        });
        let carried = carried.collect();
        let heads = changes.iter().map(|c| Head { key: c.key, row: c.row, diff: c.diff }).collect();
        Ok((heads, carried))
    }
}

impl TableFold {
    fn retract(&mut self, head: &Head, held: impl Fn() -> Option<bool>) -> Result<(), &'static str> {
        match self.keys.get_mut(&head.key) {
            None if held() == Some(false) => Err("a row is retracted whose key is not there"),
            None => {
                self.keys.insert(head.key, KeyChange { held: Some(head.row), current: None });
                Ok(())
            }
            Some(change) => match change.current.take() {
                Some(at) if at.row == head.row => {
                    self.carried.remove(&head.key);
                    Ok(())
                }
                Some(_) => Err("a row is retracted that is not the current row of its key"),
                None => Err("a row is retracted whose key is not there"),
            },
        }
    }

    fn insert(
        &mut self,
        head: &Head,
        at: At,
        carried: Option<Carried>,
        held: impl Fn() -> Option<bool>,
    ) -> Result<(), &'static str> {
        match self.keys.get_mut(&head.key) {
            None if held() == Some(true) => return Err("a row is inserted whose key is there already"),
            None => {
                self.keys.insert(head.key, KeyChange { held: None, current: Some(at) });
            }
            Some(change) if change.current.is_some() => {
                return Err("a row is inserted whose key is there already");
            }
            Some(change) => change.current = Some(at),
        }
        if let Some(carried) = carried {
            self.carried.insert(head.key, carried);
        }
        Ok(())
    }
}

/// The error for a change that does not fit, with the row that it is about.
fn contradiction(
    context: &FoldContext<'_>,
    epoch: u64,
    table: usize,
    segments: &[SegmentRef],
    at: At,
    problem: &str,
) -> LakeError {
    let schema = &context.schemas[table];
    let segment = &segments[at.segment as usize];
    let changes = segment.tables.get(&schema.name).map(|section| context.changes(table, segment, section));
    let row = match changes {
        Some(Ok(changes)) => changes.get(at.place as usize).map(|change| format!("{:?}", change.values)),
        _ => None,
    };
    LakeError::Contract {
        table: schema.name.clone(),
        epoch,
        problem: format!("{problem}: {}", row.unwrap_or_else(|| at.row.to_string())),
    }
}
