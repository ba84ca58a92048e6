//! Dates in simple: `${date:now:yyyy-MM-dd}`, offsets (`date:now-24h`), headers, time zones; patterns as Java's.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::yaml::parse_millis;

/// A compiled date function.
#[derive(Debug, Clone)]
pub(crate) struct Date {
    /// Where the moment comes from.
    pub source: Source,
    offset_ms: i64,
    zone: TimeZone,
    pattern: Option<String>,
}

/// Where a moment comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Now,
    Header(String),
    Property(String),
    MessageTimestamp,
}

const JAVA_DEFAULT: &str = "EEE MMM dd HH:mm:ss zzz yyyy";

impl Date {
    /// Parses what stands after `date:` (or `date-with-timezone:` when `zoned`).
    pub fn parse(text: &str, zoned: bool) -> Result<Self, String> {
        let (command, rest) = match text.split_once(':') {
            Some((command, rest)) => (command.trim(), Some(rest)),
            None => (text.trim(), None),
        };
        let (zone, pattern) = match rest {
            Some(rest) if zoned => {
                let (name, pattern) =
                    rest.split_once(':').ok_or("date-with-timezone needs a zone and a pattern")?;
                let zone = match name {
                    "UTC" | "GMT" | "Z" => TimeZone::UTC,
                    name => TimeZone::get(name)
                        .map_err(|_| format!("no time zone {name}: use one like Europe/Oslo"))?,
                };
                (zone, Some(pattern.to_owned()))
            }
            rest => (TimeZone::UTC, rest.map(str::to_owned)),
        };
        let (name, offset_ms) = split_offset(command)?;
        let source = match name {
            "now" | "millis" => Source::Now,
            "exchangeCreated" | "header.CamelMessageTimestamp" => Source::MessageTimestamp,
            other => match (other.strip_prefix("header."), other.strip_prefix("exchangeProperty.")) {
                (Some(header), _) => Source::Header(header.to_owned()),
                (_, Some(property)) => Source::Property(property.to_owned()),
                _ => {
                    return Err(format!(
                        "date:{other} is unknown: use date:now, date:header.NAME or date:exchangeProperty.NAME"
                    ));
                }
            },
        };
        if let Some(pattern) = &pattern {
            format(0, &zone, pattern)?;
        }
        let millis = name == "millis";
        Ok(Self { source, offset_ms, zone, pattern: if millis { Some(String::new()) } else { pattern } })
    }

    /// The text for the moment `at_ms` (ms since the Unix epoch).
    pub fn text(&self, at_ms: i64) -> Result<Value, String> {
        let at_ms = at_ms.saturating_add(self.offset_ms);
        match self.pattern.as_deref() {
            Some("") => Ok(Value::from(at_ms)),
            pattern => format(at_ms, &self.zone, pattern.unwrap_or(JAVA_DEFAULT)).map(Value::from),
        }
    }
}

fn split_offset(command: &str) -> Result<(&str, i64), String> {
    let sign = command.char_indices().find(|(index, found)| *index > 0 && (*found == '+' || *found == '-'));
    let Some((index, sign)) = sign else { return Ok((command, 0)) };
    // `header.event-time` has a dash too: only a digit after it makes it an offset
    let tail = command.get(index + 1..).unwrap_or_default();
    if !tail.starts_with(|found: char| found.is_ascii_digit()) {
        return Ok((command, 0));
    }
    let millis = parse_millis(tail).ok_or_else(|| format!("date offset {tail} must be like 24h or 30m"))?;
    let millis = i64::try_from(millis).map_err(|_| "date offset too large".to_owned())?;
    Ok((command.get(..index).unwrap_or_default(), if sign == '-' { -millis } else { millis }))
}

/// Reads a moment: ms since the epoch, or ISO 8601 with zone.
pub(crate) fn moment(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(float_ms)),
        Value::String(text) => text.trim().parse().ok().or_else(|| iso_ms(text.trim())),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a saturating cast is what is meant")]
fn float_ms(number: f64) -> i64 {
    number as i64
}

/// Milliseconds of an ISO 8601 instant; without a zone it is UTC.
pub(crate) fn iso_ms(text: &str) -> Option<i64> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_millisecond());
    }
    let civil: jiff::civil::DateTime = text.replace(' ', "T").parse().ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// Formats with a pattern of Java's `SimpleDateFormat`.
fn format(at_ms: i64, zone: &TimeZone, pattern: &str) -> Result<String, String> {
    let at = Timestamp::from_millisecond(at_ms).map_err(|_| format!("moment {at_ms} ms is out of range"))?;
    let zoned = at.to_zoned(zone.clone());
    let mut out = String::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\'' {
            if letters.next_if_eq(&'\'').is_some() {
                out.push('\'');
                continue;
            }
            out.extend(letters.by_ref().take_while(|found| *found != '\''));
            continue;
        }
        if !letter.is_ascii_alphabetic() {
            out.push(letter);
            continue;
        }
        let mut count = 1;
        while letters.next_if_eq(&letter).is_some() {
            count += 1;
        }
        out.push_str(&field(letter, count, &zoned)?);
    }
    Ok(out)
}

fn field(letter: char, count: usize, at: &jiff::Zoned) -> Result<String, String> {
    let hour12 = match at.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    let number = |value: i64| format!("{value:0count$}");
    Ok(match letter {
        'y' | 'u' if count == 2 => format!("{:02}", at.year().rem_euclid(100)),
        'y' | 'u' => number(i64::from(at.year())),
        'M' | 'L' if count >= 4 => at.strftime("%B").to_string(),
        'M' | 'L' if count == 3 => at.strftime("%b").to_string(),
        'M' | 'L' => number(i64::from(at.month())),
        'd' => number(i64::from(at.day())),
        'D' => number(i64::from(at.day_of_year())),
        'H' => number(i64::from(at.hour())),
        'k' => number(i64::from(if at.hour() == 0 { 24 } else { at.hour() })),
        'h' => number(i64::from(hour12)),
        'K' => number(i64::from(at.hour() % 12)),
        'm' => number(i64::from(at.minute())),
        's' => number(i64::from(at.second())),
        'S' => number(i64::from(at.millisecond())),
        'a' => if at.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        'E' if count >= 4 => at.strftime("%A").to_string(),
        'E' => at.strftime("%a").to_string(),
        'z' => at.strftime("%Z").to_string(),
        'Z' => at.strftime("%z").to_string(),
        'X' if at.offset().is_zero() => "Z".to_owned(),
        'X' if count >= 3 => at.strftime("%:z").to_string(),
        'X' if count == 2 => at.strftime("%z").to_string(),
        'X' => at.strftime("%z").to_string().chars().take(3).collect(),
        other => return Err(format!("date pattern letter {other} is not supported")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_print_as_javas_simple_date_format() {
        let at = 1_700_000_000_123;
        let print = |text: &str, zoned| Date::parse(text, zoned).unwrap().text(at).unwrap();
        assert_eq!(print("now:yyyy-MM-dd'T'HH:mm:ss.SSSXXX", false), "2023-11-14T22:13:20.123Z");
        assert_eq!(print("now", false), "Tue Nov 14 22:13:20 UTC 2023");
        assert_eq!(print("now-24h:yyyyMMdd", false), "20231113");
        assert_eq!(print("now:Europe/Oslo:HH:mm Z", true), "23:13 +0100");
        assert_eq!(iso_ms("2023-11-14 22:13:20"), Some(1_700_000_000_000));
        assert!(Date::parse("now:yyyy-QQ", false).is_err());
    }
}
