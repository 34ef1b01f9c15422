//! Whether a backlog of many streams is shipped evenly, so that none waits for another's end.

use anyhow::{Context, ensure};

use crate::modes::{Cores, run_agent, verdict};
use crate::progress::{Progress, Step};
use crate::setup::{AgentOptions, Shape, gib};
use crate::sink::{Behaviour, Sink};

/// What the agent reads of a stream before the next one has its turn.
const CHUNK_BYTES: u64 = 256 * 1024;

/// Streams take turns, so one may be a chunk behind another. Of two requests that are under way
/// the later one may be received first, and what is in it is a chunk more of its streams. Those that
/// are found first are before the others for a while: nobody waits for that.
const CHUNKS_BEHIND_MAX: u64 = 2;

/// Ships the whole tree and looks back at how far each stream had come at half of all bytes.
pub(crate) fn run(shape: &Shape) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    let cores = Cores::split(1)?;
    let mut sink = Sink::start(Behaviour::Follow, &cores.other)?;
    run_agent(&logs, &AgentOptions::new(format!("http://{}", sink.address)), &cores)?;
    let progress = sink.report()?.progress;
    let seen = progress.streams.len();
    ensure!(seen == shape.streams, "the sink saw {seen} of {} streams", shape.streams);

    let most = (CHUNKS_BEHIND_MAX * CHUNK_BYTES * shape.streams as u64) as f64 / logs.bytes as f64;
    let half = Spread::of(&progress, progress.bytes / 2).context("no streams")?;
    let behind = half.mean - half.least;
    let (begun, ended) = ends(&progress);
    println!(
        "fair, {} streams, {:.2} GiB: at half of all bytes a stream had {:.3} to {:.3} of its own, \
         {:.3} on average; all had begun at {begun:.3}, the first ended at {ended:.3} \
         (behind the average {behind:.3}, must <= {most:.3}: {})",
        shape.streams,
        gib(logs.bytes),
        half.least,
        half.most,
        half.mean,
        verdict(behind <= most)
    );
    Ok(behind <= most)
}

/// What streams had of their own bytes at one moment, as shares.
struct Spread {
    least: f64,
    most: f64,
    mean: f64,
}

impl Spread {
    /// When all streams together had `bytes`.
    fn of(progress: &Progress, bytes: u64) -> Option<Self> {
        let shares: Vec<f64> = (progress.streams.values())
            .filter_map(|steps| Some(own_at(steps, bytes) as f64 / steps.last()?.own as f64))
            .collect();
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let least = shares.iter().copied().reduce(f64::min)?;
        let most = shares.iter().copied().reduce(f64::max)?;
        Some(Self { least, most, mean })
    }
}

fn own_at(steps: &[Step], bytes: u64) -> u64 {
    let after = steps.partition_point(|step| step.of_all <= bytes);
    steps[..after].last().map_or(0, |step| step.own)
}

/// Shares of all bytes: before the last stream's first document, and with the last document of the
/// stream that ended first.
fn ends(progress: &Progress) -> (f64, f64) {
    let share = |bytes: Option<u64>| bytes.unwrap_or(0) as f64 / progress.bytes as f64;
    let first = |steps: &Vec<Step>| steps.first().map_or(0, |step| step.of_all);
    let last = |steps: &Vec<Step>| steps.last().map_or(0, |step| step.of_all);
    let streams = || progress.streams.values();
    (share(streams().map(first).max()), share(streams().map(last).min()))
}
