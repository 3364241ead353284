//! The checkpoint of a table's index: where each row stands, in one object beside a publication.
//!
//! ```text
//!   checkpoint of publication p          files that came since
//!   [ name of each file             ]    ┌────┐ ┌────┐
//!   [ file, position, key digest, ..]    │ f8 │ │ f9 │ ──key columns──┐
//!            │                           └────┘ └────┘                v
//!            └──── entries whose file is there and whose row is live ──> index
//! ```
//!
//! A data file never changes, so an entry of one that is still there is still right, and what the deletions name is
//! left out; of files that the checkpoint does not know the key columns are read. So a checkpoint serves every later
//! publication, the less the more rows have come since. A new one is made when more than a quarter of the rows are in
//! files that it does not know, so that a row is written into one about four times at most before it is a quarter of
//! the table.
//!
//! It holds nothing that the data files do not: where it is missing or damaged these are read, and that is said. Its
//! name holds the digest of its bytes, and the number of rows must come out right, so that a wrong one is not used.

use super::files::{Files, read_index, read_keys_of};
use super::index::{KeyIndex, Place};
use super::io::Io;
use super::layout::is_whole;
use super::{LakeError, unusable};
use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tidemill_types::{Digest, PublishedTable, TableSchema};

/// Rows in files that a checkpoint does not know, below which none is made.
const ROWS_MIN: u64 = 16;
/// Of so many rows of a table one may be in such files.
const ROWS_A_STRANGER: u64 = 4;
/// Entries of one batch.
const BATCH: usize = 1 << 16;
/// Bytes of a digest.
const DIGEST: i32 = 16;
/// What errors are about before it has a name.
const WHAT: &str = "the checkpoint of an index";
/// Where the names of the files stand in the schema.
const FILES: &str = "tidemill.files";

/// What a checkpoint covers.
#[derive(Clone, Default, Debug)]
pub(super) struct Covered {
    /// The object, if there is one.
    pub name: Option<String>,
    /// The data files that it knows.
    pub files: BTreeSet<u32>,
}

impl Covered {
    /// Whether another checkpoint is due for a table of these files.
    pub fn is_outgrown(&self, files: &Files) -> bool {
        let strange = files.data.iter().filter(|(number, _)| !self.files.contains(number));
        let strange: u64 = strange.map(|(_, file)| file.live_rows()).sum();
        strange >= ROWS_MIN && strange * ROWS_A_STRANGER > files.rows()
    }
}

fn schema(names: &[&str]) -> Result<Schema, LakeError> {
    let names = serde_json::to_string(names).map_err(unusable(WHAT))?;
    let fields = vec![
        Field::new("file", DataType::UInt32, false),
        Field::new("position", DataType::UInt32, false),
        Field::new("key", DataType::FixedSizeBinary(DIGEST), false),
    ];
    Ok(Schema::new_with_metadata(fields, HashMap::from([(FILES.to_string(), names)])))
}

/// The bytes of a checkpoint: of the rows with these keys and places, those whose places are live.
pub(super) fn encode(files: &Files, rows: impl Iterator<Item = (Digest, Place)>) -> Result<Bytes, LakeError> {
    let numbers: HashMap<u32, u32> = files.data.keys().copied().zip(0..).collect();
    let names: Vec<&str> = files.data.values().map(|file| file.file.name.as_str()).collect();
    let is_live = |place: &Place| {
        files.data.get(&place.file).is_some_and(|file| !file.deleted.contains(place.position))
    };
    let mut rows: Vec<(Place, Digest)> =
        rows.filter(|(_, place)| is_live(place)).map(|(key, place)| (place, key)).collect();
    // So that the same index makes the same bytes.
    rows.sort_unstable();
    let schema = Arc::new(schema(&names)?);
    let mut body = Vec::new();
    let mut writer = StreamWriter::try_new(&mut body, &schema).map_err(unusable(WHAT))?;
    for some in rows.chunks(BATCH) {
        let files = some.iter().map(|(place, _)| numbers[&place.file]).collect::<Vec<u32>>();
        let positions = some.iter().map(|(place, _)| place.position).collect::<Vec<u32>>();
        let keys = FixedSizeBinaryArray::try_from_iter(some.iter().map(|(_, key)| key.to_bytes()));
        let columns: [ArrayRef; 3] = [
            Arc::new(UInt32Array::from(files)),
            Arc::new(UInt32Array::from(positions)),
            Arc::new(keys.map_err(unusable(WHAT))?),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns.into()).map_err(unusable(WHAT))?;
        writer.write(&batch).map_err(unusable(WHAT))?;
    }
    writer.finish().map_err(unusable(WHAT))?;
    drop(writer);
    Ok(body.into())
}

