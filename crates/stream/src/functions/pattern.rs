//! Java's `DateTimeFormatter` patterns: the letters that date and time functions need.
//!
//! Supported: `G u y Q q M L d D E e a H h k K m s S A n N X x Z O V z`, quoted text and literals, `[optional]` parts
//! when parsing. Widths follow Java (`yy` is 2000–2099, `MMM` a short English name, `S…` a fraction).

use jiff::tz::{Offset, TimeZone};

use crate::eval::time::{DAY_MS, civil_from_days, days_from_civil, days_in_month};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Letter(char, usize),
    Text(String),
    Optional(Vec<Part>),
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

/// What parsing found; absent fields stay `None`.
#[derive(Debug, Clone, Default)]
struct Fields {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    hour: Option<i64>,
    hour12: Option<i64>,
    pm: Option<bool>,
    minute: Option<i64>,
    second: Option<i64>,
    nanos: Option<i64>,
    milli_of_day: Option<i64>,
    zone: Option<TimeZone>,
}

impl Pattern {
    /// Compiles a pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let chars: Vec<char> = pattern.chars().collect();
        let mut at = 0;
        let parts = compile(&chars, &mut at, false).map_err(|reason| format!("{reason}: {pattern}"))?;
        Ok(Self { parts })
    }

    /// Prints `ms` since the epoch as seen in `zone`.
    pub(crate) fn format(&self, ms: i64, zone: &TimeZone) -> Result<String, String> {
        let timestamp = jiff::Timestamp::from_millisecond(ms).map_err(|error| error.to_string())?;
        let info = zone.to_offset_info(timestamp);
        let local = ms + i64::from(info.offset().seconds()) * 1000;
        let mut out = String::new();
        for part in &self.parts {
            print(part, local, info.offset(), info.abbreviation(), zone, &mut out)?;
        }
        Ok(out)
    }

    /// Reads milliseconds since the epoch; `zone` holds if the text names none. A time that is not there is midnight,
    /// a month or day that is not there the first.
    pub(crate) fn parse_timestamp(&self, text: &str, zone: &TimeZone) -> Result<i64, String> {
        let fields = self.parse(text)?;
        let days = fields.days().ok_or_else(|| unparsed(text))?;
        let local = days * DAY_MS + fields.milli_of_day().ok_or_else(|| unparsed(text))?;
        to_utc(local, fields.zone.as_ref().unwrap_or(zone))
    }

    /// Reads days since the epoch.
    pub(crate) fn parse_date(&self, text: &str) -> Result<i32, String> {
        let days = self.parse(text)?.days().ok_or_else(|| unparsed(text))?;
        i32::try_from(days).map_err(|_| unparsed(text))
    }

    /// Reads milliseconds of the day.
    pub(crate) fn parse_time(&self, text: &str) -> Result<i32, String> {
        let ms = self.parse(text)?.milli_of_day().ok_or_else(|| unparsed(text))?;
        i32::try_from(ms).map_err(|_| unparsed(text))
    }

    fn parse(&self, text: &str) -> Result<Fields, String> {
        let mut fields = Fields::default();
        match read(&self.parts, text, &mut fields) {
            Some("") => Ok(fields),
            _ => Err(unparsed(text)),
        }
    }
}

fn unparsed(text: &str) -> String {
    format!("Text '{text}' could not be parsed")
}

/// The UTC instant of a local time: the earlier one if it exists twice, shifted forward if it does not exist.
pub(crate) fn to_utc(local: i64, zone: &TimeZone) -> Result<i64, String> {
    let (year, month, day) = civil_from_days(local.div_euclid(DAY_MS));
    let rest = local.rem_euclid(DAY_MS);
    let narrow = |value: i64| i8::try_from(value).map_err(|error| error.to_string());
    let date = jiff::civil::DateTime::new(
        i16::try_from(year).map_err(|error| error.to_string())?,
        narrow(month)?,
        narrow(day)?,
        narrow(rest / 3_600_000)?,
        narrow(rest / 60_000 % 60)?,
        narrow(rest / 1000 % 60)?,
        i32::try_from(rest % 1000 * 1_000_000).unwrap_or(0),
    )
    .map_err(|error| error.to_string())?;
    Ok(zone.to_timestamp(date).map_err(|error| error.to_string())?.as_millisecond())
}

