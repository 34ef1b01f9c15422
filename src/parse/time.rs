//! Times as runtimes and applications write them, and as documents carry them.
//!
//! Owns the RFC 3339 grammar (strict for what may stay byte for byte, lenient for what is
//! rewritten), epoch numbers of any unit, the conversion to and from nanoseconds since the epoch
//! (`i64`, 1677-09-21 to 2262-04-11), and the calendar. Every function is pure, works on bytes and
//! returns `None` for what it cannot read exactly; digits finer than a nanosecond are cut off, and
//! no number passes through floating point. Does not know the clock, nor which field a time is in.

const NANOS: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// The largest UTC offset that Elasticsearch reads (`java.time.ZoneOffset`: ±18:00).
const MAX_OFFSET_SECONDS: i64 = 18 * 3600;

/// A moment's parts in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// 1677 to 2262.
    pub year: u32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub nano: u32,
}

/// A date-time at the beginning of some bytes, and in what it differs from RFC 3339.
#[derive(Debug, Clone, Copy)]
struct Scanned {
    year: i64,
    month: i64,
    day: i64,
    /// Of the day, in the zone's time.
    second: i64,
    nanos: i64,
    /// Bytes that it took.
    length: usize,
    /// Letters, separators and the zone are RFC 3339's, in upper case.
    plain: bool,
    fraction_digits: usize,
    offset_seconds: i64,
    leap_second: bool,
}

impl Scanned {
    /// Since the epoch, UTC.
    fn ns(&self) -> Option<i64> {
        let days = days_from_civil(self.year, self.month, self.day);
        let seconds = days * DAY_SECONDS + self.second - self.offset_seconds;
        let ns = i128::from(seconds) * i128::from(NANOS) + i128::from(self.nanos);
        i64::try_from(ns).ok()
    }
}

/// Bytes of `YYYY-MM-DDTHH:MM:SS`.
const SECOND_BYTES: usize = 19;

/// The second of the time that was read last. Times of lines follow each other closely, so that
/// most are read by comparing their seconds' text with it. Changes no result.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastSecond {
    /// As RFC 3339 writes it, in upper case; zeros before the first.
    text: [u8; SECOND_BYTES],
    /// Since the epoch, if the zone is `Z`.
    seconds: i64,
}

impl LastSecond {
    /// What follows the second's text, if `bytes` begins with it.
    #[inline(always)]
    fn strip<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (text, rest) = bytes.split_first_chunk()?;
        (*text == self.text).then_some(rest)
    }

    /// Notes a time without a leap second.
    fn note(&mut self, bytes: &[u8], scanned: &Scanned) {
        if let Some(text) = bytes.first_chunk() {
            let days = days_from_civil(scanned.year, scanned.month, scanned.day);
            *self = Self { text: *text, seconds: days * DAY_SECONDS + scanned.second };
        }
    }
}

/// Reads the RFC 3339 date-time that `bytes` begins with: the nanoseconds since the epoch, and
/// how many bytes it took. Fractions have any number of digits, those past the ninth don't count.
#[inline]
pub fn runtime_prefix(bytes: &[u8], last: &mut LastSecond) -> Option<(i64, usize)> {
    match last.strip(bytes).and_then(|rest| after_second(rest, last.seconds)) {
        Some(found) => Some(found),
        None => any_prefix(bytes, last),
    }
}

/// The time that goes on with `rest` after so many seconds, and its bytes; `None` where that is
/// not a fraction of nine digits and `Z`.
#[inline(always)]
fn after_second(rest: &[u8], seconds: i64) -> Option<(i64, usize)> {
    let [b'.', eight @ .., ninth, b'Z'] = rest.first_chunk::<11>()? else { return None };
    let ninth = ninth.wrapping_sub(b'0');
    if ninth > 9 {
        return None;
    }
    let nanos = eight_digits(eight)? * 10 + i64::from(ninth);
    let ns = seconds.checked_mul(NANOS)?.checked_add(nanos)?;
    Some((ns, SECOND_BYTES + 11))
}

