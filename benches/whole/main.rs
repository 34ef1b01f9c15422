//! The whole way, measured as the budget defines it: `benches/README.md` says how to run each row.
//!
//! This program is three: the one that measures, and, started again by it, the floor and the
//! counting sink, so that each one's CPU time is its own. Without `--bench`, which `cargo bench`
//! passes, it only checks that the floor and the sink agree on a small tree.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "rows are printed for people")]

mod api;
mod fair;
mod flat;
mod floor;
mod modes;
mod parts;
mod process;
mod progress;
mod setup;
mod sink;
mod start;
mod tls;
mod validators;
mod variants;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

use setup::{Logs, Shape};
use sink::Behaviour;
use validators::Validator;

#[derive(Debug, Parser)]
struct Arguments {
    /// Bytes of log files: 64MiB, 1GiB. The default depends on the row.
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Container logs. The default depends on the row.
    #[arg(long)]
    streams: Option<usize>,
    /// Folder of captured lines.
    #[arg(long, default_value = "tests/fixtures/ecs")]
    raw: PathBuf,
    /// Compress requests, in the agent and in the floor.
    #[arg(long)]
    gzip: bool,
    /// Two: measure the speed-up of a second thread. The default is one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    threads: u8,
    /// How long to measure, for rows that take a time.
    #[arg(long)]
    seconds: Option<u64>,
    /// Lines per second in all, for `--latency`.
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// `batch.linger` in milliseconds, for `--latency`.
    #[arg(long, default_value_t = 1000)]
    linger_ms: u64,

    /// CPU of the agent with 500 quiet streams.
    #[arg(long, group = "row")]
    idle: bool,
    /// Memory of the agent with a dead output.
    #[arg(long, group = "row")]
    dead: bool,
    /// From a line written to its request received.
    #[arg(long, group = "row")]
    latency: bool,
    /// From the start of the agent to its first request, without a checkpoint and with one.
    #[arg(long, group = "row")]
    start: bool,
    /// CPU of filters, forms and transports against the default.
    #[arg(long, group = "row")]
    variants: bool,
    /// How evenly a backlog of many streams is shipped.
    #[arg(long, group = "row")]
    fair: bool,
    /// Memory of the agent while files are written and rotated for long.
    #[arg(long, group = "row")]
    flat: bool,
    /// Let the floor write as many bytes as the agent: each line with as many more as a document has
    /// on average.
    #[arg(long, conflicts_with_all = ["gzip", "row"])]
    as_many_bytes: bool,
    /// The floor alone.
    #[arg(long, group = "row")]
    floor: bool,
    /// Alternatives for each part of the floor.
    #[arg(long, group = "row")]
    parts: bool,

    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is for the one that measures.
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true, default_value = "count")]
    behaviour: Behaviour,
    #[arg(long, hide = true, default_value = "sonic-lazy")]
    validator: Validator,
    /// Bytes that the floor copies behind each line.
    #[arg(long, hide = true, default_value_t = 0)]
    padding: usize,
    #[arg(long, hide = true)]
    logs: Option<PathBuf>,
    #[arg(long, hide = true)]
    sink: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Floor,
    Sink,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `true` if the row holds.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    match arguments.role {
        Some(Role::Sink) => {
            let pods = arguments.logs.as_ref().map(|logs| logs.join("pods.json"));
            sink::serve(arguments.behaviour, pods).map(|()| true).map_err(Into::into)
        }
        Some(Role::Floor) => run_as_floor(arguments).map(|()| true),
        None if arguments.bench => measure(arguments),
        None => check(arguments),
    }
}

fn run_as_floor(arguments: &Arguments) -> anyhow::Result<()> {
    let (Some(folder), Some(sink)) = (&arguments.logs, arguments.sink) else {
        bail!("the floor needs --logs and --sink");
    };
    let logs = Logs { folder: folder.clone(), bytes: 0, lines: 0 };
    let parts =
        floor::run(&logs.files()?, sink, arguments.gzip, arguments.padding, arguments.validator)?;
    println!("{}", serde_json::to_string(&parts)?);
    Ok(())
}

fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let shape = |streams: usize, bytes: u64| Shape {
        captures: arguments.raw.clone(),
        streams: arguments.streams.unwrap_or(streams),
        bytes: arguments.size.unwrap_or(bytes),
    };
    let time = |seconds: u64| Duration::from_secs(arguments.seconds.unwrap_or(seconds));
    let (whole, gzip) = (shape(8, 1 << 30), arguments.gzip);
    match arguments {
        Arguments { idle: true, .. } => modes::idle(&shape(500, 32 << 20), time(60)),
        Arguments { dead: true, .. } => modes::dead(&shape(500, 2 << 30), time(45)),
        Arguments { latency: true, rate, linger_ms, .. } => {
            let linger = Duration::from_millis(*linger_ms);
            modes::latency(&shape(8, 0), time(30), (*rate).max(1), linger)
        }
        Arguments { start: true, .. } => start::run(&shape(500, 5 << 30)),
        Arguments { variants: true, .. } => variants::run(&shape(8, 512 << 20)),
        Arguments { fair: true, .. } => fair::run(&shape(500, 1 << 30)),
        Arguments { flat: true, .. } => flat::run(&shape(50, 8 << 30)),
        Arguments { floor: true, .. } => modes::floor(&whole, gzip),
        Arguments { parts: true, .. } => {
            parts::print(&whole.prepare()?, &arguments.raw).map(|()| true)
        }
        Arguments { threads: 2, .. } => modes::threads(&whole, gzip),
        Arguments { as_many_bytes: true, .. } => modes::whole_of_as_many_bytes(&whole),
        _ => modes::whole(&whole, gzip),
    }
}

/// The floor and the sink see every line of a small tree, plain and compressed.
fn check(arguments: &Arguments) -> anyhow::Result<bool> {
    let shape = Shape { captures: arguments.raw.clone(), streams: 3, bytes: 4 << 20 };
    Ok(modes::floor(&shape, false)? && modes::floor(&shape, true)?)
}

/// `64MiB`, `1GiB`, `1000`.
fn parse_size(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => bail!("unknown unit `{unit}`; write a size as 64MiB or 1GiB"),
    };
    let number: u64 = digits.parse().context("write a size as 64MiB or 1GiB")?;
    number.checked_mul(unit).context("too large")
}
