//! Numbers as Java prints, parses and rounds them: ksqlDB's users see these digits.

use arrow::datatypes::i256;
use num_bigint::{BigInt, Sign};

/// How digits are dropped from a decimal (Java's `RoundingMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest; a tie away from zero.
    HalfUp,
    /// To the nearest; a tie towards zero.
    HalfDown,
    /// Towards negative infinity.
    Floor,
    /// Towards positive infinity.
    Ceiling,
    /// Towards zero.
    Down,
    /// No digit may be dropped: fails if one would be.
    Unnecessary,
}

/// Appends `value` as Java's `Double.toString` prints it (`1.0`, `1.0E10`, `NaN`, `-Infinity`).
pub fn write_double(value: f64, out: &mut String) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if value.is_sign_negative() {
        out.push('-');
    }
    let magnitude = value.abs();
    if magnitude == 0.0 {
        return out.push_str("0.0");
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(magnitude);
    if (1e-3..1e7).contains(&magnitude) && !text.contains('e') {
        return out.push_str(text);
    }
    let mut digits = [0_u8; 32];
    let (count, exponent) = shortest_digits(text, &mut digits);
    let digits = std::str::from_utf8(&digits[..count]).unwrap_or("0");
    if (1e-3..1e7).contains(&magnitude) {
        write_plain(digits, exponent, out);
    } else {
        out.push_str(&digits[..1]);
        out.push('.');
        out.push_str(if count > 1 { &digits[1..] } else { "0" });
        out.push('E');
        out.push_str(&exponent.to_string());
    }
}

/// `value` as Java's `Double.toString` prints it.
#[must_use]
pub fn double_to_string(value: f64) -> String {
    let mut out = String::with_capacity(24);
    write_double(value, &mut out);
    out
}

/// Significant digits of ryu's text (no leading or trailing zeros) and the decimal exponent of the first.
fn shortest_digits(text: &str, digits: &mut [u8; 32]) -> (usize, i32) {
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().unwrap_or(0)),
        None => (text, 0),
    };
    let point = mantissa.find('.').unwrap_or(mantissa.len());
    let (mut count, mut first, mut position) = (0_usize, None, 0_i32);
    for byte in mantissa.bytes().filter(u8::is_ascii_digit) {
        if byte != b'0' || first.is_some() {
            first.get_or_insert(position);
            if count < digits.len() {
                digits[count] = byte;
                count += 1;
            }
        }
        position += 1;
    }
    while count > 1 && digits[count - 1] == b'0' {
        count -= 1;
    }
    let before_point = i32::try_from(point).unwrap_or(0);
    (count.max(1), before_point - 1 - first.unwrap_or(0) + exponent)
}

fn write_plain(digits: &str, exponent: i32, out: &mut String) {
    if exponent < 0 {
        out.push_str("0.");
        for _ in 1..-exponent {
            out.push('0');
        }
        out.push_str(digits);
        return;
    }
    let whole = usize::try_from(exponent).unwrap_or(0) + 1;
    for index in 0..whole {
        out.push(digits.as_bytes().get(index).map_or('0', |digit| char::from(*digit)));
    }
    out.push('.');
    out.push_str(if digits.len() > whole { &digits[whole..] } else { "0" });
}

/// `value` with exactly `scale` digits after the point, never an exponent (`BigDecimal.toPlainString`).
#[must_use]
pub fn decimal_to_string(unscaled: i128, scale: u8) -> String {
    let scale = usize::from(scale);
    let digits = unscaled.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + 3);
    if unscaled < 0 {
        out.push('-');
    }
    if scale == 0 {
        out.push_str(&digits);
    } else if digits.len() > scale {
        out.push_str(&digits[..digits.len() - scale]);
        out.push('.');
        out.push_str(&digits[digits.len() - scale..]);
    } else {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', scale - digits.len()));
        out.push_str(&digits);
    }
    out
}

/// Java's `String.trim`: strips control characters and spaces (everything up to U+0020).
#[must_use]
pub fn java_trim(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}

/// Java's `Integer.parseInt` after `trim`.
///
/// # Errors   the exception's message.
pub fn parse_int(text: &str) -> Result<i32, String> {
    let trimmed = java_trim(text);
    trimmed.parse::<i32>().map_err(|_| format!("For input string: \"{trimmed}\""))
}

