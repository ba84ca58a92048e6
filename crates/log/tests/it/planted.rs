//! Faults planted on purpose between the log and its disk, to see that the simulation finds them.

use std::path::Path;

use herdsman_host::{Call, Fate};

/// A fault planted on purpose, to see that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// Syncs of segment and journal files do nothing: acknowledged before durable.
    SyncSkipped,
    /// Nothing is written to the journal: atomic appends are not.
    JournalSkipped,
    /// Torn tails are not cut.
    TailKept,
}

impl Planted {
    /// What becomes of a call on the file at `path`.
    pub(crate) fn fate(self, path: &Path, call: Call) -> Fate {
        let is_segment = path.extension().is_some_and(|extension| extension == "log");
        let is_journal = path.file_stem().is_some_and(|stem| stem == "journal");
        match (self, call) {
            (Self::SyncSkipped, Call::Sync) if is_segment || is_journal => Fate::Skipped,
            (Self::JournalSkipped, Call::Write) if is_journal => Fate::Skipped,
            (Self::TailKept, Call::Truncate) if is_segment => Fate::Skipped,
            _ => Fate::Done,
        }
    }
}
