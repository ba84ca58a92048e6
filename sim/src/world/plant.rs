//! Known faults, planted at the doors of the broker: its disk, its requests and its answers. The product itself holds none.
//!
//! A switch inside the product would have to be kept out of the shipped program, which one build of the whole workspace shares
//! features with; a fault at a door shows the same to clients and costs the product nothing.

use std::path::Path;

use bytes::Bytes;
use herdsman_host::{Call, Fate};
use herdsman_record::{Batch, BatchBuilder, Compression, Header};

use super::door::{Answer, Ask, Claim, Page};

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write that failed is acknowledged.
    AckBeforeWrite,
    /// Segment and journal are never synced.
    AckBeforeSync,
    /// A failed sync is tried again, and the second one's success believed.
    SyncErrorRetried,
    /// What stands behind the last whole batch is not cut.
    TornTailAccepted,
    /// The intent of an atomic append is not written.
    AtomicAppendInPart,
    /// A late end of an old transaction counts for the present one.
    EndOfOldEpoch,
    /// A late batch of an old transaction is written in the name of the present one.
    ProduceOfOldEpoch,
    /// Offsets of a transaction are committed at once.
    OffsetsOutsideTransaction,
    /// The last stable offset does not go on.
    LastStableStuck,
    /// Readers are not told which transactions were aborted.
    AbortedRecordRead,
    /// A repeated batch is written anew after a start.
    ProducersLostOnRestart,
    /// A group's offset is 0 after a start.
    OffsetResetToZero,
    /// A commit is acknowledged and thrown away.
    CommitLost,
    /// DeleteRecords also takes the next record.
    StartAboveDeleted,
    /// Compaction drops the newest record of a key.
    LiveKeyDropped,
    /// Tombstones go at once.
    TombstoneTooEarly,
    /// Retention deletes the active segment.
    ActiveSegmentDeleted,
    /// A fetch gives what was there a while ago.
    FetchStale,
    /// The window of event ids ends early.
    WindowTooShort,
    /// A reader is told the wrong offset.
    ReplyToOtherRequest,
    /// A member that lost its partition commits for it.
    CommitOfOldMember,
    /// An incremental fetch leaves out a partition that has news.
    FetchSessionStale,
}

/// All of them, with the name in the ledger.
pub const FAULTS: [(Fault, &str); 22] = [
    (Fault::AckBeforeWrite, "ack_before_write"),
    (Fault::AckBeforeSync, "ack_before_sync"),
    (Fault::SyncErrorRetried, "sync_error_retried"),
    (Fault::TornTailAccepted, "torn_tail_accepted"),
    (Fault::AtomicAppendInPart, "atomic_append_in_part"),
    (Fault::EndOfOldEpoch, "end_of_old_epoch"),
    (Fault::ProduceOfOldEpoch, "produce_of_old_epoch"),
    (Fault::OffsetsOutsideTransaction, "offsets_outside_transaction"),
    (Fault::LastStableStuck, "last_stable_stuck"),
    (Fault::AbortedRecordRead, "aborted_record_read"),
    (Fault::ProducersLostOnRestart, "producers_lost_on_restart"),
    (Fault::OffsetResetToZero, "offset_reset_to_zero"),
    (Fault::CommitLost, "commit_lost"),
    (Fault::StartAboveDeleted, "start_above_deleted"),
    (Fault::LiveKeyDropped, "live_key_dropped"),
    (Fault::TombstoneTooEarly, "tombstone_too_early"),
    (Fault::ActiveSegmentDeleted, "active_segment_deleted"),
    (Fault::FetchStale, "fetch_stale"),
    (Fault::WindowTooShort, "window_too_short"),
    (Fault::ReplyToOtherRequest, "reply_to_other_request"),
    (Fault::CommitOfOldMember, "commit_of_old_member"),
    (Fault::FetchSessionStale, "fetch_session_stale"),
];

/// The records of a batch, sent by nobody.
fn anonymous(bytes: &Bytes) -> Bytes {
    let mut builder = BatchBuilder::new();
    if let Ok(records) = Batch::from_bytes(bytes.clone()).and_then(|batch| batch.records()) {
        for record in records.iter().flatten() {
            builder.append_encoded(record.timestamp_ms, record.key, record.value, record.headers);
        }
    }
    builder.finish(Compression::None).map_or_else(|_| bytes.clone(), Batch::into_bytes)
}

