//! Which pipeline takes a stream: pure decisions over a pipeline's rules.
//!
//! Rules are tried in order, the first that holds decides, none holds means not taken. What is
//! not known yet never counts as absent: where it could change the outcome the answer is
//! [`Decision::NeedsFacts`]. Does not wait and does not know how long something has been unknown.

use std::collections::BTreeMap;

use globset::GlobMatcher;

use super::facts::PodFacts;
use crate::config::pipeline::Rule;
use crate::discover::StreamName;

/// Whether a pipeline takes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Take,
    Leave,
    /// Facts that are not known yet decide.
    NeedsFacts,
}

impl Decision {
    fn of(take: bool) -> Self {
        if take { Self::Take } else { Self::Leave }
    }
}

/// Decides by all that is known. `node_name` is the agent's own node, empty where it isn't
/// known; it stands in for the pod's.
///
/// `Take` without facts says only that the pipeline takes the stream whatever the facts are; the
/// documents still lack them.
pub fn decide(
    rules: &[Rule],
    stream: &StreamName,
    facts: Option<&PodFacts>,
    node_name: &str,
) -> Decision {
    // What the rules that may hold would decide; later rules matter only if none of them holds.
    let mut possible = None;
    let agrees = |earlier: Option<Decision>, decision| earlier.is_none_or(|one| one == decision);
    for rule in rules {
        let decision = Decision::of(rule.take);
        match holds(rule, stream, facts, node_name) {
            Some(false) => {}
            Some(true) if agrees(possible, decision) => return decision,
            None if agrees(possible, decision) => possible = Some(decision),
            Some(true) | None => return Decision::NeedsFacts,
        }
    }
    if agrees(possible, Decision::Leave) { Decision::Leave } else { Decision::NeedsFacts }
}

/// Decides by what the path says (namespace, pod, container) and the agent's node: for streams
/// whose pod stayed unknown. `NeedsFacts` means that the pipeline can't tell.
pub fn decide_by_path(rules: &[Rule], stream: &StreamName, node_name: &str) -> Decision {
    decide(rules, stream, None, node_name)
}

/// Why [`decide`] decides as it does, for people.
pub fn reason(
    rules: &[Rule],
    stream: &StreamName,
    facts: Option<&PodFacts>,
    node_name: &str,
) -> String {
    for (index, rule) in rules.iter().enumerate() {
        let kind = if rule.take { "select" } else { "exclude" };
        let number = index + 1;
        match holds(rule, stream, facts, node_name) {
            Some(false) => {}
            Some(true) => return format!("item {number} of its select list ({kind}) holds"),
            None => {
                return format!("item {number} of its select list ({kind}) depends on the pod");
            }
        }
    }
    "no item of its select list holds".to_owned()
}

/// Whether any of the rules looks at the labels of namespaces.
pub fn needs_namespace_labels(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| !rule.namespace_labels.is_empty())
}

/// Whether `rule` holds; `None` while that depends on what is not known.
fn holds(
    rule: &Rule,
    stream: &StreamName,
    facts: Option<&PodFacts>,
    node_name: &str,
) -> Option<bool> {
    let node = facts.and_then(|facts| facts.node.as_deref()).unwrap_or(node_name);
    let by_path = matches_any(&rule.namespaces, &stream.namespace)
        && matches_any(&rule.pods, &stream.pod)
        && matches_any(&rule.containers, &stream.container);
    let host = match (node, facts) {
        _ if rule.hosts.is_empty() => Some(true),
        ("", None) => None,
        _ => Some(matches_any(&rule.hosts, node)),
    };
    let namespace_labels = facts.and_then(|facts| facts.namespace_labels.as_ref());
    let parts = [
        Some(by_path),
        host,
        matches_all(&rule.labels, facts.map(|facts| &facts.labels)),
        matches_all(&rule.namespace_labels, namespace_labels),
    ];
    if parts.contains(&Some(false)) {
        Some(false)
    } else if parts.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn matches_any(globs: &[GlobMatcher], text: &str) -> bool {
    globs.is_empty() || globs.iter().any(|glob| glob.is_match(text))
}

/// Whether every wanted label is there with a value that matches; `None` if labels are unknown.
fn matches_all(
    wanted: &BTreeMap<String, GlobMatcher>,
    labels: Option<&BTreeMap<String, String>>,
) -> Option<bool> {
    if wanted.is_empty() {
        return Some(true);
    }
    let labels = labels?;
    Some(wanted.iter().all(|(name, glob)| labels.get(name).is_some_and(|v| glob.is_match(v))))
}

#[cfg(test)]
mod tests;
