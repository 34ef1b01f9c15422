//! Names a part by its first complete raw line.
//!
//! A pure function of a file's first bytes. Path, device and inode do not enter, so rename,
//! compression, and a copy that is truncated later leave the name as it is.

use sha2::{Digest, Sha256};

use super::PartId;
use crate::config::agent::LineFormat;
use crate::parse;

/// How many bytes from the beginning of a file decide its identity, at most. A longer first line
/// is known by its first bytes. Docker's lines hold 16 KiB, each byte of which JSON may write as
/// six (`\u0000`).
pub const HEAD_BYTES_MAX: usize = 128 * 1024;

/// The identity of a file that begins with `head`, or `None` while its first line is unfinished.
///
/// `head` is all of the file or its first [`HEAD_BYTES_MAX`] bytes. `ended` says that nothing
/// will be added, so that an unfinished line counts as the first one. It counts without the NUL
/// bytes at its end: where power was lost, they stand in the place of a line feed that was read.
///
/// A part whose first line has no time is named only once there is a complete one that has: a
/// name that depended on how much was there to see would change.
pub fn identify(head: &[u8], ended: bool) -> Option<PartId> {
    let whole = head.len() >= HEAD_BYTES_MAX;
    let head = &head[..head.len().min(HEAD_BYTES_MAX)];
    let complete = match memchr::memrchr(b'\n', head) {
        _ if whole || (ended && !head.is_empty()) => match written_bytes(head) {
            0 => head,
            written => &head[..written],
        },
        Some(end) => &head[..end],
        None => return None,
    };
    let first_time_ns = match first_time(complete) {
        Some(time_ns) => time_ns,
        None if whole || ended => 0,
        None => return None,
    };
    let first = complete.split(|byte| *byte == b'\n').next().unwrap_or(complete);
    let digest = Sha256::digest(first);
    let hash = u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"));
    Some(PartId::born(first_time_ns, hash))
}

/// How much of `bytes` is left without the NUL bytes at its end.
pub fn written_bytes(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The framing of a file that begins with `head`.
pub fn format_of(head: &[u8], configured: LineFormat) -> LineFormat {
    match configured {
        LineFormat::Auto if head.first() == Some(&b'{') => LineFormat::Docker,
        LineFormat::Auto => LineFormat::Cri,
        fixed => fixed,
    }
}

/// The runtime time of the first line that has one.
fn first_time(head: &[u8]) -> Option<i64> {
    let mut scratch = parse::FrameScratch::default();
    let format = format_of(head, LineFormat::Auto);
    head.split(|byte| *byte == b'\n')
        .find_map(|line| parse::line(format, line, &mut scratch).ok().map(|line| line.time_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-11-23T21:06:08.725123456Z stdout F hello";

    #[test]
    fn the_first_complete_line_names_a_part_whatever_follows() {
        let born = identify(format!("{LINE}\n").as_bytes(), false).expect("complete");
        let grown = identify(format!("{LINE}\nmore\n").as_bytes(), false).expect("complete");
        assert_eq!(born, grown);
        assert_eq!(born.first_time_ns, 1_795_467_968_725_123_456);
    }

    #[test]
    fn an_unfinished_first_line_names_nothing_until_the_stream_has_ended() {
        assert_eq!(identify(LINE.as_bytes(), false), None);
        assert_eq!(identify(b"", true), None);
        let ended = identify(LINE.as_bytes(), true);
        assert_eq!(ended, identify(format!("{LINE}\n").as_bytes(), false));
    }

    #[test]
    fn a_first_line_beyond_the_limit_is_known_by_its_beginning() {
        let mut long = LINE.as_bytes().to_vec();
        long.resize(HEAD_BYTES_MAX, b'x');
        let born = identify(&long, false);
        long.extend_from_slice(b"tail\n");
        assert!(born.is_some());
        assert_eq!(born, identify(&long, false));
    }

    #[test]
    fn a_first_line_without_a_time_names_a_part_only_together_with_one_that_has() {
        assert_eq!(identify(b"torn\n", false), None);
        assert_eq!(identify(format!("torn\n{LINE}").as_bytes(), false), None);
        let born = identify(format!("torn\n{LINE}\n").as_bytes(), false).expect("has a time");
        assert_eq!(born.first_time_ns, 1_795_467_968_725_123_456);
        let grown = format!("torn\n{LINE}\n{LINE}\n");
        assert_eq!(identify(grown.as_bytes(), true), Some(born));
        assert_eq!(identify(b"torn\n", true).map(|id| id.first_time_ns), Some(0));
    }

    #[test]
    fn a_first_line_whose_end_never_reached_the_disk_names_the_same_part() {
        let docker = r#"{"log":"hello\n","stream":"stdout","time":"2026-11-23T21:06:08.7Z"}"#;
        for line in [LINE, docker] {
            let born = identify(format!("{line}\n").as_bytes(), false).expect("complete");
            for nuls in [1, 5000, 2 * HEAD_BYTES_MAX] {
                let mut head = [line.as_bytes(), &vec![0; nuls]].concat();
                assert_eq!(identify(&head, true), Some(born), "{nuls} NUL bytes");
                head[line.len()] = b'\n';
                assert_eq!(identify(&head, true), Some(born), "{nuls} NUL bytes behind it");
            }
        }
        let within = format!("{LINE}\0\n");
        let born = identify(within.as_bytes(), false);
        assert_ne!(born, identify(format!("{LINE}\n").as_bytes(), false));
        assert_eq!(born, identify(within.as_bytes(), true));
        assert_ne!(identify(&[0; 1], true), identify(&[0; 2], true));
    }

    #[test]
    fn equal_text_at_another_time_is_another_part() {
        let other = LINE.replace("456Z", "457Z");
        assert_ne!(
            identify(format!("{LINE}\n").as_bytes(), false),
            identify(format!("{other}\n").as_bytes(), false)
        );
    }
}
