//! Topics in memory: the whole [`Bus`] contract without a disk, for SQL cases, examples and tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herdsman_record::{Batch, TopicPartition};

use crate::{Bus, BusError, Committer, Fetched, OffsetRange, Produced, Reader, TopicDescription, TopicSpec};

#[derive(Default)]
struct Partition {
    batches: Vec<Batch>,
    end: i64,
}

struct Topic {
    spec: TopicSpec,
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    committed: HashMap<(String, TopicPartition), i64>,
    fences: HashMap<String, u64>,
}

impl State {
    fn partition(&mut self, at: &TopicPartition) -> Result<&mut Partition, BusError> {
        let index = usize::try_from(at.partition).unwrap_or(usize::MAX);
        self.topics
            .get_mut(at.topic.as_ref())
            .and_then(|topic| topic.partitions.get_mut(index))
            .ok_or_else(|| BusError::UnknownTopic(at.clone()))
    }

    fn append(&mut self, at: &TopicPartition, batch: Batch) -> Result<i64, BusError> {
        let partition = self.partition(at)?;
        let base = partition.end;
        let batch = batch.with_base_offset(base, 0);
        partition.end = batch.next_offset();
        partition.batches.push(batch);
        Ok(base)
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    appended: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bus that lives and dies with its last clone. No de-duplication, no retention.
#[derive(Clone, Default)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

impl MemoryBus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Bus for MemoryBus {
    fn url(&self) -> String {
        "memory".to_owned()
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<(), BusError> {
        let mut state = self.shared.lock();
        if state.topics.contains_key(&spec.name) {
            return Err(BusError::TopicExists(spec.name.clone()));
        }
        if spec.partitions < 1 {
            return Err(BusError::InvalidTopic {
                topic: spec.name.clone(),
                reason: format!("{} partitions asked, at least 1 is needed", spec.partitions),
            });
        }
        let partitions = (0..spec.partitions).map(|_| Partition::default()).collect();
        state.topics.insert(spec.name.clone(), Topic { spec: spec.clone(), partitions });
        Ok(())
    }

    fn delete_topic(&self, topic: &str) -> Result<(), BusError> {
        let mut state = self.shared.lock();
        if state.topics.remove(topic).is_none() {
            return Err(BusError::UnknownTopic(TopicPartition::new(topic, 0)));
        }
        state.committed.retain(|(_, at), _| at.topic.as_ref() != topic);
        Ok(())
    }

    fn topic(&self, topic: &str) -> Result<Option<TopicDescription>, BusError> {
        Ok(self.shared.lock().topics.get(topic).map(describe))
    }

    fn topics(&self) -> Result<Vec<TopicDescription>, BusError> {
        Ok(self.shared.lock().topics.values().map(describe).collect())
    }

    fn offsets(&self, topic_partition: &TopicPartition) -> Result<OffsetRange, BusError> {
        let mut state = self.shared.lock();
        let partition = state.partition(topic_partition)?;
        Ok(OffsetRange { start: 0, end: partition.end })
    }

    fn produce(&self, topic_partition: &TopicPartition, batch: Batch) -> Result<Produced, BusError> {
        let accepted = u32::try_from(batch.record_count()).unwrap_or(u32::MAX);
        let base_offset = self.shared.lock().append(topic_partition, batch)?;
        self.shared.appended.notify_all();
        Ok(Produced { base_offset, accepted, duplicates: 0 })
    }

    fn reader(&self, start: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BusError> {
        let mut reader = MemoryReader { shared: Arc::clone(&self.shared), positions: Vec::new() };
        for (topic_partition, offset) in start {
            reader.seek(topic_partition, *offset)?;
        }
        Ok(Box::new(reader))
    }

    fn committer(&self, id: &str) -> Result<Box<dyn Committer>, BusError> {
        let mut state = self.shared.lock();
        let fence = state.fences.entry(id.to_owned()).or_default();
        *fence += 1;
        Ok(Box::new(MemoryCommitter { shared: Arc::clone(&self.shared), id: id.to_owned(), fence: *fence }))
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, BusError> {
        let state = self.shared.lock();
        Ok(partitions
            .iter()
            .map(|at| state.committed.get(&(group.to_owned(), at.clone())).copied())
            .collect())
    }

    fn commit_offsets(&self, group: &str, offsets: &[(TopicPartition, i64)]) -> Result<(), BusError> {
        let mut state = self.shared.lock();
        for (at, offset) in offsets {
            state.committed.insert((group.to_owned(), at.clone()), *offset);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BusError> {
        Ok(())
    }
}

fn describe(topic: &Topic) -> TopicDescription {
    TopicDescription {
        name: topic.spec.name.clone(),
        partitions: topic.spec.partitions,
        internal: topic.spec.name.starts_with("__"),
        configs: topic.spec.configs.clone(),
    }
}

struct Position {
    at: TopicPartition,
    offset: i64,
    paused: bool,
}

struct MemoryReader {
    shared: Arc<Shared>,
    positions: Vec<Position>,
}

impl Reader for MemoryReader {
    fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Vec<Fetched>, BusError> {
        let mut state = self.shared.lock();
        let found = collect(&mut state, &mut self.positions, max_bytes)?;
        if !found.is_empty() || timeout.is_zero() {
            return Ok(found);
        }
        let (mut state, _) =
            self.shared.appended.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
        collect(&mut state, &mut self.positions, max_bytes)
    }

    fn seek(&mut self, topic_partition: &TopicPartition, offset: i64) -> Result<(), BusError> {
        let end = self.shared.lock().partition(topic_partition)?.end;
        if !(0..=end).contains(&offset) {
            return Err(BusError::OffsetOutOfRange {
                topic_partition: topic_partition.clone(),
                start: 0,
                end,
                asked: offset,
            });
        }
        match self.positions.iter_mut().find(|position| position.at == *topic_partition) {
            Some(position) => position.offset = offset,
            None => self.positions.push(Position { at: topic_partition.clone(), offset, paused: false }),
        }
        Ok(())
    }

    fn pause(&mut self, topic_partition: &TopicPartition, paused: bool) {
        for position in self.positions.iter_mut().filter(|position| position.at == *topic_partition) {
            position.paused = paused;
        }
    }
}

fn collect(
    state: &mut State,
    positions: &mut [Position],
    max_bytes: usize,
) -> Result<Vec<Fetched>, BusError> {
    let active = positions.iter().filter(|position| !position.paused).count().max(1);
    let share = (max_bytes / active).max(1);
    let mut found = Vec::new();
    for position in positions.iter_mut().filter(|position| !position.paused) {
        let partition = state.partition(&position.at)?;
        if position.offset >= partition.end {
            continue;
        }
        let first = partition.batches.partition_point(|batch| batch.next_offset() <= position.offset);
        let mut bytes = 0;
        let mut batches = Vec::new();
        for batch in partition.batches.iter().skip(first) {
            if !batches.is_empty() && bytes + batch.bytes().len() > share {
                break;
            }
            bytes += batch.bytes().len();
            batches.push(batch.clone());
        }
        let next_offset = batches.last().map_or(position.offset, Batch::next_offset);
        found.push(Fetched {
            topic_partition: position.at.clone(),
            batches,
            position: position.offset,
            next_offset,
            high_watermark: partition.end,
        });
        position.offset = next_offset;
    }
    Ok(found)
}

struct MemoryCommitter {
    shared: Arc<Shared>,
    id: String,
    fence: u64,
}

impl Committer for MemoryCommitter {
    fn commit(
        &mut self,
        outputs: Vec<(TopicPartition, Batch)>,
        group: &str,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Vec<i64>, BusError> {
        let mut state = self.shared.lock();
        if state.fences.get(&self.id) != Some(&self.fence) {
            return Err(BusError::Fenced(self.id.clone()));
        }
        for (at, _) in &outputs {
            state.partition(at)?;
        }
        let mut bases = Vec::with_capacity(outputs.len());
        for (at, batch) in outputs {
            bases.push(state.append(&at, batch)?);
        }
        for (at, offset) in offsets {
            state.committed.insert((group.to_owned(), at.clone()), *offset);
        }
        drop(state);
        self.shared.appended.notify_all();
        Ok(bases)
    }
}

#[cfg(test)]
mod tests {
    use herdsman_record::{BatchBuilder, Compression};

    use super::*;

    fn batch(values: &[&str]) -> Batch {
        let mut builder = BatchBuilder::new();
        for value in values {
            builder.append(0, None, Some(value.as_bytes()), &[]);
        }
        builder.finish(Compression::None).unwrap()
    }

    #[test]
    fn a_commit_writes_outputs_and_offsets_and_a_second_committer_fences_the_first() {
        let bus = MemoryBus::new();
        bus.create_topic(&TopicSpec { name: "finds".into(), partitions: 2, ..Default::default() }).unwrap();
        let at = TopicPartition::new("finds", 1);
        bus.produce(&at, batch(&["a", "b"])).unwrap();
        let mut first = bus.committer("query_1").unwrap();
        assert_eq!(first.commit(vec![(at.clone(), batch(&["c"]))], "g", &[(at.clone(), 2)]).unwrap(), [2]);
        assert_eq!(bus.committed("g", std::slice::from_ref(&at)).unwrap(), [Some(2)]);
        let _second = bus.committer("query_1").unwrap();
        assert!(matches!(first.commit(vec![], "g", &[]), Err(BusError::Fenced(_))));
        let mut reader = bus.reader(&[(at.clone(), 1)]).unwrap();
        let fetched = reader.poll(usize::MAX, Duration::ZERO).unwrap();
        assert_eq!((fetched[0].position, fetched[0].next_offset, fetched[0].batches.len()), (1, 3, 2));
    }
}
