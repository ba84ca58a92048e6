//! JSON numbers as Rust numbers, with the results that Java's `BigDecimal` and `Double` give.

use super::scan::Cursor;

/// Value of eight ASCII digits; `None` if one is not a digit.
#[inline]
fn eight_digits(chunk: [u8; 8]) -> Option<u64> {
    let word = u64::from_le_bytes(chunk);
    let low = word.wrapping_sub(0x3030_3030_3030_3030);
    let high = word.wrapping_add(0x4646_4646_4646_4646);
    if (low | high) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let pairs = low.wrapping_mul(10).wrapping_add(low >> 8);
    let left = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let right = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    Some(left.wrapping_add(right) >> 32)
}

/// Reads digits into `value`; gives how many there were. The value wraps past 19 digits.
#[inline]
pub(crate) fn read_digits(cursor: &mut Cursor<'_>, value: &mut u64) -> usize {
    let start = cursor.at;
    while let Some(eight) = cursor.rest().first_chunk::<8>().and_then(|chunk| eight_digits(*chunk)) {
        *value = value.wrapping_mul(100_000_000).wrapping_add(eight);
        cursor.at += 8;
    }
    loop {
        let digit = cursor.peek().wrapping_sub(b'0');
        if digit > 9 {
            return cursor.at - start;
        }
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        cursor.at += 1;
    }
}

/// Reads a plain integer of at most 18 digits; `None` (cursor anywhere) for everything else.
#[inline]
pub(crate) fn fast_integer(cursor: &mut Cursor<'_>) -> Option<i64> {
    let negative = cursor.peek() == b'-';
    cursor.at += usize::from(negative);
    let first = cursor.peek();
    let mut value = 0;
    let count = read_digits(cursor, &mut value);
    if count == 0 || count > 18 || (first == b'0' && count > 1) || matches!(cursor.peek(), b'.' | b'e' | b'E')
    {
        return None;
    }
    let value = value.cast_signed();
    Some(if negative { -value } else { value })
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Reads a number without exponent whose double is exact by one division; `None` (cursor anywhere) for others.
#[inline]
pub(crate) fn fast_double(cursor: &mut Cursor<'_>) -> Option<f64> {
    let negative = cursor.peek() == b'-';
    cursor.at += usize::from(negative);
    let first = cursor.peek();
    let mut mantissa = 0;
    let whole = read_digits(cursor, &mut mantissa);
    if whole == 0 || (first == b'0' && whole > 1) {
        return None;
    }
    let mut fraction = 0;
    if cursor.peek() == b'.' {
        cursor.at += 1;
        fraction = read_digits(cursor, &mut mantissa);
        if fraction == 0 {
            return None;
        }
    }
    if whole + fraction > 18 || mantissa >= (1 << 53) || matches!(cursor.peek(), b'e' | b'E') {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let value = mantissa as f64 / POWERS.get(fraction)?;
    Some(if negative { -value } else { value })
}

/// A number's text taken apart: digits (with sign) × 10^exponent.
pub(crate) struct Parts<'a> {
    pub(crate) negative: bool,
    pub(crate) whole: &'a [u8],
    pub(crate) fraction: &'a [u8],
    pub(crate) exponent: i64,
}

/// Takes apart text that follows JSON's grammar for numbers (a leading `+`, no digits before or after the point and
/// `1.` are let through: Java's `BigDecimal(String)` takes them). `None`: not a number.
pub(crate) fn parts(text: &[u8]) -> Option<Parts<'_>> {
    let (negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        None => (text, 0),
        Some(at) => {
            let digits = std::str::from_utf8(text.get(at + 1..)?).ok()?;
            (text.get(..at)?, digits.parse::<i32>().ok()?)
        }
    };
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        None => (mantissa, &[][..]),
        Some(at) => (mantissa.get(..at)?, mantissa.get(at + 1..)?),
    };
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || whole.len() + fraction.len() == 0 {
        return None;
    }
    Some(Parts { negative, whole, fraction, exponent: i64::from(exponent) })
}

