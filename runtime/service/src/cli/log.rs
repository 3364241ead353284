//! `log`: the commits, as they stand in the store or a line each.

use super::output::{Format, Out};
use super::{Call, StoreReader};
use crate::Error;
use std::collections::BTreeMap;
use tidemill_types::{Epoch, Root};

/// Commits for people when no limit is given.
const LIMIT_FOR_PEOPLE: u64 = 20;
/// Likewise of `--stats`, whose averages want more.
const LIMIT_OF_STATS: u64 = 100;

/// Prints commits, oldest first.
pub fn log(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let reader = call.reader()?;
    let last = reader.root(call.epoch("at", &reader)?)?.epoch;
    let stats = call.matches.get_flag("stats");
    let alone = call.matches.get_flag("last");
    let limit = call.number("limit").or((call.format() == Format::Table).then_some(if stats {
        LIMIT_OF_STATS
    } else {
        LIMIT_FOR_PEOPLE
    }));
    let limit = if alone { Some(1) } else { limit };
    let first = limit.map_or(0, |limit| (last + 1).saturating_sub(limit)).max(reader.oldest()?).min(last);
    if stats {
        return super::stats::stats(call, &reader, first, last, out);
    }
    if call.format() == Format::Json {
        return (first..=last).try_for_each(|epoch| out.line(&reader.root_text(epoch)?));
    }
    people(&reader, first, last, out)?;
    for gap in reader.root(Some(last))?.gaps.iter().filter(|gap| gap.epoch >= first) {
        out.line(&format!("gap accepted at {}: {}", gap.epoch, gap.reason))?;
    }
    if alone {
        let tables = reader.tables(Some(last))?;
        for line in call.app.hooks.summary(&tables)? {
            out.line(&line)?;
        }
    }
    Ok(())
}

fn people(reader: &StoreReader, first: Epoch, last: Epoch, out: &mut Out<'_>) -> Result<(), Error> {
    let mut before = match first > reader.oldest()? {
        true => Some(reader.root(Some(first - 1))?),
        false => None,
    };
    let mut rows = Vec::new();
    for epoch in first..=last {
        let root = reader.root(Some(epoch))?;
        rows.push(described(&root, before.as_ref()));
        before = Some(root);
    }
    out.grid(&["epoch", "committed at", "gen", "positions", "changes", "published"], &rows)
}

fn totals(root: &Root) -> BTreeMap<&str, u64> {
    root.positions.iter().map(|(stream, at)| (stream.as_str(), at.values().sum())).collect()
}

/// Positions by stream, and what this commit added to them.
fn positions(root: &Root, before: Option<&Root>) -> String {
    let earlier = before.map(totals).unwrap_or_default();
    let stream = |(stream, now): (&str, u64)| match before.is_some() {
        true if now > earlier.get(stream).copied().unwrap_or(0) => {
            format!("{stream} {now} (+{})", now - earlier.get(stream).copied().unwrap_or(0))
        }
        _ => format!("{stream} {now}"),
    };
    totals(root).into_iter().map(stream).collect::<Vec<_>>().join(", ")
}

/// Rows that came and went, over all tables.
fn changes(root: &Root) -> String {
    let sections = root.segments.iter().flat_map(|segment| &segment.tables);
    let (mut inserted, mut deleted, mut tables) = (0, 0, std::collections::BTreeSet::new());
    for (table, section) in sections {
        inserted += section.inserted;
        deleted += section.deleted;
        tables.insert(table);
    }
    match (tables.len(), root.claim) {
        (0, true) => "claim".to_string(),
        (0, false) if root.rolled_back_to.is_some() => back(root),
        (0, false) => "-".to_string(),
        (many, _) => format!("+{inserted} -{deleted} in {many} tables{}", back(root)),
    }
}

/// What a commit goes back to, if it does.
fn back(root: &Root) -> String {
    root.rolled_back_to.map_or(String::new(), |to| format!(" back to {to}"))
}

fn described(root: &Root, before: Option<&Root>) -> Vec<String> {
    let published = root.published.as_ref().map(|published| published.epoch);
    let earlier = before.and_then(|before| before.published.as_ref()).map(|published| published.epoch);
    let shown = match published {
        None => "-".to_string(),
        Some(epoch) if Some(epoch) != earlier => format!("{epoch} new"),
        Some(epoch) => epoch.to_string(),
    };
    vec![
        root.epoch.to_string(),
        root.committed_at.clone(),
        root.generation.to_string(),
        positions(root, before),
        changes(root),
        shown,
    ]
}
