//! Where the demo's records go: growing files of a folder, or Kafka topics.

use super::app::Destination;
use super::outlet::Outlet;
use crate::Error;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemill_connectors::files::stream_of;
use tidemill_connectors::kafka::held;
use tidemill_core::source::RawValue;

/// A folder's files: open from their first record on, each with the lines that it grows by next.
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<String, (Option<File>, Vec<u8>)>,
}

impl Folder {
    /// A folder that is there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: BTreeMap::new() }
    }
}

impl Destination for Folder {
    fn take(&mut self, file: &str, line: &str) -> Result<(), Error> {
        if !self.files.contains_key(file) {
            self.files.insert(file.to_string(), (None, Vec::new()));
        }
        if let Some((_, lines)) = self.files.get_mut(file) {
            lines.extend_from_slice(line.as_bytes());
            lines.push(b'\n');
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), Error> {
        for (name, (file, lines)) in &mut self.files {
            if lines.is_empty() {
                continue;
            }
            let path = self.path.join(name);
            append(file, &path, lines).map_err(|error| {
                Error::failed(format!(
                    "the demo cannot write {}: {error}; name another folder with --dir",
                    path.display()
                ))
            })?;
            lines.clear();
        }
        Ok(())
    }
}

fn append(open: &mut Option<File>, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if open.is_none() {
        *open = Some(std::fs::OpenOptions::new().create(true).append(true).open(path)?);
    }
    open.as_mut().map_or(Ok(()), |open| open.write_all(bytes))
}

/// Topics that are there.
pub struct Topics<'a> {
    outlet: Outlet,
    stop: &'a AtomicBool,
    sent: u64,
}

impl<'a> Topics<'a> {
    /// The topics of a program's streams, made where they are not there. `stop` ends all waiting.
    pub fn open(outlet: Outlet, stop: &'a AtomicBool) -> Result<Self, Error> {
        let all: Vec<usize> = (0..outlet.streams().len()).collect();
        let mut last = String::new();
        let ensured = outlet.ensure(&all, None, &mut |why| {
            if why != last {
                tracing::warn!(brokers = %outlet.brokers, "waiting for Kafka: {why}");
                last = why.to_string();
            }
            !stop.load(Ordering::Acquire)
        })?;
        for topic in ensured.iter().flatten().filter(|topic| !topic.created) {
            let (name, records) = (&topic.topic, held(&outlet.producer, &topic.topic, topic.partitions)?);
            if records > 0 {
                return Err(Error::failed(format!(
                    "the topic {name} holds {records} records already, and the demo would mix made-up ones with \
                     them: name other topics, as in --kafka-topics-calls demo-calls for each stream"
                )));
            }
        }
        for topic in ensured.iter().flatten().filter(|topic| topic.created) {
            tracing::info!(topic = %topic.topic, partitions = topic.partitions, "made a topic");
        }
        Ok(Self { outlet, stop, sent: 0 })
    }

    /// Waits until everything that was taken is acknowledged.
    pub fn finish(self) -> Result<(), Error> {
        let all = self.outlet.producer.finish(&mut || !self.stop.load(Ordering::Acquire));
        if let Some(failure) = self.outlet.producer.first_failure() {
            let (topic, reason) = (failure.topic, failure.reason);
            return Err(Error::failed(format!("the demo cannot write to the topic {topic}: {reason}")));
        }
        match all {
            true => Ok(()),
            false => Err(Error::failed("the demo stopped before Kafka had acknowledged all records")),
        }
    }
}

impl Destination for Topics<'_> {
    fn take(&mut self, file: &str, line: &str) -> Result<(), Error> {
        if let Some(stream) = stream_of(file, self.outlet.streams()) {
            self.sent += 1;
            let mut waiting = || !self.stop.load(Ordering::Acquire);
            self.outlet.send(stream, RawValue::Bytes(line.as_bytes()), self.sent, &mut waiting);
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), Error> {
        self.outlet.producer.serve(Duration::ZERO);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_grow_when_they_are_shown_and_keep_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jsonl"), "old\n").unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let mut to = Folder::new(folder.path());
        to.take("a.jsonl", "1").unwrap();
        to.take("b.jsonl", "2").unwrap();
        assert_eq!((read("a.jsonl").as_str(), read("b.jsonl").as_str()), ("old\n", ""));
        to.show().unwrap();
        to.take("a.jsonl", "3").unwrap();
        to.show().unwrap();
        assert_eq!((read("a.jsonl").as_str(), read("b.jsonl").as_str()), ("old\n1\n3\n", "2\n"));
    }
}
