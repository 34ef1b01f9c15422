//! One node: its log tree, the agent's files, and the program.
//!
//! Owns a temporary folder that goes with the value. The program's standard error is kept in a
//! file there and shown when a test fails while the value lives.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::account::Account;
use super::pods::{self, Pod};
use super::small_disk::SmallDisk;
use super::{AFTER_A_PAUSE, SOON, pause, wait_until};

/// After this a run that was to end by itself is killed and the test fails.
const PATIENCE: Duration = Duration::from_secs(180);

/// The program under test: the one that cargo built beside the tests, or `PROGRAM_UNDER_TEST`.
fn program() -> PathBuf {
    std::env::var_os("PROGRAM_UNDER_TEST")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_splashdam")), PathBuf::from)
}

/// The line that `run --once` prints.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) streams: u64,
    pub(crate) lines_read: u64,
    pub(crate) lines_indexed: u64,
    pub(crate) lines_refused: u64,
    pub(crate) lines_filtered: u64,
    pub(crate) documents_indexed: u64,
    pub(crate) documents_refused: u64,
    pub(crate) duplicates_answered: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_unfinished: u64,
    pub(crate) seconds: f64,
}

/// How a run that ended by itself ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The summary on standard output, which is one line and nothing else.
    pub(crate) fn summary(&self) -> Summary {
        let line = self.stdout.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n'), "more than one line on stdout: {}", self.stdout);
        let summary: Summary = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("{error} in {:?}; stderr: {}", self.stdout, self.stderr)
        });
        assert_eq!(
            summary.lines_read,
            summary.lines_indexed + summary.lines_refused + summary.lines_filtered,
            "every line that was read has one outcome: {summary:?}",
        );
        summary
    }
}

/// A node with an agent's files on it.
#[derive(Debug)]
pub(crate) struct Node {
    folder: TempDir,
    kubeconfig: Option<PathBuf>,
    /// What the agent has instead of a kubeconfig where it is a pod.
    account: Option<Account>,
    /// Where the state directory is, if that is a file system of its own.
    disk: Option<SmallDisk>,
}

