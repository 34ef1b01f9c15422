//! Child processes on chosen cores, and what they cost.
//!
//! CPU time comes from `/proc/<pid>/stat` of the child that has ended but not been reaped: it has
//! user and system time of all its threads, to a hundredth of a second. Memory is `VmHWM`, read
//! while the child lives.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// How often a child's memory is looked at.
const POLL: Duration = Duration::from_millis(10);

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Returns at `moment`.
pub(crate) fn wait_until(moment: Instant) {
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

pub(crate) fn wait(time: Duration) {
    wait_until(Instant::now() + time);
}

/// The cores that this process may use.
pub(crate) fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Starts `command` on `cores` only. Set on the thread that starts it, so that the child is
/// pinned from its first instruction.
pub(crate) fn spawn_on(command: &mut Command, cores: &[usize]) -> io::Result<Child> {
    let before = sched_getaffinity(None)?;
    let mut wanted = CpuSet::new();
    for core in cores {
        wanted.set(*core);
    }
    sched_setaffinity(None, &wanted)?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    child
}

/// What a child came to.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) peak_bytes: u64,
}

/// Runs `command` on `cores` to its end. It may print only a little to standard output.
pub(crate) fn run_on(command: &mut Command, cores: &[usize]) -> io::Result<Finished> {
    let start = Instant::now();
    let mut child = spawn_on(command.stdin(Stdio::null()).stdout(Stdio::piped()), cores)?;
    let pid = pid_of(&child)?;
    let mut peak_bytes = 0;
    while !has_ended(pid)? {
        peak_bytes = memory(pid, "VmHWM:").unwrap_or(0).max(peak_bytes);
        wait(POLL);
    }
    let wall = start.elapsed();
    let cpu = cpu_of_process(pid)?;
    let mut stdout = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut stdout)?;
    }
    let success = child.wait()?.success();
    Ok(Finished { success, stdout, cpu, wall, peak_bytes })
}

/// A child that goes on until it is told to stop; killed on drop.
pub(crate) struct Running {
    child: Child,
    pub(crate) pid: Pid,
    pub(crate) started: Instant,
}

impl Running {
    pub(crate) fn start(command: &mut Command, cores: &[usize]) -> io::Result<Self> {
        let started = Instant::now();
        let child = spawn_on(command.stdin(Stdio::null()).stdout(Stdio::null()), cores)?;
        let pid = pid_of(&child)?;
        Ok(Self { child, pid, started })
    }

    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        has_ended(self.pid)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the child is gone already.
        if kill_process(self.pid, Signal::KILL).is_ok() {
            drop(self.child.wait());
        }
    }
}

pub(crate) fn pid_of(child: &Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
    Pid::from_raw(raw).ok_or_else(|| io::Error::other("a child has the id 0"))
}

fn has_ended(pid: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// User and system time of all threads, in hundredths of a second.
fn cpu_of_process(pid: Pid) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| io::Error::other("/proc/<pid>/stat is odd"))?;
    Ok(Duration::from_secs(ticks)
        / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100))
}

/// `utime` and `stime` of proc_pid_stat(5); the name before them may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Time on a CPU of all threads that live, exact to the nanosecond (`schedstat`).
pub(crate) fn cpu_of_threads(pid: Pid) -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        total += Duration::from_nanos(ns);
    }
    Ok(total)
}

/// A line of `/proc/<pid>/status` in bytes.
pub(crate) fn memory(pid: Pid, field: &str) -> Option<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
