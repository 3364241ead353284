//! What a commit is in the store: a single JSON object, put once and never changed.
//!
//! `catalog/<epoch, 20 digits>.json`. The fields that outsiders rely on (`format`, `epoch`,
//! `committed_at`, `generation`, `program`, `positions`, `models`, `published`) keep their names and
//! shapes; the others are the runtime's. Names of objects are relative to the store; addresses inside
//! `published` are absolute and begin with `location`, so that a reader of a copied store can make
//! them relative again.

use crate::{Digest, Epoch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format that this code writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// `{stream: {partition: offset}}`: the first record of each partition that is yet to be read.
pub type Positions = BTreeMap<String, BTreeMap<String, u64>>;

/// What a source needs besides the offset to go on: `{stream: {partition: its own}}`.
pub type Cursors = BTreeMap<String, BTreeMap<String, serde_json::Value>>;

/// The record of one commit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Root {
    /// Always [`FORMAT`].
    pub format: u32,
    /// The number of the commit.
    pub epoch: Epoch,
    /// RFC 3339, UTC.
    pub committed_at: String,
    /// Which writer put it, by number; from then on every writer with a smaller one is shut out.
    pub generation: u64,
    /// Unique to this body: who reads its own nonce back has committed.
    pub nonce: String,
    /// The absolute address of the store when this was written, without a trailing slash.
    pub location: String,
    /// Whether it is a claim: a new writer's number, and beside it what its predecessor holds.
    pub claim: bool,
    /// The program and its settings in force.
    pub program: ProgramId,
    /// What has been consumed.
    pub positions: Positions,
    /// What the sources need to go on from there.
    #[serde(default)]
    pub cursors: Cursors,
    /// Records that were gone before they were read, all that were ever accepted, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Sorted by when each last came into force: the model in use is at the end.
    pub models: Vec<ModelId>,
    /// One segment a worker that had changes.
    pub segments: Vec<SegmentRef>,
    /// The last publication that had been finished by the time this root was made; none before the first.
    pub published: Option<Published>,
    /// Objects that readers need no more; deleted after this root is committed.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// The oldest root that is kept (as of this root), apart from what tags keep.
    #[serde(default)]
    pub log_from: Epoch,
    /// Commits that people named: they are kept for ever.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Tag>,
    /// Set in a commit that goes back: the one whose positions, source tables, rejects and words hold again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<Epoch>,
    /// For how long, in milliseconds, its writer takes a free name for one that was never used; in a claim, also the
    /// writers before it. Roots of older releases, which do not say it: a minute.
    #[serde(default = "minute_ms")]
    pub trusts_ms: u64,
    /// What the writer had asked of its store by the time that this root was made; claims lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

fn minute_ms() -> u64 {
    60_000
}

/// What a process has asked of its store since it began. A request that the store's client repeats by itself counts
/// once.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Objects put, with a condition or without one.
    pub puts: u64,
    /// Objects and ranges of objects got.
    pub gets: u64,
    /// Listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Of all these, those that failed or had no clear answer.
    pub failed: u64,
    /// Bytes put.
    pub put_bytes: u64,
    /// Bytes got.
    pub got_bytes: u64,
}

impl Asked {
    /// What was asked since an earlier time; `None` if this is no later one of the same process.
    pub fn since(&self, earlier: &Asked) -> Option<Asked> {
        Some(Asked {
            puts: self.puts.checked_sub(earlier.puts)?,
            gets: self.gets.checked_sub(earlier.gets)?,
            lists: self.lists.checked_sub(earlier.lists)?,
            deletes: self.deletes.checked_sub(earlier.deletes)?,
            failed: self.failed.checked_sub(earlier.failed)?,
            put_bytes: self.put_bytes.checked_sub(earlier.put_bytes)?,
            got_bytes: self.got_bytes.checked_sub(earlier.got_bytes)?,
        })
    }
}

