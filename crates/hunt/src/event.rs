//! One check-in: what every input becomes, and the JSON and key under which it enters the bus.

use std::fmt::Write as _;

/// A check-in as the hunt's SQL sees it, less its hunt, which is the record key. Borrowed, so that an input need not allocate per event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// The user's own id; equal ids are the same event.
    pub event_id: &'a str,
    /// Who moves.
    pub player: &'a str,
    /// Where.
    pub place: &'a str,
    /// `depart`, `land` or what the input's map says.
    pub kind: &'a str,
    /// Event time, milliseconds since the Unix epoch.
    pub scheduled_ms: i64,
    /// When it really happened, same unit; events arrive in this order.
    pub actual_ms: i64,
    /// Position as JSON members from [`encode_position`], or nothing.
    pub position: &'a str,
}

impl Event<'_> {
    /// Writes the record value (one JSON object) over `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(out, push_escaped);
    }

    /// The same where [`is_plain`] holds for every text.
    #[inline]
    pub fn encode_plain(&self, out: &mut Vec<u8>) {
        self.write(out, |out, text| out.extend_from_slice(text.as_bytes()));
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>, push: impl Fn(&mut Vec<u8>, &str)) {
        out.clear();
        out.extend_from_slice(b"{\"event_id\":\"");
        push(out, self.event_id);
        out.extend_from_slice(b"\",\"player\":\"");
        push(out, self.player);
        out.extend_from_slice(b"\",\"place\":\"");
        push(out, self.place);
        out.extend_from_slice(b"\",\"kind\":\"");
        push(out, self.kind);
        out.extend_from_slice(b"\",\"scheduled\":");
        push_integer(out, self.scheduled_ms);
        out.extend_from_slice(b",\"actual\":");
        push_integer(out, self.actual_ms);
        out.extend_from_slice(self.position.as_bytes());
        out.push(b'}');
    }
}

/// Whether `text` stands in JSON as it is.
#[inline]
#[must_use]
pub fn is_plain(text: &[u8]) -> bool {
    // a sum without an early end: the compiler looks at many bytes at once
    !text.iter().fold(false, |found, byte| found | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'))
}

fn push_integer(out: &mut Vec<u8>, value: i64) {
    let mut buffer = [0_u8; 20];
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        if let Some(place) = buffer.get_mut(at) {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(buffer.get(at..).unwrap_or_default());
}

/// `,"lat":…,"lon":…` with at most five decimals (about one metre); nothing unless both are finite.
#[must_use]
pub fn encode_position(lat: f64, lon: f64) -> String {
    if !lat.is_finite() || !lon.is_finite() {
        return String::new();
    }
    let short = |degrees: f64| {
        let digits = format!("{degrees:.5}");
        let trimmed = digits.trim_end_matches('0');
        if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
    };
    format!(",\"lat\":{},\"lon\":{}", short(lat), short(lon))
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            control if u32::from(control) < 0x20 => {
                let mut escape = String::new();
                let _ = write!(escape, "\\u{:04x}", u32::from(control));
                out.extend_from_slice(escape.as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_json_object_whatever_its_texts_hold() {
        let event = Event {
            event_id: "a\"b\\c\n",
            player: "N14228",
            place: "EWR",
            kind: "land",
            scheduled_ms: -5,
            actual_ms: 1_357_035_420_000,
            position: &encode_position(40.692_5, -74.0),
        };
        let mut out = Vec::new();
        let plain = Event { event_id: "7", ..event };
        plain.encode_plain(&mut out);
        let same = out.clone();
        plain.encode(&mut out);
        assert_eq!(out, same);
        assert!(
            is_plain("é 7+1".as_bytes())
                && !["a\"", "\\", "\u{1f}"].iter().any(|text| is_plain(text.as_bytes()))
        );
        event.encode(&mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["event_id"], "a\"b\\c\n");
        assert_eq!(value["scheduled"], -5);
        assert_eq!(value["actual"], 1_357_035_420_000_i64);
        assert_eq!(
            String::from_utf8(out).unwrap().split("\"lat\":").nth(1).unwrap(),
            "40.6925,\"lon\":-74.0}"
        );
    }
}
