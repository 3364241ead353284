//! A proxy before a server of the S3 protocol: it passes requests on as they are, sees which step of the protocol each
//! one is, and kills, lies or delays where it is told to.
//!
//! ```text
//!  mill ──HTTP──> proxy ── trap: before ── lie, spell ── server ── trap: after ──> answer
//!                   └── roots that stand now ──> sight
//! ```
//!
//! A request's bytes, its `Host` among them, go on unchanged, so that signatures hold. Each connection of a mill has one
//! of its own to the server.

use super::points::{Moment, Point, Step, Trap};
use super::sight::Sight;
use super::trouble::{Lie, Refusal, Spell, Troubles};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_TYPE, IF_NONE_MATCH, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tidemill::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

/// How long silence lasts; every client gives up before.
const SILENCE: Duration = Duration::from_secs(600);

/// What a proxy is told to do, and whom it tells.
#[derive(Clone)]
pub struct Ways {
    /// The server, `host:port`.
    pub server: String,
    /// What stands before every name of the store in a request's path: `/bucket/prefix/`.
    pub prefix: String,
    /// Kills.
    pub trap: Arc<Trap>,
    /// Lies and spells.
    pub troubles: Arc<Troubles>,
    /// Is told of roots.
    pub sight: Arc<Sight>,
}

/// A proxy; it lives as long as the runtime that it was started on.
pub struct Proxy {
    /// Its address, as clients are told it.
    pub url: String,
}

/// The connection ends here, without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is broken off")]
struct Dropped;

/// What a request asks of the store.
struct Asked {
    step: Step,
    name: String,
    writes: bool,
}

impl Proxy {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When there is no port for it.
    pub fn start(runtime: &Handle, ways: Ways) -> Result<Proxy, Error> {
        let cannot = |error| Error::failed(format!("a proxy cannot listen on 127.0.0.1: {error}"));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).map_err(cannot)?;
        let url = format!("http://{}", listener.local_addr().map_err(cannot)?);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let passage = Arc::new(Passage { ways: ways.clone(), server: Mutex::new(None) });
                tokio::spawn(async move {
                    let serve = service_fn(|request| passage.clone().serve(request));
                    // It ends with an error where a lie or a kill breaks it.
                    let _ = Builder::new().serve_connection(TokioIo::new(client), serve).await;
                });
            }
        });
        Ok(Proxy { url })
    }
}

/// One connection of a mill.
struct Passage {
    ways: Ways,
    server: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Passage {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Dropped> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
        let Some(asked) = self.asked(&head, &body) else { return self.pass(head, body).await };
        if self.ways.trap.meets(Point(asked.step, Moment::Before)) {
            return Err(Dropped);
        }
        let spell = self.ways.troubles.on();
        if let Some(Spell::Slow(delay)) = spell {
            tokio::time::sleep(delay).await;
        }
        if let Some(refusal) = spell.and_then(|spell| spell.refusal(asked.writes)) {
            self.ways.troubles.refused();
            self.tried(&asked, false);
            return Ok(refused(refusal));
        }
        match self.ways.troubles.lie(asked.step) {
            Some(lie) => self.lie(&asked, lie, head, body).await,
            None => self.honestly(&asked, head, body).await,
        }
    }

    async fn honestly(
        &self,
        asked: &Asked,
        head: Parts,
        body: Bytes,
    ) -> Result<Response<Full<Bytes>>, Dropped> {
        let answer = self.pass(head, body.clone()).await?;
        let done = answer.status().is_success();
        self.tried(asked, done);
        self.stood(asked, done, &body);
        if self.ways.trap.meets(Point(asked.step, Moment::After)) {
            return Err(Dropped);
        }
        Ok(answer)
    }

    async fn lie(
        &self,
        asked: &Asked,
        lie: Lie,
        head: Parts,
        body: Bytes,
    ) -> Result<Response<Full<Bytes>>, Dropped> {
        if lie.done {
            let answer = self.pass(head, body.clone()).await?;
            self.stood(asked, answer.status().is_success(), &body);
        }
        self.tried(asked, false);
        match lie.answer.refusal() {
            Some(refusal) => Ok(refused(refusal)),
            None => {
                if lie.answer == super::trouble::Answer::Silence {
                    tokio::time::sleep(SILENCE).await;
                }
                Err(Dropped)
            }
        }
    }

    fn tried(&self, asked: &Asked, succeeded: bool) {
        if asked.writes {
            self.ways.troubles.tried(&asked.name, succeeded);
        }
    }

    fn stood(&self, asked: &Asked, done: bool, body: &[u8]) {
        if done && matches!(asked.step, Step::Claim | Step::Root) {
            self.ways.sight.root(body);
        }
    }

    fn asked(&self, head: &Parts, body: &[u8]) -> Option<Asked> {
        let query = head.uri.query().unwrap_or_default();
        let name = head.uri.path().strip_prefix(&self.ways.prefix).unwrap_or_default().to_string();
        let writes = !matches!(head.method, Method::GET | Method::HEAD);
        let step = match head.method {
            Method::DELETE => Step::Deletion,
            // Of many objects at once.
            Method::POST if query.starts_with("delete") => Step::Deletion,
            Method::PUT => Step::of_write(&name, body)?,
            Method::GET if query.contains("list-type") => Step::Listing,
            Method::GET | Method::HEAD => Step::of_read(&name)?,
            _ => return None,
        };
        let conditional = head.headers.contains_key(IF_NONE_MATCH);
        debug_assert!(conditional || !matches!(step, Step::Claim | Step::Root), "a root without a condition");
        Some(Asked { step, name, writes })
    }

    /// Hands a request to the server as it is, and its answer back.
    async fn pass(&self, head: Parts, body: Bytes) -> Result<Response<Full<Bytes>>, Dropped> {
        let mut connection = self.server.lock().await;
        let mut request = Request::from_parts(head, Full::new(body));
        request.headers_mut().remove(TRANSFER_ENCODING);
        // The server may have closed the one that there was.
        let open = match connection.as_mut() {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            *connection = Some(self.connect().await?);
        }
        let sender = connection.as_mut().ok_or(Dropped)?;
        let answer = sender.send_request(request).await.map_err(|_| Dropped)?;
        let (mut head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(CONNECTION);
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Dropped> {
        let stream = TcpStream::connect(&self.ways.server).await.map_err(|_| Dropped)?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Dropped)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// An error as S3 gives it.
fn refused((status, code): Refusal) -> Response<Full<Bytes>> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    response
}
