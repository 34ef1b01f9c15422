//! The program on a node without a line of log.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// A running agent. Killed when dropped.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts it for `node`; its files are in a new folder below `folder`.
    pub(crate) fn start(folder: &Path, node: &str, kubeconfig: &Path) -> anyhow::Result<Self> {
        let folder = folder.join(node);
        for name in ["pods", "pipelines"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let out = folder.join("out.ndjson");
        let pipeline = format!(
            "pipeline: flink\nselect: [{{select: {{labels: {{type: \"flink-*\"}}}}}}]\n\
             output:\n  file: {{path: {}}}\n",
            out.display()
        );
        std::fs::write(folder.join("pipelines/flink.yaml"), pipeline)?;
        let settings = format!(
            "node_name: {node}\nlogs:\n  root: {folder}/pods\n  docker_root: {folder}/docker\n\
             state:\n  dir: {folder}/state\ntelemetry:\n  listen: none\n\
             pipelines: {folder}/pipelines\nkubernetes:\n  source: api\n",
            folder = folder.display(),
        );
        let configuration = folder.join("agent.yaml");
        std::fs::write(&configuration, settings)?;
        let child = Command::new(program())
            .args(["run".as_ref(), "--config".as_ref(), configuration.as_os_str()])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("stderr"))?)
            .spawn()
            .with_context(|| format!("can't start {}", program().display()))?;
        Ok(Self(child))
    }

    /// The most memory that it has had resident so far.
    pub(crate) fn peak_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.context("the agent has ended")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // it may have ended already, and then both have nothing to do
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The one that cargo built beside this, or `PROGRAM_UNDER_TEST`.
fn program() -> PathBuf {
    std::env::var_os("PROGRAM_UNDER_TEST")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_splashdam")), PathBuf::from)
}
