//! A kube-apiserver of one test's own, which may be stopped, killed and started again.
//!
//! The others share the one of `tests/with-servers`. It keeps its port, objects, keys and tokens
//! from one start to the next; what its watch cache remembered is gone each time.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server that ends with the value.
pub(crate) struct ApiServer {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    child: Child,
}

impl ApiServer {
    /// Starts it, empty, and waits until it serves.
    pub(crate) fn start() -> Self {
        let program = program();
        let folder = tempfile::Builder::new().prefix("splashdam-api-").tempdir().unwrap();
        let port = free_port();
        let child = launch(&program, folder.path(), port);
        Self { program, folder, port, child }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// SIGTERM; returns when it has gone.
    pub(crate) fn stop(&mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(id, Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// SIGKILL; returns when it has gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it after it was stopped or killed, and waits until it serves.
    pub(crate) fn start_again(&mut self) {
        self.child = launch(&self.program, self.folder.path(), self.port);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // it may have ended already, and then both have nothing to do
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The built server; `tests/with-servers` has made it.
fn program() -> PathBuf {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/kubernetes/build.sh");
    let output = Command::new(build).arg("kube-local").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "no kube-apiserver could be built");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Standard error goes into the server's folder: it is long, and of no use to those who read why a
/// test failed.
fn launch(program: &Path, folder: &Path, port: u16) -> Child {
    let log = std::fs::File::create(folder.join("stderr")).unwrap();
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(["-keep", "-port", &port.to_string(), "-data-dir"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
    stdout.read_line(&mut line).unwrap();
    if !line.starts_with("READY ") {
        let log = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        panic!("the API server stopped while starting: {last:#?}");
    }
    child
}

/// A loopback port that nobody has, below those that the kernel gives away: while the server is
/// down, nobody else gets it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 5000).expect("small");
    let ports = std::iter::repeat_with(|| {
        20_000 + (first + 7 * NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000
    });
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.take(1000).find(is_free).expect("one of a thousand is free")
}
