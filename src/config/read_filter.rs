//! From one item of `filters:` to a [`Filter`].

use super::pipeline::{Condition, Filter, Test};
use super::setting::{Section, Setting, is_field};
use super::yaml::{Node, Value};

const KINDS: &str = "`drop`, `keep`, `add`, `remove`, `rename`, `redact`, `sample` or `throttle`";
const KIND_NAMES: [&str; 8] =
    ["drop", "keep", "add", "remove", "rename", "redact", "sample", "throttle"];

/// Reads one filter: a mapping whose only key is its kind.
pub(super) fn read(setting: Setting<'_>) -> Option<Filter> {
    let (entry, value) = setting.single(KINDS)?;
    match entry.key.as_str() {
        "drop" => value.section(required_condition)?.map(Filter::Drop),
        "keep" => value.section(required_condition)?.map(Filter::Keep),
        "add" => add(value),
        "remove" => value.each("[process.thread.name]", |item| item.field()).map(Filter::Remove),
        "rename" => value.section(|s| {
            let from = s.require("from", "flink-job-id").and_then(Setting::field);
            let to = s.require("to", "flink.job.id").and_then(Setting::field);
            Some(Filter::Rename { from: from?, to: to? })
        })?,
        "redact" => value.section(|s| {
            let field = s.require("field", "message").and_then(Setting::field);
            let pattern = s.require("pattern", "\"password=\\\\S+\"").and_then(Setting::regex);
            let with = s.require("with", "\"***\"").and_then(Setting::text);
            Some(Filter::Redact { field: field?, pattern: pattern?, with: with? })
        })?,
        "sample" => value.section(|s| {
            let condition = condition(s);
            let keep = s.require("keep", "1/100").and_then(Setting::fraction);
            let (condition, (keep, of)) = (condition?, keep?);
            Some(Filter::Sample { condition, keep, of })
        })?,
        "throttle" => value.section(|s| {
            let by = s.require("by", "kubernetes.pod_name").and_then(Setting::field);
            let rate = s.require("rate", "5000/s").and_then(Setting::rate);
            let (by, (lines, per)) = (by?, rate?);
            Some(Filter::Throttle { by, lines, per })
        })?,
        kind => {
            let meant = super::problem::nearest(kind, KIND_NAMES)
                .map(|meant| format!("; did you mean `{meant}`?"))
                .unwrap_or_else(|| format!("; known here: {KINDS}"));
            let kind = super::problem::quoted(kind);
            setting.report.error(&entry.place, format!("unknown filter {kind}{meant}"));
            None
        }
    }
}

fn required_condition(s: &mut Section<'_>) -> Option<Condition> {
    let condition = condition(s)?;
    if condition.is_none() {
        s.here.error(
            "expected `field` with one of `in`, `equals`, `matches` or `exists`, such as \
             `{field: log.level, in: [TRACE, DEBUG]}`",
        );
    }
    condition
}

/// `None` after a problem, `Some(None)` where there is no condition.
fn condition(s: &mut Section<'_>) -> Option<Option<Condition>> {
    let field = s.get("field");
    let within = s.get("in");
    let equals = s.get("equals");
    let matches = s.get("matches");
    let exists = s.get("exists");
    let given = [within, equals, matches, exists].into_iter().flatten().count();
    let Some(field) = field else {
        if given > 0 {
            s.here.error("`field` is missing; write `field: log.level`");
            return None;
        }
        return Some(None);
    };
    let field = field.field();
    if given != 1 {
        s.here.error(format!(
            "expected exactly one of `in`, `equals`, `matches` or `exists` with `field`, found \
             {given}"
        ));
        return None;
    }
    let test = if let Some(within) = within {
        within.each("[TRACE, DEBUG]", Setting::text).map(Test::In)
    } else if let Some(equals) = equals {
        equals.text().map(Test::Equals)
    } else if let Some(matches) = matches {
        matches.regex().map(Test::Matches)
    } else {
        exists.and_then(exists_true)
    };
    Some(Some(Condition { field: field?, test: test? }))
}

fn exists_true(setting: Setting<'_>) -> Option<Test> {
    match setting.boolean()? {
        true => Some(Test::Exists),
        false => {
            setting.error(
                "`exists` takes only `true`; for the opposite use `keep` in place of `drop`",
            );
            None
        }
    }
}

fn add(setting: Setting<'_>) -> Option<Filter> {
    let entries = setting.entries("{environment: production}")?;
    let mut fields = Vec::with_capacity(entries.len());
    for entry in entries {
        if !is_field(&entry.key) {
            setting.report.error(
                &entry.place,
                format!(
                    "expected the name of a field, such as log.level, found {}",
                    super::problem::quoted(&entry.key)
                ),
            );
        }
        fields.push((entry.key.clone(), json(&entry.value)));
    }
    Some(Filter::Add(fields))
}

/// A value as JSON: plain scalars by YAML's core schema, the others are text.
pub(super) fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::List(nodes) => nodes.iter().map(json).collect(),
        Value::Map(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect()
        }
        Value::Scalar(scalar) if scalar.is_null() => serde_json::Value::Null,
        Value::Scalar(scalar) if !scalar.plain => scalar.text.as_str().into(),
        Value::Scalar(scalar) => match scalar.text.as_str() {
            "true" | "True" | "TRUE" => true.into(),
            "false" | "False" | "FALSE" => false.into(),
            // JSON's numbers are those of the core schema, but for forms nobody writes in a log.
            text => match serde_json::from_str::<serde_json::Number>(text) {
                Ok(number) => number.into(),
                Err(_) => text.into(),
            },
        },
    }
}
