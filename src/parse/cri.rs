//! The CRI log format of containerd and CRI-O: `<time> <stdout|stderr> <tags> <content>`.
//!
//! The time is RFC 3339 with any fraction and offset, the tags stand between colons, the first is
//! `P` (the line goes on) or `F` (it ends); others are kept and not looked at. The content is
//! everything behind one space and may be empty; a `\r` at its end is the application's. Without
//! allocation; any other form is [`Malformed`].
//!
//! Source: kubernetes/kubernetes `pkg/kubelet/kuberuntime/logs/logs.go` (`parseCRILog`).

use super::time::{self, LastSecond};
use super::{Lane, Line, Malformed};

/// Takes apart one raw line, given without its line feed.
#[inline(always)]
pub fn parse<'a>(line: &'a [u8], last: &mut LastSecond) -> Result<Line<'a>, Malformed> {
    let (time_ns, length) = time::runtime_prefix(line, last).ok_or(Malformed::Time)?;
    let (time, rest) = line.split_at(length);
    let (lane, rest) = match rest {
        [b' ', b's', b't', b'd', b'o', b'u', b't', b' ', rest @ ..] => (Lane::Stdout, rest),
        [b' ', b's', b't', b'd', b'e', b'r', b'r', b' ', rest @ ..] => (Lane::Stderr, rest),
        [b' ', ..] => return Err(Malformed::Lane),
        _ => return Err(Malformed::Time),
    };
    let (tag, content) = match rest {
        [b'F' | b'P', b' ', content @ ..] => (&rest[..1], content),
        _ => tags(rest)?,
    };
    Ok(Line { time_ns, time, lane, partial: tag[0] == b'P', tag, content })
}

/// Several tags, or one with nothing behind it. The first is `P` or `F`.
#[cold]
fn tags(rest: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let (tag, content) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    match tag {
        [b'P' | b'F'] | [b'P' | b'F', b':', ..] => Ok((tag, content)),
        _ => Err(Malformed::Tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expected: Result<(&str, Lane, bool, &str, &str), Malformed>) {
        let parsed = parse(line.as_bytes(), &mut LastSecond::default());
        let ours = parsed.map(|line| {
            let mut time = Vec::new();
            time::write_utc(line.time_ns, &mut time);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(&time), line.lane, line.partial, text(line.tag), text(line.content))
        });
        let expected = expected.map(|(time, lane, partial, tag, content)| {
            (time.to_owned(), lane, partial, tag.to_owned(), content.to_owned())
        });
        assert_eq!(ours, expected, "{line}");
    }

    #[test]
    fn lines_of_the_runtimes() {
        use Lane::{Stderr, Stdout};
        let time = "2016-10-06T00:17:09.669794202Z";
        check(
            "2016-10-06T00:17:09.669794202Z stdout P log content 1",
            Ok((time, Stdout, true, "P", "log content 1")),
        );
        check(
            "2016-10-06T02:17:09.669794202+02:00 stderr F log content 2",
            Ok((time, Stderr, false, "F", "log content 2")),
        );
        check(
            "2016-10-06T00:17:09.66979420212Z stdout F:x:P  two \r",
            Ok((time, Stdout, false, "F:x:P", " two \r")),
        );
        check(
            "2016-10-06T00:17:09Z stdout F ",
            Ok(("2016-10-06T00:17:09.000000000Z", Stdout, false, "F", "")),
        );
        check(
            "2016-10-06T00:17:09Z stdout F",
            Ok(("2016-10-06T00:17:09.000000000Z", Stdout, false, "F", "")),
        );
        check(
            "2016-10-06T00:17:09Z stderr P:a",
            Ok(("2016-10-06T00:17:09.000000000Z", Stderr, true, "P:a", "")),
        );
    }

    #[test]
    fn malformed_lines_say_why() {
        check("", Err(Malformed::Time));
        check("2016-10-06T00:17:09Z", Err(Malformed::Time));
        check("2016-10-06 00:17:09Z stdout F x", Err(Malformed::Time));
        check("2016-10-06T00:17:09 stdout F x", Err(Malformed::Time));
        check("2016-10-06T00:17:60Z stdout F x", Err(Malformed::Time));
        check("1500-10-06T00:17:09Z stdout F x", Err(Malformed::Time));
        check("{\"log\":\"x\\n\",\"stream\":\"stdout\"}", Err(Malformed::Time));
        check("2016-10-06T00:17:09Z stdin F x", Err(Malformed::Lane));
        check("2016-10-06T00:17:09Z stdout", Err(Malformed::Lane));
        check("2016-10-06T00:17:09Z stdout ", Err(Malformed::Tag));
        check("2016-10-06T00:17:09Z stdout X x", Err(Malformed::Tag));
        check("2016-10-06T00:17:09Z stdout FP x", Err(Malformed::Tag));
        check("2016-10-06T00:17:09Z stdout  x", Err(Malformed::Tag));
    }

    proptest! {
        #[test]
        fn inverts_writing(ns: i64, partial: bool, out: bool, more in "(:[a-z]*)?", content: Vec<u8>) {
            let mut line = Vec::new();
            time::write_utc(ns, &mut line);
            let (lane, tag) = (if out { Lane::Stdout } else { Lane::Stderr }, if partial { "P" } else { "F" });
            let tag = format!("{tag}{more}");
            line.extend_from_slice(format!(" {} {tag} ", lane.as_str()).as_bytes());
            line.extend_from_slice(&content);
            let time = &line[..30];
            prop_assert_eq!(parse(&line, &mut LastSecond::default()), Ok(Line {
                time_ns: ns, time, lane, partial, tag: tag.as_bytes(), content: &content,
            }));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "2016-10-06T00:17:09Z? (stdout|std)? ?[PF]?:?.{0,3}") {
            parse(&bytes, &mut LastSecond::default()).ok();
            parse(text.as_bytes(), &mut LastSecond::default()).ok();
        }
    }
}
