//! As much of Elasticsearch as a shipper sees: `_bulk` over HTTP/1.1, and a lot of trouble.
//!
//! One thread for each connection. Owns reading requests and doing to them what [`Faults`] says;
//! what is stored is [`Index`]'s. Takes bodies of a stated length, gzip-compressed or not.

mod faults;
pub(crate) mod index;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use flate2::bufread::GzDecoder;

use faults::{Faults, Plan};
use index::{Index, Status};

const ROOT: &str = r#"{"name":"peer","cluster_name":"torture","version":{"number":"8.19.0","build_flavor":"default"},"tagline":"You Know, for Search"}"#;

/// What became of requests and items, by name.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// The running peer. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: Mutex<Index>,
    faults: Mutex<Faults>,
    counts: Mutex<Counts>,
    calm: AtomicBool,
    /// Tells the ones that wait for the index to grow.
    grown: Condvar,
}

impl Peer {
    /// Listens on a free port of the loopback interface.
    pub(crate) fn start(seed: u64, index: Index) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            index: Mutex::new(index),
            faults: Mutex::new(Faults::new(seed)),
            counts: Mutex::default(),
            calm: AtomicBool::new(false),
            grown: Condvar::new(),
        });
        let peer = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming().flatten()) {
                let shared = Arc::clone(&shared);
                // A connection that breaks is the shipper's to notice.
                thread::spawn(move || drop(Connection { shared, number }.serve(stream)));
            }
        });
        Ok(peer)
    }

    /// From now on everything goes well, but for documents that are refused.
    pub(crate) fn be_calm(&self) {
        self.shared.calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        locked(&self.shared.index)
    }

    pub(crate) fn counts(&self) -> Counts {
        locked(&self.shared.counts).clone()
    }

    /// Blocks until `condition` holds or `deadline` has passed without the index growing; whether
    /// it holds.
    pub(crate) fn wait_until(
        &self,
        deadline: Duration,
        condition: impl Fn(&Index) -> bool,
    ) -> bool {
        let mut index = self.index();
        loop {
            if condition(&index) {
                return true;
            }
            let wait = self.shared.grown.wait_timeout(index, deadline);
            let (now, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return condition(&now);
            }
            index = now;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The head of a request, as far as it matters.
#[derive(Debug, Default)]
struct Head {
    is_bulk: bool,
    length: usize,
    gzip: bool,
}

struct Connection {
    shared: Arc<Shared>,
    number: u64,
}

impl Connection {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        while let Some(head) = read_head(&mut reader)? {
            if !head.is_bulk {
                io::copy(&mut reader.by_ref().take(head.length as u64), &mut io::sink())?;
                respond(&mut writer, 200, "", ROOT.as_bytes())?;
                continue;
            }
            let calm = self.shared.calm.load(Ordering::Relaxed);
            let plan = locked(&self.shared.faults).plan(head.length, calm);
            self.count(if head.gzip { "requests, gzip" } else { "requests, plain" }, 1);
            self.count(plan.name(), 1);
            if plan.tears_before() {
                io::copy(&mut reader.by_ref().take(head.length as u64 / 2), &mut io::sink())?;
                return writer.shutdown(Shutdown::Both);
            }
            let mut body = vec![0; head.length];
            reader.read_exact(&mut body)?;
            if head.gzip {
                let mut plain = Vec::with_capacity(body.len() * 8);
                GzDecoder::new(body.as_slice()).read_to_end(&mut plain)?;
                body = plain;
            }
            thread::park_timeout(plan.latency());
            if !self.answer(&body, &plan, &mut writer)? {
                return writer.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// Does as planned; `false` if the connection is to be torn.
    fn answer(&self, body: &[u8], plan: &Plan, writer: &mut TcpStream) -> io::Result<bool> {
        match *plan {
            Plan::TooMany { retry_after } => {
                let header = if retry_after { "Retry-After: 1\r\n" } else { "" };
                let text = br#"{"error":{"type":"es_rejected_execution_exception","reason":"full"},"status":429}"#;
                respond(writer, 429, header, text)?;
                return Ok(true);
            }
            Plan::Window503 => {
                respond(writer, 503, "", b"upstream connect error")?;
                return Ok(true);
            }
            Plan::Window413 => {
                respond(writer, 413, "", b"<html>413</html>")?;
                return Ok(true);
            }
            _ => {}
        }
        let items = self.store(body, plan);
        let all = rendered(&items, items.len());
        match plan {
            Plan::TornAfter | Plan::HalfStored => return Ok(false),
            Plan::TornInside => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", all.len());
                writer.write_all(head.as_bytes())?;
                writer.write_all(&all[..all.len() / 2])?;
                return Ok(false);
            }
            Plan::CutJson => respond(writer, 200, "", &all[..all.len() / 2])?,
            Plan::WrongCount => respond(writer, 200, "", &rendered(&items, items.len() - 1))?,
            Plan::NotJson => respond(writer, 200, "", b"<html>welcome</html>")?,
            Plan::Stored504 => respond(writer, 504, "", b"gateway timeout")?,
            _ => respond(writer, 200, "", &all)?,
        }
        Ok(true)
    }

    /// Stores what the plan lets through; the statuses of all items that were looked at.
    fn store(&self, body: &[u8], plan: &Plan) -> Vec<Status> {
        let mut lines = body.split(|&byte| byte == b'\n');
        let mut index = self.shared_index();
        let mut statuses = Vec::new();
        let whole = memchr::memchr_iter(b'\n', body).count() / 2;
        let limit = if matches!(plan, Plan::HalfStored) { whole / 2 } else { whole };
        while let (Some(action), Some(document)) = (lines.next(), lines.next()) {
            if statuses.len() == limit {
                break;
            }
            let too_many = plan.rejects_items() && {
                let mut faults = locked(&self.shared.faults);
                faults.rejects_item()
            };
            statuses.push(if too_many { Status::TooMany } else { index.create(action, document) });
        }
        drop(index);
        self.shared.grown.notify_all();
        for &status in &statuses {
            self.count(status.name(), 1);
        }
        statuses
    }

    fn shared_index(&self) -> MutexGuard<'_, Index> {
        locked(&self.shared.index)
    }

    fn count(&self, name: &'static str, by: u64) {
        let mut counts = locked(&self.shared.counts);
        *counts.entry(name).or_default() += by;
        let connections = counts.entry("connections").or_default();
        *connections = (*connections).max(self.number + 1);
    }
}

/// The answer's body, filtered as the shipper asks: `errors`, and each item's status and error.
fn rendered(items: &[Status], count: usize) -> Vec<u8> {
    let errors = items.iter().any(|status| status.error().is_some());
    let mut text = format!("{{\"errors\":{errors},\"items\":[").into_bytes();
    for (number, status) in items.iter().take(count).enumerate() {
        if number > 0 {
            text.push(b',');
        }
        let code = status.code();
        let item = match status.error() {
            None => format!("{{\"create\":{{\"status\":{code}}}}}"),
            Some(error) => format!(
                "{{\"create\":{{\"status\":{code},\"error\":{{\"type\":\"{error}\",\"reason\":\"because\"}}}}}}"
            ),
        };
        text.extend_from_slice(item.as_bytes());
    }
    text.extend_from_slice(b"]}");
    text
}

fn respond(writer: &mut TcpStream, status: u16, header: &str, body: &[u8]) -> io::Result<()> {
    let mut answer = format!(
        "HTTP/1.1 {status} Status\r\nX-elastic-product: Elasticsearch\r\n\
         Content-Type: application/json\r\n{header}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    writer.write_all(&answer)
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default();
    let is_bulk = path.split('?').next().is_some_and(|path| path.ends_with("/_bulk"));
    let mut head = Head { is_bulk, ..Head::default() };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some(head)) };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().map_err(io::Error::other)?,
            "content-encoding" => head.gzip = value.eq_ignore_ascii_case("gzip"),
            "transfer-encoding" | "expect" => return Err(io::Error::other("not spoken here")),
            _ => {}
        }
    }
}
