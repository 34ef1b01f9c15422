use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::*;
use crate::config::pipeline::DocumentForm;
use crate::config::pipeline::Filter;
use crate::document::splice::tests::{facts, names, parts};
use crate::document::tree::tests::documents;
use crate::document::{Content, LineFacts, Parts, Scratch, Template};
use crate::pipeline::batch::Framing;

const ACTION: &[u8] = b"{\"create\":{}}\n";

/// What the filters make of a document that stands after something else; `None` if dropped.
fn run(filters: &[Filter], document: &str) -> Option<String> {
    let mut body = [ACTION, document.as_bytes()].concat();
    let mut filters = Filters::new(filters, parts(DocumentForm::Fluentd).names);
    let verdict = filters.apply(Rest(0), &mut body, ACTION.len(), Fields::UNKNOWN, facts().id);
    assert_eq!(&body[..ACTION.len()], ACTION);
    let document = String::from_utf8(body[ACTION.len()..].to_vec()).unwrap();
    (verdict == Verdict::Keep).then_some(document)
}

#[track_caller]
fn check(filters: &[Filter], document: &str, expected: Option<&str>) {
    assert_eq!(run(filters, document).as_deref(), expected);
}

fn on(field: &str, test: Test) -> pipeline::Condition {
    pipeline::Condition { field: field.into(), test }
}

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

fn add(field: &str, value: Value) -> Filter {
    Filter::Add(vec![(field.into(), value)])
}

fn remove(field: &str) -> Filter {
    Filter::Remove(vec![field.into()])
}

fn rename(from: &str, to: &str) -> Filter {
    Filter::Rename { from: from.into(), to: to.into() }
}

fn redact(field: &str, regex: &str, with: &str) -> Filter {
    Filter::Redact { field: field.into(), pattern: pattern(regex), with: with.into() }
}

/// As the application wrote it, with the agent's fields behind it.
const LINE: &str = r#"{"@timestamp":"2026-07-29T03:16:34.917Z","log.level":"INFO","message":"user=\"bob\" password=a1 password=b2","process":{"thread":{"name":"main"}},"flink-job-id":"a0","n":1.50,"tags":["password=x",{"k":"password=y"},["password=z"],7],"none":null,"stream":"stdout","kubernetes":{"pod_name":"tm-1","labels":{"app":"f"}}}"#;