/// Adds what a checkpoint says of live rows to an index; the files that it knows.
fn decode(name: &str, body: &[u8], files: &Files, index: &mut KeyIndex) -> Result<BTreeSet<u32>, LakeError> {
    if is_whole(name, body) != Some(true) {
        return Err(unusable(name)("its bytes do not have the digest in its name"));
    }
    let reader = StreamReader::try_new(body, None).map_err(unusable(name))?;
    let names = reader.schema().metadata().get(FILES).cloned().unwrap_or_default();
    let names: Vec<String> = serde_json::from_str(&names).map_err(unusable(name))?;
    let numbers: HashMap<&str, u32> =
        files.data.iter().map(|(number, file)| (file.file.name.as_str(), *number)).collect();
    let numbers: Vec<Option<u32>> = names.iter().map(|name| numbers.get(name.as_str()).copied()).collect();
    for batch in reader {
        let batch = batch.map_err(unusable(name))?;
        let column =
            |place: usize| batch.columns().get(place).ok_or_else(|| unusable(name)("a column is missing"));
        let numbered = |place: usize| {
            let column = column(place)?.as_any().downcast_ref::<UInt32Array>();
            column.ok_or_else(|| unusable(name)("a column is of another type"))
        };
        let keys = column(2)?.as_any().downcast_ref::<FixedSizeBinaryArray>();
        let keys = keys.filter(|keys| keys.value_length() == DIGEST);
        let keys = keys.ok_or_else(|| unusable(name)("a column is of another type"))?;
        for ((file, position), key) in
            numbered(0)?.values().iter().zip(numbered(1)?.values()).zip(keys.iter().flatten())
        {
            let Some(number) = numbers.get(*file as usize).copied().flatten() else { continue };
            let (file, position) = (number, *position);
            if files.data[&file].deleted.contains(position) {
                continue;
            }
            let key = Digest::from_bytes(std::array::from_fn(|at| key[at]));
            if index.insert(key, Place { file, position }).is_some() {
                return Err(unusable(name)("it holds a key twice"));
            }
        }
    }
    Ok(numbers.into_iter().flatten().collect())
}

/// An index that is read back, and what the checkpoint covers of it.
pub(super) struct Opened {
    pub index: KeyIndex,
    pub covered: Covered,
}

/// Reads where each row of a published table stands: from its checkpoint, and the key columns of the files that this
/// does not know.
pub(super) fn open(
    io: &Io,
    schema: &TableSchema,
    files: &Files,
    published: &PublishedTable,
) -> Result<Opened, LakeError> {
    if let Some(name) = &published.index {
        match io.get(name).and_then(|body| with_checkpoint(io, schema, files, name, &body)) {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                let table = &schema.name;
                tracing::warn!(%error, table, "the checkpoint of the index is of no use; the data files are read");
            }
        }
    }
    Ok(Opened { index: read_index(io, schema, files)?, covered: Covered::default() })
}

/// Whether a checkpoint says of every live row of the files that it knows where it stands.
pub(super) fn check(io: &Io, files: &Files, name: &str, index: &KeyIndex) -> Result<(), LakeError> {
    let mut said = KeyIndex::default();
    let known = decode(name, &io.get(name)?, files, &mut said)?;
    let rows: u64 = known.iter().map(|number| files.data[number].live_rows()).sum();
    match said.len() as u64 == rows && said.iter().all(|(key, place)| index.get(key) == Some(place)) {
        true => Ok(()),
        false => Err(unusable(name)("it does not say where the rows stand")),
    }
}

fn with_checkpoint(
    io: &Io,
    schema: &TableSchema,
    files: &Files,
    name: &str,
    body: &[u8],
) -> Result<Opened, LakeError> {
    let mut index = KeyIndex::default();
    let known = decode(name, body, files, &mut index)?;
    read_keys_of(io, schema, files, |number| !known.contains(&number), &mut index)?;
    let (held, rows) = (index.len() as u64, files.rows());
    if held != rows {
        return Err(unusable(name)(format!("with it {held} rows are known, the files hold {rows}")));
    }
    let covered = Covered { name: Some(name.to_string()), files: known };
    Ok(Opened { index, covered })
}

