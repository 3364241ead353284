//! The metrics: names, what exactly each measures, and where it is read. Base units (seconds, bytes) and
//! Prometheus' rules for names hold throughout; all are read at the scrape, so none is kept twice.

use crate::run::{Gauges, Measured, OPERATIONS, OUTCOMES, Stopwatch, StoreRequests, now_ms, resident_bytes};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every name begins with.
const PREFIX: &str = "tidemill";

/// All metrics of a run.
pub(super) fn registry(gauges: Arc<Gauges>, stopwatch: Stopwatch) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let durations = &gauges.durations;
    for (name, help, histogram) in [
        ("commit_duration", "From the close of an epoch to its commit", &durations.commit),
        (
            "freshness",
            "From the opening of an epoch to its commit: no record of it was taken in earlier",
            &durations.freshness,
        ),
        (
            "publication_duration",
            "What a publication of the lake took, without the commit that names it",
            &durations.publication,
        ),
    ] {
        registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    }
    registry.register_collector(Box::new(Run { gauges, stopwatch }));
    registry
}

struct Run {
    gauges: Arc<Gauges>,
    stopwatch: Stopwatch,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

impl Collector for Run {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let measured = self.gauges.measured((self.stopwatch)(), now_ms());
        state(&mut page, &measured)?;
        sources(&mut page, &measured)?;
        log_and_lake(&mut page, &measured)?;
        tables(&mut page, &measured)?;
        sink(&mut page, &measured)?;
        model(&mut page, &measured)?;
        store(&mut page, &self.gauges.store)?;
        memory(&mut page, &measured)
    }
}

/// The page that a scrape gets. A counter's name is given without its `_total`.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut one = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        one.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut one = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        one.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }
}

fn state(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.gauges("build_info", "Always 1; the version of the process.", [(version, 1_u64)])?;
    page.gauge("ready", "1 while /readyz answers 200.", measured.ready.into())?;
    page.gauge("generation", "The writer's number; a later writer has a higher one.", measured.generation)
}

fn sources(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    let streams =
        || measured.streams.iter().map(|(stream, counted)| ([("stream", stream.as_str())], counted));
    page.counters(
        "records",
        "Records taken in since the start of the process, rejected ones too.",
        streams().map(|(labels, counted)| (labels, counted.records)),
    )?;
    page.counters(
        "record_bytes",
        "Bytes of the values of these records.",
        streams().map(|(labels, counted)| (labels, counted.bytes)),
    )?;
    page.counters(
        "rejects",
        "Records rejected since the start of the process, by the code that ops.rejects has.",
        measured.rejects.iter().map(|((stream, code), n)| ([("stream", stream), ("code", code)], *n)),
    )?;
    let lags = || {
        let label = |(stream, partition)| [("stream", stream), ("partition", partition)];
        measured.source_lag.iter().map(move |((stream, partition), at)| (label((stream, partition)), *at))
    };
    page.gauges(
        "source_lag_records",
        "Offsets of a partition that no commit covers yet; files have no such figure.",
        lags().map(|(labels, (position, end))| (labels, end.saturating_sub(position))),
    )?;
    page.gauges(
        "source_position",
        "The first offset of a partition that no commit covers; files have no such figure.",
        lags().map(|(labels, (position, _))| (labels, position)),
    )?;
    page.gauges(
        "sources_paused",
        "1 while the sources take nothing in, by reason: `lake`, publication is over lake.lag_max late; `memory`, \
         what is resident comes near memory.bytes_max.",
        [("lake", measured.paused.lake), ("memory", measured.paused.memory)]
            .map(|(reason, so)| ([("reason", reason)], u64::from(so))),
    )?;
    page.gauge(
        "sources_waiting",
        "1 while a source waits for something outside of the process; /readyz says for what.",
        measured.waiting.into(),
    )
}

fn log_and_lake(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    page.gauge("epoch", "The number of the newest commit.", measured.epoch)?;
    let published = measured.published.map(|epoch| ([("", ""); 0], epoch));
    let help = "The epoch of the newest publication that a commit names; absent before the first.";
    page.gauges("published_epoch", help, published)?;
    page.counter("commits", "Commits since the start of the process.", measured.commits)?;
    page.counter("publications", "Publications since the start of the process.", measured.publications)?;
    let (segments, bytes) = measured.segments;
    page.counter("segments", "Segments written since the start of the process.", segments)?;
    page.counter("segment_bytes", "Bytes of these segments.", bytes)?;
    let (objects, bytes) = measured.lake;
    page.counter("lake_objects", "Objects written by publications since the start of the process.", objects)?;
    page.counter("lake_bytes", "Bytes of these objects.", bytes)
}

