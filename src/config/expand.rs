//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` in the values of native files.
//!
//! Works on the tree, so nothing that is put in can change its shape. The default stands for a
//! variable that is unset or empty. A file's one trailing line end is cut off. `$${` is a literal
//! `${`; a `$` without a brace is itself. What was put in isn't expanded again. Keys aren't
//! expanded. No message holds the value of a variable or of a file.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::problem::{Report, quoted};
use super::text_file;
use super::yaml::{Expanded, Node, Scalar, Value};

/// Expands every scalar beneath `node`; what can't be stays as written, with a problem.
pub(super) fn expand(node: &mut Node, environment: &Environment, report: &Report) {
    match &mut node.value {
        Value::List(nodes) => nodes.iter_mut().for_each(|node| expand(node, environment, report)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| expand(&mut entry.value, environment, report));
        }
        Value::Scalar(scalar) => match expand_scalar(scalar, environment) {
            Ok(()) => {}
            Err(message) => report.error(&node.place, message),
        },
    }
}

fn expand_scalar(scalar: &mut Scalar, environment: &Environment) -> Result<(), String> {
    if !scalar.text.contains("${") {
        return Ok(());
    }
    let pieces = pieces(&scalar.text)?;
    let mut text = String::new();
    for piece in &pieces {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Variable { name, default } => {
                let value = environment.get(name).filter(|value| !value.is_empty());
                text.push_str(value.or(*default).or_else(|| environment.get(name)).ok_or_else(|| {
                    format!(
                        "the variable {} is not set; set it or write a default: `${{{name}:-...}}`",
                        quoted(name)
                    )
                })?);
            }
            Piece::File(path) => text.push_str(&text_file::read_value(path)?),
        }
    }
    let file = match pieces.as_slice() {
        [Piece::File(path)] => Some(PathBuf::from(path)),
        _ => None,
    };
    let only_text = pieces.iter().all(|piece| matches!(piece, Piece::Text(_)));
    let written = std::mem::replace(&mut scalar.text, text);
    if !only_text {
        scalar.expanded = Some(Expanded { written, file });
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
    File(&'a Path),
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            pieces.extend([Piece::Text(before), Piece::Text("${")]);
            rest = after;
            continue;
        }
        let (inside, next) = after
            .split_once('}')
            .ok_or_else(|| "`${` without its `}`; a literal `${` is written `$${`".to_owned())?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        pieces.push(piece(inside)?);
        rest = next;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

fn piece(inside: &str) -> Result<Piece<'_>, String> {
    if let Some(path) = inside.strip_prefix("file:") {
        return match path {
            "" => Err("`${file:}` names no file".to_owned()),
            path => Ok(Piece::File(Path::new(path))),
        };
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name {
        return Ok(Piece::Variable { name, default });
    }
    Err("expected `${VAR}`, `${VAR:-default}` or `${file:PATH}`; a literal `${` is written `$${`"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let environment: Environment =
            [("A", "one"), ("EMPTY", ""), ("NESTED", "${A}"), ("B_2", "2")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into_iter()
                .collect();
        let mut scalar = Scalar { text: text.to_owned(), plain: true, expanded: None };
        let done = expand_scalar(&mut scalar, &environment);
        assert_eq!(done.map(|()| scalar.text.as_str()), expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn expands() {
        check("${A}", Ok("one"));
        check("x${A}y${B_2}z", Ok("xoney2z"));
        check("${A:-other}", Ok("one"));
        check("${NO:-other}", Ok("other"));
        check("${NO:-}", Ok(""));
        check("${EMPTY}", Ok(""));
        check("${EMPTY:-other}", Ok("other"));
        check("${NESTED}", Ok("${A}"));
        check("$${A} $A $$ $", Ok("${A} $A $$ $"));
        check("a}b", Ok("a}b"));
    }

    #[test]
    fn refuses() {
        check(
            "${NO}",
            Err("the variable `NO` is not set; set it or write a default: `${NO:-...}`"),
        );
        check("${A", Err("`${` without its `}`; a literal `${` is written `$${`"));
        check("${file:}", Err("`${file:}` names no file"));
        for text in ["${1}", "${}", "${A-b}", "${a b}", "${A:b}"] {
            check(
                text,
                Err(
                    "expected `${VAR}`, `${VAR:-default}` or `${file:PATH}`; a literal `${` is written `$${`",
                ),
            );
        }
    }

    #[test]
    fn reads_files_and_remembers_a_whole_one() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"s3cret \n\n").unwrap();
        let path = file.path().display().to_string();
        let expand = |text: String| {
            let mut scalar = Scalar { text, plain: true, expanded: None };
            expand_scalar(&mut scalar, &Environment::default()).unwrap();
            (scalar.text, scalar.expanded.and_then(|expanded| expanded.file))
        };
        let (text, remembered) = expand(format!("${{file:{path}}}"));
        assert_eq!((text.as_str(), remembered.as_deref()), ("s3cret \n", Some(file.path())));
        let (text, remembered) = expand(format!("a${{file:{path}}}"));
        assert_eq!((text.as_str(), remembered), ("as3cret \n", None));
    }

    proptest! {
        #[test]
        fn escaping_inverts(text in "[a-z${}:-]{0,20}") {
            let escaped = text.replace("${", "$${");
            prop_assume!(!text.contains("$${"));
            let mut scalar = Scalar { text: escaped, plain: true, expanded: None };
            prop_assert_eq!(expand_scalar(&mut scalar, &Environment::default()), Ok(()));
            prop_assert_eq!(scalar.text, text);
        }
    }
}
