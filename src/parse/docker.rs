//! Docker's `json-file` format: `{"log":"…\n","stream":"stdout","time":"…"}`.
//!
//! Takes the members in any order, the last of a name counts, others (`attrs`) are passed over.
//! The order that Docker writes takes a shorter road with the same result. Escapes are undone into
//! a scratch buffer of the caller's, half a surrogate pair becomes U+FFFD. A `log` that ends in a
//! line feed is whole and loses it, any other is partial: Docker cuts at 16 KiB.
//!
//! Source: moby/moby `daemon/logger/jsonfilelog/jsonlog/jsonlogbytes.go`.

use super::{FrameScratch, Lane, Line, Malformed, time};

/// Deepest nesting of arrays and objects in a member that is passed over.
const MAX_DEPTH: usize = 64;

/// The members that count, as written between their quotes.
#[derive(Clone, Copy)]
struct Members<'a> {
    log: &'a [u8],
    stream: &'a [u8],
    time: &'a [u8],
}

/// Takes apart one raw line, given without its line feed. What was in `scratch` is lost.
pub fn parse<'a>(line: &'a [u8], scratch: &'a mut FrameScratch) -> Result<Line<'a>, Malformed> {
    let FrameScratch { unescaped: scratch, second } = scratch;
    let usual = usual_members(line)
        .and_then(|members| Some((members, Content::decode(members.log, scratch)?)));
    let (members, content) = match usual {
        Some(found) => found,
        None => {
            let members = Members::read(line).ok_or(Malformed::Json)?;
            (members, Content::decode(members.log, scratch).ok_or(Malformed::Json)?)
        }
    };
    let lane = Lane::from_bytes(members.stream).ok_or(Malformed::Lane)?;
    let time_ns = match time::runtime_prefix(members.time, second) {
        Some((ns, length)) if length == members.time.len() => ns,
        _ => return Err(Malformed::Time),
    };
    let (content, partial) = match content {
        Content::AsWritten { length, partial } => (&members.log[..length], partial),
        Content::InScratch => match scratch.split_last() {
            Some((b'\n', content)) => (content, false),
            _ => (scratch.as_slice(), true),
        },
    };
    Ok(Line { time_ns, time: members.time, lane, partial, tag: b"", content })
}

/// Where the text of `log` is.
enum Content {
    /// So many bytes of what the file says.
    AsWritten { length: usize, partial: bool },
    /// In the scratch buffer, with its line feed.
    InScratch,
}

impl Content {
    /// `None` if `log` is not the body of a JSON string.
    fn decode(log: &[u8], scratch: &mut Vec<u8>) -> Option<Self> {
        match memchr::memchr2(b'\\', b'"', log) {
            None => Some(Self::AsWritten { length: log.len(), partial: true }),
            Some(at) if &log[at..] == br"\n" => {
                Some(Self::AsWritten { length: at, partial: false })
            }
            Some(_) => {
                scratch.clear();
                unescape(log, scratch)?;
                Some(Self::InScratch)
            }
        }
    }
}

