//! The Logging operator's kinds, taken as they are: Flow, ClusterFlow, Output, ClusterOutput.
//!
//! Owns what `kubectl apply` would have given to the operator (`logging.banzaicloud.io/v1beta1`).
//! A flow becomes one pipeline for each output that it refers to, named `<namespace>/<name>`, with
//! that as its `id_scope`. Match items keep the operator's meaning: in order, the first that holds
//! decides, none holds = not taken, labels are compared exactly, a Flow sees its own namespace.
//! Nothing is ignored in silence: a field without an equivalent is an error, one that only tunes
//! what isn't there any more is named in a warning; what Splashdam does anyway is just taken.
//! `${...}` isn't expanded, for tenants may write these files.
//!
//! Lines are always tried as JSON, and stack traces in other lines are joined.
//! Source: kube-logging/logging-operator `pkg/sdk/logging/api/v1beta1`, `pkg/resources/model`.

use std::collections::BTreeMap;

use super::agent::Agent;
use super::directory::Declared;
use super::operator_output;
use super::pipeline::{
    DocumentForm, Elasticsearch, Multiline, Output, Parse, Pipeline, Rule, Target,
};
use super::problem::{Place, Report, quoted};
use super::read_output;
use super::setting::{self, Section, Setting};
use super::yaml::Value;

const GROUP: &str = "logging.banzaicloud.io/";
const VERSION: &str = "logging.banzaicloud.io/v1beta1";
const SUPPORTED: &str = "Flow, ClusterFlow, Output and ClusterOutput of \
                         `logging.banzaicloud.io/v1beta1`";

/// The namespace that `kubectl apply` uses unless told otherwise.
const NAMESPACE: &str = "default";

/// The resources of all files; they may refer to each other across files.
#[derive(Default)]
pub(super) struct Operator {
    flows: Vec<Flow>,
    outputs: Vec<NamedOutput>,
}

struct Identity {
    namespace: Option<String>,
    name: String,
    place: Place,
}

impl Identity {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE)
    }
}

/// Whether a resource is that of one namespace or of all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespace,
    Cluster,
}

struct Flow {
    identity: Identity,
    scope: Scope,
    /// `None` when problems were recorded for it.
    select: Option<Vec<Rule>>,
    json_time: Option<String>,
    outputs: Vec<Reference>,
}

/// An item of `localOutputRefs` or `globalOutputRefs`.
struct Reference {
    scope: Scope,
    name: String,
    place: Place,
}

struct NamedOutput {
    identity: Identity,
    scope: Scope,
    /// Set by `protected`: only a ClusterFlow may use it.
    protected: bool,
    /// `None` when problems were recorded for it.
    target: Option<Elasticsearch>,
}

impl Operator {
    /// Takes one document, or each of a List.
    pub(super) fn add(&mut self, document: Setting<'_>, agent: &Agent) {
        let text = |key| document.node.get(key).and_then(|node| node.text()).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version == "v1" && kind == "List" {
            if let Some(Value::List(items)) = document.node.get("items").map(|node| &node.value) {
                for node in items {
                    self.add(Setting { node, ..document }, agent);
                }
            }
            return;
        }
        if version.starts_with(GROUP) && version != VERSION {
            let version = quoted(version);
            document.error(format!("{version} is not supported; supported are {SUPPORTED}"));
            return;
        }
        match (version.starts_with(GROUP), kind) {
            // Its settings are those of fluent-bit and fluentd, which aren't there any more.
            (true, "Logging") => {}
            (true, "Flow") => self.add_flow(document, Scope::Namespace),
            (true, "ClusterFlow") => self.add_flow(document, Scope::Cluster),
            (true, "Output") => self.add_output(document, Scope::Namespace, agent),
            (true, "ClusterOutput") => self.add_output(document, Scope::Cluster, agent),
            _ => {
                let (kind, version) = (quoted(kind), quoted(version));
                document.error(format!(
                    "kind {kind} of {version} is not supported; supported are {SUPPORTED}"
                ));
            }
        }
    }