#[inline(never)]
fn any_prefix(bytes: &[u8], last: &mut LastSecond) -> Option<(i64, usize)> {
    let scanned = scan(bytes)?;
    if !scanned.plain || scanned.leap_second {
        return None;
    }
    last.note(bytes, &scanned);
    Some((scanned.ns()?, scanned.length))
}

/// Whether `text` is a date-time that an Elasticsearch `date` reads as it stands: RFC 3339 with
/// `T` and `Z` in upper case, a date that exists, at most nine digits of fraction, an offset
/// within ±18:00, no leap second. Any year from 0000 to 9999.
///
/// Source: elastic/elasticsearch `server/src/main/java/org/elasticsearch/common/time/`
/// (`strict_date_optional_time`).
#[inline]
pub fn is_canonical(text: &[u8], last: &mut LastSecond) -> bool {
    let is_usual = last.strip(text).is_some_and(|rest| match rest {
        [b'.', digits @ .., b'Z'] => {
            (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    });
    is_usual || any_is_canonical(text, last)
}

#[inline(never)]
fn any_is_canonical(text: &[u8], last: &mut LastSecond) -> bool {
    scan(text).is_some_and(|scanned| {
        let is_plain = scanned.plain && !scanned.leap_second;
        if is_plain {
            last.note(text, &scanned);
        }
        is_plain
            && scanned.length == text.len()
            && scanned.fraction_digits <= 9
            && scanned.offset_seconds.abs() <= MAX_OFFSET_SECONDS
    })
}

/// Reads a date-time that a person or an application wrote: RFC 3339, and beyond it offsets such
/// as `+0000` and `+00`, a fraction after a comma, a space for `T`, lower case letters, a space
/// before the offset, second 60, and no zone at all, which means UTC.
pub fn parse(text: &[u8]) -> Option<i64> {
    let scanned = scan(text)?;
    if scanned.length != text.len() {
        return None;
    }
    scanned.ns()
}

/// Whether `bytes` begins with `YYYY-MM-DDTHH:MM` in the digits' places, with `-` or `/` in the
/// date and `T` or a space after it. Looks at the shape only.
pub fn starts_like_date_time(bytes: &[u8]) -> bool {
    let Some(head) = bytes.first_chunk::<16>() else { return false };
    let separator = head[4];
    matches!(separator, b'-' | b'/')
        && head[7] == separator
        && matches!(head[10], b'T' | b' ')
        && head[13] == b':'
        && [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15].iter().all(|&at| head[at].is_ascii_digit())
}

fn scan(bytes: &[u8]) -> Option<Scanned> {
    let head: &[u8; 19] = bytes.first_chunk()?;
    let date = pairs(head.first_chunk()?, b"0000-00-")?;
    let time = pairs(head.last_chunk()?, b"00:00:00")?;
    let (tens, ones) = (head[8].wrapping_sub(b'0'), head[9].wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return None;
    }
    let year = i64::from(date[0]) * 100 + i64::from(date[2]);
    let (month, day) = (i64::from(date[5]), i64::from(tens * 10 + ones));
    let (hour, minute, second) = (i64::from(time[0]), i64::from(time[3]), i64::from(time[6]));
    let in_range = (1..=12).contains(&month) && hour < 24 && minute < 60 && second <= 60;
    if !in_range || day < 1 || day > month_days(year, month) {
        return None;
    }
    let mut plain = match head[10] {
        b'T' => true,
        b't' | b' ' => false,
        _ => return None,
    };
    let (nanos, fraction_digits) = fraction(&bytes[19..]);
    let mut length = 19;
    if fraction_digits > 0 {
        plain &= bytes[19] == b'.';
        length += 1 + fraction_digits;
    }
    let zone = zone(&bytes[length..])?;
    length += zone.length;
    Some(Scanned {
        year,
        month,
        day,
        second: hour * 3600 + minute * 60 + second,
        nanos,
        length,
        plain: plain && zone.plain,
        fraction_digits,
        offset_seconds: zone.offset_seconds,
        leap_second: second == 60,
    })
}

/// The numbers of two digits that stand in `text` where `shape` has zeros, each where its first
/// digit is; `None` if something else stands there, or where `shape` has none. All bytes at once,
/// in an integer.
#[inline(always)]
fn pairs(text: &[u8; 8], shape: &[u8; 8]) -> Option<[u8; 8]> {
    let values = u64::from_le_bytes(*text) ^ u64::from_le_bytes(*shape);
    // A digit may be 9 more than its zero, anything else nothing: what is more carries into the
    // top bit of its byte.
    let room = shape.map(|byte| if byte == b'0' { 0x76 } else { 0x7F });
    let over = values.wrapping_add(u64::from_le_bytes(room)) | values;
    if over & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    Some((values * 10 + (values >> 8)).to_le_bytes())
}

/// The value of eight digits.
#[inline(always)]
fn eight_digits(text: &[u8; 8]) -> Option<i64> {
    let [a, _, b, _, c, _, d, _] = pairs(text, b"00000000")?.map(i64::from);
    Some(((a * 100 + b) * 100 + c) * 100 + d)
}

/// The fraction's value in nanoseconds and its number of digits, without the point; no digits, no
/// fraction.
#[inline]
fn fraction(bytes: &[u8]) -> (i64, usize) {
    let Some((b'.' | b',', digits)) = bytes.split_first() else { return (0, 0) };
    let (mut nanos, mut count) = match digits.first_chunk().and_then(eight_digits) {
        Some(eight) => (eight * 10, 8),
        None => (0, 0),
    };
    let mut unit = if count == 0 { NANOS / 10 } else { 1 };
    for byte in &digits[count..] {
        if !byte.is_ascii_digit() {
            break;
        }
        nanos += i64::from(byte - b'0') * unit;
        unit /= 10;
        count += 1;
    }
    (nanos, count)
}

struct Zone {
    offset_seconds: i64,
    length: usize,
    plain: bool,
}

/// The zone at the beginning of `bytes`. Where there is none it is UTC and takes no bytes.
fn zone(bytes: &[u8]) -> Option<Zone> {
    let (space, bytes) = match bytes {
        [b' ', rest @ ..] if matches!(rest.first(), Some(b'+' | b'-' | b'Z' | b'z')) => (1, rest),
        _ => (0, bytes),
    };
    let (sign, digits) = match bytes {
        [b'Z', ..] => {
            return Some(Zone { offset_seconds: 0, length: space + 1, plain: space == 0 });
        }
        [b'z', ..] => return Some(Zone { offset_seconds: 0, length: space + 1, plain: false }),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Some(Zone { offset_seconds: 0, length: 0, plain: false }),
    };
    let two = |at: usize| {
        let [tens, ones] = *digits.get(at..at + 2)?.first_chunk::<2>()?;
        let both = tens.is_ascii_digit() && ones.is_ascii_digit();
        both.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let hours = two(0)?;
    let (minutes, length, plain) = match digits.get(2) {
        Some(b':') => (two(3)?, 6, space == 0),
        Some(byte) if byte.is_ascii_digit() => (two(2)?, 5, false),
        _ => (0, 3, false),
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some(Zone {
        offset_seconds: sign * (hours * 3600 + minutes * 60),
        length: space + length,
        plain,
    })
}

/// Days of a month, 1 to 12, in the Gregorian calendar.
fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the epoch. Years are not negative.
///
/// Source: <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - EPOCH_DAYS
}

/// The parts of a moment, given in nanoseconds since the epoch, in UTC.
///
/// Source: <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
pub fn civil(ns: i64) -> Civil {
    let part = |value: i64| u32::try_from(value).expect("parts of a date in range are positive");
    let seconds = ns.div_euclid(NANOS);
    let days = part(seconds.div_euclid(DAY_SECONDS) + EPOCH_DAYS);
    let second_of_day = part(seconds.rem_euclid(DAY_SECONDS));
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    Civil {
        year: era * 400 + year_of_era + u32::from(month <= 2),
        month,
        day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        hour: second_of_day / 3600,
        minute: second_of_day / 60 % 60,
        second: second_of_day % 60,
        nano: part(ns.rem_euclid(NANOS)),
    }
}

/// Appends `2026-11-23T21:08:57.493127544Z`, always with nine digits: 30 bytes.
pub fn write_utc(ns: i64, out: &mut Vec<u8>) {
    let Civil { year, month, day, hour, minute, second, nano } = civil(ns);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], hour);
    put(&mut text[14..16], minute);
    put(&mut text[17..19], second);
    put(&mut text[20..29], nano);
    out.extend_from_slice(&text);
}

/// Fills `place` with the decimal digits of `value`.
fn put(place: &mut [u8], mut value: u32) {
    for byte in place.iter_mut().rev() {
        *byte = b"0123456789"[(value % 10) as usize];
        value /= 10;
    }
}

/// Reads a JSON number as a time since the epoch in the unit that its size suggests: below 1e11
/// seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds (all by absolute
/// value). The decimal digits are used as they are written, `1795468937.493127544` is exact; what
/// is finer than a nanosecond is cut off.
pub fn parse_number(text: &[u8]) -> Option<i64> {
    let number = Decimal::parse(text)?;
    let decimals = match number.integer_digits {
        ..=11 => 9,
        12..=14 => 6,
        15..=17 => 3,
        _ => 0,
    };
    number.scaled(decimals)
}

/// Reads log4j's `instant` from the texts of its members `epochSecond` and `nanoOfSecond`.
pub fn from_instant(epoch_second: &[u8], nano_of_second: &[u8]) -> Option<i64> {
    let integer = |text: &[u8]| str::from_utf8(text).ok()?.parse::<i64>().ok();
    let (seconds, nanos) = (integer(epoch_second)?, integer(nano_of_second)?);
    if !(0..NANOS).contains(&nanos) {
        return None;
    }
    let ns = i128::from(seconds) * i128::from(NANOS) + i128::from(nanos);
    i64::try_from(ns).ok()
}

/// A number as its decimal digits: `0.d₁d₂d₃… × 10^integer_digits` with `d₁` not zero.
struct Decimal<'a> {
    negative: bool,
    /// Digits with at most one point among them, leading zeros included.
    mantissa: &'a [u8],
    /// Digits before the point once leading zeros are gone; not positive below one.
    integer_digits: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
        let (integer, rest) = mantissa.split_at(point);
        let decimals = rest.get(1..).unwrap_or_default();
        let digits_only = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
        if integer.is_empty() || !digits_only(integer) || !digits_only(decimals) {
            return None;
        }
        if !rest.is_empty() && decimals.is_empty() {
            return None;
        }
        let zeros = |digits: &[u8]| digits.iter().take_while(|&&digit| digit == b'0').count();
        let leading = zeros(integer);
        let integer_digits = if leading < integer.len() {
            i64::try_from(integer.len() - leading).ok()?
        } else {
            -i64::try_from(zeros(decimals)).ok()?
        };
        Some(Self { negative, mantissa, integer_digits: integer_digits.saturating_add(exponent) })
    }

    /// The number times `10^decimals`, cut off to a whole one; `None` if that isn't an `i64`.
    fn scaled(&self, decimals: i64) -> Option<i64> {
        let mut digits = self.mantissa.iter().filter(|&&byte| byte != b'.');
        let mut digits = std::iter::from_fn(move || digits.next()).skip_while(|&&d| d == b'0');
        let mut places = self.integer_digits.saturating_add(decimals);
        let mut value: i128 = 0;
        while places > 0 {
            match digits.next() {
                Some(digit) => value = value * 10 + i128::from(digit - b'0'),
                None if value == 0 => return Some(0),
                None => value *= 10,
            }
            if value > i128::from(u64::MAX) {
                return None;
            }
            places -= 1;
        }
        i64::try_from(if self.negative { -value } else { value }).ok()
    }
}

