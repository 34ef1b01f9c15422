//! The agent as a child process: started, asked for its counters, stopped.
//!
//! Guarantees that the child is gone when the value is dropped. Owns no decision.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// The largest answer that is read from the agent.
const METRICS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long one question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A running agent.
#[derive(Debug)]
pub(super) struct Agent {
    child: Child,
    telemetry: SocketAddr,
}

/// A port of the loopback that was free a moment ago.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Agent {
    /// Starts this program again as `run`, its own log going to `log`.
    pub(super) fn start(config: &Path, log: &Path, port: u16) -> io::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?)
            .spawn()?;
        Ok(Self { child, telemetry: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
    }

    /// The status of an agent that ended by itself.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The text of `/metrics`.
    pub(super) fn metrics(&self) -> io::Result<String> {
        let mut connection = TcpStream::connect_timeout(&self.telemetry, ANSWER_TIMEOUT)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        connection.take(METRICS_BYTES_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Asks the agent to drain and waits; beyond `deadline` it is killed. `true` if it ended well.
    pub(super) fn stop(mut self, deadline: Instant) -> io::Result<bool> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                // Killed by the signal: it came before the agent had begun to listen for it.
                return Ok(status.success() || status.signal() == Some(Signal::TERM.as_raw()));
            }
            wait_until(Instant::now() + Duration::from_millis(20));
        }
        Ok(false)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only if the child has already been waited for.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}
