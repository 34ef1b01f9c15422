use proptest::prelude::*;

use super::*;

const LAYOUTS: [&[u8]; 8] = [
    include_bytes!("../../../tests/fixtures/lines/custom.log"),
    include_bytes!("../../../tests/fixtures/lines/ecs.log"),
    include_bytes!("../../../tests/fixtures/lines/ecs-flink2.log"),
    include_bytes!("../../../tests/fixtures/lines/gcp.log"),
    include_bytes!("../../../tests/fixtures/lines/gelf.log"),
    include_bytes!("../../../tests/fixtures/lines/jsonlayout.log"),
    include_bytes!("../../../tests/fixtures/lines/logstash.log"),
    include_bytes!("../../../tests/fixtures/lines/pattern.log"),
];

fn lines() -> Vec<&'static [u8]> {
    LAYOUTS.iter().flat_map(|log| log.split(|&byte| byte == b'\n')).collect()
}

fn read(line: &[u8]) -> (Kind, Scan) {
    let mut out = Scan::default();
    let kind = scan(line, &mut out);
    (kind, out)
}

fn check(line: impl AsRef<[u8]>, expected: Kind) {
    let line = line.as_ref();
    assert_eq!(read(line).0, expected, "{}", String::from_utf8_lossy(line));
}

#[test]
fn objects() {
    for line in [
        "{}",
        " {} ",
        "\t{ \"a\" : 1 }\r",
        r#"{"a":-0.5e-3,"b":[],"c":{},"d":[1,"x",{"y":null}],"e":true,"f":false}"#,
        r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude80 é 🚀"}"#,
        r#"{"a":0,"b":-0,"c":10E+2,"d":1.0}"#,
        r#"{"a":{"a":1},"b":{"a":1}}"#,
    ] {
        let expected = if line.contains('\r') { Kind::Unusual } else { Kind::Object };
        check(line, expected);
    }
}

