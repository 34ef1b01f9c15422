//! What the agent tells about itself: metrics, its own log, and whether it lives and is ready.
//!
//! Nothing in here carries a line's text, a secret, or Elasticsearch's `error.reason`. All of it
//! costs nothing per line: counters are added to per batch, log lines are limited per cause.

pub mod http;
mod listen;
pub mod log;
pub mod metrics;
pub mod readiness;
pub(crate) mod terminal;
pub mod throttle;
