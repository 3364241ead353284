//! Clients of librdkafka: which properties they get, and where their own log goes.
//!
//! Properties come from the settings as they stand, so that whatever librdkafka can do can be set. A few
//! are not the user's: those on which it rests that nothing is lost or read twice. They are refused by
//! name, so that nobody believes to have set them.

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tidemill_core::source::SourceError;

/// Where the brokers are, and how to talk to them.
#[derive(Clone, PartialEq)]
pub struct Connection {
    /// The section of the settings that says so, for messages.
    pub section: &'static str,
    /// Bootstrap servers.
    pub brokers: String,
    /// Properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

/// Properties that are ours, each with what to do instead.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "the brokers have a setting of their own, `brokers`"),
    ("metadata.broker.list", "the brokers have a setting of their own, `brokers`"),
    ("transactional.id", "set sink.transactional_id"),
    ("group.id", "set kafka.group"),
    ("auto.offset.reset", "offsets are always explicit, and what is gone is never skipped in silence"),
    ("enable.auto.commit", "positions are part of each commit of the store"),
    ("enable.auto.offset.store", "positions are part of each commit of the store"),
    ("isolation.level", "only what was committed is read"),
    ("enable.idempotence", "what is produced is produced once"),
    ("allow.auto.create.topics", "a topic that is absent is told, not made"),
];

impl Connection {
    /// A configuration with our defaults, then the user's properties, then `fixed`.
    ///
    /// # Errors
    ///
    /// When a property is not the user's to set.
    pub fn config(
        &self,
        defaults: &[(&str, &str)],
        fixed: &[(&str, &str)],
    ) -> Result<ClientConfig, SourceError> {
        if let Some((name, instead)) = OURS.iter().find(|(name, _)| self.properties.contains_key(*name)) {
            let section = self.section;
            return Err(SourceError(format!("{section}.properties.{name} cannot be set: {instead}")));
        }
        let mut config = ClientConfig::new();
        config.set("client.id", "tidemill").set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        Ok(config)
    }

    /// What is wrong with a client's configuration, for people.
    pub fn refused(&self, error: &KafkaError) -> SourceError {
        let section = self.section;
        let KafkaError::ClientConfig(_, why, name, value) = error else {
            return SourceError(format!(
                "the Kafka client cannot be made: {error}; check {section}.properties"
            ));
        };
        let mut message = format!("{section}.properties.{name} = {value:?}: {why}");
        if cfg!(not(feature = "tls"))
            && (name.starts_with("ssl.") || why.contains("OpenSSL") || why.contains("SSL"))
        {
            message.push_str(
                "; this binary was built without TLS: build it with `cargo build --release --features tls` (which \
                 needs OpenSSL's headers)",
            );
        }
        SourceError(message)
    }
}

/// No brokers yet, of the sources.
impl Default for Connection {
    fn default() -> Self {
        Self { section: "kafka", brokers: String::new(), properties: BTreeMap::new() }
    }
}

/// Passes the client's own log on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Quiet;

impl ClientContext for Quiet {
    /// What the client sees of its connections is told by whoever asks for something and gets no answer;
    /// here it would come once a second and broker.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "kafka", facility, "{message}");
            }
            _ => tracing::debug!(target: "kafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}

/// Keeps what the client last complained of, for whoever waits for an answer.
#[derive(Clone, Default, Debug)]
pub struct Complaints(Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>);

impl Complaints {
    /// What it last complained of since this was asked.
    pub fn take(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether to try again helps nothing: brokers refuse us, or we them.
pub fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        Authentication, ClusterAuthorizationFailed, SSL, SaslAuthenticationFailed, UnsupportedSASLMechanism,
    };
    let refusals =
        [Authentication, ClusterAuthorizationFailed, SSL, SaslAuthenticationFailed, UnsupportedSASLMechanism];
    refusals.contains(&code)
}

impl ClientContext for Complaints {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all are away is said on top of why one is.
        if let Some(code) =
            error.rdkafka_error_code().filter(|code| *code != RDKafkaErrorCode::AllBrokersDown)
        {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A refusal is not covered up by what follows from it.
            if !last.as_ref().is_some_and(|(last, _)| is_refusal(*last)) || is_refusal(code) {
                *last = Some((code, reason.to_string()));
            }
        }
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Complaints {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
