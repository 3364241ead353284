//! The flywheel as the command line serves it.

use super::demo::DemoTraffic;
use super::export::exporters;
use super::keying::FlywheelKeying;
use super::program::Flywheel;
use super::rows::{CallRow, TrajectoryRow};
use super::settings::FlywheelSettings;
use super::story::late_scores;
use super::tally::Samples;
use crate::Error;
use crate::cli::{App, Exporter, Hooks, Keying, StoreReader, Tables, Tally, by_key};
use crate::config::{ProgramKey, ProgramSettings};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_core::program::Program;
use tidemill_types::Value;

/// The flywheel, ready for [`crate::cli::main`].
pub fn app() -> App {
    App {
        name: "tidemill",
        about: "Keeps production logs, evals and training sets as living tables.",
        settings: ProgramSettings {
            section: "flywheel",
            keys: SETTINGS
                .iter()
                .map(|(path, help)| ProgramKey { path: (*path).to_string(), help: (*help).to_string() })
                .collect(),
            check: Arc::new(|given| {
                let settings = FlywheelSettings::parse(given).map_err(|error| error.to_string())?;
                Ok(settings.to_value())
            }),
        },
        program: Arc::new(|settings| {
            let settings = FlywheelSettings::parse(settings).map_err(|error| error.to_string())?;
            Ok(Arc::new(Flywheel::new(settings)) as Arc<dyn Program>)
        }),
        hooks: Arc::new(FlywheelHooks),
        demo: Some(Arc::new(DemoTraffic)),
    }
}

/// Every setting, for help and for finding mistyped names.
const SETTINGS: &[(&str, &str)] = &[
    ("record_bytes_max", "longer values are rejected (fixed by the first commit)"),
    ("key.*", "where a stream's identity comes from: kafka or value (fixed by the first commit)"),
    ("fields.*.*", "a field's JSON pointer in other people's logs (fixed by the first commit)"),
    ("tokenizer", "how tokens are counted; without one, bytes over 4"),
    ("metrics.*.low", "the score of a metric that counts as 0"),
    ("metrics.*.high", "the score of a metric that counts as 1"),
    ("metrics.*.weight", "a metric's weight in the quality"),
    ("judge_order", "kinds of judges, most trusted first"),
    ("relevance_min", "the least relevance of an eligible sample"),
    ("tokens_max", "the most tokens of an eligible sample"),
    ("per_task", "samples of a tenant and task in train.sft"),
    ("quality_min", "the least quality in train.sft"),
    ("margin", "the least difference of qualities in train.preferences"),
    ("same_model", "whether both answers of a preference come from one model"),
    ("models", "models that may be learned from, * for any text"),
    ("holdout.tasks", "tasks that are held out, * for any text"),
    ("holdout.per_10k", "how many of 10,000 openings are held out"),
];

struct FlywheelHooks;

impl Hooks for FlywheelHooks {
    fn summary(&self, tables: &dyn Tables) -> Result<Vec<String>, Error> {
        let mut unused = BTreeMap::<(String, String), i64>::new();
        tables.for_each("evals.unused", &mut |row| {
            if let [Value::Str(reason), Value::Str(metric), Value::Long(n)] = &row[..] {
                unused.insert((reason.clone(), metric.clone()), *n);
            }
            Ok(())
        })?;
        let mut rejects = BTreeMap::<(String, String), u64>::new();
        tables.for_each("ops.rejects", &mut |row| {
            if let (Value::Str(stream), Value::Str(code)) = (&row[0], &row[4]) {
                *rejects.entry((code.clone(), stream.clone())).or_default() += 1;
            }
            Ok(())
        })?;
        let counts = |counts: Vec<String>| match counts.is_empty() {
            true => "none".to_string(),
            false => counts.join(", "),
        };
        let unused = unused.iter().map(|((reason, metric), n)| format!("{reason} {metric} {n}")).collect();
        let rejects = rejects.iter().map(|((code, stream), n)| format!("{code} {stream} {n}")).collect();
        Ok(vec![format!("scores not used: {}", counts(unused)), format!("rejected: {}", counts(rejects))])
    }

    fn story(&self, store: &StoreReader) -> Result<Vec<String>, Error> {
        late_scores(store)
    }

    fn keying(&self, settings: &Json) -> Result<Box<dyn Keying>, String> {
        let settings = FlywheelSettings::parse(settings).map_err(|error| error.to_string())?;
        Ok(Box::new(FlywheelKeying::new(&settings)))
    }

    fn tally(&self, stream: usize) -> Option<Box<dyn Tally>> {
        match stream {
            0 => Some(Box::new(Samples::of(|row: &TrajectoryRow| (&row.facts, &row.tenant)))),
            1 => Some(Box::new(Samples::of(|row: &CallRow| (&row.facts, &row.tenant)))),
            _ => None,
        }
    }

    fn exports(&self) -> Vec<Box<dyn Exporter>> {
        exporters()
    }

    fn showcase(&self, tables: &dyn Tables) -> Result<Vec<(&'static str, Option<Vec<Value>>)>, Error> {
        let sft = best(tables, "train.sft", &|row| {
            let has = |column: &str, part: &str| match row(column) {
                Some(Value::Str(text)) => f64::from(u8::from(text.contains(part))),
                _ => 0.0,
            };
            number(row("quality")) + has("messages", "\"tool_calls\"") + has("sample_id", "trajectory:")
        })?;
        let pair = best(tables, "train.preferences", &|row| {
            number(row("chosen_quality")) - number(row("rejected_quality"))
        })?;
        Ok(vec![("train.sft", sft), ("train.preferences", pair)])
    }
}

fn number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Double(value)) => *value,
        _ => 0.0,
    }
}

/// A row's columns by their names.
type Columns<'a> = dyn Fn(&str) -> Option<&'a Value> + 'a;

/// The row of a table that is worth most; of several the first by its key.
fn best(
    tables: &dyn Tables,
    table: &str,
    worth: &dyn Fn(&Columns<'_>) -> f64,
) -> Result<Option<Vec<Value>>, Error> {
    let Some(schema) = tables.schemas().iter().find(|schema| schema.name == table) else { return Ok(None) };
    let mut best: Option<(f64, Vec<Value>)> = None;
    tables.for_each(table, &mut |row| {
        let worth = worth(&|column| row.get(schema.place(column)?));
        let better = best.as_ref().is_none_or(|(most, first)| {
            worth > *most || (worth == *most && by_key(schema, &row, first).is_lt())
        });
        if better {
            best = Some((worth, row));
        }
        Ok(())
    })?;
    Ok(best.map(|(_, row)| row))
}
