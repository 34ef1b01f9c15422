//! The rotation day: a day's worth of rotations while the agent runs now and then.
//!
//! Nothing is removed (containerLogMaxFiles is large enough) and the output is well. The agent
//! runs, is killed, ended, runs once, or is away for many rotations. With an older state, its
//! state directory is now and then put back to what it was some runs before. At the end the state
//! directory is removed and everything read again: all of it has to be there already.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;

use crate::agent::Agent;
use crate::container::Pace;
use crate::dice::Dice;
use crate::ground::Ground;
use crate::judge::Judgement;
use crate::options::Options;
use crate::peer::Peer;
use crate::peer::index::Index;
use crate::report::{Report, mib};
use crate::source::Source;
use crate::writers::{self, Numbered};
use crate::{letters, say};

const CONTAINERS: u32 = 3;

const SIGTERM: i32 = Signal::TERM.as_raw();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Kept,
    /// Put back to an older copy at random.
    Restored,
}

/// Whether all is well.
pub(crate) fn run(
    options: &Options,
    seed: u64,
    source: &Source,
    state: State,
) -> anyhow::Result<bool> {
    let peer = Peer::start(seed, Index::default())?;
    peer.be_calm();
    let ground = Ground::create(CONTAINERS, peer.address)?;
    say(&format!("rotation day, state {state:?}, in {}", ground.root().display()));
    // rotated by hand
    let never = Pace { low: u64::from(u32::MAX), high: u64::from(u32::MAX) };
    let containers = writers::containers(&ground, seed, never)?;
    let mut day = Day {
        source,
        ground,
        containers,
        dice: Dice::new(seed, 0x33),
        counts: Counts::default(),
        kept: Vec::new(),
    };
    let began = Instant::now();
    let lived = day.live(options.rotations, state);
    let ended = lived.and_then(|()| day.end(options.patience()));
    ended.inspect_err(|_| day.ground.keep())?;

    let title = if state == State::Kept { "" } else { ", state put back to older copies" };
    let mut report = Report::new(format!("rotation day{title}, seed {seed}"));
    report.row("rotations", day.rotations());
    report.row("runs killed", day.counts.killed);
    report.row("runs ended by SIGTERM", day.counts.terminated);
    report.row("runs of --once", day.counts.once);
    report.row("states put back", day.counts.restored);
    report.row("most rotations in a gap", day.counts.gap);
    report.row("peak resident", mib(day.counts.peak_bytes));
    for (name, count) in peer.counts() {
        report.row(name, count);
    }
    report.row("dead letters", letters::take(&day.ground, &mut peer.index())?);
    report.row("seconds", began.elapsed().as_secs());
    report.row("new when all was read again", day.counts.again);
    report.must(day.counts.again == 0, || "without its state the agent made other ids".to_owned());
    report.judgement(Judgement::of(&peer.index(), &writers::done(&day.containers), &day.ground));
    let good = report.print();
    if !good || options.keep {
        day.ground.keep();
        say(&format!("kept: {}", day.ground.root().display()));
    }
    Ok(good)
}

#[derive(Debug, Default)]
struct Counts {
    killed: u64,
    terminated: u64,
    once: u64,
    restored: u64,
    gap: u64,
    peak_bytes: u64,
    /// Documents that were new when everything was read again.
    again: u64,
}

#[derive(Debug)]
struct Day<'a> {
    source: &'a Source,
    ground: Ground,
    containers: Vec<Numbered>,
    dice: Dice,
    counts: Counts,
    /// Copies of the state directory, by number.
    kept: Vec<String>,
}

impl Day<'_> {
    fn live(&mut self, rotations: u32, state: State) -> anyhow::Result<()> {
        while self.rotations() < u64::from(rotations) {
            // nobody runs
            let before = self.rotations();
            for _ in 0..self.dice.between(1, 8) {
                self.print_and_rotate()?;
            }
            self.counts.gap = self.counts.gap.max(self.rotations() - before);
            if state == State::Restored {
                self.keep_or_restore()?;
            }
            self.ground.configure(&mut self.dice)?;
            if self.dice.percent(20) {
                self.counts.once += 1;
                let (_, peak) = Agent::run_once(&self.ground, Duration::from_secs(60))?;
                self.counts.peak_bytes = self.counts.peak_bytes.max(peak);
                continue;
            }
            self.live_run()?;
        }
        Ok(())
    }

    /// An agent for a while, with rotations meanwhile.
    fn live_run(&mut self) -> anyhow::Result<()> {
        let mut agent = Agent::start(&self.ground)?;
        for _ in 0..self.dice.between(0, 6) {
            let time = self.dice.millis(5, 200);
            ensure!(agent.wait(time)?.is_none(), "the agent ended by itself");
            self.print_and_rotate()?;
        }
        if self.dice.one_in(2) {
            self.counts.killed += 1;
            agent.kill()?;
        } else {
            self.counts.terminated += 1;
            agent.terminate()?;
            let status = agent.wait(Duration::from_secs(20))?;
            // at its very beginning the signal still ends it at once
            let good =
                status.is_some_and(|status| status.success() || status.signal() == Some(SIGTERM));
            ensure!(good, "SIGTERM led to {status:?}");
        }
        self.counts.peak_bytes = self.counts.peak_bytes.max(agent.peak_bytes);
        Ok(())
    }

    fn print_and_rotate(&mut self) -> io::Result<()> {
        let at = self.dice.index(self.containers.len());
        let container = &mut self.containers[at].container;
        for _ in 0..self.dice.between(1, 4) {
            container.print(self.source)?;
        }
        container.rotate()
    }

    /// Copies the state directory, or puts one of the latest copies in its place.
    fn keep_or_restore(&mut self) -> io::Result<()> {
        let state = self.ground.path("state");
        if !state.try_exists()? {
            return Ok(());
        }
        if !self.kept.is_empty() && self.dice.percent(15) {
            let older = self.kept.len() - 1 - self.dice.index(self.kept.len().min(8));
            fs::remove_dir_all(&state)?;
            copy(&self.ground.path(&self.kept[older]), &state)?;
            self.kept.truncate(older + 1);
            self.counts.restored += 1;
            return Ok(());
        }
        let name = format!("state-{}", self.counts.restored * 100_000 + self.kept.len() as u64);
        copy(&state, &self.ground.path(&name))?;
        self.kept.push(name);
        Ok(())
    }

    /// Ends the containers and reads the rest; then everything once more without any state.
    fn end(&mut self, patience: Duration) -> anyhow::Result<()> {
        for one in &mut self.containers {
            one.container.restart(&self.ground.logs(one.number), self.source)?;
        }
        let (_, peak) = Agent::run_once(&self.ground, patience)?;
        self.counts.peak_bytes = self.counts.peak_bytes.max(peak);
        fs::remove_dir_all(self.ground.path("state"))?;
        let (again, _) = Agent::run_once(&self.ground, patience)?;
        self.counts.again = again.documents_indexed;
        Ok(())
    }

    fn rotations(&self) -> u64 {
        writers::done(&self.containers).iter().map(|done| done.rotations).sum()
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