/// Java's `Long.parseLong` after `trim`.
///
/// # Errors   the exception's message.
pub fn parse_long(text: &str) -> Result<i64, String> {
    let trimmed = java_trim(text);
    trimmed.parse::<i64>().map_err(|_| format!("For input string: \"{trimmed}\""))
}

/// Java's `Double.parseDouble` after `trim`, without NaN and infinities, as ksqlDB's cast.
///
/// # Errors   the exception's message.
pub fn parse_double(text: &str) -> Result<f64, String> {
    let trimmed = java_trim(text);
    let number = trimmed.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(trimmed);
    let plausible =
        number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    match number.parse::<f64>() {
        Ok(value) if plausible && value.is_finite() => Ok(value),
        _ => Err(format!("For input string: \"{trimmed}\"")),
    }
}

/// ksqlDB's boolean words: any prefix of `true` or `yes`; any prefix of `false` or `no` (not `o`); null otherwise.
#[must_use]
pub fn parse_boolean_exact(text: &str) -> Option<bool> {
    let lower = java_trim(text).to_ascii_lowercase();
    if lower.is_empty() {
        return None;
    }
    if "true".starts_with(&lower) || "yes".starts_with(&lower) {
        Some(true)
    } else if "false".starts_with(&lower) || "no".starts_with(&lower) {
        Some(false)
    } else {
        None
    }
}

/// Java's `(int) double`: towards zero, saturating, NaN is 0.
#[must_use]
pub fn double_to_int(value: f64) -> i32 {
    value as i32
}

/// Java's `(long) double`.
#[must_use]
pub fn double_to_long(value: f64) -> i64 {
    value as i64
}

/// Java's `Math.round(double)`: half up, towards positive infinity.
#[must_use]
pub fn math_round(value: f64) -> i64 {
    let floor = value.floor();
    let up = value - floor >= 0.5;
    if up { (floor + 1.0) as i64 } else { floor as i64 }
}

/// 10^n for n ≤ 38.
#[must_use]
pub fn pow10(n: u32) -> Option<i128> {
    10_i128.checked_pow(n)
}

/// Number of decimal digits of `value` (Java's `BigDecimal.precision`; zero has 1).
#[must_use]
pub fn digits(value: i128) -> u32 {
    value.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1)
}

/// `numerator / denominator` rounded to an integer; `None` on zero division or a forbidden rounding.
#[must_use]
pub fn divide_rounded(numerator: i256, denominator: i256, rounding: Rounding) -> Option<i256> {
    let quotient = numerator.checked_div(denominator)?;
    let remainder = numerator.checked_rem(denominator)?;
    if remainder == i256::ZERO {
        return Some(quotient);
    }
    let negative = (numerator < i256::ZERO) != (denominator < i256::ZERO);
    let twice = remainder.wrapping_abs().checked_mul(i256::from_i128(2))?;
    let half = twice.cmp(&denominator.wrapping_abs());
    let away = match rounding {
        Rounding::HalfUp => half.is_ge(),
        Rounding::HalfDown => half.is_gt(),
        Rounding::Floor => negative,
        Rounding::Ceiling => !negative,
        Rounding::Down => false,
        Rounding::Unnecessary => return None,
    };
    let step = i256::from_i128(if negative { -1 } else { 1 });
    if away { quotient.checked_add(step) } else { Some(quotient) }
}

fn pow10_wide(n: u32) -> Option<i256> {
    i256::from_i128(10).checked_pow(n)
}

/// `unscaled · 10^-from` written with scale `to` (scales may be negative); `None` on overflow or forbidden rounding.
#[must_use]
pub fn rescale_wide(unscaled: i256, from: i32, to: i32, rounding: Rounding) -> Option<i256> {
    if to >= from {
        if unscaled == i256::ZERO {
            return Some(unscaled);
        }
        unscaled.checked_mul(pow10_wide(u32::try_from(to - from).ok()?)?)
    } else {
        let drop = u32::try_from(from - to).ok()?;
        match pow10_wide(drop) {
            Some(power) => divide_rounded(unscaled, power, rounding),
            // All digits go: the value is far below half a unit.
            None if unscaled == i256::ZERO => Some(unscaled),
            None => match rounding {
                Rounding::Unnecessary => None,
                Rounding::Floor if unscaled < i256::ZERO => Some(i256::from_i128(-1)),
                Rounding::Ceiling if unscaled > i256::ZERO => Some(i256::from_i128(1)),
                _ => Some(i256::ZERO),
            },
        }
    }
}

