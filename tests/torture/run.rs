//! The torture run: everything at once, then quiet, then the count.
//!
//! Ends with an agent that is left alone beside its dead output until all has arrived, and with a
//! `run --once` of the live pipeline alone, which must find nothing left to index.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::agent::{Agent, Summary};
use crate::container::Pace;
use crate::dice::Dice;
use crate::ground::{BUDGET, Ground};
use crate::judge::Judgement;
use crate::killer::Kills;
use crate::options::Options;
use crate::peer::Peer;
use crate::peer::index::Index;
use crate::report::{Report, mib};
use crate::source::Source;
use crate::writers::{self, Numbered, Writers};
use crate::{dead, letters, say};

/// What the process may have resident beside its budget.
const BESIDE: u64 = 32 * 1024 * 1024;

/// How often it is told how far the run is.
const TELL: Duration = Duration::from_secs(10);

/// Whether all is well.
pub(crate) fn run(options: &Options, seed: u64, source: &Arc<Source>) -> anyhow::Result<bool> {
    let mut run = Run::prepare(options, seed)?;
    let ended = run.live(source);
    ended.inspect_err(|_| run.ground.keep())?;
    let good = run.report()?.print();
    if !good || options.keep {
        run.ground.keep();
        say(&format!("kept: {}", run.ground.root().display()));
    }
    Ok(good)
}

struct Run<'a> {
    options: &'a Options,
    seed: u64,
    began: Instant,
    dice: Dice,
    peer: Peer,
    ground: Ground,
    kills: Kills,
    containers: Vec<Numbered>,
    /// Lines that were written and in no document when the trouble ended.
    behind: u64,
    /// From then until all was there.
    quiet: Duration,
    arrived: bool,
    /// What `run --once` said at the very end.
    last: anyhow::Result<Summary>,
}

impl<'a> Run<'a> {
    fn prepare(options: &'a Options, seed: u64) -> anyhow::Result<Self> {
        let peer = Peer::start(seed, Index::default())?;
        let mut ground = Ground::create(options.streams, peer.address)?;
        ground.dead = Some(dead::start()?);
        ground.threads = options.threads;
        say(&format!("torture: {} s in {}", options.seconds, ground.root().display()));
        Ok(Self {
            options,
            seed,
            began: Instant::now(),
            dice: Dice::new(seed, 0x11),
            peer,
            ground,
            kills: Kills::default(),
            containers: Vec::new(),
            behind: 0,
            quiet: Duration::ZERO,
            arrived: false,
            last: Err(anyhow::anyhow!("never run")),
        })
    }

    fn live(&mut self, source: &Arc<Source>) -> anyhow::Result<()> {
        self.trouble(source)?;
        self.peer.be_calm();
        for one in &mut self.containers {
            one.container.restart(&self.ground.logs(one.number), source)?;
        }
        let quiet = Instant::now();
        self.arrived = self.leave_alone()?;
        self.quiet = quiet.elapsed();
        self.ground.dead = None;
        self.ground.configure(&mut self.dice)?;
        let last = Agent::run_once(&self.ground, self.options.patience());
        self.last = last.map(|(summary, peak)| {
            self.kills.peak_bytes = self.kills.peak_bytes.max(peak);
            summary
        });
        Ok(())
    }

    /// Everything at once, for as long as was asked for.
    fn trouble(&mut self, source: &Arc<Source>) -> anyhow::Result<()> {
        let there = self.peer.index().watched();
        let writing = writers::Options {
            seed: self.seed,
            bytes_per_second: self.options.rate * 1024,
            pace: Pace { low: 200, high: 800 },
            ahead: self.options.ahead,
            there: Arc::clone(&there),
        };
        let writers = Writers::start(&self.ground, source, writing)?;
        let every = Duration::from_millis(self.options.kill_every);
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let (began, mut told) = (self.began, Instant::now());
        let killed = self.kills.run(&self.ground, every, end, &mut self.dice, || {
            if told.elapsed() > TELL {
                told = Instant::now();
                let (lines, there) = (writers.lines.load(Relaxed), there.load(Relaxed));
                let seconds = began.elapsed().as_secs();
                say(&format!("{seconds} s: {lines} lines written, {there} there"));
            }
        });
        self.behind = writers.lines.load(Relaxed).saturating_sub(there.load(Relaxed));
        self.containers = writers.stop()?;
        killed
    }

    /// Lets the agent be, until all has arrived; whether it has in time.
    fn leave_alone(&mut self) -> anyhow::Result<bool> {
        let Self { peer, ground, .. } = self;
        let done = writers::done(&self.containers);
        let written: u64 = done.iter().flat_map(|done| done.lines).map(u64::from).sum();
        let end = Instant::now() + self.options.patience();
        self.kills.leave_alone(ground, &mut self.dice, || {
            while Instant::now() < end {
                let letters = letters::lines(ground);
                let there = |index: &Index| index.there() + letters >= written;
                if peer.wait_until(Duration::from_secs(1), there) {
                    return true;
                }
            }
            false
        })
    }

    fn report(&self) -> anyhow::Result<Report> {
        let done = writers::done(&self.containers);
        let Self { options, kills, peer, .. } = self;
        let mut report = Report::new(format!("torture run, seed {}", self.seed));
        report.row("seconds of trouble", options.seconds);
        report.row("lines behind when it ended", self.behind);
        report.row("seconds until all was there", self.quiet.as_secs());
        report.row("seconds in all", self.began.elapsed().as_secs());
        report.row("MiB written", done.iter().map(|done| done.bytes).sum::<u64>() >> 20);
        report.row("rotations", done.iter().map(|done| done.rotations).sum::<u64>());
        report.row("SIGKILL", kills.killed);
        report.row("SIGTERM", kills.terminated);
        report.row("SIGKILL while draining", kills.killed_in_drain);
        for (name, count) in peer.counts() {
            report.row(name, count);
        }
        report.row("documents", peer.index().documents().len());
        report.row("dead letters", letters::take(&self.ground, &mut peer.index())?);
        report.row("peak resident", mib(kills.peak_bytes));
        report.row("most open files", kills.open_files);
        report.judgement(Judgement::of(&peer.index(), &done, &self.ground));
        self.judge_end(&mut report);
        Ok(report)
    }

    fn judge_end(&self, report: &mut Report) {
        let patience = self.options.patience();
        report.must(self.arrived, || format!("not all was there after {patience:?}"));
        match &self.last {
            Err(error) => report.must(false, || format!("the last run failed: {error:#}")),
            Ok(last) => {
                // where not all was there before, it had work to do
                report.must(last.documents_indexed == 0 || !self.arrived, || {
                    format!("the last run found documents to index: {last:?}")
                });
                report.must(last.bytes_unfinished == 0, || {
                    format!("the last run left something: {last:?}")
                });
            }
        }
        let peak = self.kills.peak_bytes;
        report.must(peak <= BUDGET + BESIDE, || {
            format!("{} resident, more than budget + {}", mib(peak), mib(BESIDE))
        });
    }
}
