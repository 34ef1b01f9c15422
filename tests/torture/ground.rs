//! The node: a folder with the kubelet's tree, the agent's files and its state.
//!
//! Owns their places and the agent's configuration. The folder goes with the value unless it is
//! to be kept.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::dice::Dice;

/// The pipeline whose output answers, and the one whose output is dead.
pub(crate) const LIVE: &str = "live";
const DEAD: &str = "dead";

const CONTAINER: &str = "flink-main-container";

/// `memory.budget`.
pub(crate) const BUDGET: u64 = 64 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Ground {
    folder: TempDir,
    pub(crate) containers: u32,
    pub(crate) live: SocketAddr,
    /// Where nobody answers.
    pub(crate) dead: Option<SocketAddr>,
    pub(crate) threads: u32,
}

impl Ground {
    /// A node with so many pods, of one container each.
    pub(crate) fn create(containers: u32, live: SocketAddr) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("splashdam-torture-").tempdir()?;
        let ground = Self { folder, containers, live, dead: None, threads: 1 };
        fs::create_dir(ground.path("pipelines"))?;
        fs::create_dir(ground.path("pods"))?;
        let pods: Vec<Value> = (0..containers).map(pod).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
        fs::write(ground.path("pods.json"), list.to_string())?;
        Ok(ground)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// Where the logs of a container are.
    pub(crate) fn logs(&self, number: u32) -> PathBuf {
        self.path("pods").join(pod_folder(number)).join(CONTAINER)
    }

    /// What the checkpoint calls a container's first run.
    pub(crate) fn stream(number: u32) -> String {
        format!("{}/{CONTAINER}/0", pod_folder(number))
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.path("agent.yaml")
    }

    /// Writes the agent's files; batches and compression are as the dice fall.
    pub(crate) fn configure(&self, dice: &mut Dice) -> io::Result<()> {
        let agent = json!({
            "logs": {"root": self.path("pods"), "rescan": "500ms"},
            "state": {"dir": self.path("state"), "checkpoint_interval": "200ms"},
            "memory": {"budget": BUDGET},
            "threads": self.threads,
            "kubernetes": {"source": "file", "file": self.path("pods.json")},
            "shutdown": {"drain": "2s"},
            "telemetry": {"listen": "none"},
            "pipelines": self.path("pipelines"),
        });
        fs::write(self.configuration(), agent.to_string())?;
        self.pipeline(LIVE, Some(self.live), dice)?;
        self.pipeline(DEAD, self.dead, dice)
    }

    fn pipeline(&self, name: &str, output: Option<SocketAddr>, dice: &mut Dice) -> io::Result<()> {
        let path = self.path("pipelines").join(format!("{name}.yaml"));
        let Some(output) = output else {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let pipeline = json!({
            "pipeline": name,
            "id_scope": name,
            "select": [{"select": {"labels": {"type": "flink-*"}}}],
            "parse": {"json": {"time": "@timestamp"}, "multiline": "java"},
            "output": {"elasticsearch": {
                "hosts": [format!("http://{output}")],
                "index": "fluentd",
                "compression": if dice.one_in(2) { "gzip" } else { "none" },
                "batch": {
                    "size": dice.pick(&["64KiB", "512KiB", "2MiB"]),
                    "linger": dice.pick(&["50ms", "200ms"]),
                },
            }},
        });
        fs::write(path, pipeline.to_string())
    }
}

fn pod_name(number: u32) -> String {
    format!("orders-taskmanager-1-{number}")
}

fn uid(number: u32) -> String {
    format!("5e1f0c2a-0000-4000-8000-{number:012x}")
}

fn pod_folder(number: u32) -> String {
    format!("flink_{}_{}", pod_name(number), uid(number))
}

/// A pod as `kubectl get pods -o json` prints it.
fn pod(number: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(number),
            "namespace": "flink",
            "uid": uid(number),
            "labels": {"app": "orders", "component": "taskmanager", "type": "flink-native-kubernetes"},
        },
        "spec": {"nodeName": "node-a", "containers": [{"name": CONTAINER, "image": "flink:1.20"}]},
        "status": {"phase": "Running", "podIP": "10.244.1.7"},
    })
}
