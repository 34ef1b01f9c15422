//! Writes trees of container logs like the kubelet's, from lines that real processes printed.
//!
//! One piece of code for the demo, the tests and the benches. Under a folder it makes
//! `pods/<namespace>_<pod>_<uid>/<container>/<restart>.log` in CRI framing with rotated parts, and
//! `pods.json`, the pods as `kubectl` lists them. Each restart of a capture becomes a container
//! log; the last one is repeated for as long as the caller wants more. Every line, repeated or
//! not, gets a fresh time from the runtime and in the event, and its number within the pod.
//!
//! Guarantees that the [`Report`] says exactly what was written. Never waits and reads no clock:
//! the caller passes the time or lets it step, so that paced writing is the caller's loop.
//! Writes several hundred MB/s in a release build.

mod capture;
mod clock;
mod cri;
mod file;
mod pod;
mod pods;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use capture::{Captures, Line, Numbering, Stream, TreeError};
pub use file::Rotated;
pub use pod::PodWriter;
pub use pods::{PodIdentity, pod_list};

/// What a tree is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Streams that are live; more are there if `restarts` is set.
    pub pods: usize,
    /// TaskManagers per cluster, beside its JobManager.
    pub taskmanagers: usize,
    /// Also write the restarts before the last one of each capture.
    pub restarts: bool,
    /// The live file is rotated once it holds this much; `None` never rotates by itself.
    pub rotate_bytes: Option<u64>,
    pub rotated: Rotated,
    pub numbering: Numbering,
    /// The time of the first line, nanoseconds since the epoch.
    pub start_ns: u64,
    /// Between two lines of a pod, unless the caller sets the time.
    pub step: Duration,
    /// Names and ids are the same for the same seed.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pods: 3,
            taskmanagers: 4,
            restarts: true,
            rotate_bytes: Some(10 * 1024 * 1024),
            rotated: Rotated { gzip: true, keep: Some(4) },
            numbering: Numbering { json: true, plain: false },
            start_ns: 1_767_225_600_000_000_000,
            step: Duration::from_micros(700),
            seed: 1,
        }
    }
}

/// What was written to one container log. The lines are logical ones, whole or cut in pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub lines: u64,
    /// Lines that are one JSON object.
    pub json_lines: u64,
    /// Lines of nothing but white space.
    pub blank_lines: u64,
    pub stderr_lines: u64,
    /// Lines that were cut in pieces.
    pub split_lines: u64,
    /// Lines without an end: only the last of a container that is gone.
    pub unfinished_lines: u64,
    /// With framing, of all parts.
    pub bytes: u64,
    pub rotations: u64,
    /// The numbers of the first and the last line; numbers count up without a gap within a pod.
    pub first_seq: u64,
    pub last_seq: u64,
}

/// A tree of container logs that can grow.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    pods_file: PathBuf,
    pods: Vec<PodWriter>,
}

impl Tree {
    /// Makes `out/pods` and `out/pods.json`, and opens the first log of every pod.
    pub fn create(out: &Path, captures: &Captures, options: &Options) -> Result<Self, TreeError> {
        let root = out.join("pods");
        std::fs::create_dir_all(&root).map_err(TreeError::io("create", &root))?;
        let pods: Vec<_> = (0..options.pods)
            .map(|number| PodWriter::create(&root, number, captures, options))
            .collect::<Result<_, _>>()?;
        let pods_file = out.join("pods.json");
        let list = pod_list(pods.iter().map(PodWriter::identity));
        std::fs::write(&pods_file, format!("{list:#}\n"))
            .map_err(TreeError::io("write", &pods_file))?;
        Ok(Self { root, pods_file, pods })
    }

    /// The folder that stands for `/var/log/pods`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The list of pods, for `kubernetes: {source: file}`.
    pub fn pods_file(&self) -> &Path {
        &self.pods_file
    }

    pub fn pods(&self) -> &[PodWriter] {
        &self.pods
    }

    pub fn pods_mut(&mut self) -> &mut [PodWriter] {
        &mut self.pods
    }

    /// Writes until the tree holds at least `bytes`, spread evenly over the pods.
    pub fn fill(&mut self, bytes: u64) -> Result<(), TreeError> {
        let share = bytes.div_ceil(self.pods.len().max(1) as u64);
        self.pods.iter_mut().try_for_each(|pod| pod.write_bytes(share))
    }

    /// What was written, summed over all pods and restarts. The numbers are left out.
    pub fn total(&self) -> Report {
        let reports = self.pods.iter().flat_map(|pod| pod.reports().values());
        reports.fold(Report::default(), |sum, one| Report {
            lines: sum.lines + one.lines,
            json_lines: sum.json_lines + one.json_lines,
            blank_lines: sum.blank_lines + one.blank_lines,
            stderr_lines: sum.stderr_lines + one.stderr_lines,
            split_lines: sum.split_lines + one.split_lines,
            unfinished_lines: sum.unfinished_lines + one.unfinished_lines,
            bytes: sum.bytes + one.bytes,
            rotations: sum.rotations + one.rotations,
            first_seq: 0,
            last_seq: 0,
        })
    }
}

#[cfg(test)]
mod tests;
