//! Finds container log files. The scan is the truth; events (`notify`) only make it look sooner.
//!
//! Owns one thread that walks the kubelet's tree at `logs.rescan`, remembers what it has told, and
//! reports each stream whose files differ from that ([`Found`]). Between scans the kernel's events
//! bring a directory forward or say that a live file was written to. Guarantees that, once a scan
//! is complete, what was reported is what is there. Opens no log file and knows no content.
//!
//! Failure: a missing root is waited for, an unreadable directory costs only itself and keeps what
//! was reported of it; both are counted (`splashdam_scan_errors_total{cause}`) and logged once a
//! minute. Without watches or descriptors to spare only the interval finds what is new.
//! Limits: one inotify watch for each pod and container directory, one inotify instance and one
//! thread of `notify` in all.

mod directory;
mod hints;
mod notice;
pub mod path;
mod scan;
#[cfg(test)]
mod tests;
mod watch;
mod watcher;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use crate::config::agent::Logs;
pub use path::{PartKind, StreamName};
use scan::Scanner;
use watcher::{Open, recommended};

/// One file of a stream as the last look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSeen {
    /// Where to open it. For Docker the link's target, never the link.
    pub path: PathBuf,
    pub kind: PartKind,
    pub device: u64,
    pub inode: u64,
    /// Length in bytes, compressed where the file is.
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub modified_ns: i64,
}

/// What discovery has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The files of a stream, oldest first by their names, whenever a scan finds that they differ
    /// (path, inode, size, time) from what was reported last.
    Stream {
        name: StreamName,
        files: Vec<FileSeen>,
        /// A later run of the same container is there, so that this one has ended.
        later_restart: bool,
    },
    /// No file of it is left.
    Gone(StreamName),
    /// Hint: its live file was written to, at most once in some 20 ms.
    Written(StreamName),
    /// A scan of the whole tree has ended, and all it found is reported. Not complete: the root is
    /// missing or something in it could not be read, and what is there is not all known.
    Scanned { complete: bool },
}

/// The pod that this process runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPod {
    /// `None`: not known, any.
    pub namespace: Option<String>,
    pub pod: String,
}

impl OwnPod {
    /// From `POD_NAMESPACE` and `POD_NAME` (the downward API), else `HOSTNAME`, which Kubernetes
    /// sets to the pod's name.
    pub fn from_env() -> Option<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let namespace = variable("POD_NAMESPACE");
        let pod = variable("POD_NAME").or_else(|| variable("HOSTNAME"))?;
        Some(Self { namespace, pod })
    }
}

/// The running discovery. Dropping it ends its thread and waits for that.
#[derive(Debug)]
pub struct Discovery {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

/// How the thread is told something while it waits.
#[derive(Debug)]
struct Signal {
    wake: OwnedFd,
    stop: AtomicBool,
    rescan: AtomicBool,
}

impl Signal {
    fn raise(&self, what: &AtomicBool) {
        what.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake anyway.
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).ok();
    }
}

impl Discovery {
    /// Scans now, without waiting for the interval; [`Found::Scanned`] follows.
    pub fn rescan_now(&self) {
        self.signal.raise(&self.signal.rescan);
    }

    /// The same as [`Self::rescan_now`], for others to call.
    pub fn asker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let signal = Arc::clone(&self.signal);
        Arc::new(move || signal.raise(&signal.rescan))
    }

    /// Ends the thread and waits for it. Nothing is reported any more.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signal.raise(&self.signal.stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("discovery has panicked");
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts discovery. `own_pod` is left out unless `logs.include_self`. `report` is called on
/// discovery's thread and must not wait for long.
///
/// Fails when the process has no descriptor or thread to spare at all.
pub fn start(
    logs: &Logs,
    own_pod: Option<OwnPod>,
    report: impl Fn(Found) + Send + 'static,
) -> io::Result<Discovery> {
    start_with(Box::new(recommended), logs, own_pod, report)
}

fn start_with(
    open: Box<Open>,
    logs: &Logs,
    own_pod: Option<OwnPod>,
    report: impl Fn(Found) + Send + 'static,
) -> io::Result<Discovery> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let signal = Signal { wake, stop: AtomicBool::new(false), rescan: AtomicBool::new(false) };
    let signal = Arc::new(signal);
    let scanner = Scanner::new(logs, own_pod);
    let shared = Arc::clone(&signal);
    let rescan = logs.rescan;
    let thread = std::thread::Builder::new()
        .name("discover".to_owned())
        .spawn(move || watch::run(scanner, rescan, &shared, open, &report))?;
    Ok(Discovery { signal, thread: Some(thread) })
}
