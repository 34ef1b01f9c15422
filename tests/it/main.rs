//! The built program against a real file system, a real Elasticsearch and a real kube-apiserver.
//!
//! Each test has a node's log tree, a state directory, an index and Kubernetes objects of its
//! own, so tests run side by side. What they assert are the contracts that users depend on:
//! documents, summaries, exit codes, places of errors; never the wording of a log. Servers and
//! their addresses come from `tests/with-servers`; without them a test fails and says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod cluster;
mod configuration;
mod conflicts;
mod crashes;
mod dead_letter;
mod documents;
mod fleet;
mod flink;
mod follow;
mod full_disk;
mod held;
mod kubernetes;
mod layouts;
mod outputs;
mod overload;
mod reboot;
mod refused;
mod reload;
mod shutdown;
mod support;
mod tls;
mod upgrade;
mod verdicts;
