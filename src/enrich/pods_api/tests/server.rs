//! An API server on loopback that answers requests as a script says, in their order.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Body = BoxBody<Bytes, Infallible>;

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
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
}

/// Tells further events of a watch.
#[derive(Debug)]
pub(super) struct More(mpsc::Sender<Value>);

impl More {
    pub(super) async fn added(&self, object: Value) {
        self.0.send(json!({"type": "ADDED", "object": object})).await.expect("it is asked for");
    }
}

impl Answer {
    /// A watch that says nothing yet and stays open.
    pub(super) fn watch() -> Self {
        Self { code: 200, lines: Vec::new(), then: Then::Silence }
    }

    pub(super) fn status(code: u16) -> Self {
        Self { code, lines: vec![status(code)], then: Then::End }
    }

    pub(super) fn list(version: u64, items: impl IntoIterator<Item = Value>) -> Self {
        let items: Vec<Value> = items.into_iter().collect();
        let metadata = json!({"resourceVersion": version.to_string()});
        let list =
            json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items});
        Self { code: 200, lines: vec![list], then: Then::End }
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

    /// More is told later.
    pub(super) fn goes_on(self) -> (Self, More) {
        let (more, receiver) = mpsc::channel(8);
        (Self { then: Then::More(receiver), ..self }, More(more))
    }

    fn response(self) -> Response<Body> {
        let builder =
            Response::builder().status(self.code).header("content-type", "application/json");
        let line = |value: Value| Bytes::from(format!("{value}\n"));
        let lines = stream::iter(self.lines).map(line);
        let frame = |line: Bytes| Ok::<_, Infallible>(Frame::data(line));
        let body = match self.then {
            Then::End => BodyExt::boxed(StreamBody::new(lines.map(frame))),
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

/// Ends with the runtime that it was started on. What comes after the script is never answered.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let script: Arc<Mutex<VecDeque<Answer>>> =
            Arc::new(Mutex::new(script.into_iter().collect()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let (script, noted) = (Arc::clone(&script), Arc::clone(&noted));
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    noted.lock().expect("unlocked").push(request.uri().to_string());
                    let answer = script.lock().expect("unlocked").pop_front();
                    async move {
                        match answer {
                            Some(answer) => Ok::<_, Infallible>(answer.response()),
                            None => std::future::pending().await,
                        }
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(TokioIo::new(socket), service);
                // A client that goes away is no trouble of the server's.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { url, asked }
    }

    /// Paths and queries of the requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("unlocked").clone()
    }
}
