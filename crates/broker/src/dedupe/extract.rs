//! Reads the event id of each record: from a header, or from a top-level field of a JSON value.
//!
//! Most records of a topic are alike, so the field is first looked for where the last record had it. That place
//! counts only if everything before it proves that it is a top-level key (one open brace, no bracket, no backslash,
//! an even number of quotes); otherwise a scan that respects strings and nesting decides. Both always agree.

use std::borrow::Cow;

use herdsman_record::{EVENT_ID_HEADER, EventId, Record, RecordError, Records};

use super::NO_ID;

/// Where the event id of a record is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EventIdSource {
    /// The record header `event-id`.
    #[default]
    Header,
    /// A top-level field of the JSON value: a string, number or boolean. `null` and absence mean no id.
    JsonField(String),
}

impl EventIdSource {
    /// The meaning of the topic config `herdsman.event.id`: empty or absent is the header.
    #[must_use]
    pub fn from_config(value: Option<&str>) -> Self {
        match value.map(str::trim) {
            None | Some("" | EVENT_ID_HEADER) => Self::Header,
            Some(field) => Self::JsonField(field.to_owned()),
        }
    }
}

/// Why the ids of a batch cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdError {
    /// The batch is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The records' own numbers contradict the batch header.
    #[error("record {index} of the batch says it is number {delta}")]
    OffsetDelta {
        /// Its place.
        index: usize,
        /// What it says.
        delta: i64,
    },
}

/// Reads ids; keeps what it learned of the topic's layout.
#[derive(Debug, Clone)]
pub struct Extractor {
    source: EventIdSource,
    /// `"field":` as it stands in compact JSON.
    needle: Vec<u8>,
    /// Where the last record had it.
    guess: usize,
}

impl Extractor {
    /// Reads ids from `source`.
    #[must_use]
    pub fn new(source: EventIdSource) -> Self {
        let needle = match &source {
            EventIdSource::Header => Vec::new(),
            EventIdSource::JsonField(field) => {
                let mut needle = serde_json::to_vec(field).unwrap_or_default();
                needle.push(b':');
                needle
            }
        };
        Self { source, needle, guess: 1 }
    }

    /// Where ids come from.
    #[must_use]
    pub fn source(&self) -> &EventIdSource {
        &self.source
    }

    /// Byte where the field's key was last found.
    #[must_use]
    pub fn guess(&self) -> usize {
        self.guess
    }

    /// Starts looking at `guess`, learned by another reader of the same topic.
    pub fn set_guess(&mut self, guess: usize) {
        self.guess = guess;
    }

    /// The ids of all records, in order ([`NO_ID`] where there is none), into `ids`, which is cleared first.
    /// Checks on the way that record `i` has offset delta `i`, if `dense`.
    pub fn ids_of(
        &mut self,
        records: &Records,
        dense: Option<i64>,
        ids: &mut Vec<EventId>,
    ) -> Result<(), IdError> {
        ids.clear();
        ids.reserve(records.len());
        for (index, record) in records.iter().enumerate() {
            let record = record?;
            if let Some(base) = dense {
                let delta = record.offset.wrapping_sub(base);
                if usize::try_from(delta) != Ok(index) {
                    return Err(IdError::OffsetDelta { index, delta });
                }
            }
            ids.push(self.id_of(&record));
        }
        Ok(())
    }

    /// The id of one record, or [`NO_ID`].
    #[inline]
    #[must_use]
    pub fn id_of(&mut self, record: &Record<'_>) -> EventId {
        match &self.source {
            EventIdSource::Header => record.headers.get(EVENT_ID_HEADER).map_or(NO_ID, EventId::of),
            EventIdSource::JsonField(_) => {
                record.value.and_then(|value| self.scalar_in(value)).map_or(NO_ID, |id| EventId::of(&id))
            }
        }
    }