/// Finds the members from both ends of a line that looks as Docker writes it. Only a guess until
/// `log` has been decoded: that finds the bare quote without which the guess cannot be wrong.
fn usual_members(line: &[u8]) -> Option<Members<'_>> {
    /// Longer than the longest tail: separators, `stderr` and a time with offset.
    const TAIL: usize = 96;
    let rest = line.strip_prefix(br#"{"log":""#)?.strip_suffix(br#""}"#)?;
    let tail = rest.len().saturating_sub(TAIL);
    let found = memchr::memmem::rfind(&rest[tail..], br#"","stream":""#)?;
    let (log, rest) = rest.split_at(tail + found);
    let rest = &rest[br#"","stream":""#.len()..];
    let (stream, rest) = rest.split_first_chunk::<6>()?;
    let time = rest.strip_prefix(br#"","time":""#)?;
    if memchr::memchr2(b'"', b'\\', time).is_some() {
        return None;
    }
    Some(Members { log, stream, time })
}

impl<'a> Members<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut input = Input { rest: line };
        let (mut log, mut stream, mut time) = (None, None, None);
        input.token(b'{')?;
        if input.token(b'}').is_none() {
            loop {
                let name = input.string()?;
                input.token(b':')?;
                match name {
                    b"log" => log = Some(input.string()?),
                    b"stream" => stream = Some(input.string()?),
                    b"time" => time = Some(input.string()?),
                    _ => input.skip_value()?,
                }
                if input.token(b',').is_none() {
                    break;
                }
            }
            input.token(b'}')?;
        }
        input.skip_space();
        if !input.rest.is_empty() {
            return None;
        }
        Some(Self { log: log?, stream: stream?, time: time? })
    }
}

/// What is left of a JSON text.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Takes `byte` and the white space before it, or nothing but the white space.
    fn token(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        let (first, rest) = self.rest.split_first()?;
        if *first != byte {
            return None;
        }
        self.rest = rest;
        Some(())
    }

    /// Takes a string; what stands between its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.token(b'"')?;
        let mut at = 0;
        loop {
            at += memchr::memchr2(b'"', b'\\', self.rest.get(at..)?)?;
            if self.rest[at] == b'"' {
                let body = &self.rest[..at];
                self.rest = &self.rest[at + 1..];
                return Some(body);
            }
            at += 2;
        }
    }

    /// Takes a value of any kind. Inside arrays and objects only the brackets are looked at.
    fn skip_value(&mut self) -> Option<()> {
        let mut open = 0;
        loop {
            self.skip_space();
            match self.rest.first()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    open += 1;
                    self.rest = &self.rest[1..];
                }
                b'}' | b']' if open > 0 => {
                    open -= 1;
                    self.rest = &self.rest[1..];
                }
                b',' | b':' if open > 0 => self.rest = &self.rest[1..],
                _ => self.scalar()?,
            }
            if open == 0 {
                return Some(());
            }
            if open > MAX_DEPTH {
                return None;
            }
        }
    }

    /// Takes a number, `true`, `false` or `null`, without checking which.
    fn scalar(&mut self) -> Option<()> {
        let is_scalar = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = self.rest.iter().take_while(|byte| is_scalar(byte)).count();
        self.rest = &self.rest[length..];
        (length > 0).then_some(())
    }
}

/// Appends what a JSON string's body stands for.
fn unescape(body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = body;
    while let Some(at) = memchr::memchr2(b'\\', b'"', rest) {
        out.extend_from_slice(&rest[..at]);
        let [b'\\', escape, behind @ ..] = &rest[at..] else { return None };
        rest = behind;
        out.push(match escape {
            b'"' | b'\\' | b'/' => *escape,
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 0x08,
            b'f' => 0x0c,
            b'u' => {
                let (character, behind) = unicode(rest)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = behind;
                continue;
            }
            _ => return None,
        });
    }
    out.extend_from_slice(rest);
    Some(())
}

/// The character whose escape goes on at `rest`, behind `\u`, and what comes after it.
fn unicode(rest: &[u8]) -> Option<(char, &[u8])> {
    let (first, behind) = hex4(rest)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, behind));
    }
    if first < 0xdc00
        && let Some((second @ 0xdc00..=0xdfff, behind)) = behind.strip_prefix(br"\u").and_then(hex4)
    {
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((char::from_u32(code)?, behind));
    }
    Some((char::REPLACEMENT_CHARACTER, behind))
}

