//! What goes wrong while looking: counted each time, logged once a minute for each cause.

use std::fmt::Display;
use std::path::Path;

use crate::telemetry::throttle;

/// Why something could not be looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    /// The root is not there (yet).
    Root,
    /// A directory, or an entry of it, could not be read.
    Directory,
    /// A link leads out of `docker_root`, or to something that is no file, or there is no such directory.
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
            Self::Link => "not following a link among the log files",
            Self::Watch => "cannot watch for changes, finding them at the rescan interval only",
            Self::Overflow => "too many changes at once, scanning everything",
        }
    }
}

/// Counts it, and says it once a minute for each cause.
pub(super) fn tell(cause: Cause, path: &Path, error: &dyn Display) {
    metrics::counter!("splashdam_scan_errors_total", "cause" => cause.as_str()).increment(1);
    if let Some(suppressed) = throttle::allow(cause.text()) {
        let name = cause.as_str();
        tracing::warn!(suppressed, cause = name, path = ?path, error = %error, "{}", cause.text());
    }
}
