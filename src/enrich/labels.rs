//! Which labels are kept of an object, and what their names are in a document.
//!
//! Elasticsearch reads a dot in a field name as nesting, so that `app` (text) and
//! `app.kubernetes.io/name` (inside an object `app`) exclude each other in one index. Dots and
//! slashes therefore become `_`. Guarantees that no two labels of one object get the same name,
//! that a name without dots and slashes stays as it is, and that the outcome depends on nothing
//! but the names. Values are never touched.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tracing::warn;

use crate::telemetry::throttle;

/// Labels of an object that are kept.
pub const MAX: usize = 256;

/// Bytes of their names and values that are kept.
pub const MAX_BYTES: usize = 32 << 10;

/// The labels under the names that they get in a document, sorted.
///
/// Where two names meet, the one that needed no change keeps it and the others, in the order of
/// their original names, get `_2`, `_3` and so on, as far as that is free.
pub fn for_document(labels: &BTreeMap<String, String>) -> BTreeMap<String, &str> {
    let mut named = BTreeMap::new();
    let mut changed = Vec::new();
    for (name, value) in labels {
        if name.contains(['.', '/']) {
            changed.push((name.replace(['.', '/'], "_"), value.as_str()));
        } else {
            named.insert(name.clone(), value.as_str());
        }
    }
    // Free names are given away before suffixes, so that no suffix takes another label's name.
    let mut met = Vec::new();
    for (name, value) in changed {
        match named.entry(name) {
            Entry::Vacant(free) => {
                free.insert(value);
            }
            Entry::Occupied(taken) => met.push((taken.key().clone(), value)),
        }
    }
    // The next suffix of each name: thousands may meet in one, and none is to begin at 2 again.
    let mut suffixes: BTreeMap<String, usize> = BTreeMap::new();
    for (name, value) in met {
        let suffix = suffixes.entry(name.clone()).or_insert(2);
        loop {
            let candidate = format!("{name}_{suffix}");
            *suffix += 1;
            if let Entry::Vacant(free) = named.entry(candidate) {
                free.insert(value);
                break;
            }
        }
    }
    named
}

/// The labels of an object that are kept, the first in the order of their names: at most [`MAX`], with
/// [`MAX_BYTES`]. Kubernetes limits nothing but the size of the object, and each document has them.
/// That others are left out is said.
pub(super) fn kept(object: &ObjectMeta) -> BTreeMap<String, String> {
    let Some(labels) = &object.labels else { return BTreeMap::new() };
    let kept = bounded(labels);
    let left_out = labels.len() - kept.len();
    if left_out > 0
        && let Some(suppressed) = throttle::allow("labels left out")
    {
        let (namespace, name) = (object.namespace.as_deref(), object.name.as_deref());
        warn!(suppressed, namespace, name, left_out, "an object has more labels than are kept");
    }
    kept
}

fn bounded(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut bytes = 0;
    let fits = |(name, value): &(&String, &String)| {
        bytes += name.len() + value.len();
        bytes <= MAX_BYTES
    };
    let kept = labels.iter().take(MAX).take_while(fits);
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn check(names: &[&str], expected: &[(&str, &str)]) {
        // The value of each label is its original name.
        let labels = names.iter().map(|name| (name.to_string(), name.to_string())).collect();
        let expected = expected.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        assert_eq!(for_document(&labels), expected);
    }

    #[test]
    fn dots_and_slashes_become_underscores() {
        check(
            &["app", "app.kubernetes.io/name", "pod-template-hash"],
            &[
                ("app", "app"),
                ("app_kubernetes_io_name", "app.kubernetes.io/name"),
                ("pod-template-hash", "pod-template-hash"),
            ],
        );
    }

    #[test]
    fn the_name_that_needed_no_change_keeps_it() {
        check(&["a.b", "a_b"], &[("a_b", "a_b"), ("a_b_2", "a.b")]);
        check(&["a.b", "a/b", "a_b"], &[("a_b", "a_b"), ("a_b_2", "a.b"), ("a_b_3", "a/b")]);
        check(&["a.b", "a/b"], &[("a_b", "a.b"), ("a_b_2", "a/b")]);
    }

    #[test]
    fn a_suffix_never_takes_the_name_of_another_label() {
        check(&["a.b", "a_b", "a_b_2"], &[("a_b", "a_b"), ("a_b_2", "a_b_2"), ("a_b_3", "a.b")]);
        check(&["a.b", "a_b", "a_b.2"], &[("a_b", "a_b"), ("a_b_2", "a_b.2"), ("a_b_3", "a.b")]);
    }

    #[test]
    fn tens_of_thousands_of_names_that_meet_are_told_apart_at_once() {
        let name =
            |number: u32| (0..16).map(|bit| ["_", "."][number as usize >> bit & 1]).collect();
        let labels = (0..1 << 16).map(|number| (name(number), String::new())).collect();
        assert_eq!(for_document(&labels).len(), 1 << 16);
    }

    #[test]
    fn of_too_many_or_too_long_labels_the_first_are_kept() {
        let labels = |count: usize, bytes: usize| -> BTreeMap<String, String> {
            (0..count).map(|number| (format!("{number:05}"), "v".repeat(bytes))).collect()
        };
        let check = |count, bytes, expected: usize| {
            let all = labels(count, bytes);
            let first = all.clone().into_iter().take(expected).collect();
            assert_eq!(bounded(&all), first, "{count} of {bytes}");
        };
        check(MAX, 63, MAX);
        check(MAX + 1, 1, MAX);
        check(20_000, 1, MAX);
        check(MAX, 507, MAX_BYTES / 512);
        check(1, MAX_BYTES, 0);
    }

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        // Few characters, so that names do meet.
        btree_map("[ab2_./]{1,5}", "[a-z]{0,3}", 0..24)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_stays_dotted(labels in labels()) {
            let named = for_document(&labels);
            prop_assert_eq!(named.len(), labels.len());
            prop_assert!(named.keys().all(|name| !name.contains(['.', '/'])));
            let mut before: Vec<&str> = labels.values().map(String::as_str).collect();
            let mut after: Vec<&str> = named.values().copied().collect();
            before.sort_unstable();
            after.sort_unstable();
            prop_assert_eq!(before, after);
        }

        #[test]
        fn clean_names_keep_their_values_and_a_second_pass_changes_nothing(labels in labels()) {
            let named = for_document(&labels);
            for (name, value) in labels.iter().filter(|(name, _)| !name.contains(['.', '/'])) {
                prop_assert_eq!(named.get(name), Some(&value.as_str()));
            }
            let once: BTreeMap<String, String> =
                named.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
            prop_assert_eq!(for_document(&once), named);
        }
    }
}
