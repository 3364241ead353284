//! What a load cost, in figures that can be compared.

use crate::machine::Usage;
use serde_json::{Value, json};
use std::fmt;
use tidemill::cli::{RunSummary, human_bytes};
use tidemill::run::percentile;

/// One load's figures.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Worker threads.
    pub workers: usize,
    /// What the run says of itself.
    pub summary: RunSummary,
    /// What the kernel says of the process.
    pub usage: Usage,
}

fn ms(durations_us: &[u64], percent: usize) -> f64 {
    percentile(durations_us, percent) as f64 / 1e3
}

fn per(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

impl Report {
    fn megabytes_per_second(&self) -> f64 {
        self.summary.bytes as f64 / 1e6 / self.summary.lasted.as_secs_f64().max(1e-3)
    }

    /// Of a commit: objects (its segments and its root) and bytes of its segments.
    fn commit(&self) -> (f64, f64) {
        let (segments, bytes) = self.summary.figures.segments;
        let commits = self.summary.commits;
        (per(segments + commits, commits), per(bytes, commits))
    }

    /// Of a publication: objects and bytes.
    fn publication(&self) -> (f64, f64) {
        let (objects, bytes) = self.summary.figures.lake;
        (per(objects, self.summary.publications), per(bytes, self.summary.publications))
    }

    /// The figures as one object; times in seconds or, where they say so, milliseconds.
    pub fn json(&self) -> Value {
        let (summary, figures) = (&self.summary, &self.summary.figures);
        let (commit, publication, held) = (self.commit(), self.publication(), figures.held_most);
        json!({
            "workers": self.workers,
            "records": summary.records,
            "bytes": summary.bytes,
            "wall_s": summary.lasted.as_secs_f64(),
            "user_s": self.usage.user.as_secs_f64(),
            "system_s": self.usage.system.as_secs_f64(),
            "mb_per_s": self.megabytes_per_second(),
            "peak_bytes": self.usage.peak_bytes,
            "epoch": summary.epoch,
            "commits": summary.commits,
            "commit_ms": {"p50": ms(&figures.commit_us, 50), "p99": ms(&figures.commit_us, 99)},
            "objects_per_commit": commit.0,
            "bytes_per_commit": commit.1,
            "publications": summary.publications,
            "publication_ms": {"p50": ms(&figures.publish_us, 50), "p99": ms(&figures.publish_us, 99)},
            "objects_per_publication": publication.0,
            "bytes_per_publication": publication.1,
            "held_bytes": {
                "pinned": held.pinned,
                "cached": held.cached,
                "segments": held.segments,
                "lake_index": held.lake_index,
            },
            "results": figures.results,
            "rows": figures.rows,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (summary, figures) = (&self.summary, &self.summary.figures);
        let cpu = (self.usage.user + self.usage.system).as_secs_f64();
        let wall = summary.lasted.as_secs_f64();
        let bytes = human_bytes(summary.bytes);
        writeln!(f, "{} records, {bytes} on {} workers", summary.records, self.workers)?;
        writeln!(
            f,
            "{wall:.2} s wall, {cpu:.2} s CPU, {:.1} MB/s, peak memory {}",
            self.megabytes_per_second(),
            human_bytes(self.usage.peak_bytes)
        )?;
        let held = figures.held_most;
        writeln!(
            f,
            "at most {} of uncommitted bodies, {} of cached ones, {} of segments, {} of the lake's index",
            human_bytes(held.pinned),
            human_bytes(held.cached),
            human_bytes(held.segments),
            human_bytes(held.lake_index)
        )?;
        let line = |f: &mut fmt::Formatter<'_>, what: &str, n: u64, times: &[u64], each: (f64, f64)| {
            let (p50, p99) = (ms(times, 50), ms(times, 99));
            let bytes = human_bytes(each.1 as u64);
            write!(f, "{n} {what}: p50 {p50:.1} ms, p99 {p99:.1} ms; each {:.1} objects, {bytes}", each.0)
        };
        line(f, "commits", summary.commits, &figures.commit_us, self.commit())?;
        writeln!(f)?;
        line(f, "publications", summary.publications, &figures.publish_us, self.publication())
    }
}
