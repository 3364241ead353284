//! The changelog against the model: what is folded from it is the table at every epoch, texts and all, however far
//! behind whoever reads it, and what the log no longer holds is told.

use super::{Bench, run};
use crate::world::{World, program, sort};
use std::collections::HashMap;
use tidemill_connectors::lake::{Changelog, ChangelogOptions, LakeError, LakePublisher, stored_segments};
use tidemill_core::store::StoreError;
use tidemill_core::view::View;
use tidemill_types::{Digest, Published, Root, Value, key_digest, root_name};

fn changelog(bench: &Bench) -> Changelog {
    Changelog::new(ChangelogOptions {
        snapshots: bench.snapshot_options(),
        segments: stored_segments(bench.store.clone(), bench.edge(), 1 << 20),
        bodies: None,
    })
}

/// A table as it follows from its changes.
#[derive(Default)]
struct Folded(HashMap<Digest, Vec<Value>>);

impl Folded {
    fn take(&mut self, reader: &mut Changelog, root: &Root, table: usize) -> Result<(), LakeError> {
        let schema = program::schemas()[table].clone();
        let mut inserts = false;
        reader.changes(root, &schema.name, &mut |row, diff| {
            let key = key_digest(&schema, row.iter().map(Value::cell));
            assert!(diff > 0 || !inserts, "retractions come first");
            inserts |= diff > 0;
            match diff {
                1 => assert_eq!(self.0.insert(key, row), None, "{} at {}", schema.name, root.epoch),
                _ => assert!(self.0.remove(&key).is_some(), "{} at {}", schema.name, root.epoch),
            }
            Ok::<(), LakeError>(())
        })
    }

    fn hold(&self, world: &World, epoch: u64, table: usize) {
        let mut rows: Vec<Vec<Value>> = self.0.values().cloned().collect();
        sort(&mut rows);
        assert_eq!(rows, world.resolved(epoch, table), "table {table} at {epoch}");
    }
}

#[test]
fn what_is_folded_from_the_changes_is_the_table_at_every_epoch() {
    for seed in 21..=23 {
        let bench = Bench::new(&format!("memory://lake-changes-{seed}"), seed);
        let world = run(&bench, 60, true, true);
        let mut reader = changelog(&bench);
        let mut tables: Vec<Folded> = program::schemas().iter().map(|_| Folded::default()).collect();
        for root in &world.roots {
            for (table, folded) in tables.iter_mut().enumerate() {
                folded.take(&mut reader, root, table).unwrap();
                folded.hold(&world, root.epoch, table);
            }
        }
    }
}

#[test]
fn a_table_that_is_read_alone_or_for_a_while_not_at_all_comes_out_the_same() {
    let bench = Bench::new("memory://lake-changes-gaps", 31);
    let world = run(&bench, 80, false, false);
    let mut reader = changelog(&bench);
    // Of one table always, of the other ten epochs at a time and then back from where it was left.
    let (mut samples, mut docs) = (Folded::default(), Folded::default());
    for roots in world.roots.chunks(10) {
        for root in roots {
            samples.take(&mut reader, root, program::SAMPLES).unwrap();
            samples.hold(&world, root.epoch, program::SAMPLES);
        }
        for root in roots {
            docs.take(&mut reader, root, program::RAW).unwrap();
            docs.hold(&world, root.epoch, program::RAW);
        }
    }
}

/// Deletes what a collector does when `log_from` becomes the oldest root that is kept.
fn collect(bench: &Bench, publisher: &LakePublisher, world: &World, log_from: u64) {
    let delete = |name: &str| bench.runtime.block_on(bench.store.delete(name)).unwrap();
    let none = || Published { epoch: 0, tables: Default::default(), put: None };
    for pair in world.roots.windows(2).take(log_from as usize) {
        let [older, newer] = [&pair[0], &pair[1]].map(|root| root.published.clone().unwrap_or_else(none));
        if older.epoch != newer.epoch {
            publisher.garbage(&older, &newer).unwrap().iter().for_each(|name| delete(name));
        }
        pair[0].segments.iter().for_each(|segment| delete(&segment.name));
        delete(&root_name(pair[0].epoch));
    }
}

#[test]
fn whoever_is_behind_reads_what_is_retained_and_is_told_what_is_not() {
    let bench = Bench::new("memory://lake-changes-collected", 41);
    let world = run(&bench, 80, false, false);
    let newest = world.roots.last().unwrap();
    let publisher = bench.publisher(bench.store.clone(), newest);
    let log_from = 40;
    collect(&bench, &publisher, &world, log_from);
    // From the first root on whose publication the log is whole, all is there; before it some is, by a later one.
    let named =
        |root: &&Root| root.published.as_ref().is_some_and(|published| published.epoch + 1 >= log_from);
    let whole = world.roots.iter().find(named).unwrap().epoch;
    let (mut right, mut gone) = (0, 0);
    for root in &world.roots[log_from as usize..] {
        let mut reader = changelog(&bench);
        let key =
            |row: &Vec<Value>| key_digest(&program::schemas()[program::SAMPLES], row.iter().map(Value::cell));
        let before = world.resolved(root.epoch - 1, program::SAMPLES).into_iter();
        let mut folded = Folded(before.map(|row| (key(&row), row)).collect());
        match folded.take(&mut reader, root, program::SAMPLES) {
            Ok(()) => {
                folded.hold(&world, root.epoch, program::SAMPLES);
                right += 1;
            }
            Err(LakeError::Store(StoreError::NotFound { .. })) => {
                assert!(root.epoch < whole, "epoch {} is retained, from {whole} on all are", root.epoch);
                gone += 1;
            }
            Err(error) => panic!("epoch {}: {error}", root.epoch),
        }
        let snapshot = reader.whole(root);
        assert!(snapshot.is_ok() || root.epoch < whole, "epoch {}", root.epoch);
        if let Ok(snapshot) = snapshot {
            bench.check_read(&world, root.epoch, &snapshot);
        }
    }
    assert!(right > 20 && gone < 20, "{right} epochs were read, {gone} were gone");
}
