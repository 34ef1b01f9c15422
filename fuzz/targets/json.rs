//! The scan of an application's line, against a parser of somebody else's; and the slow road,
//! whose text has to be in order for the fast one.

#![no_main]

use serde::de::IgnoredAny;
use splashdam::document::tree::Tree;
use splashdam::parse::json::{Kind, Reason, Scan, scan, scan_rewritten};

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    let mut found = Scan::default();
    let kind = scan(line, &mut found);
    let begins = line.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let is_object = begins && serde_json::from_slice::<IgnoredAny>(line).is_ok();
    match kind {
        Kind::Object | Kind::Unusual => assert!(is_object),
        Kind::Text(Reason::TooDeep | Reason::EmptyName) => {}
        Kind::Text(_) => assert!(!is_object || std::str::from_utf8(line).is_err()),
    }
    if kind == Kind::Object {
        for member in &found.members {
            serde_json::from_slice::<IgnoredAny>(&line[member.value()]).expect("a value");
        }
    }
    if let Ok(tree) = Tree::parse(line) {
        let mut text = Vec::new();
        tree.write(&mut text);
        let again = scan_rewritten(&text, &mut found);
        assert!(!matches!(
            again,
            Kind::Text(Reason::Invalid | Reason::NotUtf8 | Reason::NotObject)
        ));
        let mut twice = Vec::new();
        Tree::parse(&text).expect("what was written").write(&mut twice);
        assert_eq!(text, twice);
    }
});
