//! Dates and times as text: what casts and comparisons read and print. All without a zone are UTC.

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// Days since the epoch of a civil date (proleptic Gregorian). Source: H. Hinnant, days_from_civil.
#[must_use]
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Civil `(year, month, day)` of days since the epoch.
#[must_use]
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days of a month.
#[must_use]
pub fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `2022-04-28`
#[must_use]
pub fn format_date(days: i32) -> String {
    let (year, month, day) = civil_from_days(i64::from(days));
    format!("{}-{month:02}-{day:02}", format_year(year))
}

fn format_year(year: i64) -> String {
    if year > 9999 {
        format!("+{year}")
    } else if year < 0 {
        format!("-{:04}", -year)
    } else {
        format!("{year:04}")
    }
}

/// `2022-04-28T21:44:47.943`
#[must_use]
pub fn format_timestamp(ms: i64) -> String {
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let rest = ms.rem_euclid(DAY_MS);
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}", format_year(year))
}

/// As Java's `LocalTime.toString`: `21:44`, `21:44:47`, `21:44:47.943`.
#[must_use]
pub fn format_time(ms: i32) -> String {
    let (hour, minute, second, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    if milli > 0 {
        format!("{hour:02}:{minute:02}:{second:02}.{milli:03}")
    } else if second > 0 {
        format!("{hour:02}:{minute:02}:{second:02}")
    } else {
        format!("{hour:02}:{minute:02}")
    }
}

struct Parser<'t> {
    text: &'t [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        self.at += usize::from(hit);
        hit
    }

    fn number(&mut self, min: usize, max: usize) -> Option<i64> {
        let start = self.at;
        while self.at - start < max && self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at - start < min {
            return None;
        }
        std::str::from_utf8(&self.text[start..self.at]).ok()?.parse().ok()
    }

    fn date(&mut self) -> Option<(i64, i64, i64)> {
        let year = self.number(4, 4)?;
        let month = if self.eat(b'-') { self.number(1, 2)? } else { 1 };
        let day = if self.eat(b'-') { self.number(1, 2)? } else { 1 };
        ((1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day))
            .then_some((year, month, day))
    }

    fn time(&mut self) -> Option<i64> {
        let hour = self.number(1, 2)?;
        let minute = if self.eat(b':') { self.number(1, 2)? } else { 0 };
        let second = if self.eat(b':') { self.number(1, 2)? } else { 0 };
        let milli = if self.eat(b'.') {
            let start = self.at;
            let fraction = self.number(1, 9)?;
            let digits = u32::try_from(self.at - start).ok()?;
            if digits <= 3 { fraction * 10_i64.pow(3 - digits) } else { fraction / 10_i64.pow(digits - 3) }
        } else {
            0
        };
        (hour < 24 && minute < 60 && second < 60)
            .then_some(hour * 3_600_000 + minute * 60_000 + second * 1000 + milli)
    }

    /// `Z`, `+0000`, `+00:00`, `+00`; nothing is UTC. Result in ms.
    fn zone(&mut self) -> Option<i64> {
        let sign = match self.peek() {
            None => return Some(0),
            Some(b'Z') => {
                self.at += 1;
                return Some(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return None,
        };
        self.at += 1;
        let hour = self.number(2, 2)?;
        self.eat(b':');
        let minute = if self.peek().is_some() { self.number(2, 2)? } else { 0 };
        (hour <= 18 && minute < 60).then_some(sign * (hour * 3_600_000 + minute * 60_000))
    }

    fn end(&self) -> Option<()> {
        (self.at == self.text.len()).then_some(())
    }
}

/// Reads `yyyy-MM-dd'T'HH:mm:ss.SSS` with an optional zone; everything after the year may be left out from the right.
/// Result in ms since the epoch.
///
/// # Errors   ksqlDB's sentence.
pub fn parse_timestamp(text: &str) -> Result<i64, String> {
    let parse = || {
        let mut parser = Parser { text: crate::numbers::java_trim(text).as_bytes(), at: 0 };
        let (year, month, day) = parser.date()?;
        let time = if parser.eat(b'T') && parser.peek().is_some() { parser.time()? } else { 0 };
        let zone = parser.zone()?;
        parser.end()?;
        Some(days_from_civil(year, month, day) * DAY_MS + time - zone)
    };
    parse().ok_or_else(|| {
        format!(
            "Failed to parse timestamp '{text}'. Required format is: \"yyyy-MM-dd'T'HH:mm:ss.SSS\", with an optional \
             numeric 4-digit timezone, for example: '2019-07-24T01:00:00.000' or with timezone: \
             '2019-07-24T01:00:00.000+0000'. Partials are also supported, for example \"2020-05-26\""
        )
    })
}

/// Reads `yyyy-MM-dd` (or less from the right). Result in days since the epoch.
///
/// # Errors   ksqlDB's sentence.
pub fn parse_date(text: &str) -> Result<i32, String> {
    let parse = || {
        let mut parser = Parser { text: crate::numbers::java_trim(text).as_bytes(), at: 0 };
        let (year, month, day) = parser.date()?;
        parser.end()?;
        i32::try_from(days_from_civil(year, month, day)).ok()
    };
    parse().ok_or_else(|| {
        format!(
            "Failed to parse date '{text}': Required format is: \"yyyy-MM-dd\", for example: '2019-07-24'. Partials are \
             also supported, for example \"2020-05\""
        )
    })
}

/// Reads `HH:mm:ss.SSS` (or less from the right). Result in ms of the day.
///
/// # Errors   ksqlDB's sentence.
pub fn parse_time(text: &str) -> Result<i32, String> {
    let parse = || {
        let mut parser = Parser { text: crate::numbers::java_trim(text).as_bytes(), at: 0 };
        let time = parser.time()?;
        parser.end()?;
        i32::try_from(time).ok()
    };
    parse().ok_or_else(|| {
        format!(
            "Failed to parse time '{text}': Required format is: \"HH:mm:ss.SSS\", for example: '01:02:03.004'"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_print_as_ksqldb_reads_and_prints_them() {
        assert_eq!(parse_timestamp("2022-04-28T21:44:47.943"), Ok(1_651_182_287_943));
        assert_eq!(parse_timestamp("2022-04-28T21:44:47.943Z"), Ok(1_651_182_287_943));
        assert_eq!(parse_timestamp("2019-01-01T00:00:00+0445"), Ok(1_546_300_800_000 - 17_100_000));
        assert_eq!(parse_timestamp("2018"), Ok(1_514_764_800_000));
        assert_eq!(parse_timestamp("1969-12-31T23:59"), Ok(-60_000));
        assert!(parse_timestamp("2018-02-30").is_err() && parse_timestamp("foo").is_err());
        assert_eq!(
            (parse_date("1970-01-10"), parse_date("1970-01"), parse_date("1969-12-31")),
            (Ok(9), Ok(0), Ok(-1))
        );
        assert_eq!(format_timestamp(-1), "1969-12-31T23:59:59.999");
        assert_eq!((format_date(10).as_str(), format_date(-1).as_str()), ("1970-01-11", "1969-12-31"));
        assert_eq!((format_time(5000).as_str(), format_time(60_000).as_str()), ("00:00:05", "00:01"));
        for days in [-719_528, -1, 0, 59, 11_016, 19_000, 2_932_896] {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
