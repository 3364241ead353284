//! `export`: a training set in a trainer's own shape, as JSONL and Parquet, with a manifest.
//!
//! The same bytes every time for one epoch: rows stand by their keys, their JSON has one spelling, and
//! nothing of the machine or the time is written. The records that first show an optional field stand
//! before all others, because loaders infer types from a file's beginning and fail on what comes later.
//! Both files are made of the same lines, so they cannot disagree. Files are written under another name
//! and renamed; the manifest comes last, so that one that is there describes files that are whole.

use super::app::Exporter;
use super::folders::no_file;
use super::output::Out;
use super::tables::{by_key, schema_of};
use super::{Call, Line, Tables};
use crate::Error;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use tidemill_types::{ProgramId, TableSchema, Value};

/// Lines that become Parquet at once.
const BATCH_LINES: usize = 1024;

/// Exports a table.
pub fn export(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let (table, format) = (call.text("table"), call.text("format"));
    let exporters = call.app.hooks.exports();
    let exporter = exporters.iter().find(|e| e.table() == table && e.format() == format);
    let exporter = exporter.ok_or_else(|| Error::Usage(format!("{table} cannot be exported as {format}")))?;
    let folder = call.matches.get_one::<PathBuf>("out").cloned().unwrap_or_default();
    no_file(&folder, "name one to write into with --out DIR")?;
    let reader = call.reader()?;
    let tables = call.tables(&reader)?;
    let files = write(&tables, exporter.as_ref(), &tables.root.program, &folder)?;
    for file in files {
        out.line(&file.display().to_string())?;
    }
    Ok(())
}

/// The lines of an export in the order in which they stand in its files.
pub fn lines(tables: &dyn Tables, exporter: &dyn Exporter) -> Result<Vec<String>, Error> {
    let schema = schema_of(tables, exporter.table())?;
    let mut lines: Vec<(Vec<Value>, Line)> = Vec::new();
    tables.for_each(&schema.name, &mut |row| {
        let line = exporter.line(schema, &row).map_err(Error::Failed)?;
        lines.push((key_only(schema, row), line));
        Ok(())
    })?;
    lines.sort_unstable_by(|a, b| by_key(schema, &a.0, &b.0));
    Ok(witnesses_first(lines.into_iter().map(|(_, line)| line).collect()))
}

/// The row with everything but its key taken out.
fn key_only(schema: &TableSchema, mut row: Vec<Value>) -> Vec<Value> {
    row.iter_mut().zip(&schema.columns).filter(|(_, c)| !c.key).for_each(|(value, _)| *value = Value::Null);
    row
}

/// Moves the lines that are the first to hold an optional field to the front.
fn witnesses_first(lines: Vec<Line>) -> Vec<String> {
    let mut seen = 0;
    let (first, rest): (Vec<Line>, Vec<Line>) = lines.into_iter().partition(|line| {
        let new = line.present & !seen != 0;
        seen |= line.present;
        new
    });
    first.into_iter().chain(rest).map(|line| line.json).collect()
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| {
        let advice = "make room, or name with --out a folder that you may write to";
        Error::failed(format!("cannot write {}: {e}; {advice}", path.display()))
    }
}

