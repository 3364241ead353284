//! Makes the Iceberg metadata of one table's new snapshot: manifests, manifest list, metadata file.
//!
//! One data manifest and one delete manifest list all live files; compaction bounds their number. The
//! metadata file keeps the last few snapshots. All of it is made in memory by Iceberg's own builders.

use super::draft::Ids;
use super::files::{DataFile, DeleteFile, Files};
use super::layout::{Names, address};
use super::schema::iceberg_schema;
use super::{LakeError, unusable};
use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, FormatVersion, MAIN_BRANCH, ManifestFile,
    ManifestListWriter, ManifestWriter, ManifestWriterBuilder, Operation, Snapshot, SortOrder, Struct,
    Summary, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec,
};
use std::collections::HashMap;
use tidemill_core::edge::SharedEdge;
use tidemill_types::TableSchema;

/// Snapshots, and earlier metadata files, that a metadata file lists at most.
const SNAPSHOTS_MAX: usize = 10;
/// The property of a snapshot that says its epoch.
const EPOCH: &str = "tidemill.epoch";

/// The epoch of a snapshot.
pub(super) fn epoch_of(snapshot: &Snapshot) -> Option<u64> {
    snapshot.summary().additional_properties.get(EPOCH)?.parse().ok()
}

/// What a snapshot changes, for its summary.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Delta {
    pub added_files: u64,
    pub added_rows: u64,
    pub added_bytes: u64,
    pub removed_files: u64,
    pub removed_rows: u64,
    pub added_deletes: u64,
    pub added_positions: u64,
    /// Rows that came with the log (not by a compaction).
    pub inserted: u64,
    /// Rows that went with the log.
    pub deleted: u64,
}

impl Delta {
    fn operation(&self) -> Operation {
        match (self.inserted > 0, self.deleted > 0, self.removed_files > 0) {
            (false, false, true) => Operation::Replace,
            (false, true, _) => Operation::Delete,
            (_, false, false) => Operation::Append,
            _ => Operation::Overwrite,
        }
    }
}

/// The metadata objects of a new snapshot.
pub(super) struct Committed {
    pub metadata: TableMetadata,
    pub metadata_name: String,
    pub snapshot_id: i64,
    /// Manifest list, manifests, metadata file.
    pub objects: Vec<(String, Bytes)>,
}

/// What a snapshot is made of.
pub(super) struct Commit<'a> {
    pub edge: &'a SharedEdge,
    pub location: &'a str,
    pub schema: &'a TableSchema,
    pub names: &'a Names<'a>,
    pub ids: &'a Ids,
    /// The table's metadata and its address, if it was published before.
    pub previous: Option<(&'a TableMetadata, String)>,
    /// Whether addresses of an earlier location must vanish.
    pub moved: bool,
    /// All live files; those of this snapshot carry `snapshot_id` and `sequence`.
    pub files: &'a Files,
    pub snapshot_id: i64,
    pub sequence: i64,
    pub now_ms: i64,
    pub delta: Delta,
    /// Snapshots of epochs below this one are not listed any more: their files may go.
    pub listed_from: u64,
}