impl Parts<'_> {
    /// Low 64 bits of the number cut to an integer, as `BigDecimal.longValue`.
    pub(crate) fn low_bits(&self) -> i64 {
        let mut value = 0_u64;
        let digits = self.whole.iter().chain(self.fraction);
        let whole = i64::try_from(self.whole.len()).unwrap_or(i64::MAX).saturating_add(self.exponent);
        let whole = usize::try_from(whole.max(0)).unwrap_or(usize::MAX);
        let mut seen = 0;
        for digit in digits.take(whole) {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            seen += 1;
        }
        // 10^64 is a multiple of 2^64: more zeros change nothing
        for _ in 0..(whole - seen).min(64) {
            value = value.wrapping_mul(10);
        }
        let value = if self.negative { value.wrapping_neg() } else { value };
        value.cast_signed()
    }

    /// The unscaled value at `scale`, if the number fits DECIMAL(`precision`, `scale`) without rounding.
    pub(crate) fn decimal(&self, precision: u8, scale: u8) -> Option<i128> {
        let mut value = 0_i128;
        let mut zeros = 0_u32; // trailing zeros not yet multiplied in
        for digit in self.whole.iter().chain(self.fraction) {
            if *digit == b'0' {
                zeros += u32::from(value != 0);
                continue;
            }
            value =
                value.checked_mul(10_i128.checked_pow(zeros + 1)?)?.checked_add(i128::from(digit - b'0'))?;
            zeros = 0;
        }
        let fraction = i64::try_from(self.fraction.len()).ok()?;
        let shift = i64::from(scale) - fraction + self.exponent + i64::from(zeros);
        if value == 0 {
            return Some(0);
        }
        // a negative shift would round: the last kept digit is not zero
        let value = value.checked_mul(10_i128.checked_pow(u32::try_from(shift).ok()?)?)?;
        if value >= 10_i128.checked_pow(u32::from(precision))? {
            return None;
        }
        Some(if self.negative { -value } else { value })
    }

    /// As `BigDecimal.toString` prints it.
    pub(crate) fn write_big_decimal(&self, out: &mut Vec<u8>) {
        let digits: Vec<u8> =
            self.whole.iter().chain(self.fraction).copied().skip_while(|d| *d == b'0').collect();
        let digits = if digits.is_empty() { vec![b'0'] } else { digits };
        let scale = i64::try_from(self.fraction.len()).unwrap_or(i64::MAX).saturating_sub(self.exponent);
        let len = i64::try_from(digits.len()).unwrap_or(i64::MAX);
        if self.negative && digits != b"0" {
            out.push(b'-');
        }
        let adjusted = len - 1 - scale;
        if scale == 0 {
            out.extend_from_slice(&digits);
        } else if scale > 0 && adjusted >= -6 {
            let point = usize::try_from(len - scale).unwrap_or(0);
            if point > 0 {
                out.extend_from_slice(digits.get(..point).unwrap_or_default());
            } else {
                out.push(b'0');
            }
            out.push(b'.');
            out.resize(out.len() + usize::try_from(scale - len).unwrap_or(0), b'0');
            out.extend_from_slice(digits.get(point..).unwrap_or_default());
        } else {
            let (first, rest) = digits.split_at(1);
            out.extend_from_slice(first);
            if !rest.is_empty() {
                out.push(b'.');
                out.extend_from_slice(rest);
            }
            out.push(b'E');
            out.push(if adjusted < 0 { b'-' } else { b'+' });
            crate::java::write_i64(adjusted.abs(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_fit_exactly_or_not_at_all() {
        for (text, precision, scale, expected) in [
            ("1.10", 4, 2, Some(110)),
            ("1.100", 4, 2, Some(110)),
            ("-0.05", 4, 2, Some(-5)),
            ("1.105", 4, 2, None),
            ("100", 4, 2, None),
            ("1e1", 4, 2, Some(1000)),
            ("120e-1", 4, 0, Some(12)),
            ("0.000", 2, 1, Some(0)),
            ("99999999999999999999999999999999999999", 38, 0, Some(10_i128.pow(38) - 1)),
            ("100000000000000000000000000000000000000", 38, 0, None),
        ] {
            assert_eq!(
                parts(text.as_bytes()).and_then(|parts| parts.decimal(precision, scale)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn big_numbers_wrap_and_print_as_java_does() {
        for (text, low, printed) in [
            ("1.9", 1, "1.9"),
            ("-1.9", -1, "-1.9"),
            ("18446744073709551617", 1, "18446744073709551617"),
            ("1e3", 1000, "1E+3"),
            ("1.50e1", 15, "15.0"),
            ("0.0000001", 0, "1E-7"),
            ("0.000001", 0, "0.000001"),
            ("12e70", 0, "1.2E+71"),
        ] {
            let parts = parts(text.as_bytes()).unwrap();
            assert_eq!(parts.low_bits(), low, "{text}");
            let mut out = Vec::new();
            parts.write_big_decimal(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), printed);
        }
    }
}
