//! Dates in strings, where ROWTIME, WINDOWSTART or WINDOWEND is compared with one: `ROWTIME >= '2020-01-01T10:00'`.

use herdsman_stream::SqlType;
use herdsman_stream::expr::{Expr, Value};

use crate::ast::{self, ExprKind};
use crate::diagnostic::SqlError;

/// If `other` is a system time column and `side` a string literal, the literal as milliseconds since the epoch.
pub(crate) fn magic(other: &ast::Expr, side: Expr) -> Result<Expr, SqlError> {
    let system = matches!(&other.kind, ExprKind::Column { name, .. } if is_time_column(name));
    match (&side, system) {
        (Expr::Literal { value: Value::String(text), .. }, true) => {
            let ms = partial_timestamp(text)?;
            Ok(Expr::Literal { value: Value::BigInt(ms), ty: SqlType::BigInt })
        }
        _ => Ok(side),
    }
}

pub(crate) fn is_time_column(name: &str) -> bool {
    matches!(name, "ROWTIME" | "WINDOWSTART" | "WINDOWEND")
}

/// `2020[-01[-02[T03:04[:05[.678]]]]][zone]`, UTC unless a zone such as `Z`, `+0100` or `[Europe/Paris]` follows.
pub(crate) fn partial_timestamp(text: &str) -> Result<i64, SqlError> {
    parse(text).ok_or_else(|| {
        SqlError::statement(format!(
            "Failed to parse timestamp '{text}': Required format is: \"yyyy-MM-dd'T'HH:mm:ss.SSS\", with an optional numeric '+HHMM' or [<tz>] timezone. Partials are also supported, for example \"2020-05-26\""
        ))
    })
}

fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, ""));
    let zone_at = time.find(['+', '-', 'Z', '[']);
    let (time, zone) = zone_at.map_or((time, ""), |at| time.split_at(at));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i16>().ok());
    let year = parts.next()??;
    let month = parts.next().unwrap_or(Some(1))?;
    let day = parts.next().unwrap_or(Some(1))?;
    let mut clock = time.splitn(3, ':').filter(|part| !part.is_empty());
    let hour: i8 = clock.next().map_or(Some(0), |part| part.parse().ok())?;
    let minute: i8 = clock.next().map_or(Some(0), |part| part.parse().ok())?;
    let (second, fraction) =
        clock.next().map_or(("0", ""), |part| part.split_once('.').unwrap_or((part, "")));
    let second: i8 = second.parse().ok()?;
    let millis: i64 =
        if fraction.is_empty() { 0 } else { format!("{fraction:0<3}").get(..3)?.parse().ok()? };
    // 24:00 is the end of the day.
    let (hour, next_day_ms) = if hour == 24 { (0, 86_400_000) } else { (hour, 0) };
    let date = jiff::civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let at = date.to_datetime(jiff::civil::Time::new(hour, minute, second, 0).ok()?);
    let zoned = at.to_zoned(time_zone(zone)?).ok()?;
    Some(zoned.timestamp().as_millisecond() + millis + next_day_ms)
}

fn time_zone(zone: &str) -> Option<jiff::tz::TimeZone> {
    match zone {
        "" | "Z" => Some(jiff::tz::TimeZone::UTC),
        _ if zone.starts_with('[') => jiff::tz::TimeZone::get(zone.trim_matches(['[', ']'])).ok(),
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let digits: String = zone.chars().filter(char::is_ascii_digit).collect();
            let hours: i32 = digits.get(..2)?.parse().ok()?;
            let minutes: i32 = digits.get(2..4).map_or(Some(0), |part| part.parse().ok())?;
            let offset = jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()?;
            Some(jiff::tz::TimeZone::fixed(offset))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_timestamps_are_utc_unless_they_say_otherwise() {
        for (text, ms) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:01.5", 1_500),
            ("2020", 1_577_836_800_000),
            ("1970-01-01T01:00:00+0100", 0),
            ("1970-01-01 00:00", 0),
        ] {
            assert_eq!(partial_timestamp(text).unwrap(), ms, "{text}");
        }
        assert!(partial_timestamp("yesterday").is_err());
    }
}
