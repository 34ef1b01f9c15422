//! Counts what agents ask of an API server and what they are told.
//!
//! A [`Meter`] listens without TLS and speaks TLS with the server, one connection for each that
//! comes in, as the agent itself would. Requests and watch events are counted in the plain text,
//! bytes both there and on the wire behind TLS.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// What has gone through a meter so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    /// By kind, see [`kind_of`].
    pub(crate) requests: BTreeMap<&'static str, u64>,
    /// Watch events by type.
    pub(crate) events: BTreeMap<&'static str, u64>,
    /// HTTP, from the agents and to them.
    pub(crate) asked: u64,
    pub(crate) told: u64,
    /// The same with TLS, its handshakes included.
    pub(crate) asked_wire: u64,
    pub(crate) told_wire: u64,
}

impl Counts {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let maps = |now: &BTreeMap<&'static str, u64>, then: &BTreeMap<&'static str, u64>| {
            let less =
                |(key, count): (&&'static str, &u64)| (*key, count - then.get(key).unwrap_or(&0));
            now.iter().map(less).filter(|(_, count)| *count > 0).collect()
        };
        Self {
            connections: self.connections - before.connections,
            requests: maps(&self.requests, &before.requests),
            events: maps(&self.events, &before.events),
            asked: self.asked - before.asked,
            told: self.told - before.told,
            asked_wire: self.asked_wire - before.asked_wire,
            told_wire: self.told_wire - before.told_wire,
        }
    }

    pub(crate) fn event(&self, kind: &str) -> u64 {
        self.events.get(kind).copied().unwrap_or(0)
    }

    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        for (map, more) in
            [(&mut self.requests, &other.requests), (&mut self.events, &other.events)]
        {
            for (key, count) in more {
                *map.entry(key).or_default() += count;
            }
        }
        self.asked += other.asked;
        self.told += other.told;
        self.asked_wire += other.asked_wire;
        self.told_wire += other.told_wire;
    }
}

/// The sum of what went through `meters`.
pub(crate) fn sum(meters: &[Meter]) -> Counts {
    let mut sum = Counts::default();
    meters.iter().for_each(|meter| sum.add(&meter.counts()));
    sum
}

pub(crate) struct Meter {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    tls: TlsConnector,
    counts: Mutex<Counts>,
    asked_wire: AtomicU64,
    told_wire: AtomicU64,
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Meter {
    /// Listens, for as long as the runtime runs.
    pub(crate) async fn start(server: SocketAddr, tls: TlsConnector) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (counts, asked_wire, told_wire) = <_>::default();
        let shared = Arc::new(Shared { server, tls, counts, asked_wire, told_wire });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                // an agent or a server that has gone ends the connection, and that is all
                tokio::spawn(async move { drop(pass(&shared, agent).await) });
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        counts.asked_wire = self.shared.asked_wire.load(Ordering::Relaxed);
        counts.told_wire = self.shared.told_wire.load(Ordering::Relaxed);
        counts
    }
}

async fn pass(shared: &Arc<Shared>, agent: TcpStream) -> anyhow::Result<()> {
    shared.count(|counts| counts.connections += 1);
    let wire =
        Wire { stream: TcpStream::connect(shared.server).await?, shared: Arc::clone(shared) };
    let name = ServerName::from(shared.server.ip());
    let server = shared.tls.connect(name, wire).await?;
    let (mut from_agent, mut to_agent) = agent.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut heads, mut events) = (Heads::default(), Events::default());
    let asking = relay(&mut from_agent, &mut to_server, |bytes| {
        shared.count(|counts| {
            counts.asked += bytes.len() as u64;
            for kind in heads.take(bytes) {
                *counts.requests.entry(kind).or_default() += 1;
            }
        });
    });
    let telling = relay(&mut from_server, &mut to_agent, |bytes| {
        shared.count(|counts| {
            counts.told += bytes.len() as u64;
            for kind in events.take(bytes) {
                *counts.events.entry(kind).or_default() += 1;
            }
        });
    });
    tokio::select! {
        end = asking => end,
        end = telling => end,
    }
}

