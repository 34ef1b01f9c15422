//! The floor: the least that any shipper must do with the same files, in a process of its own.
//!
//! Reads in big blocks, splits lines with `memchr`, strips the runtime's framing, joins the pieces
//! of cut lines, checks each line that begins with `{` for JSON, copies the content into a 4 MiB
//! body and sends it to the sink. Adds nothing, knows no pods, makes no ids, keeps no checkpoint;
//! asked to, it copies a text of a given length behind each line, which tells what bytes cost.
//! Works block by block, so that each part can be timed without a clock call per line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use splashdam::pipeline::gzip;
use splashdam::ship::response::FILTER_PATH;

use crate::process::thread_cpu;
use crate::validators::{Checker, Validator};

/// Read at once. `--parts` measures others.
const BLOCK_BYTES: usize = 256 * 1024;

/// As the agent's default `batch.size`.
const BODY_BYTES: usize = 4 * 1024 * 1024;

/// CPU time of each part, and what was done in it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Parts {
    pub(crate) read: Duration,
    pub(crate) split: Duration,
    pub(crate) frame: Duration,
    pub(crate) validate: Duration,
    pub(crate) copy: Duration,
    pub(crate) gzip: Duration,
    pub(crate) write: Duration,
    pub(crate) bytes: u64,
    /// Logical lines sent.
    pub(crate) lines: u64,
    pub(crate) json_lines: u64,
    pub(crate) requests: u64,
}

/// One logical line of the current block.
enum Content {
    Here {
        start: usize,
        end: usize,
    },
    /// Joined from pieces, at this place in `joined`.
    Joined(usize),
}

struct Floor {
    block: Vec<u8>,
    ends: Vec<usize>,
    contents: Vec<Content>,
    joined: Vec<Vec<u8>>,
    /// Pieces of a line that isn't complete, for stdout and stderr.
    open: [Vec<u8>; 2],
    body: Vec<u8>,
    /// What is copied behind each line.
    padding: Vec<u8>,
    checker: Checker,
    gzip: bool,
    sink: Connection,
    parts: Parts,
}

/// Ships `files` to `sink`, each line with `padding` bytes more.
pub(crate) fn run(
    files: &[PathBuf],
    sink: SocketAddr,
    gzip: bool,
    padding: usize,
    validator: Validator,
) -> io::Result<Parts> {
    let mut floor = Floor {
        block: vec![0; BLOCK_BYTES],
        ends: Vec::new(),
        contents: Vec::new(),
        joined: Vec::new(),
        open: [Vec::new(), Vec::new()],
        body: Vec::with_capacity(BODY_BYTES + BLOCK_BYTES),
        padding: vec![b' '; padding],
        checker: Checker::new(validator),
        gzip,
        sink: Connection::open(sink)?,
        parts: Parts::default(),
    };
    for path in files {
        floor.file(&mut File::open(path)?)?;
    }
    floor.send()?;
    Ok(floor.parts)
}

impl Floor {
    fn file(&mut self, file: &mut File) -> io::Result<()> {
        let mut filled = 0;
        loop {
            let start = thread_cpu();
            let read = file.read(&mut self.block[filled..])?;
            let after_read = thread_cpu();
            self.parts.read += after_read - start;
            if read == 0 {
                return Ok(());
            }
            self.parts.bytes += read as u64;
            filled += read;
            self.ends.clear();
            self.ends.extend(memchr::memchr_iter(b'\n', &self.block[..filled]));
            let after_split = thread_cpu();
            self.parts.split += after_split - after_read;
            self.frame();
            let after_frame = thread_cpu();
            self.parts.frame += after_frame - after_split;
            self.validate();
            self.parts.validate += thread_cpu() - after_frame;
            self.copy()?;
            let rest = self.ends.last().map_or(0, |end| end + 1);
            self.block.copy_within(rest..filled, 0);
            filled -= rest;
        }
    }

