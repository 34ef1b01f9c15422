//! Adds what Kubernetes knows: pod facts, which pipeline takes a stream, and the part of every
//! document that is the same for all lines of a stream.
//!
//! ```text
//! API server ─▶ pods_api ──┐
//!                          ├─▶ store ─▶ facts ─▶ select (Take, Leave, NeedsFacts)
//! pods.json ──▶ pods_file ─┘                └──▶ metadata (bytes spliced into each document)
//! ```
//!
//! Where it is asked for, `pods_api` brings what Flink's operator says of clusters too; `flink`
//! makes facts of their pods of it.
//!
//! A source that cannot be reached or read is retried for ever and said at most once a minute;
//! meanwhile the store is not in sync and keeps what it knew. Pods are known by UID (static pods
//! by their config hash together with namespace and name), so a reused name never brings another
//! pod's facts, nor does a hash that somebody claims.
//!
//! Limits: [`flink::MAX_OBJECTS`] of each of the operator's kinds, [`store::MAX_GONE`] pods that
//! have gone and that no stream asked for, [`facts::MAX_IDS`] container ids per container,
//! [`labels::MAX`] labels with [`labels::MAX_BYTES`] per pod and namespace,
//! [`pods_file::MAX_UNASKED`] pods of a file that no stream asked for. Only `pods_api` talks to the
//! API server.

pub mod facts;
pub mod flink;
mod kept;
pub mod labels;
pub mod metadata;
pub mod pods_api;
pub mod pods_file;
pub mod select;
mod state;
pub mod store;

pub use facts::PodFacts;
pub use metadata::Metadata;
pub use select::Decision;
pub use store::PodStore;
