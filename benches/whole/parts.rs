//! Alternatives for each part of the floor, measured side by side: the floor uses the winner.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress};
use splashdam::pipeline::gzip;

use crate::floor::compress;
use crate::process::{cores, thread_cpu};
use crate::setup::{Logs, captured_lines};
use crate::sink::{Behaviour, Sink};
use crate::validators;

/// Each alternative is measured this often; the best counts.
const ROUNDS: usize = 5;

/// Prints one table per part, the fastest first. `*` marks what the floor does.
pub(crate) fn print(logs: &Logs, captures: &Path) -> anyhow::Result<()> {
    let files = logs.files()?;
    ensure!(!files.is_empty(), "the tree has no files");
    let file = &files[0];
    let mut bytes = Vec::new();
    File::open(file)?.take(64 << 20).read_to_end(&mut bytes)?;
    read(file)?;
    split(&bytes);
    validate(captures)?;
    copy(&bytes);
    gzip(&bytes)?;
    write(&bytes)
}

fn table(part: &str, bytes: usize, mut rows: Vec<(String, Duration)>) {
    rows.sort_by_key(|(_, cpu)| *cpu);
    for (name, cpu) in rows {
        let speed = bytes as f64 / 1e9 / cpu.as_secs_f64();
        println!("{part:<9} {name:<24} {speed:8.2} GB/s");
    }
}

fn best(mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = thread_cpu();
        run()?;
        best = best.min(thread_cpu() - start);
    }
    Ok(best)
}

fn quick(mut run: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = thread_cpu();
        run();
        best = best.min(thread_cpu() - start);
    }
    best
}

fn read(path: &Path) -> anyhow::Result<()> {
    let length = usize::try_from(std::fs::metadata(path)?.len())?.min(256 << 20);
    let mut rows = Vec::new();
    for (name, block) in [
        ("64 KiB", 64 << 10),
        ("128 KiB", 128 << 10),
        ("256 KiB *", 256 << 10),
        ("1 MiB", 1 << 20),
        ("4 MiB", 4 << 20),
    ] {
        let mut buffer = vec![0; block];
        let cpu = best(|| {
            let mut file = File::open(path)?.take(length as u64);
            while file.read(black_box(&mut buffer))? > 0 {}
            Ok(())
        })?;
        rows.push((name.to_owned(), cpu));
    }
    table("read", length, rows);
    Ok(())
}

fn split(bytes: &[u8]) {
    let mut ends = Vec::with_capacity(1 << 20);
    let iter = quick(|| {
        for block in bytes.chunks(256 << 10) {
            ends.clear();
            ends.extend(memchr::memchr_iter(b'\n', black_box(block)));
        }
    });
    let calls = quick(|| {
        for block in bytes.chunks(256 << 10) {
            ends.clear();
            let mut at = 0;
            while let Some(next) = memchr::memchr(b'\n', black_box(&block[at..])) {
                ends.push(at + next);
                at += next + 1;
            }
        }
    });
    let plain = quick(|| {
        for block in bytes.chunks(256 << 10) {
            ends.clear();
            ends.extend((0..block.len()).filter(|at| block[*at] == b'\n'));
        }
    });
    let mut line = Vec::new();
    let buffered = quick(|| {
        let mut reader = BufReader::with_capacity(256 << 10, bytes);
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            black_box(&line);
            line.clear();
        }
    });
    table(
        "split",
        bytes.len(),
        vec![
            ("memchr_iter *".to_owned(), iter),
            ("memchr per line".to_owned(), calls),
            ("byte by byte".to_owned(), plain),
            ("read_until (copies)".to_owned(), buffered),
        ],
    );
}

fn validate(captures: &Path) -> anyhow::Result<()> {
    let lines = captured_lines(captures)?;
    let json: Vec<&[u8]> =
        lines.iter().map(Vec::as_slice).filter(|line| line.first() == Some(&b'{')).collect();
    let bytes = json.iter().map(|line| line.len()).sum();
    let scores = validators::compare(&json);
    let rows = (scores.iter().enumerate())
        .map(|(place, score)| {
            let mark = if place == 0 { " *" } else { "" };
            (format!("{}{mark}", score.validator.name()), score.cpu)
        })
        .collect();
    table("validate", bytes, rows);
    Ok(())
}

