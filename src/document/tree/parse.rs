//! Reads JSON by RFC 8259 into a tree.
//!
//! Strict: no comments, no trailing commas, no byte order mark, no control characters in
//! strings, only UTF-8. The stack is bounded by the limit on levels.

use std::borrow::Cow;
use std::collections::HashMap;

use super::string::unescape_checked;
use super::{Members, Node, NotJson};

/// Objects of up to this many members are searched for double names without a map.
const FEW_MEMBERS: usize = 16;

/// Reads a text that is one object.
pub(super) fn object(text: &[u8], levels: usize) -> Result<Members<'_>, NotJson> {
    if simdutf8::basic::from_utf8(text).is_err() {
        return Err(invalid_utf8(text));
    }
    let mut parser = Parser { text, at: 0, level: 0, levels };
    parser.skip_space();
    if parser.peek() != Some(b'{') {
        return Err(parser.unexpected());
    }
    let members = parser.object()?;
    parser.skip_space();
    if parser.at < text.len() { Err(parser.unexpected()) } else { Ok(members) }
}

/// The fast check does not say where; this one does.
fn invalid_utf8(text: &[u8]) -> NotJson {
    let at = std::str::from_utf8(text).err().map_or(0, |error| error.valid_up_to());
    NotJson::Utf8 { at }
}

/// `text[at..]` is what is left; `level` objects and arrays are open.
struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    level: usize,
    levels: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn unexpected(&self) -> NotJson {
        NotJson::Syntax { at: self.at }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes `byte` if it comes next.
    fn pass(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.pass(byte) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    fn enter(&mut self) -> Result<(), NotJson> {
        if self.level == self.levels {
            return Err(NotJson::TooDeep { at: self.at, levels: self.levels });
        }
        self.level += 1;
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn value(&mut self) -> Result<Node<'a>, NotJson> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => return self.object().map(Node::Object),
            Some(b'[') => return self.array().map(Node::Array),
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => return Err(self.unexpected()),
        }
        Ok(Node::Scalar(Cow::Borrowed(self.since(start))))
    }

    fn object(&mut self) -> Result<Members<'a>, NotJson> {
        self.enter()?;
        let mut members = Vec::new();
        if !self.pass(b'}') {
            loop {
                members.push(self.member()?);
                self.skip_space();
                if self.pass(b'}') {
                    break;
                }
                self.expect(b',')?;
                self.skip_space();
            }
        }
        self.level -= 1;
        keep_last(&mut members);
        Ok(members)
    }

    fn member(&mut self) -> Result<(Cow<'a, str>, Node<'a>), NotJson> {
        let at = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        self.string()?;
        let raw = &self.text[at + 1..self.at - 1];
        if raw.is_empty() {
            return Err(NotJson::EmptyName { at });
        }
        let name = unescape_checked(raw).ok_or(NotJson::LoneSurrogate { at })?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok((name, self.value()?))
    }

    fn array(&mut self) -> Result<Vec<Node<'a>>, NotJson> {
        self.enter()?;
        let mut values = Vec::new();
        if !self.pass(b']') {
            loop {
                values.push(self.value()?);
                self.skip_space();
                if self.pass(b']') {
                    break;
                }
                self.expect(b',')?;
                self.skip_space();
            }
        }
        self.level -= 1;
        Ok(values)
    }

    /// Passes a string; the next byte is its opening quote.
    fn string(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        loop {
            let plain = self.text[self.at..].iter().position(|byte| ends_run(*byte));
            self.at += plain.unwrap_or(self.text.len() - self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.unexpected());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        self.pass(b'-');
        if !self.pass(b'0') {
            self.digits()?;
        }
        if self.pass(b'.') {
            self.digits()?;
        }
        if self.pass(b'e') || self.pass(b'E') {
            let _signed = self.pass(b'+') || self.pass(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// Passes one digit or more.
    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.unexpected()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected());
        }
        self.at += word.len();
        Ok(())
    }
}

fn ends_run(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

/// Drops every member whose name stands again later.
fn keep_last(members: &mut Members<'_>) {
    let stands_again: Vec<bool> = if members.len() <= FEW_MEMBERS {
        let again = |index: usize| members[index + 1..].iter().any(|(n, _)| *n == members[index].0);
        if !(0..members.len()).any(again) {
            return;
        }
        (0..members.len()).map(again).collect()
    } else {
        let last: HashMap<&str, usize> =
            members.iter().enumerate().map(|(index, (name, _))| (&**name, index)).collect();
        if last.len() == members.len() {
            return;
        }
        members.iter().enumerate().map(|(index, (name, _))| last[&**name] != index).collect()
    };
    let mut index = 0;
    members.retain(|_| {
        index += 1;
        !stands_again[index - 1]
    });
}
