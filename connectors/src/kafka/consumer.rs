//! What our consumers are told: as little as may be wrong, and nothing that lets them choose an offset.

use super::KafkaOptions;
use super::client::Quiet;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::BaseConsumer;
use tidemill_core::source::SourceError;

/// Properties that the user may replace.
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("check.crcs", "true"),
    ("socket.keepalive.enable", "true"),
    ("log.connection.close", "false"),
    // A broker that comes back is found within a second.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    // Fetched records are handed on in batches that empty the queue; it is filled again soon.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.error.backoff.ms", "100"),
];

/// Properties that are ours.
pub(super) const FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    // It is a producer's bound, but `fetch.max.bytes` must not be below it. Records of any size are read.
    ("message.max.bytes", "1000"),
];

/// The least that a queue holds, KiB.
const QUEUE_KIB_MIN: u64 = 1024;
/// Bounds of one answer of a broker, bytes as they come. It is unpacked whole, to many times its size where texts
/// repeat themselves; and one is asked for after the other, so that small ones cost round trips.
const ANSWER_BYTES: (u64, u64) = (128 << 10, 1 << 20);
/// How many times its size an answer may take unpacked and keep within the share.
const UNPACKED: u64 = 16;

/// A consumer for one of `workers`.
pub(super) fn consumer(options: &KafkaOptions, workers: usize) -> Result<BaseConsumer<Quiet>, SourceError> {
    // What was fetched lies in the queue, and one more answer of each broker is on its way to it.
    let share = options.fetched_bytes_max / workers.max(1) as u64 / 2;
    let answer = (share / UNPACKED).clamp(ANSWER_BYTES.0, ANSWER_BYTES.1).to_string();
    let sizes = [
        ("queued.max.messages.kbytes", (share / 1024).clamp(QUEUE_KIB_MIN, 2_097_151).to_string()),
        ("fetch.max.bytes", answer.clone()),
        ("fetch.message.max.bytes", answer),
    ];
    let sizes: Vec<(&str, &str)> = sizes.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let fixed = [FIXED, &[("group.id", options.group.as_str())]].concat();
    let config = options.connection.config(&[DEFAULTS, &sizes].concat(), &fixed)?;
    BaseConsumer::from_config_and_context(&config, Quiet).map_err(|error| options.connection.refused(&error))
}

/// A consumer that is asked once whether anything follows a position.
pub(super) fn asker(options: &KafkaOptions) -> Result<BaseConsumer<Quiet>, SourceError> {
    let fixed = [FIXED, &[("group.id", options.group.as_str()), ("enable.partition.eof", "true")]].concat();
    let small = [("queued.max.messages.kbytes", "1024"), ("fetch.max.bytes", "1048576")];
    let config = options.connection.config(&[DEFAULTS, &small].concat(), &fixed)?;
    BaseConsumer::from_config_and_context(&config, Quiet).map_err(|error| options.connection.refused(&error))
}

#[cfg(test)]
mod tests {
    use super::super::resume::tests::options;
    use super::super::watch::Looker;
    use super::*;

    #[test]
    fn clients_are_made_whatever_bounds_of_fetches_and_of_the_producer_are_set() {
        for (name, value) in
            [("fetch.max.bytes", "65536"), ("message.max.bytes", "20971520"), ("check.crcs", "false")]
        {
            let mut options = options();
            options.connection.properties.insert(name.into(), value.into());
            for workers in [1, 64] {
                assert!(consumer(&options, workers).is_ok(), "{name}");
            }
            assert!(asker(&options).is_ok() && Looker::new(&options, Vec::new()).is_ok(), "{name}");
        }
    }
}