fn copy(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let mut body = Vec::with_capacity(5 << 20);
    let extend = quick(|| {
        for line in &lines {
            body.extend_from_slice(black_box(line));
            if body.len() >= 4 << 20 {
                black_box(&mut body);
                body.clear();
            }
        }
        black_box(&mut body);
        body.clear();
    });
    let mut room = vec![0; 5 << 20];
    let slices = quick(|| {
        let mut at = 0;
        for line in &lines {
            room[at..at + line.len()].copy_from_slice(black_box(line));
            at += line.len();
            if at >= 4 << 20 {
                // Without this the copies are found to be of no use and left out.
                black_box(&mut room);
                at = 0;
            }
        }
        black_box(&mut room);
    });
    let rows =
        vec![("extend_from_slice *".to_owned(), extend), ("copy_from_slice".to_owned(), slices)];
    table("copy", bytes.len(), rows);
}

fn gzip(bytes: &[u8]) -> anyhow::Result<()> {
    let bodies: Vec<&[u8]> = bytes.chunks(4 << 20).take(4).collect();
    let length = bodies.iter().map(|body| body.len()).sum();
    let fresh = best(|| {
        for body in &bodies {
            black_box(compress(body)?);
        }
        Ok(())
    })?;
    let mut state = Compress::new(Compression::new(gzip::LEVEL), true);
    let reused = best(|| {
        for body in &bodies {
            state.reset();
            let mut out = Vec::with_capacity(body.len());
            state.compress_vec(body, &mut out, FlushCompress::Finish)?;
            black_box(out);
        }
        Ok(())
    })?;
    let pieces = best(|| {
        for body in &bodies {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(gzip::LEVEL));
            for piece in body.chunks(64 << 10) {
                encoder.write_all(piece)?;
            }
            black_box(encoder.finish()?);
        }
        Ok(())
    })?;
    let rows = vec![
        ("a body at once *".to_owned(), fresh),
        ("state used again, zlib".to_owned(), reused),
        ("64 KiB pieces".to_owned(), pieces),
    ];
    table("gzip", length, rows);
    Ok(())
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let sink = Sink::start(Behaviour::Count, &cores()?)?;
    let body = &bytes[..bytes.len().min(4 << 20)];
    let head = format!("POST /_bulk HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut rows = Vec::new();
    for (name, way) in [
        (
            "write_all twice *",
            write_twice as fn(&mut TcpStream, &[u8], &[u8]) -> std::io::Result<()>,
        ),
        ("write_vectored", write_vectored),
        ("64 KiB pieces", write_pieces),
    ] {
        let mut stream = TcpStream::connect(sink.address)?;
        stream.set_nodelay(true)?;
        let mut answer = vec![0; 1 << 20];
        let cpu = best(|| {
            for _ in 0..8 {
                way(&mut stream, head.as_bytes(), body)?;
                let mut filled = 0;
                while !answer[..filled].ends_with(b"]}") {
                    let read = stream.read(&mut answer[filled..])?;
                    ensure!(read > 0, "the sink closed the connection");
                    filled += read;
                }
            }
            Ok(())
        })?;
        rows.push((name.to_owned(), cpu));
    }
    table("write", body.len() * 8, rows);
    Ok(())
}

fn write_twice(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    stream.write_all(head)?;
    stream.write_all(body)
}

fn write_vectored(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let written = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
    match written.checked_sub(head.len()) {
        Some(of_body) => stream.write_all(&body[of_body..]),
        None => write_twice(stream, &head[written..], body),
    }
}

fn write_pieces(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    stream.write_all(head)?;
    body.chunks(64 << 10).try_for_each(|piece| stream.write_all(piece))
}
