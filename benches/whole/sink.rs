//! A sink that only counts: as much of Elasticsearch's bulk API as a shipper needs, in a process
//! of its own, so that its cost is nobody else's.
//!
//! [`serve`] is the process: it prints its port, answers `report` on standard input with one line
//! of JSON, and ends with its standard input. [`Sink`] is the other side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{ServerConfig, StreamOwned};

use crate::process::spawn_on;
use crate::progress::{self, Progress, Run};
use crate::{api, tls};

/// What the sink does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Behaviour {
    /// Counts and answers.
    Count,
    /// Also measures how old each document is that carries `log_seq`.
    Stamp,
    /// Counts and answers, over TLS.
    Tls,
    /// Also notes how far it has got with each stream.
    Follow,
    /// Takes connections and never answers.
    Hang,
}

/// What the sink has seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    /// Line feeds in all bodies, uncompressed.
    pub(crate) lines: u64,
    pub(crate) wire_bytes: u64,
    /// When the head of the first bulk request was complete, nanoseconds since the epoch.
    pub(crate) first_ns: Option<u64>,
    /// From `time` of a document until its request was there whole, microseconds, sorted.
    pub(crate) ages_us: Vec<u64>,
    pub(crate) progress: Progress,
}

/// An item of a document that was created: as asked for by `filter_path`, or with more.
const STATUS_ONLY: &[u8] = br#"{"create":{"status":201}}"#;
const ITEM: &[u8] = br#"{"create":{"_index":"fluentd","status":201}}"#;
const ROOT: &str = r#"{"name":"sink","cluster_name":"sink","version":{"number":"8.19.0","build_flavor":"default"},"tagline":"You Know, for Search"}"#;

/// Runs the sink until standard input ends. With `pods`, a list, it is the API server too.
pub(crate) fn serve(behaviour: Behaviour, pods: Option<PathBuf>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    let tls = if behaviour == Behaviour::Tls { Some(tls::server()?) } else { None };
    let server = Arc::new(Server { behaviour, pods, tls, report: Mutex::default() });
    let accepting = Arc::clone(&server);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = Arc::clone(&accepting);
            // A connection that breaks is the client's to notice.
            std::thread::spawn(move || drop(server.accept(stream)));
        }
    });
    for _ in io::stdin().lines() {
        let mut now = server.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        now.ages_us.sort_unstable();
        writeln!(out, "{}", serde_json::to_string(&now)?)?;
        out.flush()?;
    }
    Ok(())
}

/// What connections have in common.
struct Server {
    behaviour: Behaviour,
    pods: Option<PathBuf>,
    tls: Option<Arc<ServerConfig>>,
    report: Mutex<Report>,
}

/// The head of a request, as far as it matters.
struct Head {
    /// Path and query.
    target: String,
    length: Option<u64>,
    gzip: bool,
    wants_continue: bool,
}

impl Head {
    fn is_bulk(&self) -> bool {
        self.target.split('?').next().is_some_and(|path| path.ends_with("/_bulk"))
    }

    /// Whether the query's `filter_path` leaves nothing but the status of an item without error.
    fn wants_status_only(&self) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let paths = query.split('&').find_map(|part| part.strip_prefix("filter_path="));
        let named = |path| paths.is_some_and(|paths| paths.split(',').any(|one| one == path));
        named("items.*.status") && !named("items.*._index")
    }
}

impl Server {
    fn accept(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.connection(stream),
            Some(tls) => self.connection(StreamOwned::new(tls::connection(tls)?, stream)),
        }
    }

    fn connection(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(256 * 1024, stream);
        let mut answer = Vec::new();
        let mut plain_body = Vec::new();
        while let Some(head) = read_head(&mut stream)? {
            let now = now_ns();
            if let Some(pods) = &self.pods
                && api::is_for_pods(&head.target)
            {
                api::answer(stream.get_mut(), &head.target, pods)?;
                continue;
            }
            if self.behaviour == Behaviour::Hang {
                io::copy(&mut stream, &mut io::sink())?;
                return Ok(());
            }
            if head.wants_continue {
                stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let length = head.length.unwrap_or(0);
            let mut body = stream.by_ref().take(length);
            answer.clear();
            if !head.is_bulk() {
                io::copy(&mut body, &mut io::sink())?;
                answer.extend_from_slice(ROOT.as_bytes());
                respond(stream.get_mut(), &answer)?;
                continue;
            }
            let mut seen = Report { requests: 1, wire_bytes: length, ..Report::default() };
            let mut plain: Box<dyn Read> =
                if head.gzip { Box::new(MultiGzDecoder::new(body)) } else { Box::new(body) };
            let mut runs = Vec::new();
            match self.behaviour {
                Behaviour::Stamp => {
                    plain_body.clear();
                    plain.read_to_end(&mut plain_body)?;
                    stamp(&plain_body, now_ns(), &mut seen);
                }
                Behaviour::Follow => {
                    plain_body.clear();
                    plain.read_to_end(&mut plain_body)?;
                    seen.lines = memchr::memchr_iter(b'\n', &plain_body).count() as u64;
                    runs = progress::runs(&plain_body);
                }
                _ => seen.lines = count_lines(&mut plain)?,
            }
            drop(plain);
            put_items(&mut answer, seen.lines / 2, head.wants_status_only());
            self.add(seen, runs, now);
            respond(stream.get_mut(), &answer)?;
        }
        Ok(())
    }

    fn add(&self, seen: Report, runs: Vec<Run>, now: u64) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.requests += seen.requests;
        report.lines += seen.lines;
        report.wire_bytes += seen.wire_bytes;
        report.first_ns.get_or_insert(now);
        report.ages_us.extend(seen.ages_us);
        report.progress.add(runs);
    }
}

