//! Whether two pipelines may write the same documents twice.
//!
//! Promise: nothing is there twice. Pipelines that write one stream into one index must differ in
//! `id_scope`, else the second finds its ids taken and counts as indexed what the first wrote.
//! Pure and conservative: pipelines are apart only where two plain values exclude each other, so
//! a doubt is a warning; the same rules written twice are an error.

use std::collections::BTreeMap;

use globset::GlobMatcher;

use super::directory::Declared;
use super::pipeline::{Pipeline, Rule, Target};
use super::problem::{Report, quoted};

/// Compares each pair of pipelines.
pub(super) fn check(declared: &[Declared], report: &Report) {
    for (index, second) in declared.iter().enumerate() {
        for first in declared.iter().take(index) {
            let (Some(a), Some(b)) = (&first.pipeline, &second.pipeline) else { continue };
            if a.id_scope != b.id_scope || !same_index(a, b) {
                continue;
            }
            let (other, at) = (quoted(&a.name), &first.place);
            let advice = "give one of them another `id_scope` or index";
            if same_rules(a, b) {
                let message = format!(
                    "takes the same streams as {other} ({at}) and writes them to the same index \
                     with the same `id_scope`; {advice}"
                );
                report.error(&second.place, message);
            } else if may_share_stream(a, b) {
                let message = format!(
                    "may take the same streams as {other} ({at}) and writes them to the same \
                     index with the same `id_scope`; if so, {advice}"
                );
                report.warn(&second.place, message);
            }
        }
    }
}

fn same_index(a: &Pipeline, b: &Pipeline) -> bool {
    match (&a.output.target, &b.output.target) {
        (Target::Elasticsearch(a), Target::Elasticsearch(b)) => {
            a.index == b.index && a.hosts.iter().any(|host| b.hosts.contains(host))
        }
        _ => false,
    }
}

fn same_rules(a: &Pipeline, b: &Pipeline) -> bool {
    let takes_any = a.select.iter().any(|rule| rule.take);
    takes_any && a.select.iter().map(as_written).eq(b.select.iter().map(as_written))
}

/// A rule without its compiled form, which can't be compared.
fn as_written(rule: &Rule) -> (bool, [Vec<(&str, &str)>; 6]) {
    fn labels(labels: &BTreeMap<String, GlobMatcher>) -> Vec<(&str, &str)> {
        labels.iter().map(|(key, glob)| (key.as_str(), glob.glob().glob())).collect()
    }
    fn list(globs: &[GlobMatcher]) -> Vec<(&str, &str)> {
        globs.iter().map(|glob| ("", glob.glob().glob())).collect()
    }
    let criteria = [
        labels(&rule.labels),
        labels(&rule.namespace_labels),
        list(&rule.namespaces),
        list(&rule.pods),
        list(&rule.containers),
        list(&rule.hosts),
    ];
    (rule.take, criteria)
}

fn may_share_stream(a: &Pipeline, b: &Pipeline) -> bool {
    let takes = |pipeline: &Pipeline| -> Vec<Rule> {
        pipeline.select.iter().filter(|rule| rule.take).cloned().collect()
    };
    let others = takes(b);
    takes(a).iter().any(|a| others.iter().any(|b| !rules_apart(a, b)))
}

fn rules_apart(a: &Rule, b: &Rule) -> bool {
    labels_apart(&a.labels, &b.labels)
        || labels_apart(&a.namespace_labels, &b.namespace_labels)
        || any_apart(&a.namespaces, &b.namespaces)
        || any_apart(&a.pods, &b.pods)
        || any_apart(&a.containers, &b.containers)
        || any_apart(&a.hosts, &b.hosts)
}

fn labels_apart(a: &BTreeMap<String, GlobMatcher>, b: &BTreeMap<String, GlobMatcher>) -> bool {
    a.iter().any(|(key, a)| b.get(key).is_some_and(|b| globs_apart(a, b)))
}

fn any_apart(a: &[GlobMatcher], b: &[GlobMatcher]) -> bool {
    let every_pair = || a.iter().all(|a| b.iter().all(|b| globs_apart(a, b)));
    !a.is_empty() && !b.is_empty() && every_pair()
}

/// Whether nothing can match both: known only where one of them is plain text.
fn globs_apart(a: &GlobMatcher, b: &GlobMatcher) -> bool {
    let plain = |glob: &GlobMatcher| !glob.glob().glob().contains(['*', '?', '[', '{', '\\']);
    (plain(a) && !b.is_match(a.glob().glob())) || (plain(b) && !a.is_match(b.glob().glob()))
}
