//! Reads an application's line once: is it a JSON object, and where do its members stand?
//!
//! Owns the check of a whole line against RFC 8259 (UTF-8, strings, escapes, numbers, nesting) and
//! what is found on the way: the bytes between the outer braces, a table of those top-level members
//! whose names the caller has not marked as plain, and Flink's job id wherever a log4j2 layout puts
//! it. Guarantees that a line called [`Kind::Object`] is one object of at most [`MAX_DEPTH`] levels
//! and [`MAX_MEMBERS`] top-level members, that no object in it has a name twice or a name with an
//! escape, that every `\u` surrogate stands in a pair, and that no line break stands between its
//! tokens, so that its bytes can be copied into a bulk body as they are. [`Kind::Unusual`] is valid
//! JSON that lacks one of these and is rewritten first ([`crate::document`]). Everything else is
//! text. Bad input never panics, nothing is allocated once the tables have grown, and the time is
//! linear in the length.
//! Does not look at times, names of the agent, or configuration.

mod known;
mod search;
mod string;

use std::hint::cold_path;
use std::marker::PhantomData;
use std::ops::Range;

use known::{BEGINNING, Id, Key, KnownNames, Meaning, NOWHERE};
pub use known::{PLAIN, UNMARKED};
use search::first_unusual;
pub use search::{Pass, Search, Task, each_special, with_best};
use string::{string, unusual_string};

/// Objects and arrays inside one another, the outer object being the first. Elasticsearch's own
/// limit for mapped objects is 20 (`index.mapping.depth.limit`).
pub const MAX_DEPTH: usize = 20;

/// Top-level members on the fast road; a line with more is [`Kind::Unusual`].
pub const MAX_MEMBERS: usize = 64;

/// Bytes of the id that Flink gives a job: hex digits.
pub const JOB_ID_BYTES: usize = 32;

/// Names per object that are compared with each other; an object with more is left to the slow
/// road, which hashes them, so that no line costs the square of its length.
const MAX_COMPARED: usize = 128;

/// Beyond this many entries a table gives its memory back after the line.
const KEPT_ENTRIES: usize = 1024;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON object whose bytes can be copied as they are.
    Object,
    /// A JSON object that has to be rewritten first.
    Unusual,
    /// Not a JSON object that Elasticsearch would take.
    Text(Reason),
}

/// Why a line is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Doesn't begin with a brace: plain text, an array, a scalar, nothing.
    NotObject,
    /// Begins with a brace but isn't valid JSON: cut off, trailing bytes, bare `NaN`, and so on.
    Invalid,
    /// Holds bytes that are not UTF-8.
    NotUtf8,
    /// More than [`MAX_DEPTH`] levels.
    TooDeep,
    /// Somewhere a member's name is empty.
    EmptyName,
}

/// The type of a member's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    String,
    Number,
    Object,
    Array,
    /// `true`, `false` or `null`.
    Literal,
}

/// A top-level member, as byte positions in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    key_start: u32,
    key_end: u32,
    value_start: u32,
    value_end: u32,
    pub value_type: ValueType,
    /// What its name was [marked](Scan::mark) with, [`UNMARKED`] if it wasn't.
    pub mark: u8,
    known: Id,
}

impl Member {
    /// The name without its quotes.
    pub fn key(&self) -> Range<usize> {
        at(self.key_start)..at(self.key_end)
    }

    /// The value, a string's quotes included.
    pub fn value(&self) -> Range<usize> {
        at(self.value_start)..at(self.value_end)
    }
}

/// What [`scan`] found; its tables are used again for every line.
#[derive(Debug, Default)]
pub struct Scan {
    /// From the first member's quote to the last member's end; empty for `{}`.
    pub inner: Range<usize>,
    /// In the order of the line, without those whose name is marked as [`PLAIN`]: to write down each is
    /// a tenth of the work of checking a line. Some of them may be there.
    pub members: Vec<Member>,
    /// How many there are in all.
    count: usize,
    /// A name has to be compared with others, and not all of them are listed.
    lacks_names: bool,
    /// The [hex digits](JOB_ID_BYTES) of `flink-job-id`, where there is one: the first at the top level,
    /// there with `_` in front, or in `mdc`, `contextMap` or `logging.googleapis.com/labels`.
    pub job_id: Option<Range<usize>>,
    /// Names of earlier lines' top-level members.
    known: KnownNames,
    /// The open nested objects and arrays, the innermost last.
    open: Vec<Open>,
    /// The names of the open nested objects, with their hashes.
    names: Vec<(Name, u32)>,
}

