//! `log --stats`: what was asked of the store for commits and publications, and what that costs a day.
//!
//! Roots carry what their writer had asked of its store until they were made, and publications what was put for them.
//! So what lies between two roots of one writer is a difference; of the first root after a claim nothing can be said,
//! because the start is in it. Publications go on beside the commits: their puts are taken off those of the commits
//! between which they were named, which is right on the average and not for each.

use super::output::{Format, Out};
use super::{Call, StoreReader};
use crate::Error;
use tidemill_core::edge::parse_ms;
use tidemill_types::{Asked, Epoch, Put};

/// Dollars for a thousand puts or lists, and for a thousand gets: S3 Standard. Deletions are free.
const DOLLARS_PUTS: f64 = 0.005;
const DOLLARS_GETS: f64 = 0.0004;
const DAY_S: f64 = 86_400.0;

/// What one commit took.
struct Taken {
    epoch: Epoch,
    committed_at: String,
    /// What was asked since the root before, if that can be said.
    asked: Option<Asked>,
    /// The publication that it is the first to name.
    published: Option<(Epoch, Option<Put>)>,
}

fn taken(reader: &StoreReader, first: Epoch, last: Epoch) -> Result<Vec<Taken>, Error> {
    let mut before = match first > reader.oldest()? {
        true => Some(reader.root(Some(first - 1))?),
        false => None,
    };
    let mut all = Vec::new();
    for epoch in first..=last {
        let root = reader.root(Some(epoch))?;
        let earlier = before.as_ref().filter(|before| before.generation == root.generation);
        let asked = earlier.and_then(|before| root.asked?.since(&before.asked?));
        let known = before.as_ref().and_then(|before| before.published.as_ref()).map(|p| p.epoch);
        let new = root.published.as_ref().filter(|published| Some(published.epoch) != known);
        let published = new.filter(|_| before.is_some()).map(|published| (published.epoch, published.put));
        all.push(Taken { epoch, committed_at: root.committed_at.clone(), asked, published });
        before = Some(root);
    }
    Ok(all)
}

/// Prints what was asked of the store for each commit, and for people the average and its price.
pub fn stats(
    call: &Call<'_>,
    reader: &StoreReader,
    first: Epoch,
    last: Epoch,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let all = taken(reader, first, last)?;
    if call.format() == Format::Json {
        return all.iter().try_for_each(|taken| out.line(&json(taken)));
    }
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let head =
        ["epoch", "committed at", "puts", "gets", "lists", "deletes", "failed", "put bytes", "got bytes"];
    out.grid(&[&head[..], &["published", "puts", "bytes"]].concat(), &rows)?;
    summary(&all).into_iter().try_for_each(|line| out.line(&line))
}

fn json(taken: &Taken) -> String {
    let published = taken.published.map(|(epoch, put)| serde_json::json!({"epoch": epoch, "put": put}));
    let (epoch, at) = (taken.epoch, &taken.committed_at);
    serde_json::json!({"epoch": epoch, "committed_at": at, "asked": taken.asked, "published": published})
        .to_string()
}

fn row(taken: &Taken) -> Vec<String> {
    let shown = |value: Option<u64>| value.map_or("-".to_string(), |value| value.to_string());
    let of = |field: fn(&Asked) -> u64| shown(taken.asked.as_ref().map(field));
    let put = taken.published.and_then(|(_, put)| put);
    vec![
        taken.epoch.to_string(),
        taken.committed_at.clone(),
        of(|asked| asked.puts),
        of(|asked| asked.gets),
        of(|asked| asked.lists),
        of(|asked| asked.deletes),
        of(|asked| asked.failed),
        of(|asked| asked.put_bytes),
        of(|asked| asked.got_bytes),
        taken.published.map_or("-".to_string(), |(epoch, _)| epoch.to_string()),
        shown(put.map(|put| put.objects)),
        shown(put.map(|put| put.bytes)),
    ]
}

