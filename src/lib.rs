//! Splashdam ships the logs of Apache Flink on Kubernetes to Elasticsearch.
//!
//! The modules stand in the order that a line takes; a stage knows only earlier stages' types.
//!
//! ```text
//! discover ─▶ tail ─▶ parse ─▶ enrich ─▶ document, filter ─▶ pipeline (batch) ─▶ ship
//!                                                                 ▲               │
//!                                            checkpoint ◀─────────┴── acknowledged ┘
//! ```
//!
//! [`config`] is what the user asked for, [`telemetry`] what the agent tells, [`agent`] puts the
//! stages together, [`cli`] is the command line, [`explain`], `dead_letter` and [`demo`] are commands of it.

pub mod config;

pub mod discover;

pub mod tail;

pub mod parse;

pub mod enrich;

pub mod document;

pub mod filter;

pub mod pipeline;

pub mod ship;

pub mod checkpoint;

pub mod telemetry;

pub mod agent;

pub mod explain;

pub(crate) mod dead_letter;

pub mod demo;

pub mod cli;

#[cfg(test)]
mod simulation;