impl Scan {
    /// Marks the name of `member`: lines to come have `mark` beside it, so that what a name means
    /// to the caller need not be found out for each of them. A name may lose its mark at any time.
    /// `mark` must not be [`u8::MAX`].
    pub fn mark(&mut self, member: Member, mark: u8) {
        debug_assert_ne!(mark, u8::MAX, "marks nothing");
        self.known.mark(member.known, mark);
    }

    /// Takes all marks away.
    pub fn unmark_all(&mut self) {
        self.known.unmark_all();
    }
}

/// An object or array that has not ended, inside the outer object.
#[derive(Debug)]
struct Open {
    is_object: bool,
    /// Where its names begin.
    first_name: usize,
    seen: Seen,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    end: u32,
}

/// Which members are listed in [`Scan::members`].
#[derive(Debug, Clone, Copy)]
enum Listing {
    All,
    /// Those that are not marked as [`PLAIN`].
    NotPlain,
}

impl Listing {
    /// The mark of what is not listed; for [`Self::All`] one that no name has.
    #[inline(always)]
    fn passed_over(self) -> u8 {
        match self {
            Self::All => u8::MAX,
            Self::NotPlain => PLAIN,
        }
    }
}

/// Reads a line and fills `out`, whose content means something for [`Kind::Object`] only.
#[inline]
pub fn scan(line: &[u8], out: &mut Scan) -> Kind {
    let kind = scan_limited(line, Listing::NotPlain, out, MAX_MEMBERS);
    if out.lacks_names && kind == Kind::Object {
        cold_path();
        return scan_limited(line, Listing::All, out, MAX_MEMBERS);
    }
    kind
}

/// The same for the text that the slow road made: any number of members, none of them twice, and what
/// would be unusual in a line (escapes in names) is in order.
pub fn scan_rewritten(text: &[u8], out: &mut Scan) -> Kind {
    match scan_limited(text, Listing::NotPlain, out, usize::MAX) {
        Kind::Unusual => Kind::Object,
        kind => kind,
    }
}

#[inline]
fn scan_limited(line: &[u8], listing: Listing, out: &mut Scan, max_members: usize) -> Kind {
    out.reset();
    // Positions in the tables are 32 bits wide; `logs.max_line` is far below.
    if u32::try_from(line.len()).is_err() {
        return Kind::Text(Reason::Invalid);
    }
    with_best(ScanLine { line, listing, out, max_members })
}

struct ScanLine<'l, 's> {
    line: &'l [u8],
    listing: Listing,
    out: &'s mut Scan,
    max_members: usize,
}

impl Task for ScanLine<'_, '_> {
    type Output = Kind;

    #[inline(always)]
    fn run<S: Search>(self) -> Kind {
        let Self { line, listing, out, max_members } = self;
        let search = PhantomData::<S>;
        let mut cursor =
            Cursor { line, pos: 0, unusual: false, is_ascii: true, listing, out, search };
        cursor.skip_space();
        if cursor.peek() != b'{' {
            return Kind::Text(Reason::NotObject);
        }
        if let Err(reason) = cursor.document() {
            return Kind::Text(reason);
        }
        let unusual = cursor.unusual || cursor.out.count > max_members;
        if !cursor.is_ascii && simdutf8::basic::from_utf8(line).is_err() {
            return Kind::Text(Reason::NotUtf8);
        }
        if unusual { Kind::Unusual } else { Kind::Object }
    }
}

impl Scan {
    fn reset(&mut self) {
        self.inner = 0..0;
        self.members.clear();
        self.count = 0;
        self.lacks_names = false;
        self.known.make_room();
        self.open.clear();
        self.names.clear();
        self.job_id = None;
        if self.members.capacity() > KEPT_ENTRIES {
            self.members.shrink_to(MAX_MEMBERS);
        }
        if self.names.capacity() > KEPT_ENTRIES {
            self.names.shrink_to(MAX_COMPARED);
        }
    }
}

struct Cursor<'l, 's, S> {
    line: &'l [u8],
    pos: usize,
    unusual: bool,
    /// All strings up to here are, but for names that were guessed and are UTF-8. Other than ASCII has
    /// no place outside of strings.
    is_ascii: bool,
    listing: Listing,
    out: &'s mut Scan,
    search: PhantomData<S>,
}

/// Which names an object has had: two bits of each name's hash. Only where both are set already
/// are names compared.
#[derive(Debug, Default)]
struct Seen(u64);

impl Seen {
    #[inline(always)]
    fn insert(&mut self, hash: u32) -> bool {
        let bits = 1 << (hash >> 26) | 1 << (hash >> 20 & 63);
        let maybe = self.0 & bits == bits;
        self.0 |= bits;
        maybe
    }
}