    /// `<time> <stdout|stderr> <P|F> <content>`
    fn frame(&mut self) {
        self.contents.clear();
        self.joined.clear();
        let mut line_start = 0;
        for &end in &self.ends {
            let line = &self.block[line_start..end];
            let time = memchr::memchr(b' ', line).unwrap_or(line.len());
            let content = (time + 10).min(line.len());
            let stream = usize::from(line.get(time + 4) == Some(&b'e'));
            let full = line.get(time + 8) != Some(&b'P');
            let open = &mut self.open[stream];
            if full && open.is_empty() {
                self.contents.push(Content::Here { start: line_start + content, end });
            } else {
                open.extend_from_slice(&line[content..]);
                if full {
                    self.contents.push(Content::Joined(self.joined.len()));
                    self.joined.push(std::mem::take(open));
                }
            }
            line_start = end + 1;
        }
    }

    fn validate(&mut self) {
        for content in &self.contents {
            let line = bytes_of(content, &self.block, &self.joined);
            if line.first() == Some(&b'{') && self.checker.is_json(line) {
                self.parts.json_lines += 1;
            }
        }
    }

    fn copy(&mut self) -> io::Result<()> {
        let mut start = thread_cpu();
        let contents = std::mem::take(&mut self.contents);
        for content in &contents {
            self.body.extend_from_slice(bytes_of(content, &self.block, &self.joined));
            self.body.extend_from_slice(&self.padding);
            self.body.push(b'\n');
            if self.body.len() >= BODY_BYTES {
                self.parts.copy += thread_cpu() - start;
                self.send()?;
                start = thread_cpu();
            }
        }
        self.parts.copy += thread_cpu() - start;
        self.parts.lines += contents.len() as u64;
        self.contents = contents;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        if self.body.is_empty() {
            return Ok(());
        }
        let start = thread_cpu();
        let packed = if self.gzip { Some(compress(&self.body)?) } else { None };
        let after_gzip = thread_cpu();
        self.sink.request(packed.as_deref().unwrap_or(&self.body), self.gzip)?;
        self.parts.gzip += after_gzip - start;
        self.parts.write += thread_cpu() - after_gzip;
        self.parts.requests += 1;
        self.body.clear();
        Ok(())
    }
}

fn bytes_of<'a>(content: &Content, block: &'a [u8], joined: &'a [Vec<u8>]) -> &'a [u8] {
    match *content {
        Content::Here { start, end } => &block[start..end],
        Content::Joined(index) => &joined[index],
    }
}

/// `body` as one gzip member.
pub(crate) fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(body.len() / 4);
    let mut encoder = GzEncoder::new(room, Compression::new(gzip::LEVEL));
    encoder.write_all(body)?;
    encoder.finish()
}

/// One kept-alive connection to the sink.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    fn open(sink: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(sink)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: vec![0; BLOCK_BYTES] })
    }

    fn request(&mut self, body: &[u8], gzip: bool) -> io::Result<()> {
        let encoding = if gzip { "Content-Encoding: gzip\r\n" } else { "" };
        let head = format!(
            "POST /fluentd/_bulk?{FILTER_PATH} HTTP/1.1\r\nHost: sink\r\n\
             Content-Type: application/x-ndjson\r\n\
             {encoding}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        self.read_answer()
    }

    /// Reads one answer whole, as the agent must.
    fn read_answer(&mut self) -> io::Result<()> {
        let mut filled = 0;
        let head = loop {
            let read = self.stream.read(&mut self.answer[filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(at) = memchr::memmem::find(&self.answer[..filled], b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&self.answer[..head]).into_owned();
        let length: usize = (text.lines())
            .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
            .ok_or_else(|| io::Error::other("the sink gave no length"))?;
        let mut left = (head + length).saturating_sub(filled);
        while left > 0 {
            let room = left.min(self.answer.len());
            let read = self.stream.read(&mut self.answer[..room])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
        }
        Ok(())
    }
}