    fn add_flow(&mut self, document: Setting<'_>, scope: Scope) {
        let report = document.report;
        let errors_before = report.errors();
        let Some(identity) = identity(document) else { return };
        let read = resource(document, |s| {
            let select = select(s, scope, &identity);
            let json_time = filters(s);
            let mut outputs = references(s, "globalOutputRefs", Scope::Cluster);
            if scope == Scope::Namespace {
                outputs.extend(references(s, "localOutputRefs", Scope::Namespace));
            }
            if outputs.is_empty() {
                s.here.error("this flow has no output; write `globalOutputRefs: [<name>]`");
            }
            let idle = s.present(&["loggingRef", "flowLabel", "includeLabelInRouter"]);
            warn_idle(s.here, "", &idle);
            (select, json_time, outputs)
        });
        let Some((select, json_time, outputs)) = read else { return };
        let select = Some(select).filter(|_| report.errors() == errors_before);
        self.flows.push(Flow { identity, scope, select, json_time, outputs });
    }

    fn add_output(&mut self, document: Setting<'_>, scope: Scope, agent: &Agent) {
        let Some(identity) = identity(document) else { return };
        let same = |other: &&NamedOutput| {
            let elsewhere = other.identity.namespace() != identity.namespace();
            other.scope == scope
                && other.identity.name == identity.name
                && !(elsewhere && scope == Scope::Namespace)
        };
        if let Some(first) = self.outputs.iter().find(same) {
            let (name, first) = (quoted(&identity.name), &first.identity.place);
            let message = format!("a second output {name}; the first is at {first}");
            document.report.error(&identity.place, message);
        }
        let errors_before = document.report.errors();
        let read = resource(document, |s| {
            let protected = scope == Scope::Cluster
                && s.get("protected").and_then(Setting::boolean).unwrap_or(false);
            let target = (s.require("elasticsearch", "{host: elasticsearch}"))
                .and_then(|setting| operator_output::read(setting, &agent.secrets));
            let idle = s.present(&["loggingRef"]);
            warn_idle(s.here, "", &idle);
            (protected, target)
        });
        let (protected, target) = read.unwrap_or((false, None));
        let target = target.filter(|_| document.report.errors() == errors_before);
        self.outputs.push(NamedOutput { identity, scope, protected, target });
    }

    /// One pipeline for each flow and output that it refers to.
    pub(super) fn pipelines(self, budget_bytes: usize, report: &Report) -> Vec<Declared> {
        let mut declared = Vec::new();
        for flow in &self.flows {
            let identity = &flow.identity;
            let id_scope = format!("{}/{}", identity.namespace(), identity.name);
            for reference in &flow.outputs {
                let name = match flow.outputs.len() {
                    1 => id_scope.clone(),
                    _ => format!("{id_scope}/{}", reference.name),
                };
                let target = self.resolve(flow, reference, report);
                let pipeline = flow.select.clone().zip(target).map(|(select, target)| Pipeline {
                    name: name.clone(),
                    id_scope: id_scope.clone(),
                    select,
                    parse: Parse {
                        json_time: flow.json_time.clone(),
                        multiline: Some(Multiline::Java),
                    },
                    filters: Vec::new(),
                    output: Output {
                        document: DocumentForm::Fluentd,
                        batch: read_output::default_batch(budget_bytes),
                        target: Target::Elasticsearch(Box::new(target)),
                    },
                });
                declared.push(Declared { name, place: identity.place.clone(), pipeline });
            }
        }
        declared
    }

