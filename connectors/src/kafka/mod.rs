//! Kafka: topics as sources, and the producer of records for them.

pub mod client;
