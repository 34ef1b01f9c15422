//! One function per row of the budget: sets up, measures, prints one row, says whether it holds.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;
use splashdam::demo::tree::{Captures, Tree};

use crate::floor::Parts;
use crate::process::{Finished, Running, cores, cpu_of_threads, memory, run_on, wait, wait_until};
use crate::setup::{AgentFiles, AgentOptions, Logs, Shape, captured_lines, gib, mib};
use crate::sink::{Behaviour, Sink, now_ns};
use crate::validators::{self, Validator};

/// The limits of the budget.
const RATIO_MAX: f64 = 1.7;
const SPEED_UP_MIN: f64 = 1.8;
const MEMORY_OVER_BUDGET_MAX: u64 = 32 << 20;
const BUDGET: u64 = 64 << 20;
const IDLE_SHARE_MAX: f64 = 0.002;
const LATENCY_OVER_LINGER_MAX: Duration = Duration::from_millis(50);

/// How often two things that are compared take turns: enough for a median that a machine with other
/// guests does not move much.
pub(crate) const PAIRS: usize = 7;

/// The agent's core, or cores, and the sink's.
#[derive(Debug, Clone)]
pub(crate) struct Cores {
    pub(crate) worker: Vec<usize>,
    pub(crate) other: Vec<usize>,
}

impl Cores {
    /// `count` cores for what is measured, another for the rest if there is one.
    pub(crate) fn split(count: usize) -> anyhow::Result<Self> {
        let all = cores()?;
        let (worker, other) = all.split_at(count.min(all.len()));
        let other = if other.is_empty() { all.clone() } else { other.to_vec() };
        Ok(Self { worker: worker.to_vec(), other })
    }
}

/// The part of the agent's summary that is checked.
#[derive(Debug, Deserialize)]
pub(crate) struct Summary {
    pub(crate) lines_read: u64,
    lines_refused: u64,
    pub(crate) lines_filtered: u64,
    #[serde(default)]
    bytes_unfinished: u64,
}

impl Summary {
    /// Whether it accounts for `logs`. A record that the end of a file leaves open may be left
    /// for later, but only a thousandth of all.
    fn covers(&self, logs: &Logs) -> bool {
        let all = self.lines_read == logs.lines;
        let all_but_open = (1..=logs.bytes / 1000).contains(&self.bytes_unfinished);
        self.lines_refused == 0 && (all || all_but_open)
    }
}

/// One run of the agent to its end.
pub(crate) struct AgentRun {
    pub(crate) finished: Finished,
    pub(crate) summary: Summary,
}

/// Runs the agent over the whole tree, with a state that knows nothing.
pub(crate) fn run_agent(
    logs: &Logs,
    options: &AgentOptions,
    cores: &Cores,
) -> anyhow::Result<AgentRun> {
    let run = run_once(&AgentFiles::write(&logs.folder, options)?, cores)?;
    let summary = &run.summary;
    ensure!(summary.covers(logs), "the tree has {} lines, the agent says {summary:?}", logs.lines);
    Ok(run)
}

/// Runs the agent on what its state leaves to do.
pub(crate) fn run_once(files: &AgentFiles, cores: &Cores) -> anyhow::Result<AgentRun> {
    let mut command = files.command(&["--once", "--deadline", "10m"])?;
    let finished = run_on(&mut command, &cores.worker).context("cannot start the agent")?;
    ensure!(finished.success, "the agent failed:\n{}", files.log());
    let summary: Summary = serde_json::from_str(finished.stdout.trim())
        .with_context(|| format!("the agent's summary is odd: {}", finished.stdout))?;
    Ok(AgentRun { finished, summary })
}

/// One run of the floor over the whole tree.
pub(crate) struct FloorRun {
    pub(crate) finished: Finished,
    pub(crate) parts: Parts,
}

pub(crate) fn run_floor(
    logs: &Logs,
    sink: &Sink,
    gzip: bool,
    padding: usize,
    validator: Validator,
    cores: &Cores,
) -> anyhow::Result<FloorRun> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", "floor", "--validator", validator.name()]);
    command.arg("--logs").arg(&logs.folder).args(["--sink", &sink.address.to_string()]);
    command.args(["--padding", &padding.to_string()]);
    if gzip {
        command.arg("--gzip");
    }
    let finished = run_on(&mut command, &cores.worker)?;
    ensure!(finished.success, "the floor failed");
    let parts = serde_json::from_str(finished.stdout.trim())?;
    Ok(FloorRun { finished, parts })
}