impl Node {
    /// A node whose agent knows `pods` from a file.
    pub(crate) fn with_pods<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let node = Self::bare();
        let file = node.path("pods.json");
        node.set_pods(pods);
        let source = format!("kubernetes:\n  source: file\n  file: {}\n", file.display());
        node.configure(&source);
        node
    }

    /// Replaces the pods that are known from a file.
    pub(crate) fn set_pods<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) {
        let list = serde_json::to_vec(&pods::list(pods)).unwrap();
        fs::write(self.path("pods.json"), list).unwrap();
    }

    /// The state directory becomes a file system of `bytes`.
    pub(crate) fn with_small_state(mut self, bytes: u64) -> Self {
        self.disk = Some(SmallDisk::mount(&self.state(), bytes));
        self
    }

    /// The file system of the state directory.
    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("asked for by `with_small_state`")
    }

    /// The node `name` of the cluster that `kubeconfig` leads to.
    pub(crate) fn in_cluster(name: &str, kubeconfig: &Path) -> Self {
        let mut node = Self::bare();
        node.kubeconfig = Some(kubeconfig.to_owned());
        node.configure(&format!("node_name: {name}\nkubernetes:\n  source: api\n"));
        node
    }

    /// The node `name` of a cluster in which the agent is a pod.
    pub(crate) fn with_account(name: &str, account: Account) -> Self {
        let mut node = Self::bare();
        node.account = Some(account);
        node.configure(&format!("node_name: {name}\nkubernetes:\n  source: api\n"));
        node
    }

    /// What the agent has of its service account.
    pub(crate) fn account(&self) -> &Account {
        self.account.as_ref().expect("given to `with_account`")
    }

    fn bare() -> Self {
        let folder = tempfile::Builder::new().prefix("splashdam-it-").tempdir().unwrap();
        let node = Self { folder, kubeconfig: None, account: None, disk: None };
        for name in ["pods", "pipelines", "docker"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        node
    }

    /// Writes the agent's settings: those that every test needs, then `more` top-level ones.
    fn configure(&self, more: &str) {
        let text = format!(
            "logs:\n  root: {root}\n  docker_root: {docker}\n  rescan: 500ms\n\
             state:\n  dir: {state}\n\
             telemetry:\n  listen: {listen}\n\
             pipelines: {pipelines}\n{more}",
            root = self.root().display(),
            docker = self.path("docker").display(),
            state = self.state().display(),
            listen = free_address(),
            pipelines = self.path("pipelines").display(),
        );
        fs::write(self.configuration(), text).unwrap();
    }

    /// Adds top-level settings to those of the agent.
    pub(crate) fn add_settings(&self, more: &str) {
        let mut file = File::options().append(true).open(self.configuration()).unwrap();
        file.write_all(more.as_bytes()).unwrap();
    }

    /// Adds a setting below `state`.
    pub(crate) fn set_state(&self, setting: &str) {
        let text = fs::read_to_string(self.configuration()).unwrap();
        let text = text.replace("state:\n", &format!("state:\n  {setting}\n"));
        fs::write(self.configuration(), text).unwrap();
    }

    /// Adds a setting below `kubernetes`.
    pub(crate) fn set_kubernetes(&self, setting: &str) {
        let text = fs::read_to_string(self.configuration()).unwrap();
        let text = text.replace("kubernetes:\n", &format!("kubernetes:\n  {setting}\n"));
        fs::write(self.configuration(), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The kubelet's tree.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("pods")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.path("agent.yaml")
    }

    /// Where the files of the state directory are to be seen.
    pub(crate) fn state_files(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.state(), SmallDisk::folder)
    }

    /// What the pipeline `flink` keeps because it was refused in every form.
    pub(crate) fn dead_letters(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.state_files().join("dead-letter/flink.ndjson"));
        let text = text.unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Writes a pipeline file; returns its path.
    pub(crate) fn pipeline(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("pipelines").join(format!("{name}.yaml"));
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs the program with `arguments` to its end.
    pub(crate) fn execute(&self, arguments: &[&str]) -> Ended {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdout.take().expect("it was asked for");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let mut agent = Agent { child, stderr: self.stderr(), address: None };
        let status = agent.wait(PATIENCE);
        let stdout = reader.join().unwrap().unwrap();
        Ended { code: status.code(), stdout, stderr: agent.stderr() }
    }

    /// Runs `splashdam run --once` with further arguments to its end.
    pub(crate) fn run_once_with(&self, arguments: &[&str]) -> Ended {
        let configuration = self.configuration();
        let configuration = configuration.to_str().expect("temporary paths are UTF-8");
        self.execute(&[&["run", "--config", configuration, "--once"], arguments].concat())
    }

    /// Runs `splashdam run --once`, which has to succeed.
    pub(crate) fn run_once(&self) -> Summary {
        let ended = self.run_once_with(&["--deadline", "2m"]);
        assert_eq!(ended.code, Some(0), "stdout: {}\nstderr: {}", ended.stdout, ended.stderr);
        ended.summary()
    }

    /// Starts the agent.
    pub(crate) fn run(&self) -> Agent {
        self.run_at(free_address(), Stdio::null())
    }

    /// Runs it with a standard output that nobody reads.
    pub(crate) fn run_unheard(&self) -> Agent {
        self.run_at(free_address(), Stdio::piped())
    }

    fn run_at(&self, address: SocketAddr, stdout: Stdio) -> Agent {
        let configuration = self.configuration();
        let child = self
            .command(&["run", "--config", configuration.to_str().expect("UTF-8")])
            .env("SPLASHDAM_TELEMETRY__LISTEN", address.to_string())
            .stdout(stdout)
            .spawn()
            .unwrap();
        Agent { child, stderr: self.stderr(), address: Some(address) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let log = File::options().create(true).append(true).open(self.stderr()).unwrap();
        let mut command = match (&self.disk, &self.account) {
            (Some(disk), _) => disk.command(&program()),
            (None, Some(account)) => account.command(&program(), self.folder.path()),
            (None, None) => Command::new(program()),
        };
        command.args(arguments).stdin(Stdio::null()).stderr(log);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
    }

    fn stderr(&self) -> PathBuf {
        self.path("stderr")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read(self.stderr()).unwrap_or_default();
            let shown = &log[log.len().saturating_sub(8 * 1024)..];
            // printed by the test harness with the failure
            let mut out = std::io::stderr().lock();
            drop(writeln!(out, "--- the program's stderr\n{}", String::from_utf8_lossy(shown)));
        }
    }
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    stderr: PathBuf,
    address: Option<SocketAddr>,
}

impl Agent {
    /// Whether `/readyz` says yes.
    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(code, _)| code == 200)
    }

    /// A sample of `/metrics`; 0 while it isn't there. `labels` in braces, as they stand there.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        self.sample(name, labels).map_or(0.0, |value| value.parse().unwrap())
    }

    /// The pipeline `flink`'s lines with this outcome.
    pub(crate) fn lines(&self, outcome: &str) -> usize {
        self.count("splashdam_lines_total", &format!("outcome=\"{outcome}\""))
    }

    /// The pipeline `flink`'s bulk requests with this result.
    pub(crate) fn requests(&self, result: &str) -> usize {
        self.count("splashdam_bulk_requests_total", &format!("result=\"{result}\""))
    }

    /// Bytes that the pipeline `flink` knows of and that are not safe yet.
    pub(crate) fn bytes_behind(&self) -> u64 {
        let value = self.sample("splashdam_bytes_behind", "{pipeline=\"flink\"}");
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn count(&self, name: &str, label: &str) -> usize {
        let value = self.sample(name, &format!("{{pipeline=\"flink\",{label}}}"));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn sample(&self, name: &str, labels: &str) -> Option<String> {
        let (_, page) = self.get("/metrics").unwrap_or_default();
        let series = format!("{name}{labels} ");
        page.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
    }

    /// Whether the agent's own log has named `cause` for this pipeline.
    pub(crate) fn has_named(&self, pipeline: &str, cause: &str) -> bool {
        let is_it = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["pipeline"] == pipeline && line["cause"] == cause
        };
        self.stderr().lines().any(is_it)
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.address.expect("only `run` serves telemetry"), path)
    }

    pub(crate) fn wait_ready(&mut self) {
        self.wait_ready_for(SOON);
    }

    /// The same, of an agent that had lost its API server.
    pub(crate) fn wait_ready_again(&mut self) {
        self.wait_ready_for(AFTER_A_PAUSE);
    }

    fn wait_ready_for(&mut self, deadline: Duration) {
        wait_until(deadline, "the agent is ready", || {
            assert!(self.is_running(), "the agent has ended: {}", self.stderr());
            self.is_ready()
        });
    }

    /// The same, of an agent with an output that never answers.
    pub(crate) fn wait_ready_without_outputs(&mut self) {
        wait_until(SOON, "the agent is ready but for an output", || {
            assert!(self.is_running(), "the agent has ended: {}", self.stderr());
            let (_, page) = self.get("/readyz").unwrap_or_default();
            !page.is_empty()
                && !["state lock", "log root", "pods"].iter().any(|one| page.contains(one))
        });
    }

    /// Bytes of log files that were lost for this cause.
    pub(crate) fn bytes_lost(&self, cause: &str) -> u64 {
        let value = self.sample("splashdam_bytes_lost_total", &format!("{{cause=\"{cause}\"}}"));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// The most memory that it has had resident so far.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// SIGINT, without waiting for what comes of it.
    pub(crate) fn interrupt(&self) {
        kill_process(self.pid(), Signal::INT).unwrap();
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM; the exit code when it has ended.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.wait(SOON).code()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "still running after {deadline:?}: {}", self.stderr());
            pause(Duration::from_millis(20));
        }
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // it may have ended already, and then both have nothing to do
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A loopback address that nobody listens on now.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// The status code and the text of a page, or nothing if there was no answer.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let timeout = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, text) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, text.to_owned()))
}
