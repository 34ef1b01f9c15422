//! From a pipeline file's document to a [`Pipeline`].

use std::collections::BTreeMap;

use globset::GlobMatcher;

use super::directory::Declared;
use super::pipeline::{Multiline, Parse, Pipeline, Rule};
use super::setting::{Section, Setting};
use super::{read_filter, read_output};

/// Characters of a pipeline's name: it is a metric label and stands in the checkpoint.
const NAME_MOST: usize = 128;

const EVERYTHING: &str = "[{select: {}}]";

/// Reads one document; the name is kept even when the rest is wrong, so that a second pipeline of
/// that name is found.
pub(super) fn read(document: Setting<'_>, budget_bytes: usize) -> Option<Declared> {
    document.section(|s| {
        let at = s.require("pipeline", "flink");
        let name = at.and_then(name);
        let id_scope = s.get("id_scope").map(Setting::text);
        let select = match s.get("select") {
            Some(select) => select.each(EVERYTHING, rule),
            None => {
                s.here.error(format!(
                    "`select` is missing; to take the lines of every container write \
                     `select: {EVERYTHING}`"
                ));
                None
            }
        };
        let parse = s.section("parse", parse);
        let filters = match s.get("filters") {
            Some(filters) if !filters.node.is_null() => {
                filters.each("[{drop: {field: log.level, equals: TRACE}}]", read_filter::read)
            }
            _ => Some(Vec::new()),
        };
        let output = (s.require("output", "{stdout: {}}"))
            .and_then(|output| read_output::read(output, budget_bytes));
        s.not_yet("tests");
        let name = name?;
        let pipeline = (|| {
            Some(Pipeline {
                name: name.clone(),
                id_scope: id_scope.unwrap_or_else(|| Some(String::new()))?,
                select: select?,
                parse,
                filters: filters?,
                output: output?,
            })
        })();
        Some(Declared { name, place: at?.node.place.clone(), pipeline })
    })?
}

fn name(setting: Setting<'_>) -> Option<String> {
    let what = "a name of letters, digits, `.`, `_`, `-` and `/`";
    let name = setting.filled(what)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if name.len() > NAME_MOST || !name.chars().all(legal) {
        return setting.expected(&format!("{what}, at most {NAME_MOST}"));
    }
    Some(name)
}

fn rule(setting: Setting<'_>) -> Option<Rule> {
    let (entry, criteria) = setting.single("`select` or `exclude`")?;
    let take = match entry.key.as_str() {
        "select" => true,
        "exclude" => false,
        key => {
            let key = super::problem::quoted(key);
            setting
                .report
                .error(&entry.place, format!("expected `select` or `exclude`, found {key}"));
            return None;
        }
    };
    criteria.section(|s| Rule {
        take,
        labels: labels(s, "labels"),
        namespace_labels: labels(s, "namespace_labels"),
        namespaces: globs(s, "namespaces"),
        pods: globs(s, "pods"),
        containers: globs(s, "containers"),
        hosts: globs(s, "hosts"),
    })
}

fn globs(s: &mut Section<'_>, key: &'static str) -> Vec<GlobMatcher> {
    s.get(key).and_then(|list| list.each("[flink-*]", Setting::glob)).unwrap_or_default()
}

fn labels(s: &mut Section<'_>, key: &'static str) -> BTreeMap<String, GlobMatcher> {
    let Some(setting) = s.get(key) else { return BTreeMap::new() };
    let entries = setting.entries("{component: jobmanager}").unwrap_or_default();
    let glob = |node| Setting::new(node, setting.report).glob();
    (entries.iter()).filter_map(|entry| Some((entry.key.clone(), glob(&entry.value)?))).collect()
}

/// JSON is always tried; `json` only says where its time is.
fn parse(s: &mut Section<'_>) -> Parse {
    let json_time = s.section("json", |s| {
        s.get("time")
            .and_then(|time| time.filled("the name of a top-level field, such as \"@timestamp\""))
    });
    let multilines = [("java", Some(Multiline::Java)), ("none", None)];
    let multiline = s.get("multiline").and_then(|setting| setting.choice(&multilines));
    Parse { json_time, multiline: multiline.flatten() }
}
