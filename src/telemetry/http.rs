//! Serves `/metrics`, `/livez` and `/readyz`, and nothing else.
//!
//! Owns one thread with a runtime of its own, so that a probe is answered however busy the rest
//! is. Guarantees bounds on what a stranger can cost: [`CONNECTIONS_MAX`] connections (the oldest
//! gives way to a new one), [`CONNECTION_MAX`] for each, small headers, one request per
//! connection, no request body read. No answer carries a line's text or a secret. No TLS and no
//! login: what is shown is figures and fixed texts.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::readiness::Readiness;
use super::throttle;

/// Connections that are served at the same time.
pub const CONNECTIONS_MAX: usize = 64;

/// How long a connection may last, from accept to the last byte of the answer.
pub const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// How long a request line and its headers may take.
const HEADERS_MAX: Duration = Duration::from_secs(5);

/// Bytes of a request line and its headers; the least that hyper allows.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// How long to wait after a failed accept, which means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Source: prometheus.io, "Exposition formats".
const METRICS_TEXT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A server that is running; it stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// Listens on `listen` and serves on a thread of its own.
pub fn serve(
    listen: SocketAddr,
    metrics: PrometheusHandle,
    readiness: Arc<Readiness>,
) -> io::Result<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Bound without the runtime: the caller may be on one of its own.
    let listener = super::listen::listen(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (stop, stopped) = oneshot::channel();
    let pages = Pages { metrics, readiness };
    let thread = std::thread::Builder::new()
        .name("telemetry".to_owned())
        .spawn(move || runtime.block_on(accept(listener, pages, stopped)))?;
    Ok(Server { address, stop, thread })
}

impl Server {
    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops at once and waits for the thread.
    pub fn stop(self) {
        drop(self.stop);
        // The thread ends by returning; a panic has ended the process before.
        self.thread.join().unwrap_or_default();
    }
}

/// What the pages are made from.
#[derive(Debug, Clone)]
struct Pages {
    metrics: PrometheusHandle,
    readiness: Arc<Readiness>,
}

