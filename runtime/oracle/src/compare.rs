//! Compares the tables of a store with the oracle's, column by column.
//!
//! Rows are matched by their key columns. Of two columns, `pair` and the `task` of a call, no text is
//! laid down, only which rows agree in it; so their values are held to a one-to-one mapping to the
//! oracle's over all tables. Tables and columns that the oracle does not know are let be.

use super::json::{COLUMN_DEPTH, parse};
use super::model::{Row, Tables};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// How many differences are told.
pub const DIFFERENCES_MAX: usize = 20;

/// How the values of a column are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// As strings.
    Text,
    /// As JSON: fields in any order, numbers as they are spelt.
    Json,
    /// As integers.
    Whole,
    /// As doubles, exactly.
    Double,
    /// As truth values.
    Truth,
    /// As instants.
    Instant,
    /// Any text, but some.
    Free,
    /// A task: free in its text where it belongs to a call.
    Task,
    /// Free in its text.
    Pair,
}

/// The columns of a table and those that match rows.
pub struct Shape {
    /// What rows are matched by.
    pub key: &'static [&'static str],
    /// All columns.
    pub columns: &'static [(&'static str, Kind)],
}

use Kind::{Double, Free, Instant, Json, Pair, Task, Text, Truth, Whole};

const fn of(key: &'static [&'static str], columns: &'static [(&'static str, Kind)]) -> Shape {
    Shape { key, columns }
}

/// Every table that the oracle computes. Of `train.preferences` a sample is chosen at most once, so that
/// `chosen_id` matches the rows that `pair` names.
const SHAPES: &[(&str, Shape)] = &[
    (
        "raw.trajectories",
        of(
            &["id"],
            &[
                ("id", Text),
                ("task_id", Text),
                ("agent", Text),
                ("model", Text),
                ("reward", Double),
                ("outcome", Text),
                ("tenant", Text),
                ("user_id", Text),
                ("ts", Text),
                ("body", Text),
                ("source_partition", Text),
                ("source_offset", Whole),
                ("source_timestamp", Instant),
            ],
        ),
    ),
    (
        "raw.calls",
        of(
            &["request_id"],
            &[
                ("request_id", Text),
                ("model", Text),
                ("session_id", Text),
                ("status", Whole),
                ("tenant", Text),
                ("user_id", Text),
                ("ts", Text),
                ("body", Text),
                ("source_partition", Text),
                ("source_offset", Whole),
                ("source_timestamp", Instant),
            ],
        ),
    ),
    (
        "raw.scores",
        of(
            &["row_id"],
            &[
                ("row_id", Text),
                ("subject", Text),
                ("metric", Text),
                ("score", Double),
                ("judge", Text),
                ("judge_type", Text),
                ("body", Text),
                ("source_partition", Text),
                ("source_offset", Whole),
                ("source_timestamp", Instant),
            ],
        ),
    ),
    (
        "curated.samples",
        of(
            &["sample_id"],
            &[
                ("sample_id", Text),
                ("kind", Text),
                ("task", Task),
                ("tenant", Text),
                ("user_id", Text),
                ("model", Text),
                ("ts", Text),
                ("messages", Json),
                ("tools", Json),
                ("tokens", Whole),
                ("text_only", Truth),
                ("copies", Whole),
            ],
        ),
    ),
    (
        "evals.scores",
        of(
            &["eval_id"],
            &[
                ("eval_id", Text),
                ("sample_id", Text),
                ("subject", Text),
                ("metric", Text),
                ("value", Double),
                ("judge", Text),
                ("judge_type", Text),
                ("origin", Text),
            ],
        ),
    ),
    (
        "evals.summary",
        of(&["model", "metric"], &[("model", Text), ("metric", Text), ("n", Whole), ("mean", Double)]),
    ),
    ("evals.unused", of(&["reason", "metric"], &[("reason", Text), ("metric", Text), ("n", Whole)])),
    (
        "evals.holdout",
        of(
            &["sample_id"],
            &[
                ("sample_id", Text),
                ("task", Task),
                ("tenant", Text),
                ("model", Text),
                ("messages", Json),
                ("tools", Json),
                ("tokens", Whole),
                ("quality", Double),
            ],
        ),
    ),
    (
        "train.sft",
        of(
            &["sample_id"],
            &[
                ("sample_id", Text),
                ("task", Task),
                ("tenant", Text),
                ("model", Text),
                ("ts", Text),
                ("messages", Json),
                ("tools", Json),
                ("tokens", Whole),
                ("quality", Double),
                ("copies", Whole),
            ],
        ),
    ),
    (
        "train.preferences",
        of(
            &["chosen_id"],
            &[
                ("pair", Pair),
                ("task", Task),
                ("tenant", Text),
                ("prompt", Json),
                ("chosen", Json),
                ("rejected", Json),
                ("tools", Json),
                ("chosen_id", Text),
                ("rejected_id", Text),
                ("chosen_model", Text),
                ("rejected_model", Text),
                ("chosen_quality", Double),
                ("rejected_quality", Double),
                ("chosen_turns", Whole),
                ("rejected_turns", Whole),
            ],
        ),
    ),
    (
        "ops.rejects",
        of(
            &["stream", "source_partition", "source_offset"],
            &[
                ("stream", Text),
                ("source_partition", Text),
                ("source_offset", Whole),
                ("key", Text),
                ("code", Text),
                ("message", Free),
                ("value_head", Text),
                ("value_bytes", Whole),
            ],
        ),
    ),
];

