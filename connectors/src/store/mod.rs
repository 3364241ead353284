//! Object stores behind [`tidemill_core::store::Store`], and what the runtime reads from them.
//!
//! ```text
//!  address ──> open ──┬─ path, file://   local   synced files and folders, by the calls of `system`
//!                     ├─ memory://name   object  shared in the process, for tests
//!                     └─ s3://bucket/..  object  object_store, conditional puts by ETag
//!  segments  reads segments, checks their digests
//! ```
//!
//! An implementation is right when [`conformance::check`] passes on it. Addresses are plain text,
//! never percent-encoded, because that is how Iceberg readers take them.

pub mod conformance;
mod local;
mod object;
pub mod segments;
pub mod system;

pub use local::{Disk, LocalStore};
pub use object::ObjectStore;
pub use segments::SegmentCache;

use std::{path::Path, sync::Arc};
use tidemill_core::log;
use tidemill_core::store::{SharedStore, StoreError};

/// The store at an address: a path, `file:///path`, `memory://name` or `s3://bucket/prefix`.
///
/// Nothing is written until the first put; a folder that is missing is made by it. S3 takes its
/// credentials, region and endpoint from the usual `AWS_*` environment variables.
///
/// # Errors
///
/// When the address has a form that no store has, or cannot be turned into an absolute one.
pub fn open(address: &str) -> Result<SharedStore, StoreError> {
    match Address::parse(address)? {
        Address::Local(path) => Ok(Arc::new(LocalStore::open(Path::new(path))?)),
        Address::Memory(name) => Ok(Arc::new(ObjectStore::memory(name))),
        Address::S3 { bucket, prefix } => Ok(Arc::new(ObjectStore::s3(bucket, prefix)?)),
    }
}

/// The store at an address that a reader expects to find filled.
///
/// # Errors
///
/// As [`open`], and when no root stands there: a mistyped address must not look like an empty store.
pub async fn open_existing(address: &str) -> Result<SharedStore, StoreError> {
    let store = open(address)?;
    let none = |what: &str| {
        let location = store.location();
        Err(StoreError::Failed(format!(
            "there is no store at {location}: {what}; give the address that `run` was given with --store"
        )))
    };
    if let Some(folder) = store.location().strip_prefix("file://")
        && !Path::new(folder).is_dir()
    {
        return none("the folder does not exist");
    }
    if log::read_hint(store.as_ref()).await?.is_none() && log::epochs(store.as_ref()).await?.is_empty() {
        return none("it holds no commit");
    }
    Ok(store)
}

/// An address as it was typed, taken apart.
#[derive(Debug, PartialEq, Eq)]
enum Address<'a> {
    Local(&'a str),
    Memory(&'a str),
    S3 { bucket: &'a str, prefix: &'a str },
}

impl<'a> Address<'a> {
    fn parse(address: &'a str) -> Result<Self, StoreError> {
        let refuse = |what: &str| {
            Err(StoreError::Failed(format!(
                "{address:?} is no address of a store: {what}; give a path, file:///path, memory://name \
                 or s3://bucket/prefix"
            )))
        };
        let Some((scheme, rest)) = address.split_once("://") else {
            return if address.is_empty() { refuse("it is empty") } else { Ok(Self::Local(address)) };
        };
        let rest = rest.trim_end_matches('/');
        if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
            // Not repeated: it may hold a secret.
            return Err(StoreError::Failed(
                "an address of a store holds no credentials (there is an `@` before its first slash): give them in the \
                 AWS_* environment variables"
                    .to_string(),
            ));
        }
        match scheme {
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::Local(path)),
                "" => Ok(Self::Local("/")),
                _ => refuse("a file address has three slashes and an absolute path"),
            },
            "memory" if !rest.is_empty() => Ok(Self::Memory(rest)),
            "memory" => refuse("a memory store needs a name"),
            "s3" | "s3a" => match rest.split_once('/').unwrap_or((rest, "")) {
                ("", _) => refuse("the bucket is missing"),
                (bucket, prefix) => Ok(Self::S3 { bucket, prefix }),
            },
            _ => refuse(&format!("no store has the scheme {scheme:?}")),
        }
    }
}

/// Refuses names that could leave the store or that collide with temporary files.
fn check_name(name: &str) -> Result<(), StoreError> {
    let bad = |part: &str| {
        part.is_empty()
            || part == "."
            || part == ".."
            || part.starts_with(local::TEMPORARY)
            || part.contains(|c: char| c.is_control() || c == '\\')
    };
    if name.split('/').any(bad) {
        return Err(StoreError::Failed(format!("{name:?} cannot be the name of an object")));
    }
    Ok(())
}

/// Refuses folder names that are not empty and do not end in a slash; gives the name without it.
fn check_folder(folder: &str) -> Result<&str, StoreError> {
    if folder.is_empty() {
        return Ok(folder);
    }
    let name = folder.strip_suffix('/').unwrap_or_default();
    check_name(name).map_err(|_| {
        StoreError::Failed(format!("{folder:?} cannot be the name of a folder, which ends in a slash"))
    })?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn addresses_are_taken_apart_without_decoding() {
        assert_eq!(Address::parse("a b/c").unwrap(), Address::Local("a b/c"));
        assert_eq!(Address::parse("file:///a%20b/").unwrap(), Address::Local("/a%20b"));
        assert_eq!(Address::parse("file://localhost/a").unwrap(), Address::Local("/a"));
        assert_eq!(Address::parse("memory://m").unwrap(), Address::Memory("m"));
        let error = Address::parse("s3://key:hush@bucket/a").unwrap_err().to_string();
        assert!(error.contains("AWS_*") && !error.contains("hush"), "{error}");
        assert_eq!(
            Address::parse("s3://bucket/a/b/").unwrap(),
            Address::S3 { bucket: "bucket", prefix: "a/b" }
        );
        assert_eq!(Address::parse("s3://bucket").unwrap(), Address::S3 { bucket: "bucket", prefix: "" });
        for bad in ["", "file://relative/x", "memory://", "s3://", "ftp://x/y"] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(error.contains("is no address of a store"), "{error}");
        }
    }

    #[test]
    fn names_stay_inside_the_store() {
        for good in ["a", "catalog/_hint", "tables/raw.calls/data/x.parquet"] {
            check_name(good).unwrap();
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", ".tmp-1-2", "a/.tmp-1-2", "a\nb"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_folder("").unwrap(), "");
        assert_eq!(check_folder("a/b/").unwrap(), "a/b");
        assert!(check_folder("a").is_err());
        assert!(check_folder("/").is_err());
    }

    #[tokio::test]
    async fn a_reader_is_told_that_there_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = open_existing(missing.to_str().unwrap()).await.unwrap_err().to_string();
        assert!(
            error.starts_with("there is no store at file://") && error.contains("does not exist"),
            "{error}"
        );
        assert!(!missing.exists());
        let error = open_existing(folder.path().to_str().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("holds no commit"), "{error}");
        let error = open_existing("memory://nothing-here").await.unwrap_err().to_string();
        assert!(error.starts_with("there is no store at memory://nothing-here"), "{error}");
    }

    #[tokio::test]
    async fn memory_stores_are_shared_by_name() {
        let a = open("memory://shared-by-name").unwrap();
        a.put("x", Bytes::from_static(b"1")).await.unwrap();
        let b = open("memory://shared-by-name").unwrap();
        assert_eq!(b.get("x").await.unwrap(), "1");
        assert_eq!(b.location(), "memory://shared-by-name");
        assert!(open("memory://another-name").unwrap().get("x").await.is_err());
    }
}