/// The averages over all commits of which something can be said, and the price of a day.
fn summary(all: &[Taken]) -> Vec<String> {
    let counted: Vec<(&Taken, Asked)> = all.iter().filter_map(|taken| Some((taken, taken.asked?))).collect();
    let (Some((first, _)), Some((last, _))) = (counted.first(), counted.last()) else {
        return vec!["nothing can be said of these commits: give more with --limit".to_string()];
    };
    let commits = counted.len() as f64;
    let sum = |field: fn(&Asked) -> u64| counted.iter().map(|(_, asked)| field(asked)).sum::<u64>() as f64;
    let puts_of = counted.iter().filter_map(|(taken, _)| taken.published?.1);
    let published: Vec<Put> = puts_of.collect();
    let objects = published.iter().map(|put| put.objects).sum::<u64>() as f64;
    let bytes = published.iter().map(|put| put.bytes).sum::<u64>() as f64;
    let (puts, put_bytes) = (sum(|asked| asked.puts), sum(|asked| asked.put_bytes));
    let mut lines = vec![format!(
        "a commit: {:.2} puts, {:.0} bytes; beside it {:.2} gets, {:.2} lists, {:.2} deletes, {:.0} bytes got",
        (puts - objects).max(0.0) / commits,
        (put_bytes - bytes).max(0.0) / commits,
        sum(|asked| asked.gets) / commits,
        sum(|asked| asked.lists) / commits,
        sum(|asked| asked.deletes) / commits,
        sum(|asked| asked.got_bytes) / commits,
    )];
    if !published.is_empty() {
        let publications = published.len() as f64;
        lines.push(format!(
            "a publication: {:.1} puts, {:.0} bytes; one in {:.1} commits",
            objects / publications,
            bytes / publications,
            commits / publications
        ));
    }
    let at = |taken: &Taken| parse_ms(&taken.committed_at).unwrap_or_default();
    let seconds = (at(last) - at(first)).max(1) as f64 / 1e3;
    let pace = (commits - 1.0).max(1.0) / seconds;
    let dollars = (puts + sum(|asked| asked.lists)) / commits * DOLLARS_PUTS / 1e3
        + sum(|asked| asked.gets) / commits * DOLLARS_GETS / 1e3;
    lines.push(format!(
        "at {pace:.2} commits a second, as here: {:.2} $ a day for requests; at 1 commit a second, with as many \
         publications to a commit: {:.2} $ (0.005 $ for 1,000 puts or lists, 0.0004 $ for 1,000 gets)",
        dollars * pace * DAY_S,
        dollars * DAY_S
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_leave_out_what_publications_put_and_a_day_is_priced() {
        let taken = |second: u64, puts: u64, published: Option<Put>| Taken {
            epoch: second,
            committed_at: format!("2026-01-01T00:00:{second:02}Z"),
            asked: Some(Asked { puts, gets: 1, put_bytes: 100 * puts, ..Asked::default() }),
            published: published.map(|put| (0, Some(put))),
        };
        let put = Put { objects: 40, bytes: 4000 };
        let mut all = vec![taken(0, 2, None), taken(1, 42, Some(put)), taken(2, 2, None), taken(3, 2, None)];
        all.push(Taken { epoch: 9, committed_at: String::new(), asked: None, published: None });
        let lines = summary(&all);
        assert!(
            lines[0].starts_with("a commit: 2.00 puts, 200 bytes; beside it 1.00 gets, 0.00 lists"),
            "{lines:?}"
        );
        assert_eq!(lines[1], "a publication: 40.0 puts, 4000 bytes; one in 4.0 commits");
        // 12 puts and a get a commit: 0.00006 + 0.0000004 dollars.
        assert!(lines[2].starts_with("at 1.00 commits a second, as here: 5.22 $ a day"), "{lines:?}");
        assert!(summary(&[]).concat().contains("--limit"));
    }
}
