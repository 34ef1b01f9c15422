//! One moment at a time, in every notation that a captured line or the runtime's framing uses.
//!
//! Owns the conversion from nanoseconds since the epoch to text. Formatting a moment costs a few
//! dozen instructions: the date is worked out once per second, not once per line. Leaves out
//! parsing and every time zone but UTC and the fixed hour that one layout is ahead of it.

/// How a moment is written. The text is UTC unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notation {
    /// `2026-11-23T21:06:08.725`
    Iso,
    /// The same an hour ahead, for a layout that writes `+01:00` after it.
    IsoPlusOne,
    /// `2026-11-23 21:06:08,725`
    Pattern,
    /// Seconds since the epoch.
    Seconds,
    /// Seconds since the epoch with nine decimals.
    DecimalSeconds,
    /// Milliseconds since the epoch.
    Millis,
    /// The nanoseconds of the second, without leading zeros.
    NanoOfSecond,
}

const NANOS: u64 = 1_000_000_000;

/// A moment, with the text of its second kept.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    ns: u64,
    second: u64,
    fraction: u64,
    /// `YYYY-MM-DDTHH:MM:SS` of `second`.
    text: [u8; 19],
    /// The same an hour later.
    text_plus_one: [u8; 19],
}

impl Moment {
    /// The moment `ns` nanoseconds after the epoch.
    pub(super) fn new(ns: u64) -> Self {
        let second = ns / NANOS;
        Self {
            ns,
            second,
            fraction: ns % NANOS,
            text: date_time(second),
            text_plus_one: date_time(second + 3600),
        }
    }

    /// Nanoseconds since the epoch.
    pub(super) fn ns(&self) -> u64 {
        self.ns
    }

    /// Moves to `ns`, in either direction.
    pub(super) fn set(&mut self, ns: u64) {
        if ns / NANOS == self.second {
            self.ns = ns;
            self.fraction = ns % NANOS;
        } else {
            *self = Self::new(ns);
        }
    }

    /// Appends RFC 3339 with nine decimals and `Z`, as containerd writes it.
    pub(super) fn put_rfc3339(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text);
        out.push(b'.');
        put_digits::<9>(out, self.fraction);
        out.push(b'Z');
    }

    /// `YYYYMMDD-HHMMSS`, the suffix of a rotated file.
    pub(super) fn rotation_suffix(&self) -> String {
        let digits: Vec<u8> = self.text.iter().copied().filter(u8::is_ascii_digit).collect();
        let (day, time) = digits.split_at(8);
        format!("{}-{}", String::from_utf8_lossy(day), String::from_utf8_lossy(time))
    }

    /// Appends the moment in `notation`.
    pub(super) fn put(&self, notation: Notation, out: &mut Vec<u8>) {
        match notation {
            Notation::Iso => self.put_millis(&self.text, b'T', b'.', out),
            Notation::IsoPlusOne => self.put_millis(&self.text_plus_one, b'T', b'.', out),
            Notation::Pattern => self.put_millis(&self.text, b' ', b',', out),
            Notation::Seconds => put_number(out, self.second),
            Notation::DecimalSeconds => {
                put_number(out, self.second);
                out.push(b'.');
                put_digits::<9>(out, self.fraction);
            }
            Notation::Millis => put_number(out, self.ns / 1_000_000),
            Notation::NanoOfSecond => put_number(out, self.fraction),
        }
    }

    fn put_millis(&self, text: &[u8; 19], between: u8, point: u8, out: &mut Vec<u8>) {
        let (date, time) = text.split_at(10);
        out.extend_from_slice(date);
        out.push(between);
        out.extend_from_slice(&time[1..]);
        out.push(point);
        put_digits::<3>(out, self.fraction / 1_000_000);
    }
}

/// Appends `number` in decimal.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_digits<const N: usize>(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&digits::<N>(number));
}

/// The last `N` decimal digits of `number`.
fn digits<const N: usize>(number: u64) -> [u8; N] {
    let mut text = [b'0'; N];
    let mut rest = number;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

/// `YYYY-MM-DDTHH:MM:SS` of a second since the epoch, years up to 9999.
fn date_time(second: u64) -> [u8; 19] {
    let (year, month, day) = civil(second / 86_400);
    let mut text = *b"0000-00-00T00:00:00";
    text[..4].copy_from_slice(&digits::<4>(year));
    let parts = [month, day, second / 3600 % 24, second / 60 % 60, second % 60];
    for (part, at) in parts.into_iter().zip([5, 8, 11, 14, 17]) {
        text[at..at + 2].copy_from_slice(&digits::<2>(part));
    }
    text
}

/// Year, month and day of a day since 1970-01-01.
/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ns: u64, notation: Notation, expected: &str) {
        let mut out = Vec::new();
        // Moved to, not made, so that the kept text of the second is put to the test.
        let mut moment = Moment::new(ns ^ 1);
        moment.set(ns);
        moment.put(notation, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn every_notation() {
        let ns = 1_795_468_350_092_340_794;
        check(ns, Notation::Iso, "2026-11-23T21:12:30.092");
        check(ns, Notation::IsoPlusOne, "2026-11-23T22:12:30.092");
        check(ns, Notation::Pattern, "2026-11-23 21:12:30,092");
        check(ns, Notation::Seconds, "1795468350");
        check(ns, Notation::DecimalSeconds, "1795468350.092340794");
        check(ns, Notation::Millis, "1795468350092");
        check(ns, Notation::NanoOfSecond, "92340794");
        let mut out = Vec::new();
        Moment::new(ns).put_rfc3339(&mut out);
        assert_eq!(out, b"2026-11-23T21:12:30.092340794Z");
        assert_eq!(Moment::new(ns).rotation_suffix(), "20261123-211230");
    }

    #[test]
    fn leap_days_and_year_ends() {
        check(951_782_399_999_000_000, Notation::Iso, "2000-02-28T23:59:59.999");
        check(951_782_400_000_000_000, Notation::Iso, "2000-02-29T00:00:00.000");
        check(1_709_251_199_000_000_000, Notation::Iso, "2024-02-29T23:59:59.000");
        check(4_107_542_400_000_000_000, Notation::Iso, "2100-03-01T00:00:00.000");
        check(1_767_225_599_000_000_000, Notation::IsoPlusOne, "2026-01-01T00:59:59.000");
        check(0, Notation::Iso, "1970-01-01T00:00:00.000");
    }
}
