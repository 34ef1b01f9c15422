//! What the name of a top-level member means to the document.
//!
//! Owns the list of Elasticsearch's metadata fields and the rule by which a name gives way: its
//! first dotted segment is one of the agent's, or it says what the agent says in `log`. `log` as
//! a whole belongs to the application (ECS has `log.level` and `log.logger` there), so that only
//! single names in it are the agent's. Guarantees one table look-up for nearly every name, and a
//! comparison or two for the rest. Expects names without escapes but for those that no name of the
//! agent could have. A name that filters ask for may have one, but a line with it is unusual, and then
//! nothing is known of its fields.

use std::collections::BTreeSet;

use super::stamp::TIME_FIELDS;
use super::tree;
use crate::config::pipeline::DocumentForm;
use crate::parse::json;

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

/// Names that filters ask for, fields and the objects that they may be in, of which more are not
/// marked: those fields are looked for in the document. A rule's number has to fit into a byte.
const ASKED_MAX: usize = 64;

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

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) place: Place,
    /// When the member is tried for the time; `None` for never.
    pub(super) time_rank: Option<u8>,
    /// A filter asks for it, or for something within it.
    pub(super) asked: bool,
}

impl Role {
    /// The application's own affair.
    pub(super) const PLAIN: Self = Self { place: Place::Stays, time_rank: None, asked: false };
    /// The same, but a filter wants to know of it.
    pub(super) const ASKED: Self = Self { asked: true, ..Self::PLAIN };

    /// What a name of this role is marked with: [`json::PLAIN`] for [`Self::PLAIN`], and never
    /// [`json::UNMARKED`].
    pub(super) const fn mark(self) -> u8 {
        let place = match self.place {
            Place::Stays => 1,
            Place::Moves => 2,
            Place::OwnTime => 3,
            Place::Log => 4,
        };
        let rank = match self.time_rank {
            Some(rank) => rank + 1,
            None => 0,
        };
        (self.asked as u8) << 6 | rank << 3 | place
    }

    /// What was marked so; `None` for no mark.
    pub(super) fn of_mark(mark: u8) -> Option<Self> {
        let place = match mark & 7 {
            1 => Place::Stays,
            2 => Place::Moves,
            3 => Place::OwnTime,
            4 => Place::Log,
            _ => return None,
        };
        let time_rank = (mark >> 3 & 7).checked_sub(1);
        Some(Self { place, time_rank, asked: mark >> 6 & 1 == 1 })
    }
}

const _: () = assert!(Role::PLAIN.mark() == json::PLAIN, "lines tell what is marked otherwise");

/// The names of one form of document and one pipeline.
#[derive(Debug)]
pub struct Names {
    /// By the first two bytes: where in `rules` those begin that a name may fall under; their
    /// number where there are none.
    starts: [u8; 256],
    rules: Box<[Rule]>,
    /// The agent's members of `log`.
    log: &'static [&'static str],
}

/// A name that means something.
#[derive(Debug)]
struct Rule {
    text: Box<[u8]>,
    role: Role,
    /// What becomes of a name that goes on with a dot.
    with_rest: Place,
}

impl Names {
    /// `agent` are the first segments of the names that are the agent's in this form, `json_time` is
    /// the top-level field that is tried first for the time, `asked` are the fields that filters ask
    /// for, of which [a few dozen](ASKED_MAX) are marked.
    pub fn new<'a>(
        form: DocumentForm,
        agent: &'static [&'static str],
        json_time: Option<&str>,
        asked: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let log: &[&str] = match form {
            DocumentForm::Fluentd => &["offset", "original_length", "truncated"],
            DocumentForm::Ecs => &["file", "offset", "original_length", "truncated"],
        };
        let time_fields: Vec<&str> = json_time.into_iter().chain(TIME_FIELDS).collect();
        // The pipeline's field has the first rank, also where there is none.
        let first_rank = usize::from(json_time.is_none());
        let rank = |name: &str| {
            let rank = first_rank + time_fields.iter().position(|field| *field == name)?;
            u8::try_from(rank).ok()
        };
        let mut marked = BTreeSet::new();
        for path in asked {
            // With all objects that it may be in, or not at all.
            let names = tree::cuts(path).map(|(name, _)| name);
            if marked.len() + names.clone().count() <= ASKED_MAX {
                marked.extend(names);
            }
        }
        let in_log = log.iter().map(|name| format!("log.{name}"));
        let rule = |name: &str| Rule {
            text: name.as_bytes().into(),
            role: Role {
                place: place(agent, log, name),
                time_rank: rank(name),
                asked: marked.contains(name),
            },
            with_rest: place(agent, log, &format!("{name}.x")),
        };
        let names: BTreeSet<String> = (agent.iter().chain(&METADATA_FIELDS).chain(&["log"]))
            .chain(&time_fields)
            .chain(&marked)
            .map(|name| (*name).to_owned())
            .chain(in_log)
            .collect();
        let mut rules: Vec<Rule> = names.iter().map(|name| rule(name)).collect();
        rules.sort_by_key(|rule| start(&rule.text));
        let none = u8::try_from(rules.len()).expect("a few dozen names");
        let mut starts = [none; 256];
        for (i, rule) in (0..none).zip(&rules).rev() {
            starts[start(&rule.text)] = i;
        }
        Self { starts, rules: rules.into(), log }
    }

    /// What `name` means.
    #[inline(always)]
    pub(super) fn role(&self, name: &[u8]) -> Role {
        let start_of_name = start(name);
        let rules = self.rules.get(usize::from(self.starts[start_of_name])..).unwrap_or_default();
        let mut role = Role::PLAIN;
        for rule in rules.iter().take_while(|rule| start(&rule.text) == start_of_name) {
            match name.strip_prefix(&*rule.text) {
                Some([]) => return rule.role,
                Some([b'.', ..]) if rule.with_rest != Place::Stays => role.place = rule.with_rest,
                _ => {}
            }
        }
        role
    }

    /// Whether `name` within `log` is the agent's.
    pub(super) fn is_in_log(&self, name: &[u8]) -> bool {
        let first = name.split(|&byte| byte == b'.').next().unwrap_or_default();
        self.log.iter().any(|other| other.as_bytes() == first)
    }
}