/// Finds a zone by name (`America/Los_Angeles`), offset (`+0100`, `-08:00`), `Z`, `UTC` or `GMT+1`.
pub(crate) fn zone(name: &str) -> Result<TimeZone, String> {
    let unknown = || format!("Unknown time-zone ID: {name}");
    let offset = name.strip_prefix("UTC").or_else(|| name.strip_prefix("GMT")).unwrap_or(name);
    if matches!(name, "Z" | "UTC" | "GMT" | "UT") {
        return Ok(TimeZone::UTC);
    }
    if offset.starts_with(['+', '-']) {
        return match read_offset(offset) {
            Some((zone, "")) => Ok(zone),
            _ => Err(unknown()),
        };
    }
    TimeZone::get(name).map_err(|_| unknown())
}

fn compile(chars: &[char], at: &mut usize, nested: bool) -> Result<Vec<Part>, String> {
    let mut parts: Vec<Part> = Vec::new();
    let literal = |parts: &mut Vec<Part>, c: char| match parts.last_mut() {
        Some(Part::Text(text)) => text.push(c),
        _ => parts.push(Part::Text(c.to_string())),
    };
    while *at < chars.len() {
        let c = chars[*at];
        *at += 1;
        match c {
            '\'' if chars.get(*at) == Some(&'\'') => {
                *at += 1;
                literal(&mut parts, '\'');
            }
            '\'' => loop {
                match (chars.get(*at), chars.get(*at + 1)) {
                    (Some('\''), Some('\'')) => {
                        literal(&mut parts, '\'');
                        *at += 2;
                    }
                    (Some('\''), _) => {
                        *at += 1;
                        break;
                    }
                    (Some(other), _) => {
                        literal(&mut parts, *other);
                        *at += 1;
                    }
                    (None, _) => return Err("Pattern ends with an incomplete string literal".to_owned()),
                }
            },
            '[' => parts.push(Part::Optional(compile(chars, at, true)?)),
            ']' if nested => return Ok(parts),
            letter if letter.is_ascii_alphabetic() => {
                let mut count = 1;
                while chars.get(*at) == Some(&letter) {
                    *at += 1;
                    count += 1;
                }
                if !"GuyQqMLdDEeaHhkKmsSAnNXxZOVz".contains(letter) {
                    return Err(format!("Unknown pattern letter: {letter}"));
                }
                if count > 19 {
                    return Err(format!("Too many pattern letters: {letter}"));
                }
                parts.push(Part::Letter(letter, count));
            }
            other => literal(&mut parts, other),
        }
    }
    Ok(parts)
}

