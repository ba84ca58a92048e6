//! Keys with values and expiry, in bounded memory.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use hashbrown::HashTable;
use herdsman_host::Clock;
use rapidhash::fast::RandomState;

use super::Counts;

/// What an entry costs besides its key and value, bytes.
const OVERHEAD: usize = 112;
/// Databases, as Redis has them.
pub(crate) const DATABASES: usize = 16;

#[derive(Debug)]
struct Item {
    key: Bytes,
    value: Bytes,
    hash: u64,
    /// Wall clock, milliseconds; `i64::MAX` means never.
    expires_ms: i64,
    visited: bool,
}

#[derive(Debug, Default)]
struct Database {
    index: HashTable<u32>,
    items: Vec<Option<Item>>,
    free: Vec<u32>,
    hand: usize,
}

/// See the module.
pub(crate) struct Store {
    databases: [Database; DATABASES],
    hasher: RandomState,
    memory: usize,
    memory_max: usize,
    clock: Arc<dyn Clock>,
    now_ms: i64,
    pub(crate) counts: Arc<Counts>,
}

impl Store {
    pub(crate) fn new(memory_max: usize, clock: Arc<dyn Clock>, counts: Arc<Counts>) -> Self {
        let now_ms = clock.now_ms();
        Self {
            databases: Default::default(),
            hasher: RandomState::new(),
            memory: 0,
            memory_max,
            clock,
            now_ms,
            counts,
        }
    }

    /// Once per group of requests.
    pub(crate) fn read_clock(&mut self) {
        self.now_ms = self.clock.now_ms();
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    pub(crate) fn memory_max(&self) -> usize {
        self.memory_max
    }

    pub(crate) fn len(&self, db: usize) -> usize {
        self.databases[db].index.len()
    }

    fn slot(&self, db: usize, key: &[u8]) -> Option<u32> {
        let database = &self.databases[db];
        let holds = |slot: &u32| database.items[*slot as usize].as_ref().is_some_and(|item| item.key == key);
        database.index.find(self.hasher.hash_one(key), holds).copied()
    }

    fn live(&mut self, db: usize, key: &[u8]) -> Option<&mut Item> {
        let slot = self.slot(db, key)?;
        let item = self.databases[db].items[slot as usize].as_ref()?;
        if item.expires_ms <= self.now_ms {
            self.remove_slot(db, slot);
            return None;
        }
        self.databases[db].items[slot as usize].as_mut()
    }

    /// The value, marked as used.
    pub(crate) fn get(&mut self, db: usize, key: &[u8]) -> Option<Bytes> {
        let found = self.live(db, key).map(|item| {
            item.visited = true;
            item.value.clone()
        });
        let counter = if found.is_some() { &self.counts.hits } else { &self.counts.misses };
        counter.fetch_add(1, Relaxed);
        found
    }

    pub(crate) fn contains(&mut self, db: usize, key: &[u8]) -> bool {
        self.live(db, key).is_some()
    }

    /// When it expires, wall clock milliseconds; `i64::MAX` means never.
    pub(crate) fn expiry(&mut self, db: usize, key: &[u8]) -> Option<i64> {
        self.live(db, key).map(|item| item.expires_ms)
    }

    pub(crate) fn set_expiry(&mut self, db: usize, key: &[u8], expires_ms: i64) -> bool {
        self.live(db, key).map(|item| item.expires_ms = expires_ms).is_some()
    }

    /// Stores a value; makes room first.
    pub(crate) fn set(&mut self, db: usize, key: &[u8], value: &[u8], expires_ms: i64) {
        self.remove(db, key);
        let size = key.len() + value.len() + OVERHEAD;
        while self.memory + size > self.memory_max && self.evict(db) {}
        let hash = self.hasher.hash_one(key);
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        let item = Item { key, value, hash, expires_ms, visited: false };
        let database = &mut self.databases[db];
        let slot = database.free.pop().unwrap_or_else(|| {
            database.items.push(None);
            u32::try_from(database.items.len() - 1)
                .expect("memory is bounded far below 2^32 entries of 112 bytes")
        });
        database.items[slot as usize] = Some(item);
        let items = &database.items;
        database
            .index
            .insert_unique(hash, slot, |slot| items[*slot as usize].as_ref().map_or(0, |item| item.hash));
        self.memory += size;
    }

    pub(crate) fn remove(&mut self, db: usize, key: &[u8]) -> bool {
        let Some(slot) = self.slot(db, key) else { return false };
        self.remove_slot(db, slot).is_some_and(|expires_ms| expires_ms > self.now_ms)
    }

    fn remove_slot(&mut self, db: usize, slot: u32) -> Option<i64> {
        let database = &mut self.databases[db];
        let item = database.items[slot as usize].take()?;
        if let Ok(found) = database.index.find_entry(item.hash, |other| *other == slot) {
            found.remove();
        }
        database.free.push(slot);
        self.memory -= item.key.len() + item.value.len() + OVERHEAD;
        Some(item.expires_ms)
    }

    /// Takes back one entry, from this database if it has one.
    fn evict(&mut self, db: usize) -> bool {
        let Some(db) = std::iter::once(db).chain(0..DATABASES).find(|db| self.len(*db) > 0) else {
            return false;
        };
        loop {
            let database = &mut self.databases[db];
            let slot = database.hand % database.items.len();
            database.hand = slot + 1;
            let Some(item) = &mut database.items[slot] else { continue };
            if std::mem::take(&mut item.visited) && item.expires_ms > self.now_ms {
                continue;
            }
            self.counts.evicted.fetch_add(1, Relaxed);
            let slot = u32::try_from(slot).expect("slots are numbered in 32 bits");
            self.remove_slot(db, slot);
            return true;
        }
    }

    pub(crate) fn clear(&mut self, db: usize) {
        let database = std::mem::take(&mut self.databases[db]);
        let freed: usize =
            database.items.iter().flatten().map(|item| item.key.len() + item.value.len() + OVERHEAD).sum();
        self.memory -= freed;
    }
}
