//! `check`: what would become of a file's records. Decodes every line as a run would and writes
//! nothing; for a log that nobody has seen yet.

use super::lines::{Lines, Record};
use super::output::{Out, shown};
use super::{App, Call, Tally};
use crate::Error;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tidemill_core::program::Program;
use tidemill_core::source::{ErasedDecode, RawRecord, RawValue, SourceBatch, StreamSpec};
use tidemill_types::{Partition, Value};

/// Lines that are decoded before what came of them is counted.
const BATCH: u64 = 1024;

/// Rejects of one code.
struct Rejected {
    count: u64,
    line: u64,
    message: String,
}

/// What was found.
struct Findings {
    records: u64,
    rejected: BTreeMap<String, Rejected>,
    open_end: Option<u64>,
    tally: Option<Box<dyn Tally>>,
}

/// Prints what would become of a file's records.
pub fn check(call: &Call<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    let settings = call.resolved()?.settings;
    let program = (call.app.program)(&settings.program).map_err(Error::Failed)?;
    let streams = program.streams();
    let stream = stream_of(&streams, call.text("stream"))?;
    let path = call.matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    let findings = decode(call.app, program.as_ref(), stream, &path)?;
    print(&findings, &path, &streams[stream].name, out)
}

fn stream_of(streams: &[StreamSpec], name: &str) -> Result<usize, Error> {
    let found = streams.iter().position(|stream| stream.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
        Error::Usage(format!("there is no stream {name}; --stream takes one of {}", names.join(", ")))
    })
}

fn decode(app: &App, program: &dyn Program, stream: usize, path: &Path) -> Result<Findings, Error> {
    let mut lines = Lines::open(path, program.streams()[stream].value_bytes_max)?;
    let keep = program.streams()[stream].value_bytes_max;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partition = Partition::Name(name.into());
    let mut decoder = program.decoder(stream);
    let tally = app.hooks.tally(stream);
    let mut findings = Findings { records: 0, rejected: BTreeMap::new(), open_end: None, tally };
    let (mut batch, compressed) = (SourceBatch::default(), lines.compressed());
    while let Some(line) = lines.next()? {
        if !line.ended && !compressed {
            findings.open_end = Some(line.number);
            break;
        }
        findings.records += 1;
        decoder.decode(&raw(&line, &partition, keep), &mut batch);
        if findings.records.is_multiple_of(BATCH) {
            findings.take(decoder.as_mut(), &mut batch);
        }
    }
    findings.take(decoder.as_mut(), &mut batch);
    Ok(findings)
}

fn raw<'a>(line: &Record<'a>, partition: &'a Partition, keep: u64) -> RawRecord<'a> {
    let value = match line.size <= keep {
        true => RawValue::Bytes(line.bytes),
        false => RawValue::TooLarge { head: line.bytes, bytes: line.size },
    };
    RawRecord { partition, offset: line.number - 1, timestamp: None, key: None, value }
}

impl Findings {
    fn take(&mut self, decoder: &mut dyn ErasedDecode, batch: &mut SourceBatch) {
        if let (Some(words), Some(tally)) = (decoder.take(), &mut self.tally) {
            tally.words(words);
        }
        for reject in batch.rejects.drain(..) {
            let first = || Rejected { count: 0, line: reject.offset + 1, message: reject.message.clone() };
            self.rejected.entry(reject.code.clone()).or_insert_with(first).count += 1;
        }
        *batch = SourceBatch::default();
    }
}

fn print(findings: &Findings, path: &Path, stream: &str, out: &mut Out<'_>) -> Result<(), Error> {
    let rejected: u64 = findings.rejected.values().map(|r| r.count).sum();
    let file = path.display();
    out.line(&format!("{file} as {stream}: {} records", findings.records))?;
    out.line(&format!("accepted: {}", findings.records - rejected))?;
    out.line(&format!("rejected: {rejected}"))?;
    for (code, first) in &findings.rejected {
        let message = shown(&Value::Str(first.message.clone()));
        out.line(&format!("  {code}: {} (first at {file}:{}: {message})", first.count, first.line))?;
    }
    if let Some(tally) = &findings.tally {
        out.line(&format!("would come of it: {}", tally.result()))?;
    }
    if let Some(line) = findings.open_end {
        out.line(&format!("{file}:{line} has no line end yet; a run waits for it"))?;
    }
    Ok(())
}
