//! `verify` reads every byte that a commit refers to: an object of the newest commit that is missing, cut
//! short or changed in one bit is found and named. Who reads tables is told of it too, and shown no other rows.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::held::Held;
use support::mill::Mill;
use tidemill::cli::Tables as _;
use tidemill_oracle::traffic;

/// Tables of which each kind of file is there.
const TABLES: [&str; 4] = ["raw.calls", "_state.scores", "train.sft", "evals.scores"];

/// A store with two publications, so that rows of the first are deleted by position.
fn published_twice() -> Mill {
    let mut mill = Mill::for_traffic(61);
    mill.set("lake-interval", "1h");
    let steps = traffic::steps(61, traffic::SMALL);
    let (first, rest) = steps.split_at(steps.len() / 2);
    for part in [first, rest] {
        mill.write(part);
        mill.drain(2);
    }
    mill
}

/// The objects of some tables that the newest commit refers to, without the manifests that only a
/// manifest list names.
fn referred_to(mill: &Mill, held: &Held) -> Vec<PathBuf> {
    let published = held.reader.newest.published.as_ref().expect("a publication");
    let mut objects = Vec::new();
    for table in TABLES {
        objects.extend(mill.objects(&format!("tables/{table}/data")));
        let metadata = PathBuf::from(published.tables[table].metadata_location.trim_start_matches("file://"));
        let text = fs::read_to_string(&metadata).expect("a metadata file");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let current = |snapshot: &&serde_json::Value| snapshot["snapshot-id"] == json["current-snapshot-id"];
        let current = json["snapshots"].as_array().and_then(|all| all.iter().find(current));
        let current = current.expect("a snapshot");
        let list = current["manifest-list"].as_str().expect("an address").trim_start_matches("file://");
        objects.extend([metadata, list.into()]);
        objects.extend(published.tables[table].index.as_ref().map(|name| mill.store().join(name)));
    }
    objects
}

fn problems(held: &Held) -> Vec<String> {
    held.reader.check(&held.reader.newest).expect("a store that can be asked")
}

/// Changes a bit at so many tenths of an object; it stays there.
fn flip(bytes: &mut [u8], tenths: usize) -> bool {
    let place = bytes.len() * tenths / 10;
    bytes[place] ^= 1;
    true
}

/// What is found while an object is not as it was; it is put back.
fn found(held: &Held, object: &Path, change: impl FnOnce(&mut Vec<u8>) -> bool) -> Vec<String> {
    found_by(|| problems(held), object, change)
}

/// What is seen of a store while an object is not as it was; it is put back.
fn found_by<T>(look: impl Fn() -> T, object: &Path, change: impl FnOnce(&mut Vec<u8>) -> bool) -> T {
    let bytes = fs::read(object).expect("an object");
    let mut changed = bytes.clone();
    match change(&mut changed) {
        true => fs::write(object, changed).expect("writing"),
        false => fs::remove_file(object).expect("removing"),
    }
    let seen = look();
    fs::write(object, bytes).expect("writing");
    seen
}

#[test]
fn whatever_is_missing_cut_short_or_changed_is_found_and_named() {
    let mill = published_twice();
    let held = Held::of(&mill);
    assert_eq!(problems(&held), Vec::<String>::new());
    let objects = referred_to(&mill, &held);
    let named = |what: &str| objects.iter().filter(|path| path.to_string_lossy().contains(what)).count();
    assert!(
        named("-deletes.parquet") > 0 && named("snap-") == 4 && named("-index.arrows") > 0,
        "{objects:?}"
    );
    for object in &objects {
        let name = object.file_name().expect("a name").to_string_lossy().to_string();
        for share in [2, 5, 8] {
            let problems = found(&held, object, |bytes| flip(bytes, share));
            assert!(!problems.is_empty(), "{name}: a bit at {share}0 % was not missed");
            let parquet = name.ends_with(".parquet");
            // By its digest, before anything is decoded.
            let told =
                |problem: &String| problem.contains(&name) && problem.contains("is not what was written");
            assert!(!parquet || problems.iter().any(told), "{name}: {problems:?}");
        }
        let cut = found(&held, object, |bytes| {
            bytes.truncate(bytes.len() - 1);
            true
        });
        assert!(!cut.is_empty(), "{name}: its last byte was not missed");
        let missing = found(&held, object, |_| false);
        let about = missing.iter().filter(|problem| problem.contains(&name)).count();
        assert_eq!(about, 1, "{name}: {missing:?}");
    }
    assert_eq!(problems(&held), Vec::<String>::new(), "everything was put back");
}

/// Changes an object's bytes; `false`: it is removed.
type Change<'c> = &'c dyn Fn(&mut Vec<u8>) -> bool;

fn name_of(object: &Path) -> String {
    object.file_name().expect("a name").to_string_lossy().to_string()
}