fn print(
    part: &Part,
    local: i64,
    offset: Offset,
    abbreviation: &str,
    zone: &TimeZone,
    out: &mut String,
) -> Result<(), String> {
    let (letter, width) = match part {
        Part::Text(text) => {
            out.push_str(text);
            return Ok(());
        }
        Part::Optional(parts) => {
            return parts.iter().try_for_each(|part| print(part, local, offset, abbreviation, zone, out));
        }
        Part::Letter(letter, width) => (*letter, *width),
    };
    let days = local.div_euclid(DAY_MS);
    let (year, month, day) = civil_from_days(days);
    let ms = local.rem_euclid(DAY_MS);
    let (hour, minute, second, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    let weekday = (days + 3).rem_euclid(7);
    let number = |value: i64, out: &mut String| out.push_str(&format!("{value:0width$}"));
    match letter {
        'y' | 'u' if width == 2 => out.push_str(&format!("{:02}", year.rem_euclid(100))),
        'y' | 'u' => number(year, out),
        'M' | 'L' if width >= 3 => name(&MONTHS, month - 1, width, out),
        'M' | 'L' => number(month, out),
        'Q' | 'q' => number((month + 2) / 3, out),
        'd' => number(day, out),
        'D' => number(days - days_from_civil(year, 1, 1) + 1, out),
        'E' => name(&DAYS, weekday, width.max(3), out),
        'e' if width >= 3 => name(&DAYS, weekday, width, out),
        'e' => number((weekday + 1) % 7 + 1, out),
        'a' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
        'G' => out.push_str(if year > 0 { "AD" } else { "BC" }),
        'H' => number(hour, out),
        'k' => number(if hour == 0 { 24 } else { hour }, out),
        'K' => number(hour % 12, out),
        'h' => number(if hour % 12 == 0 { 12 } else { hour % 12 }, out),
        'm' => number(minute, out),
        's' => number(second, out),
        'S' => {
            let digits = format!("{:09}", milli * 1_000_000);
            out.extend(digits.chars().chain(std::iter::repeat('0')).take(width));
        }
        'A' => number(ms, out),
        'n' => number(milli * 1_000_000, out),
        'N' => number(ms * 1_000_000, out),
        'X' | 'x' | 'Z' | 'O' => print_offset(letter, width, offset.seconds(), out),
        'V' => out.push_str(zone.iana_name().unwrap_or("Z")),
        'z' => out.push_str(abbreviation),
        other => return Err(format!("Unknown pattern letter: {other}")),
    }
    Ok(())
}

fn name(names: &[&str], index: i64, width: usize, out: &mut String) {
    let name = usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or("");
    let length = match width {
        4 => name.len(),
        5 => 1,
        _ => 3,
    };
    out.push_str(&name[..length.min(name.len())]);
}

fn print_offset(letter: char, width: usize, seconds: i32, out: &mut String) {
    if seconds == 0 && (letter == 'X' || (letter == 'Z' && width == 5)) {
        return out.push('Z');
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let (hour, minute) = (seconds.abs() / 3600, seconds.abs() / 60 % 60);
    let text = match (letter, width) {
        ('O', _) | ('Z', 4) => format!("GMT{sign}{hour:02}:{minute:02}"),
        ('Z', 1..=3) | ('X' | 'x', 2 | 4) => format!("{sign}{hour:02}{minute:02}"),
        ('X' | 'x', 1) if minute == 0 => format!("{sign}{hour:02}"),
        ('X' | 'x', 1) => format!("{sign}{hour:02}{minute:02}"),
        _ => format!("{sign}{hour:02}:{minute:02}"),
    };
    out.push_str(&text);
}

/// Reads `parts` from the front of `text`; the rest, or `None` if it does not fit.
fn read<'t>(parts: &[Part], text: &'t str, fields: &mut Fields) -> Option<&'t str> {
    let mut rest = text;
    for (index, part) in parts.iter().enumerate() {
        rest = match part {
            Part::Text(literal) => rest.strip_prefix(literal.as_str())?,
            Part::Optional(inner) => {
                let mut attempt = fields.clone();
                match read(inner, rest, &mut attempt) {
                    Some(after) => {
                        *fields = attempt;
                        after
                    }
                    None => rest,
                }
            }
            Part::Letter(letter, width) => {
                let followed =
                    matches!(parts.get(index + 1), Some(Part::Letter(next, _)) if is_number(*next));
                read_letter(*letter, *width, followed, rest, fields)?
            }
        };
    }
    Some(rest)
}

fn is_number(letter: char) -> bool {
    "uydDHhkKmsSAnNM".contains(letter)
}

/// A number of `min..=max` digits.
fn digits(text: &str, min: usize, max: usize) -> Option<(i64, &str)> {
    let length = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    if length < min {
        return None;
    }
    Some((text[..length].parse().ok()?, &text[length..]))
}