#[test]
fn text() {
    for line in ["", " ", "plain", "[1]", "1", "\"a\"", "null", "NaN", "\u{feff}{}"] {
        check(line, Kind::Text(Reason::NotObject));
    }
    for line in [
        "{",
        "{\"",
        r#"{"a"#,
        r#"{"a""#,
        r#"{"a":"#,
        r#"{"a":1"#,
        r#"{"a":1,"#,
        r#"{"a":1,}"#,
        r#"{,"a":1}"#,
        r#"{"a":1}}"#,
        r#"{"a":1} x"#,
        r#"{"a":1}{}"#,
        r#"{"a":NaN}"#,
        r#"{"a":Infinity}"#,
        r#"{"a":nul}"#,
        r#"{"a":trux}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":+1}"#,
        r#"{"a":-}"#,
        r#"{"a":1e}"#,
        r#"{"a":0x1}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":[1}"#,
        r#"{"a" 1}"#,
        r#"{a:1}"#,
        r#"{'a':1}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":"\u12"#,
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"tab\there is long enough\"}",
        "{\"a\":1}\0",
        "{\"a\":\"\\",
        "{\"a\":1}\x0c",
    ] {
        check(line, Kind::Text(Reason::Invalid));
    }
    check(b"{\"a\":\"\xff\"}", Kind::Text(Reason::NotUtf8));
    check(b"{\"a\":\"\xed\xa0\x80\"}", Kind::Text(Reason::NotUtf8));
    check(r#"{"":1}"#, Kind::Text(Reason::EmptyName));
    check(r#"{"a":[{"":1}]}"#, Kind::Text(Reason::EmptyName));
}

#[test]
fn depth_has_a_limit() {
    let nested = |levels: usize, open: &str, close: &str| {
        format!("{{\"a\":{}1{}}}", open.repeat(levels - 1), close.repeat(levels - 1))
    };
    for (open, close) in [("[", "]"), ("{\"b\":", "}")] {
        check(nested(MAX_DEPTH, open, close), Kind::Object);
        check(nested(MAX_DEPTH + 1, open, close), Kind::Text(Reason::TooDeep));
        check(nested(100_000, open, close), Kind::Text(Reason::TooDeep));
    }
}

#[test]
fn unusual() {
    for line in [
        r#"{"a":1,"a":2}"#,
        r#"{"x":{"a":1,"b":2,"a":3}}"#,
        r#"{"x":[0,{"a long name":1,"a long name":3}]}"#,
        r#"{"\u0061":1}"#,
        r#"{"x":{"a\n":1}}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"a":"\udc00\ud800"}"#,
        r#"{"a":"\ud800\u0061"}"#,
        "{\"a\":\n1}",
    ] {
        check(line, Kind::Unusual);
    }
    let object = |members: usize| {
        let members: Vec<_> = (0..members).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", members.join(","))
    };
    check(object(MAX_MEMBERS), Kind::Object);
    check(object(MAX_MEMBERS + 1), Kind::Unusual);
    check(format!("{{\"a\":{}}}", object(100_000)), Kind::Unusual);
}

#[test]
fn job_ids() {
    const ID: &str = "55a85b9d80db677cf5c10687b5db325b";
    let found = |line: &str| {
        read(line.as_bytes()).1.job_id.and_then(|range| line.get(range).map(str::to_owned))
    };
    for line in [
        format!(r#"{{"flink-job-id":"{ID}"}}"#),
        format!(r#"{{"_flink-job-id" : "{ID}"}}"#),
        format!(r#"{{"mdc":{{"a":1,"flink-job-id":"{ID}"}}}}"#),
        format!(r#"{{"contextMap":{{"flink-job-id":"{ID}"}}}}"#),
        format!(r#"{{"logging.googleapis.com/labels":{{"flink-job-id":"{ID}"}}}}"#),
    ] {
        assert_eq!(found(&line).as_deref(), Some(ID), "{line}");
    }
    for line in [
        format!(r#"{{"other":{{"flink-job-id":"{ID}"}}}}"#),
        format!(r#"{{"mdc":{{"x":{{"flink-job-id":"{ID}"}}}}}}"#),
        format!(r#"{{"mdc":[{{"flink-job-id":"{ID}"}}]}}"#),
        format!(r#"{{"flink-job-id":"{ID}0"}}"#),
        format!(r#"{{"flink-job-id":"{}"}}"#, ID.replace('a', "x")),
        r#"{"flink-job-id":1}"#.to_owned(),
    ] {
        assert_eq!(found(&line), None, "{line}");
    }
}

#[test]
fn members_lie_where_they_are() {
    let line = br#" { "a":"x" , "log.level" : {"b":[1]},"n":-1.5 } "#;
    let (kind, scan) = read(line);
    assert_eq!(kind, Kind::Object);
    let text = |range: Range<usize>| String::from_utf8_lossy(&line[range]).into_owned();
    let members: Vec<_> =
        scan.members.iter().map(|m| (text(m.key()), text(m.value()), m.value_type)).collect();
    let member = |key: &str, value: &str, kind| (key.to_owned(), value.to_owned(), kind);
    assert_eq!(
        members,
        [
            member("a", "\"x\"", ValueType::String),
            member("log.level", "{\"b\":[1]}", ValueType::Object),
            member("n", "-1.5", ValueType::Number),
        ]
    );
    assert_eq!(text(scan.inner), r#""a":"x" , "log.level" : {"b":[1]},"n":-1.5"#);
}

/// What another parser says: an object of valid UTF-8.
fn is_object(line: &[u8]) -> bool {
    str::from_utf8(line).is_ok()
        && line.trim_ascii_start().first() == Some(&b'{')
        && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

fn agrees(line: &[u8]) -> bool {
    match read(line).0 {
        Kind::Object | Kind::Unusual => is_object(line),
        Kind::Text(Reason::TooDeep | Reason::EmptyName) => true,
        Kind::Text(_) => !is_object(line),
    }
}

#[test]
fn real_lines() {
    let (mut objects, mut jobs) = (0, 0);
    for line in lines() {
        assert!(agrees(line), "{}", String::from_utf8_lossy(line));
        let (kind, scan) = read(line);
        // Flink's own lines are all for the fast road.
        assert_ne!(kind, Kind::Unusual, "{}", String::from_utf8_lossy(line));
        if kind == Kind::Object {
            let map: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(line).expect("both parsers agree");
            assert_eq!(map.len(), scan.members.len());
            objects += 1;
            jobs += usize::from(scan.job_id.is_some());
        }
    }
    assert!(objects > 600 && jobs > 300, "{objects} objects, {jobs} with a job");
}

proptest! {
    #[test]
    fn any_bytes_agree(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert!(agrees(&bytes));
        let value = [b"{\"a\":", &*bytes, b"}"].concat();
        let string = [b"{\"a\":\"", &*bytes, b"\"}"].concat();
        prop_assert!(agrees(&value) && agrees(&string));
    }

    #[test]
    fn likely_bytes_agree(text in r#"\{("[a\\u0d8 ]{0,3}":([\[\]{}",:0-9eE.+-]|true|null|"x"| ){0,5},?){0,4}\}?"#) {
        prop_assert!(agrees(text.as_bytes()), "{}", text);
    }

    #[test]
    fn damaged_lines_agree(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{}[]:,u0e- \n"[..])],
        cut in any::<bool>(),
    ) {
        let lines = lines();
        let mut line = which.get(&lines).to_vec();
        if !line.is_empty() {
            let at = at.index(line.len());
            line[at] = byte;
            if cut {
                line.truncate(at + 1);
            }
        }
        prop_assert!(agrees(&line), "{}", String::from_utf8_lossy(&line));
    }
}

type Found =
    (Kind, Range<usize>, Vec<(Range<usize>, Range<usize>, ValueType)>, Option<Range<usize>>);

#[test]
fn behind_a_name_too_long_to_be_known_none_is() {
    let long = "x".repeat(100);
    let line = format!(r#"{{"first":1,"{long}":1,"a":1,"{long}y":1,"b":1}}"#);
    let mut used = Scan::default();
    let marks = |used: &mut Scan| -> Vec<u8> {
        assert_eq!(scan(line.as_bytes(), used), Kind::Object);
        used.members.iter().map(|member| member.mark).collect()
    };
    assert_eq!(marks(&mut used), [UNMARKED; 5]);
    for member in used.members.clone() {
        used.mark(member, 7);
    }
    assert_eq!(marks(&mut used), [7, UNMARKED, UNMARKED, UNMARKED, UNMARKED]);
}

/// What was found in a line, for comparisons.
fn found(line: &[u8], out: &mut Scan) -> Found {
    let kind = scan(line, out);
    let member = |member: &Member| (member.key(), member.value(), member.value_type);
    match kind {
        Kind::Object => {
            let members = out.members.iter().map(member).collect();
            (kind, out.inner.clone(), members, out.job_id.clone())
        }
        _ => (kind, 0..0, Vec::new(), None),
    }
}

/// What a string's text is made of: short and long, with escapes, UTF-8 and what is none.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[a-z ]{0,70}".prop_map(String::into_bytes),
        2 => Just(br"\u00e9".to_vec()),
        1 => Just(br"\n".to_vec()),
        2 => Just("é".into()),
        1 => Just(b"\xE9".to_vec()),
    ]
}

proptest! {
    /// Whether other than ASCII is UTF-8 is found out wherever it stands: in names, known or not, in
    /// values, behind escapes, in any of the blocks that a line is looked at in.
    #[test]
    fn what_is_not_utf8_is_noticed(
        lines in prop::collection::vec(
            prop::collection::vec(
                (prop::collection::vec(piece(), 0..2), prop::collection::vec(piece(), 0..4), any::<bool>()),
                0..4,
            ),
            1..4,
        ),
    ) {
        let mut used = Scan::default();
        let lines: Vec<_> = lines.into_iter().map(|members| {
            let members: Vec<_> = members.into_iter().enumerate().map(|(i, (name, value, nested))| {
                let (open, close) = if nested { (r#"{"x":["#, "]}") } else { ("", "") };
                let name = name.concat();
                let parts = [b"\"", &i.to_string().into_bytes()[..], &name, b"\":", open.as_bytes(), b"\""];
                [&parts.concat()[..], &value.concat(), b"\"", close.as_bytes()].concat()
            }).collect();
            [b"{", &members.join(&b',')[..], b"}"].concat()
        }).collect();
        // The second time with what is known of all lines.
        for line in lines.iter().chain(&lines) {
            let is_utf8 = std::str::from_utf8(line).is_ok();
            let kind = scan(line, &mut used);
            prop_assert_eq!(kind == Kind::Text(Reason::NotUtf8), !is_utf8, "{:?}", kind);
            prop_assert_eq!(matches!(kind, Kind::Object | Kind::Unusual), is_utf8, "{:?}", kind);
        }
    }

    /// Names that are known from other lines change no result: few short names, so that they come
    /// again in other orders, twice in a line, with white space, escapes and more bytes.
    #[test]
    fn what_is_known_changes_nothing(
        lines in prop::collection::vec(
            r#"\{("(a|b|ab|flink-job-id|mdc|a\\u0062|[a-c]{28,32}|[ab]{60,64})"( )?:("x"|1|\{"a":1\}|"0123456789abcdef0123456789abcdef"),){0,6}("(a|b|z)":1)?\}"#,
            1..12,
        ),
    ) {
        let mut used = Scan::default();
        for line in &lines {
            let line = line.as_bytes();
            prop_assert_eq!(found(line, &mut used), found(line, &mut Scan::default()));
        }
    }

    /// A member has no mark, or the one that its name was given.
    #[test]
    fn marks_belong_to_names(
        lines in prop::collection::vec(r#"\{"z":1(,"(a|b|c|[a-c]{64})":1){0,4}\}"#, 1..12),
        unmark in 0..12_usize,
    ) {
        let mark_of = |name: &[u8]| u8::try_from(name.len()).unwrap() + name[0];
        let mut used = Scan::default();
        let mut any = false;
        for (i, line) in lines.iter().enumerate() {
            scan(line.as_bytes(), &mut used);
            let fresh = i == 0 || i == unmark;
            for member in used.members.clone() {
                let mark = mark_of(&line.as_bytes()[member.key()]);
                prop_assert!(member.mark == UNMARKED || !fresh && member.mark == mark);
                any |= member.mark == mark;
                used.mark(member, mark);
            }
            if i + 1 == unmark {
                used.unmark_all();
            }
        }
        prop_assert!(any || lines.len() < 3, "each line has a z, which is guessed the second time");
    }

    /// What is left out is plain, and nothing else is otherwise: also where a name stands twice, some
    /// are too long to be known, and more are there than can be.
    #[test]
    fn plain_members_may_be_left_out(
        lines in prop::collection::vec(
            r#"\{"z":1(,"(a|b|c|[a-c]{64}|[a-z]{2})":(1|"x"|\{\}|"\\u0041")){0,9}\}"#,
            1..12,
        ),
    ) {
        let is_plain = |name: &[u8]| !name.starts_with(b"b");
        let (mut all, mut some) = (Scan::default(), Scan::default());
        let (mut left_out, mut any_unknown) = (0, false);
        for line in lines.iter().map(String::as_bytes) {
            let kinds = [scan(line, &mut all), scan(line, &mut some)];
            prop_assert_eq!(kinds[0], kinds[1]);
            prop_assert_eq!(&all.inner, &some.inner);
            prop_assert_eq!((all.members.len(), all.count), (all.count, some.count));
            let place = |member: &Member| (member.key(), member.value(), member.value_type);
            let mut rest = some.members.iter().map(place).peekable();
            for member in &all.members {
                any_unknown |= member.key().len() > 60;
                if rest.next_if_eq(&place(member)).is_none() {
                    prop_assert!(is_plain(&line[member.key()]));
                    left_out += 1;
                }
            }
            prop_assert_eq!(rest.next(), None);
            for member in some.members.clone() {
                some.mark(member, if is_plain(&line[member.key()]) { PLAIN } else { 2 });
            }
        }
        prop_assert!(left_out > 0 || any_unknown || lines.len() < 3, "each line has a plain z");
    }

    /// More names than are known at once, over lines and in one.
    #[test]
    fn too_many_names_change_nothing(
        lines in prop::collection::vec(prop::collection::vec(0..200_u32, 1..60), 1..12),
    ) {
        let mut used = Scan::default();
        for names in &lines {
            let members: Vec<_> = names.iter().map(|name| format!("\"name{name}\":1")).collect();
            let line = format!("{{{}}}", members.join(","));
            let twice = names.iter().collect::<std::collections::HashSet<_>>().len() < names.len();
            let kind = scan(line.as_bytes(), &mut used);
            prop_assert_eq!(kind, if twice { Kind::Unusual } else { Kind::Object });
            prop_assert_eq!(found(line.as_bytes(), &mut used), found(line.as_bytes(), &mut Scan::default()));
        }
    }
}
