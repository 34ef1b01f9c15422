//! What a measurement needs on disk: trees of logs, kept from run to run, and the agent's files.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use splashdam::demo::tree::{Captures, Numbering, Options, Rotated, Tree};

use crate::sink::now_ns;

/// A tree that is there, and what it holds.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    pub(crate) folder: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    bytes: u64,
    lines: u64,
}

/// How a tree is made.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) captures: PathBuf,
    pub(crate) streams: usize,
    pub(crate) bytes: u64,
}

impl Shape {
    /// The options of a tree of plain, unrotated files whose last line was written about now.
    pub(crate) fn options(&self) -> Options {
        let step_ns = 700_000;
        let lines_per_stream = self.bytes / self.streams.max(1) as u64 / 600;
        Options {
            pods: self.streams,
            restarts: false,
            rotate_bytes: None,
            rotated: Rotated { gzip: false, keep: None },
            numbering: Numbering { json: true, plain: false },
            start_ns: now_ns().saturating_sub(lines_per_stream * step_ns),
            step: std::time::Duration::from_nanos(step_ns),
            ..Options::default()
        }
    }

    /// The tree of this shape, made unless an earlier run left it in the temporary folder.
    pub(crate) fn prepare(&self) -> anyhow::Result<Logs> {
        let captures = std::fs::canonicalize(&self.captures)
            .with_context(|| format!("no captures in {}", self.captures.display()))?;
        let name: String = (captures.to_string_lossy().chars())
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let folder = cache().join(format!("{}-{}{name}", self.bytes, self.streams));
        let marker = folder.join("done.json");
        let marked = match std::fs::read(&marker) {
            Ok(text) => serde_json::from_slice::<Marker>(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let marked = self.write(&captures, &folder)?;
                std::fs::write(&marker, serde_json::to_vec(&marked)?)?;
                marked
            }
            Err(error) => return Err(error).context("cannot read a kept tree"),
        };
        let Marker { bytes, lines } = marked;
        Ok(Logs { folder, bytes, lines })
    }

    fn write(&self, captures: &Path, folder: &Path) -> anyhow::Result<Marker> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let captures = Captures::load(captures)?;
        let start = std::time::Instant::now();
        let mut tree = Tree::create(folder, &captures, &self.options())?;
        tree.fill(self.bytes)?;
        let total = tree.total();
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "wrote {:.2} GiB into {} ({:.0} MB/s)",
            gib(total.bytes),
            folder.display(),
            total.bytes as f64 / 1e6 / seconds
        );
        Ok(Marker { bytes: total.bytes, lines: total.lines })
    }
}

/// Where trees are kept: `splashdam-bench` in the temporary folder.
pub(crate) fn cache() -> PathBuf {
    std::env::temp_dir().join("splashdam-bench")
}

/// A folder there for a tree that is not kept; gone on drop.
pub(crate) fn passing_folder() -> io::Result<tempfile::TempDir> {
    std::fs::create_dir_all(cache())?;
    tempfile::tempdir_in(cache())
}

