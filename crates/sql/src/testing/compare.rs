//! The judge: does an actual value meet the expected JSON, by ksqlDB's own rules?

use serde_json::{Number, Value as Json};

use super::bytes::Actual;

/// How numbers are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// `use.exact.numeric.comparison`
    pub exact: bool,
}

/// Whether `actual` meets `expected`.
pub(crate) fn meets(expected: &Json, actual: &Actual, rules: Rules) -> bool {
    match actual {
        Actual::Json(actual) => json(expected, actual, rules),
        Actual::Double(actual) => expected.as_f64().is_some_and(|expected| (expected - actual).abs() < 1e-6),
        Actual::Text(actual) => match expected {
            Json::String(expected) => expected == actual,
            Json::Null => false,
            Json::Number(expected) => expected.to_string().as_str() == actual.as_str(),
            _ => false,
        },
    }
}

fn json(expected: &Json, actual: &Json, rules: Rules) -> bool {
    match (expected, actual) {
        (Json::Null, actual) => actual.is_null(),
        (Json::Bool(expected), Json::Bool(actual)) => expected == actual,
        (Json::String(expected), Json::String(actual)) => expected == actual,
        (Json::String(expected), Json::Number(actual)) => {
            Decimal::parse(expected).is_some_and(|expected| Some(expected) == Decimal::of(actual))
        }
        (Json::Number(expected), Json::Number(actual)) => number(expected, actual, rules),
        (Json::Array(expected), Json::Array(actual)) => {
            expected.len() == actual.len() && expected.iter().zip(actual).all(|(e, a)| json(e, a, rules))
        }
        (Json::Object(expected), Json::Object(actual)) => {
            expected.len() == actual.len()
                && expected.iter().all(|(name, expected)| {
                    let found = actual.get(name).or_else(|| actual.get(&name.to_uppercase()));
                    found.is_some_and(|actual| json(expected, actual, rules))
                })
        }
        _ => false,
    }
}

fn number(expected: &Number, actual: &Number, rules: Rules) -> bool {
    let (Some(wanted), Some(found)) = (Decimal::of(expected), Decimal::of(actual)) else { return false };
    let integral = |number: &Number| !number.to_string().contains(['.', 'e', 'E']);
    if integral(actual) {
        return found.digits.parse::<i64>().is_ok() && wanted.truncated() == found.truncated();
    }
    if !rules.exact {
        return expected.as_f64() == actual.as_f64();
    }
    if integral(expected) {
        return found.scale <= 0 && wanted.truncated() == found.truncated();
    }
    wanted == found
}

/// A decimal number with its scale: `1.10` is not `1.1`.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    /// Unscaled digits without leading zeros (one zero stays).
    digits: String,
    scale: i64,
}

impl Decimal {
    fn of(number: &Number) -> Option<Self> {
        Self::parse(&number.to_string())
    }

    fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
        let negative = mantissa.starts_with('-');
        let (whole, fraction) = mantissa
            .trim_start_matches(['-', '+'])
            .split_once('.')
            .unwrap_or((mantissa.trim_start_matches(['-', '+']), ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = all.trim_start_matches('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        let scale = i64::try_from(fraction.len()).ok()? - exponent;
        Some(Self { negative: negative && digits != "0", digits: digits.to_owned(), scale })
    }

    /// The whole part, as text.
    fn truncated(&self) -> String {
        let digits = match self.scale {
            0 => self.digits.clone(),
            scale if scale < 0 => {
                format!("{}{}", self.digits, "0".repeat(usize::try_from(-scale).unwrap_or(0).min(400)))
            }
            scale => {
                let keep = self.digits.len().saturating_sub(usize::try_from(scale).unwrap_or(usize::MAX));
                self.digits.get(..keep).unwrap_or_default().to_owned()
            }
        };
        let digits = digits.trim_start_matches('0');
        match (digits, self.negative) {
            ("", _) => "0".to_owned(),
            (digits, true) => format!("-{digits}"),
            (digits, false) => digits.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: &str, actual: &str) -> bool {
        let parse = |text: &str| serde_json::from_str(text).unwrap();
        meets(&parse(expected), &Actual::Json(parse(actual)), Rules { exact: true })
    }

    #[test]
    fn scales_count_and_integers_truncate() {
        assert!(check("1.9", "1"));
        assert!(check("{\"a\": 1}", "{\"A\": 1}"));
        assert!(check("\"1.10\"", "1.10"));
        assert!(check("1.0E10", "1.0E10"));
        assert!(check("10", "1E+1"));
        for (expected, actual) in [
            ("1.10", "1.1"),
            ("1", "1.0"),
            ("{}", "{\"a\":null}"),
            ("[1,2]", "[2,1]"),
            ("null", "0"),
            ("1", "\"1\""),
        ] {
            assert!(!check(expected, actual), "{expected} {actual}");
        }
    }
}
