//! Writes one container run's log the way containerd and the kubelet leave it.
//!
//! Owns the framing of lines, splitting, rotation and compression. Runtime times start where the
//! caller says and advance with each piece, so that a tree is the same however fast it is written.
//! Sources: containerd `internal/cri/io/logger.go`, kubernetes
//! `pkg/kubelet/logs/container_log_manager.go`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use k8s_openapi::jiff::{Timestamp, ToSpan, tz::TimeZone};

use super::captures::Line;
use super::pods::Pod;

/// Content bytes after which containerd splits a line.
const SPLIT: usize = 16 * 1024;

/// The live log file of one container run, open for appending.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    rotated: Vec<PathBuf>,
    /// The runtime time that the next piece gets.
    now: Timestamp,
    /// The time in the newest rotated name.
    stamp: Timestamp,
    /// Bytes in the live file.
    size: u64,
}

impl Log {
    /// Creates `<root>/<namespace>_<pod>_<uid>/<container>/<restart>.log`.
    pub(crate) fn create(root: &Path, pod: &Pod, restart: u32) -> Self {
        let folder =
            root.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid)).join(&pod.container);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{restart}.log"));
        let file = File::create_new(&path).unwrap();
        let start: Timestamp = "2026-11-23T22:00:00.000000001Z".parse().unwrap();
        let now = start + (i64::from(restart) * 10).minutes();
        Self { path, file, rotated: Vec::new(), now, stamp: now - 1.seconds(), size: 0 }
    }

    /// The same, with `lines` in it.
    pub(crate) fn with_lines(root: &Path, pod: &Pod, restart: u32, lines: &[Line]) -> Self {
        let mut log = Self::create(root, pod, restart);
        log.lines(lines);
        log
    }

    pub(crate) fn lines(&mut self, lines: &[Line]) {
        for line in lines {
            self.line(line);
        }
    }

    /// Writes a whole line, in several records if it is long.
    pub(crate) fn line(&mut self, line: &Line) {
        let mut pieces = line.text.chunks(SPLIT).peekable();
        if pieces.peek().is_none() {
            self.piece(line.stream, "F", b"");
        }
        while let Some(piece) = pieces.next() {
            let tag = if pieces.peek().is_some() { "P" } else { "F" };
            self.piece(line.stream, tag, piece);
        }
    }

    /// Writes one record; returns the runtime time that it got.
    pub(crate) fn piece(&mut self, stream: &str, tag: &str, content: &[u8]) -> String {
        let time = self.now.to_string();
        let mut record = format!("{time} {stream} {tag} ").into_bytes();
        record.extend_from_slice(content);
        record.push(b'\n');
        self.file.write_all(&record).unwrap();
        self.size += u64::try_from(record.len()).unwrap();
        self.now += 1_000_037.nanoseconds();
        time
    }

    /// The live file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of all of the pod's files.
    pub(crate) fn pod_folder(&self) -> &Path {
        self.path.parent().and_then(Path::parent).expect("pod and container")
    }

    /// The runtime's clock shows an earlier time from now on.
    pub(crate) fn set_clock_back(&mut self, hours: i64) {
        self.now -= hours.hours();
    }

    /// The runtime opens the live file again and appends to it, whatever became of it.
    pub(crate) fn reopen(&mut self) {
        self.file = File::options().append(true).open(&self.path).unwrap();
        self.size = self.file.metadata().unwrap().len();
    }

    /// Where the next record begins, and the time that it will have.
    pub(crate) fn position(&self) -> (u64, String) {
        (self.size, self.now.to_string())
    }

    /// Rotates as the kubelet does: what was rotated before is compressed, the live file gets a
    /// name with a time stamp, and a new live file begins.
    pub(crate) fn rotate(&mut self) {
        for path in &mut self.rotated {
            if path.extension().is_none_or(|extension| extension != "gz") {
                *path = compress(path);
            }
        }
        // The kubelet looks every ten seconds; tests rotate faster than names have seconds.
        self.stamp = self.now.max(self.stamp + 1.seconds());
        let stamp = self.stamp.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
        let to = PathBuf::from(format!("{}.{stamp}", self.path.display()));
        fs::rename(&self.path, &to).unwrap();
        self.rotated.push(to);
        self.file = File::create_new(&self.path).unwrap();
        self.size = 0;
    }

    /// Removes the oldest rotated file, as the kubelet does with the sixth.
    pub(crate) fn remove_oldest(&mut self) {
        let oldest = self.rotated.remove(0);
        fs::remove_file(oldest).unwrap();
    }
}

/// Compresses beside the file under a temporary name, renames, and removes the plain file.
fn compress(path: &Path) -> PathBuf {
    let temporary = PathBuf::from(format!("{}.tmp", path.display()));
    let packed = PathBuf::from(format!("{}.gz", path.display()));
    let mut encoder = GzEncoder::new(File::create(&temporary).unwrap(), Compression::default());
    io::copy(&mut File::open(path).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    fs::rename(&temporary, &packed).unwrap();
    fs::remove_file(path).unwrap();
    packed
}
