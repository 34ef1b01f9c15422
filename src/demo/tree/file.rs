//! One container's live log file, rotated the way the kubelet does it.
//!
//! Guarantees that bytes reach the live file in order, that a rotated file is called
//! `<restart>.log.<yyyymmdd-hhmmss>` (UTC here; the kubelet takes local time) and that all but the
//! newest rotated file are gzip-compressed through a temporary name. Leaves out when to rotate.
//! Source: kubernetes/kubernetes `pkg/kubelet/logs/container_log_manager.go`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::capture::TreeError;
use super::clock::Moment;

/// Bytes gathered before a write call.
const BLOCK_BYTES: usize = 256 * 1024;

/// What becomes of rotated files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// Compress all but the newest.
    pub gzip: bool,
    /// How many to keep, the oldest going first; `None` keeps all.
    pub keep: Option<usize>,
}

/// An open container log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    rotated: VecDeque<PathBuf>,
    policy: Rotated,
    /// Not written yet; at most a block and one piece.
    block: Vec<u8>,
    /// Bytes in the live file.
    written_bytes: u64,
}

impl LogFile {
    /// Creates the file and its folder; what stood there is gone.
    pub(super) fn create(path: PathBuf, policy: Rotated) -> Result<Self, TreeError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(TreeError::io("create", folder))?;
        }
        let file = File::create(&path).map_err(TreeError::io("create", &path))?;
        let rotated = VecDeque::new();
        Ok(Self { path, file, rotated, policy, block: Vec::new(), written_bytes: 0 })
    }

    /// Where the next piece is appended. Call [`LogFile::spill`] after each piece.
    pub(super) fn block(&mut self) -> &mut Vec<u8> {
        &mut self.block
    }

    /// Bytes in the live file, those not written yet included.
    pub(super) fn live_bytes(&self) -> u64 {
        self.written_bytes + self.block.len() as u64
    }

    /// Writes once enough has gathered.
    pub(super) fn spill(&mut self) -> Result<(), TreeError> {
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what has gathered.
    pub(super) fn flush(&mut self) -> Result<(), TreeError> {
        self.file.write_all(&self.block).map_err(TreeError::io("write", &self.path))?;
        self.written_bytes += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Renames the live file, begins a new one, then compresses and removes older ones.
    pub(super) fn rotate(&mut self, now: &Moment) -> Result<(), TreeError> {
        self.flush()?;
        let to = self.free_name(now);
        std::fs::rename(&self.path, &to).map_err(TreeError::io("rename", &self.path))?;
        self.file = File::create(&self.path).map_err(TreeError::io("create", &self.path))?;
        self.written_bytes = 0;
        if self.policy.gzip
            && let Some(last) = self.rotated.back_mut()
        {
            *last = compress(last)?;
        }
        self.rotated.push_back(to);
        while self.policy.keep.is_some_and(|keep| self.rotated.len() > keep) {
            let Some(oldest) = self.rotated.pop_front() else { break };
            std::fs::remove_file(&oldest).map_err(TreeError::io("remove", &oldest))?;
        }
        Ok(())
    }

    /// A name that no rotated file has: the kubelet never rotates twice in a second, a fast
    /// writer does and gets the next seconds.
    fn free_name(&self, now: &Moment) -> PathBuf {
        let mut moment = now.clone();
        loop {
            let name = with_suffix(&self.path, &format!(".{}", moment.rotation_suffix()));
            // Rotated files are in the order of their names, so only the newest can be in the way.
            let newest = self.rotated.back().map(|path| plain_name(path));
            if newest.is_none_or(|newest| newest < name) {
                return name;
            }
            moment.set(moment.ns() + 1_000_000_000);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The name that a rotated file had before it was compressed.
fn plain_name(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|end| end == "gz") {
        path.with_extension("")
    } else {
        path.into()
    }
}

/// Puts `path.gz` in the place of `path`.
fn compress(path: &Path) -> Result<PathBuf, TreeError> {
    let (temporary, to) = (with_suffix(path, ".tmp"), with_suffix(path, ".gz"));
    let pack = || -> std::io::Result<()> {
        let mut packed = GzEncoder::new(File::create(&temporary)?, Compression::default());
        std::io::copy(&mut File::open(path)?, &mut packed)?;
        packed.finish()?;
        std::fs::rename(&temporary, &to)?;
        std::fs::remove_file(path)
    };
    pack().map_err(TreeError::io("compress", path))?;
    Ok(to)
}
