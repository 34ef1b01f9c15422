//! Documents by the names that Elasticsearch gives their fields.

use std::collections::BTreeMap;

use serde_json::Value;

/// Every leaf by its dotted name: `{"a":{"b":1}}` and `{"a.b":1}` are one to Elasticsearch, and
/// so they are here. Arrays and empty objects are leaves.
pub(crate) fn flatten(document: &Value) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    walk("", document, &mut leaves);
    leaves
}

fn walk(name: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if name.is_empty() || !members.is_empty() => {
            for (key, value) in members {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                walk(&name, value, leaves);
            }
        }
        leaf => {
            let before = leaves.insert(name.to_owned(), leaf.clone());
            assert!(before.is_none(), "the field {name} stands twice");
        }
    }
}

/// Sees that there is this string in the field, or none.
#[track_caller]
pub(crate) fn check<'a>(document: &Value, name: &str, wanted: impl Into<Option<&'a str>>) {
    assert_eq!(text(document, name).as_deref(), wanted.into(), "{name} in {document}");
}

/// The string in the field, if there is one.
pub(crate) fn text(document: &Value, name: &str) -> Option<String> {
    flatten(document).get(name).and_then(Value::as_str).map(str::to_owned)
}
