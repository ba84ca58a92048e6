//! The near cache: a bounded table in this process, read by whole batches under one shared lock.
//!
//! Readers take the lock once per 256 keys and only set a flag on a hit; the guard's thread is the only writer and
//! takes it once per answered batch. Eviction is CLOCK: the hand passes over entries read since its last visit once.
//! What other clients change is forgotten as soon as the cache tells (RESP3 client tracking), and by its own expiry in any case.
//! A value read from the table is a reference-counted `Bytes`, so a hit copies no bytes.

use std::hash::BuildHasher;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use hashbrown::HashTable;
use rapidhash::fast::RandomState;

use crate::expiry::{draws_from_ns, is_early, scatter};

const CHUNK: usize = 256;

#[derive(Debug)]
struct Entry {
    key: Bytes,
    value: Option<Bytes>,
    hash: u64,
    /// Until then the value is answered without a thought (monotonic ns).
    fresh_until_ns: u64,
    /// Until then it is answered while one look-up refreshes it.
    stale_until_ns: u64,
    /// From then on a hit needs a thought: it is stale, or may be loaded ahead of its expiry.
    thought_from_ns: u64,
    /// When the cache forgets it, and what its load took: known to the process that loaded it, otherwise 0.
    expires_ns: u64,
    load_ns: u64,
    visited: AtomicBool,
    refreshing: AtomicBool,
    /// Invalidations on their way to the cache: until they are through, the entry answers nothing and takes nothing.
    blocked: u32,
}

#[derive(Debug, Default)]
struct Table {
    index: HashTable<u32>,
    entries: Vec<Entry>,
    hand: usize,
}

/// What one pass over a batch of keys found.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// Positions of the keys that must be asked for.
    pub(crate) missing: Vec<u32>,
    /// Positions answered with a value past its time that this caller is to refresh.
    pub(crate) refresh: Vec<u32>,
    /// Keys answered with a value past its time.
    pub(crate) stale: u64,
    /// Positions answered with a value that this caller is to have loaded ahead of its expiry.
    pub(crate) renew: Vec<u32>,
}

/// One answer to keep.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
    pub(crate) fresh_until_ns: u64,
    pub(crate) stale_until_ns: u64,
    /// When the cache forgets it; 0 when this process did not load it.
    pub(crate) expires_ns: u64,
    pub(crate) load_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct NearCache {
    table: RwLock<Table>,
    hasher: RandomState,
    capacity: usize,
}

impl NearCache {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(u32::MAX as usize - 1);
        Self { table: RwLock::default(), hasher: RandomState::new(), capacity }
    }

    /// Appends one answer per key to `out` (`None` also for keys listed in `pass.missing`).
    pub(crate) fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        now_ns: u64,
        out: &mut Vec<Option<Bytes>>,
        pass: &mut Pass,
    ) {
        out.reserve(keys.len());
        let first = out.len();
        if self.capacity == 0 {
            out.resize(first + keys.len(), None);
            pass.missing.extend(0..u32::try_from(keys.len()).unwrap_or(u32::MAX));
            return;
        }
        let mut hashes = [0_u64; CHUNK];
        for (chunk_number, chunk) in keys.chunks(CHUNK).enumerate() {
            for (hash, key) in hashes.iter_mut().zip(chunk) {
                *hash = self.hasher.hash_one(key.as_ref());
            }
            let table = self.table.read().expect("no writer panics while it holds the near cache");
            for (offset, (key, hash)) in chunk.iter().zip(hashes).enumerate() {
                let position = || u32::try_from(chunk_number * CHUNK + offset).unwrap_or(u32::MAX);
                let Some(entry) =
                    table.find(hash, key.as_ref()).filter(|e| now_ns < e.stale_until_ns && e.blocked == 0)
                else {
                    out.push(None);
                    pass.missing.push(position());
                    continue;
                };
                if !entry.visited.load(Relaxed) {
                    entry.visited.store(true, Relaxed);
                }
                if now_ns >= entry.thought_from_ns {
                    entry.think(now_ns, position(), pass);
                }
                out.push(entry.value.clone());
            }
        }
    }

    /// Keeps answers; one lock for all of them.
    pub(crate) fn insert_many(&self, kept: impl Iterator<Item = Keep>, now_ns: u64) {
        if self.capacity == 0 {
            return;
        }
        let mut table = self.table.write().expect("no writer panics while it holds the near cache");
        for keep in kept {
            let hash = self.hasher.hash_one(keep.key.as_ref());
            table.insert(hash, keep, self.capacity, now_ns);
        }
    }

    /// Answers nothing about `keys` until they are learnt again.
    pub(crate) fn forget(&self, keys: impl Iterator<Item = Bytes>) {
        if self.capacity == 0 {
            return;
        }
        let mut table = self.table.write().expect("no writer panics while it holds the near cache");
        for key in keys {
            let hash = self.hasher.hash_one(key.as_ref());
            if let Some(slot) = table.slot(hash, &key) {
                table.entries[slot as usize].expire();
            }
        }
    }

    /// As [`NearCache::forget`], for all keys.
    pub(crate) fn forget_all(&self) {
        let mut table = self.table.write().expect("no writer panics while it holds the near cache");
        table.entries.iter_mut().for_each(Entry::expire);
    }

    /// Forgets `keys` and refuses to learn them again until `release` is called as often as this.
    pub(crate) fn block(&self, keys: &[Bytes]) {
        if self.capacity == 0 {
            return;
        }
        let mut table = self.table.write().expect("no writer panics while it holds the near cache");
        for key in keys {
            let hash = self.hasher.hash_one(key.as_ref());
            let Some(slot) = table.slot(hash, key) else {
                let nothing = Keep {
                    key: key.clone(),
                    value: None,
                    fresh_until_ns: 0,
                    stale_until_ns: 0,
                    expires_ns: 0,
                    load_ns: 0,
                };
                if let Some(slot) = table.insert(hash, nothing, self.capacity, 0) {
                    table.entries[slot as usize].blocked = 1;
                }
                continue;
            };
            let entry = &mut table.entries[slot as usize];
            entry.blocked += 1;
            entry.expire();
            entry.value = None;
            entry.expires_ns = 0;
        }
    }

    /// Undoes one `block`.
    pub(crate) fn release(&self, keys: &[Bytes]) {
        if self.capacity == 0 {
            return;
        }
        let mut table = self.table.write().expect("no writer panics while it holds the near cache");
        for key in keys {
            let hash = self.hasher.hash_one(key.as_ref());
            if let Some(slot) = table.slot(hash, key) {
                let entry = &mut table.entries[slot as usize];
                entry.blocked = entry.blocked.saturating_sub(1);
            }
        }
    }

    /// When the cache forgets what this process has loaded for `key`; 0: unknown.
    pub(crate) fn expires_ns(&self, key: &[u8]) -> u64 {
        let table = self.table.read().expect("no writer panics while it holds the near cache");
        table.find(self.hasher.hash_one(key), key).map_or(0, |entry| entry.expires_ns)
    }

    /// Entries held now, expired ones included.
    pub(crate) fn len(&self) -> usize {
        self.table.read().expect("no writer panics while it holds the near cache").entries.len()
    }
}

