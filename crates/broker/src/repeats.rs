//! Says which topics drop repeated event ids: at most once a minute each, with the first id and where it lies already.
//!
//! The window keeps fingerprints without offsets, so the first place is looked for in the log when the report is
//! written, by [`Broker::maintain`], away from producers. A batch without repeats pays nothing; one with repeats reads a
//! flag, and the first of a report copies one id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use herdsman_record::{Batch, EventId, TopicPartition};

use crate::Broker;
use crate::dedupe::{EventIdSource, Extractor, Fresh};
use crate::error::{span, thousands};
use crate::topic::{Topic, TopicDedupe, lock};

/// A topic is reported at most this often, ms.
const PERIOD_MS: i64 = 60_000;
/// The first place is looked for in at most this much of the log, newest first, bytes.
const LOOK_BACK_BYTES: usize = 64 << 20;
/// Offsets looked through at a time, and bytes read at once.
const STEP_OFFSETS: i64 = 16_384;
const STEP_BYTES: usize = 4 << 20;
/// Characters of an id in a report.
const ID_CHARS_MAX: usize = 64;

/// The first repeated event since the last report.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    id: EventId,
    text: String,
    at: TopicPartition,
    /// The partition's end when the event was dropped.
    end: i64,
}

impl Sample {
    /// The first record of `batch` that is not fresh.
    pub(crate) fn of(
        batch: &Batch,
        fresh: &Fresh,
        at: &TopicPartition,
        mut extractor: Extractor,
    ) -> Option<Self> {
        let records = batch.records().ok()?;
        let repeated = records.iter().enumerate().find(|(index, _)| !fresh.is_fresh(*index));
        let record = repeated?.1.ok()?;
        let id = extractor.text_of(&record)?;
        Some(Self { id: EventId::of(&id), text: shown(&id), at: at.clone(), end: 0 })
    }
}