#[cfg(test)]
mod tests {
    use super::super::files::DataFile;
    use super::super::io::FileRef;
    use super::super::layout::Names;
    use super::*;
    use roaring::RoaringBitmap;

    fn files(rows: &[(u32, u32, &[u32])]) -> Files {
        let file = |(number, rows, deleted): &(u32, u32, &[u32])| {
            let file = FileRef { name: format!("file-{number}"), bytes: 1 };
            let deleted = RoaringBitmap::from_iter(deleted.iter().copied());
            (*number, Arc::new(DataFile { file, rows: *rows, snapshot_id: 1, sequence: 1, deleted }))
        };
        Files { data: rows.iter().map(file).collect(), deletes: Vec::new(), next: 9 }
    }

    fn key(file: u32, position: u32) -> Digest {
        Digest::of(&[file.to_le_bytes(), position.to_le_bytes()].concat())
    }

    fn rows(files: &Files) -> Vec<(Digest, Place)> {
        let places = files.data.iter().flat_map(|(file, data)| (0..data.rows).map(|p| (*file, p)));
        places.map(|(file, position)| (key(file, position), Place { file, position })).collect()
    }

    fn named(body: &[u8]) -> String {
        Names { table: "t", epoch: 3, generation: 2 }.index(body)
    }

    #[test]
    fn an_entry_is_right_as_long_as_its_file_is_there_and_its_row_is_live() {
        let then = files(&[(3, 4, &[1]), (5, 70_000, &[])]);
        let body = encode(&then, rows(&then).into_iter()).unwrap();
        assert_eq!(body, encode(&then, rows(&then).into_iter().rev()).unwrap(), "whatever the order");
        // File 5 has another number now, two rows of it are gone, and file 3 was compacted away.
        let mut now = files(&[(0, 70_000, &[0, 69_999]), (1, 3, &[])]);
        Arc::make_mut(now.data.get_mut(&0).unwrap()).file.name = "file-5".into();
        let mut index = KeyIndex::default();
        let known = decode(&named(&body), &body, &now, &mut index).unwrap();
        assert_eq!((known, index.len()), (BTreeSet::from([0]), 69_998));
        assert_eq!(index.get(key(5, 7)), Some(Place { file: 0, position: 7 }));
        assert_eq!((index.get(key(5, 0)), index.get(key(3, 0))), (None, None));
    }

    #[test]
    fn a_damaged_checkpoint_is_not_used() {
        let files = files(&[(0, 100, &[])]);
        let body = encode(&files, rows(&files).into_iter()).unwrap();
        let name = named(&body);
        let error = |body: &[u8]| {
            decode(&name, body, &files, &mut KeyIndex::default()).expect_err("it is damaged").to_string()
        };
        let mut flipped = body.to_vec();
        flipped[body.len() / 2] ^= 1;
        assert!(error(&flipped).contains("digest"), "{}", error(&flipped));
        assert!(error(&body[..body.len() - 1]).contains("digest"));
        let twice = rows(&files).into_iter().map(|(_, place)| (key(0, 0), place));
        let body = encode(&files, twice).unwrap();
        let error = decode(&named(&body), &body, &files, &mut KeyIndex::default()).unwrap_err();
        assert!(error.to_string().contains("a key twice"), "{error}");
    }

    #[test]
    fn another_one_is_due_when_a_quarter_of_the_rows_came_since() {
        let covered = Covered { name: None, files: BTreeSet::from([0]) };
        assert!(!covered.is_outgrown(&files(&[(0, 300, &[]), (1, 100, &[])])));
        assert!(covered.is_outgrown(&files(&[(0, 300, &[]), (1, 101, &[])])));
        assert!(covered.is_outgrown(&files(&[(0, 300, &[1, 2, 3, 4]), (1, 100, &[])])), "of live rows");
        assert!(!covered.is_outgrown(&files(&[(0, 10, &[]), (1, 15, &[])])), "few rows are soon read");
        assert!(!Covered::default().is_outgrown(&files(&[])));
    }
}
