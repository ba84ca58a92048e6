//! Numbers: absolute values, rounding, logarithms, trigonometry, extremes, random numbers.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};

use arrow::datatypes::i256;

use super::RowCall;
use super::args::{Outcome, double, long};
use super::catalog::{Def, Overload, doubles, row, strict};
use super::{Kernel, typing};
use crate::SqlType;
use crate::eval::compare_values;
use crate::expr::Value;
use crate::numbers::{self, Rounding};

macro_rules! doubles {
    ($name:literal, $about:literal, $compute:expr) => {
        Def {
            name: $name,
            about: $about,
            overloads: &[
                strict("value INTEGER -> DOUBLE", |_, args| Ok(Value::Double($compute(double(&args[0])?)))),
                strict("value BIGINT -> DOUBLE", |_, args| Ok(Value::Double($compute(double(&args[0])?)))),
                doubles("value DOUBLE -> DOUBLE", $compute),
            ],
        }
    };
}

macro_rules! double_pairs {
    ($name:literal, $about:literal, $compute:expr) => {
        Def {
            name: $name,
            about: $about,
            overloads: &[
                strict("a INTEGER, b INTEGER -> DOUBLE", |_, args| {
                    Ok(Value::Double($compute(double(&args[0])?, double(&args[1])?)))
                }),
                strict("a BIGINT, b BIGINT -> DOUBLE", |_, args| {
                    Ok(Value::Double($compute(double(&args[0])?, double(&args[1])?)))
                }),
                strict("a DOUBLE, b DOUBLE -> DOUBLE", |_, args| {
                    Ok(Value::Double($compute(double(&args[0])?, double(&args[1])?)))
                }),
            ],
        }
    };
}

macro_rules! extremes {
    ($name:literal, $about:literal, $kernel:ident) => {
        Def {
            name: $name,
            about: $about,
            overloads: &[
                row("val INTEGER, vals INTEGER... -> INTEGER", $kernel),
                row("val BIGINT, vals BIGINT... -> BIGINT", $kernel),
                row("val DOUBLE, vals DOUBLE... -> DOUBLE", $kernel),
                row("val STRING, vals STRING... -> STRING", $kernel),
                Overload::ruled("val DECIMAL, vals DECIMAL... -> DECIMAL", widest, Kernel::Row($kernel)),
                row("val BYTES, vals BYTES... -> BYTES", $kernel),
                row("val DATE, vals DATE... -> DATE", $kernel),
                row("val TIME, vals TIME... -> TIME", $kernel),
                row("val TIMESTAMP, vals TIMESTAMP... -> TIMESTAMP", $kernel),
            ],
        }
    };
}

macro_rules! same_type {
    ($name:literal, $about:literal, $kernel:ident, $double:expr) => {
        Def {
            name: $name,
            about: $about,
            overloads: &[
                strict("val INTEGER -> INTEGER", $kernel),
                strict("val BIGINT -> BIGINT", $kernel),
                doubles("val DOUBLE -> DOUBLE", $double),
                strict("val DECIMAL -> DECIMAL", $kernel),
            ],
        }
    };
}

macro_rules! rounding {
    ($name:literal, $about:literal, $whole:ident, $places:ident) => {
        Def {
            name: $name,
            about: $about,
            overloads: &[
                strict("val INTEGER -> BIGINT", |_, args| Ok(Value::BigInt(long(&args[0])?))),
                strict("val BIGINT -> BIGINT", |_, args| Ok(Value::BigInt(long(&args[0])?))),
                strict("val DOUBLE -> BIGINT", $whole),
                strict("val DOUBLE, decimalPlaces INTEGER -> DOUBLE", $places),
                Overload::ruled("val DECIMAL -> DECIMAL", whole_decimal, Kernel::Strict($places)),
                strict("val DECIMAL, decimalPlaces INTEGER -> DECIMAL", $places),
            ],
        }
    };
}