fn hex4(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, behind) = rest.split_first_chunk::<4>()?;
    let mut value = 0;
    for &digit in digits {
        value = value * 16 + char::from(digit).to_digit(16)?;
    }
    Some((value, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expected: Result<(Lane, bool, &str), Malformed>) {
        let mut scratch = FrameScratch { unescaped: b"old".to_vec(), ..FrameScratch::default() };
        let parsed = parse(line.as_bytes(), &mut scratch);
        let parsed = parsed.map(|line| {
            assert!(line.tag.is_empty());
            (line.lane, line.partial, String::from_utf8(line.content.to_vec()).unwrap())
        });
        assert_eq!(
            parsed,
            expected.map(|(lane, partial, text)| (lane, partial, text.to_owned())),
            "{line}"
        );
    }

    const TIME: &str = r#""time":"2026-11-23T21:06:08.725Z""#;

    #[test]
    fn usual_lines() {
        let line = |log: &str| format!(r#"{{"log":"{log}","stream":"stdout",{TIME}}}"#);
        check(&line(r"click-5\n"), Ok((Lane::Stdout, false, "click-5")));
        check(&line(r"\n"), Ok((Lane::Stdout, false, "")));
        check(&line(""), Ok((Lane::Stdout, true, "")));
        check(&line("not the end"), Ok((Lane::Stdout, true, "not the end")));
        check(&line(r"a\\n"), Ok((Lane::Stdout, true, r"a\n")));
        check(&line(r"a\r\n"), Ok((Lane::Stdout, false, "a\r")));
        check(&line(r"two\n\n"), Ok((Lane::Stdout, false, "two\n")));
        check(&line(r#"{\"a\":\"\u003cb\u003e\"}\n"#), Ok((Lane::Stdout, false, r#"{"a":"<b>"}"#)));
        check(
            &line(r"\u00e9 \ud83d\udd25 \ud83d \udd25 \ud83dx\/\b\f\t\n"),
            Ok((Lane::Stdout, false, "é 🔥 \u{fffd} \u{fffd} \u{fffd}x/\u{8}\u{c}\t")),
        );
        check(
            &line(r#"\",\"stream\":\"stderr\",\"time\":\"x\\"#),
            Ok((Lane::Stdout, true, r#"","stream":"stderr","time":"x\"#)),
        );
    }

    #[test]
    fn other_orders_and_members() {
        check(
            &format!(
                r#" {{ {TIME} , "attrs":{{"a":["}}",1,-2.5e3,null,{{}}]}},"stream" : "stderr" ,"log":"x\n" }} "#
            ),
            Ok((Lane::Stderr, false, "x")),
        );
        check(
            &format!(r#"{{"log":"a\n","log":"b\n","stream":"stderr",{TIME}}}"#),
            Ok((Lane::Stderr, false, "b")),
        );
        check(
            &format!(r#"{{"log":"a\n","stream":"stderr","x":true,{TIME}}}"#),
            Ok((Lane::Stderr, false, "a")),
        );
    }

    #[test]
    fn malformed_lines_say_why() {
        for line in [
            "",
            "{",
            "{}",
            "null",
            r#"{"log":"x\n"}"#,
            r#"{"log":1,"stream":"stdout"}"#,
            r#"{"log":"x\n","stream":"stdout","time":"2026-11-23T21:06"#,
            "2026-11-23T21:06:08Z stdout F x",
        ] {
            check(line, Err(Malformed::Json));
        }
        for log in [r"\x", r"\u12", r"\u12g4", r"\", r#"a"b"#] {
            check(&format!(r#"{{"log":"{log}","stream":"stdout",{TIME}}}"#), Err(Malformed::Json));
        }
        check(&format!(r#"{{"log":"x","stream":"stdout",{TIME}}} x"#), Err(Malformed::Json));
        check(&format!(r#"{{"log":"x","stream":"stdlog",{TIME}}}"#), Err(Malformed::Lane));
        check(r#"{"log":"x","stream":"stdout","time":"today"}"#, Err(Malformed::Time));
        let deep = "[".repeat(1000);
        check(
            &format!(r#"{{"a":{deep},"log":"x","stream":"stdout",{TIME}}}"#),
            Err(Malformed::Json),
        );
    }

    proptest! {
        #[test]
        fn inverts_a_json_writer(text: String, usual: bool, out: bool) {
            let lane = if out { Lane::Stdout } else { Lane::Stderr };
            let log = serde_json::to_string(&text).unwrap();
            let stream = lane.as_str();
            let line = if usual {
                format!(r#"{{"log":{log},"stream":"{stream}",{TIME}}}"#)
            } else {
                format!(r#"{{{TIME},"stream":"{stream}","attrs":{log},"log":{log}}}"#)
            };
            let mut scratch = FrameScratch::default();
            let parsed = parse(line.as_bytes(), &mut scratch).unwrap();
            prop_assert_eq!(parsed.lane, lane);
            prop_assert_eq!(parsed.time_ns, 1_795_467_968_725_000_000);
            prop_assert_eq!(parsed.partial, !text.ends_with('\n'));
            prop_assert_eq!(parsed.content, text.strip_suffix('\n').unwrap_or(&text).as_bytes());
        }

        #[test]
        fn both_roads_agree(log in r#"[a"\\,:nu0]{0,12}"#) {
            let line = format!(r#"{{"log":"{log}","stream":"stdout",{TIME}}}"#);
            let usual = usual_members(line.as_bytes());
            if let Some(ours) = usual.filter(|ours| Content::decode(ours.log, &mut Vec::new()).is_some()) {
                let theirs = Members::read(line.as_bytes()).unwrap();
                prop_assert_eq!((ours.log, ours.stream, ours.time), (theirs.log, theirs.stream, theirs.time));
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in r#"\{?("log"|"time"|[{}:,"\\ua0]){0,20}"#) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let mut scratch = FrameScratch::default();
                parse(bytes, &mut scratch).ok();
                let quoted = [br#"{"log":""#, bytes, br#"","stream":"stdout","time":"2026-11-23T21:06:08Z"}"#].concat();
                parse(&quoted, &mut scratch).ok();
            }
        }
    }
}
