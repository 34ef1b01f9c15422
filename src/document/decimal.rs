//! Whole numbers as decimal digits.
//!
//! Owns their place in the body: eight digits are made at once in a word and written from there. A
//! buffer between would be written in pieces and read as one, for which the processor has to wait
//! until all that was written before has left it, and before a number stands the long lead of an item.

/// Below this a number has at most eight digits.
const EIGHT_DIGITS: u64 = 100_000_000;

/// Appends the digits of `number`, without zeros in front.
pub(super) fn write(number: u64, out: &mut Vec<u8>) {
    if number >= EIGHT_DIGITS {
        write(number / EIGHT_DIGITS, out);
        out.extend_from_slice(&characters(digits(number % EIGHT_DIGITS)));
        return;
    }
    let digits = digits(number);
    // The first digit is in the lowest byte. The last one stays, whatever it is.
    let zeros = (digits.trailing_zeros() / u8::BITS).min(7);
    out.extend_from_slice(&characters(digits >> (zeros * u8::BITS)));
    out.truncate(out.len() - zeros as usize);
}

/// Eight digits in a byte each, the first in the lowest, of a number that has no more.
#[inline(always)]
fn digits(number: u64) -> u64 {
    // Two numbers of four digits, four of two, eight of one: a quotient by multiplication in each
    // part of the word, and what remains in the part above it.
    let fours = (number / 10_000) | (number % 10_000) << 32;
    let hundreds = ((fours * 5_243) >> 19) & 0x0000_007F_0000_007F;
    let twos = hundreds | (fours - hundreds * 100) << 16;
    let tens = ((twos * 103) >> 10) & 0x000F_000F_000F_000F;
    tens | (twos - tens * 10) << 8
}

#[inline(always)]
fn characters(digits: u64) -> [u8; 8] {
    (digits | u64::from_ne_bytes([b'0'; 8])).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(number: u64) -> String {
        let mut out = b"before ".to_vec();
        write(number, &mut out);
        String::from_utf8(out).expect("digits are ASCII")
    }

    #[test]
    fn all_of_four_digits() {
        for number in 0..10_000 {
            assert_eq!(written(number), format!("before {number}"));
            let high = number * 10_000;
            assert_eq!(written(high), format!("before {high}"));
        }
    }

    proptest! {
        #[test]
        fn any_number(number: u64, bits in 0..64_u32) {
            let number = number >> bits;
            prop_assert_eq!(written(number), format!("before {number}"));
        }
    }
}