pub(crate) const DEFS: &[Def] = &[
    same_type!("ABS", "The absolute value.", abs, f64::abs),
    same_type!("CEIL", "The smallest whole number that is not less.", ceil, f64::ceil),
    same_type!("FLOOR", "The largest whole number that is not greater.", floor, f64::floor),
    doubles!("ACOS", "The arc cosine.", f64::acos),
    doubles!("ASIN", "The arc sine.", f64::asin),
    doubles!("ATAN", "The arc tangent.", f64::atan),
    doubles!("CBRT", "The cube root.", f64::cbrt),
    doubles!("COS", "The cosine.", f64::cos),
    doubles!("COSH", "The hyperbolic cosine.", f64::cosh),
    doubles!("COT", "The cotangent.", |x: f64| 1.0 / x.tan()),
    doubles!("DEGREES", "Radians as degrees.", |x: f64| x * (180.0 / std::f64::consts::PI)),
    doubles!("EXP", "e to the power of the value.", f64::exp),
    doubles!("LN", "The natural logarithm.", f64::ln),
    doubles!("RADIANS", "Degrees as radians.", |x: f64| x * (std::f64::consts::PI / 180.0)),
    doubles!("SIN", "The sine.", f64::sin),
    doubles!("SINH", "The hyperbolic sine.", f64::sinh),
    doubles!("SQRT", "The square root.", f64::sqrt),
    doubles!("TAN", "The tangent.", f64::tan),
    doubles!("TANH", "The hyperbolic tangent.", f64::tanh),
    double_pairs!("ATAN2", "The angle of the point (b, a).", f64::atan2),
    double_pairs!("POWER", "a to the power of b.", f64::powf),
    Def {
        name: "LOG",
        about: "The natural logarithm, or the logarithm to a base.",
        overloads: &[
            strict("value INTEGER -> DOUBLE", |_, args| Ok(Value::Double(double(&args[0])?.ln()))),
            strict("value BIGINT -> DOUBLE", |_, args| Ok(Value::Double(double(&args[0])?.ln()))),
            strict("value DOUBLE -> DOUBLE", |_, args| Ok(Value::Double(double(&args[0])?.ln()))),
            strict("base INTEGER, value INTEGER -> DOUBLE", log),
            strict("base BIGINT, value BIGINT -> DOUBLE", log),
            strict("base DOUBLE, value DOUBLE -> DOUBLE", log),
        ],
    },
    Def {
        name: "SIGN",
        about: "-1, 0 or 1.",
        overloads: &[
            strict("value INTEGER -> INTEGER", sign),
            strict("value BIGINT -> INTEGER", sign),
            strict("value DOUBLE -> INTEGER", sign),
        ],
    },
    rounding!("ROUND", "Rounds to a number of decimal places, halves up.", round_whole, round),
    rounding!("TRUNC", "Cuts off after a number of decimal places.", trunc_whole, trunc),
    extremes!("GREATEST", "The greatest of the values that are not null.", greatest),
    extremes!("LEAST", "The least of the values that are not null.", least),
    Def {
        name: "PI",
        about: "The number π.",
        overloads: &[row(" -> DOUBLE", |_, _| Ok(Value::Double(std::f64::consts::PI)))],
    },
    Def {
        name: "RANDOM",
        about: "A random number from 0.0 up to 1.0.",
        overloads: &[row(" -> DOUBLE", |_, _| {
            Ok(Value::Double((random() >> 11) as f64 / (1_u64 << 53) as f64))
        })],
    },
    Def {
        name: "GEO_DISTANCE",
        about: "Great-circle distance of two points in KM (default) or MI.",
        overloads: &[
            strict("lat1 DOUBLE, lon1 DOUBLE, lat2 DOUBLE, lon2 DOUBLE -> DOUBLE", geo_distance),
            strict(
                "lat1 DOUBLE, lon1 DOUBLE, lat2 DOUBLE, lon2 DOUBLE, units STRING -> DOUBLE",
                geo_distance,
            ),
        ],
    },
];

/// 64 random bits (SplitMix64, seeded once per thread by the operating system through `RandomState`).
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(std::collections::hash_map::RandomState::new().build_hasher().finish());
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

fn widest(args: &[SqlType]) -> SqlType {
    let decimals = args.iter().filter_map(typing::as_decimal);
    decimals
        .map(|(precision, scale)| SqlType::Decimal { precision, scale })
        .reduce(|a, b| match (typing::as_decimal(&a), typing::as_decimal(&b)) {
            (Some(a), Some(b)) => typing::widen_decimals(a, b),
            _ => a,
        })
        .unwrap_or(SqlType::Decimal { precision: typing::MAX_PRECISION, scale: 0 })
}

/// `DECIMAL(p, s)` without its places: `DECIMAL(p - s, 0)`.
fn whole_decimal(args: &[SqlType]) -> SqlType {
    match args.first().and_then(typing::as_decimal) {
        Some((precision, scale)) => SqlType::Decimal { precision: (precision - scale).max(1), scale: 0 },
        None => SqlType::BigInt,
    }
}

fn abs(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(match &args[0] {
        Value::Integer(value) => Value::Integer(value.wrapping_abs()),
        Value::BigInt(value) => Value::BigInt(value.wrapping_abs()),
        Value::Decimal(unscaled, precision, scale) => Value::Decimal(unscaled.abs(), *precision, *scale),
        other => Value::Double(double(other)?.abs()),
    })
}

fn to_whole(value: &Value, rounding: Rounding, of_double: fn(f64) -> f64) -> Outcome {
    Ok(match value {
        Value::Decimal(unscaled, precision, scale) => {
            let whole = numbers::rescale(*unscaled, *scale, 0, rounding).ok_or("overflow")?;
            let back = numbers::rescale(whole, 0, *scale, rounding).ok_or("overflow")?;
            Value::Decimal(back, *precision, *scale)
        }
        Value::Double(value) => Value::Double(of_double(*value)),
        other => other.clone(),
    })
}

