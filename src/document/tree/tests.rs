use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn rewritten(text: &str) -> Result<String, NotJson> {
    let mut out = Vec::new();
    Tree::parse(text.as_bytes())?.write(&mut out);
    Ok(String::from_utf8(out).unwrap())
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(rewritten(text).unwrap(), expected);
}

#[test]
fn scalars_stay_byte_for_byte_and_space_goes() {
    check(
        "\t{ \"b\" : 1.0E+2 , \"a\":[ 1 , -0.0,\"\\u00e9\\/\\ud800\" ],\"c\":{ } , \"d\":[\n] }\r\n",
        r#"{"b":1.0E+2,"a":[1,-0.0,"\u00e9\/\ud800"],"c":{},"d":[]}"#,
    );
}

#[test]
fn a_real_line_of_flink_comes_back_as_it_was() {
    let line = r#"{"@timestamp":"2026-07-29T03:16:34.917Z","ecs.version":"1.2.0","log.level":"INFO","message":"Loading\tconfiguration","process.thread.name":"main","log.logger":"org.apache.flink.configuration.GlobalConfiguration","flink-job-id":"a0"}"#;
    check(line, line);
}

#[test]
fn names_are_unescaped_and_escaped_anew() {
    check(r#"{"\u0061\/\u0001\"\\\n\ud83d\ude00":0}"#, "{\"a/\\u0001\\\"\\\\\\n\u{1f600}\":0}");
}

#[test]
fn a_name_that_stands_twice_keeps_its_last_value() {
    check(r#"{"a":1,"b":2,"\u0061":{"x":1,"x":2}}"#, r#"{"b":2,"a":{"x":2}}"#);
    let many: Vec<String> = (0..40).map(|n| format!(r#""k{}":{n}"#, n % 30)).collect();
    let text = format!("[{{{}}}]", many.join(","));
    let text = format!(r#"{{"a":{text}}}"#);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&rewritten(&text).unwrap()).unwrap(), value);
}

#[test]
fn what_is_no_document_is_refused_with_the_place() {
    let cases: [(&str, NotJson); 19] = [
        ("", NotJson::Syntax { at: 0 }),
        ("[]", NotJson::Syntax { at: 0 }),
        ("\u{feff}{}", NotJson::Syntax { at: 0 }),
        ("{", NotJson::Syntax { at: 1 }),
        ("{} {", NotJson::Syntax { at: 3 }),
        ("{a:1}", NotJson::Syntax { at: 1 }),
        (r#"{"a"}"#, NotJson::Syntax { at: 4 }),
        (r#"{"a":}"#, NotJson::Syntax { at: 5 }),
        (r#"{"a":1,}"#, NotJson::Syntax { at: 7 }),
        (r#"{"a":[1,]}"#, NotJson::Syntax { at: 8 }),
        (r#"{"a":01}"#, NotJson::Syntax { at: 6 }),
        (r#"{"a":1.}"#, NotJson::Syntax { at: 7 }),
        (r#"{"a":NaN}"#, NotJson::Syntax { at: 5 }),
        (r#"{"a":nul}"#, NotJson::Syntax { at: 5 }),
        ("{\"a\":\"\t\"}", NotJson::Syntax { at: 6 }),
        (r#"{"a":"\x"}"#, NotJson::Syntax { at: 7 }),
        (r#"{"a":"\u12g4"}"#, NotJson::Syntax { at: 10 }),
        (r#"{"a":{"":1}}"#, NotJson::EmptyName { at: 6 }),
        (r#"{"\ud800\u0041":1}"#, NotJson::LoneSurrogate { at: 1 }),
    ];
    for (text, expected) in cases {
        assert_eq!(Tree::parse(text.as_bytes()), Err(expected), "{text}");
    }
    assert_eq!(Tree::parse(b"{\"a\":\"\xff\"}"), Err(NotJson::Utf8 { at: 6 }));
}

#[test]
fn twenty_levels_pass_and_one_more_does_not() {
    let nested = |levels: usize| {
        let inner = levels - 1;
        format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner))
    };
    check(&nested(20), &nested(20));
    let error = Tree::parse(nested(21).as_bytes()).map(drop);
    assert_eq!(error, Err(NotJson::TooDeep { at: 24, levels: 20 }));
    let siblings = format!("{{\"a\":[{}0]}}", "{},[],".repeat(30));
    check(&siblings, &siblings);
    assert!(Tree::parse_within(nested(21).as_bytes(), 21).is_ok());
}

const FORMS: &str =
    r#"{"a":{"b.c":2,"b":{"c":1}},"a.b":{"c":3},"a.b.c":4,"x":[{"y":1}],"s":"t\u0021"}"#;

#[track_caller]
fn check_change(path: &str, expected: &str, change: impl Fn(&mut Tree<'_>)) {
    let mut tree = Tree::parse(FORMS.as_bytes()).unwrap();
    change(&mut tree);
    let mut out = Vec::new();
    tree.write(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), expected, "{path}");
}

#[test]
fn every_way_of_writing_a_path_is_found_longest_name_first() {
    let mut seen = Vec::new();
    let mut tree = Tree::parse(FORMS.as_bytes()).unwrap();
    tree.each_mut("a.b.c", &mut |node| seen.push(node.clone()));
    assert_eq!(tree.get("a.b.c"), seen.first());
    let expected = [4, 3, 2, 1].map(|n| Node::from(&Value::from(n)));
    assert_eq!(seen, expected);
    assert_eq!(tree.get("x.y"), None, "arrays are not entered");
    assert_eq!(tree.get("a.c"), None);
    assert_eq!(tree.get("s").unwrap().characters().unwrap(), "t!");
    assert_eq!(tree.get("x").unwrap().characters(), None);
}

#[test]
fn removing_leaves_no_form_and_inserting_leaves_one() {
    let rest = r#""x":[{"y":1}],"s":"t\u0021""#;
    let bare = format!(r#"{{"a":{{"b":{{}}}},"a.b":{{}},{rest}}}"#);
    check_change("a.b.c", &bare, |tree| {
        assert_eq!(tree.remove("a.b.c"), Some(Node::from(&Value::from(4))));
        assert_eq!(tree.remove("a.b.c"), None);
    });
    let one = format!(r#"{{"a":{{"b":{{}}}},"a.b":{{"c":9}},{rest}}}"#);
    check_change("a.b.c", &one, |tree| tree.insert("a.b.c", Node::from(&Value::from(9))));
}

#[test]
fn inserting_goes_into_an_object_that_is_there() {
    let insert = |text: &str, path: &str| {
        let mut tree = Tree::parse(text.as_bytes()).unwrap();
        tree.insert(path, Node::string("n\n"));
        let mut out = Vec::new();
        tree.write(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(insert("{}", "a.b"), r#"{"a.b":"n\n"}"#);
    assert_eq!(insert(r#"{"a":{},"z":1}"#, "a.b.c"), r#"{"a":{"b.c":"n\n"},"z":1}"#);
    assert_eq!(insert(r#"{"a":{"b":{}},"z":1}"#, "a.b.c"), r#"{"a":{"b":{"c":"n\n"}},"z":1}"#);
    assert_eq!(insert(r#"{"a":1}"#, "a.b"), r#"{"a":1,"a.b":"n\n"}"#);
    assert_eq!(insert(r#"{"a":{"b":1,"c":2}}"#, "a.b"), r#"{"a":{"b":"n\n","c":2}}"#);
}

/// Documents with names that meet each other's dotted paths.
pub(crate) fn documents() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let values = scalar.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![vec(inner.clone(), 0..4).prop_map(Value::from), objects(inner)]
    });
    objects(values.boxed())
}

fn objects(values: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let name = prop_oneof!["[abc](\\.[abc]){0,2}", "[a-z\"\\\\\u{1}é]{1,3}"];
    btree_map(name, values, 0..5).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #[test]
    fn documents_come_back_equal_to_what_serde_json_reads(value in documents(), pretty: bool) {
        let text = if pretty { format!("{value:#}") } else { value.to_string() };
        let out = rewritten(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), value);
        prop_assert!(pretty || out == text, "compact text stays as it is");
    }

    #[test]
    fn what_is_refused_is_what_serde_json_refuses(
        value in documents(),
        at: prop::sample::Index,
        byte in prop_oneof![prop::sample::select(b"{}[]\",:\\u0-.eE1 \n\x01".to_vec()), any::<u8>()],
    ) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let oracle = serde_json::from_slice::<serde_json::Map<String, Value>>(&text);
        match (Tree::parse(&text), oracle) {
            (Ok(tree), Ok(map)) => {
                let mut out = Vec::new();
                tree.write(&mut out);
                prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), Value::from(map));
            }
            (Err(_), Err(_)) | (Err(NotJson::EmptyName { .. }), Ok(_)) => {}
            // serde_json refuses numbers that f64 does not hold; RFC 8259 does not.
            (Ok(_), Err(error)) if error.to_string().starts_with("number out of range") => {}
            (tree, oracle) => prop_assert!(false, "{tree:?} but {oracle:?}"),
        }
    }

    #[test]
    fn strings_survive_escaping(characters: String) {
        let node = Node::string(&characters);
        prop_assert_eq!(node.characters().unwrap(), characters);
    }

    #[test]
    fn any_bytes_are_unescaped_without_panic(raw in vec(any::<u8>(), 0..20)) {
        unescape(&raw);
    }

    #[test]
    fn a_field_is_there_after_insert_and_gone_after_remove(
        value in documents(),
        path in "[abc](\\.[abc]){0,2}",
    ) {
        let text = value.to_string();
        let mut tree = Tree::parse(text.as_bytes()).unwrap();
        tree.insert(&path, Node::string("new"));
        let mut forms = 0;
        tree.each_mut(&path, &mut |_| forms += 1);
        prop_assert_eq!(forms, 1);
        prop_assert_eq!(tree.remove(&path), Some(Node::string("new")));
        prop_assert_eq!(tree.get(&path), None);
    }
}
