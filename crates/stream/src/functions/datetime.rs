//! Dates, times, timestamps and their texts.

use std::cell::RefCell;
use std::collections::HashMap;

use jiff::tz::TimeZone;

use super::RowCall;
use super::args::{Outcome, long, string, text};
use super::catalog::{Def, row, strict};
use super::pattern::{self, Pattern};
use crate::eval::time::DAY_MS;
use crate::expr::Value;

#[rustfmt::skip]
pub(crate) const DEFS: &[Def] = &[
    Def { name: "CONVERT_TZ", about: "A timestamp moved from one time zone to another.", overloads: &[strict("timestamp TIMESTAMP, fromTz STRING, toTz STRING -> TIMESTAMP", convert_tz)] },
    Def { name: "DATEADD", about: "A date some units later.", overloads: &[strict("unit STRING, interval INTEGER, date DATE -> DATE", |_, a| add_date(a, 1))] },
    Def { name: "DATESUB", about: "A date some units earlier.", overloads: &[strict("unit STRING, interval INTEGER, date DATE -> DATE", |_, a| add_date(a, -1))] },
    Def { name: "TIMEADD", about: "A time some units later, around midnight.", overloads: &[strict("unit STRING, interval INTEGER, time TIME -> TIME", |_, a| add_time(a, 1))] },
    Def { name: "TIMESUB", about: "A time some units earlier, around midnight.", overloads: &[strict("unit STRING, interval INTEGER, time TIME -> TIME", |_, a| add_time(a, -1))] },
    Def { name: "TIMESTAMPADD", about: "A timestamp some units later.", overloads: &[strict("unit STRING, interval INTEGER, timestamp TIMESTAMP -> TIMESTAMP", |_, a| add_timestamp(a, 1))] },
    Def { name: "TIMESTAMPSUB", about: "A timestamp some units earlier.", overloads: &[strict("unit STRING, interval INTEGER, timestamp TIMESTAMP -> TIMESTAMP", |_, a| add_timestamp(a, -1))] },
    Def { name: "DATETOSTRING", about: "Days since 1970 as text.", overloads: &[strict("epochDays INTEGER, formatPattern STRING -> STRING", format_days)] },
    Def { name: "FORMAT_DATE", about: "A date as text.", overloads: &[strict("date DATE, formatPattern STRING -> STRING", format_days)] },
    Def { name: "FORMAT_TIME", about: "A time as text.", overloads: &[strict("time TIME, formatPattern STRING -> STRING", format_ms)] },
    Def { name: "FORMAT_TIMESTAMP", about: "A timestamp as text.", overloads: &[strict("timestamp TIMESTAMP, formatPattern STRING -> STRING", format_ms), strict("timestamp TIMESTAMP, formatPattern STRING, timeZone STRING -> STRING", format_ms)] },
    Def { name: "TIMESTAMPTOSTRING", about: "Milliseconds since 1970 as text.", overloads: &[strict("epochMilli BIGINT, formatPattern STRING -> STRING", format_ms), strict("epochMilli BIGINT, formatPattern STRING, timeZone STRING -> STRING", format_ms)] },
    Def { name: "FROM_DAYS", about: "A date from days since 1970.", overloads: &[strict("days INTEGER -> DATE", |_, a| Ok(Value::Date(small(long(&a[0])?)?)))] },
    Def { name: "FROM_UNIXTIME", about: "A timestamp from milliseconds since 1970.", overloads: &[strict("epochMilli BIGINT -> TIMESTAMP", |_, a| Ok(Value::Timestamp(long(&a[0])?)))] },
    Def { name: "PARSE_DATE", about: "A date from text.", overloads: &[strict("formattedDate STRING, formatPattern STRING -> DATE", |_, a| Ok(Value::Date(with_pattern(text(&a[1])?, |p| p.parse_date(text(&a[0])?))?)))] },
    Def { name: "PARSE_TIME", about: "A time from text.", overloads: &[strict("formattedTime STRING, formatPattern STRING -> TIME", |_, a| Ok(Value::Time(with_pattern(text(&a[1])?, |p| p.parse_time(text(&a[0])?))?)))] },
    Def { name: "PARSE_TIMESTAMP", about: "A timestamp from text.", overloads: &[strict("formattedTimestamp STRING, formatPattern STRING -> TIMESTAMP", |_, a| Ok(Value::Timestamp(parse_ms(a)?))), strict("formattedTimestamp STRING, formatPattern STRING, timeZone STRING -> TIMESTAMP", |_, a| Ok(Value::Timestamp(parse_ms(a)?)))] },
    Def { name: "STRINGTODATE", about: "Days since 1970 from text.", overloads: &[strict("formattedDate STRING, formatPattern STRING -> INTEGER", |_, a| Ok(Value::Integer(with_pattern(text(&a[1])?, |p| p.parse_date(text(&a[0])?))?)))] },
    Def { name: "STRINGTOTIMESTAMP", about: "Milliseconds since 1970 from text.", overloads: &[strict("formattedTimestamp STRING, formatPattern STRING -> BIGINT", |_, a| Ok(Value::BigInt(parse_ms(a)?))), strict("formattedTimestamp STRING, formatPattern STRING, timeZone STRING -> BIGINT", |_, a| Ok(Value::BigInt(parse_ms(a)?)))] },
    Def { name: "UNIX_DATE", about: "Days since 1970 of today or of a date.", overloads: &[row(" -> INTEGER", |c, _| Ok(Value::Integer(small(c.now_ms.div_euclid(DAY_MS))?))), strict("date DATE -> INTEGER", |_, a| Ok(Value::Integer(small(long(&a[0])?)?)))] },
    Def { name: "UNIX_TIMESTAMP", about: "Milliseconds since 1970 of now or of a timestamp.", overloads: &[row(" -> BIGINT", |c, _| Ok(Value::BigInt(c.now_ms))), strict("timestamp TIMESTAMP -> BIGINT", |_, a| Ok(Value::BigInt(long(&a[0])?)))] },
];

