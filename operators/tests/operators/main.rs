//! Every operator against a recomputation from scratch, epoch by epoch, on one, two and four workers.

mod joined;
mod ranked;
mod sums;
mod support;
mod upsert;