/// [`rescale_wide`] on 128 bits.
#[must_use]
pub fn rescale(unscaled: i128, from: u8, to: u8, rounding: Rounding) -> Option<i128> {
    if from == to {
        return Some(unscaled);
    }
    rescale_wide(i256::from_i128(unscaled), i32::from(from), i32::from(to), rounding)?.to_i128()
}

/// The value as the nearest double.
#[must_use]
pub fn decimal_to_double(unscaled: i128, scale: u8) -> f64 {
    if scale == 0 {
        return unscaled as f64;
    }
    if scale <= 22 && unscaled.unsigned_abs() < (1 << 53) {
        return unscaled as f64 / 10_f64.powi(i32::from(scale));
    }
    decimal_to_string(unscaled, scale).parse().unwrap_or(f64::NAN)
}

/// Java's `new BigDecimal(String)` after `trim`: unscaled value and scale (may be negative).
///
/// # Errors   not a number, or wider than 76 digits.
pub fn parse_decimal(text: &str) -> Result<(i256, i32), String> {
    let trimmed = java_trim(text);
    let bad = || format!("Character array is not a decimal number: \"{trimmed}\"");
    let (mantissa, exponent) = match trimmed.find(['e', 'E']) {
        Some(at) => (&trimmed[..at], trimmed[at + 1..].parse::<i32>().map_err(|_| bad())?),
        None => (trimmed, 0),
    };
    let (negative, mantissa) = match mantissa.as_bytes().first() {
        Some(b'-') => (true, &mantissa[1..]),
        Some(b'+') => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    {
        return Err(bad());
    }
    let ten = i256::from_i128(10);
    let mut unscaled = i256::ZERO;
    for byte in whole.bytes().chain(fraction.bytes()) {
        let digit = i256::from_i128(i128::from(byte - b'0'));
        unscaled = unscaled.checked_mul(ten).and_then(|value| value.checked_add(digit)).ok_or_else(bad)?;
    }
    if negative {
        unscaled = unscaled.wrapping_neg();
    }
    let scale =
        i32::try_from(fraction.len()).ok().and_then(|len| len.checked_sub(exponent)).ok_or_else(bad)?;
    Ok((unscaled, scale))
}

/// ksqlDB's decimal cast: fits `unscaled · 10^-from` into `DECIMAL(precision, scale)`, rounding as told.
///
/// # Errors   `Numeric field overflow…` if the whole part is too wide.
pub fn fit_decimal(
    unscaled: i256,
    from: i32,
    precision: u8,
    scale: u8,
    rounding: Rounding,
) -> Result<i128, String> {
    let whole_digits = u32::from(precision.saturating_sub(scale));
    // |value| < 10^whole_digits  <=>  |unscaled| < 10^(whole_digits + from)
    let limit = i64::from(whole_digits) + i64::from(from);
    let magnitude = unscaled.wrapping_abs();
    let too_wide = if limit < 0 {
        magnitude != i256::ZERO
    } else {
        u32::try_from(limit).ok().and_then(pow10_wide).is_some_and(|limit| magnitude >= limit)
    };
    let overflow = || {
        format!(
            "Numeric field overflow: A field with precision {precision} and scale {scale} must round to an absolute \
             value less than 10^{whole_digits}."
        )
    };
    if too_wide {
        return Err(overflow());
    }
    let result = rescale_wide(unscaled, from, i32::from(scale), rounding)
        .ok_or_else(|| "Rounding necessary".to_owned())?
        .to_i128()
        .ok_or_else(overflow)?;
    if digits(result) > u32::from(precision) && result != 0 { Err(overflow()) } else { Ok(result) }
}

/// ksqlDB's cast of a double: its exact binary value, rounded half up to `precision` digits, then to `scale`.
///
/// # Errors   not finite, or too wide.
pub fn double_to_decimal(value: f64, precision: u8, scale: u8) -> Result<i128, String> {
    if !value.is_finite() {
        return Err("Infinite or NaN".to_owned());
    }
    if value == 0.0 {
        return Ok(0);
    }
    let (mantissa, exponent) = binary_parts(value);
    let (mut unscaled, mut from) = if exponent >= 0 {
        (BigInt::from(mantissa) << exponent.unsigned_abs(), 0_i32)
    } else {
        (BigInt::from(mantissa) * BigInt::from(5).pow(exponent.unsigned_abs()), -exponent)
    };
    let length = i32::try_from(unscaled.to_string().trim_start_matches('-').len()).unwrap_or(i32::MAX);
    let drop = length - i32::from(precision);
    if drop > 0 {
        let power = BigInt::from(10).pow(drop.unsigned_abs());
        let half: BigInt = &power / 2;
        unscaled = match unscaled.sign() {
            Sign::Minus => -((-unscaled + half) / power),
            _ => (unscaled + half) / power,
        };
        from -= drop;
    }
    let wide = unscaled.to_string().parse::<i128>().map_err(|_| "Numeric field overflow".to_owned())?;
    fit_decimal(i256::from_i128(wide), from, precision, scale, Rounding::HalfUp)
}

/// Signed mantissa and binary exponent: `value = mantissa · 2^exponent`.
fn binary_parts(value: f64) -> (i64, i32) {
    let bits = value.to_bits();
    let raw_exponent = i32::try_from((bits >> 52) & 0x7ff).unwrap_or(0);
    let fraction = i64::try_from(bits & ((1 << 52) - 1)).unwrap_or(0);
    let (mantissa, exponent) =
        if raw_exponent == 0 { (fraction, -1074) } else { (fraction | (1 << 52), raw_exponent - 1075) };
    let shift = mantissa.trailing_zeros().min(63);
    let (mantissa, exponent) = (mantissa >> shift, exponent + i32::try_from(shift).unwrap_or(0));
    (if value.is_sign_negative() { -mantissa } else { mantissa }, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_print_as_java_prints_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (100.0, "100.0"),
            (1.0e7, "1.0E7"),
            (9_999_999.0, "9999999.0"),
            (12_345_678.9, "1.23456789E7"),
            (0.001, "0.001"),
            (0.000_999, "9.99E-4"),
            (1e-5, "1.0E-5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::MIN_POSITIVE, "2.2250738585072014E-308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (-12.5, "-12.5"),
            (0.049_787_068_367_863_944, "0.049787068367863944"),
        ] {
            assert_eq!(double_to_string(value), text);
        }
    }

    #[test]
    fn decimals_round_print_and_refuse_as_big_decimal_does() {
        assert_eq!(decimal_to_string(-5, 3), "-0.005");
        assert_eq!(decimal_to_string(1234, 2), "12.34");
        assert_eq!(rescale(-15, 1, 0, Rounding::HalfUp), Some(-2));
        assert_eq!(rescale(-15, 1, 0, Rounding::HalfDown), Some(-1));
        assert_eq!(rescale(-11, 1, 0, Rounding::Floor), Some(-2));
        assert_eq!(rescale(15, 1, 0, Rounding::Unnecessary), None);
        let (unscaled, scale) = parse_decimal(" 0.99 ").unwrap();
        assert_eq!(fit_decimal(unscaled, scale, 2, 1, Rounding::HalfUp), Ok(10));
        assert!(fit_decimal(i256::from_i128(10), 0, 2, 1, Rounding::HalfUp).is_err());
        assert_eq!(double_to_decimal(0.1, 4, 2), Ok(10));
        assert_eq!(double_to_decimal(-2.71759, 6, 3), Ok(-2718));
        assert_eq!(double_to_decimal(1e10, 38, 5), Ok(1_000_000_000_000_000));
        assert!(parse_decimal("1.2.3").is_err());
        assert_eq!(parse_decimal("1.5E2").unwrap(), (i256::from_i128(15), -1));
    }

    #[test]
    fn texts_parse_as_java_parses_them() {
        assert_eq!(parse_int(" +12\t"), Ok(12));
        assert!(parse_int("1.0").is_err());
        assert!(parse_long("9223372036854775808").is_err());
        assert_eq!(parse_double("1e3d"), Ok(1000.0));
        assert!(parse_double("NaN").is_err() && parse_double("inf").is_err());
        assert_eq!(parse_boolean_exact("Y"), Some(true));
        assert_eq!(parse_boolean_exact("fal"), Some(false));
        assert_eq!(parse_boolean_exact("maybe"), None);
        assert_eq!((math_round(1.5), math_round(-1.5), math_round(-1.7)), (2, -1, -2));
        assert_eq!((double_to_int(1e20), double_to_long(f64::NAN)), (i32::MAX, 0));
    }
}
