//! What the tests stand on: a node's log tree, the program, and the servers.
//!
//! Owns no assertions of its own beyond "this worked". Helpers are synchronous: a test reads
//! from top to bottom.

pub(crate) mod account;
pub(crate) mod captures;
pub(crate) mod control;
pub(crate) mod cri;
pub(crate) mod elastic;
pub(crate) mod fields;
pub(crate) mod kube;
pub(crate) mod kubectl;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod road;
pub(crate) mod server;
pub(crate) mod small_disk;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something that takes a moment on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// How long a test waits for what an agent does after it had lost its API server: it pauses for up
/// to a minute after trouble, so that it may come just before the server is there again.
pub(crate) const AFTER_A_PAUSE: Duration = Duration::from_secs(150);

/// Blocks until `condition` holds; fails with `what` once `deadline` has passed.
pub(crate) fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        pause(Duration::from_millis(50));
    }
}

/// Gives others the processor for a while; for pacing, never for correctness.
pub(crate) fn pause(time: Duration) {
    thread::park_timeout(time);
}

/// A name that no other test, and no other run against the same servers, uses.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = k8s_openapi::jiff::Timestamp::now().as_millisecond();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{now:x}-{:x}-{count}", std::process::id())
}

/// The value of a variable that `tests/with-servers` sets.
pub(crate) fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set; run: tests/with-servers cargo test --test it")
    })
}

/// Until it is dropped no other test has the [`control::ControlPlane`].
fn alone_with_the_control_plane() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until it is dropped no other test has the server of [`elastic::Elastic::frail`].
pub(crate) fn alone_with_the_frail_server() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