fn count_lines(body: &mut dyn Read) -> io::Result<u64> {
    let mut buffer = vec![0; 128 * 1024];
    let mut lines = 0;
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
    }
}

/// The ages of the numbered documents of a body.
fn stamp(body: &[u8], now: u64, seen: &mut Report) {
    #[derive(Deserialize)]
    struct Document {
        time: Option<String>,
        log_seq: Option<u64>,
    }
    seen.lines = memchr::memchr_iter(b'\n', body).count() as u64;
    for line in body.split(|byte| *byte == b'\n').skip(1).step_by(2) {
        let Ok(Document { time: Some(time), log_seq: Some(_) }) = serde_json::from_slice(line)
        else {
            continue;
        };
        let Some(written) = nanos_of(&time) else { continue };
        seen.ages_us.push(now.saturating_sub(written) / 1000);
    }
}

/// Nanoseconds since the epoch of `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`.
fn nanos_of(time: &str) -> Option<u64> {
    let time: k8s_openapi::jiff::Timestamp = time.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut head = Head { target, length: None, gzip: false, wants_continue: false };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.trim().parse().ok(),
            "content-encoding" => head.gzip = value.trim().eq_ignore_ascii_case("gzip"),
            "expect" => head.wants_continue = true,
            "transfer-encoding" => {
                return Err(io::Error::other("the sink takes bodies of a stated length only"));
            }
            _ => {}
        }
    }
    Ok(Some(head))
}

fn put_items(answer: &mut Vec<u8>, items: u64, status_only: bool) {
    let (head, item): (&[u8], _) = if status_only {
        (br#"{"errors":false,"items":["#, STATUS_ONLY)
    } else {
        (br#"{"took":1,"errors":false,"items":["#, ITEM)
    };
    answer.extend_from_slice(head);
    for index in 0..items {
        if index > 0 {
            answer.push(b',');
        }
        answer.extend_from_slice(item);
    }
    answer.extend_from_slice(b"]}");
}

fn respond(stream: &mut impl Write, answer: &[u8]) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nX-elastic-product: Elasticsearch\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        answer.len()
    )?;
    stream.write_all(answer)?;
    stream.flush()
}

pub(crate) fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A running sink.
pub(crate) struct Sink {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Sink {
    /// Starts this program again as a sink on `cores`.
    pub(crate) fn start(behaviour: Behaviour, cores: &[usize]) -> io::Result<Self> {
        Self::start_with(behaviour, cores, None)
    }

    /// The same; it also tells who asks the pods of the tree in `logs`.
    pub(crate) fn start_with(
        behaviour: Behaviour,
        cores: &[usize],
        logs: Option<&Path>,
    ) -> io::Result<Self> {
        let name = clap::ValueEnum::to_possible_value(&behaviour);
        let name = name.ok_or_else(|| io::Error::other("a hidden behaviour"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--role", "sink", "--behaviour", name.get_name()]);
        if let Some(logs) = logs {
            command.arg("--logs").arg(logs);
        }
        let mut child = spawn_on(command.stdin(Stdio::piped()).stdout(Stdio::piped()), cores)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the sink has no pipes"));
        };
        let mut output = BufReader::new(output);
        let mut port = String::new();
        output.read_line(&mut port)?;
        let port: u16 = port.trim().parse().map_err(io::Error::other)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self { child, input: Some(input), output, address })
    }

    pub(crate) fn report(&mut self) -> io::Result<Report> {
        let Some(input) = &mut self.input else { return Ok(Report::default()) };
        input.write_all(b"report\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.input = None;
        // It ends with its input; there is nothing to do about a sink that can't be waited for.
        drop(self.child.wait());
    }
}