fn tables(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    let rows = measured.tables.iter().map(|(table, (rows, _))| ([("table", table.as_str())], *rows));
    page.gauges("table_rows", "Rows of a table at the newest commit.", rows)?;
    let of = |table, view| [("table", table), ("view", view)];
    let behind = measured.tables.iter().flat_map(|(table, (_, lake))| {
        [(of(table.as_str(), "log"), measured.log_behind), (of(table.as_str(), "lake"), *lake)]
    });
    let sink = measured
        .sink
        .iter()
        .flat_map(|sink| sink.tables.iter().map(move |table| (of(table.as_str(), "sink"), sink.behind)));
    page.gauges(
        "table_behind_seconds",
        "How old the oldest is that a view of a table lacks, 0 if it lacks nothing. Of `log`: the oldest record \
         that is taken in and not committed, of all tables alike. Of `lake`: the oldest committed change of the \
         table that no publication holds which a commit names. Of `sink`: the oldest commit that may be missing in \
         the topics, of all tables alike.",
        behind.chain(sink),
    )
}

fn sink(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    let Some(sink) = &measured.sink else { return Ok(()) };
    let epoch = sink.epoch.map(|epoch| ([("", ""); 0], epoch));
    page.gauges("sink_epoch", "The epoch up to which everything is in the topics of tables.", epoch)?;
    page.counter("sink_records", "Records sent to topics since the start of the process.", sink.records)?;
    page.gauge("sink_waiting", "1 while something keeps the sink; /readyz says what.", sink.waiting.into())?;
    let help = "1 after the sink has stopped with an error; the run goes on without it. /readyz says why.";
    page.gauge("sink_stopped", help, sink.stopped.into())
}

fn model(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    let (pending, in_flight) = measured.pending;
    page.gauge("requests_pending", "Requests that have no result yet.", pending)?;
    page.gauge("requests_in_flight", "Those of them that the model has.", in_flight)?;
    let help = "Results and final failures of the model committed since the start of the process.";
    page.counter("results", help, measured.results)
}

fn store(page: &mut Page<'_>, requests: &StoreRequests) -> fmt::Result {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let operations = || OPERATIONS.into_iter().zip(requests);
    let by_outcome = operations().flat_map(|(operation, requests)| {
        let of = move |outcome| [("operation", operation), ("outcome", outcome)];
        OUTCOMES.into_iter().zip(&requests.outcomes).map(move |(outcome, n)| (of(outcome), read(n)))
    });
    page.counters(
        "store_requests",
        "Requests to the store since the start of the process. `taken`: the name was to be free and was not; \
         `failed`: also those with an unclear answer.",
        by_outcome,
    )?;
    page.counters(
        "store_bytes",
        "Bytes of objects written or read by these requests.",
        operations().map(|(operation, requests)| ([("operation", operation)], read(&requests.bytes))),
    )?;
    page.counters(
        "store_request_seconds",
        "What these requests took in all, those that ran at the same time added up.",
        operations()
            .map(|(operation, requests)| ([("operation", operation)], read(&requests.micros) as f64 / 1e6)),
    )
}

fn memory(page: &mut Page<'_>, measured: &Measured) -> fmt::Result {
    let held = &measured.held;
    let owners = [
        ("pinned", held.pinned),
        ("body_cache", held.cached),
        ("segment_cache", held.segments),
        ("lake_index", held.lake_index),
    ];
    page.gauges(
        "memory_bytes",
        "What owners hold: `pinned`, bodies whose segment is not durable; `body_cache`, which shares most of its \
         bodies with `pinned`; `segment_cache`; `lake_index`, of the published rows.",
        owners.map(|(owner, bytes)| ([("owner", owner)], bytes)),
    )?;
    match resident_bytes() {
        Some(bytes) => page.gauge("process_resident_bytes", "Resident memory of the process.", bytes),
        None => Ok(()),
    }
}
