//! What every [`tidemill_core::store::Store`] must do, run on each implementation by its tests.
//!
//! The runtime rests on three things here: a name that is created is created once, whoever tries; what
//! was written is what is read; a list shows all that is there and nothing half-written.

use bytes::Bytes;
use futures::future::join_all;
use std::fmt::Debug;
use tidemill_core::store::{Created, SharedStore, StoreError};

/// How many writers race for one name.
const RACERS: u8 = 16;

/// Checks a store that holds nothing yet; leaves objects behind.
///
/// # Errors
///
/// The first sentence that does not hold.
pub async fn check(store: SharedStore) -> Result<(), String> {
    addresses(&store)?;
    puts_and_gets(&store).await?;
    ranges(&store).await?;
    lists(&store).await?;
    deletes(&store).await?;
    creates(&store).await?;
    racing_creates(&store).await?;
    racing_puts(&store).await
}

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}")) }
}

fn ok<T>(what: &str, result: Result<T, StoreError>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

fn fails<T: Debug>(what: &str, result: Result<T, StoreError>) -> Result<StoreError, String> {
    match result {
        Ok(found) => Err(format!("{what}: it must fail, but gave {found:?}")),
        Err(error) => Ok(error),
    }
}

fn not_found<T: Debug>(what: &str, result: Result<T, StoreError>) -> Result<(), String> {
    match fails(what, result)? {
        StoreError::NotFound { .. } => Ok(()),
        other => Err(format!("{what}: it must not be found, but {other}")),
    }
}

fn addresses(store: &SharedStore) -> Result<(), String> {
    let location = store.location();
    same("a location is an address", location.contains("://"), true)?;
    same("a location has no trailing slash", location.ends_with('/'), false)
}

async fn puts_and_gets(store: &SharedStore) -> Result<(), String> {
    not_found("what was never put", store.get("c/none").await)?;
    ok("put", store.put("c/p/one", Bytes::from_static(b"first")).await)?;
    same("get", ok("get", store.get("c/p/one").await)?, Bytes::from_static(b"first"))?;
    ok("put again", store.put("c/p/one", Bytes::from_static(b"2")).await)?;
    same("a put replaces", ok("get", store.get("c/p/one").await)?, Bytes::from_static(b"2"))?;
    ok("put nothing", store.put("c/p/empty", Bytes::new()).await)?;
    same("an empty object", ok("get", store.get("c/p/empty").await)?, Bytes::new())?;
    for bad in ["/c/p", "c//p", "c/../p", ""] {
        fails(&format!("the name {bad:?}"), store.put(bad, Bytes::new()).await)?;
    }
    Ok(())
}

async fn ranges(store: &SharedStore) -> Result<(), String> {
    ok("put", store.put("c/r", Bytes::from_static(b"0123456789")).await)?;
    for (range, expected) in [(0..10, "0123456789"), (3..5, "34"), (9..10, "9"), (4..4, "")] {
        let found = ok("range", store.get_range("c/r", range.clone()).await)?;
        same(&format!("range {range:?}"), found, Bytes::from_static(expected.as_bytes()))?;
    }
    fails("a range beyond the end", store.get_range("c/r", 8..11).await)?;
    fails("a range after the end", store.get_range("c/r", 20..21).await)?;
    not_found("a range of nothing", store.get_range("c/none", 0..1).await)
}

async fn names(store: &SharedStore, folder: &str) -> Result<Vec<(String, u64)>, String> {
    let mut found: Vec<_> =
        ok("list", store.list(folder).await)?.into_iter().map(|object| (object.name, object.bytes)).collect();
    found.sort();
    Ok(found)
}

async fn lists(store: &SharedStore) -> Result<(), String> {
    same("a list of nothing", names(store, "c/l/").await?, Vec::new())?;
    for (name, body) in [("c/l/b", "22"), ("c/l/a/deep/er", "333"), ("c/l/a/x", "1"), ("c/lx", "")] {
        ok("put", store.put(name, Bytes::from_static(body.as_bytes())).await)?;
    }
    let all = [("c/l/a/deep/er".to_string(), 3), ("c/l/a/x".to_string(), 1), ("c/l/b".to_string(), 2)];
    same("a list at any depth", names(store, "c/l/").await?, all.to_vec())?;
    same("a list of a subfolder", names(store, "c/l/a/").await?, all[..2].to_vec())?;
    let everything = names(store, "").await?;
    let after = ok("list_after", store.list_after("c/l/", &all[0].0).await)?;
    let mut after: Vec<(String, u64)> = after.into_iter().map(|object| (object.name, object.bytes)).collect();
    after.sort();
    same("what comes after a name", after, all[1..].to_vec())?;
    same("a list of all", everything.iter().any(|(name, _)| name == "c/lx"), true)?;
    fails("a folder without a slash", store.list("c/l").await).map(drop)
}

async fn deletes(store: &SharedStore) -> Result<(), String> {
    ok("put", store.put("c/d", Bytes::from_static(b"1")).await)?;
    ok("delete", store.delete("c/d").await)?;
    not_found("what was deleted", store.get("c/d").await)?;
    ok("delete what is not there", store.delete("c/d").await)?;
    ok("delete in no folder", store.delete("c/nowhere/d").await)
}

async fn creates(store: &SharedStore) -> Result<(), String> {
    let create = |body: &'static str| store.create("c/c/one", Bytes::from_static(body.as_bytes()));
    same("a first create", ok("create", create("mine").await)?, Created::New)?;
    same("a second create", ok("create", create("theirs").await)?, Created::Exists)?;
    same("the identical create", ok("create", create("mine").await)?, Created::Exists)?;
    same("the first stays", ok("get", store.get("c/c/one").await)?, Bytes::from_static(b"mine"))?;
    ok("delete", store.delete("c/c/one").await)?;
    same("a name that is free again", ok("create", create("later").await)?, Created::New)?;
    same("only it is listed", names(store, "c/c/").await?, vec![("c/c/one".to_string(), 5)])
}

async fn racing_creates(store: &SharedStore) -> Result<(), String> {
    for round in 0..8 {
        let name = format!("c/race/{round}");
        let tasks = (0..RACERS).map(|racer| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move { store.create(&name, Bytes::from(vec![racer; 1000])).await })
        });
        let mut winners = Vec::new();
        for (racer, task) in (0..RACERS).zip(join_all(tasks).await) {
            let created = task.map_err(|error| format!("a racing create: {error}"))?;
            if ok("a racing create", created)? == Created::New {
                winners.push(racer);
            }
        }
        same("winners of one name", winners.len(), 1)?;
        let found = ok("get", store.get(&name).await)?;
        same("the winner's bytes", found, Bytes::from(vec![winners[0]; 1000]))?;
    }
    Ok(())
}

async fn racing_puts(store: &SharedStore) -> Result<(), String> {
    let writers = (0..RACERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            store.put("c/puts/one", Bytes::from(vec![writer; 100_000])).await?;
            let seen = store.get("c/puts/one").await?;
            Ok(seen.len() == 100_000 && seen.iter().all(|byte| *byte == seen[0]))
        })
    });
    for writer in join_all(writers).await {
        let whole = writer.map_err(|error| format!("a racing put: {error}"))?;
        same("what is read is whole", ok("a racing put", whole)?, true)?;
    }
    same("one object is left", names(store, "c/puts/").await?, vec![("c/puts/one".to_string(), 100_000)])
}
