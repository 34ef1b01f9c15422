//! An API server that answers requests as a script says, in their order: without a network, so that
//! tests may stop the clock, or on loopback behind TLS.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

type Body = BoxBody<Bytes, Infallible>;

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
    /// Of what is asked for in a request that it answers, such as `namespaces`; of anything.
    of: Option<&'static str>,
    code: u16,
    /// Lines; an answer that isn't a watch is one.
    lines: Vec<Value>,
    then: Then,
}

/// What follows an answer's lines.
#[derive(Debug)]
enum Then {
    End,
    /// The connection stays open and silent.
    Silence,
    More(mpsc::Receiver<Value>),
    /// Not even an answer begins.
    Nothing,
}

/// Tells further events of a watch, which ends with it.
#[derive(Debug)]
pub(super) struct More(mpsc::Sender<Value>);

impl More {
    pub(super) async fn added(&self, object: Value) {
        self.event("ADDED", object).await;
    }

    pub(super) async fn changed(&self, object: Value) {
        self.event("MODIFIED", object).await;
    }

    async fn event(&self, kind: &str, object: Value) {
        self.0.send(json!({"type": kind, "object": object})).await.expect("it is asked for");
    }
}

impl Answer {
    /// A watch that says nothing yet and stays open.
    pub(super) fn watch() -> Self {
        Self { of: None, code: 200, lines: Vec::new(), then: Then::Silence }
    }

    /// The request is taken and never answered.
    pub(super) fn never() -> Self {
        Self { of: None, code: 200, lines: Vec::new(), then: Then::Nothing }
    }

    pub(super) fn status(code: u16) -> Self {
        Self { of: None, code, lines: vec![status(code)], then: Then::End }
    }

    fn behind() -> Self {
        let cause =
            json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        let mut status = status(504);
        status["details"] = json!({"causes": [cause], "retryAfterSeconds": 1});
        Self { lines: vec![status], ..Self::status(504) }
    }

    pub(super) fn list(version: u64, items: impl IntoIterator<Item = Value>) -> Self {
        Self::part(json!({"resourceVersion": version.to_string()}), items)
    }

    /// Part of a list; the next page is asked for with `token`.
    pub(super) fn page(version: u64, items: impl IntoIterator<Item = Value>, token: &str) -> Self {
        Self::part(json!({"resourceVersion": version.to_string(), "continue": token}), items)
    }

    fn part(metadata: Value, items: impl IntoIterator<Item = Value>) -> Self {
        let items: Vec<Value> = items.into_iter().collect();
        let list =
            json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items});
        Self { of: None, code: 200, lines: vec![list], then: Then::End }
    }

    fn event(mut self, kind: &str, object: Value) -> Self {
        self.lines.push(json!({"type": kind, "object": object}));
        self
    }

    pub(super) fn added(self, object: Value) -> Self {
        self.event("ADDED", object)
    }

    /// The end of a streamed list.
    pub(super) fn all_listed(self, version: u64) -> Self {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        self.marked(version, annotations)
    }

    pub(super) fn bookmark(self, version: u64) -> Self {
        self.marked(version, json!({}))
    }

    fn marked(self, version: u64, annotations: Value) -> Self {
        let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
        self.event("BOOKMARK", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}))
    }

    pub(super) fn error(self, code: u16) -> Self {
        self.event("ERROR", status(code))
    }

    /// The server ends it, as it does when the time is up that was asked for.
    pub(super) fn ends(self) -> Self {
        Self { then: Then::End, ..self }
    }

    /// Only for requests for these: whose request comes first is not said where two are watched.
    pub(super) fn of(self, what: &'static str) -> Self {
        Self { of: Some(what), ..self }
    }

    fn fits(&self, path: &str) -> bool {
        self.of.is_none_or(|what| path.ends_with(&format!("/{what}")))
    }

    /// More is told later.
    pub(super) fn goes_on(self) -> (Self, More) {
        let (more, receiver) = mpsc::channel(8);
        (Self { then: Then::More(receiver), ..self }, More(more))
    }

    async fn response(self) -> Response<Body> {
        let builder =
            Response::builder().status(self.code).header("content-type", "application/json");
        let line = |value: Value| Bytes::from(format!("{value}\n"));
        let lines = stream::iter(self.lines).map(line);
        let frame = |line: Bytes| Ok::<_, Infallible>(Frame::data(line));
        let body = match self.then {
            Then::End => BodyExt::boxed(StreamBody::new(lines.map(frame))),
            Then::Nothing => std::future::pending().await,
            Then::Silence => {
                BodyExt::boxed(StreamBody::new(lines.chain(stream::pending()).map(frame)))
            }
            Then::More(receiver) => {
                let more = stream::unfold(receiver, |mut receiver| async {
                    Some((receiver.recv().await?, receiver))
                });
                BodyExt::boxed(StreamBody::new(lines.chain(more.map(line)).map(frame)))
            }
        };
        builder.body(body).expect("a response")
    }
}

fn status(code: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "message": format!("answered {code}"), "reason": "Scripted",
    })
}

/// What comes after the script is never answered. Clones are the same server.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    script: Arc<Mutex<VecDeque<Answer>>>,
    /// How many times yet it says that it has not come to a version.
    behind: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Server {
    pub(super) fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        let script: VecDeque<Answer> = script.into_iter().collect();
        Self { script: Arc::new(Mutex::new(script)), ..Self::default() }
    }

    /// Whoever asks next has it say that it has not come to the version.
    pub(super) fn set_back(&self) {
        self.behind.store(1, Ordering::Relaxed);
    }

    /// Asks it without a network.
    pub(super) fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().answer(request));
        kube::Client::new(service, "default")
    }

    async fn answer<B>(self, request: Request<B>) -> Result<Response<Body>, Infallible> {
        let asked = (Instant::now(), request.uri().to_string());
        if asked.1.contains("metadata.name%3Dnobody") {
            let behind = self.behind.swap(0, Ordering::Relaxed) > 0;
            let answer = if behind { Answer::behind() } else { Answer::list(1, []) };
            return Ok(answer.response().await);
        }
        self.asked.lock().expect("unlocked").push(asked);
        let answer = {
            let mut script = self.script.lock().expect("unlocked");
            let next = script.iter().position(|answer| answer.fits(request.uri().path()));
            next.and_then(|next| script.remove(next))
        };
        Ok(answer.unwrap_or_else(Answer::never).response().await)
    }

    /// Answers on loopback too, at the address that is returned; ends with the runtime.
    pub(super) async fn listen(&self, tls: TlsAcceptor) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                // A client that goes away, or doesn't trust it, is no trouble of the server's.
                let Ok(socket) = tls.accept(socket).await else { continue };
                let server = server.clone();
                let service = service_fn(move |request| server.clone().answer(request));
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(TokioIo::new(socket), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        url
    }

    /// Paths and queries of the requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("unlocked").iter().map(|(_, request)| request.clone()).collect()
    }

    /// The times between the requests so far.
    pub(super) fn pauses(&self) -> Vec<Duration> {
        let asked = self.asked.lock().expect("unlocked");
        asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }
}