fn small(value: i64) -> Result<i32, String> {
    i32::try_from(value).map_err(|_| "integer overflow".to_owned())
}

/// The compiled pattern; the last few are kept per thread.
fn with_pattern<T>(source: &str, use_it: impl FnOnce(&Pattern) -> Result<T, String>) -> Result<T, String> {
    thread_local! {
        static CACHE: RefCell<HashMap<String, Pattern>> = RefCell::new(HashMap::new());
    }
    CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        if let Some(pattern) = cache.get(source) {
            return use_it(pattern);
        }
        let pattern = Pattern::new(source)?;
        if cache.len() >= 64 {
            cache.clear();
        }
        use_it(cache.entry(source.to_owned()).or_insert(pattern))
    })
}

fn zone_of(args: &[Value]) -> Result<TimeZone, String> {
    args.get(2).map_or(Ok(TimeZone::UTC), |name| pattern::zone(text(name)?))
}

fn parse_ms(args: &[Value]) -> Result<i64, String> {
    let zone = zone_of(args)?;
    with_pattern(text(&args[1])?, |pattern| pattern.parse_timestamp(text(&args[0])?, &zone))
}

fn format_ms(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (ms, zone) = (long(&args[0])?, zone_of(args)?);
    string(with_pattern(text(&args[1])?, |pattern| pattern.format(ms, &zone))?)
}

fn format_days(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let ms = long(&args[0])?.checked_mul(DAY_MS).ok_or("date out of range")?;
    string(with_pattern(text(&args[1])?, |pattern| pattern.format(ms, &TimeZone::UTC))?)
}

fn convert_tz(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (from, to) = (pattern::zone(text(&args[1])?)?, pattern::zone(text(&args[2])?)?);
    let ms = long(&args[0])?;
    let at = |ms: i64| jiff::Timestamp::from_millisecond(ms).map_err(|error| error.to_string());
    // The same instant, read on the other zone's clock: the difference of both offsets.
    let utc = at(ms)?;
    let shift = i64::from(to.to_offset(utc).seconds()) - i64::from(from.to_offset(utc).seconds());
    Ok(Value::Timestamp(ms + shift * 1000))
}

fn unit_ms(unit: &str) -> Result<i64, String> {
    Ok(match unit.to_ascii_uppercase().trim_end_matches('S') {
        "DAY" => DAY_MS,
        "HOUR" => 3_600_000,
        "MINUTE" => 60_000,
        "SECOND" => 1000,
        "MILLISECOND" => 1,
        other => return Err(format!("Unknown time unit: {other}")),
    })
}

fn shift(args: &[Value], sign: i64) -> Result<i64, String> {
    long(&args[1])?.checked_mul(unit_ms(text(&args[0])?)? * sign).ok_or_else(|| "overflow".to_owned())
}

fn add_date(args: &[Value], sign: i64) -> Outcome {
    let ms = (long(&args[2])? * DAY_MS).checked_add(shift(args, sign)?).ok_or("overflow")?;
    Ok(Value::Date(small(ms.div_euclid(DAY_MS))?))
}

fn add_time(args: &[Value], sign: i64) -> Outcome {
    let ms = long(&args[2])?.checked_add(shift(args, sign)?).ok_or("overflow")?;
    Ok(Value::Time(small(ms.rem_euclid(DAY_MS))?))
}

fn add_timestamp(args: &[Value], sign: i64) -> Outcome {
    Ok(Value::Timestamp(long(&args[2])?.checked_add(shift(args, sign)?).ok_or("overflow")?))
}

/// Reads a text with a pattern, for the runtime's timestamp columns (`TIMESTAMP_FORMAT`).
///
/// # Errors   the reason, for the processing log.
pub fn parse_timestamp_with(source: &str, value: &str) -> Result<i64, String> {
    with_pattern(source, |pattern| pattern.parse_timestamp(value, &TimeZone::UTC))
}

/// Prints milliseconds since the epoch with a pattern (a sink's STRING timestamp column).
///
/// # Errors   a pattern that Java would refuse.
pub fn format_timestamp_with(source: &str, ms: i64) -> Result<String, String> {
    with_pattern(source, |pattern| pattern.format(ms, &TimeZone::UTC))
}

/// Checks a pattern, for CREATE … WITH (TIMESTAMP_FORMAT=…).
///
/// # Errors   why Java would refuse it.
pub fn check_pattern(source: &str) -> Result<(), String> {
    Pattern::new(source).map(drop)
}