/// The exponent after `e`; one too large to be read is as good as ten thousand.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0')).min(10_000)
    });
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn written(ns: i64) -> String {
        let mut out = Vec::new();
        write_utc(ns, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn check(text: &str, expected: Option<&str>, canonical: bool) {
        assert_eq!(parse(text.as_bytes()).map(written).as_deref(), expected, "{text}");
        let mut last = LastSecond::default();
        for _ in 0..2 {
            assert_eq!(is_canonical(text.as_bytes(), &mut last), canonical, "{text}");
        }
    }

    fn prefix(text: &[u8]) -> Option<(i64, usize)> {
        runtime_prefix(text, &mut LastSecond::default())
    }

    fn check_number(text: &str, expected: Option<&str>) {
        assert_eq!(parse_number(text.as_bytes()).map(written).as_deref(), expected, "{text}");
    }

    #[test]
    fn rfc_3339_is_canonical() {
        let utc = Some("2026-11-23T21:06:08.725000000Z");
        check("2026-11-23T21:06:08.725Z", utc, true);
        check("2026-11-23T22:06:08.725+01:00", utc, true);
        check("2026-11-23T03:06:08.725-18:00", utc, true);
        check("2026-11-23T21:06:08.725-00:00", utc, true);
        check("2026-11-23T21:08:57.493127544Z", Some("2026-11-23T21:08:57.493127544Z"), true);
        check("2024-02-29T00:00:00Z", Some("2024-02-29T00:00:00.000000000Z"), true);
        check("9999-12-31T23:59:59Z", None, true);
    }

    #[test]
    fn other_spellings_are_read() {
        let utc = Some("2026-11-23T21:20:56.514000000Z");
        check("2026-11-23T21:20:56.514+0000", utc, false);
        check("2026-11-23T22:20:56.514+01", utc, false);
        check("2026-11-23 21:20:56,514", utc, false);
        check("2026-11-23 21:20:56.514 +0000", utc, false);
        check("2026-11-23t21:20:56.514z", utc, false);
        check("2026-11-23T21:20:56.5140000009Z", utc, false);
        check("2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00.000000000Z"), false);
        check("2026-11-23T21:20:56.514+18:01", Some("2026-11-23T03:19:56.514000000Z"), false);
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T21:20Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T21:60:00Z",
            "2026-11-23T21:00:61Z",
            "2026-11-23T21:00:00.Z",
            "2026-11-23T21:00:00Zulu",
            "2026-11-23T21:00:00+1",
            "2026-11-23T21:00:00+24:00",
            "2026-11-23T21:00:00+01:60",
            "2026-11-23T21:00:00 ",
            "2026-11-23_21:00:00Z",
            "20 6-11-23T21:00:00Z",
            "2026-11-23T21:00:0:Z",
            "+026-11-23T21:00:00Z",
        ] {
            check(text, None, false);
        }
    }

    #[test]
    fn numbers_go_by_their_size() {
        let utc = Some("2026-11-23T21:17:06.449000000Z");
        check_number("1795468626.449", utc);
        check_number("1795468626449", utc);
        check_number("1795468626449000", utc);
        check_number("1795468626449000000", utc);
        check_number("1795468626449e-3", utc);
        check_number("1.795468626449E+12", utc);
        check_number("1795468937.493127544", Some("2026-11-23T21:22:17.493127544Z"));
        check_number("1795468937.4931275449", Some("2026-11-23T21:22:17.493127544Z"));
        check_number("0", Some("1970-01-01T00:00:00.000000000Z"));
        check_number("-0.0e5", Some("1970-01-01T00:00:00.000000000Z"));
        check_number("0.000000001", Some("1970-01-01T00:00:00.000000001Z"));
        check_number("1e-400", Some("1970-01-01T00:00:00.000000000Z"));
        check_number("-1.5", Some("1969-12-31T23:59:58.500000000Z"));
        check_number("99999999999", None);
        check_number("100000000000", Some("1973-03-03T09:46:40.000000000Z"));
        check_number("99999999999999", None);
        check_number("100000000000000", Some("1973-03-03T09:46:40.000000000Z"));
        check_number("99999999999999999", None);
        check_number("100000000000000000", Some("1973-03-03T09:46:40.000000000Z"));
        check_number("9223372036854775807", Some("2262-04-11T23:47:16.854775807Z"));
        check_number("-9223372036854775808", Some("1677-09-21T00:12:43.145224192Z"));
        check_number("9223372036854775808", None);
        check_number("1e400", None);
        for text in ["", "-", ".5", "5.", "1.2.3", "1e", "1e+", "0x10", "NaN", "1 ", "--1", "1e1.5"]
        {
            check_number(text, None);
        }
    }

    #[test]
    fn instants() {
        let instant = |s: &str, n: &str| from_instant(s.as_bytes(), n.as_bytes()).map(written);
        let utc = "2026-11-23T21:12:30.692340794Z".to_owned();
        assert_eq!(instant("1795468350", "692340794"), Some(utc));
        assert_eq!(instant("1795468350", "1000000000"), None);
        assert_eq!(instant("1795468350", "-1"), None);
        assert_eq!(instant("1795468350.5", "0"), None);
        assert_eq!(instant("99999999999", "0"), None);
    }

    proptest! {
        #[test]
        fn writing_and_reading_are_inverse(ns: i64) {
            let text = written(ns);
            prop_assert!(is_canonical(text.as_bytes(), &mut LastSecond::default()));
            prop_assert_eq!(parse(text.as_bytes()), Some(ns));
            prop_assert_eq!(prefix(text.as_bytes()), Some((ns, text.len())));
            let zoned = Timestamp::from_nanosecond(ns.into()).unwrap();
            prop_assert_eq!(text, format!("{zoned:.9}"));
        }

        #[test]
        fn agrees_with_jiff(
            year in 1600i32..2300, month in 0u32..14, day in 0u32..33, hour in 0u32..25,
            minute in 0u32..61, second in 0u32..60, fraction in "(\\.[0-9]{1,9})?",
            zone in "Z|[+-](0[0-9]|1[0-7]):[0-5][0-9]",
        ) {
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"
            );
            let theirs = text.parse::<Timestamp>().ok().filter(|_| hour < 24);
            let canonical = is_canonical(text.as_bytes(), &mut LastSecond::default());
            prop_assert_eq!(canonical, theirs.is_some(), "{}", text);
            let ns = theirs.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
            prop_assert_eq!(parse(text.as_bytes()), ns);
        }

        /// Whatever was read before.
        #[test]
        fn the_last_second_changes_nothing(texts in prop::collection::vec(
            "(2026-11-2[34]|1600-01-01)T21:08:5[78](\\.[0-9]{1,10}|\\.|)(Z|z|\\+01:00|Z?[0-9 ]|)", 1..6,
        )) {
            let mut last = LastSecond::default();
            for text in &texts {
                prop_assert_eq!(runtime_prefix(text.as_bytes(), &mut last), prefix(text.as_bytes()));
            }
            for text in &texts {
                let alone = is_canonical(text.as_bytes(), &mut LastSecond::default());
                prop_assert_eq!(is_canonical(text.as_bytes(), &mut last), alone);
            }
        }

        #[test]
        fn numbers_agree_with_integers(whole in -99_999_999_999i64..99_999_999_999, nano in 0i64..NANOS) {
            let expected = i128::from(whole) * i128::from(NANOS)
                + i128::from(if whole < 0 { -nano } else { nano });
            let text = format!("{whole}.{nano:09}");
            prop_assert_eq!(parse_number(text.as_bytes()), i64::try_from(expected).ok());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "[-+0-9TZtz:., eE]{0,40}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let canonical = is_canonical(bytes, &mut LastSecond::default());
                let read = parse(bytes);
                prop_assert!(!canonical || read.is_some() || !bytes.starts_with(b"20"));
                parse_number(bytes);
                from_instant(bytes, bytes);
                prefix(bytes);
                starts_like_date_time(bytes);
            }
        }
    }
}