fn read_letter<'t>(
    letter: char,
    width: usize,
    followed: bool,
    text: &'t str,
    fields: &mut Fields,
) -> Option<&'t str> {
    // A single letter takes as many digits as there are, unless another number follows at once.
    let open = width == 1;
    let number = |most: usize| digits(text, width, if open { most } else { width });
    let ranged = |range: std::ops::RangeInclusive<i64>, found: Option<(i64, &'t str)>| {
        found.filter(|(value, _)| range.contains(value))
    };
    let (slot, (value, rest)) = match letter {
        'y' | 'u' => {
            let negative = text.starts_with('-');
            let body = text.strip_prefix(['-', '+']).unwrap_or(text);
            let (year, rest) = match width {
                2 => digits(body, 2, 2).map(|(year, rest)| (year + 2000, rest))?,
                _ => digits(body, width, if followed && width > 1 { width } else { 9 })?,
            };
            (&mut fields.year, (if negative { -year } else { year }, rest))
        }
        'M' | 'L' if width >= 3 => {
            (&mut fields.month, read_name(&MONTHS, width, text).map(|(index, rest)| (index + 1, rest))?)
        }
        'M' | 'L' => (&mut fields.month, ranged(1..=12, number(2))?),
        'd' => (&mut fields.day, ranged(1..=31, number(2))?),
        'D' => (&mut fields.day_of_year, ranged(1..=366, number(3))?),
        'E' | 'e' => return read_name(&DAYS, width.max(3), text).map(|(_, rest)| rest),
        'Q' | 'q' => return number(1).map(|(_, rest)| rest),
        'G' => return text.strip_prefix("AD").or_else(|| text.strip_prefix("BC")),
        'a' => {
            let upper = text.get(..2)?.to_ascii_uppercase();
            fields.pm = match upper.as_str() {
                "AM" => Some(false),
                "PM" => Some(true),
                _ => return None,
            };
            return Some(&text[2..]);
        }
        'H' => (&mut fields.hour, ranged(0..=23, number(2))?),
        'k' => (&mut fields.hour, ranged(1..=24, number(2)).map(|(hour, rest)| (hour % 24, rest))?),
        'h' => (&mut fields.hour12, ranged(1..=12, number(2)).map(|(hour, rest)| (hour % 12, rest))?),
        'K' => (&mut fields.hour12, ranged(0..=11, number(2))?),
        'm' => (&mut fields.minute, ranged(0..=59, number(2))?),
        's' => (&mut fields.second, ranged(0..=59, number(2))?),
        'S' => {
            let (fraction, rest) = digits(text, width, width)?;
            let scale = u32::try_from(width).ok()?;
            let nanos =
                if scale <= 9 { fraction * 10_i64.pow(9 - scale) } else { fraction / 10_i64.pow(scale - 9) };
            (&mut fields.nanos, (nanos, rest))
        }
        'n' => (&mut fields.nanos, number(9)?),
        'A' => (&mut fields.milli_of_day, number(8)?),
        'N' => (&mut fields.milli_of_day, number(14).map(|(nanos, rest)| (nanos / 1_000_000, rest))?),
        _ => {
            let (zone, rest) = read_zone(letter, text)?;
            fields.zone = Some(zone);
            return Some(rest);
        }
    };
    *slot = Some(value);
    Some(rest)
}

fn read_name<'t>(names: &[&str], width: usize, text: &'t str) -> Option<(i64, &'t str)> {
    let length = |name: &str| if width == 4 { name.len() } else { 3.min(name.len()) };
    let hit = names.iter().position(|name| {
        text.get(..length(name)).is_some_and(|head| head.eq_ignore_ascii_case(&name[..length(name)]))
    })?;
    Some((i64::try_from(hit).ok()?, &text[length(names[hit])..]))
}

