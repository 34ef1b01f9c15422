//! One container's log directory as containerd and the kubelet keep it.
//!
//! Owns framing, the runtime's clock and the steps of a rotation, one call each, so that others
//! can happen between them: compress what was rotated before, rename the live file, and open a new
//! one, or put the old name back as the kubelet does where the runtime doesn't reopen. Writing
//! goes on in the old handle between rename and reopening.
//! Sources: containerd `internal/cri/io/logger.go`, kubernetes
//! `pkg/kubelet/logs/container_log_manager.go`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::{Compression, write::GzEncoder};
use k8s_openapi::jiff::Timestamp;

/// Rotated files that are never removed: containerLogMaxFiles is 5, the live one included.
const KEPT: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Stdout,
    Stderr,
}

/// A file that has left its live name.
#[derive(Debug)]
struct Rotated {
    /// Without `.gz`.
    path: PathBuf,
    compressed: bool,
    /// Runtime time of its first line.
    first_ns: i64,
}

#[derive(Debug)]
pub(crate) struct Log {
    live: PathBuf,
    file: File,
    /// Runtime time of the live file's first line.
    first_ns: Option<i64>,
    rotated: Vec<Rotated>,
    /// Renamed, and not reopened yet.
    moved: Option<PathBuf>,
    /// What is left to write of a piece that was begun.
    rest: Vec<u8>,
    /// The runtime's time of the latest piece.
    last_ns: i64,
    /// Seconds in the latest rotated name.
    stamp: i64,
    pub(crate) bytes: u64,
    pub(crate) rotations: u64,
}

impl Log {
    /// Creates `<folder>/<restart>.log`.
    pub(crate) fn create(folder: &Path, restart: u32) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let live = folder.join(format!("{restart}.log"));
        let file = File::create_new(&live)?;
        Ok(Self {
            live,
            file,
            first_ns: None,
            rotated: Vec::new(),
            moved: None,
            rest: Vec::new(),
            last_ns: 0,
            stamp: now_ns() / 1_000_000_000,
            bytes: 0,
            rotations: 0,
        })
    }

    /// Writes one piece; with `torn` only its beginning, and the rest with the next call.
    pub(crate) fn piece(
        &mut self,
        lane: Lane,
        full: bool,
        text: &[u8],
        torn: bool,
    ) -> io::Result<()> {
        self.finish_piece()?;
        self.last_ns = now_ns().max(self.last_ns + 1);
        self.first_ns.get_or_insert(self.last_ns);
        let time =
            Timestamp::from_nanosecond(i128::from(self.last_ns)).map_err(io::Error::other)?;
        let name = if lane == Lane::Stdout { "stdout" } else { "stderr" };
        let tag = if full { "F" } else { "P" };
        let mut bytes = format!("{time:.9} {name} {tag} ").into_bytes();
        bytes.extend_from_slice(text);
        bytes.push(b'\n');
        self.bytes += bytes.len() as u64;
        if torn {
            self.rest = bytes.split_off(bytes.len() / 2);
        }
        self.file.write_all(&bytes)
    }

    fn finish_piece(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.file.write_all(&rest)
    }

    /// Compresses what was rotated before and moves the live file away, if there is something in
    /// it. Whether it did.
    pub(crate) fn rename(&mut self) -> io::Result<bool> {
        if self.first_ns.is_none() || self.moved.is_some() {
            return Ok(false);
        }
        for rotated in self.rotated.iter_mut().filter(|rotated| !rotated.compressed) {
            compress(&rotated.path)?;
            rotated.compressed = true;
        }
        let to = self.free_name()?;
        fs::rename(&self.live, &to)?;
        self.moved = Some(to);
        Ok(true)
    }

    /// Begins a new live file after [`Log::rename`].
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let (Some(path), Some(first_ns)) = (self.moved.take(), self.first_ns.take()) else {
            return Ok(());
        };
        self.finish_piece()?;
        self.file = File::create_new(&self.live)?;
        self.rotated.push(Rotated { path, compressed: false, first_ns });
        self.rotations += 1;
        Ok(())
    }

    /// Undoes [`Log::rename`].
    pub(crate) fn rename_back(&mut self) -> io::Result<()> {
        match self.moved.take() {
            Some(path) => fs::rename(path, &self.live),
            None => Ok(()),
        }
    }

    /// Ends an open piece and a rotation that was begun.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        self.finish_piece()?;
        self.reopen()
    }

    /// Names go on as if the node's clock had been put back.
    pub(crate) fn put_names_back(&mut self, seconds: i64) {
        self.stamp -= seconds;
    }

    /// Removes rotated files that end before the part whose first line has `first_ns`; keeps the
    /// newest [`KEPT`] whatever.
    pub(crate) fn remove_before(&mut self, first_ns: i64) -> io::Result<()> {
        let spare = self.rotated.len().saturating_sub(KEPT);
        let done = self.rotated.iter().take_while(|rotated| rotated.first_ns < first_ns).count();
        for rotated in self.rotated.drain(..done.min(spare)) {
            fs::remove_file(if rotated.compressed { packed(&rotated.path) } else { rotated.path })?;
        }
        Ok(())
    }

    /// A name in the kubelet's form that no file has: it rotates at most once in ten seconds, so
    /// here the seconds run ahead.
    fn free_name(&mut self) -> io::Result<PathBuf> {
        loop {
            self.stamp += 1;
            let time = Timestamp::from_second(self.stamp).map_err(io::Error::other)?;
            let name = format!("{}.{}", self.live.display(), time.strftime("%Y%m%d-%H%M%S"));
            let path = PathBuf::from(name);
            if !path.try_exists()? && !packed(&path).try_exists()? {
                return Ok(path);
            }
        }
    }
}

fn packed(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.gz", path.display()))
}

/// Writes beside the file under a temporary name, renames, and removes the plain file.
fn compress(path: &Path) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{}.tmp", path.display()));
    let mut encoder = GzEncoder::new(File::create(&temporary)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&temporary, packed(path))?;
    fs::remove_file(path)
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).expect("before the year 2262")
}
