//! What is wrong with a configuration, and where.
//!
//! Owns the form in which every problem is told: `file:line:column: message`, lines and columns
//! from one. Guarantees that all problems of a load are kept, in the order found, and that no
//! control character reaches a terminal. Messages never hold a value that was expanded or that
//! belongs to a secret: those who write them see to that, see [`super::setting`].

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// A path, or the name of an environment variable.
    pub(super) file: Arc<str>,
    /// From one; zero stands for the whole file, or for a variable.
    pub(super) line: usize,
    /// From one, in characters.
    pub(super) column: usize,
}

impl Place {
    /// The whole of a file, or an environment variable.
    pub(super) fn whole(file: impl Into<Arc<str>>) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", Visible(&self.file)),
            line => write!(f, "{}:{line}:{}", Visible(&self.file), self.column),
        }
    }
}

/// One thing to put right, or to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A path, or the name of an environment variable.
    pub file: String,
    /// From one; zero where the problem isn't that of a line.
    pub line: usize,
    /// From one, in characters.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = Place { file: self.file.as_str().into(), line: self.line, column: self.column };
        write!(f, "{place}: {}", Visible(&self.message))
    }
}

/// Everything that is wrong; displayed one problem a line, without a line end after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Text with its control characters escaped.
struct Visible<'a>(&'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// Collects while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Report {
    /// The configuration can't be used as it is.
    pub(super) fn error(&self, place: &Place, message: impl Into<String>) {
        self.errors.borrow_mut().push(problem(place, message.into()));
    }

    /// The configuration can be used, but may not do what its author thinks.
    pub(super) fn warn(&self, place: &Place, message: impl Into<String>) {
        self.warnings.borrow_mut().push(problem(place, message.into()));
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.borrow().len()
    }

    /// The warnings, or all errors if there is one.
    pub(super) fn finish(self) -> Result<Vec<Problem>, Problems> {
        match self.errors.into_inner() {
            errors if errors.is_empty() => Ok(self.warnings.into_inner()),
            errors => Err(Problems(errors)),
        }
    }
}

fn problem(place: &Place, message: String) -> Problem {
    Problem { file: place.file.to_string(), line: place.line, column: place.column, message }
}

/// `` `text` ``, cut to what fits in a message.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        None => format!("`{text}`"),
        Some((end, _)) => format!("`{}…`", text.split_at(end).0),
    }
}

/// `` `a`, `b` or `c` ``.
pub(super) fn any_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.into_iter().map(quoted).collect();
    match names.pop() {
        None => "nothing".to_owned(),
        Some(last) if names.is_empty() => last,
        Some(last) => format!("{} or {last}", names.join(", ")),
    }
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).max(1);
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), other);
    (known.into_iter().map(|other| (distance(&other.to_lowercase()), other)))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let problem = Problem {
            file: "a\u{1b}[31m.yaml".to_owned(),
            line: 3,
            column: 7,
            message: "unknown key `\r\u{9b}x`".to_owned(),
        };
        let shown = Problems(vec![problem.clone(), Problem { line: 0, ..problem }]).to_string();
        assert_eq!(
            shown,
            "a\\u{1b}[31m.yaml:3:7: unknown key `\\r\\u{9b}x`\n\
             a\\u{1b}[31m.yaml: unknown key `\\r\\u{9b}x`"
        );
    }

    #[test]
    fn nearest_is_near() {
        let known = ["max_line", "docker_root", "root"];
        assert_eq!(nearest("maxline", known), Some("max_line"));
        assert_eq!(nearest("MAX_LINE", known), Some("max_line"));
        assert_eq!(nearest("rooot", known), Some("root"));
        assert_eq!(nearest("timeout", known), None);
    }
}
