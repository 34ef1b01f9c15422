use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::*;
use crate::discover::StreamName;
use crate::document::id::{self, IdHash};

const FLUENTD: &[&str] = &[
    "application",
    "flink",
    "kubernetes",
    "kubernetes_namespace",
    "logtag",
    "splashdam",
    "stream",
    "time",
];
const ECS: &[&str] = &["application", "container", "flink", "kubernetes", "splashdam", "stream"];

const TIME: &str = "2026-11-23T21:08:57.493127544Z";
const TIME_NS: i64 = 1_795_468_137_493_127_544;

static NAMES: LazyLock<[Arc<Names>; 3]> = LazyLock::new(|| {
    let with_time = Names::new(DocumentForm::Fluentd, FLUENTD, Some("zeit"), []);
    let [fluentd, ecs] =
        [DocumentForm::Fluentd, DocumentForm::Ecs].map(|form| Arc::new(names(form, [])));
    [fluentd, ecs, Arc::new(with_time)]
});

/// Names of which filters ask for `asked`.
pub(crate) fn names<'a>(form: DocumentForm, asked: impl IntoIterator<Item = &'a str>) -> Names {
    let agent = match form {
        DocumentForm::Fluentd => FLUENTD,
        DocumentForm::Ecs => ECS,
    };
    Names::new(form, agent, None, asked)
}
static NO_JOBS: BTreeMap<String, Vec<u8>> = BTreeMap::new();

pub(crate) fn parts(form: DocumentForm) -> Parts<'static> {
    Parts {
        head: br#""kubernetes":{"pod_name":"p"}"#,
        flink: br#""component":"taskmanager""#,
        jobs: &NO_JOBS,
        form,
        names: &NAMES[usize::from(form == DocumentForm::Ecs)],
        framing: Framing::Bulk,
        index: None,
    }
}

static HASH: LazyLock<IdHash> = LazyLock::new(|| {
    let stream = StreamName {
        namespace: "n".into(),
        pod: "p".into(),
        uid: "u".into(),
        container: "c".into(),
        restart: 0,
    };
    id::hash("", &stream, (1, 2), None)
});

fn append(
    template: &Template,
    facts: &LineFacts<'_>,
    content: Content<'_>,
    scratch: &mut Scratch,
    body: &mut Vec<u8>,
) -> Appended {
    let kind = template.kind(content, scratch);
    template.append(facts, content, kind, scratch, body)
}

pub(crate) fn facts() -> LineFacts<'static> {
    LineFacts {
        id: Id { time_ns: TIME_NS, hash: &HASH, start: 1000, end: 1234 },
        time: TIME.as_bytes(),
        lane: Lane::Stdout,
        tag: b"F",
        original_length: None,
    }
}

/// The document as text, after checks that hold for each.
fn document_of(template: &Template, facts: &LineFacts<'_>, content: Content<'_>) -> String {
    let mut body = b"before\n".to_vec();
    let appended = append(template, facts, content, &mut Scratch::default(), &mut body);
    let item = &body[appended.start..];
    assert!(body.starts_with(b"before\n") && appended.start == 7);
    let newlines = item.iter().filter(|&&byte| byte == b'\n').count();
    let expected = if template.leads[0].framing == Framing::Bulk { 2 } else { 1 };
    assert_eq!((newlines, item.last()), (expected, Some(&b'\n')));
    assert_eq!(appended.document.end, body.len() - 1);
    String::from_utf8(body[appended.document].to_vec()).expect("documents are UTF-8")
}

fn fluentd(line: &str) -> String {
    document_of(
        &Template::new(parts(DocumentForm::Fluentd)),
        &facts(),
        Content::Line(line.as_bytes()),
    )
}

/// A JSON value that has no name twice in any object.
#[derive(Debug, Clone, PartialEq)]
enum Unique {
    Scalar(Value),
    Array(Vec<Unique>),
    Object(BTreeMap<String, Unique>),
}