/// What a tag keeps: the roots `from..=epoch`, their segments, and the publication that root `epoch` names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tag {
    /// The commit.
    pub epoch: Epoch,
    /// The first root after its publication; 0 if it names none.
    pub from: Epoch,
}

/// Records of a source that are gone and were never read; a person chose to go on without them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The first commit that goes on behind it.
    pub epoch: Epoch,
    /// The stream.
    pub stream: String,
    /// The partition that was to be read on.
    pub partition: String,
    /// Its position: the first record that is missing.
    pub from: u64,
    /// Where reading goes on; in the same partition all below it is gone.
    pub to: u64,
    /// The partition that reading goes on in: the same, or its next life.
    pub resumed_in: String,
    /// What happened, for people.
    pub reason: String,
}

/// A program, by name, version and settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgramId {
    /// The program's name.
    pub name: String,
    /// What its author declares; another version means that the tables are recomputed.
    pub version: String,
    /// Every setting with the value that it has, whether given or left at its default.
    pub settings: serde_json::Value,
}

/// A model and its version. Whatever can change an output is part of the version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ModelId {
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: String,
}

/// Where a worker's changes of one epoch lie: an object, and byte ranges in it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Relative to the store.
    pub name: String,
    /// The worker that wrote it.
    pub worker: usize,
    /// Its size.
    pub bytes: u64,
    /// Hex of the 128-bit BLAKE3 digest of its bytes.
    pub digest: String,
    /// A byte range for each table that changed.
    pub tables: BTreeMap<String, SectionRef>,
    /// The byte range of the bodies that arrived at this worker in this epoch.
    pub bodies: Option<SectionRef>,
}

/// A byte range of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SectionRef {
    /// From the start of the segment.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// Rows with a positive diff (for bodies: bodies).
    pub inserted: u64,
    /// Rows with a negative diff.
    pub deleted: u64,
}

/// A publication: an Iceberg snapshot of each table, all at the same epoch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The epoch that the tables are as of.
    pub epoch: Epoch,
    /// Every table of the program, changed or not, empty or not.
    pub tables: BTreeMap<String, PublishedTable>,
    /// What was put for it; older roots lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put: Option<Put>,
}

/// What was put for a publication.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Put {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One table of a publication.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublishedTable {
    /// The absolute address of the Iceberg metadata file.
    pub metadata_location: String,
    /// The Iceberg snapshot.
    pub snapshot_id: i64,
    /// Live rows.
    pub rows: u64,
    /// Hex of the 128-bit BLAKE3 digests of the manifest list, of the manifests in its order, and of the metadata
    /// file; older roots lack them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata_digests: Vec<String>,
    /// The name of the checkpoint of the index from key to place, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

/// What stands between a root's fields and the digest at its end.
const DIGEST: &str = ",\"digest\":\"";

impl Root {
    /// The bytes that are put: the fields as JSON, and as the last one the digest of all before it.
    ///
    /// # Errors
    ///
    /// When a setting of the program cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.pop();
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(format!("{DIGEST}{digest}\"}}").as_bytes());
        Ok(bytes)
    }

    /// Whether bytes are those that were put; `None` if they do not say so, as those of older releases.
    pub fn is_whole(bytes: &[u8]) -> Option<bool> {
        let text = bytes.trim_ascii_end();
        let end = DIGEST.len() + 32 + 2;
        let (fields, digest) = text.split_at_checked(text.len().checked_sub(end)?)?;
        let digest = digest.strip_prefix(DIGEST.as_bytes())?.strip_suffix(b"\"}")?;
        Some(Digest::of(fields).to_string().as_bytes() == digest)
    }
}

/// The name of an epoch's root, relative to the store.
pub fn root_name(epoch: Epoch) -> String {
    format!("catalog/{epoch:020}.json")
}

/// The epoch whose root has this name.
pub fn root_epoch(name: &str) -> Option<Epoch> {
    let digits = name.strip_prefix("catalog/")?.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}