/// The shape of a table that the oracle computes.
pub fn shape(table: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|(name, _)| *name == table).map(|(_, shape)| shape)
}

/// What kind of difference it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Problem {
    /// A row, or a whole table, that must be there is not.
    Missing,
    /// A row is there that must not be.
    Extra,
    /// A row is there more than once.
    Twice,
    /// A column of a row is not what it must be.
    Column,
}

/// One place where a table is not what it must be.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The row's key.
    pub key: String,
    /// The column, or `row` where a whole row is missing, extra or there twice.
    pub column: String,
    /// The oracle's value.
    pub want: String,
    /// The store's value.
    pub got: String,
    /// The kind.
    pub problem: Problem,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { table, key, column, want, got, .. } = self;
        write!(out, "{table} {key} {column}: want {want}, got {got}")
    }
}

/// A mapping that must be one-to-one.
#[derive(Default)]
struct Names {
    forth: BTreeMap<String, String>,
    back: BTreeMap<String, String>,
}

impl Names {
    fn agree(&mut self, want: &str, got: &str) -> bool {
        let forth = self.forth.entry(want.to_string()).or_insert_with(|| got.to_string());
        let back = self.back.entry(got.to_string()).or_insert_with(|| want.to_string());
        forth == got && back == want
    }
}

struct Comparer {
    tasks: Names,
    pairs: Names,
    differences: Vec<Difference>,
    /// It may stop after so many.
    most: usize,
}

/// All that differs, at most [`DIFFERENCES_MAX`] of it; empty where the tables are equal.
pub fn compare(want: &Tables, got: &Tables) -> Vec<Difference> {
    let mut differences = differences(want, got, DIFFERENCES_MAX);
    differences.truncate(DIFFERENCES_MAX);
    differences
}

/// What differs: all of it, or somewhat more than `most` of it.
pub fn differences(want: &Tables, got: &Tables, most: usize) -> Vec<Difference> {
    let (tasks, pairs) = (Names::default(), Names::default());
    let mut comparer = Comparer { tasks, pairs, differences: Vec::new(), most };
    for (table, rows) in want {
        let shape = shape(table).unwrap_or_else(|| panic!("{table} is no table of the oracle"));
        match got.get(table) {
            Some(got) => comparer.table(table, shape, rows, got),
            None => comparer.differ(Problem::Missing, table, "", "table", ["there", "missing"]),
        }
    }
    comparer.differences
}

