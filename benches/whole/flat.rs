//! Whether memory stays flat while files are written, rotated and deleted for long.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use splashdam::demo::tree::{Captures, Options, Rotated, Tree};

use crate::modes::{Cores, free_port, scrape, verdict};
use crate::process::{Running, memory, wait};
use crate::setup::{AgentFiles, AgentOptions, Shape, gib, mib, passing_folder};
use crate::sink::{Behaviour, Sink, now_ns};

/// Memory is compared between the first and the last of these parts of what is shipped.
const EIGHTHS: usize = 8;

/// What memory may grow by.
const GROWTH_MAX: u64 = 4 << 20;

/// A container has five files at most, as the kubelet's default is, each this big.
const FILE_BYTES: u64 = 2 << 20;
const ROTATED_KEPT: usize = 4;

/// Written but not acknowledged, of all streams; far from what a container's files hold, so that
/// none is deleted before it is read.
const AHEAD_MAX: u64 = 64 << 20;

/// Nothing acknowledged for this long is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

const SHIPPED: &str = "splashdam_bytes_read_total";
const LOST: &str = "splashdam_bytes_lost_total";

const BEHIND: &str = "splashdam_bytes_behind";
const HELD: &str = "splashdam_memory_budget_bytes{state=\"held\"}";

/// How long, and how often looked at, resident memory stays the same before it counts.
const STEADY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);

/// Feeds the agent at its own speed and compares what it holds when all is shipped, after an eighth
/// and at the end: while it ships, memory is as full as its buffers happen to be.
pub(crate) fn run(shape: &Shape) -> anyhow::Result<bool> {
    let cores = Cores::split(1)?;
    let sink = Sink::start(Behaviour::Count, &cores.other)?;
    let folder = passing_folder()?;
    let options = Options {
        rotate_bytes: Some(FILE_BYTES),
        rotated: Rotated { gzip: false, keep: Some(ROTATED_KEPT) },
        start_ns: now_ns(),
        step: Duration::from_micros(1),
        ..shape.options()
    };
    let mut tree = Tree::create(folder.path(), &Captures::load(&shape.captures)?, &options)?;
    let port = free_port()?;
    let mut agent_options = AgentOptions::new(format!("http://{}", sink.address));
    agent_options.telemetry_port = Some(port);
    let files = AgentFiles::write(folder.path(), &agent_options)?;
    let agent = Running::start(&mut files.command(&[])?, &cores.worker)?;
    let mut resident = Vec::new();
    for eighth in 1..=EIGHTHS as u64 {
        let until = shape.bytes / EIGHTHS as u64 * eighth;
        feed(&mut tree, &agent, port, until).with_context(|| files.log())?;
        resident.push(at_rest(&agent, port).with_context(|| files.log())?);
    }
    let (early, late) = (resident[0], resident[EIGHTHS - 1]);
    let shown: Vec<_> = resident.iter().map(|bytes| format!("{:.1}", mib(*bytes))).collect();
    println!(
        "flat, {} streams, {:.2} GiB, {} rotations: resident MiB at rest after each eighth {}; peak {:.1} \
         (must grow by <= {:.0} MiB: {})",
        shape.streams,
        gib(shape.bytes),
        tree.total().rotations,
        shown.join(", "),
        mib(memory(agent.pid, "VmHWM:").unwrap_or(0)),
        mib(GROWTH_MAX),
        verdict(late <= early + GROWTH_MAX)
    );
    Ok(late <= early + GROWTH_MAX)
}

/// Writes until the agent has shipped `bytes`, never more than [`AHEAD_MAX`] before it.
fn feed(tree: &mut Tree, agent: &Running, port: u16, bytes: u64) -> anyhow::Result<()> {
    const STEP: u64 = 16 << 20;
    let (mut shipped, mut since) = (0, Instant::now());
    while shipped < bytes {
        ensure!(!agent.has_ended()?, "the agent ended by itself");
        ensure!(since.elapsed() < PATIENCE, "nothing was shipped in {PATIENCE:?}");
        let written = tree.total().bytes;
        if written.saturating_sub(shipped) < AHEAD_MAX {
            let now = now_ns();
            tree.pods_mut().iter_mut().for_each(|pod| pod.set_time(now));
            tree.fill(written + STEP)?;
        } else {
            wait(Duration::from_millis(2));
        }
        // It may not listen yet.
        let Ok(metrics) = scrape(port) else { continue };
        let lost = total(&metrics, LOST);
        ensure!(lost == 0, "the agent lost {lost} bytes");
        let now = total(&metrics, SHIPPED);
        if now > shipped {
            (shipped, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Resident memory when all is shipped that there is.
fn at_rest(agent: &Running, port: u16) -> anyhow::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    let (mut resident, mut since) = (0, Instant::now());
    loop {
        ensure!(Instant::now() < deadline, "it does not come to rest in {PATIENCE:?}");
        let metrics = scrape(port)?;
        let now = memory(agent.pid, "VmRSS:").context("the agent has gone")?;
        let is_busy = total(&metrics, BEHIND) > 0 || total(&metrics, HELD) > 0;
        if is_busy || now != resident {
            (resident, since) = (now, Instant::now());
        }
        if since.elapsed() >= STEADY {
            return Ok(resident);
        }
        wait(LOOK);
    }
}

/// The sum of a counter's samples, whatever their labels.
fn total(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<u64>().ok()
    });
    values.sum()
}
