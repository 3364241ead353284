//! What a run answers over HTTP: whether it is alive, whether it is ready, and its metrics.
//!
//! ```text
//!  bind (before the store is claimed) ──> serve ──┬─ /healthz   200 while the run has not failed
//!                                                 ├─ /readyz    200 while records that come are committed
//!                                                 └─ /metrics   Prometheus' text format, version 0.0.4
//! ```
//!
//! It only reads the run's gauges, so it can hold nothing up. There is neither encryption nor a check of
//! who asks: by default it listens on the loopback interface alone.

mod listener;
mod metrics;

use crate::Error;
use crate::run::{Gauges, Stopwatch};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use listener::Visits;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A loopback address with a free port.
const FREE: &str = "127.0.0.1:0";

/// Takes an address. One that a person gave is taken or refused; where the default is taken by another
/// process, a free port of the loopback interface stands in for it.
///
/// # Errors
///
/// When the address cannot be listened at.
pub fn bind(address: &str, given: bool) -> Result<TcpListener, Error> {
    let refused = |error: std::io::Error| {
        let what = "give host:port with --http-listen, or `off`";
        Error::failed(format!("`http.listen`: cannot listen at {address}: {error}; {what}"))
    };
    match TcpListener::bind(address) {
        Ok(listener) => {
            if listener.local_addr().is_ok_and(|at| !at.ip().is_loopback()) {
                tracing::warn!(%address, "whoever reaches this address can read the metrics");
            }
            Ok(listener)
        }
        Err(error) if !given && error.kind() == ErrorKind::AddrInUse => {
            let listener = TcpListener::bind(FREE).map_err(refused)?;
            let instead = listener.local_addr().map_err(refused)?;
            tracing::warn!(
                %address, %instead,
                "another process listens there, perhaps another mill: health and metrics are served elsewhere"
            );
            Ok(listener)
        }
        Err(error) => Err(refused(error)),
    }
}

/// A server; it ends when this is dropped, and nobody waits for it.
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    _ends: oneshot::Sender<()>,
}

/// What the answers are made of.
struct Asked {
    gauges: Arc<Gauges>,
    registry: Registry,
}

/// Answers on a listener from here on.
///
/// # Errors
///
/// When the listener cannot be used.
pub fn serve(
    listener: TcpListener,
    runtime: &Handle,
    gauges: Arc<Gauges>,
    stopwatch: Stopwatch,
) -> Result<Serving, Error> {
    let failed = |error: std::io::Error| Error::failed(format!("cannot answer over HTTP: {error}"));
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let _guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let (ends, ended) = oneshot::channel::<()>();
    let registry = metrics::registry(gauges.clone(), stopwatch);
    let serving = axum::serve(Visits::of(listener), router(Asked { gauges, registry }));
    let serving = serving.with_graceful_shutdown(async {
        // An error says that the sender is gone, which is how the end is told.
        let _ = ended.await;
    });
    runtime.spawn(async move {
        if let Err(error) = serving.await {
            tracing::warn!(%error, "health and metrics are served no more");
        }
    });
    Ok(Serving { address, _ends: ends })
}

fn router(asked: Asked) -> Router {
    let router = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    router.route("/metrics", get(metrics)).fallback(other).with_state(Arc::new(asked))
}

/// An answer after which the connection is closed, so that none is held by who asks nothing.
fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")], body).into_response()
}

fn text(status: StatusCode, line: &str) -> Response {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn one_line(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn healthz(State(asked): State<Arc<Asked>>) -> Response {
    one_line(asked.gauges.alive())
}

async fn readyz(State(asked): State<Arc<Asked>>) -> Response {
    match (asked.gauges.ready(), asked.gauges.sink_trouble()) {
        // The sink holds nothing else up, so it does not make a run unready.
        (Ok(()), Some(trouble)) => {
            let trouble = trouble.lines().collect::<Vec<_>>().join(" ");
            text(StatusCode::OK, &format!("ok, but not the sink: {trouble}"))
        }
        (state, _) => one_line(state),
    }
}

async fn metrics(State(asked): State<Arc<Asked>>) -> Response {
    let mut page = String::with_capacity(32 << 10);
    match prometheus_text::encode(&mut page, &asked.registry) {
        Ok(()) => answer(StatusCode::OK, prometheus_text::CONTENT_TYPE, page),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn other() -> Response {
    text(StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics")
}