/// Panics with all differences, one a line; `what` says of which store and epoch.
pub fn assert_equal(want: &Tables, got: &Tables, what: &str) {
    let differences = compare(want, got);
    let lines: Vec<String> = differences.iter().map(Difference::to_string).collect();
    assert!(differences.is_empty(), "{what}: tables differ\n{}", lines.join("\n"));
}

fn key_of(shape: &Shape, row: &Row) -> String {
    let parts: Vec<String> = shape.key.iter().map(|column| field(row, column).to_string()).collect();
    parts.join(" ")
}

fn field<'a>(row: &'a Row, column: &str) -> &'a Value {
    row.get(column).unwrap_or(&Value::Null)
}

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 400 {
        let cut = (0..=400).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

fn instant(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

fn json(value: &Value) -> Option<super::json::Json> {
    parse(value.as_str()?.as_bytes(), COLUMN_DEPTH).ok()
}

fn same<T: PartialEq>(want: Option<T>, got: Option<T>) -> bool {
    want.is_some() && want == got
}

impl Comparer {
    fn differ(&mut self, problem: Problem, table: &str, key: &str, column: &str, [want, got]: [&str; 2]) {
        let [table, key, column, want, got] = [table, key, column, want, got].map(str::to_string);
        self.differences.push(Difference { table, key, column, want, got, problem });
    }

    fn table(&mut self, table: &str, shape: &Shape, want: &[Row], got: &[Row]) {
        let mut there: BTreeMap<String, &Row> = BTreeMap::new();
        for row in got {
            let key = key_of(shape, row);
            if there.insert(key.clone(), row).is_some() {
                self.differ(Problem::Twice, table, &key, "row", ["once", "twice"]);
            }
        }
        for row in want {
            let key = key_of(shape, row);
            match there.remove(&key) {
                Some(got) => self.row(table, &key, shape, row, got),
                None => {
                    let want = shown(&Value::Object(row.clone()));
                    self.differ(Problem::Missing, table, &key, "row", [&want, "missing"]);
                }
            }
            if self.differences.len() >= self.most {
                return;
            }
        }
        for (key, row) in there {
            self.differ(Problem::Extra, table, &key, "row", ["none", &shown(&Value::Object(row.clone()))]);
        }
    }

    fn row(&mut self, table: &str, key: &str, shape: &Shape, want: &Row, got: &Row) {
        let named_by = ["sample_id", "chosen_id"].iter().find_map(|name| want.get(*name)?.as_str());
        let of_call = named_by.is_some_and(|name| name.starts_with("call:"));
        for (column, kind) in shape.columns {
            let (wanted, found) = (field(want, column), field(got, column));
            let kind = if *kind == Task && !of_call { Text } else { *kind };
            if !self.equal(kind, wanted, found) {
                self.differ(Problem::Column, table, key, column, [&shown(wanted), &shown(found)]);
            }
        }
    }

    fn equal(&mut self, kind: Kind, want: &Value, got: &Value) -> bool {
        if want.is_null() || got.is_null() {
            return want.is_null() && got.is_null();
        }
        match kind {
            Text | Truth => want == got,
            Free => got.is_string(),
            Whole => same(want.as_i64(), got.as_i64()),
            Double => same(want.as_f64(), got.as_f64()),
            Instant => same(instant(want), instant(got)),
            Json => same(json(want), json(got)),
            Pair => match (want.as_str(), got.as_str()) {
                (Some(want), Some(got)) => self.pairs.agree(want, got),
                _ => false,
            },
            Task => match (want.as_str(), got.as_str()) {
                (Some(want), Some(got)) => got.starts_with("call:") && self.tasks.agree(want, got),
                _ => false,
            },
        }
    }
}