impl Fault {
    /// What becomes of a call on the file at `path`.
    pub fn fate(self, path: &Path, call: Call) -> Fate {
        let is_segment = path.extension().is_some_and(|extension| extension == "log");
        let is_journal = path.file_stem().is_some_and(|stem| stem == "journal");
        match (self, call) {
            (Self::AckBeforeSync, Call::Sync) if is_segment || is_journal => Fate::Skipped,
            (Self::SyncErrorRetried, Call::Sync) => Fate::Retried,
            (Self::AtomicAppendInPart, Call::Write) if is_journal => Fate::Skipped,
            (Self::TornTailAccepted, Call::Truncate) if is_segment => Fate::Skipped,
            _ => Fate::Done,
        }
    }

    /// What reaches the broker of a request; `present`: the producer that its transactional id has now, `is_known`: its batch was
    /// acknowledged before a start. `None`: nothing does.
    pub fn on_request(self, ask: &Ask, present: Option<Claim>, is_known: bool) -> Option<Ask> {
        let mut ask = ask.clone();
        match (self, &mut ask) {
            (Self::ProduceOfOldEpoch, Ask::Produce { tid, bytes, .. }) if tid.is_some() => {
                let header = Header::parse(bytes).ok()?;
                if present.is_some_and(|present| present != (header.producer_id, header.producer_epoch)) {
                    (*tid, *bytes) = (None, anonymous(bytes));
                }
            }
            (Self::ProducersLostOnRestart, Ask::Produce { tid: None, bytes, .. }) if is_known => {
                *bytes = anonymous(bytes);
            }
            (Self::EndOfOldEpoch, Ask::End { claim, .. }) => *claim = present.unwrap_or(*claim),
            (Self::CommitLost, Ask::Commit { offset, .. }) if *offset % 3 == 0 => return None,
            (Self::CommitOfOldMember, Ask::Commit { member, .. }) => *member = None,
            (Self::StartAboveDeleted, Ask::Delete { offset, .. }) => *offset += 1,
            (Self::OffsetsOutsideTransaction, Ask::TxnOffset { group, at, offset, .. }) => {
                let (group, at, offset) = (group.clone(), at.clone(), *offset);
                return Some(Ask::Commit { group, member: None, at, offset });
            }
            _ => {}
        }
        Some(ask)
    }

    /// What a client gets of an answer; `after_start`: the broker was started before.
    pub fn on_answer(self, ask: &Ask, answer: &mut Answer, end: i64, after_start: bool) {
        match (self, ask) {
            (Self::AckBeforeWrite, Ask::Produce { .. }) if answer.code == 56 => {
                (answer.code, answer.offset) = (0, end);
            }
            (Self::OffsetResetToZero, Ask::Committed { .. }) if after_start && answer.offset > 0 => {
                answer.offset = 0;
            }
            (Self::ReplyToOtherRequest, Ask::Committed { .. }) => answer.offset += 1,
            _ => {}
        }
    }

    /// What a reader gets of a page of the topic `topic`.
    pub fn on_page(self, page: &mut Page, topic: &str, committed: bool) {
        match self {
            Self::AbortedRecordRead => page.aborted.clear(),
            Self::LastStableStuck if committed && page.last_stable > 8 => {
                page.last_stable = 8;
                page.batches.retain(|batch| batch.next_offset() <= 8);
            }
            Self::FetchStale => {
                if let Some(newest) = page.batches.pop() {
                    page.high_watermark = newest.base_offset();
                    page.last_stable = page.last_stable.min(page.high_watermark);
                }
            }
            Self::LiveKeyDropped if topic == "table" => drop(page.batches.pop()),
            _ => {}
        }
    }

    /// What the topic's config says instead of what was asked for.
    pub fn on_config(self, key: &str) -> Option<&'static str> {
        match (self, key) {
            (Self::TombstoneTooEarly, "delete.retention.ms") => Some("0"),
            (Self::WindowTooShort, "herdsman.dedupe.window.ms") => Some("20"),
            _ => None,
        }
    }
}