impl Commit<'_> {
    /// Makes the objects; nothing is written to the store.
    pub fn make(&self) -> Result<Committed, LakeError> {
        self.edge.block_on(self.make_async())
    }

    async fn make_async(&self) -> Result<Committed, LakeError> {
        let base = self.base()?;
        let staging = FileIO::new_with_memory();
        let mut manifests = Vec::new();
        let mut names = Vec::new();
        if !self.files.data.is_empty() {
            let name = self.names.data_manifest(self.ids.uuid());
            manifests.push(self.data_manifest(&staging, &base, &name).await?);
            names.push(name);
        }
        if !self.files.deletes.is_empty() {
            let name = self.names.delete_manifest(self.ids.uuid());
            manifests.push(self.delete_manifest(&staging, &base, &name).await?);
            names.push(name);
        }
        let list = self.names.manifest_list(self.ids.uuid());
        self.manifest_list(&staging, &base, &list, manifests).await?;
        names.insert(0, list.clone());
        let mut objects = Vec::new();
        for name in &names {
            let staged = staging.new_input(self.address(name)).map_err(unusable(name))?;
            objects.push((name.clone(), staged.read().await.map_err(unusable(name))?));
        }
        let metadata = self.metadata(base, &list)?;
        let metadata_name = self.names.metadata(self.ids.uuid());
        let json = serde_json::to_vec(&metadata).map_err(unusable(&metadata_name))?;
        objects.push((metadata_name.clone(), json.into()));
        Ok(Committed { metadata, metadata_name, snapshot_id: self.snapshot_id, objects })
    }

    fn address(&self, name: &str) -> String {
        address(self.location, name)
    }

    /// The metadata to go on from: the previous, or that of a table without snapshots.
    fn base(&self) -> Result<TableMetadata, LakeError> {
        if let Some((previous, _)) = &self.previous {
            return Ok((*previous).clone());
        }
        let location = self.address(&format!("tables/{}", self.schema.name));
        let properties =
            HashMap::from([("write.metadata.previous-versions-max".to_string(), SNAPSHOTS_MAX.to_string())]);
        let built = TableMetadataBuilder::new(
            iceberg_schema(self.schema)?,
            UnboundPartitionSpec::default(),
            SortOrder::unsorted_order(),
            location,
            FormatVersion::V2,
            properties,
        );
        let built = built.map_err(unusable(&self.schema.name))?.assign_uuid(self.ids.uuid()).build();
        let mut metadata = built.map_err(unusable(&self.schema.name))?.metadata;
        // A table without a snapshot is nowhere written: its time is that of its first one.
        metadata = set_last_updated(metadata, self.now_ms).map_err(unusable(&self.schema.name))?;
        Ok(metadata)
    }

    fn manifest_writer(
        &self,
        staging: &FileIO,
        base: &TableMetadata,
        name: &str,
    ) -> Result<ManifestWriterBuilder, LakeError> {
        let output = staging.new_output(self.address(name)).map_err(unusable(name))?;
        let (schema, spec) = (base.current_schema().clone(), base.default_partition_spec());
        Ok(ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema, spec.as_ref().clone()))
    }

    async fn data_manifest(
        &self,
        staging: &FileIO,
        base: &TableMetadata,
        name: &str,
    ) -> Result<ManifestFile, LakeError> {
        let mut writer = self.manifest_writer(staging, base, name)?.build_v2_data();
        for file in self.files.data.values() {
            self.add(&mut writer, name, self.data_entry(file)?, file.snapshot_id, file.sequence)?;
        }
        writer.write_manifest_file().await.map_err(unusable(name))
    }

    async fn delete_manifest(
        &self,
        staging: &FileIO,
        base: &TableMetadata,
        name: &str,
    ) -> Result<ManifestFile, LakeError> {
        let mut writer = self.manifest_writer(staging, base, name)?.build_v2_deletes();
        for file in &self.files.deletes {
            self.add(&mut writer, name, self.delete_entry(file)?, file.snapshot_id, file.sequence)?;
        }
        writer.write_manifest_file().await.map_err(unusable(name))
    }

    fn add(
        &self,
        writer: &mut ManifestWriter,
        name: &str,
        entry: iceberg::spec::DataFile,
        snapshot_id: i64,
        sequence: i64,
    ) -> Result<(), LakeError> {
        let added = match snapshot_id == self.snapshot_id {
            true => writer.add_file(entry, sequence),
            false => writer.add_existing_file(entry, snapshot_id, sequence, Some(sequence)),
        };
        added.map_err(unusable(name))
    }

    fn data_entry(&self, file: &DataFile) -> Result<iceberg::spec::DataFile, LakeError> {
        self.entry(DataContentType::Data, &file.file.name, file.rows as u64, file.file.bytes)
    }

    fn delete_entry(&self, file: &DeleteFile) -> Result<iceberg::spec::DataFile, LakeError> {
        self.entry(DataContentType::PositionDeletes, &file.file.name, file.rows, file.file.bytes)
    }

    fn entry(
        &self,
        content: DataContentType,
        name: &str,
        rows: u64,
        bytes: u64,
    ) -> Result<iceberg::spec::DataFile, LakeError> {
        let built = DataFileBuilder::default()
            .content(content)
            .file_path(self.address(name))
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::empty())
            .partition_spec_id(0)
            .record_count(rows)
            .file_size_in_bytes(bytes)
            .build();
        built.map_err(unusable(name))
    }

    async fn manifest_list(
        &self,
        staging: &FileIO,
        base: &TableMetadata,
        name: &str,
        manifests: Vec<ManifestFile>,
    ) -> Result<(), LakeError> {
        let output = staging.new_output(self.address(name)).map_err(unusable(name))?;
        let file = output.writer().await.map_err(unusable(name))?;
        let parent = base.current_snapshot_id();
        let mut writer = ManifestListWriter::v2(file, self.snapshot_id, parent, self.sequence);
        writer.add_manifests(manifests.into_iter()).map_err(unusable(name))?;
        writer.close().await.map_err(unusable(name))
    }

    fn metadata(&self, base: TableMetadata, list: &str) -> Result<TableMetadata, LakeError> {
        let what = &self.schema.name;
        let mut old: Vec<(i64, i64, bool)> = base
            .snapshots()
            .map(|s| {
                (s.sequence_number(), s.snapshot_id(), epoch_of(s).is_some_and(|e| e < self.listed_from))
            })
            .collect();
        old.sort_unstable();
        let keep = if self.moved { 0 } else { SNAPSHOTS_MAX - 1 };
        let mut expired = Vec::new();
        for (place, (_, id, is_old)) in old.iter().rev().enumerate() {
            expired.extend((place >= keep || *is_old).then_some(*id));
        }
        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(base.current_snapshot_id())
            .with_sequence_number(self.sequence)
            .with_timestamp_ms(self.now_ms.max(base.last_updated_ms()))
            .with_manifest_list(self.address(list))
            .with_summary(self.summary())
            .with_schema_id(base.current_schema_id())
            .build();
        let previous = self.previous.as_ref().map(|(_, address)| address.clone());
        let location = self.address(&format!("tables/{}", self.schema.name));
        let built = base
            .into_builder(previous.filter(|_| !self.moved))
            .set_location(location)
            .set_branch_snapshot(snapshot, MAIN_BRANCH)
            .map_err(unusable(what))?
            .remove_snapshots(&expired)
            .build();
        Ok(built.map_err(unusable(what))?.metadata)
    }

    fn summary(&self) -> Summary {
        let (files, delta) = (self.files, &self.delta);
        let recorded: u64 = files.data.values().map(|file| file.rows as u64).sum();
        let positions: u64 = files.deletes.iter().map(|file| file.rows).sum();
        let entries = [
            ("added-data-files", delta.added_files),
            ("added-records", delta.added_rows),
            ("added-files-size", delta.added_bytes),
            ("deleted-data-files", delta.removed_files),
            ("deleted-records", delta.removed_rows),
            ("added-position-delete-files", delta.added_deletes),
            ("added-delete-files", delta.added_deletes),
            ("added-position-deletes", delta.added_positions),
            ("total-records", recorded),
            ("total-files-size", files.bytes()),
            ("total-data-files", files.data.len() as u64),
            ("total-delete-files", files.deletes.len() as u64),
            ("total-position-deletes", positions),
            ("total-equality-deletes", 0),
            (EPOCH, self.names.epoch),
            ("tidemill.generation", self.names.generation),
            ("tidemill.rows", files.rows()),
        ];
        let properties = entries.into_iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Summary { operation: delta.operation(), additional_properties: properties.collect() }
    }
}

/// Iceberg's builder takes the wall clock for a table that has no snapshot yet; this replaces it by the
/// time that the caller was handed, so that a clock that stands behind can still publish.
fn set_last_updated(metadata: TableMetadata, now_ms: i64) -> Result<TableMetadata, serde_json::Error> {
    let mut json = serde_json::to_value(&metadata)?;
    json["last-updated-ms"] = now_ms.into();
    serde_json::from_value(json)
}
