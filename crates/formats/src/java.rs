//! Numbers as Java prints them: `Double.toString` and `BigDecimal.toPlainString`.

/// Appends `value` as Java's `Double.toString` (shortest digits, as JDK 19 and later).
pub fn write_double(value: f64, out: &mut Vec<u8>) {
    if !value.is_finite() {
        out.extend_from_slice(if value.is_nan() {
            b"NaN"
        } else if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        });
        return;
    }
    if value == 0.0 {
        out.extend_from_slice(if value.is_sign_negative() { b"-0.0" } else { b"0.0" });
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let precise;
    let text = if value.abs() < 1e-322 {
        // where one digit would do, Java still takes the nearest two: 4.9E-324, not 5.0E-324
        precise = format!("{:.1e}", value.abs());
        &*precise
    } else {
        buffer.format_finite(value.abs())
    };
    // digits without point, and the power of ten of 0.DIGITS
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [b'0'; 32];
    let mut len = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if let Some(place) = digits.get_mut(len) {
            *place = digit;
            len += 1;
        }
    }
    let digits = digits.get(..len).unwrap_or_default();
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    let point = i32::try_from(whole.len()).unwrap_or(0) + exponent - i32::try_from(leading).unwrap_or(0);
    let digits = digits.get(leading..).unwrap_or_default();
    let trailing = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    let digits = digits.get(..digits.len() - trailing).unwrap_or_default();
    if value.is_sign_negative() {
        out.push(b'-');
    }
    layout(digits, point, out);
}

/// Writes 0.`digits` × 10^`point`: plain from 10⁻³ up to 10⁷, with an exponent outside.
fn layout(digits: &[u8], point: i32, out: &mut Vec<u8>) {
    if (-2..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + usize::try_from(-point).unwrap_or(0), b'0');
        out.extend_from_slice(digits);
    } else if (1..=7).contains(&point) {
        let point = usize::try_from(point).unwrap_or(0);
        for at in 0..point {
            out.push(digits.get(at).copied().unwrap_or(b'0'));
        }
        out.push(b'.');
        match digits.get(point..) {
            Some(rest) if !rest.is_empty() => out.extend_from_slice(rest),
            _ => out.push(b'0'),
        }
    } else {
        let (first, rest) = digits.split_at(digits.len().min(1));
        out.extend_from_slice(first);
        out.push(b'.');
        out.extend_from_slice(if rest.is_empty() { b"0" } else { rest });
        out.push(b'E');
        write_i64(i64::from(point) - 1, out);
    }
}

/// `value` as Java's `Double.toString`.
#[must_use]
pub fn double_to_string(value: f64) -> String {
    let mut out = Vec::with_capacity(24);
    write_double(value, &mut out);
    out.into_iter().map(char::from).collect()
}

const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

/// Appends `value` in decimal.
#[inline]
pub fn write_i64(value: i64, out: &mut Vec<u8>) {
    let mut buffer = [0_u8; 20];
    let mut at = buffer.len();
    let mut left = value.unsigned_abs();
    while left >= 10 {
        let pair = usize::try_from(left % 100).unwrap_or(0) * 2;
        left /= 100;
        at -= 2;
        buffer[at] = PAIRS[pair];
        buffer[at + 1] = PAIRS[pair + 1];
    }
    if left > 0 || at == buffer.len() {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(left).unwrap_or(0);
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&buffer[at..]);
}

/// Appends the decimal `unscaled` × 10^-`scale` without an exponent, all digits of its scale kept.
pub fn write_decimal(unscaled: i128, scale: u8, out: &mut Vec<u8>) {
    let scale = usize::from(scale);
    if unscaled < 0 {
        out.push(b'-');
    }
    let digits = unscaled.unsigned_abs().to_string();
    let digits = digits.as_bytes();
    if scale == 0 {
        out.extend_from_slice(digits);
    } else if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + scale - digits.len(), b'0');
        out.extend_from_slice(digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_print_as_java_prints_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (100.0, "100.0"),
            (0.001, "0.001"),
            (0.000_999, "9.99E-4"),
            (9_999_999.0, "9999999.0"),
            (1.0e7, "1.0E7"),
            (12_345_678.9, "1.23456789E7"),
            (1.0e300, "1.0E300"),
            (-2.5e-9, "-2.5E-9"),
            (123_456.789, "123456.789"),
            (4.9e-324, "4.9E-324"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double_to_string(value), text);
        }
    }

    #[test]
    fn integers_and_decimals_keep_every_digit() {
        for value in [0, 7, 10, -1, 99, 100, 12_345, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            write_i64(value, &mut out);
            assert_eq!(out, value.to_string().as_bytes());
        }
        for (unscaled, scale, text) in [(1_10, 2, "1.10"), (-5, 3, "-0.005"), (12, 0, "12"), (0, 2, "0.00")] {
            let mut out = Vec::new();
            write_decimal(unscaled, scale, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }
}