fn read_zone(letter: char, text: &str) -> Option<(TimeZone, &str)> {
    if matches!(letter, 'X' | 'x' | 'Z' | 'O') {
        let text = if letter == 'O' { text.strip_prefix("GMT").unwrap_or(text) } else { text };
        if let Some(rest) = text.strip_prefix('Z') {
            return Some((TimeZone::UTC, rest));
        }
        return read_offset(text);
    }
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '+' | '-' | ':')))
        .unwrap_or(text.len());
    Some((zone(&text[..end]).ok()?, &text[end..]))
}

/// `+HH`, `+HHmm` or `+HH:mm`.
fn read_offset(text: &str) -> Option<(TimeZone, &str)> {
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hour, rest) = digits(&text[1..], 1, 2)?;
    let (minute, rest) = match rest.strip_prefix(':') {
        Some(after) => digits(after, 2, 2)?,
        None => digits(rest, 2, 2).unwrap_or((0, rest)),
    };
    let seconds = i32::try_from(sign * (hour * 3600 + minute * 60)).ok()?;
    Some((TimeZone::fixed(Offset::from_seconds(seconds).ok()?), rest))
}

impl Fields {
    fn days(&self) -> Option<i64> {
        let year = self.year.unwrap_or(1970);
        if let Some(day) = self.day_of_year {
            return Some(days_from_civil(year, 1, 1) + day - 1);
        }
        let (month, day) = (self.month.unwrap_or(1), self.day.unwrap_or(1));
        (day <= days_in_month(year, month)).then(|| days_from_civil(year, month, day))
    }

    fn milli_of_day(&self) -> Option<i64> {
        if self.milli_of_day.is_some() {
            return self.milli_of_day;
        }
        let hour = match (self.hour, self.hour12) {
            (Some(hour), _) => hour,
            (None, Some(hour)) => hour + if self.pm? { 12 } else { 0 },
            (None, None) => 0,
        };
        let second = self.second.unwrap_or(0);
        let nanos = self.nanos.unwrap_or(0);
        Some(hour * 3_600_000 + self.minute.unwrap_or(0) * 60_000 + second * 1000 + nanos / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_print_and_read_as_java_does() {
        for (pattern, text, ms) in [
            ("yyyy-MM-dd'T'HH:mm:ssX", "2018-05-11T21:58:33Z", 1_526_075_913_000),
            ("yyyy-MM-dd'T'HH:mm:ss.SSS", "2019-08-27T13:31:09.002", 1_566_912_669_002),
            ("yyyyMMdd HHmmss", "20190827 133109", 1_566_912_669_000),
            ("EEE, d MMM yyyy h:mm a", "Tue, 27 Aug 2019 1:31 PM", 1_566_912_660_000),
            ("dd/MM/yy HH:mm xxx", "27/08/19 13:31 +00:00", 1_566_912_660_000),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(compiled.parse_timestamp(text, &TimeZone::UTC), Ok(ms), "{pattern}");
            assert_eq!(compiled.format(ms, &TimeZone::UTC).as_deref(), Ok(text), "{pattern}");
        }
        let zoned = Pattern::new("yyyy-MM-dd'T'HH:mm:ss.SX").unwrap();
        assert_eq!(
            zoned.parse_timestamp("2019-08-27T13:31:09.2+0000", &TimeZone::UTC),
            Ok(1_566_912_669_200)
        );
        let optional = Pattern::new("yyyy-MM-dd[ HH:mm]").unwrap();
        assert_eq!(optional.parse_timestamp("1970-01-02", &TimeZone::UTC), Ok(DAY_MS));
        assert!(Pattern::new("yyyy-MM-dd").unwrap().parse_date("2019-02-29").is_err());
        assert!(Pattern::new("'open").is_err() && Pattern::new("yyyy-bb").is_err());
        let los_angeles = zone("America/Los_Angeles").unwrap();
        assert_eq!(Pattern::new("HH:mm z").unwrap().format(0, &los_angeles).as_deref(), Ok("16:00 PST"));
    }
}