/// Accepts until the other end of `stopped` is dropped; the connections end with it.
async fn accept(listener: TcpListener, pages: Pages, mut stopped: oneshot::Receiver<Infallible>) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        // Cancel safe: accept and join_next lose nothing when another branch is taken.
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                oldest_first.retain(|connection| !connection.is_finished());
                if oldest_first.len() >= CONNECTIONS_MAX
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                oldest_first.push_back(connections.spawn(converse(stream, pages.clone())));
            }
            Err(error) => {
                if let Some(suppressed) = throttle::allow("telemetry accept") {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::warn!(error, suppressed, "cannot accept a telemetry connection");
                }
                tokio::select! {
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Serves one connection. Its errors are the client's and concern nobody else.
async fn converse(stream: TcpStream, pages: Pages) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let response = pages.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .max_headers(64)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::time::timeout(CONNECTION_MAX, connection).await.ok();
}

impl Pages {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let page: fn(&Self) -> Response<Full<Bytes>> = match path {
            "/metrics" => Self::metrics,
            "/livez" => Self::livez,
            "/readyz" => Self::readyz,
            _ => return text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
        };
        if method != Method::GET {
            let mut response =
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        page(self)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut response = text(StatusCode::OK, self.metrics.render());
        response.headers_mut().insert(CONTENT_TYPE, METRICS_TEXT);
        response
    }

    fn livez(&self) -> Response<Full<Bytes>> {
        let stuck = self.readiness.stuck();
        verdict("alive", stuck.iter().map(|worker| format!("worker {worker}: stuck")))
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        verdict("ready", self.readiness.unmet().iter().map(ToString::to_string))
    }
}

/// 200 and `good` if there are no complaints, else 503 and one line for each.
fn verdict(good: &str, complaints: impl Iterator<Item = String>) -> Response<Full<Bytes>> {
    let mut body = String::new();
    for complaint in complaints {
        body.push_str(&complaint);
        body.push('\n');
    }
    if body.is_empty() {
        return text(StatusCode::OK, format!("{good}\n"));
    }
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::telemetry::readiness::Condition;

    fn start(readiness: &Arc<Readiness>) -> Server {
        start_at(Ipv4Addr::LOCALHOST.into(), readiness)
    }

    fn start_at(host: IpAddr, readiness: &Arc<Readiness>) -> Server {
        let metrics = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&metrics, || metrics::counter!("one_total").increment(1));
        let any_port = SocketAddr::from((host, 0));
        serve(any_port, metrics.handle(), Arc::clone(readiness)).unwrap()
    }

    fn ready() -> Arc<Readiness> {
        Arc::new(Readiness::new([], 0, Duration::MAX))
    }

    /// The whole answer to a request as it goes over the wire.
    fn ask(server: &Server, request: &str) -> String {
        ask_at(server.address(), request)
    }

    fn ask_at(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[track_caller]
    fn check(server: &Server, method_and_path: &str, status: u16, body: &str) -> String {
        let answer = ask(server, &format!("{method_and_path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body, "{answer}");
        answer
    }

    #[test]
    fn there_are_three_pages_and_nothing_else() {
        let server = start(&ready());
        let metrics =
            check(&server, "GET /metrics", 200, "# TYPE one_total counter\none_total 1\n\n");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"));
        check(&server, "GET /livez?verbose", 200, "alive\n");
        check(&server, "GET /readyz", 200, "ready\n");
        for path in ["/", "/metrics/", "/livez/../metrics", "/status"] {
            check(&server, &format!("GET {path}"), 404, "not found\n");
        }
        let refused = check(&server, "DELETE /metrics", 405, "only GET is allowed\n");
        assert!(refused.contains("allow: GET\r\n"));
        server.stop();
    }

    #[test]
    fn probes_are_answered_whichever_family_the_pods_address_is_of() {
        let server = start_at(Ipv6Addr::UNSPECIFIED.into(), &ready());
        let mut hosts = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        // A host with IPv6 switched off has no such address.
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            hosts.push(Ipv6Addr::LOCALHOST.into());
        }
        for host in hosts {
            let address = SocketAddr::from((host, server.address().port()));
            let answer = ask_at(address, "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n");
            assert!(answer.ends_with("\r\n\r\nalive\n"), "{host}: {answer}");
        }
        server.stop();
    }

    #[test]
    fn what_is_missing_is_told_in_a_line_each() {
        let readiness = Arc::new(Readiness::new([Condition::LogRoot], 0, Duration::MAX));
        readiness.set(Condition::Output("flink".into()), false);
        let server = start(&readiness);
        check(&server, "GET /readyz", 503, "log root: not read\noutput of flink: no answer\n");
        readiness.set(Condition::LogRoot, true);
        check(&server, "GET /readyz", 503, "output of flink: no answer\n");
        readiness.set(Condition::Output("flink".into()), true);
        check(&server, "GET /readyz", 200, "ready\n");
    }

    #[test]
    fn a_stuck_worker_is_not_alive() {
        let server = start(&Arc::new(Readiness::new([], 1, Duration::MAX)));
        check(&server, "GET /livez", 200, "alive\n");
        let silent = Arc::new(Readiness::new([], 2, Duration::ZERO));
        while silent.stuck() != [0, 1] {
            std::thread::yield_now();
        }
        check(&start(&silent), "GET /livez", 503, "worker 0: stuck\nworker 1: stuck\n");
    }

    #[test]
    fn bodies_are_not_waited_for() {
        let server = start(&ready());
        let head = "host: a\r\ncontent-length: 1000000000\r\n\r\n";
        let answer = ask(&server, &format!("POST /metrics HTTP/1.1\r\n{head}"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        let answer = ask(&server, &format!("GET /livez HTTP/1.1\r\n{head}"));
        assert!(answer.ends_with("\r\n\r\nalive\n"), "{answer}");
    }

    #[test]
    fn large_headers_and_what_is_no_http_are_refused() {
        let server = start(&ready());
        // As much as the server reads: what it leaves unread would reset the connection.
        let long = format!("{:a<1$}", "GET /livez HTTP/1.1\r\nhost: ", HEADER_BYTES_MAX);
        for request in [&long, "\x16\x03\x01\r\n\r\n"] {
            let answer = ask(&server, request);
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }

    #[test]
    fn idle_connections_give_way_to_new_ones() {
        let server = start(&ready());
        let connect = |_| TcpStream::connect(server.address()).unwrap();
        let idle: Vec<TcpStream> = (0..CONNECTIONS_MAX + 3).map(connect).collect();
        check(&server, "GET /livez", 200, "alive\n");
        let (mut first, mut last) = (&idle[0], &idle[idle.len() - 1]);
        first.set_read_timeout(Some(HEADERS_MAX / 2)).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "closed for another, not by its timeout");
        last.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("alive\n"));
    }

    #[test]
    fn a_stopped_server_no_longer_listens() {
        let server = start(&ready());
        let address = server.address();
        server.stop();
        assert!(TcpStream::connect(address).is_err());
        let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        assert!(serve(occupied.local_addr().unwrap(), metrics, ready()).is_err());
    }
}