    fn resolve(
        &self,
        flow: &Flow,
        reference: &Reference,
        report: &Report,
    ) -> Option<Elasticsearch> {
        let found = self.outputs.iter().find(|output| {
            let reachable = reference.scope == Scope::Cluster
                || output.identity.namespace() == flow.identity.namespace();
            output.scope == reference.scope && output.identity.name == reference.name && reachable
        });
        let name = quoted(&reference.name);
        let Some(output) = found else {
            let message = match reference.scope {
                Scope::Cluster => format!("there is no ClusterOutput {name} in these files"),
                Scope::Namespace => {
                    let namespace = quoted(flow.identity.namespace());
                    format!("there is no Output {name} of the namespace {namespace} in these files")
                }
            };
            report.error(&reference.place, message);
            return None;
        };
        if output.protected && flow.scope == Scope::Namespace {
            let message = format!("the ClusterOutput {name} is protected: no Flow may use it");
            report.error(&reference.place, message);
            return None;
        }
        output.target.clone()
    }
}

/// Name and namespace; the rest of `metadata` is the cluster's.
fn identity(document: Setting<'_>) -> Option<Identity> {
    let metadata = document.node.get("metadata");
    let name = metadata.and_then(|metadata| metadata.get("name"));
    let namespace = metadata.and_then(|metadata| metadata.get("namespace"));
    let Some(name) = name else {
        document.error("`metadata.name` is missing");
        return None;
    };
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let read = |node| {
        let setting = Setting::new(node, document.report);
        let what = "a name of lower-case letters, digits, `.` and `-`";
        let name = setting.filled(what)?;
        if name.chars().all(legal) { Some(name) } else { setting.expected(what) }
    };
    let place = name.place.clone();
    Some(Identity {
        name: read(name)?,
        namespace: match namespace {
            Some(namespace) => Some(read(namespace)?),
            None => None,
        },
        place,
    })
}

/// Reads the `spec` of a resource.
fn resource<T>(document: Setting<'_>, read: impl FnOnce(&mut Section<'_>) -> T) -> Option<T> {
    document.section(|s| {
        s.refuse_others();
        s.present(&["apiVersion", "kind", "metadata", "status"]);
        let spec = s.require("spec", "{...}")?;
        spec.section(|s| {
            s.refuse_others();
            read(s)
        })
    })?
}

/// Says which fields are without effect here.
pub(super) fn warn_idle(at: Setting<'_>, prefix: &str, keys: &[&str]) {
    if keys.is_empty() {
        return;
    }
    let keys: Vec<String> = keys.iter().map(|key| format!("`{prefix}{key}`")).collect();
    at.warn(format!("without effect here: {}", keys.join(", ")));
}

fn references(s: &mut Section<'_>, key: &'static str, scope: Scope) -> Vec<Reference> {
    let read = |setting: Setting<'_>| {
        let name = setting.filled("the name of an output")?;
        Some(Reference { scope, name, place: setting.node.place.clone() })
    };
    s.get(key).and_then(|list| list.each("[es-output]", read)).unwrap_or_default()
}

/// The match list, with the namespace of a Flow in every item that takes.
fn select(s: &mut Section<'_>, scope: Scope, identity: &Identity) -> Vec<Rule> {
    let mut rules = match s.get("match").filter(|list| !list.node.is_null()) {
        Some(list) => list.each("[{select: {}}]", |item| rule(item, scope)).unwrap_or_default(),
        None => vec![everything()],
    };
    if !rules.is_empty() && !rules.iter().any(|rule| rule.take) {
        s.here.warn("this flow takes nothing: it has no `select`");
    }
    if scope == Scope::Cluster {
        return rules;
    }
    let Some(namespace) = &identity.namespace else {
        let message = "no `metadata.namespace`: this Flow takes the pods of every namespace";
        s.here.report.warn(&identity.place, message);
        return rules;
    };
    for rule in rules.iter_mut().filter(|rule| rule.take) {
        rule.namespaces = setting::exact(namespace).into_iter().collect();
    }
    rules
}

fn everything() -> Rule {
    Rule {
        take: true,
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        namespaces: Vec::new(),
        pods: Vec::new(),
        containers: Vec::new(),
        hosts: Vec::new(),
    }
}