fn ceil(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    to_whole(&args[0], Rounding::Ceiling, f64::ceil)
}

fn floor(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    to_whole(&args[0], Rounding::Floor, f64::floor)
}

fn log(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (base, value) = (double(&args[0])?, double(&args[1])?);
    let bad = base <= 0.0 || base == 1.0 || value <= 0.0;
    Ok(Value::Double(if bad { f64::NAN } else { value.ln() / base.ln() }))
}

fn sign(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let value = double(&args[0])?;
    Ok(Value::Integer(if value > 0.0 { 1 } else { -i32::from(value < 0.0) }))
}

fn round_whole(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(Value::BigInt(numbers::math_round(double(&args[0])?)))
}

fn trunc_whole(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(Value::BigInt(numbers::double_to_long(double(&args[0])?)))
}

fn round(call: &RowCall<'_>, args: &[Value]) -> Outcome {
    let negative = compare_values(&args[0], &Value::Integer(0)).is_ok_and(std::cmp::Ordering::is_le);
    places(call, args, if negative { Rounding::HalfDown } else { Rounding::HalfUp })
}

fn trunc(call: &RowCall<'_>, args: &[Value]) -> Outcome {
    places(call, args, Rounding::Down)
}

/// Rounds a double or decimal to `args[1]` (default 0) places, which may be negative.
fn places(call: &RowCall<'_>, args: &[Value], rounding: Rounding) -> Outcome {
    const OVERFLOW: &str = "Numeric field overflow";
    let places = args.get(1).map_or(Ok(0), long)?;
    let places = i32::try_from(places.clamp(-400, 400)).unwrap_or(0);
    match &args[0] {
        Value::Decimal(unscaled, _, scale) => {
            let rounded =
                numbers::rescale_wide(i256::from_i128(*unscaled), i32::from(*scale), places, rounding)
                    .ok_or(OVERFLOW)?;
            let SqlType::Decimal { precision, scale } = call.function.return_type else {
                return Err("a DECIMAL result expected".to_owned());
            };
            Ok(Value::Decimal(
                numbers::fit_decimal(rounded, places, precision, scale, rounding)?,
                precision,
                scale,
            ))
        }
        other => {
            let value = double(other)?;
            if !value.is_finite() {
                return Err("Infinite or NaN".to_owned());
            }
            let (unscaled, scale) = numbers::parse_decimal(&numbers::double_to_string(value))?;
            if places >= scale {
                return Ok(Value::Double(value));
            }
            let rounded = numbers::rescale_wide(unscaled, scale, places, rounding).ok_or(OVERFLOW)?;
            let text = format!("{rounded}E{}", -places);
            Ok(Value::Double(text.parse::<f64>().map_err(|error| error.to_string())? + 0.0))
        }
    }
}

fn extreme(args: &[Value], wanted: std::cmp::Ordering) -> Outcome {
    let mut best = &Value::Null;
    for value in args.iter().filter(|value| **value != Value::Null) {
        if *best == Value::Null || compare_values(value, best)? == wanted {
            best = value;
        }
    }
    Ok(best.clone())
}

fn greatest(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    extreme(args, std::cmp::Ordering::Greater)
}

fn least(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    extreme(args, std::cmp::Ordering::Less)
}

/// Haversine formula with ksqlDB's mean earth radius.
fn geo_distance(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let unit = args.get(4).map_or(Ok("KM"), super::args::text)?.to_ascii_uppercase();
    let radius = match unit.as_str() {
        "KM" | "KILOMETER" | "KILOMETERS" | "KILOMETRE" | "KILOMETRES" => 6371.0,
        "MI" | "MILE" | "MILES" => 3959.0,
        other => {
            return Err(format!(
                "GeoDistance function units parameter must be one of KM or MI, not '{other}'"
            ));
        }
    };
    let point = |lat: &Value, lon: &Value| -> Result<(f64, f64), String> {
        let (lat, lon) = (double(lat)?, double(lon)?);
        if !(-90.0..=90.0).contains(&lat) || !(-180.0..=180.0).contains(&lon) {
            return Err(format!(
                "valid latitude values for GeoDistance function are in the range of -90 to 90, and \
                                longitude values are in the range of -180 to +180, got ({lat}, {lon})"
            ));
        }
        Ok((lat.to_radians(), lon.to_radians()))
    };
    let (lat1, lon1) = point(&args[0], &args[1])?;
    let (lat2, lon2) = point(&args[2], &args[3])?;
    let half =
        ((lat2 - lat1) / 2.0).sin().powi(2) + ((lon2 - lon1) / 2.0).sin().powi(2) * lat1.cos() * lat2.cos();
    Ok(Value::Double(radius * 2.0 * half.sqrt().asin()))
}
