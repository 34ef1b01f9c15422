//! What the name of a top-level member means to the document.
//!
//! Owns the list of Elasticsearch's metadata fields and the rule by which a name gives way: its
//! first dotted segment is one of the agent's, or it says what the agent says in `log`. `log` as
//! a whole belongs to the application (ECS has `log.level` and `log.logger` there), so that only
//! single names in it are the agent's. Guarantees one table look-up for nearly every name, and a
//! comparison or two for the rest. Expects names without escapes but for those that no name of the agent could have.

use super::stamp::TIME_FIELDS;
use crate::config::pipeline::DocumentForm;

/// Fields that Elasticsearch 8 refuses in a document, those of its own plugins included.
///
/// Source: elastic/elasticsearch `IndicesModule.java` (built-in metadata mappers), `mapper-extras`
/// (`_feature`), `mapper-size` (`_size`), x-pack (`_tier`, `_inference_fields`); `_type` and
/// `_all` are those of earlier versions and of OpenSearch.
const METADATA_FIELDS: [&str; 21] = [
    "_all",
    "_data_stream_timestamp",
    "_doc_count",
    "_feature",
    "_field_names",
    "_id",
    "_ignored",
    "_ignored_source",
    "_index",
    "_index_mode",
    "_inference_fields",
    "_nested_path",
    "_routing",
    "_seq_no",
    "_size",
    "_source",
    "_tier",
    "_ts_routing_hash",
    "_tsid",
    "_type",
    "_version",
];

/// What becomes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Stays,
    /// Becomes `application.<name>`.
    Moves,
    /// Is `@timestamp`: depends on where the document's time comes from.
    OwnTime,
    /// Is `log`: depends on its value.
    Log,
}

/// The names of one form of document and one pipeline.
#[derive(Debug)]
pub(super) struct Names {
    /// By the first two bytes: where in `rules` those begin that a name may fall under; their
    /// number where there are none.
    starts: [u8; 256],
    rules: Box<[Rule]>,
    agent: &'static [&'static str],
    /// The agent's members of `log`.
    log: &'static [&'static str],
    json_time: Option<Box<[u8]>>,
}

impl Names {
    pub(super) fn new(
        form: DocumentForm,
        agent: &'static [&'static str],
        json_time: Option<&str>,
    ) -> Self {
        let log: &[&str] = match form {
            DocumentForm::Fluentd => &["offset", "original_length", "truncated"],
            DocumentForm::Ecs => &["file", "offset", "original_length", "truncated"],
        };
        let all = |names: &[&str]| names.iter().map(|name| Rule::segment(name)).collect::<Vec<_>>();
        let mut rules: Vec<Rule> = [all(agent), all(&METADATA_FIELDS)].concat();
        rules.push(Rule::segment("@timestamp"));
        rules.extend(TIME_FIELDS.iter().chain(&["log"]).map(|name| Rule::whole(name)));
        rules.extend(log.iter().map(|name| Rule::segment(&format!("log.{name}"))));
        rules.extend(json_time.map(Rule::whole));
        rules.sort_by_key(|rule| start(&rule.text));
        let none = u8::try_from(rules.len()).expect("a few dozen names");
        let mut starts = [none; 256];
        for (i, rule) in (0..none).zip(&rules).rev() {
            starts[start(&rule.text)] = i;
        }
        let json_time = json_time.map(|name| name.as_bytes().into());
        Self { starts, rules: rules.into(), agent, log, json_time }
    }

    /// Whether a name may be more than the application's own affair.
    #[inline(always)]
    pub(super) fn may_matter(&self, name: &[u8]) -> bool {
        let start = start(name);
        let rules = self.rules.get(usize::from(self.starts[start])..).unwrap_or_default();
        falls_under(name, start, rules)
    }

    pub(super) fn place(&self, name: &[u8]) -> Place {
        let (first, rest) = match memchr::memchr(b'.', name) {
            Some(dot) => (&name[..dot], Some(&name[dot + 1..])),
            None => (name, None),
        };
        match (first, rest) {
            (b"@timestamp", None) => Place::OwnTime,
            (b"@timestamp", Some(_)) => Place::Moves,
            (b"log", None) => Place::Log,
            (b"log", Some(rest)) if self.is_in_log(rest) => Place::Moves,
            _ if is_one_of(self.agent, first) || is_one_of(&METADATA_FIELDS, first) => Place::Moves,
            _ => Place::Stays,
        }
    }

    /// Whether `name` within `log` is the agent's.
    pub(super) fn is_in_log(&self, name: &[u8]) -> bool {
        let first = name.split(|&byte| byte == b'.').next().unwrap_or_default();
        is_one_of(self.log, first)
    }

    /// When a field of this name is tried for the time; `None` for never.
    pub(super) fn time_rank(&self, name: &[u8]) -> Option<usize> {
        if self.json_time.as_deref() == Some(name) {
            return Some(0);
        }
        TIME_FIELDS.iter().position(|field| field.as_bytes() == name).map(|rank| rank + 1)
    }
}