impl<S: Search> Cursor<'_, '_, S> {
    /// The outer object, whose opening brace is next, and the white space behind it.
    #[inline(always)]
    fn document(&mut self) -> Result<(), Reason> {
        self.pos += 1;
        self.skip_space();
        let start = self.pos;
        let mut end = start;
        if self.peek() == b'}' {
            self.pos += 1;
        } else {
            let mut before = BEGINNING;
            loop {
                if !self.usual_members(&mut before) {
                    before = self.member(before)?;
                }
                end = self.pos;
                if self.ends_object()? {
                    break;
                }
            }
        }
        self.out.inner = start..end;
        if self.pos < self.line.len() {
            self.skip_spaces();
        }
        if self.pos == self.line.len() { Ok(()) } else { Err(Reason::Invalid) }
    }

    /// Passes top-level members for as long as each is what nearly all are: a name that is guessed,
    /// then a string or some digits, and nothing in between. `before` is the place of the name
    /// before, then that of the last. Gives whether it stopped behind a member, with no comma there;
    /// else before one, which is for [`Self::member`].
    #[inline(always)]
    fn usual_members(&mut self, before: &mut Id) -> bool {
        let line = self.line;
        let byte = |at| line.get(at).copied().unwrap_or(0);
        let Scan { known: names, members, count, job_id, .. } = &mut *self.out;
        let passed_over = self.listing.passed_over();
        let (mut start, mut last, mut seen) = (self.pos, names.at(*before), *count);
        let is_behind = loop {
            let Some(rest) = line.get(start..) else { break false };
            let Some(known) = names.guess(last, rest) else { break false };
            let value_start = start + known.bytes();
            let (value_type, value_end) = match byte(value_start) {
                b'"' => {
                    let mut end = first_unusual::<S>(line, value_start + 1);
                    if byte(end) != b'"' {
                        cold_path();
                        let string = unusual_string::<S>(line, end);
                        end = string.end;
                        if byte(end) != b'"' {
                            break false;
                        }
                        self.unusual |= string.has_lone_surrogate;
                        self.is_ascii = false;
                    }
                    (ValueType::String, end + 1)
                }
                b'1'..=b'9' => {
                    let mut end = value_start + 1;
                    while byte(end).is_ascii_digit() {
                        end += 1;
                    }
                    if !matches!(byte(end), b',' | b'}') {
                        break false;
                    }
                    (ValueType::Number, end)
                }
                _ => break false,
            };
            if known.key.meaning == Meaning::Job {
                note_job(job_id, line, value_start..value_end);
            } else if known.key.meaning == Meaning::Again {
                self.unusual = true;
            }
            seen += 1;
            if known.key.mark != passed_over {
                cold_path();
                members.push(Member {
                    key_start: narrow(start + 1),
                    key_end: narrow(value_start - 2),
                    value_start: narrow(value_start),
                    value_end: narrow(value_end),
                    value_type,
                    mark: known.key.mark,
                    known: known.key.place,
                });
            }
            last = known;
            start = value_end;
            if byte(value_end) != b',' {
                break true;
            }
            start += 1;
        };
        *before = last.key.place;
        *count = seen;
        self.pos = start;
        if !is_behind {
            self.skip_space();
        }
        is_behind
    }

    /// A top-level member behind the one whose name is at the place `before`; gives its own place.
    #[inline(always)]
    fn member(&mut self, before: Id) -> Result<Id, Reason> {
        let key_start = self.pos + 1;
        let names = &self.out.known;
        let rest = self.line.get(self.pos..).unwrap_or_default();
        let (key, key_end) = match names.guess(names.at(before), rest) {
            Some(guess) => {
                let (key, end) = (guess.key, self.pos + guess.bytes());
                self.pos = end;
                self.skip_space();
                (key, end - 2)
            }
            None => self.new_name(before)?,
        };
        if key.place == NOWHERE {
            self.compare_top(key_start..key_end);
        }
        self.unusual |= key.meaning == Meaning::Again;
        let value_start = self.pos;
        let value_type = match self.peek() {
            b'{' => {
                self.nested(key.meaning == Meaning::JobCarrier)?;
                ValueType::Object
            }
            b'[' => {
                self.nested(false)?;
                ValueType::Array
            }
            _ => self.scalar()?,
        };
        self.out.count += 1;
        if key.mark != self.listing.passed_over() {
            self.out.members.push(Member {
                key_start: narrow(key_start),
                key_end: narrow(key_end),
                value_start: narrow(value_start),
                value_end: narrow(self.pos),
                value_type,
                mark: key.mark,
                known: key.place,
            });
        }
        if key.meaning == Meaning::Job {
            note_job(&mut self.out.job_id, self.line, value_start..self.pos);
        }
        Ok(key.place)
    }

