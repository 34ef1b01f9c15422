//! Sizes, durations, rates and fractions as people write them.
//!
//! Owns the text forms and nothing else: pure, no defaults, no ranges. Every `parse_*` answers
//! `None` for text that isn't exactly of its form, and never rounds except where it says so;
//! every `show_*` gives a text that parses to the same value.

use std::time::Duration;

/// Bytes in a kibibyte.
pub const KIB: usize = 1024;
/// Bytes in a mebibyte.
pub const MIB: usize = 1024 * KIB;
/// Bytes in a gibibyte.
pub const GIB: usize = 1024 * MIB;

/// Largest first, binary before decimal, so that [`show_size`] takes the first that fits.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
    ("kB", 1000),
    ("B", 1),
];

/// In milliseconds, largest first: the order in which they may stand together.
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `64MiB`, `1.5GiB`, `10MB` or plain bytes, in bytes; a part of a byte is cut off.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    if unit.is_empty() {
        return parse_whole(number);
    }
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    let Some((whole, fraction)) = number.split_once('.') else {
        return parse_whole(number)?.checked_mul(*factor);
    };
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits))?;
    let part = u128::from(parse_whole(fraction)?) * u128::from(*factor) / 10_u128.pow(digits);
    parse_whole(whole)?.checked_mul(*factor)?.checked_add(u64::try_from(part).ok()?)
}

/// The shortest exact form: `64MiB`, `10MB`, `1000001B`.
pub fn show_size(bytes: u64) -> String {
    let fits = |factor: u64| bytes != 0 && bytes.is_multiple_of(factor);
    let (name, factor) = SIZES.into_iter().find(|(_, factor)| fits(*factor)).unwrap_or(("B", 1));
    format!("{}{name}", bytes / factor)
}

/// `250ms`, `1s`, `5m`, `24h`, `7d`, and together in falling order: `1h30m`. A bare number has no
/// unit and is refused, zero aside.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut units = DURATIONS.iter();
    loop {
        let (number, tail) = split_number(rest);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(parse_whole(number)?.checked_mul(*factor)?)?;
        if next.is_empty() {
            return Some(Duration::from_millis(total_ms));
        }
        rest = next;
    }
}

/// Whole milliseconds, in falling units: `1h30m`, `25s`, `1s500ms`, `0s`.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, factor) in DURATIONS.into_iter().skip(1) {
        let factor = u128::from(factor);
        if rest >= factor {
            text.push_str(&format!("{}{name}", rest / factor));
            rest %= factor;
        }
    }
    text
}

/// `5000/s`, `100/m` or `10/30s`: how many per how long, both more than zero.
pub fn parse_rate(text: &str) -> Option<(u64, Duration)> {
    let (count, per) = text.split_once('/')?;
    let count = parse_whole(count).filter(|count| *count > 0)?;
    let unit = DURATIONS.iter().find(|(name, _)| *name == per);
    let per = match unit {
        Some((_, millis)) => Duration::from_millis(*millis),
        None => parse_duration(per)?,
    };
    (!per.is_zero()).then_some((count, per))
}

/// `1/100`: more than zero and at most the whole.
pub fn parse_fraction(text: &str) -> Option<(u64, u64)> {
    let (keep, of) = text.split_once('/')?;
    let (keep, of) = (parse_whole(keep)?, parse_whole(of)?);
    (keep > 0 && keep <= of).then_some((keep, of))
}

/// ASCII digits only: `str::parse` would take a sign too.
fn parse_whole(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64MiB", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("10MB", Some(10_000_000)),
            ("10kB", Some(10_000)),
            ("0.3KiB", Some(307)),
            ("16777216TiB", None),
            ("1.5", None),
            ("1.GiB", None),
            (".5GiB", None),
            ("64Mi", None),
            ("64mib", None),
            ("-1", None),
            ("+1", None),
            ("MiB", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("1s", Some(1000)),
            ("5m", Some(300_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1s500ms", Some(1500)),
            ("30m1h", None),
            ("1m1m", None),
            ("5", None),
            ("1.5s", None),
            ("5 m", None),
            ("-5s", None),
            ("5min", None),
            ("1h30", None),
            ("", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn rates_and_fractions() {
        assert_eq!(parse_rate("5000/s"), Some((5000, Duration::from_secs(1))));
        assert_eq!(parse_rate("10/30s"), Some((10, Duration::from_secs(30))));
        for text in ["0/s", "5/0s", "5", "5/", "/s", "5/sec", "-5/s"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
        assert_eq!(parse_fraction("1/100"), Some((1, 100)));
        for text in ["0/5", "6/5", "1/0", "0/0", "1", "1/", "0.1/1"] {
            assert_eq!(parse_fraction(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn size_inverts_show(bytes in any::<u64>(), zeros in 0_u32..50) {
            let bytes = bytes >> zeros << zeros;
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn duration_inverts_show(millis in 0_u64..(1 << 50)) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn rate_inverts_show(count in 1..u64::MAX, millis in 1_u64..(1 << 50)) {
            let per = Duration::from_millis(millis);
            let text = format!("{count}/{}", show_duration(per));
            prop_assert_eq!(parse_rate(&text), Some((count, per)));
        }

        #[test]
        fn fraction_inverts_show(of in 1..u64::MAX, seed in any::<u64>()) {
            let keep = seed % of + 1;
            prop_assert_eq!(parse_fraction(&format!("{keep}/{of}")), Some((keep, of)));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "[0-9.a-zA-Z/ ]{0,24}|\\PC{0,12}") {
            parse_size(&text);
            parse_duration(&text);
            parse_rate(&text);
            parse_fraction(&text);
        }
    }
}