/// A name that means something.
#[derive(Debug, Clone)]
struct Rule {
    text: Box<[u8]>,
    /// Names mean the same that go on with a dot.
    with_rest: bool,
}

impl Rule {
    fn segment(name: &str) -> Self {
        Self { text: name.as_bytes().into(), with_rest: true }
    }

    fn whole(name: &str) -> Self {
        Self { text: name.as_bytes().into(), with_rest: false }
    }
}

/// Whether one of the first `rules`, those that begin as `start` says, is for `name`.
#[inline(always)]
fn falls_under(name: &[u8], start_of_name: usize, rules: &[Rule]) -> bool {
    (rules.iter())
        .take_while(|rule| start(&rule.text) == start_of_name)
        .filter_map(|rule| Some((rule, name.strip_prefix(&*rule.text)?)))
        .any(|(rule, rest)| rest.is_empty() || rule.with_rest && rest.first() == Some(&b'.'))
}

fn is_one_of(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|other| other.as_bytes() == name)
}

#[inline(always)]
fn start(name: &[u8]) -> usize {
    let byte = |at| name.get(at).copied().unwrap_or(b'.');
    usize::from(byte(0).wrapping_mul(31).wrapping_add(byte(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: DocumentForm, name: &str, expected: Place) {
        let names = Names::new(form, &["kubernetes", "stream", "time"], Some("zeit"));
        let place = names.place(name.as_bytes());
        assert_eq!(place, expected, "{name}");
        assert!(place == Place::Stays || names.may_matter(name.as_bytes()), "{name} looked over");
    }

    #[test]
    fn first_segment_decides() {
        for name in [
            "kubernetes",
            "kubernetes.x",
            "stream",
            "time",
            "time.x",
            "_id",
            "_source.a",
            "@timestamp.x",
        ] {
            check(DocumentForm::Fluentd, name, Place::Moves);
        }
        for name in
            ["kubernetesx", "kube", "_logger", "_thread", "@version", "times", "", "x.time", "k"]
        {
            check(DocumentForm::Fluentd, name, Place::Stays);
        }
        check(DocumentForm::Ecs, "@timestamp", Place::OwnTime);
    }

    #[test]
    fn log_is_shared() {
        for name in ["log.offset", "log.truncated", "log.original_length", "log.offset.x"] {
            check(DocumentForm::Fluentd, name, Place::Moves);
        }
        for name in ["log.level", "log.logger", "log.file.path", "logger", "log.offsets"] {
            check(DocumentForm::Fluentd, name, Place::Stays);
        }
        check(DocumentForm::Ecs, "log.file.path", Place::Moves);
        check(DocumentForm::Ecs, "log", Place::Log);
    }

    #[test]
    fn time_fields_in_their_order() {
        let names = Names::new(DocumentForm::Ecs, &[], Some("zeit"));
        let ranks = ["zeit", "@timestamp", "timestamp", "instant", "time", "ts"]
            .map(|name| (names.may_matter(name.as_bytes()), names.time_rank(name.as_bytes())));
        assert_eq!(ranks, [0, 1, 2, 3, 4, 5].map(|rank| (true, Some(rank))));
        assert_eq!(names.time_rank(b"date"), None);
    }
}
