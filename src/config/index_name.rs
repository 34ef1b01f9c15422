//! Names of indices, aliases and data streams: what Elasticsearch takes.
//!
//! Source: elastic.co, "Create index API", path parameters (9.x): lower case, none of
//! `\ / * ? " < > | space , #` and `:`, not beginning with `-`, `_` or `+`, not `.` or `..`, at
//! most 255 bytes.

use super::pipeline::IndexName;

const FORBIDDEN: &str = "\\/*?\"<>| ,#:";
const MAX_BYTES: usize = 255;

/// Checks a name, or says what is wrong with it. `%Y`, `%m`, `%d` and `%H` make it one by date.
pub(super) fn parse(text: &str) -> Result<IndexName, String> {
    let (name, by_date) = expand_date(text)?;
    if name.is_empty() {
        return Err("the name of an index must not be empty".to_owned());
    }
    if let Some(c) = name.chars().find(|c| FORBIDDEN.contains(*c) || c.is_control()) {
        return Err(format!(
            "the name of an index must not have `{c}`, nor any other of `{FORBIDDEN}`"
        ));
    }
    if name.chars().any(char::is_uppercase) {
        return Err(format!(
            "the name of an index must be in lower case{}",
            if by_date { ", dates aside" } else { "" }
        ));
    }
    if name.starts_with(['-', '_', '+']) {
        return Err("the name of an index must not begin with `-`, `_` or `+`".to_owned());
    }
    if name == "." || name == ".." {
        return Err("the name of an index must not be `.` or `..`".to_owned());
    }
    if name.contains("${") {
        return Err("the name of an index takes dates (`%Y.%m.%d`), but no `${...}`".to_owned());
    }
    if name.len() > MAX_BYTES {
        return Err(format!("the name of an index must not be longer than {MAX_BYTES} bytes"));
    }
    let text = text.to_owned();
    Ok(if by_date { IndexName::ByDate(text) } else { IndexName::Fixed(text) })
}

/// The name with a sample date in it, and whether there was one.
fn expand_date(text: &str) -> Result<(String, bool), String> {
    let mut pieces = text.split('%');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    let mut by_date = false;
    for piece in pieces {
        let mut chars = piece.chars();
        name.push_str(match chars.next() {
            Some('Y') => "2026",
            Some('m') => "01",
            Some('d') => "31",
            Some('H') => "23",
            _ => {
                return Err(
                    "the name of an index takes `%Y`, `%m`, `%d` and `%H`, and no other `%`"
                        .to_owned(),
                );
            }
        });
        name.push_str(chars.as_str());
        by_date = true;
    }
    Ok((name, by_date))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_elasticsearch_takes() {
        for name in ["fluentd", "logs-flink-default", ".hidden", "a.b_c-1+2", "größe"] {
            assert_eq!(parse(name), Ok(IndexName::Fixed(name.to_owned())), "{name}");
        }
        for name in ["fluentd-%Y.%m.%d", "%Y", "a-%Y%m%d%H-b"] {
            assert_eq!(parse(name), Ok(IndexName::ByDate(name.to_owned())), "{name}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        let long = "x".repeat(256);
        let long_by_date = format!("{}%Y", "x".repeat(252));
        for name in [
            "",
            "Fluentd",
            "ab/c",
            "a b",
            "a,b",
            "a#b",
            "a:b",
            "a*",
            "-a",
            "_a",
            "+a",
            ".",
            "..",
            "a%",
            "a%S",
            "a%%",
            "a-${tag}",
            "a\nb",
            &long,
            &long_by_date,
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
        assert!(parse(&"x".repeat(255)).is_ok());
    }
}