/// The fastest validator on the captures' JSON lines; prints them all.
pub(crate) fn fastest_validator(captures: &std::path::Path) -> anyhow::Result<Validator> {
    let lines = captured_lines(captures)?;
    let json: Vec<&[u8]> =
        lines.iter().map(Vec::as_slice).filter(|line| line.first() == Some(&b'{')).collect();
    let scores = validators::compare(&json);
    let bytes: usize = json.iter().map(|line| line.len()).sum();
    let speeds: Vec<_> = (scores.iter())
        .map(|score| (score.validator.name(), bytes as f64 / 1e9 / score.cpu.as_secs_f64()))
        .map(|(name, speed)| format!("{name} {speed:.2}"))
        .collect();
    println!("validators, GB/s: {}", speeds.join(", "));
    Ok(scores.first().context("no validator agrees with serde_json")?.validator)
}

/// The median of what the second of each pair is to the first: a machine that changes its speed
/// changes both.
pub(crate) fn median_ratio(pairs: &[(f64, f64)]) -> f64 {
    median(pairs.iter().map(|(base, other)| other / base).collect())
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

pub(crate) fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "MISSED" }
}

/// The whole way against the floor: pairs in turn, the median of their ratios.
pub(crate) fn whole(shape: &Shape, gzip: bool) -> anyhow::Result<bool> {
    let ratio = against_floor(shape, gzip, false)?;
    println!("must <= {RATIO_MAX}: {}", verdict(ratio <= RATIO_MAX));
    Ok(ratio <= RATIO_MAX)
}

/// The same against a floor that writes as many bytes as the agent. No bound: it tells how much of
/// the ratio comes from documents that are longer than their lines.
pub(crate) fn whole_of_as_many_bytes(shape: &Shape) -> anyhow::Result<bool> {
    against_floor(shape, false, true).map(|_| true)
}

fn against_floor(shape: &Shape, gzip: bool, as_many_bytes: bool) -> anyhow::Result<f64> {
    let logs = shape.prepare()?;
    let cores = Cores::split(1)?;
    let mut sink = Sink::start(Behaviour::Count, &cores.other)?;
    let validator = fastest_validator(&shape.captures)?;
    let mut options = AgentOptions::new(format!("http://{}", sink.address));
    options.gzip = gzip;
    let mut padding = 0;
    if as_many_bytes {
        run_agent(&logs, &options, &cores)?;
        let agent_bytes = sink.report()?.wire_bytes;
        let lines = run_floor(&logs, &sink, gzip, 0, validator, &cores)?.parts.lines;
        let floor_bytes = sink.report()?.wire_bytes - agent_bytes;
        padding = usize::try_from(agent_bytes.saturating_sub(floor_bytes) / lines.max(1))?;
        println!(
            "requests: {:.2} GiB of the agent, {:.2} GiB of the floor and {padding} bytes a line",
            gib(agent_bytes),
            gib(floor_bytes)
        );
    }
    let (mut floors, mut agents) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        floors.push(run_floor(&logs, &sink, gzip, padding, validator, &cores)?);
        agents.push(run_agent(&logs, &options, &cores)?.finished);
    }
    let size = gib(logs.bytes);
    let per_gib = |run: &Finished| run.cpu.as_secs_f64() / size;
    let pairs = floors.iter().zip(&agents).map(|(floor, agent)| (&floor.finished, agent));
    let pairs: Vec<_> = pairs.map(|(floor, agent)| (per_gib(floor), per_gib(agent))).collect();
    let ratio = median_ratio(&pairs);
    let floor = median(pairs.iter().map(|(floor, _)| *floor).collect());
    let agent = median(pairs.iter().map(|(_, agent)| *agent).collect());
    let wall = median(agents.iter().map(|run| run.wall.as_secs_f64()).collect());
    let peak = agents.iter().map(|run| run.peak_bytes).max().unwrap_or(0);
    print_parts(&floors[1].parts, validator);
    let shown: Vec<_> = (pairs.iter())
        .map(|(floor, agent)| format!("{agent:.2} / {floor:.2} = {:.2}", agent / floor))
        .collect();
    println!("pairs of agent and floor, s/GiB: {}", shown.join(", "));
    println!(
        "{} {size:.2} GiB, {} streams: agent {agent:.2} s/GiB, \
         {:.0} lines/s, peak {:.0} MiB; floor {floor:.2} s/GiB; median ratio {ratio:.2}",
        if gzip { "gzip " } else { "plain" },
        shape.streams,
        logs.lines as f64 / wall,
        mib(peak),
    );
    ensure!(sink.report()?.requests > 0, "the sink saw no request");
    Ok(ratio)
}