impl From<Value> for Unique {
    fn from(value: Value) -> Self {
        match value {
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Object(members) => Self::Object(
                members.into_iter().map(|(name, value)| (name, Self::from(value))).collect(),
            ),
            scalar => Self::Scalar(scalar),
        }
    }
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Checked;
        impl<'de> Visitor<'de> for Checked {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E: Error>(self) -> Result<Unique, E> {
                Ok(Unique::Scalar(Value::Null))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Unique, E> {
                Ok(Unique::Scalar(value.into()))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Unique, E> {
                Ok(Unique::Scalar(value.into()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Unique, E> {
                Ok(Unique::Scalar(value.into()))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Unique, E> {
                Ok(Unique::Scalar(value.into()))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Unique, E> {
                Ok(Unique::Scalar(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
                let mut array = Vec::new();
                while let Some(item) = items.next_element()? {
                    array.push(item);
                }
                Ok(Unique::Array(array))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
                let mut object = BTreeMap::new();
                while let Some((name, value)) = members.next_entry::<String, Unique>()? {
                    if object.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("{name:?} stands twice")));
                    }
                }
                Ok(Unique::Object(object))
            }
        }
        deserializer.deserialize_any(Checked)
    }
}

fn unique(document: &str) -> BTreeMap<String, Unique> {
    match serde_json::from_str(document) {
        Ok(Unique::Object(members)) => members,
        other => panic!("{other:?} in {document}"),
    }
}

/// Checks what stands behind the agent's members, and the document's `@timestamp`.
fn check(line: &str, time: &str, rest: &str) {
    let document = fluentd(line);
    let members = unique(&document);
    assert_eq!(members.get("@timestamp"), Some(&Unique::Scalar(time.into())), "{document}");
    let (_, application) =
        document.split_once(r#","log.offset":1000"#).expect("the agent's last member");
    assert_eq!(application, rest, "of {line}");
}

#[test]
fn the_whole_of_an_item() {
    let mut body = Vec::new();
    let template = Template::new(parts(DocumentForm::Fluentd));
    let line = br#"{"@timestamp":"2026-11-23T21:08:57.490Z","flink-job-id":"55a85b9d80db677cf5c10687b5db325b","message":"m"}"#;
    let mut facts = facts();
    let mut scratch = Scratch::default();
    append(&template, &facts, Content::Line(line), &mut scratch, &mut body);
    facts.lane = Lane::Stderr;
    facts.original_length = Some(2_000_000);
    append(&template, &facts, Content::Text(b"{\"cut"), &mut scratch, &mut body);
    let id = facts.id.characters();
    let id = String::from_utf8_lossy(&id);
    let expected = [
        &format!(r#"{{"create":{{"_id":"{id}"}}}}"#),
        r#"{"kubernetes":{"pod_name":"p"},"flink":{"component":"taskmanager","job":{"id":"55a85b9d80db677cf5c10687b5db325b"}},"stream":"stdout","logtag":"F","time":"2026-11-23T21:08:57.493127544Z","log.offset":1000,"@timestamp":"2026-11-23T21:08:57.490Z","flink-job-id":"55a85b9d80db677cf5c10687b5db325b","message":"m"}"#,
        &format!(r#"{{"create":{{"_id":"{id}"}}}}"#),
        r#"{"@timestamp":"2026-11-23T21:08:57.493127544Z","kubernetes":{"pod_name":"p"},"flink":{"component":"taskmanager"},"stream":"stderr","logtag":"F","time":"2026-11-23T21:08:57.493127544Z","log.offset":1000,"log.truncated":true,"log.original_length":2000000,"message":"{\"cut"}"#,
        "",
    ];
    assert_eq!(String::from_utf8_lossy(&body), expected.join("\n"));
}

#[test]
fn forms_framings_and_indices() {
    let mut parts = parts(DocumentForm::Ecs);
    parts.flink = b"";
    parts.framing = Framing::Lines;
    let mut docker = facts();
    docker.tag = b"";
    let ecs = document_of(&Template::new(parts), &docker, Content::Line(b"{}"));
    assert_eq!(
        ecs,
        format!(
            r#"{{"@timestamp":"{TIME}","kubernetes":{{"pod_name":"p"}},"stream":"stdout","log.offset":1000}}"#
        )
    );
    parts.form = DocumentForm::Fluentd;
    let docker = document_of(&Template::new(parts), &docker, Content::Line(b"x"));
    assert!(docker.contains(&format!(r#""stream":"stdout","time":"{TIME}","#)), "{docker}");
    let mut odd = facts();
    odd.tag = b"F:\"\\";
    let odd = document_of(&Template::new(parts), &odd, Content::Line(b"x"));
    assert!(odd.contains(r#""logtag":"F:\"\\","#), "{odd}");
}

#[test]
fn a_known_job_is_named_beside_its_id() {
    const ID: &str = "b18f0b529989bee72c64dff467c6eee0";
    let members = br#""job.name":"orders","job.state":"RUNNING""#.to_vec();
    let jobs = BTreeMap::from([(ID.to_owned(), members)]);
    let named = format!(r#""job":{{"id":"{ID}"}},"job.name":"orders","job.state":"RUNNING"}}"#);
    for form in [DocumentForm::Fluentd, DocumentForm::Ecs] {
        for framing in [Framing::Bulk, Framing::Lines] {
            let template = Template::new(Parts { jobs: &jobs, framing, ..parts(form) });
            let document = |line: &str| {
                document_of(&template, &facts(), Content::Line(line.as_bytes()))
                    .replace(&ID.to_uppercase(), ID)
            };
            for time in ["\"2026-11-23T21:06:10.556Z\"", "1763931970556", "\"yesterday, late\""] {
                for id in [ID.to_owned(), ID.to_uppercase()] {
                    let top =
                        document(&format!(r#"{{"@timestamp":{time},"flink-job-id":"{id}"}}"#));
                    assert!(top.contains(&named), "{top}");
                    let mdc =
                        document(&format!(r#"{{"ts":{time},"mdc":{{"flink-job-id":"{id}"}}}}"#));
                    assert!(mdc.contains(&named), "{mdc}");
                }
            }
            let another = ID.replace('b', "c");
            for line in [
                "text".to_owned(),
                r#"{"message":"m"}"#.to_owned(),
                format!(r#"{{"flink-job-id":"{another}"}}"#),
                format!(r#"{{"flink":{{"job":{{"id":"{ID}"}}}}}}"#),
            ] {
                assert!(!document(&line).contains("job.name"), "{line}");
            }
        }
    }
}

#[test]
fn index_by_date() {
    let pattern = IndexName::ByDate("logs-%Y.%m.%d-%H".to_owned());
    let mut parts = parts(DocumentForm::Fluentd);
    parts.index = Some(&pattern);
    let template = Template::new(parts);
    let mut scratch = Scratch::default();
    for (time_ns, index) in [
        (TIME_NS, "logs-2026.11.23-21"),
        (TIME_NS + HOUR_NS, "logs-2026.11.23-22"),
        (TIME_NS + 3 * HOUR_NS, "logs-2026.11.24-00"),
        (0, "logs-1970.01.01-00"),
        (-1, "logs-1969.12.31-23"),
    ] {
        let mut body = Vec::new();
        let id = Id { time_ns, ..facts().id };
        let facts = LineFacts { id, ..facts() };
        append(&template, &facts, Content::Line(b"x"), &mut scratch, &mut body);
        let start = format!(r#"{{"create":{{"_index":"{index}","_id":""#);
        assert!(body.starts_with(start.as_bytes()), "{}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn times_of_each_layout() {
    check(
        r#"{"@timestamp":"2026-11-23T21:06:08.725Z","a":1}"#,
        "2026-11-23T21:06:08.725Z",
        r#","@timestamp":"2026-11-23T21:06:08.725Z","a":1}"#,
    );
    // logstash: another form of the same time takes the member's place.
    let own = r#""@timestamp":"2026-11-23T21:20:56.514+0000""#;
    let utc = "2026-11-23T21:20:56.514000000Z";
    check(&format!(r#"{{"@version":1,{own},"a":1}}"#), utc, r#","@version":1,"a":1}"#);
    check(&format!(r#"{{{own} , "a":1}}"#), utc, r#","a":1}"#);
    check(&format!(r#"{{"time":"x" , {own} }}"#), utc, r#","application.time":"x"}"#);
    check(&format!(r#"{{{own}}}"#), utc, "}");
    // gcp
    check(
        r#"{"timestamp":"2026-11-23T21:15:37.039Z"}"#,
        "2026-11-23T21:15:37.039Z",
        r#","timestamp":"2026-11-23T21:15:37.039Z"}"#,
    );
    // gelf
    check(
        r#"{"timestamp":1795468937.493127544}"#,
        "2026-11-23T21:22:17.493127544Z",
        r#","timestamp":1795468937.493127544}"#,
    );
    // jsonlayout
    check(
        r#"{"instant":{"epochSecond":1795468350,"nanoOfSecond":692340794}}"#,
        "2026-11-23T21:12:30.692340794Z",
        r#","instant":{"epochSecond":1795468350,"nanoOfSecond":692340794}}"#,
    );
    // custom: `time` is the agent's name, and comes before `ts`.
    check(
        r#"{"ts":1795468626449,"time":"2026-11-23T22:17:06.449+01:00"}"#,
        "2026-11-23T22:17:06.449+01:00",
        r#","ts":1795468626449,"application.time":"2026-11-23T22:17:06.449+01:00"}"#,
    );
}

#[test]
fn times_that_cannot_be_read() {
    for value in [r#""yesterday""#, "null", "true", "[]", r#"{"epochSecond":1}"#, r#""""#, "1e99"] {
        check(
            &format!(r#"{{"@timestamp":{value},"a":1}}"#),
            TIME,
            &format!(r#","application.@timestamp":{value},"a":1}}"#),
        );
    }
    check(
        r#"{"@timestamp":"x","ts":1795468626449}"#,
        "2026-11-23T21:17:06.449000000Z",
        r#","application.@timestamp":"x","ts":1795468626449}"#,
    );
    check(r#"{"timestamp":"x"}"#, TIME, r#","timestamp":"x"}"#);
}

#[test]
fn the_pipelines_time_field_comes_first() {
    let mut parts = parts(DocumentForm::Fluentd);
    parts.names = &NAMES[2];
    let template = Template::new(parts);
    let line = br#"{"@timestamp":"2026-11-23T21:06:08.725Z","zeit":"2020-01-01T00:00:00Z"}"#;
    let members = unique(&document_of(&template, &facts(), Content::Line(line)));
    let text = |name: &str| members.get(name).cloned();
    assert_eq!(text("@timestamp"), Some(Unique::Scalar("2020-01-01T00:00:00Z".into())));
    assert_eq!(
        text("application.@timestamp"),
        Some(Unique::Scalar("2026-11-23T21:06:08.725Z".into()))
    );
}

#[test]
fn names_that_give_way() {
    check(
        r#"{"kubernetes":{"x":1},"stream.a":2,"_id":3,"_logger":4,"application":{"b":5},"@timestamp.c":6}"#,
        TIME,
        r#","application.kubernetes":{"x":1},"application.stream.a":2,"application._id":3,"_logger":4,"application.application":{"b":5},"application.@timestamp.c":6}"#,
    );
    check(
        r#"{"log":{"level":"INFO"},"log.level":"WARN","log.offset":7}"#,
        TIME,
        r#","log":{"level":"INFO"},"log.level":"WARN","application.log.offset":7}"#,
    );
    for log in [r#""text""#, r#"{"offset":1}"#, r#"{"a":1,"truncated.x":1}"#, "[]", "null"] {
        check(&format!(r#"{{"log":{log}}}"#), TIME, &format!(r#","application.log":{log}}}"#));
    }
}

#[test]
fn the_slow_road() {
    check(r#"{"a":1,"b":2,"a":3}"#, TIME, r#","b":2,"a":3}"#);
    check(
        r#"{"\u0074ime":1,"s\u0074ream.x":"\ud800"}"#,
        "1970-01-01T00:00:01.000000000Z",
        r#","application.time":1,"application.stream.x":"\ufffd"}"#,
    );
    check("{\r\n\"a\":\n\"b\\n\"}", TIME, r#","a":"b\n"}"#);
    let many: Vec<_> = (0..500).map(|i| format!(r#""k{i}":{i}"#)).collect();
    check(
        &format!("{{{},\"k0\":0}}", many.join(",")),
        TIME,
        &format!(",{},\"k0\":0}}", many[1..].join(",")),
    );
}

#[test]
fn text() {
    check("NaN \x1b[0m\n\tat x", TIME, r#","message":"NaN \u001b[0m\n\tat x"}"#);
    check(r#"{"":1}"#, TIME, r#","message":"{\"\":1}"}"#);
    check("", TIME, r#","message":""}"#);
}

const LAYOUTS: [(&str, &[u8], usize); 8] = [
    ("custom", include_bytes!("../../../tests/fixtures/lines/custom.log"), 100),
    ("ecs", include_bytes!("../../../tests/fixtures/lines/ecs.log"), 100),
    ("ecs-flink2", include_bytes!("../../../tests/fixtures/lines/ecs-flink2.log"), 100),
    ("gcp", include_bytes!("../../../tests/fixtures/lines/gcp.log"), 100),
    ("gelf", include_bytes!("../../../tests/fixtures/lines/gelf.log"), 100),
    ("jsonlayout", include_bytes!("../../../tests/fixtures/lines/jsonlayout.log"), 100),
    ("logstash", include_bytes!("../../../tests/fixtures/lines/logstash.log"), 100),
    ("pattern", include_bytes!("../../../tests/fixtures/lines/pattern.log"), 0),
];

/// Where a member of the application's has to be, by the rules said once more in plain words.
fn expected_name(name: &str, agent: &[&str], value: &Unique) -> String {
    const LOG: [&str; 3] = ["offset", "truncated", "original_length"];
    let mut segments = name.split('.');
    let (first, second) = (segments.next().unwrap_or_default(), segments.next());
    let agents_log = first == "log"
        && match (second, value) {
            (Some(second), _) => LOG.contains(&second),
            (None, Unique::Object(members)) => {
                members.keys().any(|name| LOG.contains(&name.split('.').next().unwrap_or_default()))
            }
            (None, _) => true,
        };
    let metadata = ["_id", "_index", "_source", "_type", "_routing", "_version"].contains(&first);
    if agents_log || metadata || first == "@timestamp" || agent.contains(&first) {
        return format!("application.{name}");
    }
    name.to_owned()
}

fn is_text(line: &[u8]) -> bool {
    matches!(json::scan(line, &mut Scan::default()), Kind::Text(_))
}

/// Every member of the application's is in the document, and the agent's are.
fn check_whole(line: &[u8]) -> Result<(), TestCaseError> {
    let template = Template::new(parts(DocumentForm::Fluentd));
    let document = document_of(&template, &facts(), Content::Line(line));
    let mut members = unique(&document);
    let own_time = members.remove("@timestamp");
    prop_assert!(matches!(&own_time, Some(Unique::Scalar(Value::String(_)))), "{}", document);
    for name in ["kubernetes", "flink", "stream", "logtag", "time", "log.offset"] {
        prop_assert!(members.remove(name).is_some(), "no {} in {}", name, document);
    }
    let application = match serde_json::from_slice::<serde_json::Map<String, Value>>(line) {
        Ok(application) if !is_text(line) => application,
        _ => {
            let message = Unique::Scalar(String::from_utf8_lossy(line).into());
            prop_assert_eq!(members, BTreeMap::from([("message".to_owned(), message)]));
            return Ok(());
        }
    };
    for (name, value) in application {
        let value = Unique::from(value);
        let place = expected_name(&name, FLUENTD, &value);
        let found = members.remove(&place);
        // The document's own time stands for it.
        let is_time = name == "@timestamp" && found.is_none();
        prop_assert!(found == Some(value) || is_time, "{} in {}", place, document);
    }
    prop_assert!(members.is_empty(), "{:?} came from nowhere", members);
    Ok(())
}

#[test]
fn real_lines() {
    for (layout, log, objects) in LAYOUTS {
        let mut found = 0;
        for line in log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            check_whole(line).expect(layout);
            let document = fluentd(&String::from_utf8_lossy(line));
            let runs = document.contains(&*String::from_utf8_lossy(line.get(1..).unwrap_or(line)));
            found += usize::from(runs);
        }
        // custom's `time` moves and logstash's `@timestamp` is rewritten, all else is one piece.
        let expected = if matches!(layout, "custom" | "logstash") { 0 } else { objects };
        assert!(found >= expected, "{layout}: {found} lines in one piece");
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z]{1,3}",
        2 => prop::sample::select(vec![
            "@timestamp", "timestamp", "time", "ts", "instant", "kubernetes", "stream", "_id",
            "log", "log.offset", "log.level", "application", "application.time", "flink", "mdc",
            "flink-job-id", "offset", "_source.x", "@timestamp.x", "time.x", "message",
        ]).prop_map(str::to_owned),
        1 => ".{1,4}",
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(Value::from("2026-11-23T21:06:08.725Z")),
        Just(Value::from("2026-11-23T21:06:08.725+0000")),
    ];
    scalar.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec((name(), json()), 0..10)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

/// The same object with each character of its names escaped: for the slow road.
fn names_escaped(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let name: String =
                    name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                format!("\"{name}\" : {}", names_escaped(value))
            };
            format!("{{ {} }}", members.iter().map(member).collect::<Vec<_>>().join(" , "))
        }
        Value::Array(items) => {
            format!("[ {} ]", items.iter().map(names_escaped).collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}

proptest! {
    #[test]
    fn every_member_of_any_object_is_there(object in object()) {
        check_whole(object.to_string().as_bytes())?;
    }

    #[test]
    fn any_bytes_make_a_document(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let template = Template::new(parts(DocumentForm::Fluentd));
        for content in [Content::Line(&bytes), Content::Text(&bytes)] {
            unique(&document_of(&template, &facts(), content));
        }
        unique(&document_of(&template, &facts(), Content::Line(&[b"{\"a\":", &*bytes, b"}"].concat())));
    }

    #[test]
    fn names_that_stand_twice_never_reach_the_document(
        members in prop::collection::vec((name(), json()), 0..10),
    ) {
        let text: Vec<_> =
            members.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
        check_whole(format!("{{{}}}", text.join(",")).as_bytes())?;
    }

    #[test]
    fn both_roads_agree(object in object()) {
        let fast = unique(&fluentd(&object.to_string()));
        let slow = unique(&fluentd(&names_escaped(&object)));
        prop_assert_eq!(fast, slow);
    }
}
