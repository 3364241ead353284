//! Connectors: how bytes enter and leave Tidemill.
//!
//! [`files`] reads folders of JSON lines, [`kafka`] reads and fills topics, [`store`] keeps segments and roots,
//! [`lake`] publishes the log as Iceberg tables and reads them back, [`sending`] sends what it
//! changes to whatever takes transactions, [`edge`] is clock, randomness and waiting. Each implements a trait of `tidemill-core`.

pub mod edge;
pub mod files;
pub mod kafka;
pub mod lake;
pub mod sending;
pub mod store;