/// Passes on what comes, once it is counted, until nothing more does.
async fn relay(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut count: impl FnMut(&[u8]),
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while let length @ 1.. = from.read(&mut buffer).await? {
        count(&buffer[..length]);
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
    Ok(())
}

/// A connection whose bytes are counted.
struct Wire {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let more = buffer.filled().len() - before;
        self.shared.told_wire.fetch_add(more as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.shared.asked_wire.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Finds requests in what an agent says: heads without bodies, one after the other.
#[derive(Default)]
struct Heads {
    begun: Vec<u8>,
}

impl Heads {
    fn take(&mut self, bytes: &[u8]) -> Vec<&'static str> {
        self.begun.extend_from_slice(bytes);
        let mut kinds = Vec::new();
        while let Some(end) = memchr::memmem::find(&self.begun, b"\r\n\r\n") {
            let head: Vec<u8> = self.begun.drain(..end + 4).collect();
            kinds.push(kind_of(&head));
        }
        kinds
    }
}

/// What a request asks for.
fn kind_of(head: &[u8]) -> &'static str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let asks = |what: &[u8]| memchr::memmem::find(line, what).is_some();
    if !line.starts_with(b"GET /api/v1/pods?") {
        "other"
    } else if !asks(b"watch=true") {
        "list"
    } else if asks(b"sendInitialEvents=true") {
        "watch from a list"
    } else {
        "watch resumed"
    }
}

/// Finds watch events in what a server says.
#[derive(Default)]
struct Events {
    /// The end of what was seen, shorter than any mark.
    last: Vec<u8>,
}

impl Events {
    const MARKS: [(&'static str, &'static [u8]); 5] = [
        ("ADDED", br#"{"type":"ADDED","object":"#),
        ("MODIFIED", br#"{"type":"MODIFIED","object":"#),
        ("DELETED", br#"{"type":"DELETED","object":"#),
        ("BOOKMARK", br#"{"type":"BOOKMARK","object":"#),
        ("ERROR", br#"{"type":"ERROR","object":"#),
    ];
    const LONGEST: usize = 28;

    fn take(&mut self, bytes: &[u8]) -> Vec<&'static str> {
        let seen = self.last.len();
        self.last.extend_from_slice(bytes);
        let mut kinds = Vec::new();
        for (kind, mark) in Self::MARKS {
            // what ends in the old bytes was found before
            let found = memchr::memmem::find_iter(&self.last, mark);
            kinds.extend(found.filter(|at| at + mark.len() > seen).map(|_| kind));
        }
        let keep = self.last.len().min(Self::LONGEST);
        self.last.drain(..self.last.len() - keep);
        kinds
    }
}

/// Whether requests and events are found however they are cut in pieces.
pub(crate) fn check() -> anyhow::Result<()> {
    let asked = b"GET /api/v1/pods?watch=true&sendInitialEvents=true HTTP/1.1\r\nhost: x\r\n\r\n\
                  GET /api/v1/pods?watch=true&resourceVersion=7 HTTP/1.1\r\nhost: x\r\n\r\n\
                  GET /api/v1/pods?limit=1 HTTP/1.1\r\n\r\nGET /version HTTP/1.1\r\n\r\n";
    let told = br#"{"type":"ADDED","object":{}} {"type":"MODIFIED","object":{"type":"Ready"}}
                   {"type":"BOOKMARK","object":{}}{"type":"DELETED","object":{}}"#;
    for size in 1..asked.len() {
        let (mut heads, mut events) = (Heads::default(), Events::default());
        let requests: Vec<_> = asked.chunks(size).flat_map(|piece| heads.take(piece)).collect();
        anyhow::ensure!(
            requests == ["watch from a list", "watch resumed", "list", "other"],
            "in pieces of {size}: {requests:?}"
        );
        let mut found: Vec<_> = told.chunks(size).flat_map(|piece| events.take(piece)).collect();
        found.sort_unstable();
        anyhow::ensure!(
            found == ["ADDED", "BOOKMARK", "DELETED", "MODIFIED"],
            "in pieces of {size}: {found:?}"
        );
    }
    Ok(())
}