#[test]
fn conditions_compare_the_text_of_a_field() {
    let cases = [
        (on("log.level", Test::In(vec!["DEBUG".into(), "INFO".into()])), true),
        (on("log.level", Test::In(vec!["DEBUG".into()])), false),
        (on("message", Test::Equals(r#"user="bob" password=a1 password=b2"#.into())), true),
        (on("message", Test::Matches(pattern("^user=\"b"))), true),
        (on("message", Test::Matches(pattern("^password"))), false),
        (on("n", Test::Equals("1.50".into())), true),
        (on("n", Test::Equals("1.5".into())), false),
        (on("kubernetes.labels", Test::Equals(r#"{"app":"f"}"#.into())), true),
        (on("kubernetes.labels.app", Test::Exists), true),
        (on("none", Test::Exists), true),
        (on("absent", Test::Exists), false),
        (on("absent", Test::Equals(String::new())), false),
    ];
    for (condition, met) in cases {
        let kept = Some(LINE);
        // On the text, and on the tree that another filter has made necessary.
        for before in [None, Some(remove("stream")), Some(redact("tags", "absent", ""))] {
            let filters = |last| before.iter().cloned().chain([last]).collect::<Vec<_>>();
            let text = run(&filters(Filter::Drop(condition.clone())), LINE);
            assert_eq!(text.is_none(), met, "{condition:?}");
            let text = run(&filters(Filter::Keep(condition.clone())), LINE);
            assert_eq!(text.is_some(), met, "{condition:?}");
        }
        check(&[Filter::Drop(condition.clone())], LINE, kept.filter(|_| !met));
        check(&[Filter::Keep(condition)], LINE, kept.filter(|_| met));
    }
}

#[test]
fn an_added_field_is_new_or_takes_the_place_of_the_old() {
    let filters = [add("environment", json!("production")), add("kubernetes.zone", json!([1]))];
    let added = LINE.replace("\"}}}", r#""},"zone":[1]},"environment":"production"}"#);
    check(&filters, LINE, Some(&added));
    check(&filters, &added, Some(&added));
    check(&[add("n", json!(2))], LINE, Some(&LINE.replace("1.50", "2")));
    check(&[add("a.b", json!({"c": null}))], "{}", Some(r#"{"a.b":{"c":null}}"#));
    check(&[add("a", json!(1))], "{ }", Some(r#"{ "a":1}"#));
    check(&[add("a", json!(1))], "{} ", Some(r#"{"a":1}"#));
    check(&[add("a.b", json!(1))], r#"{"a.b":1,"a":{"b":2}}"#, Some(r#"{"a":{"b":1}}"#));
}

#[test]
fn fields_are_removed_and_renamed_whole() {
    let gone = LINE.replace(r#","process":{"thread":{"name":"main"}}"#, "");
    check(&[remove("process")], LINE, Some(&gone));
    let renamed =
        gone.replace(r#""flink-job-id":"a0","#, "").replace("}}}", r#"}},"flink.job.id":"a0"}"#);
    check(&[remove("process"), rename("flink-job-id", "flink.job.id")], LINE, Some(&renamed));
    check(&[rename("absent", "stream")], LINE, Some(LINE));
    check(&[rename("n", "n")], LINE, Some(LINE));
    check(&[rename("a", "b")], r#"{"b":1,"a":{"x":2}}"#, Some(r#"{"b":{"x":2}}"#));
    check(&[rename("a", "a.b")], r#"{"a":1}"#, Some(r#"{"a.b":1}"#));
    check(&[rename("a.b", "a")], r#"{"a":{"b":1,"c":2}}"#, Some(r#"{"a":1}"#));
    check(&[remove("@timestamp")], r#"{"@timestamp":"now"}"#, Some("{}"));
}

#[test]
fn strings_and_arrays_of_strings_are_redacted() {
    let plain = redact("message", r"password=\S+", "password=***");
    let message = LINE.replace("a1 ", "*** ").replace("b2", "***");
    check(std::slice::from_ref(&plain), LINE, Some(&message));
    let groups = redact("message", r#"user="(\w)(\w+)""#, "user=$1$$\u{1}");
    let message = LINE.replace(r#"\"bob\""#, r"b$\u0001");
    check(&[groups], LINE, Some(&message));
    let tags = LINE.replace("password=x", "***").replace("password=z", "***");
    check(&[redact("tags", r"password=\S", "***")], LINE, Some(&tags));
    for field in ["n", "kubernetes", "absent"] {
        check(&[redact(field, ".", "x")], LINE, Some(LINE));
    }
    let both = r#"{"a.b":"clean","a":{"b":"secret"}}"#;
    check(&[redact("a.b", "secret", "*")], both, Some(&both.replace("secret", "*")));
}

#[test]
fn filters_see_what_those_before_them_did() {
    let filters = [
        add("kept", json!("no")),
        rename("log.level", "level"),
        redact("level", "INFO", "info"),
        Filter::Drop(on("log.level", Test::Exists)),
        Filter::Drop(on("level", Test::Equals("info".into()))),
    ];
    check(&filters, LINE, None);
    check(&filters[..4], r#"{"log.level":"INFO"}"#, Some(r#"{"kept":"no","level":"info"}"#));
}

#[test]
fn what_no_filter_touches_keeps_its_bytes() {
    let text = "{ \"\\u0061\" : [ \"b\" ],\"x\":1 }";
    let filters = [
        remove("absent"),
        rename("absent", "a"),
        redact("a", "never", ""),
        redact("x", "1", ""),
        add("x", json!(1)),
        Filter::Drop(on("a", Test::Equals("b".into()))),
    ];
    check(&filters, text, Some(text));
    check(&[remove("a")], "{\"a\":1", Some("{\"a\":1"));
    let names = parts(DocumentForm::Fluentd).names;
    assert!(Filters::new(&[], names).is_empty());
    assert!(!Filters::new(&filters, names).is_empty());
}

#[test]
fn only_documents_that_meet_the_condition_are_sampled() {
    let sample = |condition| [Filter::Sample { condition, keep: 0, of: 100 }];
    check(&sample(None), LINE, None);
    check(&sample(Some(on("n", Test::Exists))), LINE, None);
    check(&sample(Some(on("absent", Test::Exists))), LINE, Some(LINE));
}

#[test]
fn each_value_is_throttled_for_itself() {
    let throttle =
        Filter::Throttle { by: "pod.name".into(), lines: 1, per: Duration::from_secs(1) };
    for before in [None, Some(remove("gone"))] {
        let list: Vec<Filter> = before.into_iter().chain([throttle.clone()]).collect();
        let mut filters = Filters::new(&list, parts(DocumentForm::Fluentd).names);
        let mut verdicts = |document: &str, time_ns| {
            let id = Id { time_ns, ..facts().id };
            filters.apply(Rest(0), &mut document.as_bytes().to_vec(), 0, Fields::UNKNOWN, id)
        };
        assert_eq!(verdicts(r#"{"gone":1,"pod":{"name":"a"}}"#, 0), Verdict::Keep);
        assert_eq!(verdicts(r#"{"gone":1,"pod":{"name":"\u0061"}}"#, 1), Verdict::Dropped);
        assert_eq!(verdicts(r#"{"gone":1,"pod":{"name":"b"}}"#, 1), Verdict::Keep);
        assert_eq!(verdicts(r#"{"gone":1,"pod":{"name":"a"}}"#, 1_000_000_000), Verdict::Keep);
        assert_eq!(verdicts(r#"{"gone":1}"#, 0), Verdict::Keep);
        assert_eq!(verdicts(r#"{"gone":1}"#, 0), Verdict::Keep);
    }
}

/// Every way to spell a path, longest names first.
fn spellings(path: &str) -> Vec<Vec<String>> {
    let segments: Vec<&str> = path.split('.').collect();
    let mut all = vec![vec![path.to_owned()]];
    for cut in (1..segments.len()).rev() {
        for mut rest in spellings(&segments[cut..].join(".")) {
            rest.insert(0, segments[..cut].join("."));
            all.push(rest);
        }
    }
    all
}

fn holder<'v>(
    document: &'v mut Map<String, Value>,
    names: &[String],
) -> Option<&'v mut Map<String, Value>> {
    names.iter().try_fold(document, |object, name| object.get_mut(name)?.as_object_mut())
}

fn model_remove(document: &mut Map<String, Value>, path: &str) -> Option<Value> {
    let mut first = None;
    for spelling in spellings(path) {
        let (last, names) = spelling.split_last().unwrap();
        let removed = holder(document, names).and_then(|object| object.remove(last));
        first = first.or(removed);
    }
    first
}

fn model_insert(document: &mut Map<String, Value>, path: &str, value: Value) {
    let there: Vec<Vec<String>> = (spellings(path).into_iter())
        .filter(|spelling| {
            let (last, names) = spelling.split_last().unwrap();
            holder(document, names).is_some_and(|object| object.contains_key(last))
        })
        .collect();
    if let [only] = &there[..] {
        let (last, names) = only.split_last().unwrap();
        holder(document, names).unwrap().insert(last.clone(), value);
        return;
    }
    model_remove(document, path);
    let mut names = Vec::new();
    let mut rest: Vec<&str> = path.split('.').collect();
    'deeper: loop {
        for cut in (1..rest.len()).rev() {
            names.push(rest[..cut].join("."));
            if holder(document, &names).is_some() {
                rest.drain(..cut);
                continue 'deeper;
            }
            names.pop();
        }
        break;
    }
    holder(document, &names).unwrap().insert(rest.join("."), value);
}

fn model(filter: &Filter, document: &mut Map<String, Value>) {
    match filter {
        Filter::Add(fields) => {
            for (field, value) in fields {
                model_insert(document, field, value.clone());
            }
        }
        Filter::Remove(fields) => {
            for field in fields {
                model_remove(document, field);
            }
        }
        Filter::Rename { from, to } if from != to => {
            if let Some(value) = model_remove(document, from) {
                model_insert(document, to, value);
            }
        }
        _ => {}
    }
}

fn changes() -> impl Strategy<Value = Vec<Filter>> {
    let path = || "[abc](\\.[abc]){0,2}";
    let value = prop_oneof![Just(json!("v\n")), Just(json!({"b": {"c": 1.5}})), Just(json!(7))];
    let one = prop_oneof![
        vec((path(), value), 1..3).prop_map(Filter::Add),
        vec(path(), 1..3).prop_map(Filter::Remove),
        (path(), path()).prop_map(|(from, to)| rename(&from, &to)),
    ];
    vec(one, 1..4)
}

proptest! {
    #[test]
    fn changes_agree_with_a_naive_model(
        value in documents(),
        filters in changes(),
        pretty: bool,
    ) {
        let text = if pretty { format!("{value:#}") } else { value.to_string() };
        let Value::Object(mut expected) = value else { unreachable!() };
        for filter in &filters {
            model(filter, &mut expected);
        }
        let actual = run(&filters, &text).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&actual).unwrap(), Value::from(expected));
    }

    #[test]
    fn conditions_read_the_same_from_text_and_tree(
        value in documents(),
        field in "[abc](\\.[abc]){0,2}",
        needle in "[a-z0-9{\"]",
    ) {
        let text = value.to_string();
        let tree = Tree::parse(text.as_bytes()).unwrap();
        let field = Field::new(&field, parts(DocumentForm::Fluentd).names);
        let test = Test::Matches(pattern(&regex::escape(&needle)));
        let condition = Condition { field, test };
        let field = &condition.field;
        let (on_text, on_tree) = (View::Text(text.as_bytes(), Fields::UNKNOWN), View::Tree(&tree));
        prop_assert_eq!(on_text.value_of(field), on_tree.value_of(field));
        prop_assert_eq!(on_text.meets(&condition), on_tree.meets(&condition));
    }

    #[test]
    fn a_text_is_compared_as_if_it_were_unescaped(
        written in prop_oneof![r#""([ab]|\\\\|\\u006[12]|ä|\\ud83d\\ude00){0,5}""#, "[ab0{]{0,4}"],
        other in "([ab\\\\0{ä😀]|u006){0,5}",
    ) {
        let text = text(written.as_bytes()).into_owned();
        for other in [&other, &text] {
            prop_assert_eq!(has_text(written.as_bytes(), other), text == *other, "{}", other);
        }
    }

    #[test]
    fn filters_without_work_leave_the_bytes(value in documents(), pretty: bool) {
        let text = if pretty { format!("{value:#}") } else { value.to_string() };
        let filters = [
            remove("zzzz.z"),
            rename("zzzz", "a"),
            redact("a", "\u{7}never", ""),
            Filter::Drop(on("zzzz", Test::Exists)),
        ];
        prop_assert_eq!(run(&filters, &text), Some(text));
    }
}

/// The document that is made of `line`, and what the filters make of it: with what is known of its
/// fields, and without.
fn with_and_without_fields(
    filters: &[Filter],
    content: Content<'_>,
    form: DocumentForm,
) -> [Option<String>; 2] {
    let names = Arc::new(names(form, filters.iter().flat_map(Filter::fields)));
    let head = br#""kubernetes":{"a":{"b":"x"}}"#;
    let parts = Parts { head, names: &names, framing: Framing::Lines, ..parts(form) };
    let template = Template::new(parts);
    let facts = LineFacts { original_length: Some(7), ..facts() };
    let mut scratch = Scratch::default();
    let mut body = Vec::new();
    let (Content::Line(line) | Content::Text(line)) = content;
    // From the second time on what its names mean is known, and members that mean nothing are left out.
    let mut kind = None;
    for _ in 0..2 {
        body.clear();
        kind = template.kind(content, &mut scratch);
        let appended = template.append(&facts, content, kind, &mut scratch, &mut body);
        body.truncate(appended.document.end);
    }
    let fields = Template::fields(kind, line, &scratch);
    [fields, Fields::UNKNOWN].map(|fields| {
        let mut body = body.clone();
        let mut filters = Filters::new(filters, parts.names);
        let rest = filters.decide(fields, facts.id)?;
        let verdict = filters.apply(rest, &mut body, 0, fields, facts.id);
        (verdict == Verdict::Keep).then(|| String::from_utf8(body).unwrap())
    })
}

/// Paths of the application's, of the agent's, and beneath both.
fn any_path() -> impl Strategy<Value = String> {
    prop_oneof![
        "[abc](\\.[abc]){0,2}",
        "(kubernetes|flink|log|application|@timestamp|time|message|_id)(\\.(a|b|level|offset|message)){0,2}",
    ]
}

proptest! {
    #[test]
    fn what_is_known_of_fields_changes_nothing(
        value in documents(),
        more in prop_oneof![Just(""), Just(r#","log.level":"b","time":"a""#), Just(r#","log":{"level":1},"\u0061":2"#)],
        is_json: bool,
        is_line in prop::bool::weighted(0.8),
        is_ecs: bool,
        mut paths in vec(any_path(), 5),
        own in prop::option::of(any::<prop::sample::Index>()),
        needle in "[a-z0-9{\"]",
    ) {
        let names: Vec<&String> = value.as_object().into_iter().flat_map(Map::keys).collect();
        if let Some(own) = own.filter(|_| !names.is_empty()) {
            own.get(&names).as_str().clone_into(&mut paths[0]);
        }
        let mut within = value.as_object().into_iter().flatten().filter_map(|(name, value)| {
            Some(format!("{name}.{}", value.as_object()?.keys().next()?))
        });
        if let Some(path) = within.next().filter(|_| own.is_some()) {
            paths[1] = path;
        }
        let mut line = value.to_string();
        if line.len() > 2 {
            line.insert_str(line.len() - 1, more);
        }
        if !is_json {
            line.insert(0, 'x');
        }
        let bytes = line.as_bytes();
        let content = if is_line { Content::Line(bytes) } else { Content::Text(bytes) };
        let form = if is_ecs { DocumentForm::Ecs } else { DocumentForm::Fluentd };
        let matches = Test::Matches(pattern(&regex::escape(&needle)));
        let (lines, per) = (1, Duration::from_secs(1));
        let filters = [
            Filter::Drop(on(&paths[0], matches)),
            // One that was counted twice would be dropped.
            Filter::Throttle { by: paths[0].clone(), lines, per },
            Filter::Sample { condition: Some(on(&paths[1], Test::Exists)), keep: 1, of: 2 },
            add(&paths[1], json!("new")),
            Filter::Keep(on(&paths[1], Test::Exists)),
            redact(&paths[2], &regex::escape(&needle), "*"),
            rename(&paths[3], "renamed"),
            remove(&paths[4]),
        ];
        for filter in &filters {
            let [with, without] = with_and_without_fields(std::slice::from_ref(filter), content, form);
            prop_assert_eq!(with, without, "{:?} on {}", filter, line);
        }
        let [with, without] = with_and_without_fields(&filters, content, form);
        prop_assert_eq!(with, without);
    }
}