/// The floor alone, once.
pub(crate) fn floor(shape: &Shape, gzip: bool) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    let cores = Cores::split(1)?;
    let mut sink = Sink::start(Behaviour::Count, &cores.other)?;
    let validator = fastest_validator(&shape.captures)?;
    let run = run_floor(&logs, &sink, gzip, 0, validator, &cores)?;
    let lines = sink.report()?.lines;
    ensure!(run.parts.lines == lines, "the sink saw {lines} of {} lines", run.parts.lines);
    ensure!(lines == logs.lines, "the tree has {} lines, the floor sent {lines}", logs.lines);
    ensure!(run.parts.bytes == logs.bytes, "the floor read {} bytes", run.parts.bytes);
    print_parts(&run.parts, validator);
    let size = gib(logs.bytes);
    println!(
        "floor {} {size:.2} GiB: {:.2} s/GiB",
        if gzip { "gzip" } else { "plain" },
        run.finished.cpu.as_secs_f64() / size,
    );
    Ok(true)
}

fn print_parts(parts: &Parts, validator: Validator) {
    let size = gib(parts.bytes);
    let each = |time: Duration| time.as_secs_f64() / size;
    println!(
        "floor, s/GiB: read {:.3}, split {:.3}, frame {:.3}, validate ({}) {:.3}, copy {:.3}, \
         gzip {:.3}, write {:.3}",
        each(parts.read),
        each(parts.split),
        each(parts.frame),
        validator.name(),
        each(parts.validate),
        each(parts.copy),
        each(parts.gzip),
        each(parts.write),
    );
}

/// Two threads on two cores against one on one.
pub(crate) fn threads(shape: &Shape, gzip: bool) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    if cores()?.len() < 4 {
        println!("threads: fewer than 4 cores here, so the sink takes from what is measured");
    }
    let two = Cores::split(2)?;
    let one = Cores { worker: two.worker[..1].to_vec(), other: two.other.clone() };
    let sink = Sink::start(Behaviour::Count, &two.other)?;
    let (mut walls_one, mut walls_two) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for (threads, cores, walls) in [(1, &one, &mut walls_one), (2, &two, &mut walls_two)] {
            let mut options = AgentOptions::new(format!("http://{}", sink.address));
            options.gzip = gzip;
            options.threads = threads;
            walls.push(run_agent(&logs, &options, cores)?.finished.wall.as_secs_f64());
        }
    }
    let (one, two) = (median(walls_one), median(walls_two));
    let speed_up = one / two;
    println!(
        "threads {:.2} GiB: {one:.2} s with one, {two:.2} s with two, {speed_up:.2} times as fast \
         (must >= {SPEED_UP_MIN}: {})",
        gib(logs.bytes),
        verdict(speed_up >= SPEED_UP_MIN)
    );
    Ok(speed_up >= SPEED_UP_MIN)
}

pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

pub(crate) fn scrape(port: u16) -> std::io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until the sink has seen something and then nothing for `quiet`.
fn wait_for_quiet(sink: &mut Sink, agent: &Running, quiet: Duration) -> anyhow::Result<()> {
    let (mut lines, mut since) = (0, Instant::now());
    let deadline = Instant::now() + Duration::from_secs(120);
    while lines == 0 || since.elapsed() < quiet {
        ensure!(Instant::now() < deadline, "nothing reached the sink in two minutes");
        ensure!(!agent.has_ended()?, "the agent ended by itself");
        let now = sink.report()?.lines;
        if now != lines {
            (lines, since) = (now, Instant::now());
        }
        wait(Duration::from_millis(200));
    }
    Ok(())
}

/// Quiet streams that have been shipped: what is still used, metrics scraped every five seconds.
pub(crate) fn idle(shape: &Shape, time: Duration) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    let cores = Cores::split(1)?;
    let mut sink = Sink::start(Behaviour::Count, &cores.other)?;
    let port = free_port()?;
    let mut options = AgentOptions::new(format!("http://{}", sink.address));
    options.telemetry_port = Some(port);
    let files = AgentFiles::write(&logs.folder, &options)?;
    let agent = Running::start(&mut files.command(&[])?, &cores.worker)?;
    wait_for_quiet(&mut sink, &agent, Duration::from_secs(5)).with_context(|| files.log())?;
    let (start, cpu) = (Instant::now(), cpu_of_threads(agent.pid)?);
    let mut next = start;
    while start.elapsed() < time {
        next += Duration::from_secs(5).min(time);
        wait_until(next);
        scrape(port).context("cannot scrape the agent's metrics")?;
    }
    let used = cpu_of_threads(agent.pid)?.saturating_sub(cpu);
    let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
    let resident = memory(agent.pid, "VmRSS:").unwrap_or(0);
    println!(
        "idle, {} quiet streams, {} s: {:.3} % of a core, {:.0} MiB resident (must <= {} %: {})",
        shape.streams,
        time.as_secs(),
        share * 100.0,
        mib(resident),
        IDLE_SHARE_MAX * 100.0,
        verdict(share <= IDLE_SHARE_MAX)
    );
    Ok(share <= IDLE_SHARE_MAX)
}