pub(crate) fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Logs {
    /// Every log file, in a fixed order.
    pub(crate) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let (mut files, mut folders) = (Vec::new(), vec![self.folder.join("pods")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push(entry.path());
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

/// The agent's executable, built in the same profile.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_splashdam");

/// What is different from run to run of the agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentOptions {
    pub(crate) output: String,
    pub(crate) gzip: bool,
    pub(crate) threads: usize,
    pub(crate) linger: String,
    pub(crate) telemetry_port: Option<u16>,
    pub(crate) budget: String,
    pub(crate) multiline: &'static str,
    pub(crate) document: &'static str,
    pub(crate) filters: Vec<Value>,
    /// The authority to trust, where the output speaks TLS.
    pub(crate) ca: Option<PathBuf>,
    /// An API server to take pods from, in place of the tree's file.
    pub(crate) api: Option<SocketAddr>,
}

impl AgentOptions {
    pub(crate) fn new(output: String) -> Self {
        Self {
            output,
            gzip: false,
            threads: 1,
            linger: "1s".to_owned(),
            telemetry_port: None,
            budget: "64MiB".to_owned(),
            multiline: "java",
            document: "fluentd",
            filters: Vec::new(),
            ca: None,
            api: None,
        }
    }
}

/// The agent's files for one run, with a state that knows nothing; gone on drop.
pub(crate) struct AgentFiles {
    folder: tempfile::TempDir,
}

impl AgentFiles {
    /// For the tree in `logs`, a folder with `pods` and `pods.json`.
    pub(crate) fn write(logs: &Path, options: &AgentOptions) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let pipelines = folder.path().join("pipelines");
        std::fs::create_dir(&pipelines)?;
        let listen = match options.telemetry_port {
            Some(port) => format!("127.0.0.1:{port}"),
            None => "none".to_owned(),
        };
        let kubernetes = match options.api {
            Some(_) => json!({"source": "api"}),
            None => json!({"source": "file", "file": logs.join("pods.json")}),
        };
        let agent = json!({
            "node_name": "node-a",
            "logs": {"root": logs.join("pods")},
            "state": {"dir": folder.path().join("state")},
            "memory": {"budget": options.budget},
            "threads": options.threads,
            "kubernetes": kubernetes,
            "telemetry": {"listen": listen},
            "pipelines": pipelines,
        });
        let mut output = json!({
            "hosts": [options.output],
            "index": "fluentd",
            "document": options.document,
            "compression": if options.gzip { "gzip" } else { "none" },
            "batch": {"size": "4MiB", "linger": options.linger},
        });
        if let Some(ca) = &options.ca {
            output["tls"] = json!({"ca": ca});
        }
        let mut pipeline = json!({
            "pipeline": "bench",
            "select": [{"select": {"labels": {"type": "flink-*"}}}],
            "parse": {"json": {"time": "@timestamp"}, "multiline": options.multiline},
            "output": {"elasticsearch": output},
        });
        if !options.filters.is_empty() {
            pipeline["filters"] = json!(options.filters);
        }
        if let Some(api) = options.api {
            let config = kubeconfig(api).to_string();
            std::fs::write(folder.path().join("kubeconfig"), config)?;
        }
        std::fs::write(folder.path().join("agent.yaml"), agent.to_string())?;
        std::fs::write(pipelines.join("bench.yaml"), pipeline.to_string())?;
        Ok(Self { folder })
    }

    /// Makes the state that `other`'s agent left the one that this agent begins with.
    pub(crate) fn copy_state(&self, other: &Self) -> io::Result<()> {
        copy_files(&other.folder.path().join("state"), &self.folder.path().join("state"))
    }

    /// The agent on these files; its own log goes to a file beside them.
    pub(crate) fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let log = std::fs::File::create(self.folder.path().join("agent.log"))?;
        let mut command = Command::new(AGENT);
        command.arg("run").arg("--config").arg(self.folder.path().join("agent.yaml"));
        command.args(arguments).stderr(Stdio::from(log));
        command.env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        Ok(command)
    }

    /// The last lines that the agent said.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Copies a folder with all beneath it.
fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// How to reach the API server at `address`, without credentials.
fn kubeconfig(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "bench", "user": {}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    })
}

/// The content of captures as they are, for comparisons that need lines in memory.
pub(crate) fn captured_lines(captures: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(captures)? {
        let path = entry?.path();
        let mut text = std::fs::read(&path)?;
        if path.extension().is_some_and(|end| end == "gz") {
            let mut plain = Vec::new();
            io::copy(&mut GzDecoder::new(text.as_slice()), &mut plain)?;
            text = plain;
        }
        lines.extend(text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
    }
    ensure!(!lines.is_empty(), "no captures in {}", captures.display());
    Ok(lines)
}
