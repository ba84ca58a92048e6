//! De-duplication by event id in front of a cluster that does not know it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use herdsman_broker::dedupe::{Dedupe, EventIdSource, Extractor, Fresh, MEMORY_BYTES_DEFAULT};
use herdsman_bus::BusError;
use herdsman_record::{Batch, EventId};

/// The window of one topic.
pub(crate) struct TopicDedupe {
    seen: Mutex<Seen>,
}

/// The window and what reads ids, under one lock: an id counts as accepted only once its record is delivered.
pub(crate) struct Seen {
    dedupe: Dedupe,
    extractor: Extractor,
}

/// What a batch's ids said.
pub(crate) struct Filtered {
    pub(crate) ids: Vec<EventId>,
    pub(crate) fresh: Fresh,
}

impl Filtered {
    pub(crate) fn accepted(&self) -> usize {
        self.fresh.len() - self.fresh.duplicates()
    }
}

impl TopicDedupe {
    /// The window that `configs` ask for, if any.
    pub(crate) fn from_configs(configs: &BTreeMap<String, String>) -> Option<Self> {
        let number = |key: &str| configs.get(key).and_then(|value| value.parse::<i64>().ok());
        let window_ms = number("herdsman.dedupe.window.ms").filter(|window| *window > 0)?;
        let memory = number("herdsman.dedupe.memory.bytes").and_then(|bytes| usize::try_from(bytes).ok());
        let source = EventIdSource::from_config(configs.get("herdsman.event.id").map(String::as_str));
        Some(Self {
            seen: Mutex::new(Seen {
                dedupe: Dedupe::new(window_ms, memory.unwrap_or(MEMORY_BYTES_DEFAULT)),
                extractor: Extractor::new(source),
            }),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Ids that fit the memory budget.
    pub(crate) fn capacity(&self) -> usize {
        self.dedupe.capacity()
    }

    /// Learns ids that the topic holds already.
    pub(crate) fn restore(&mut self, batch: &Batch, now_ms: i64) -> Result<(), BusError> {
        let mut ids = Vec::new();
        self.ids(batch, &mut ids)?;
        self.dedupe.restore(&ids, now_ms);
        Ok(())
    }

    /// Which records of `batch` are new; they count as accepted unless taken back.
    pub(crate) fn filter(&mut self, batch: &Batch, now_ms: i64) -> Result<Filtered, BusError> {
        let mut ids = Vec::new();
        self.ids(batch, &mut ids)?;
        let fresh = self.dedupe.filter(&ids, now_ms);
        Ok(Filtered { ids, fresh })
    }

    /// The batch was not written after all.
    pub(crate) fn forget(&mut self, filtered: &Filtered) {
        self.dedupe.forget(&filtered.ids, &filtered.fresh);
    }

    fn ids(&mut self, batch: &Batch, ids: &mut Vec<EventId>) -> Result<(), BusError> {
        let records = batch.records()?;
        self.extractor
            .ids_of(&records, None, ids)
            .map_err(|error| BusError::Storage(format!("cannot read the event ids of a batch: {error}")))
    }
}