    /// The id of one record as its user wrote it, `None` where there is none.
    #[must_use]
    pub fn text_of<'a>(&mut self, record: &Record<'a>) -> Option<Cow<'a, [u8]>> {
        match &self.source {
            EventIdSource::Header => record.headers.get(EVENT_ID_HEADER).map(Cow::Borrowed),
            EventIdSource::JsonField(_) => self.scalar_in(record.value?),
        }
    }

    #[inline]
    fn scalar_in<'a>(&mut self, value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let at = match self.speculate(value) {
            Some(at) => at,
            None => {
                let EventIdSource::JsonField(field) = &self.source else { return None };
                let (key, after) = find_field(value, field.as_bytes())?;
                self.guess = key;
                after
            }
        };
        scalar(value, at)
    }

    /// Where the value begins, if the field is where the last record had it, or soon after, beyond doubt.
    #[inline]
    fn speculate(&mut self, value: &[u8]) -> Option<usize> {
        let needle = self.needle.as_slice();
        let mut key = self.guess;
        if value.get(key..key + needle.len()) != Some(needle) {
            key = find_bytes(value, needle)?;
        }
        let prefix = value.get(..key)?;
        let (mut opens, mut quotes, mut odd) = (0_u32, 0_u32, 0_u32);
        for byte in prefix {
            opens += u32::from(*byte == b'{');
            quotes += u32::from(*byte == b'"');
            odd += u32::from(*byte == b'[' || *byte == b'\\' || *byte == b'}');
        }
        if opens != 1 || odd != 0 || quotes % 2 != 0 {
            return None;
        }
        self.guess = key;
        Some(key + needle.len())
    }
}

/// First place of `needle` in `bytes`.
fn find_bytes(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, second) = (needle.first().copied()?, needle.get(1).copied()?);
    let mut at = 0;
    loop {
        let rest = bytes.get(at..)?;
        let step = rest.windows(2).position(|pair| matches!(pair, [a, b] if *a == first && *b == second))?;
        let found = at + step;
        if bytes.get(found..found + needle.len()) == Some(needle) {
            return Some(found);
        }
        at = found + 1;
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// One past the closing quote of the string that opens at `at`, and whether it holds a backslash.
#[inline]
fn end_of_string(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut escaped = false;
    let mut at = at + 1;
    loop {
        if let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
            let marks = quotes_and_slashes(u64::from_le_bytes(*word));
            if marks == 0 {
                at += 8;
                continue;
            }
            at += (marks.trailing_zeros() / 8) as usize;
        }
        match bytes.get(at)? {
            b'"' => return Some((at + 1, escaped)),
            b'\\' => {
                escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// High bit set in the lowest byte of `word` that is a quote or a backslash; above that the bits mean nothing.
#[inline]
fn quotes_and_slashes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let (quote, slash) = (word ^ (ONES * 0x22), word ^ (ONES * 0x5c));
    (quote.wrapping_sub(ONES) & !quote | slash.wrapping_sub(ONES) & !slash) & (ONES << 7)
}

/// Key place and value place of the first top-level field called `field`.
fn find_field(bytes: &[u8], field: &[u8]) -> Option<(usize, usize)> {
    let mut at = skip_space(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    loop {
        at = skip_space(bytes, at);
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let key = at;
        let (end, escaped) = end_of_string(bytes, key)?;
        let colon = skip_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let name = bytes.get(key + 1..end - 1)?;
        let matches = if escaped {
            serde_json::from_slice::<String>(bytes.get(key..end)?).is_ok_and(|name| name.as_bytes() == field)
        } else {
            name == field
        };
        if matches {
            return Some((key, colon + 1));
        }
        at = skip_space(bytes, skip_value(bytes, colon + 1)?);
        if bytes.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
}

/// One past the value that begins at `at`, whatever it is.
fn skip_value(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = skip_space(bytes, at);
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = end_of_string(bytes, at)?.0,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                if depth == 0 {
                    return Some(at);
                }
                depth -= 1;
                at += 1;
            }
            b',' if depth == 0 => return Some(at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The scalar that begins at `at`: a string's characters, a number's or boolean's own text.
#[inline]
fn scalar(bytes: &[u8], at: usize) -> Option<Cow<'_, [u8]>> {
    let at = skip_space(bytes, at);
    match bytes.get(at)? {
        b'"' => {
            let (end, escaped) = end_of_string(bytes, at)?;
            if escaped {
                let text = serde_json::from_slice::<String>(bytes.get(at..end)?).ok()?;
                return Some(Cow::Owned(text.into_bytes()));
            }
            bytes.get(at + 1..end - 1).map(Cow::Borrowed)
        }
        b'{' | b'[' => None,
        _ => {
            let rest = bytes.get(at..)?;
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace())
                .unwrap_or(rest.len());
            rest.get(..end).filter(|text| !text.is_empty() && *text != b"null").map(Cow::Borrowed)
        }
    }
}
