//! `kubectl`, as those use it who administer a server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::server;

pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    /// What it remembers of the server.
    cache: TempDir,
}

impl Kubectl {
    /// With the rights of this kubeconfig.
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), cache: tempfile::tempdir().unwrap() }
    }

    /// Runs it to its end, with `input` on its standard input.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(server("KUBECTL"))
            .env("KUBECONFIG", &self.kubeconfig)
            .arg(format!("--cache-dir={}", self.cache.path().display()))
            .args(["--request-timeout=60s"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().expect("it was asked for").write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The same for what has to succeed; what it printed.
    pub(crate) fn succeed(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }
}
