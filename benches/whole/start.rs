//! How long the agent takes from its start to its first bulk request.

use std::time::Duration;

use anyhow::ensure;
use splashdam::demo::tree::{Captures, Tree};

use crate::modes::{Cores, median, run_once, verdict};
use crate::process::{Running, wait};
use crate::setup::{AgentFiles, AgentOptions, Shape, gib, passing_folder};
use crate::sink::{Behaviour, Sink, now_ns};

const START_MAX: Duration = Duration::from_secs(1);

/// Starts that are measured; the median counts.
const STARTS: usize = 3;

/// A tree of which a tenth is left must still hold several batches.
const RESUMED_BYTES_MIN: u64 = 128 << 20;

/// Without a checkpoint, then with one.
pub(crate) fn run(shape: &Shape) -> anyhow::Result<bool> {
    let holds = fresh(shape)?;
    let bytes = (shape.bytes / 10).max(RESUMED_BYTES_MIN);
    Ok(resumed(&Shape { bytes, ..shape.clone() })? && holds)
}

/// With a backlog that nothing has been shipped of.
fn fresh(shape: &Shape) -> anyhow::Result<bool> {
    let logs = shape.prepare()?;
    let time = first_request(|options| AgentFiles::write(&logs.folder, options))?;
    println!(
        "start, {} streams, {:.2} GiB: first bulk request after {time:.3} s (must <= {} s: {})",
        shape.streams,
        gib(logs.bytes),
        START_MAX.as_secs(),
        verdict(time <= START_MAX.as_secs_f64())
    );
    Ok(time <= START_MAX.as_secs_f64())
}

/// With nine tenths of each file shipped by an earlier process.
fn resumed(shape: &Shape) -> anyhow::Result<bool> {
    let cores = Cores::split(1)?;
    let folder = passing_folder()?;
    let captures = Captures::load(&shape.captures)?;
    let mut tree = Tree::create(folder.path(), &captures, &shape.options())?;
    tree.fill(shape.bytes / 10 * 9)?;
    let sink = Sink::start(Behaviour::Count, &cores.other)?;
    let options = AgentOptions::new(format!("http://{}", sink.address));
    let before = AgentFiles::write(folder.path(), &options)?;
    run_once(&before, &cores)?;
    tree.fill(shape.bytes)?;
    let time = first_request(|options| {
        let files = AgentFiles::write(folder.path(), options)?;
        files.copy_state(&before)?;
        Ok(files)
    })?;
    // What was measured goes on from the checkpoint if this does.
    let (rest, all) = (run_once(&before, &cores)?.summary.lines_read, tree.total().lines);
    ensure!((1..all / 5).contains(&rest), "{rest} of {all} lines were read after the checkpoint");
    println!(
        "start with a checkpoint, {} streams, nine tenths of {:.2} GiB shipped: first bulk request \
         after {time:.3} s (must <= {} s: {})",
        shape.streams,
        gib(tree.total().bytes),
        START_MAX.as_secs(),
        verdict(time <= START_MAX.as_secs_f64())
    );
    Ok(time <= START_MAX.as_secs_f64())
}

/// Seconds from the start of the process to the head of its first bulk request, the median of some
/// starts, each with the files that `prepare` makes for it.
fn first_request(
    prepare: impl Fn(&AgentOptions) -> anyhow::Result<AgentFiles>,
) -> anyhow::Result<f64> {
    let cores = Cores::split(1)?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let mut sink = Sink::start(Behaviour::Count, &cores.other)?;
        let files = prepare(&AgentOptions::new(format!("http://{}", sink.address)))?;
        let begun = now_ns();
        let agent = Running::start(&mut files.command(&[])?, &cores.worker)?;
        let first = loop {
            if let Some(first) = sink.report()?.first_ns {
                break first;
            }
            ensure!(!agent.has_ended()?, "the agent ended by itself:\n{}", files.log());
            ensure!(agent.started.elapsed() < Duration::from_secs(60), "no request in a minute");
            wait(Duration::from_millis(10));
        };
        times.push(Duration::from_nanos(first.saturating_sub(begun)).as_secs_f64());
    }
    Ok(median(times))
}
