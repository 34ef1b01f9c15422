//! A small Elasticsearch on loopback for tests: keeps documents by id, and misbehaves as told.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;

use super::bulk::{self, Body};

/// What the peer does with the next bulk request; at the end of the script it always commits.
#[derive(Debug, Clone)]
pub(super) enum Scripted {
    /// Keeps what is new and answers 201 or 409 for each.
    Commit,
    /// Says this for each item and keeps those with 201.
    Items(Vec<&'static str>),
    /// Answers this and keeps nothing.
    Answer { status: u16, header: Option<(&'static str, String)>, body: String },
    /// Keeps everything and ends the connection without a word.
    CommitAndTear,
    /// Keeps everything and ends the connection in the middle of the answer.
    CommitAndTearAnswer,
    /// Answers 401 to whoever does not send this `authorization`, and commits the rest.
    Demand(&'static str),
    /// Never answers.
    Hang,
    /// Commits once two requests have arrived.
    Meet(Arc<Barrier>),
    /// Answers 413 to what is longer, uncompressed, and commits the rest.
    Limit(usize),
    /// Answers 400 to a request with a document that says `poison`, for the whole request.
    Poison,
    /// Answers 500 for each document that says `poison`, and commits the rest.
    Fails,
}

/// An answer without anything else.
pub(super) fn status(status: u16) -> Scripted {
    Scripted::Answer { status, header: None, body: String::new() }
}

/// One bulk request as the peer got it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    /// Uncompressed.
    pub(super) body: String,
    /// Which connection it came on.
    pub(super) connection: usize,
}

/// See the module's documentation. Ends with the runtime that it was started on.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) url: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<VecDeque<Scripted>>,
    seen: Mutex<Vec<Seen>>,
    kept: Mutex<BTreeMap<String, String>>,
    probes: Mutex<VecDeque<(String, u16)>>,
    connections: AtomicUsize,
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl Peer {
    pub(super) async fn start(script: impl IntoIterator<Item = Scripted>) -> Self {
        Self::listen(script, None).await
    }

    /// A peer that speaks TLS.
    pub(super) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen([], Some(acceptor)).await
    }

    async fn listen(script: impl IntoIterator<Item = Scripted>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared::default());
        shared.script.lock().expect("unlocked").extend(script);
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let shared = Arc::clone(&accepting);
                let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(&shared, socket, connection).await,
                        Some(tls) => {
                            // A handshake that fails is what some tests are about.
                            if let Ok(socket) = tls.accept(socket).await {
                                serve(&shared, socket, connection).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, shared }
    }

    /// Answers the next request for `path` that is not a bulk request with `status`, others 200.
    pub(super) fn answer_probe(&self, path: &str, status: u16) {
        self.shared.probes.lock().expect("unlocked").push_back((path.to_owned(), status));
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("unlocked").clone()
    }

    /// What is kept: the documents by id.
    pub(super) fn kept(&self) -> BTreeMap<String, String> {
        self.shared.kept.lock().expect("unlocked").clone()
    }
}

async fn serve<S>(shared: &Shared, socket: S, connection: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| handle(shared, request, connection));
    let http = hyper::server::conn::http1::Builder::new();
    // A torn connection is an error by intention.
    http.serve_connection(TokioIo::new(socket), service).await.ok();
}

async fn handle(
    shared: &Shared,
    request: Request<Incoming>,
    connection: usize,
) -> Result<Answer, io::Error> {
    if request.method() != Method::POST {
        return Ok(probe(shared, request.uri().path()));
    }
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let gzip = head.headers.get("content-encoding").is_some_and(|value| value == "gzip");
    let body = Body { bytes, gzip, plain_bytes: 0 };
    let body = String::from_utf8(body.plain().into_owned()).expect("UTF-8");
    let path = head.uri.to_string();
    let authorization = head.headers.get("authorization").cloned();
    let seen = Seen { path, headers: head.headers, body: body.clone(), connection };
    shared.seen.lock().expect("unlocked").push(seen);
    let scripted = shared.script.lock().expect("unlocked").pop_front();
    if let Some(Scripted::Demand(proof)) = scripted {
        shared.script.lock().expect("unlocked").extend(scripted.clone());
        if authorization.is_none_or(|sent| sent != proof) {
            return Ok(answer(401, None, String::new()));
        }
    }
    act(shared, scripted.unwrap_or(Scripted::Commit), &body).await
}

fn probe(shared: &Shared, path: &str) -> Answer {
    let mut probes = shared.probes.lock().expect("unlocked");
    let status = match probes.iter().position(|(scripted, _)| scripted == path) {
        Some(at) => probes.remove(at).expect("it is there").1,
        None => 200,
    };
    answer(status, None, "{}".into())
}

async fn act(shared: &Shared, scripted: Scripted, body: &str) -> Result<Answer, io::Error> {
    let good = |body| Ok(answer(200, None, body));
    match scripted {
        Scripted::Commit | Scripted::Demand(_) => good(commit(shared, body)),
        Scripted::Items(items) => good(keep_some(shared, body, &items)),
        Scripted::Answer { status, header, body } => Ok(answer(status, header, body)),
        Scripted::CommitAndTear => {
            commit(shared, body);
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Scripted::CommitAndTearAnswer => Ok(torn(&commit(shared, body))),
        Scripted::Hang => std::future::pending().await,
        Scripted::Meet(barrier) => {
            barrier.wait().await;
            good(commit(shared, body))
        }
        Scripted::Limit(limit_bytes) => {
            shared.script.lock().expect("unlocked").push_front(scripted);
            if body.len() > limit_bytes {
                return Ok(answer(413, None, String::new()));
            }
            good(commit(shared, body))
        }
        Scripted::Poison => {
            shared.script.lock().expect("unlocked").push_front(scripted);
            if body.contains("poison") {
                let error = r#"{"error":{"type":"parse_exception","reason":"x"},"status":400}"#;
                return Ok(answer(400, None, error.into()));
            }
            good(commit(shared, body))
        }
        Scripted::Fails => {
            shared.script.lock().expect("unlocked").push_front(scripted);
            good(commit_unless(shared, body, |document| document.contains("poison")))
        }
    }
}

fn commit(shared: &Shared, body: &str) -> String {
    commit_unless(shared, body, |_| false)
}

/// What fails is answered 500.
fn commit_unless(shared: &Shared, body: &str, fails: impl Fn(&str) -> bool) -> String {
    let mut kept = shared.kept.lock().expect("unlocked");
    let mut items = Vec::new();
    for entry in bulk::entries(body.as_bytes()) {
        if fails(&String::from_utf8_lossy(entry.document)) {
            items.push(FAILS);
            continue;
        }
        let id = entry.target().id;
        if kept.contains_key(&id) {
            items.push(CONFLICT);
            continue;
        }
        items.push(r#"{"status":201}"#);
        kept.insert(id, String::from_utf8_lossy(entry.document).into_owned());
    }
    items_answer(&items)
}

/// What Elasticsearch says to an id that is there.
pub(super) const CONFLICT: &str = r#"{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[x]: version conflict, document already exists (current version [1])"}}"#;

/// What Elasticsearch says where a plugin fails.
pub(super) const FAILS: &str =
    r#"{"status":500,"error":{"type":"null_pointer_exception","reason":null}}"#;

fn keep_some(shared: &Shared, body: &str, items: &[&str]) -> String {
    let mut kept = shared.kept.lock().expect("unlocked");
    for (entry, item) in bulk::entries(body.as_bytes()).zip(items) {
        if item.starts_with(r#"{"status":201"#) {
            kept.insert(entry.target().id, String::from_utf8_lossy(entry.document).into_owned());
        }
    }
    items_answer(items)
}

fn items_answer(items: &[&str]) -> String {
    let distinct: HashSet<&&str> = items.iter().collect();
    let errors = distinct.iter().any(|item| item.contains("error"));
    let items: Vec<String> = items.iter().map(|item| format!(r#"{{"create":{item}}}"#)).collect();
    format!(r#"{{"errors":{errors},"items":[{}]}}"#, items.join(","))
}

fn answer(status: u16, header: Option<(&'static str, String)>, body: String) -> Answer {
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {});
    let mut response = Response::builder().status(status);
    if let Some((name, value)) = header {
        response = response.header(name, value);
    }
    response.body(body.boxed()).expect("a valid answer")
}

fn torn(body: &str) -> Answer {
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    let frames = [Ok(Frame::data(half)), Err(io::ErrorKind::ConnectionReset.into())];
    let body = StreamBody::new(stream::iter(frames));
    Response::new(BodyExt::boxed(body))
}