impl Entry {
    /// The value stays for a moment to be compared with: read again unchanged, it is still this process's to renew.
    fn expire(&mut self) {
        self.fresh_until_ns = 0;
        self.stale_until_ns = 0;
        self.thought_from_ns = 0;
    }

    fn learn(&mut self, keep: Keep, now_ns: u64) {
        // The same value read again from the cache: it still expires when this process said.
        let known = keep.expires_ns == 0 && self.expires_ns > now_ns && self.value == keep.value;
        if !known {
            (self.expires_ns, self.load_ns) = (keep.expires_ns, keep.load_ns);
        }
        self.value = keep.value;
        self.fresh_until_ns = keep.fresh_until_ns;
        self.stale_until_ns = keep.stale_until_ns;
        self.thought_from_ns = keep.fresh_until_ns.min(draws_from_ns(self.expires_ns, self.load_ns));
        self.refreshing.store(false, Relaxed);
    }

    /// A hit that is stale or about to expire: says what this caller is to do about it.
    #[cold]
    fn think(&self, now_ns: u64, position: u32, pass: &mut Pass) {
        if now_ns >= self.fresh_until_ns {
            pass.stale += 1;
            if !self.refreshing.swap(true, Relaxed) {
                pass.refresh.push(position);
            }
        } else if self.value.is_some()
            && is_early(now_ns, self.expires_ns, self.load_ns, scatter(now_ns ^ self.hash))
            && !self.refreshing.swap(true, Relaxed)
        {
            pass.renew.push(position);
        }
    }
}

impl Table {
    fn find(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        let slot = self.index.find(hash, |slot| self.entries[*slot as usize].key == key)?;
        Some(&self.entries[*slot as usize])
    }

