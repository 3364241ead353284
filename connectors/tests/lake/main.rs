//! The lake against a model in memory: random epochs, publications at random moments, a publisher that is
//! reopened in between, a store that fails midway, and a copy of the store elsewhere.
//!
//! With `LAKE_DUMP=<folder>` the long run leaves its store there, with the rows that every
//! publication must have as `expected.json`, for checks by other readers.

mod changes;
mod world;

use std::sync::Arc;
use tidemill_connectors::edge::Tokio;
use tidemill_connectors::lake::{
    LakeOptions, LakePublisher, Snapshot, SnapshotOptions, TextForm, generation_of, stored_segments, verify,
};
use tidemill_connectors::store;
use tidemill_core::edge::SharedEdge;
use tidemill_core::log;
use tidemill_core::store::SharedStore;
use tidemill_core::view::{Portion, Share, Stored, View, ViewFailure};
use tidemill_types::{Cell, Digest, Root, Value, key_digest};
use tokio::runtime::Runtime;
use world::{Faulty, Random, World, program};

struct Bench {
    runtime: Runtime,
    store: SharedStore,
    seed: u64,
}

impl Bench {
    fn new(address: &str, seed: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        Self { runtime, store: store::open(address).unwrap(), seed }
    }

    fn edge(&self) -> SharedEdge {
        Tokio::shared(self.runtime.handle().clone())
    }

    fn publisher(&self, store: SharedStore, base: &Root) -> LakePublisher {
        let edge = self.edge();
        let options = LakeOptions {
            segments: stored_segments(store.clone(), edge.clone(), 1 << 20),
            store,
            edge,
            // Alone it works without threads of its own.
            threads: 1 + (self.seed % 2) as usize,
            schemas: program::schemas(),
            streams: program::streams(),
            extract: Arc::new(program::Lines),
            bodies: None,
            memory_bytes_max: 1 << 20,
        };
        let mut publisher = LakePublisher::open(options, base).unwrap();
        let roots = self.runtime.block_on(log::roots(&*self.store, publisher.next_root()..=base.epoch));
        roots.unwrap().iter().for_each(|root| publisher.committed(root));
        publisher
    }

    fn snapshot_options(&self) -> SnapshotOptions {
        SnapshotOptions {
            store: self.store.clone(),
            edge: self.edge(),
            threads: 1 + (self.seed % 2) as usize,
            schemas: program::schemas(),
            streams: program::streams(),
            extract: Arc::new(program::Lines),
            memory_bytes_max: 1 << 20,
        }
    }

    fn commit(&self, world: &mut World) -> Root {
        let (root, segments) = world.commit(self.store.location());
        for (name, body) in segments {
            self.runtime.block_on(self.store.put(&name, body)).unwrap();
        }
        let body = serde_json::to_vec(&root).unwrap().into();
        self.runtime.block_on(self.store.create(&tidemill_types::root_name(root.epoch), body)).unwrap();
        root
    }

    /// Every table at an epoch equals the model's.
    fn check(&self, world: &World, epoch: u64) {
        self.check_read(world, epoch, &Snapshot::open(self.snapshot_options(), Some(epoch)).unwrap());
    }

    /// The bodies that the source tables hold are found by key and digest, and no other.
    fn check_bodies(&self, world: &World, epoch: u64, snapshot: &Snapshot) {
        for stream in program::streams() {
            let schema = &program::schemas()[stream.raw];
            let key = |row: &Vec<Value>| key_digest(schema, row.iter().map(Value::cell));
            let body = |row: &Vec<Value>| {
                row.iter().find_map(|value| match value {
                    Value::Text(text) => Some(text.digest),
                    _ => None,
                })
            };
            let rows = world.handles(epoch, stream.raw);
            let mut wanted: Vec<(Digest, Digest)> =
                rows.iter().map(|row| (key(row), body(row).unwrap())).collect();
            let there = wanted.len();
            wanted.push((Digest::of(b"no such key"), Digest::of(b"no such body")));
            let mut found = vec![false; wanted.len()];
            snapshot
                .bodies(stream.raw, &wanted, &mut |place, body| {
                    assert_eq!(Digest::of(body), wanted[place].1, "a body of {} at {epoch}", schema.name);
                    found[place] = true;
                })
                .unwrap();
            assert_eq!(found.iter().position(|found| !found), Some(there), "{} at {epoch}", schema.name);
        }
    }

