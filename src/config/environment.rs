//! The environment as the configuration sees it: variables for `${VAR}`, and overrides.
//!
//! `SPLASHDAM_SECTION__KEY=value` stands for `section: {key: value}` in the agent's file, as if
//! written there without quotes; it wins over the file. Variables that Kubernetes makes for a
//! Service named `splashdam` (`SPLASHDAM_PORT=tcp://...` and the like) are left alone, any other
//! name that fits no key is an error. Values are never in `Debug` output.

use std::collections::BTreeMap;
use std::fmt;

use super::problem::Place;
use super::yaml::{Entry, Node, Value};

/// What overrides begin with.
pub(super) const PREFIX: &str = "SPLASHDAM_";

/// A snapshot of the process's environment, or a test's.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The variables of this process; those that aren't UTF-8 are left out.
    pub fn of_process() -> Self {
        (std::env::vars_os())
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Puts the overrides into the agent's settings, which must be a map.
    pub(super) fn override_settings(&self, settings: &mut Node) {
        for (variable, value) in &self.variables {
            let Some(name) = variable.strip_prefix(PREFIX) else { continue };
            if is_service_link(name, value) {
                continue;
            }
            let keys: Vec<String> = name.split("__").map(str::to_lowercase).collect();
            let place = Place::whole(variable.as_str());
            set(settings, &keys, &place, Node::plain(place.clone(), value.clone()));
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect() }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Whether the kubelet made this variable for a Service whose name begins with `splashdam`.
/// Source: kubernetes/kubernetes `pkg/kubelet/envvars/envvars.go`.
fn is_service_link(name: &str, value: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let after = |marker: &str| match name.strip_prefix(marker) {
        Some(rest) => Some(rest),
        None => name.split_once(&format!("_{marker}")).map(|(_, rest)| rest),
    };
    if after("SERVICE_HOST").is_some_and(str::is_empty) {
        return true;
    }
    if let Some(rest) = after("SERVICE_PORT") {
        return number(value) && (rest.is_empty() || rest.starts_with('_'));
    }
    match after("PORT") {
        Some("") => is_url,
        Some(rest) => {
            rest.strip_prefix('_').and_then(|rest| rest.split('_').next()).is_some_and(number)
        }
        None => false,
    }
}

fn set(node: &mut Node, keys: &[String], place: &Place, value: Node) {
    // A section that isn't a map is reported when it is read.
    let Value::Map(entries) = &mut node.value else { return };
    let Some((key, inner)) = keys.split_first() else { return };
    let new =
        || Entry { key: key.clone(), place: place.clone(), value: Node::empty(place.clone()) };
    let index = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
        entries.push(new());
        entries.len() - 1
    });
    let entry = &mut entries[index];
    if inner.is_empty() {
        entry.place = place.clone();
        entry.value = value;
        return;
    }
    if entry.value.is_null() {
        entry.value = Node::empty(entry.place.clone());
    }
    set(&mut entry.value, inner, place, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_no_overrides() {
        for (name, value, expected) in [
            ("SERVICE_HOST", "10.0.0.1", true),
            ("SERVICE_PORT", "9102", true),
            ("SERVICE_PORT_METRICS", "9102", true),
            ("PORT", "tcp://10.0.0.1:9102", true),
            ("PORT_9102_TCP", "tcp://10.0.0.1:9102", true),
            ("PORT_9102_TCP_ADDR", "10.0.0.1", true),
            ("METRICS_SERVICE_HOST", "10.0.0.1", true),
            ("METRICS_PORT_9102_TCP_PROTO", "tcp", true),
            ("PORT", "9102", false),
            ("TELEMETRY__PORT", "9102", false),
            ("TELEMETRY__LISTEN", "none", false),
            ("SUPPORT_ROOT", "x", false),
            ("THREADS", "2", false),
        ] {
            assert_eq!(is_service_link(name, value), expected, "{name}={value}");
        }
    }

    #[test]
    fn values_are_not_shown() {
        let environment: Environment =
            [("A".to_owned(), "secret".to_owned())].into_iter().collect();
        assert_eq!(format!("{environment:?}"), "{\"A\"}");
    }
}
