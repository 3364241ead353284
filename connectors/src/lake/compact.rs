//! Compaction: small files become few, and rows that are gone leave the store.
//!
//! Files are sorted into size classes; eight of one class are merged, so that a byte is rewritten a
//! bounded number of times on its way up. A file of which more than half is deleted is rewritten on its
//! own account. It runs inside a publication and reads at most a given number of bytes there; what is
//! left waits for the next. The merged rows leave out what the same publication deletes.
//!
//! It comes to rest: a merge of files below half of the size at which files are closed writes fewer
//! files than it reads, as all that it writes but the last are above that half and left alone.

use super::LakeError;
use super::data_file::conform_batch;
use super::draft::{FileSink, Making, TableDraft, Uploads};
use super::files::{batch_keys, scan_live};
use super::io::Io;
use super::schema::arrow_schema;
use std::ops::ControlFlow;

/// Upper ends of the size classes, in bytes; larger files are left alone.
const CLASSES: [u64; 3] = [1 << 20, 8 << 20, 64 << 20];
/// Files of one class that are merged.
const MERGE_FILES: usize = 8;

/// A data file as the choice sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    pub number: u32,
    pub bytes: u64,
    pub rows: u64,
    pub deleted: u64,
}

impl Candidate {
    fn class(&self, file_bytes_max: u64) -> Option<usize> {
        CLASSES.iter().position(|end| self.bytes < *end && self.bytes < file_bytes_max / 2)
    }
}

/// The files to rewrite, reading at most `budget` bytes; new files are closed at `file_bytes_max`.
pub(super) fn choose(candidates: &[Candidate], file_bytes_max: u64, budget: u64) -> Vec<u32> {
    let class = |candidate: &Candidate| candidate.class(file_bytes_max);
    let crowded = |of: usize| candidates.iter().filter(|c| class(c) == Some(of)).count() >= MERGE_FILES;
    let wanted = candidates.iter().filter(|c| c.deleted * 2 > c.rows || class(c).is_some_and(crowded));
    let mut left = budget;
    let mut chosen = Vec::new();
    let mut wanted: Vec<&Candidate> = wanted.collect();
    wanted.sort_by_key(|c| (c.bytes, c.number));
    for candidate in wanted {
        if candidate.bytes > left {
            break;
        }
        left -= candidate.bytes;
        chosen.push(candidate.number);
    }
    chosen.sort_unstable();
    chosen
}

/// Compacts a draft's files from before `first_new`; the bytes that were read.
pub(super) fn compact(
    io: &Io,
    making: &Making<'_>,
    draft: &mut TableDraft,
    uploads: &mut Uploads,
    first_new: u32,
    budget: u64,
) -> Result<u64, LakeError> {
    let candidates: Vec<Candidate> = draft
        .files
        .data
        .range(..first_new)
        .map(|(number, file)| Candidate {
            number: *number,
            bytes: file.file.bytes,
            rows: file.rows as u64,
            deleted: file.deleted.len() + draft.deleted.get(number).map_or(0, |more| more.len()),
        })
        .collect();
    let (dead, living): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.deleted == c.rows);
    dead.iter().for_each(|candidate| draft.remove(candidate.number));
    let mut sink = FileSink::new(making);
    let mut read = 0;
    for number in choose(&living, making.file_bytes_max as u64, budget) {
        read += rewrite(io, making, draft, uploads, &mut sink, number)?;
    }
    sink.finish(draft, uploads)?;
    Ok(read)
}

fn rewrite(
    io: &Io,
    making: &Making<'_>,
    draft: &mut TableDraft,
    uploads: &mut Uploads,
    sink: &mut FileSink<'_>,
    number: u32,
) -> Result<u64, LakeError> {
    let Some(file) = draft.files.data.get(&number).cloned() else { return Ok(0) };
    let also = draft.deleted.get(&number).cloned();
    let arrow = arrow_schema(making.schema);
    let all: Vec<usize> = (0..making.schema.columns.len()).collect();
    scan_live(io, &file, None, also.as_ref(), &mut |_, batch| {
        let keys = batch_keys(making.schema, &batch, &all)?;
        let batch = conform_batch(making.schema, &arrow, batch.columns().to_vec())?;
        sink.write(draft, uploads, &batch, &keys)?;
        Ok(ControlFlow::Continue(()))
    })?;
    draft.remove(number);
    Ok(file.file.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(count: u32, bytes: u64, deleted: u64) -> Vec<Candidate> {
        (0..count).map(|number| Candidate { number, bytes, rows: 100, deleted }).collect()
    }

    const FILE_BYTES: u64 = 128 << 20;

    #[test]
    fn eight_files_of_one_class_are_merged_and_seven_are_not() {
        assert_eq!(choose(&files(7, 1000, 10), FILE_BYTES, u64::MAX), Vec::<u32>::new());
        assert_eq!(choose(&files(8, 1000, 10), FILE_BYTES, u64::MAX).len(), 8);
        assert_eq!(choose(&files(8, 100 << 20, 10), FILE_BYTES, u64::MAX), Vec::<u32>::new());
    }

    #[test]
    fn a_file_that_is_mostly_deleted_is_rewritten_alone() {
        assert_eq!(choose(&files(2, 100 << 20, 51), FILE_BYTES, u64::MAX), vec![0, 1]);
        assert_eq!(choose(&files(2, 100 << 20, 50), FILE_BYTES, u64::MAX), Vec::<u32>::new());
    }

    #[test]
    fn the_budget_bounds_what_is_read() {
        assert_eq!(choose(&files(9, 1000, 10), FILE_BYTES, 2500), vec![0, 1]);
    }

    /// With little memory files are closed at 21 MiB. Eight of that size were a crowd of their class, and
    /// were merged into eight of that size again, in every publication.
    #[test]
    fn compaction_comes_to_rest_whatever_the_size_at_which_files_are_closed() {
        for file_bytes_max in [1 << 20, 21 << 20, 128 << 20] {
            let mut sizes: Vec<u64> = (1..400u64).map(|n| n * 7919 % file_bytes_max).collect();
            let mut rounds = 0;
            loop {
                let candidate =
                    |(bytes, number): (&u64, u32)| Candidate { number, bytes: *bytes, rows: 100, deleted: 0 };
                let all: Vec<Candidate> = sizes.iter().zip(0..).map(candidate).collect();
                let chosen = choose(&all, file_bytes_max, 256 << 20);
                if chosen.is_empty() {
                    break;
                }
                let (merged, kept): (Vec<&Candidate>, Vec<&Candidate>) =
                    all.iter().partition(|c| chosen.contains(&c.number));
                let mut bytes: u64 = merged.iter().map(|c| c.bytes).sum();
                sizes = kept.iter().map(|c| c.bytes).collect();
                while bytes > 0 {
                    sizes.push(bytes.min(file_bytes_max));
                    bytes -= bytes.min(file_bytes_max);
                }
                rounds += 1;
                assert!(rounds < 100, "files closed at {file_bytes_max}: still {} to merge", chosen.len());
            }
        }
    }
}