/// An output that refuses connections, and one that takes requests and never answers; each stream's
/// pod comes from an API server.
pub(crate) fn dead(shape: &Shape, time: Duration) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    let cores = Cores::split(1)?;
    let sink = Sink::start_with(Behaviour::Hang, &cores.other, Some(&logs.folder))?;
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let mut holds = true;
    for (kind, output) in [("refusing", nobody), ("silent", format!("http://{}", sink.address))] {
        let mut options = AgentOptions::new(output);
        options.api = Some(sink.address);
        let files = AgentFiles::write(&logs.folder, &options)?;
        let agent = Running::start(&mut files.command(&[])?, &cores.worker)?;
        wait(time);
        ensure!(!agent.has_ended()?, "the agent ended by itself:\n{}", files.log());
        let peak = memory(agent.pid, "VmHWM:").unwrap_or(0);
        let resident = memory(agent.pid, "VmRSS:").unwrap_or(0);
        let cpu = cpu_of_threads(agent.pid)?;
        let most = BUDGET + MEMORY_OVER_BUDGET_MAX;
        println!(
            "dead, {kind} output, {} streams, {:.2} GiB, {} s: peak {:.1} MiB, {:.1} MiB at the \
             end, {:.2} s CPU (must <= {:.0} MiB: {})",
            shape.streams,
            gib(logs.bytes),
            time.as_secs(),
            mib(peak),
            mib(resident),
            cpu.as_secs_f64(),
            mib(most),
            verdict(peak <= most)
        );
        holds &= peak <= most;
    }
    Ok(holds)
}

/// From a JSON line being written to its bulk request being there whole, under a light load.
pub(crate) fn latency(
    shape: &Shape,
    time: Duration,
    lines_per_second: u64,
    linger: Duration,
) -> anyhow::Result<bool> {
    let cores = Cores::split(1)?;
    let mut sink = Sink::start(Behaviour::Stamp, &cores.other)?;
    let folder = tempfile::tempdir()?;
    let mut tree_options = shape.options();
    tree_options.start_ns = now_ns();
    let mut tree = Tree::create(folder.path(), &Captures::load(&shape.captures)?, &tree_options)?;
    let port = free_port()?;
    let mut options = AgentOptions::new(format!("http://{}", sink.address));
    options.telemetry_port = Some(port);
    options.linger = format!("{}ms", linger.as_millis());
    let files = AgentFiles::write(folder.path(), &options)?;
    let agent = Running::start(&mut files.command(&[])?, &cores.worker)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while scrape(port).is_err() {
        ensure!(Instant::now() < deadline, "the agent did not come up:\n{}", files.log());
        wait(Duration::from_millis(20));
    }
    write_paced(&mut tree, time, lines_per_second)?;
    wait_for_quiet(&mut sink, &agent, linger + Duration::from_secs(3))?;
    let ages = sink.report()?.ages_us;
    // An object behind white space need not be JSON to the agent.
    let written = tree.total().json_lines;
    ensure!(
        ages.len() as u64 * 100 >= written * 99,
        "{} of {written} JSON lines arrived:\n{}",
        ages.len(),
        files.log()
    );
    let at = |percent: usize| {
        let index = (ages.len() * percent / 100).min(ages.len().saturating_sub(1));
        Duration::from_micros(ages.get(index).copied().unwrap_or(0))
    };
    let most = linger + LATENCY_OVER_LINGER_MAX;
    println!(
        "latency, {} streams, {lines_per_second} lines/s, linger {linger:?}: p50 {:?}, p99 {:?}, \
         most {:?} (p99 must <= {most:?}: {})",
        shape.streams,
        at(50),
        at(99),
        at(100),
        verdict(at(99) <= most)
    );
    Ok(at(99) <= most)
}

/// The pods take turns, each writing one to three lines one after the other, as programs do, each with
/// the time of its writing.
fn write_paced(tree: &mut Tree, time: Duration, lines_per_second: u64) -> anyhow::Result<()> {
    let (start, gap) = (Instant::now(), Duration::from_secs(1) / u32::try_from(lines_per_second)?);
    let mut next = start;
    let mut bursts = (1..=3).cycle();
    while start.elapsed() < time {
        for (pod, lines) in tree.pods_mut().iter_mut().zip(&mut bursts) {
            for _ in 0..lines {
                pod.set_time(now_ns());
                pod.write_lines(1)?;
            }
            next += gap * lines;
            wait_until(next);
        }
    }
    Ok(())
}
