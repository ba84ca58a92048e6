//! A reader in a fetch session (KIP-227): it names only what changed, and is told only what is new.

use std::collections::BTreeSet;

use herdsman_host::Clock as _;

use super::World;
use super::door::page_of;
use super::plant::Fault;
use super::truth::Kind;

/// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH.
const SESSION_LOST: [i16; 2] = [70, 71];
/// More than all partitions hold.
const ALL_BYTES: i32 = 1 << 20;

/// The reader.
#[derive(Debug, Default)]
pub struct SessionReader {
    /// Id and epoch of its next request.
    session: (i32, i32),
    positions: Vec<i64>,
    /// Partitions whose position the broker does not know.
    changed: BTreeSet<usize>,
}

impl World {
    /// One incremental fetch.
    pub(super) fn read_in_session(&mut self) -> Result<(), String> {
        let reader = &mut self.session_reader;
        if reader.session.0 == 0 {
            reader.session = (0, 0);
            reader.positions.resize(self.truth.parts.len(), 0);
            reader.changed = (0..self.truth.parts.len()).collect();
        }
        let name_of = |part: &usize| (self.truth.parts[*part].name.clone(), reader.positions[*part]);
        let asked: Vec<_> = reader.changed.iter().map(name_of).collect();
        let Some(door) = &mut self.door else { return Ok(()) };
        let mut reply = door.fetch(&asked, false, ALL_BYTES, reader.session)?;
        if self.disk.is_dead() {
            return self.restart(false);
        }
        if SESSION_LOST.contains(&reply.error_code) {
            self.session_reader.session = (0, 0);
            return Ok(());
        }
        if reply.error_code != 0 {
            return Err(format!("a fetch session fails with code {}", reply.error_code));
        }
        if self.planted == Some(Fault::FetchSessionStale) && reader.session.1 > 0 {
            reply.topics.pop();
        }
        reader.session = (reply.session_id, reader.session.1 + 1);
        reader.changed.clear();
        let now_ms = self.clock.now_ms();
        let mut silent: BTreeSet<usize> = (0..self.truth.parts.len()).collect();
        for topic in reply.topics {
            for partition in topic.partitions {
                let name = herdsman_record::TopicPartition::new(topic.name.as_str(), partition.index);
                let part = self.truth.part_of(&name)?;
                let position = self.session_reader.positions[part];
                let next = self.truth.check_page(part, position, false, &page_of(partition)?, now_ms)?;
                silent.remove(&part);
                if next != position {
                    self.session_reader.positions[part] = next;
                    self.session_reader.changed.insert(part);
                }
            }
        }
        for part in silent.iter().map(|part| &self.truth.parts[*part]).filter(|part| part.kind != Kind::Table)
        {
            let position = self.truth.part_of(&part.name).map(|at| self.session_reader.positions[at])?;
            if let Some((at, record)) = part.records.range(position.max(part.start)..).next() {
                let name = &part.name;
                return Err(format!(
                    "{name}: a session at {position} is not told of record {} at {at}",
                    record.id
                ));
            }
        }
        self.note(|| format!("session: {} partitions are silent", silent.len()));
        Ok(())
    }
}
