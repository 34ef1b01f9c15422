//! One pod's logs, written line by line.
//!
//! Owns the order of lines: each restart of a capture once, then the last restart's lines and all
//! others' again, for ever. Owns the numbers of lines, the pod's clock and the counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::capture::{Captures, Line, Stream, TreeError};
use super::clock::Moment;
use super::cri::{Framer, Written};
use super::file::{LogFile, Rotated};
use super::pods::PodIdentity;
use super::{Options, Report};

/// Writes the logs of one pod.
#[derive(Debug)]
pub struct PodWriter {
    identity: PodIdentity,
    folder: PathBuf,
    framer: Framer,
    rotated: Rotated,
    script: Script,
    step_ns: u64,
    sequence: u64,
    reports: BTreeMap<u32, Report>,
}

impl PodWriter {
    pub(super) fn create(
        root: &Path,
        number: usize,
        captures: &Captures,
        options: &Options,
    ) -> Result<Self, TreeError> {
        let place = number % (options.taskmanagers + 1);
        let component = if place == 0 { "jobmanager" } else { "taskmanager" };
        let captured = captures.process(component, place.saturating_sub(1))?;
        let script = Script::new(captured, options.restarts);
        let identity = PodIdentity::new(
            number,
            options.taskmanagers,
            &script.restarts_to_come(),
            options.seed,
        );
        let folder = root.join(identity.folder()).join(&identity.container);
        let file = LogFile::create(log_path(&folder, script.restart()), options.rotated)?;
        // Pods don't speak in step.
        let moment = Moment::new(options.start_ns + number as u64 * 1009);
        let report = Report { first_seq: 1, ..Report::default() };
        Ok(Self {
            identity,
            folder,
            framer: Framer::new(file, moment, options.rotate_bytes, options.numbering),
            rotated: options.rotated,
            reports: BTreeMap::from([(script.restart(), report)]),
            script,
            step_ns: u64::try_from(options.step.as_nanos()).unwrap_or(u64::MAX),
            sequence: 0,
        })
    }

    pub fn identity(&self) -> &PodIdentity {
        &self.identity
    }

    /// What was written, by restart.
    pub fn reports(&self) -> &BTreeMap<u32, Report> {
        &self.reports
    }

    /// The file that is being written to.
    pub fn live_path(&self) -> PathBuf {
        log_path(&self.folder, self.script.restart())
    }

    /// The next line is written at `ns` since the epoch, but not earlier than the one before it.
    pub fn set_time(&mut self, ns: u64) {
        let moment = &mut self.framer.moment;
        moment.set(ns.saturating_sub(self.step_ns).max(moment.ns()));
    }

    /// Writes `count` lines and hands them to the operating system.
    pub fn write_lines(&mut self, count: u64) -> Result<(), TreeError> {
        for _ in 0..count {
            self.write_line()?;
        }
        self.framer.file.flush()
    }

    /// Writes until this pod's logs hold at least `bytes` altogether. All restarts but the last
    /// are written in full first, even if they hold more.
    pub fn write_bytes(&mut self, bytes: u64) -> Result<(), TreeError> {
        let mut held: u64 = self.reports.values().map(|report| report.bytes).sum();
        while held < bytes || !self.script.repeats() {
            held += self.write_line()?;
        }
        self.framer.file.flush()
    }

    /// Rotates now, as the kubelet does when it finds the file too big.
    pub fn rotate(&mut self) -> Result<(), TreeError> {
        self.framer.file.rotate(&self.framer.moment)?;
        self.reports.entry(self.script.restart()).or_default().rotations += 1;
        Ok(())
    }

    /// Ends the container as if it had crashed here: the next line begins the log of the next
    /// restart. `false`, and nothing done, in the last captured restart.
    pub fn restart(&mut self) -> Result<bool, TreeError> {
        if !self.script.begin_next_restart() {
            return Ok(false);
        }
        self.framer.file.flush()?;
        self.framer.file = LogFile::create(self.live_path(), self.rotated)?;
        let report =
            Report { first_seq: self.sequence + 1, last_seq: self.sequence, ..Report::default() };
        self.reports.insert(self.script.restart(), report);
        Ok(true)
    }

    /// Writes the next line and returns its bytes with framing.
    fn write_line(&mut self) -> Result<u64, TreeError> {
        if self.script.is_over() {
            self.restart()?;
        }
        let restart = self.script.restart();
        let (line, ended) = self.script.next_line();
        self.sequence += 1;
        self.framer.moment.set(self.framer.moment.ns() + self.step_ns);
        let written = self.framer.put(line, self.sequence, ended)?;
        let report = self.reports.entry(restart).or_default();
        report.count(line, ended, &written);
        report.last_seq = self.sequence;
        Ok(written.bytes)
    }
}

fn log_path(folder: &Path, restart: u32) -> PathBuf {
    folder.join(format!("{restart}.log"))
}

impl Report {
    fn count(&mut self, line: &Line, ended: bool, written: &Written) {
        self.lines += 1;
        self.json_lines += u64::from(line.is_json);
        self.blank_lines += u64::from(line.is_blank);
        self.stderr_lines += u64::from(line.stream == Stream::Stderr);
        self.split_lines += u64::from(written.is_split);
        self.unfinished_lines += u64::from(!ended);
        self.bytes += written.bytes;
        self.rotations += written.rotations;
    }
}

/// What a pod prints, and how far it has got.
#[derive(Debug)]
struct Script {
    /// At least one, none of them empty. The last one is live for ever.
    restarts: Vec<(u32, Arc<[Line]>)>,
    /// The restart whose log is written, an index into `restarts`.
    current: usize,
    /// The restart whose lines are printed: `current`, until the last one repeats others'.
    source: usize,
    next_line: usize,
}

impl Script {
    fn new(captured: &BTreeMap<u32, Arc<[Line]>>, all: bool) -> Self {
        let restarts: Vec<_> = captured.iter().map(|(n, lines)| (*n, lines.clone())).collect();
        let first = if all { 0 } else { restarts.len() - 1 };
        Self { restarts, current: first, source: first, next_line: 0 }
    }

    fn restart(&self) -> u32 {
        self.restarts[self.current].0
    }

    fn restarts_to_come(&self) -> Vec<u32> {
        self.restarts[self.current..].iter().map(|(number, _)| *number).collect()
    }

    /// Whether the current restart is the one that goes on for ever.
    fn repeats(&self) -> bool {
        self.current + 1 == self.restarts.len()
    }

    /// Whether the current restart has printed everything and a later one is to come.
    fn is_over(&self) -> bool {
        !self.repeats() && self.next_line >= self.restarts[self.source].1.len()
    }

    fn begin_next_restart(&mut self) -> bool {
        if self.repeats() {
            return false;
        }
        self.current += 1;
        self.source = self.current;
        self.next_line = 0;
        true
    }

    /// The next line and whether it has an end. In a log that goes on, every line has one: the
    /// process would have written its line feed later.
    fn next_line(&mut self) -> (&Line, bool) {
        if self.next_line >= self.restarts[self.source].1.len() {
            self.source = (self.source + 1) % self.restarts.len();
            self.next_line = 0;
        }
        let repeats = self.repeats();
        let line = &self.restarts[self.source].1[self.next_line];
        self.next_line += 1;
        (line, line.ended || repeats)
    }
}