/// What becomes of a member of this name, where these are the agent's and those in `log`.
fn place(agent: &[&str], log: &[&str], name: &str) -> Place {
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    match (first, rest) {
        ("@timestamp", None) => Place::OwnTime,
        ("@timestamp", Some(_)) => Place::Moves,
        ("log", None) => Place::Log,
        ("log", Some(rest)) if log.iter().any(|name| rest.split('.').next() == Some(name)) => {
            Place::Moves
        }
        _ if agent.contains(&first) || METADATA_FIELDS.contains(&first) => Place::Moves,
        _ => Place::Stays,
    }
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
        let names = Names::new(form, &["kubernetes", "stream", "time"], Some("zeit"), []);
        let role = names.role(name.as_bytes());
        assert_eq!(role.place, expected, "{name}");
        assert_eq!(Role::of_mark(role.mark()), Some(role), "{name}");
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
        let names = Names::new(DocumentForm::Ecs, &[], Some("zeit"), []);
        let ranks = ["zeit", "@timestamp", "timestamp", "instant", "time", "ts", "date"]
            .map(|name| names.role(name.as_bytes()).time_rank);
        assert_eq!(ranks, [Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), None]);
        let without = Names::new(DocumentForm::Ecs, &[], None, []);
        assert_eq!(without.role(b"@timestamp").time_rank, Some(1));
    }

    #[test]
    fn what_filters_ask_for_is_not_plain() {
        let names =
            Names::new(DocumentForm::Ecs, &["stream"], None, ["a.b.c", "log.level", "time"]);
        for (name, expected) in [
            ("a", Role::ASKED),
            ("a.b", Role::ASKED),
            ("a.b.c", Role::ASKED),
            ("a.b.c.d", Role::PLAIN),
            ("b", Role::PLAIN),
            ("log.level", Role::ASKED),
            ("log", Role { place: Place::Log, ..Role::ASKED }),
            ("time", Role { time_rank: Some(4), ..Role::ASKED }),
        ] {
            let role = names.role(name.as_bytes());
            assert_eq!(role, expected, "{name}");
            assert_eq!(Role::of_mark(role.mark()), Some(role), "{name}");
        }
    }

    #[test]
    fn any_number_of_fields_may_be_asked_for() {
        let fields: Vec<String> = (0..1000).map(|n| format!("field{n}.x")).collect();
        let names = Names::new(DocumentForm::Ecs, &[], None, fields.iter().map(String::as_str));
        assert_eq!([names.role(b"field0"), names.role(b"field999")], [Role::ASKED, Role::PLAIN]);
        // Those of one object take its place once, and none is there without it.
        let fields: Vec<String> = (0..100).map(|n| format!("team.field{n}")).collect();
        let names = Names::new(DocumentForm::Ecs, &[], None, fields.iter().map(String::as_str));
        let last = [&b"team"[..], b"team.field61", b"team.field62"].map(|name| names.role(name));
        assert_eq!(last, [Role::ASKED, Role::ASKED, Role::PLAIN]);
        let deep = ["a"; 1000].join(".");
        let names = Names::new(DocumentForm::Ecs, &[], None, [deep.as_str(), "b"]);
        assert_eq!([names.role(b"a"), names.role(b"b")], [Role::PLAIN, Role::ASKED]);
    }

    #[test]
    fn a_name_means_what_its_segments_and_the_pipeline_say() {
        let time = Some("kubernetes.time");
        let names = Names::new(DocumentForm::Fluentd, &["kubernetes", "stream"], time, []);
        let role = |place, time_rank| Role { place, time_rank, asked: false };
        assert_eq!(names.role(b"kubernetes.time"), role(Place::Moves, Some(0)));
        assert_eq!(names.role(b"kubernetes.time.x"), role(Place::Moves, None));
        assert_eq!(names.role(b"time"), role(Place::Stays, Some(4)));
        assert_eq!(names.role(b"time.x"), Role::PLAIN);
        assert_eq!(Role::of_mark(json::UNMARKED), None);
    }
}
