//! What the user asked for, checked and resolved: nothing downstream parses a string again.
//!
//! Owns the settings of the agent ([`Agent`]) and of each pipeline ([`Pipeline`]), and how the
//! files are read ([`load`]). Guarantees that every value here is valid: globs and patterns
//! compile, sizes and times are in range, names are unique. Every default lives in this folder
//! and nowhere else. Does not touch outputs, the cluster or the logs.
//!
//! ```text
//! text ─ yaml ─▶ nodes with places ─ environment, expand ─▶ nodes ─ setting ─▶ read_*, operator
//!                                                                                    │
//!        Problems, every one with its place ◀── problem ◀── overlap, names ◀─────────┘
//! ```
//!
//! A load gives everything or [`Problems`], never a part. Relative paths start at the working
//! directory. Files are read to 4 MiB each, 64 levels and 100,000 values.

pub mod agent;
pub mod pipeline;
pub mod units;

mod directory;
mod environment;
mod expand;
mod index_name;
mod operator;
mod operator_output;
mod overlap;
mod problem;
mod read_agent;
mod read_filter;
mod read_output;
mod read_pipeline;
mod setting;
mod text_file;
mod yaml;

#[cfg(test)]
mod daemonset_tests;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub use agent::Agent;
pub use directory::Stamp;
pub use environment::Environment;
pub use pipeline::Pipeline;
pub use problem::{Problem, Problems};

use problem::{Place, Report};
use setting::Setting;
use yaml::Node;

/// The agent's file, where none is named. It may be missing: then the defaults hold.
pub const DEFAULT_FILE: &str = "/etc/splashdam/agent.yaml";

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub agent: Agent,
    /// At least one, names differ.
    pub pipelines: Vec<Pipeline>,
    /// What may surprise the author, to be shown once.
    pub warnings: Vec<Problem>,
}

/// Reads the agent's file and all pipelines.
///
/// Without `config` it is [`DEFAULT_FILE`], which may be missing. `pipelines`, a directory or a
/// file, overrides the setting of that name. Files that the configuration names (certificates,
/// secrets, the list of pods) are looked at, nothing else is.
///
/// # Errors
/// Every problem found, each with its place and what would be right.
pub fn load(
    config: Option<&Path>,
    pipelines: Option<&Path>,
    environment: &Environment,
) -> Result<Loaded, Problems> {
    let report = Report::default();
    let mut root = agent_root(config, &report);
    environment.override_settings(&mut root);
    expand::expand(&mut root, environment, &report);
    let mut agent = read_agent::read(Setting::new(&root, &report), environment);
    if let Some(path) = pipelines {
        agent.pipelines = path.to_owned();
    }
    let pipelines = directory::read(&agent.pipelines, &agent, environment, &report);
    let warnings = report.finish()?;
    Ok(Loaded { agent, pipelines, warnings })
}

/// The agent's file as a tree; an empty map where there is none or it can't be used.
fn agent_root(config: Option<&Path>, report: &Report) -> Node {
    let path = config.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    let name: Arc<str> = path.display().to_string().into();
    let whole = Place::whole(Arc::clone(&name));
    if config.is_none() && path.try_exists().is_ok_and(|exists| !exists) {
        return Node::empty(whole);
    }
    let text = text_file::read(path).unwrap_or_else(|message| {
        report.error(&whole, message);
        String::new()
    });
    let mut documents = yaml::documents(&name, &text, report).into_iter();
    let root = documents.next().unwrap_or_else(|| Node::empty(whole));
    if let Some(second) = documents.next() {
        report.error(&second.place, "the agent's file must hold one document");
    }
    root
}
