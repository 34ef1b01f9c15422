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

/// Resident memory when so much had been shipped.
struct Sample {
    shipped: u64,
    resident: u64,
}

/// Feeds the agent at its own speed and compares its memory after an eighth with that at the end.
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
    let samples = feed(&mut tree, &agent, port, shape.bytes).with_context(|| files.log())?;

    let medians = medians(&samples, shape.bytes).context("too few samples")?;
    let (early, late) = (medians[0], medians[EIGHTHS - 1]);
    let shown: Vec<_> = medians.iter().map(|resident| format!("{:.1}", mib(*resident))).collect();
    println!(
        "flat, {} streams, {:.2} GiB, {} rotations: resident MiB in each eighth {}; peak {:.1} \
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
fn feed(tree: &mut Tree, agent: &Running, port: u16, bytes: u64) -> anyhow::Result<Vec<Sample>> {
    let step = (bytes / 512).max(1 << 18);
    let (mut samples, mut shipped, mut since) = (Vec::new(), 0, Instant::now());
    while shipped < bytes {
        ensure!(!agent.has_ended()?, "the agent ended by itself");
        ensure!(since.elapsed() < PATIENCE, "nothing was shipped in {PATIENCE:?}");
        let written = tree.total().bytes;
        if written.saturating_sub(shipped) < AHEAD_MAX {
            let now = now_ns();
            tree.pods_mut().iter_mut().for_each(|pod| pod.set_time(now));
            tree.fill(written + step)?;
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
        let resident = memory(agent.pid, "VmRSS:").unwrap_or(0);
        samples.push(Sample { shipped, resident });
    }
    Ok(samples)
}

/// The median of the samples of the second half of each eighth of `bytes`. One sample alone would
/// tell how full the buffers were just then.
fn medians(samples: &[Sample], bytes: u64) -> Option<[u64; EIGHTHS]> {
    let eighth = bytes / EIGHTHS as u64;
    let mut medians = [0; EIGHTHS];
    for (median, end) in medians.iter_mut().zip(1..) {
        let within = end * eighth - eighth / 2..end * eighth;
        let samples = samples.iter().filter(|sample| within.contains(&sample.shipped));
        let mut resident: Vec<_> = samples.map(|sample| sample.resident).collect();
        resident.sort_unstable();
        *median = *resident.get(resident.len() / 2)?;
    }
    Some(medians)
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