    /// A top-level member's name that was not guessed: what is known of it, and its end.
    #[inline(never)]
    fn new_name(&mut self, before: Id) -> Result<(Key, usize), Reason> {
        let name = self.name()?;
        let text = self.line.get(at(name.start)..at(name.end)).unwrap_or_default();
        Ok((self.out.known.note(before, text), at(name.end)))
    }

    /// An object or array inside the outer object, whose opening bracket is next, with all that is
    /// in it. `carrier`: it may hold the job's id.
    #[inline(always)]
    fn nested(&mut self, carrier: bool) -> Result<(), Reason> {
        if !self.opens()? {
            return Ok(());
        }
        loop {
            // Behind an opening bracket or a comma.
            let depth = self.out.open.len();
            let is_object = self.out.open.last().is_some_and(|open| open.is_object);
            let is_job = is_object && self.nested_name()? && carrier && depth == 1;
            let value_start = self.pos;
            if matches!(self.peek(), b'{' | b'[') {
                if self.opens()? {
                    continue;
                }
            } else {
                self.scalar()?;
                if is_job {
                    note_job(&mut self.out.job_id, self.line, value_start..self.pos);
                }
            }
            if self.closes()? {
                return Ok(());
            }
        }
    }

    /// An opening bracket; `false` if the closing one follows at once and is passed too.
    #[inline(always)]
    fn opens(&mut self) -> Result<bool, Reason> {
        // The outer object and the new one count too.
        if self.out.open.len() + 2 > MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        let is_object = self.take() == b'{';
        self.skip_space();
        if self.peek() == if is_object { b'}' } else { b']' } {
            self.pos += 1;
            return Ok(false);
        }
        let first_name = self.out.names.len();
        self.out.open.push(Open { is_object, first_name, seen: Seen::default() });
        Ok(true)
    }

    /// Behind a value in something nested: a comma, or closing brackets; `true` if nothing is open
    /// any more.
    #[inline(always)]
    fn closes(&mut self) -> Result<bool, Reason> {
        loop {
            self.skip_space();
            let byte = self.take();
            if byte == b',' {
                self.skip_space();
                return Ok(false);
            }
            match self.out.open.pop() {
                Some(open) if byte == if open.is_object { b'}' } else { b']' } => {
                    self.out.names.truncate(open.first_name);
                }
                _ => return Err(Reason::Invalid),
            }
            if self.out.open.is_empty() {
                return Ok(true);
            }
        }
    }

    /// The name of a member of the innermost object; whether it is that of the job's id.
    #[inline(always)]
    fn nested_name(&mut self) -> Result<bool, Reason> {
        let name = self.name()?;
        let hash = hash(self.slice(name));
        if let Some(open) = self.out.open.last_mut()
            && open.seen.insert(hash)
        {
            let first = open.first_name;
            self.compare_nested(name, hash, first);
        }
        self.out.names.push((name, hash));
        Ok(self.slice(name) == b"flink-job-id")
    }

    /// A value that is neither object nor array.
    #[inline(always)]
    fn scalar(&mut self) -> Result<ValueType, Reason> {
        match self.peek() {
            b'"' => {
                self.pos += 1;
                self.string()?;
                Ok(ValueType::String)
            }
            b'-' | b'0'..=b'9' => {
                self.number()?;
                Ok(ValueType::Number)
            }
            first => {
                self.literal(first)?;
                Ok(ValueType::Literal)
            }
        }
    }

    /// A member's name, the colon, and the white space around it.
    #[inline(always)]
    fn name(&mut self) -> Result<Name, Reason> {
        if self.take() != b'"' {
            return Err(Reason::Invalid);
        }
        let start = self.pos;
        let escaped = self.string()?;
        let end = self.pos - 1;
        if start == end {
            return Err(Reason::EmptyName);
        }
        self.unusual |= escaped;
        self.skip_space();
        if self.take() != b':' {
            return Err(Reason::Invalid);
        }
        self.skip_space();
        Ok(Name { start: narrow(start), end: narrow(end) })
    }

    /// Behind a member: a comma and another one, or the closing brace.
    #[inline(always)]
    fn ends_object(&mut self) -> Result<bool, Reason> {
        self.skip_space();
        match self.take() {
            b',' => {
                self.skip_space();
                Ok(false)
            }
            b'}' => Ok(true),
            _ => Err(Reason::Invalid),
        }
    }