    fn check_read(&self, world: &World, epoch: u64, snapshot: &Snapshot) {
        self.check_bodies(world, epoch, snapshot);
        for (place, schema) in program::schemas().iter().enumerate() {
            let mut rows = snapshot.rows(&schema.name, TextForm::Resolved, None, Share::ALL).unwrap();
            let expected = world.resolved(epoch, place);
            assert_eq!(
                snapshot.count(&schema.name).unwrap(),
                expected.len() as u64,
                "{} at {epoch}",
                schema.name
            );
            world::sort(&mut rows);
            assert_eq!(rows, expected, "{} at {epoch}, seed {}", schema.name, self.seed);
            for portion in [Portion::Keys, Portion::Any] {
                let mut handles = Vec::new();
                for number in 0..3 {
                    let mut take = |row: &[Cell<'_>]| {
                        handles.push(row.iter().map(Cell::to_value).collect());
                        Ok(())
                    };
                    let portion = portion(Share { number, of: 3 });
                    Stored::for_each_row(snapshot, &schema.name, None, portion, &mut take).unwrap();
                }
                world::forget_lengths(&mut handles);
                world::sort(&mut handles);
                let expected = world.handles(epoch, place);
                assert_eq!(handles, expected, "{} at {epoch}, seed {}", schema.name, self.seed);
            }
        }
    }
}

/// A run of epochs with publications; the world as it was at each.
fn run(bench: &Bench, epochs: u64, restarts: bool, faults: bool) -> World {
    let mut world = World::new(bench.seed);
    let mut random = Random::new(bench.seed ^ 0xabcdef);
    let faulty = Arc::new(Faulty::new(bench.store.clone()));
    let mut base = bench.commit(&mut world);
    let mut publisher = bench.publisher(faulty.clone(), &base);
    for _ in 0..epochs {
        world.change();
        base = bench.commit(&mut world);
        publisher.committed(&base);
        if let Some(published) = &base.published {
            publisher.named(published.epoch);
        }
        if restarts && random.below(12) == 0 {
            world.generation += 1;
            publisher = bench.publisher(faulty.clone(), &base);
        }
        if random.below(2) == 0 {
            if faults && random.below(3) == 0 {
                faulty.fail_after(random.below(24));
                let failed = publisher.publish();
                faulty.heal();
                match failed {
                    Ok(published) => world.published = published.or(world.published.take()),
                    Err(error) => assert!(matches!(error, ViewFailure::Store(_)), "for good: {error}"),
                }
            }
            if let Some(published) = publisher.publish().unwrap() {
                world.published = Some(published);
            }
        }
    }
    world
}

