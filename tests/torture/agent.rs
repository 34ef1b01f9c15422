//! The program under test as a process: started, watched, killed.
//!
//! Guarantees that no process outlives its value. Memory is `VmHWM` of `/proc/<pid>/status`, the
//! most that the process ever had resident; it is read often, as it is gone with the process.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::ground::Ground;

const LOOK: Duration = Duration::from_millis(10);

/// The line that `run --once` prints, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) lines_read: u64,
    pub(crate) lines_indexed: u64,
    pub(crate) lines_refused: u64,
    pub(crate) lines_filtered: u64,
    pub(crate) documents_indexed: u64,
    pub(crate) bytes_unfinished: u64,
}

#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    pub(crate) peak_bytes: u64,
    pub(crate) open_files: u64,
}

/// The one that cargo built beside this program, or `PROGRAM_UNDER_TEST`.
fn program() -> PathBuf {
    std::env::var_os("PROGRAM_UNDER_TEST")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_splashdam")), PathBuf::from)
}

impl Agent {
    pub(crate) fn start(ground: &Ground) -> anyhow::Result<Self> {
        Self::spawn(ground, &[], Stdio::null())
    }

    fn spawn(ground: &Ground, arguments: &[&str], stdout: Stdio) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(ground.path("stderr"))?;
        let program = program();
        let mut command = Command::new(&program);
        command.args(["run", "--config"]).arg(ground.configuration()).args(arguments);
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        let child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, peak_bytes: 0, open_files: 0 })
    }

    /// Runs `run --once` to its end, which has to be a good one; also the memory it took.
    pub(crate) fn run_once(ground: &Ground, patience: Duration) -> anyhow::Result<(Summary, u64)> {
        let path = ground.path("summary");
        let deadline = format!("{}s", patience.as_secs());
        let arguments = ["--once", "--deadline", &deadline];
        let mut agent = Self::spawn(ground, &arguments, File::create(&path)?.into())?;
        let Some(status) = agent.wait(patience + Duration::from_secs(10))? else {
            bail!("run --once has not ended {patience:?} after its deadline");
        };
        let text = fs::read_to_string(path)?;
        if !status.success() {
            bail!("run --once ended with {status} and said {text}");
        }
        let summary: Summary =
            serde_json::from_str(&text).with_context(|| format!("no summary: {text}"))?;
        let outcomes = summary.lines_indexed + summary.lines_refused + summary.lines_filtered;
        ensure!(summary.lines_read == outcomes, "lines without an outcome: {text}");
        Ok((summary, agent.peak_bytes))
    }

    /// Watches until it has ended or `time` has passed.
    pub(crate) fn wait(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + time;
        loop {
            self.look();
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::park_timeout(left.min(LOOK));
        }
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or_else(|| io::Error::other("no process id"))?, Signal::TERM)?)
    }

    /// SIGKILL, and waits until it has gone.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.look();
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn look(&mut self) {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        // nothing there: it has just ended
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = kib.and_then(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok());
        self.peak_bytes = self.peak_bytes.max(kib.unwrap_or(0) * 1024);
        // the length of this folder is the number of files (since Linux 6.2; 0 before)
        let files = fs::metadata(folder.join("fd")).map_or(0, |facts| facts.len());
        self.open_files = self.open_files.max(files);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // it may have ended already, and then both have nothing to do
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