    /// The rest of a string whose opening quote is passed, up to and with the closing one; says
    /// whether there was an escape.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, Reason> {
        let string = string::<S>(self.line, self.pos);
        self.pos = string.end;
        self.unusual |= string.has_lone_surrogate;
        self.is_ascii &= string.is_ascii;
        if self.take() == b'"' { Ok(string.is_escaped) } else { Err(Reason::Invalid) }
    }

    #[inline(always)]
    fn number(&mut self) -> Result<(), Reason> {
        if self.peek() == b'-' {
            self.pos += 1;
        }
        if self.peek() == b'0' {
            self.pos += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.pos += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.pos += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.pos += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    #[inline(always)]
    fn digits(&mut self) -> Result<(), Reason> {
        let start = self.pos;
        while self.peek().is_ascii_digit() {
            self.pos += 1;
        }
        if self.pos == start { Err(Reason::Invalid) } else { Ok(()) }
    }

    #[inline(always)]
    fn literal(&mut self, first: u8) -> Result<(), Reason> {
        let word: &[u8] = match first {
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            _ => return Err(Reason::Invalid),
        };
        if !self.line.get(self.pos..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(Reason::Invalid);
        }
        self.pos += word.len();
        Ok(())
    }

    /// A name that has no place, in the outer object.
    #[cold]
    fn compare_top(&mut self, key: Range<usize>) {
        let members = &self.out.members;
        self.out.lacks_names |= members.len() < self.out.count;
        let name = self.line.get(key);
        self.unusual |= members.len() >= MAX_COMPARED
            || members.iter().any(|member| self.line.get(member.key()) == name);
    }

    /// A name that may have been there before in a nested object, whose names begin at `first`.
    #[cold]
    fn compare_nested(&mut self, name: Name, hash: u32, first: usize) {
        let names = self.out.names.get(first..).unwrap_or_default();
        self.unusual |= names.len() >= MAX_COMPARED
            || names
                .iter()
                .any(|(other, of)| *of == hash && self.slice(*other) == self.slice(name));
    }

    #[inline(always)]
    fn slice(&self, name: Name) -> &[u8] {
        self.line.get(at(name.start)..at(name.end)).unwrap_or_default()
    }

    #[inline(always)]
    fn peek(&self) -> u8 {
        // Zero begins no JSON token, so that the end of the line needs no case of its own.
        self.line.get(self.pos).copied().unwrap_or(0)
    }

    /// The next byte, passed unless the line has ended.
    #[inline(always)]
    fn take(&mut self) -> u8 {
        let byte = self.peek();
        self.pos += 1;
        byte
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        if self.peek() <= b' ' {
            self.skip_spaces();
        }
    }

    #[cold]
    fn skip_spaces(&mut self) {
        while let byte @ (b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            // A line break would end the document in the bulk body.
            self.unusual |= byte == b'\n' || byte == b'\r';
            self.pos += 1;
        }
    }
}

/// Keeps what the string at `value` holds, if it is the first job's id.
#[inline(always)]
fn note_job(job_id: &mut Option<Range<usize>>, line: &[u8], value: Range<usize>) {
    if job_id.is_none()
        && let Some([b'"', id @ .., b'"']) = line.get(value.clone())
        && is_job_id(id)
    {
        *job_id = Some(value.start + 1..value.end - 1);
    }
}

/// Whether this is the id of a job. Looks at every byte whatever the others are, several at a time.
#[inline(always)]
pub fn is_job_id(text: &[u8]) -> bool {
    let hex = |all: bool, byte: &u8| all & byte.is_ascii_hexdigit();
    text.len() == JOB_ID_BYTES && text.iter().fold(true, hex)
}

/// Tells names apart by their length and their first and last eight bytes.
#[inline(always)]
fn hash(name: &[u8]) -> u32 {
    let (first, last) = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => short_ends(name),
    };
    let mixed = (first ^ last.rotate_left(29)).wrapping_add(name.len() as u64);
    (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

#[inline(always)]
fn short_ends(name: &[u8]) -> (u64, u64) {
    match (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
        }
        _ => name.iter().fold((0, 0), |(packed, _), &byte| (packed << 8 | u64::from(byte), 0)),
    }
}

#[inline(always)]
fn at(position: u32) -> usize {
    position as usize
}

/// A position in a line whose length has been found to fit.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the length was checked before")]
fn narrow(position: usize) -> u32 {
    position as u32
}

#[cfg(test)]
mod tests;
