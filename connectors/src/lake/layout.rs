//! Names of the lake's objects, and absolute addresses made relative again.
//!
//! Every name holds the generation of the writer that made it and the epoch that it was made for, so that
//! a collector can tell the orphans of a writer that is gone from the work of the one that runs. A
//! metadata file is called `<generation>-<uuid>.metadata.json`, because Iceberg's tools parse that name
//! as `<i32>-<uuid>`; its epoch stands in the first 48 bits of the UUID, which is of version 8 (layout
//! free) for that reason. The UUID in the name of a data or delete file is of version 8 too and is the
//! digest of its bytes, so that the name alone tells whether the file is whole; so is that of the checkpoint of an index.

use super::LakeError;
use tidemill_types::Digest;
use uuid::Uuid;

/// Names objects of one table of one publication.
pub(super) struct Names<'a> {
    /// The table.
    pub table: &'a str,
    /// The epoch of the publication.
    pub epoch: u64,
    /// The generation of the writer.
    pub generation: u64,
}

impl Names<'_> {
    fn stem(&self, uuid: Uuid) -> String {
        format!("{:020}-g{}-{uuid}", self.epoch, self.generation)
    }

    pub fn data(&self, body: &[u8]) -> String {
        format!("tables/{}/data/{}.parquet", self.table, self.stem(content_id(body)))
    }

    pub fn deletes(&self, body: &[u8]) -> String {
        format!("tables/{}/data/{}{DELETES}", self.table, self.stem(content_id(body)))
    }

    pub fn index(&self, body: &[u8]) -> String {
        format!("tables/{}/metadata/{}{INDEX}", self.table, self.stem(content_id(body)))
    }

    pub fn data_manifest(&self, uuid: Uuid) -> String {
        format!("tables/{}/metadata/{}-m0.avro", self.table, self.stem(uuid))
    }

    pub fn delete_manifest(&self, uuid: Uuid) -> String {
        format!("tables/{}/metadata/{}-d0.avro", self.table, self.stem(uuid))
    }

    pub fn manifest_list(&self, uuid: Uuid) -> String {
        format!("tables/{}/metadata/snap-{}.avro", self.table, self.stem(uuid))
    }

    pub fn metadata(&self, uuid: Uuid) -> String {
        let mut bytes = uuid.into_bytes();
        bytes[..EPOCH_BYTES].copy_from_slice(&self.epoch.to_be_bytes()[8 - EPOCH_BYTES..]);
        let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        format!("tables/{}/metadata/{:05}-{uuid}{METADATA}", self.table, self.generation)
    }
}

/// The digest of a file's bytes in the form of a UUID.
fn content_id(body: &[u8]) -> Uuid {
    uuid::Builder::from_custom_bytes(Digest::of(body).to_bytes()).into_uuid()
}

/// Whether a data or delete file, or the checkpoint of an index, holds what its name says; `None` if the name does not say it.
pub(super) fn is_whole(name: &str, body: &[u8]) -> Option<bool> {
    let file = name.rsplit('/').next()?;
    let stem = [DELETES, ".parquet", INDEX].iter().find_map(|end| file.strip_suffix(end))?;
    let uuid: Uuid = stem.splitn(3, '-').nth(2)?.parse().ok()?;
    (uuid.get_version_num() == 8).then(|| uuid == content_id(body))
}

/// How the names of delete files end.
const DELETES: &str = "-deletes.parquet";
/// How the names of checkpoints of indexes end.
const INDEX: &str = "-index.arrows";
/// How the names of metadata files end.
const METADATA: &str = ".metadata.json";
/// Bytes of an epoch in a metadata file's UUID.
const EPOCH_BYTES: usize = 6;

/// The generation of the writer that made an object of the lake, by its name.
pub fn generation_of(name: &str) -> Option<u64> {
    let file = name.strip_prefix("tables/")?.rsplit('/').next()?;
    if file.ends_with(METADATA) {
        return file.split('-').next()?.parse().ok();
    }
    let mut parts = file.strip_prefix("snap-").unwrap_or(file).split('-');
    parts.next()?;
    parts.next()?.strip_prefix('g')?.parse().ok()
}

/// The epoch of the publication that an object of the lake was made for, by its name; a metadata file
/// whose UUID is of another version does not tell.
pub fn epoch_of(name: &str) -> Option<u64> {
    let file = name.strip_prefix("tables/")?.rsplit('/').next()?;
    let Some(metadata) = file.strip_suffix(METADATA) else {
        return file.strip_prefix("snap-").unwrap_or(file).split('-').next()?.parse().ok();
    };
    let uuid: Uuid = metadata.split_once('-')?.1.parse().ok()?;
    let mut epoch = [0; 8];
    epoch[8 - EPOCH_BYTES..].copy_from_slice(&uuid.as_bytes()[..EPOCH_BYTES]);
    (uuid.get_version_num() == 8).then(|| u64::from_be_bytes(epoch))
}

/// The absolute address of an object.
pub(super) fn address(location: &str, name: &str) -> String {
    format!("{location}/{name}")
}

/// The name behind an absolute address: the part after the location under which it was written. A
/// store that was copied and written on holds addresses of more than one location; all lake objects
/// stand below `tables/`.
pub(super) fn name_of(location: &str, address: &str) -> Result<String, LakeError> {
    if let Some(name) = address.strip_prefix(location).and_then(|rest| rest.strip_prefix('/')) {
        return Ok(name.to_string());
    }
    match address.rfind("/tables/") {
        Some(at) => Ok(address[at + 1..].to_string()),
        None => Err(LakeError::Object {
            object: address.to_string(),
            problem: format!("the address begins neither with {location} nor stands below `tables/`"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_tells_its_generation_and_its_epoch() {
        let names = Names { table: "raw.calls", epoch: 7, generation: 3 };
        let id = Uuid::from_u128(5);
        let all = [
            names.data(b"rows"),
            names.deletes(b"positions"),
            names.index(b"places"),
            names.data_manifest(id),
            names.delete_manifest(id),
            names.manifest_list(id),
            names.metadata(id),
        ];
        for name in all {
            assert_eq!((generation_of(&name), epoch_of(&name)), (Some(3), Some(7)), "{name}");
        }
        assert_eq!(generation_of("segments/x"), None);
        let older = format!("tables/raw.calls/metadata/00003-{}.metadata.json", Uuid::from_u128(5));
        assert_eq!((generation_of(&older), epoch_of(&older)), (Some(3), None));
    }

    #[test]
    fn the_name_of_a_data_file_tells_whether_it_is_whole() {
        let names = Names { table: "raw.calls", epoch: 7, generation: 3 };
        for name in [names.data(b"bytes"), names.deletes(b"bytes"), names.index(b"bytes")] {
            assert_eq!((is_whole(&name, b"bytes"), is_whole(&name, b"bytez")), (Some(true), Some(false)));
        }
        let older = format!("tables/raw.calls/data/{}.parquet", names.stem(Uuid::from_u128(5)));
        assert_eq!(is_whole(&older, b"bytes"), None);
    }

    #[test]
    fn an_address_of_another_location_is_made_relative() {
        let name = name_of("file:///b", "file:///a/tables/raw.calls/data/x.parquet").unwrap();
        assert_eq!(name, "tables/raw.calls/data/x.parquet");
        assert!(name_of("file:///b", "file:///a/x.parquet").is_err());
    }
}