fn rule(item: Setting<'_>, scope: Scope) -> Option<Rule> {
    let (entry, criteria) = item.single("`select` or `exclude`")?;
    if !matches!(entry.key.as_str(), "select" | "exclude") {
        let key = quoted(&entry.key);
        item.report.error(&entry.place, format!("expected `select` or `exclude`, found {key}"));
        return None;
    }
    criteria.section(|s| {
        s.refuse_others();
        let mut rule = Rule { take: entry.key == "select", ..everything() };
        rule.labels = exact_labels(s, "labels");
        rule.containers = exact_list(s, "container_names");
        rule.hosts = exact_list(s, "hosts");
        if scope == Scope::Cluster {
            rule.namespaces = exact_list(s, "namespaces");
            rule.namespace_labels = exact_labels(s, "namespace_labels");
        }
        rule
    })
}

fn exact_list(s: &mut Section<'_>, key: &'static str) -> Vec<globset::GlobMatcher> {
    let Some(list) = s.get(key) else { return Vec::new() };
    list.each("[name]", exact).unwrap_or_default()
}

fn exact_labels(s: &mut Section<'_>, key: &'static str) -> BTreeMap<String, globset::GlobMatcher> {
    let Some(labels) = s.get(key).filter(|labels| !labels.node.is_null()) else {
        return BTreeMap::new();
    };
    let Value::Map(entries) = &labels.node.value else {
        labels.expected::<()>("a mapping such as {component: jobmanager}");
        return BTreeMap::new();
    };
    let value = |node| exact(Setting { node, ..labels });
    (entries.iter()).filter_map(|entry| Some((entry.key.clone(), value(&entry.value)?))).collect()
}

fn exact(setting: Setting<'_>) -> Option<globset::GlobMatcher> {
    match setting::exact(&setting.text()?) {
        Ok(glob) => Some(glob),
        Err(_) => setting.expected("a name"),
    }
}

/// The filters; those that are supported only say where the time is.
fn filters(s: &mut Section<'_>) -> Option<String> {
    let list = s.get("filters").filter(|list| !list.node.is_null());
    let mut json_time = None;
    for filter in list.and_then(|list| list.list("[{tag_normaliser: {}}]")).unwrap_or_default() {
        let Some((entry, value)) = filter.single("`tag_normaliser` or `parser`") else { continue };
        match entry.key.as_str() {
            // There are no tags, and a tag isn't in the document.
            "tag_normaliser" => {
                value.section(|s| {
                    s.refuse_others();
                    s.present(&["format", "match_tag"]);
                });
            }
            "parser" => json_time = value.section(parser).flatten(),
            kind => filter.report.error(
                &entry.place,
                format!(
                    "the filter {} is not supported; supported are `tag_normaliser` and `parser`",
                    quoted(kind)
                ),
            ),
        }
    }
    json_time
}

fn parser(s: &mut Section<'_>) -> Option<String> {
    s.refuse_others();
    if let Some(key) = s.get("key_name") {
        key.choice(&[("message", ()), ("log", ())]);
    }
    let reserve_data = s.get("reserve_data").and_then(Setting::boolean).unwrap_or(false);
    let remove_key = s.get("remove_key_name_field").and_then(Setting::boolean).unwrap_or(false);
    if !reserve_data {
        s.here
            .warn("`reserve_data` is not true, but the fields of Kubernetes are kept all the same");
    }
    if !remove_key {
        s.here.warn(
            "`remove_key_name_field` is not true, but the text of a line that is JSON isn't kept \
             beside its fields",
        );
    }
    // Without effect on a document: its time is never taken from the line's place in the stream,
    // and nothing is sent to an error label.
    s.present(&["reserve_time", "replace_invalid_sequence", "emit_invalid_record_to_error"]);
    s.require("parse", "{type: json}")?.section(|s| {
        s.refuse_others();
        (s.require("type", "json")).and_then(|kind| kind.choice(&[("json", ())]));
        // The form of a time is recognised, and its field is kept.
        s.present(&["time_type", "keep_time_key", "estimate_current_event"]);
        s.get("time_key").and_then(|key| key.filled("the name of a field"))
    })?
}
