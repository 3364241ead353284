//! The way of lines into Kafka: each under the key that its program gives it, to the topic of its stream.
//!
//! A line over the stream's limit goes out unread and without a key: whoever reads it there rejects it for
//! its size before anything else, as it is in a file.

use super::App;
use super::app::{Keyed, Keying};
use crate::Error;
use crate::config::{KafkaSettings, Settings};
use tidemill_connectors::kafka::{Connection, Ensured, Outgoing, Producer, Wanted, ensure};
use tidemill_core::source::{RawValue, StreamSpec};

/// A producer that knows a program's streams.
pub struct Outlet {
    /// The producer itself.
    pub producer: Producer,
    /// The brokers, as they were given.
    pub brokers: String,
    streams: Vec<StreamSpec>,
    topics: Vec<String>,
    keying: Box<dyn Keying>,
}

impl Outlet {
    /// An outlet under checked settings; no broker is asked yet.
    pub fn new(app: &App, settings: &Settings) -> Result<Self, Error> {
        let brokers = settings.kafka.brokers.clone();
        let brokers =
            brokers.ok_or_else(|| Error::Usage("no Kafka: give its brokers with --kafka BROKERS".into()))?;
        let program = (app.program)(&settings.program).map_err(Error::Failed)?;
        let keying = app.hooks.keying(&settings.program).map_err(Error::Failed)?;
        let streams = program.streams();
        let topics = topics(&streams, &settings.kafka)?;
        let properties = settings.kafka.properties.clone();
        let connection = Connection { brokers: brokers.clone(), properties, ..Connection::default() };
        let producer = Producer::new(connection, crate::run::stopwatch())?;
        Ok(Self { producer, brokers, streams, topics, keying })
    }

    /// The program's streams.
    pub fn streams(&self) -> &[StreamSpec] {
        &self.streams
    }

    /// A stream's topic; `None`: the settings say that it has none.
    pub fn topic(&self, stream: usize) -> Option<&str> {
        self.topics.get(stream).map(String::as_str).filter(|topic| !topic.is_empty())
    }

    /// Makes the topics of these streams that are not there. While brokers do not answer it waits, and tells
    /// `waiting` why; `None`: that one gave up.
    pub fn ensure(
        &self,
        streams: &[usize],
        partitions: Option<i32>,
        waiting: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Option<Vec<Ensured>>, Error> {
        let topics: Vec<&str> = streams.iter().filter_map(|stream| self.topic(*stream)).collect();
        Ok(ensure(&self.producer, &topics, Wanted { partitions, config: &[] }, waiting)?)
    }

    /// Sends a line of a stream that has a topic. `false`: the queue is full and `waiting` gave up.
    pub fn send(
        &self,
        stream: usize,
        line: RawValue<'_>,
        tag: u64,
        waiting: &mut dyn FnMut() -> bool,
    ) -> bool {
        let Some(topic) = self.topic(stream) else { return true };
        let line = match line {
            RawValue::Bytes(line) => line,
            RawValue::Null => &[],
            RawValue::TooLarge { bytes, .. } => {
                self.producer.fail(topic, tag, &self.producer.oversized(bytes));
                return true;
            }
        };
        let Keyed { key, deletes } = self.keyed(stream, line);
        let value = (!deletes).then_some(line);
        let record = Outgoing { topic, key: key.as_deref(), value, timestamp: None, tag };
        self.producer.send(&record, waiting)
    }

    fn keyed(&self, stream: usize, line: &[u8]) -> Keyed {
        match line.len() as u64 <= self.streams[stream].value_bytes_max {
            true => self.keying.keyed(stream, line),
            false => Keyed::default(),
        }
    }
}

/// The topic of each stream, empty where it has none.
fn topics(streams: &[StreamSpec], kafka: &KafkaSettings) -> Result<Vec<String>, Error> {
    let known = |name: &str| streams.iter().any(|stream| stream.name == name);
    if let Some(unknown) = kafka.topics.keys().find(|name| !known(name)) {
        let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
        let names = names.join(", ");
        return Err(Error::failed(format!(
            "kafka.topics.{unknown}: there is no stream {unknown}; the streams are {names}"
        )));
    }
    let topic = |stream: &StreamSpec| kafka.topics.get(&stream.name).unwrap_or(&stream.topic).clone();
    Ok(streams.iter().map(topic).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, resolve};

    fn outlet(flags: &[(&str, &str)], topics: &[(&str, &str)]) -> Result<Outlet, Error> {
        let app = crate::flywheel::app::app();
        let flags = flags.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut settings =
            resolve(&app.settings, &Sources { flags, cores: 1, ..Sources::default() })?.settings;
        settings.kafka.topics =
            topics.iter().map(|(stream, topic)| (stream.to_string(), topic.to_string())).collect();
        Outlet::new(&app, &settings)
    }

    #[test]
    fn a_line_over_the_limit_goes_out_without_a_key_and_never_deletes() {
        let flags = [("kafka-brokers", "127.0.0.1:1"), ("flywheel-record-bytes-max", "1000")];
        let outlet = outlet(&flags, &[]).unwrap();
        let line = |bytes: usize| {
            let mut line = br#"{"id":"t","_deleted":true}"#.to_vec();
            line.resize(bytes, b' ');
            line
        };
        assert_eq!(outlet.keyed(0, &line(1000)), Keyed { key: Some(b"t".to_vec()), deletes: true });
        assert_eq!(outlet.keyed(0, &line(1001)), Keyed::default());
    }

    #[test]
    fn topics_are_the_programs_unless_the_settings_name_others() {
        let brokers = [("kafka-brokers", "127.0.0.1:1")];
        let named = outlet(&brokers, &[("calls", "logs"), ("scores", "")]).unwrap();
        let topics: Vec<Option<&str>> = (0..3).map(|stream| named.topic(stream)).collect();
        assert_eq!(topics, [Some("trajectories"), Some("logs"), None]);
        let error = outlet(&brokers, &[("calz", "x")]).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("there is no stream calz; the streams are traj")));
        assert!(matches!(outlet(&[], &[]), Err(Error::Usage(error)) if error.contains("--kafka")));
    }
}