#[test]
fn every_epoch_reads_as_the_model_says() {
    for seed in 1..=3 {
        let bench = Bench::new(&format!("memory://lake-model-{seed}"), seed);
        let world = run(&bench, 60, true, true);
        let mut before: Option<Snapshot> = None;
        for epoch in 0..=world.epoch {
            bench.check(&world, epoch);
            // A snapshot that goes on from the last one reads the same.
            let root = world.roots[epoch as usize].clone();
            let snapshot = match &before {
                Some(before) => before.later(root),
                None => Snapshot::of(bench.snapshot_options(), root),
            };
            bench.check_read(&world, epoch, before.insert(snapshot.unwrap()));
        }
        let newest = world.roots.last().unwrap();
        assert_eq!(verify(&bench.snapshot_options(), newest, newest.log_from).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn many_small_publications_stay_few_files() {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var("LAKE_DUMP").ok().filter(|folder| !folder.is_empty());
    let address = kept.clone().unwrap_or_else(|| folder.path().join("a store").display().to_string());
    let bench = Bench::new(&address, 77);
    let mut world = run(&bench, 150, true, false);
    bench.commit(&mut world);
    let newest = world.roots.last().unwrap();
    assert_eq!(verify(&bench.snapshot_options(), newest, newest.log_from).unwrap(), Vec::<String>::new());
    let snapshot = Snapshot::of(bench.snapshot_options(), newest.clone()).unwrap();
    for schema in program::schemas().iter() {
        let files = snapshot.files(&schema.name).unwrap();
        assert!(files.data_files < 20 && files.delete_files <= 8, "{}: {files:?}", schema.name);
    }
    bench.check(&world, newest.epoch);
    if kept.is_some() {
        world.dump(&folder_of(&bench.store));
    }
}

fn folder_of(store: &SharedStore) -> std::path::PathBuf {
    store.location().strip_prefix("file://").unwrap().into()
}

#[test]
fn a_copied_store_is_read_and_written_on_under_its_own_address() {
    let folder = tempfile::tempdir().unwrap();
    let first = Bench::new(&folder.path().join("one").display().to_string(), 5);
    let mut world = run(&first, 40, false, false);
    world::copy_folder(&folder.path().join("one"), &folder.path().join("two"));
    std::fs::remove_dir_all(folder.path().join("one")).unwrap();
    let second = Bench::new(&folder.path().join("two").display().to_string(), 6);
    second.check(&world, world.epoch);
    let newest = world.roots.last().unwrap().clone();
    assert_eq!(verify(&second.snapshot_options(), &newest, newest.log_from).unwrap(), Vec::<String>::new());
    world.change();
    let root = second.commit(&mut world);
    let mut publisher = second.publisher(second.store.clone(), &root);
    world.published = publisher.publish().unwrap();
    let root = second.commit(&mut world);
    second.check(&world, root.epoch);
    for table in root.published.as_ref().unwrap().tables.values() {
        let name = table.metadata_location.strip_prefix(&format!("{}/", second.store.location())).unwrap();
        let json = second.runtime.block_on(second.store.get(name)).unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let snapshots = metadata["snapshots"].as_array().unwrap();
        assert!(
            snapshots
                .iter()
                .all(|s| s["manifest-list"].as_str().unwrap().starts_with(second.store.location()))
        );
    }
}

#[test]
fn a_checkpoint_of_an_index_that_is_gone_or_damaged_loses_nothing_and_is_made_anew() {
    let bench = Bench::new("memory://lake-checkpoint", 8);
    let mut world = run(&bench, 80, true, false);
    let checkpoints = |world: &World| -> Vec<String> {
        let published = world.published.as_ref().unwrap();
        published.tables.values().filter_map(|table| table.index.clone()).collect()
    };
    type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;
    let flip = |mut body: Vec<u8>| {
        let middle = body.len() / 2;
        body[middle] ^= 1;
        Some(body)
    };
    let damages: [Damage; 3] = [|_| None, |body| Some(body[..body.len() / 2].to_vec()), flip];
    for damage in damages {
        let made = checkpoints(&world);
        assert!(!made.is_empty());
        for name in &made {
            let body = bench.runtime.block_on(bench.store.get(name)).unwrap().to_vec();
            match damage(body) {
                Some(body) => bench.runtime.block_on(bench.store.put(name, body.into())).unwrap(),
                None => bench.runtime.block_on(bench.store.delete(name)).unwrap(),
            }
        }
        let newest = bench.commit(&mut world);
        let problems = verify(&bench.snapshot_options(), &newest, newest.log_from).unwrap();
        let told = |name: &String| problems.iter().any(|p| p.contains(name) && p.contains("replace it"));
        assert!(problems.len() == made.len() && made.iter().all(told), "{problems:?}");
        bench.check(&world, newest.epoch);
        let mut publisher = bench.publisher(bench.store.clone(), &newest);
        for _ in 0..3 {
            world.change();
            publisher.committed(&bench.commit(&mut world));
            world.published = publisher.publish().unwrap().or(world.published.take());
        }
        assert!(checkpoints(&world).iter().all(|name| !made.contains(name)), "each was replaced");
        let root = bench.commit(&mut world);
        bench.check(&world, root.epoch);
        assert_eq!(verify(&bench.snapshot_options(), &root, root.log_from).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn garbage_is_what_the_newer_publication_no_longer_needs() {
    let bench = Bench::new("memory://lake-garbage", 9);
    let world = run(&bench, 40, false, false);
    let mut publications: Vec<_> = world.roots.iter().filter_map(|root| root.published.clone()).collect();
    publications.dedup_by_key(|published| published.epoch);
    let root = world.roots.last().unwrap();
    let publisher = bench.publisher(bench.store.clone(), root);
    for pair in publications.windows(2) {
        for name in publisher.garbage(&pair[0], &pair[1]).unwrap() {
            assert!(generation_of(&name).is_some(), "{name}");
            bench.runtime.block_on(bench.store.delete(&name)).unwrap();
        }
    }
    // As of a root that keeps the last publication alone.
    let log_from = root.published.as_ref().map_or(0, |published| published.epoch);
    let newest = Root { log_from, ..root.clone() };
    assert_eq!(verify(&bench.snapshot_options(), &newest, newest.log_from).unwrap(), Vec::<String>::new());
    bench.check(&world, newest.epoch);
}

#[test]
fn nothing_is_published_twice_and_an_empty_table_is_named() {
    let bench = Bench::new("memory://lake-empty", 3);
    let mut world = World::new(3);
    let root = bench.commit(&mut world);
    let mut publisher = bench.publisher(bench.store.clone(), &root);
    let published = publisher.publish().unwrap().unwrap();
    assert_eq!(published.epoch, 0);
    assert_eq!(published.tables.len(), program::schemas().len());
    assert!(published.tables.values().all(|table| table.rows == 0 && table.snapshot_id > 0));
    assert_eq!(publisher.publish().unwrap(), None);
    world.published = Some(published);
    let root = bench.commit(&mut world);
    publisher.committed(&root);
    publisher.named(0);
    assert_eq!(publisher.publish().unwrap(), None);
    assert_eq!(verify(&bench.snapshot_options(), &root, root.log_from).unwrap(), Vec::<String>::new());
}

#[test]
fn a_change_that_contradicts_the_lake_is_an_error_that_names_table_and_row() {
    let bench = Bench::new("memory://lake-contract", 4);
    let mut world = World::new(4);
    bench.commit(&mut world);
    let row = vec![Value::Str("ghost".into()), Value::Long(1)];
    world.extra = vec![(program::SUMMARY, row, -1)];
    let root = bench.commit(&mut world);
    let mut publisher = bench.publisher(bench.store.clone(), &root);
    let error = publisher.publish().unwrap_err().to_string();
    assert!(error.contains("evals.summary") && error.contains("ghost"), "{error}");
}

#[test]
fn icebergs_own_reader_sees_the_published_rows() {
    use futures::TryStreamExt;
    use iceberg::{TableIdent, io::FileIO, table::StaticTable};
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(&folder.path().display().to_string(), 11);
    let world = run(&bench, 40, true, false);
    let published = world.published.as_ref().unwrap();
    for (name, table) in &published.tables {
        let rows: usize = bench.runtime.block_on(async {
            let ident = TableIdent::from_strs(name.split('.')).unwrap();
            let at = &table.metadata_location;
            let opened = StaticTable::from_metadata_file(at, ident, FileIO::new_with_fs()).await.unwrap();
            let scan = opened.scan().build().unwrap().to_arrow().await.unwrap();
            let batches: Vec<_> = scan.try_collect().await.unwrap();
            batches.iter().map(|batch| batch.num_rows()).sum()
        });
        assert_eq!(rows as u64, table.rows, "{name}");
    }
}
