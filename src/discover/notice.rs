//! What goes wrong while looking: counted each time, logged once a minute for each cause.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cause stays quiet in the log.
const QUIET: Duration = Duration::from_secs(60);

/// Why something could not be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// The root is not there (yet).
    Root,
    /// A directory, or an entry of it, could not be read.
    Directory,
    /// A link leads out of `docker_root`, or to something that is no file.
    Link,
    /// No inotify instance or watch to spare.
    Watch,
    /// Events came faster than they were taken; a full scan makes up for them.
    Overflow,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Directory => "directory",
            Self::Link => "link",
            Self::Watch => "watch",
            Self::Overflow => "overflow",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Root => "waiting for the directory of log files",
            Self::Directory => "cannot read a directory of log files, trying again",
            Self::Link => "not following a link out of docker_root",
            Self::Watch => "cannot watch for changes, finding them at the rescan interval only",
            Self::Overflow => "too many changes at once, scanning everything",
        }
    }
}

/// Remembers what was said when.
#[derive(Debug, Default)]
pub(super) struct Notices {
    said: HashMap<Cause, Instant>,
}

impl Notices {
    pub(super) fn tell(&mut self, cause: Cause, path: &Path, error: &dyn Display) {
        metrics::counter!("splashdam_scan_errors_total", "cause" => cause.as_str()).increment(1);
        let now = Instant::now();
        let quiet = self.said.get(&cause).is_some_and(|said| now.duration_since(*said) < QUIET);
        if !quiet {
            self.said.insert(cause, now);
            tracing::warn!(cause = cause.as_str(), path = ?path, error = %error, "{}", cause.text());
        }
    }
}
