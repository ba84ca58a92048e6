//! Records that could not be read or computed: their sentence, and their copy on the dead-letter topic.

use herdsman_record::{RecordError, TopicPartition};

use crate::operator::Failure;
use crate::sink::Outbox;

/// Raw bytes of a failed record that go to the dead-letter topic; longer ones are left out.
const DEAD_LETTER_BYTES_MAX: usize = 512 << 10;

/// One line for people.
pub(crate) fn failure_sentence(at: &TopicPartition, failure: &Failure) -> String {
    match failure.offset {
        Some(offset) => format!("{at} offset {offset}: {}", failure.reason),
        None => format!("{at}: {}", failure.reason),
    }
}

/// Adds a copy of a record with headers that say why and from where.
///
/// # Errors   a batch that cannot be sealed.
pub(crate) fn letter(
    outbox: &mut Outbox,
    letters: &TopicPartition,
    from: &TopicPartition,
    offset: Option<i64>,
    (now_ms, reason): (i64, &str),
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<(), RecordError> {
    let small = |bytes: Option<&[u8]>| bytes.is_none_or(|bytes| bytes.len() <= DEAD_LETTER_BYTES_MAX);
    let (key, value) = if small(key) && small(value) { (key, value) } else { (None, None) };
    let partition = from.partition.to_string();
    let offset = offset.map(|offset| offset.to_string());
    let headers = [
        ("herdsman-error", Some(reason.as_bytes())),
        ("herdsman-source-topic", Some(from.topic.as_bytes())),
        ("herdsman-source-partition", Some(partition.as_bytes())),
        ("herdsman-source-offset", offset.as_deref().map(str::as_bytes)),
    ];
    outbox.builder(letters)?.append(now_ms, key, value, &headers);
    Ok(())
}