/// Writes a file under another name, then gives it its own.
fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let draft =
        path.with_file_name(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
    std::fs::write(&draft, bytes).map_err(failed(&draft))?;
    std::fs::rename(&draft, path).map_err(failed(path))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described(path: &Path, bytes: &[u8]) -> serde_json::Value {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    serde_json::json!({"name": name, "bytes": bytes.len(), "sha256": hex(&Sha256::digest(bytes))})
}

/// Writes an export's files into a folder and returns their paths, the manifest last.
pub fn write(
    tables: &dyn Tables,
    exporter: &dyn Exporter,
    program: &ProgramId,
    folder: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let lines = lines(tables, exporter)?;
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let path = |ending: &str| folder.join(format!("{}.{ending}", exporter.table()));
    let (jsonl, parquet, manifest) = (path("jsonl"), path("parquet"), path("manifest.json"));
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    put(&jsonl, text.as_bytes())?;
    let columns = to_parquet(exporter, &lines)?;
    put(&parquet, &columns)?;
    let described = serde_json::json!({
        "table": exporter.table(),
        "format": exporter.format(),
        "epoch": tables.epoch(),
        "rows": lines.len(),
        "program": program,
        "content_digest": format!("sha256:{}", hex(&Sha256::digest(text.as_bytes()))),
        "files": [described(&jsonl, text.as_bytes()), described(&parquet, &columns)],
    });
    let described = serde_json::to_string_pretty(&described).map_err(Error::failed)? + "\n";
    put(&manifest, described.as_bytes())?;
    Ok(vec![jsonl, parquet, manifest])
}

fn to_parquet(exporter: &dyn Exporter, lines: &[String]) -> Result<Vec<u8>, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("{} as Parquet: {e}", exporter.table()));
    let schema = exporter.schema();
    let level = ZstdLevel::try_new(3).map_err(|e| failed(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, schema.clone(), Some(properties)).map_err(|e| failed(&e))?;
    for lines in lines.chunks(BATCH_LINES) {
        let mut decoder = arrow::json::ReaderBuilder::new(schema.clone())
            .with_batch_size(BATCH_LINES)
            .build_decoder()
            .map_err(|e| failed(&e))?;
        for line in lines {
            decoder.decode(line.as_bytes()).map_err(|e| failed(&e))?;
        }
        if let Some(batch) = decoder.flush().map_err(|e| failed(&e))? {
            writer.write(&batch).map_err(|e| failed(&e))?;
        }
    }
    writer.close().map_err(|e| failed(&e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tables::tests::Fixed;
    use tidemill_types::Kind;

    fn sft(rows: &[(&str, &str, Option<&str>)]) -> Fixed {
        let columns = [("sample_id*", Kind::String), ("messages", Kind::Text), ("tools?", Kind::Text)];
        let row = |(id, messages, tools): &(&str, &str, Option<&str>)| {
            let tools = tools.map_or(Value::Null, |t| Value::Str(t.into()));
            vec![Value::Str(id.to_string()), Value::Str(messages.to_string()), tools]
        };
        Fixed(vec![TableSchema::new("train.sft", columns)], vec![rows.iter().map(row).collect()])
    }

    const ROWS: [(&str, &str, Option<&str>); 3] = [
        ("c", r#"[{"role":"user","content":"3"}]"#, None),
        ("b", r#"[{"role":"user","content":"2","tool_calls":[{"function":{"name":"f"}}]}]"#, Some("[1]")),
        ("a", r#"[{"role":"user","content":"1"}]"#, None),
    ];

    fn program() -> ProgramId {
        ProgramId { name: "p".into(), version: "1".into(), settings: serde_json::json!({"a": 1}) }
    }

    #[test]
    fn records_that_show_an_optional_field_come_first_then_all_by_key() {
        let exporter = crate::flywheel::export::exporters().remove(0);
        let lines = lines(&sft(&ROWS), exporter.as_ref()).unwrap();
        let content = |line: &String| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["messages"][0]["content"].clone()
        };
        assert_eq!(lines.iter().map(content).collect::<Vec<_>>(), ["1", "2", "3"]);
        let reversed = [("z", ROWS[1].1, ROWS[1].2), ("a", ROWS[2].1, None), ("b", ROWS[0].1, None)];
        let exporter = crate::flywheel::export::exporters().remove(0);
        let got = super::lines(&sft(&reversed), exporter.as_ref()).unwrap();
        assert_eq!(got.iter().map(content).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn an_export_has_the_same_bytes_every_time_and_a_manifest_that_fits() {
        let read = |rows: &[(&str, &str, Option<&str>)]| {
            let folder = tempfile::tempdir().unwrap();
            let exporter = crate::flywheel::export::exporters().remove(0);
            let paths = write(&sft(rows), exporter.as_ref(), &program(), folder.path()).unwrap();
            paths.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
        };
        let files = read(&ROWS);
        let mut other = ROWS;
        other.reverse();
        assert_eq!(files, read(&other));
        let manifest: serde_json::Value = serde_json::from_slice(&files[2]).unwrap();
        assert_eq!((&manifest["rows"], &manifest["epoch"]), (&3.into(), &7.into()));
        assert_eq!(manifest["files"][0]["sha256"], hex(&Sha256::digest(&files[0])));
        assert_eq!(manifest["program"]["settings"]["a"], 1);
    }

    #[test]
    fn parquet_holds_what_the_lines_hold() {
        let exporter = crate::flywheel::export::exporters().remove(0);
        let lines = lines(&sft(&ROWS), exporter.as_ref()).unwrap();
        let bytes = bytes::Bytes::from(to_parquet(exporter.as_ref(), &lines).unwrap());
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap();
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        reader.for_each(|batch| writer.write(&batch.unwrap()).unwrap());
        writer.finish().unwrap();
        let back = String::from_utf8(writer.into_inner()).unwrap();
        assert_eq!(back.lines().collect::<Vec<_>>(), lines);
    }
}
