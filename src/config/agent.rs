//! The agent's own settings (`config/agent.yaml`), resolved, with their defaults.
//!
//! Owns the types and [`Agent::default`], the only place where these defaults stand. How they are
//! read, and the ranges, are in `read_agent.rs`.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::units::{GIB, MIB};

/// Everything that is true for the whole process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The node whose pods are asked for. Empty unless `kubernetes.source` is `api`.
    pub node_name: String,
    pub logs: Logs,
    pub held: Held,
    pub state: State,
    /// Bytes that may be held between reading and acknowledgement.
    pub memory_budget_bytes: usize,
    /// Threads that read, parse and encode.
    pub threads: usize,
    pub kubernetes: Kubernetes,
    /// How long a shutdown may take to get answers for what is in flight.
    pub drain: Duration,
    /// Where `/metrics`, `/livez` and `/readyz` are served; `None` serves nothing.
    pub telemetry_listen: Option<SocketAddr>,
    /// The directory of pipeline files, or one such file.
    pub pipelines: PathBuf,
    /// Where a Secret that the Logging operator's kinds refer to is mounted:
    /// `<secrets>/<name>/<key>`.
    pub secrets: PathBuf,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            logs: Logs {
                root: PathBuf::from("/var/log/pods"),
                docker_root: PathBuf::from("/var/lib/docker/containers"),
                format: LineFormat::Auto,
                max_line_bytes: MIB,
                start: Start::Oldest,
                include_self: false,
                rescan: Duration::from_secs(5),
            },
            held: Held {
                max_bytes: 2 * GIB as u64,
                max_files: 4096,
                spool_bytes: 256 * MIB as u64,
            },
            state: State {
                dir: PathBuf::from("/var/lib/splashdam"),
                checkpoint_interval: Duration::from_secs(1),
            },
            memory_budget_bytes: 64 * MIB,
            threads: 1,
            kubernetes: Kubernetes {
                source: PodSource::Api,
                unknown_pod_wait: Duration::from_secs(60),
                flink: FlinkWatch::Off,
            },
            drain: Duration::from_secs(25),
            telemetry_listen: Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9102))),
            pipelines: PathBuf::from("/etc/splashdam/pipelines"),
            secrets: PathBuf::from("/etc/splashdam/secrets"),
        }
    }
}

/// Where log files are and how they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    pub root: PathBuf,
    /// Links in the tree are followed only to beneath this directory.
    pub docker_root: PathBuf,
    pub format: LineFormat,
    /// A logical line longer than this is cut and marked.
    pub max_line_bytes: usize,
    pub start: Start,
    pub include_self: bool,
    pub rescan: Duration,
}

/// How the runtime frames a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// Decided for each file by its first line.
    Auto,
    Cri,
    Docker,
}

/// Where reading begins in streams that are there at the first start without a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Oldest,
    Newest,
    /// Lines whose runtime time is at most this old.
    Since(Duration),
}

/// How much is held of deleted files that are not read to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Beyond it the stream that holds most gives up its oldest part.
    pub max_bytes: u64,
    pub max_files: u64,
    /// What is copied to the state directory when the process ends.
    pub spool_bytes: u64,
}

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub dir: PathBuf,
    pub checkpoint_interval: Duration,
}

/// Where facts about pods come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    pub source: PodSource,
    /// How long an unknown pod is waited for, counted only while the source is in sync.
    pub unknown_pod_wait: Duration,
    pub flink: FlinkWatch,
}

/// Whether what Flink's operator says of clusters is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlinkWatch {
    Off,
    /// From the API server, of `FlinkDeployment` and `FlinkSessionJob`.
    Watch,
}

/// See [`Kubernetes::source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSource {
    Api,
    File(PathBuf),
    None,
}