    fn slot(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |slot| self.entries[*slot as usize].key == key).copied()
    }

    fn insert(&mut self, hash: u64, keep: Keep, capacity: usize, now_ns: u64) -> Option<u32> {
        if let Some(slot) = self.slot(hash, &keep.key) {
            let entry = &mut self.entries[slot as usize];
            if entry.blocked == 0 {
                entry.learn(keep, now_ns);
            }
            return Some(slot);
        }
        let mut entry = Entry {
            key: keep.key.clone(),
            value: None,
            hash,
            fresh_until_ns: 0,
            stale_until_ns: 0,
            thought_from_ns: 0,
            expires_ns: 0,
            load_ns: 0,
            visited: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
            blocked: 0,
        };
        entry.learn(keep, now_ns);
        let slot = if self.entries.len() < capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let slot = self.make_room()?;
            self.entries[slot] = entry;
            slot
        };
        let slot = u32::try_from(slot).expect("capacity is below 2^32");
        let entries = &self.entries;
        self.index.insert_unique(hash, slot, |slot| entries[*slot as usize].hash);
        Some(slot)
    }

    /// CLOCK: two rounds at most, so that a table full of blocked entries ends the search.
    fn make_room(&mut self) -> Option<usize> {
        for _ in 0..self.entries.len() * 2 {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &mut self.entries[slot];
            if entry.blocked > 0 || std::mem::take(entry.visited.get_mut()) {
                continue;
            }
            let number = u32::try_from(slot).expect("capacity is below 2^32");
            if let Ok(found) = self.index.find_entry(entry.hash, |other| *other == number) {
                found.remove();
            }
            return Some(slot);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Bytes {
        Bytes::from(format!("key:{n:08}"))
    }

    fn keep(n: usize, value: Option<&'static str>, until: u64) -> Keep {
        let value = value.map(|text| Bytes::from_static(text.as_bytes()));
        let key = key(n);
        Keep { key, value, fresh_until_ns: until, stale_until_ns: until + 10, expires_ns: 0, load_ns: 0 }
    }

    fn ask(near: &NearCache, keys: &[Bytes], now: u64) -> (Vec<Option<Bytes>>, Pass) {
        let (mut out, mut pass) = (Vec::new(), Pass::default());
        near.get_many(keys, now, &mut out, &mut pass);
        (out, pass)
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_read() {
        let near = NearCache::new(100);
        near.insert_many((0..50).map(|n| keep(n, Some("hot"), 1_000)), 0);
        for round in 0..100 {
            let hot: Vec<_> = (0..50).map(key).collect();
            assert!(ask(&near, &hot, 1).1.missing.is_empty(), "round {round}");
            near.insert_many((0..25).map(|n| keep(1_000 + round * 25 + n, Some("scan"), 1_000)), 0);
            assert_eq!(near.len(), (75 + round * 25).min(100));
        }
    }

    #[test]
    fn answers_expire_go_stale_once_and_remember_absence() {
        let near = NearCache::new(10);
        near.insert_many([keep(1, Some("v"), 100), keep(2, None, 100)].into_iter(), 0);
        let (out, pass) = ask(&near, &[key(1), key(2), key(3)], 99);
        assert_eq!((out[0].as_deref(), out[1].as_deref(), pass.missing), (Some(&b"v"[..]), None, vec![2]));
        let (out, pass) = ask(&near, &[key(1)], 105);
        assert_eq!((out[0].as_deref(), pass.stale, pass.refresh), (Some(&b"v"[..]), 1, vec![0]));
        let (_, pass) = ask(&near, &[key(1)], 106);
        assert_eq!((pass.stale, pass.refresh.len()), (1, 0), "one caller refreshes");
        assert_eq!(ask(&near, &[key(1)], 110).1.missing, vec![0]);
    }

    #[test]
    fn one_caller_renews_what_this_process_loaded_ahead_of_its_expiry() {
        let near = NearCache::new(10);
        let own = Keep { expires_ns: 1_000, load_ns: 10, ..keep(1, Some("v"), 500) };
        near.insert_many([own, keep(2, Some("v"), 1_000)].into_iter(), 0);
        near.insert_many([keep(1, Some("v"), 1_000)].into_iter(), 400);
        let renewals = |from: u64, to: u64| -> Vec<u32> {
            (from..to).flat_map(|now| ask(&near, &[key(1), key(2)], now).1.renew).collect()
        };
        assert_eq!(renewals(0, 800), Vec::<u32>::new(), "out of reach");
        assert_eq!(
            renewals(800, 1_000),
            vec![0],
            "read again, it still expires at 1,000; asked of one caller"
        );
        near.insert_many([keep(1, Some("other"), 2_000)].into_iter(), 900);
        assert_eq!(
            renewals(900, 1_100),
            Vec::<u32>::new(),
            "a value of somebody else's is not ours to renew"
        );
    }

    #[test]
    fn a_blocked_key_neither_answers_nor_learns_until_released() {
        let near = NearCache::new(10);
        near.insert_many([keep(1, Some("old"), 100)].into_iter(), 0);
        near.block(&[key(1), key(2)]);
        near.insert_many([keep(1, Some("old"), 100), keep(2, Some("old"), 100)].into_iter(), 0);
        assert_eq!(ask(&near, &[key(1), key(2)], 1).1.missing, vec![0, 1]);
        near.release(&[key(1), key(2)]);
        assert_eq!(ask(&near, &[key(1)], 1).1.missing, vec![0], "the old value is gone");
        near.insert_many([keep(1, Some("new"), 100)].into_iter(), 0);
        assert_eq!(ask(&near, &[key(1)], 1).0[0].as_deref(), Some(&b"new"[..]));
    }
}