fn shown(id: &[u8]) -> String {
    let text = String::from_utf8_lossy(id);
    text.chars().take(ID_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a topic has to report.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    sampled: AtomicBool,
    report: Mutex<Report>,
}

#[derive(Debug, Default)]
struct Report {
    sample: Option<Sample>,
    told_ms: Option<i64>,
    accepted_before: u64,
    duplicates_before: u64,
}

impl Repeats {
    /// Whether the next report has no sample yet.
    pub(crate) fn wants_sample(&self) -> bool {
        !self.sampled.load(Ordering::Relaxed)
    }

    /// Keeps the sample of a batch whose fresh records end at offset `end`.
    pub(crate) fn keep(&self, sample: Sample, end: i64) {
        let mut report = lock(&self.report);
        report.sample.get_or_insert(Sample { end, ..sample });
        self.sampled.store(true, Ordering::Relaxed);
    }

    /// The sample, events and repeats since the last report, if one is due.
    fn take(&self, now_ms: i64, at_once: bool, accepted: u64, duplicates: u64) -> Option<(Sample, u64, u64)> {
        if self.wants_sample() {
            return None;
        }
        let mut report = lock(&self.report);
        let due = report.told_ms.is_none_or(|told| now_ms.saturating_sub(told) >= PERIOD_MS);
        if !due && !at_once {
            return None;
        }
        let sample = report.sample.take()?;
        self.sampled.store(false, Ordering::Relaxed);
        let repeats = duplicates.saturating_sub(report.duplicates_before);
        let events = accepted.saturating_sub(report.accepted_before) + repeats;
        *report = Report {
            sample: None,
            told_ms: Some(now_ms),
            accepted_before: accepted,
            duplicates_before: duplicates,
        };
        Some((sample, events, repeats))
    }
}

impl Broker {
    /// Writes the reports that are due to the log; with `at_once` (before the end) all that have something to tell.
    pub fn report_repeats(&self, at_once: bool) {
        for topic in self.all_topics() {
            if let Some(sentence) = self.repeats_of(&topic, at_once) {
                tracing::warn!("{sentence}");
            }
        }
    }

    fn repeats_of(&self, topic: &Topic, at_once: bool) -> Option<String> {
        let dedupe = topic.dedupe.as_ref()?;
        let counters = &topic.counters;
        let accepted = counters.produced_records.load(Ordering::Relaxed);
        let duplicates = counters.duplicates.load(Ordering::Relaxed);
        let now_ms = self.clock.now_ms();
        let (sample, events, repeats) = counters.repeats.take(now_ms, at_once, accepted, duplicates)?;
        let field = match dedupe.source() {
            EventIdSource::Header => String::new(),
            EventIdSource::JsonField(field) => format!(" (field {field})"),
        };
        let place = match self.first_place(topic, dedupe, &sample) {
            Some((at, offset)) => format!("already at {at} offset {offset}"),
            None => format!("sent again to {}", sample.at),
        };
        Some(format!(
            "{} of {} events of {} repeat an event-id{field} within {} and were dropped; first: {}, {place}",
            thousands(repeats),
            thousands(events),
            topic.meta.name,
            span(dedupe.window_ms),
            sample.text,
        ))
    }

    /// Where the event that `sample` repeats lies, if it is near enough to the end of its partition or, for events that
    /// changed their partition, of another.
    fn first_place(
        &self,
        topic: &Topic,
        dedupe: &TopicDedupe,
        sample: &Sample,
    ) -> Option<(TopicPartition, i64)> {
        let mut budget = LOOK_BACK_BYTES;
        let mut extractor = dedupe.extractor();
        let others = (0..topic.meta.partitions).filter(|partition| *partition != sample.at.partition);
        for partition in std::iter::once(sample.at.partition).chain(others) {
            let at = TopicPartition::new(Arc::clone(&topic.meta.name), partition);
            let (start, end) = self.log.offsets(&at).ok()?;
            let end = if partition == sample.at.partition { sample.end.min(end) } else { end };
            if let Some(offset) = self.look_back(&at, (start, end), sample.id, &mut extractor, &mut budget) {
                return Some((at, offset));
            }
        }
        None
    }

    /// The last record of `at` in `start..end` whose event id is `id`.
    fn look_back(
        &self,
        at: &TopicPartition,
        (start, end): (i64, i64),
        id: EventId,
        extractor: &mut Extractor,
        budget: &mut usize,
    ) -> Option<i64> {
        let mut upper = end;
        while upper > start && *budget > 0 {
            let lower = start.max(upper - STEP_OFFSETS);
            let (mut next, mut found) = (lower, None);
            while next < upper && *budget > 0 {
                let out = self.log.read(at, next, STEP_BYTES).ok()?;
                next = out.batches.last()?.next_offset();
                for batch in &out.batches {
                    *budget = budget.saturating_sub(batch.bytes().len());
                    for record in batch.records().ok()?.iter().filter_map(Result::ok) {
                        if (lower..upper).contains(&record.offset) && extractor.id_of(&record) == id {
                            found = Some(record.offset);
                        }
                    }
                }
            }
            if found.is_some() {
                return found;
            }
            upper = lower;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use herdsman_host::{RealDisk, SimClock};
    use herdsman_log::LogConfig;
    use herdsman_record::{BatchBuilder, Compression};

    use super::*;
    use crate::BrokerConfig;

    /// A broker with topic `finds` of three partitions whose ids are in `event-id`, or in field `id` of the value.
    fn broker(dir: &std::path::Path, clock: &Arc<SimClock>, field: Option<&str>) -> Broker {
        let clock: Arc<dyn herdsman_host::Clock> = Arc::<SimClock>::clone(clock);
        let (broker, _) =
            Broker::open(Arc::new(RealDisk), dir, clock, LogConfig::default(), BrokerConfig::default())
                .unwrap();
        let mut configs = BTreeMap::from([("herdsman.dedupe.window.ms".to_owned(), "3600000".to_owned())]);
        configs.extend(field.map(|field| ("herdsman.event.id".to_owned(), field.to_owned())));
        broker.create_topic("finds", 3, &configs).unwrap();
        broker
    }

    fn send(broker: &Broker, partition: i32, ids: impl IntoIterator<Item = u32>) {
        let mut builder = BatchBuilder::new();
        for id in ids {
            let header = format!("{id:04x}");
            let value = format!("{{\"at\":1,\"id\":{id}}}");
            let headers = [("event-id", Some(header.as_bytes()))];
            builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &headers);
        }
        let batch = builder.finish(Compression::Lz4).unwrap();
        broker.produce(&TopicPartition::new("finds", partition), batch).unwrap();
    }

    fn told(broker: &Broker, at_once: bool) -> Option<String> {
        broker.repeats_of(&broker.topic("finds").unwrap(), at_once)
    }

    #[test]
    fn repeats_are_counted_and_the_first_is_named_with_where_it_lies_at_most_once_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SimClock::new(1_700_000_000_000));
        let broker = broker(dir.path(), &clock, None);
        (0..40).for_each(|hundreds| send(&broker, 2, hundreds * 1_000..(hundreds + 1) * 1_000));
        assert_eq!(told(&broker, true), None);
        send(&broker, 2, 0x7f3a..0x7f3a + 12);
        send(&broker, 1, [1, 50_000]);
        let first = "13 of 40,014 events of finds repeat an event-id within 1 h and were dropped; first: 7f3a, already at finds-2 offset 32570";
        assert_eq!(told(&broker, false).as_deref(), Some(first));
        send(&broker, 1, [1, 50_001]);
        assert_eq!(told(&broker, false), None);
        clock.advance_ns(60_000_000_000);
        let second = "1 of 2 events of finds repeat an event-id within 1 h and were dropped; first: 0001, already at finds-2 offset 1";
        assert_eq!(told(&broker, false).as_deref(), Some(second));
        send(&broker, 0, [50_002, 50_002]);
        let within = "1 of 2 events of finds repeat an event-id within 1 h and were dropped; first: c352, already at finds-0 offset 0";
        assert_eq!(told(&broker, true).as_deref(), Some(within));
    }

    #[test]
    fn an_id_in_a_field_is_named_with_its_field_and_found_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SimClock::new(1_700_000_000_000));
        send(&broker(dir.path(), &clock, Some("id")), 0, [7, 8]);
        let (again, _) = Broker::open(
            Arc::new(RealDisk),
            dir.path(),
            clock,
            LogConfig::default(),
            BrokerConfig::default(),
        )
        .unwrap();
        send(&again, 0, [8]);
        let sentence = "1 of 1 events of finds repeat an event-id (field id) within 1 h and were dropped; first: 8, already at finds-0 offset 1";
        assert_eq!(told(&again, false).as_deref(), Some(sentence));
        again.log().delete_records_before(&TopicPartition::new("finds", 0), 2).unwrap();
        send(&again, 1, [7]);
        let gone = "1 of 1 events of finds repeat an event-id (field id) within 1 h and were dropped; first: 7, sent again to finds-1";
        assert_eq!(told(&again, true).as_deref(), Some(gone));
    }
}