/// Whatever is retained, also what the newest commit has no use for.
#[test]
fn all_that_is_retained_is_checked_and_what_is_amiss_is_named_with_what_to_do() {
    let mill = published_twice();
    let held = Held::of(&mill);
    let problems = || held.reader.check_all().expect("a store that can be asked").1.problems;
    assert_eq!(problems(), Vec::<String>::new());
    let roots = mill.objects("catalog");
    let roots: Vec<&PathBuf> = roots.iter().filter(|path| path.extension().is_some()).collect();
    let first = |folder: &str| mill.objects(folder).into_iter().next().expect("an object");
    let metadata = mill.objects("tables/raw.calls/metadata");
    let oldest =
        metadata.iter().find(|path| name_of(path).starts_with("00")).expect("the first metadata file");
    let ends = |end: &str| {
        let found = metadata.iter().find(|path| name_of(path).ends_with(end));
        found.unwrap_or_else(|| panic!("no {end} in {metadata:?}"))
    };
    let (manifest, of_deletes) = (ends("-m0.avro"), ends("-d0.avro"));
    let checkpoint = mill.objects("tables/_state.scores/metadata");
    let checkpoint =
        checkpoint.iter().find(|path| name_of(path).ends_with("-index.arrows")).expect("an index");
    let list = metadata.iter().find(|path| name_of(path).starts_with("snap-")).expect("a manifest list");
    let all = [
        list.clone(),
        roots[1].clone(),
        first("segments"),
        first("tables/evals.scores/data"),
        oldest.clone(),
        manifest.clone(),
        of_deletes.clone(),
        checkpoint.clone(),
    ];
    for object in &all {
        let name = name_of(object);
        let cut = |bytes: &mut Vec<u8>| {
            bytes.truncate(bytes.len() / 2);
            true
        };
        let changes: [Change<'_>; 3] = [&|bytes| flip(bytes, 5), &cut, &|_| false];
        for change in changes {
            let found = found_by(problems, object, change);
            let told = found.iter().any(|problem| problem.contains("restore"));
            assert!(told, "{name}: {found:?}");
            assert!(found.iter().any(|problem| problem.contains(&name)), "{name}: {found:?}");
        }
    }
    let hint = mill.store().join("catalog/_hint");
    fs::write(&hint, "7 nonsense").expect("writing");
    let found = problems();
    assert!(
        found.iter().any(|problem| problem.contains("_hint") && problem.contains("delete it")),
        "{found:?}"
    );
    fs::remove_file(hint).expect("removing");
    assert_eq!(problems(), Vec::<String>::new(), "everything was put back");
}

/// What no commit names: it has no row of a table in it.
#[test]
fn a_data_file_that_no_row_count_explains_is_named() {
    let mill = published_twice();
    let held = Held::of(&mill);
    let problems = || held.reader.check_all().expect("a store that can be asked").1.problems;
    let data = mill.objects("tables/raw.calls/data").into_iter().next().expect("an object");
    // One like those of writers, but with other bytes than its name says.
    let mut like = name_of(&data);
    let digit = like.len() - ".parquet".len() - 1;
    let other = if like[digit..].starts_with('0') { "1" } else { "0" };
    like.replace_range(digit..=digit, other);
    for stranger in ["more.parquet", &like] {
        let path = mill.store().join("tables/raw.calls/data").join(stranger);
        fs::copy(&data, &path).expect("a copy");
        let found = problems();
        let told = |problem: &String| problem.contains(stranger) && problem.contains("remove it");
        assert!(found.iter().any(told), "{stranger}: {found:?}");
        fs::remove_file(path).expect("removing");
    }
    // What a publication left that was cut off is no fault.
    let left = data.with_file_name(name_of(&data).replace("-g1-", "-g0-"));
    fs::copy(&data, &left).expect("a copy");
    let (_, found) = held.reader.check_all().expect("a store that can be asked");
    assert_eq!(found.problems, Vec::<String>::new());
    assert!(found.unnamed.len() == 1 && found.unnamed[0].ends_with(&name_of(&left)), "{:?}", found.unnamed);
    fs::remove_file(left).expect("removing");
}

/// Rows of tables as a reader who has just come sees them; what they are told in their place.
fn shown(held: &Held) -> Result<Vec<String>, String> {
    let tables = held.reader.tables(None).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for table in TABLES {
        let read = tables.for_each(table, &mut |row| {
            rows.push(format!("{table} {row:?}"));
            Ok(())
        });
        read.map_err(|error| error.to_string())?;
    }
    rows.sort();
    Ok(rows)
}

#[test]
fn a_reader_is_told_what_is_damaged_and_never_shown_it() {
    let mill = published_twice();
    let held = Held::of(&mill);
    let rows = shown(&held).expect("tables");
    let mut objects = referred_to(&mill, &held);
    for table in TABLES {
        let all = mill.objects(&format!("tables/{table}/metadata"));
        objects.extend(all.into_iter().filter(|path| name_of(path).ends_with("0.avro")));
    }
    let mut refused = Vec::new();
    for object in &objects {
        let name = name_of(object);
        for share in [2, 5, 8] {
            match found_by(|| shown(&held), object, |bytes| flip(bytes, share)) {
                Ok(seen) => assert!(seen == rows, "{name}: rows that nobody wrote"),
                Err(told) => {
                    assert!(told.contains(&name) && told.contains("restore"), "{name}: {told}");
                    refused.push(name.clone());
                }
            }
        }
    }
    for kind in ["-deletes.parquet", "snap-", ".metadata.json", "-m0.avro", "-d0.avro"] {
        assert!(refused.iter().any(|name| name.contains(kind)), "no {kind} in {refused:?}");
    }
    let of_data = |name: &String| name.ends_with(".parquet") && !name.contains("-deletes");
    assert!(refused.iter().any(of_data), "no data file in {refused:?}");
    assert_eq!(shown(&held).expect("tables"), rows, "everything was put back");
}
