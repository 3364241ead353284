//! Several workers over one folder, and the folder itself.

use super::*;

#[test]
fn shares_are_disjoint_and_complete() {
    for drain in [false, true] {
        let bench = Bench { drain, ..Bench::new() };
        for n in 0..50 {
            bench.write(&format!("calls-{n}.jsonl"), format!("{n}\n"));
            bench.write(&format!("trajectories-{n}.jsonl.gz"), gz(format!("{n}\n")));
        }
        for workers in [1, 2, 3] {
            let factory = bench.factory();
            let mut all = Vec::new();
            for worker in 0..workers {
                let mut taken = Taken::default();
                let mut share = factory.open(worker, workers, &Positions::new(), &Cursors::new()).unwrap();
                while share.poll(&mut taken).unwrap() == Polled::More {}
                assert!(taken.lines.len() > 10, "the files are spread");
                all.extend(taken.lines.into_keys());
            }
            all.sort();
            assert_eq!(all.len(), 100);
            all.dedup();
            assert_eq!(all.len(), 100);
        }
    }
}

#[test]
fn new_files_are_found_while_running() {
    let mut bench = Bench::new();
    assert_eq!(bench.run().unwrap(), Polled::Idle);
    bench.write("calls.jsonl", "one\n");
    bench.write("nothing.jsonl", "one\n");
    bench.write("trajectories.jsonl.zst", zst("one\n"));
    assert_eq!(bench.run().unwrap(), Polled::Idle);
    assert_eq!(bench.taken.lines.keys().collect::<Vec<_>>(), ["calls.jsonl", "trajectories.jsonl.zst"]);
}

#[test]
fn a_folder_that_goes_and_comes_back_deletes_nothing() {
    let mut bench = Bench::new();
    bench.write("calls.jsonl", "one\n");
    bench.run().unwrap();
    let away = bench.folder.path().with_extension("away");
    fs::rename(bench.folder.path(), &away).unwrap();
    assert_eq!(bench.run().unwrap(), Polled::Idle);
    fs::rename(&away, bench.folder.path()).unwrap();
    bench.append("calls.jsonl", "two\n");
    assert_eq!(bench.lines("calls.jsonl"), whole(&["one", "two"]));
}

#[test]
fn a_long_file_does_not_keep_its_neighbours_waiting() {
    let mut bench = Bench::new();
    let long = [noise(999, 1), b"\n".to_vec()].concat().repeat(20_000);
    bench.write("calls-a.jsonl", &long);
    bench.write("calls-b.jsonl.gz", gz(&long));
    bench.write("calls-c.jsonl", "one\n");
    bench.poll().unwrap();
    assert_eq!(bench.taken.lines["calls-c.jsonl"].len(), 1);
    assert!(bench.taken.lines["calls-a.jsonl"].len() < 2_000);
    assert!(bench.taken.lines["calls-b.jsonl.gz"].len() < 2_000);
    bench.run().unwrap();
    assert_eq!(bench.taken.lines["calls-a.jsonl"], bench.taken.lines["calls-b.jsonl.gz"]);
    assert_eq!(bench.taken.lines["calls-a.jsonl"].len(), 20_000);
}

#[test]
fn many_resting_files_are_still_looked_at() {
    let mut bench = Bench::new();
    for n in 0..600 {
        bench.write(&format!("calls-{n}.jsonl"), "one\n");
    }
    for _ in 0..200 {
        bench.poll().unwrap();
    }
    for n in 0..600 {
        bench.append(&format!("calls-{n}.jsonl"), "two\n");
    }
    for _ in 0..10 {
        bench.poll().unwrap();
    }
    assert!(bench.taken.lines.values().all(|lines| lines.len() == 2));
}

#[test]
fn a_position_of_a_file_that_is_not_there_is_no_error() {
    let mut bench = Bench::new();
    bench.taken.positions.entry("calls".into()).or_default().insert("calls-old.jsonl".into(), 7);
    bench.write("calls.jsonl", "one\n");
    assert_eq!(bench.lines("calls.jsonl"), whole(&["one"]));
    assert_eq!(bench.taken.positions["calls"]["calls-old.jsonl"], 7);
}

#[test]
fn what_is_to_be_read_again_must_be_there_as_it_was() {
    let mut bench = Bench::new();
    for name in ["calls.jsonl", "calls-old.jsonl"] {
        bench.write(name, "one\ntwo\n");
    }
    bench.write("calls.jsonl.gz", gz("one\ntwo\n"));
    bench.run().unwrap();
    let (positions, cursors) = (bench.taken.positions.clone(), bench.taken.cursors.clone());
    for name in ["calls.jsonl", "calls-new.jsonl"] {
        bench.append(name, "three\nfour\n");
    }
    bench.append("calls.jsonl.gz", gz("three\n"));
    bench.run().unwrap();
    let holds = |bench: &Bench| {
        let taken = &bench.taken;
        bench.factory().holds((&positions, &cursors), (&taken.positions, &taken.cursors))
    };
    // Of a file of which nothing would be read again nothing is needed.
    fs::remove_file(bench.path("calls-old.jsonl")).unwrap();
    assert_eq!(holds(&bench).map_err(|error| error.to_string()), Ok(()));
    for (name, change) in [
        ("calls.jsonl", "one\ntwo\n"),
        ("calls.jsonl", "one\ntwo\nthree\nFour\n"),
        ("calls.jsonl", "one\nTwo\nthree\nfour\n"),
        ("calls.jsonl.gz", ""),
        ("calls-new.jsonl", ""),
    ] {
        let before = fs::read(bench.path(name)).unwrap();
        bench.write(name, change);
        let why = holds(&bench).unwrap_err().to_string();
        assert!(why.contains(name) && why.contains("truncated or replaced"), "{why}");
        fs::remove_file(bench.path(name)).unwrap();
        let why = holds(&bench).unwrap_err().to_string();
        assert!(why.contains(name) && why.contains("put it back first"), "{why}");
        bench.write(name, before);
    }
    assert_eq!(holds(&bench).map_err(|error| error.to_string()), Ok(()));
}
