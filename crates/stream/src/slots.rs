//! Dense group numbers for (key, window start), recycled when windows expire.
//!
//! One probe per row: 64-bit hash of the key mixed with the window start, then one comparison of start and key bytes.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::keys::hash_key;

/// Bytes of a key that lie beside the others; longer ones lie behind a pointer: one more cache miss for each look-up.
const KEY_INLINE: usize = 32;

/// What the operator knows of a group.
#[derive(Debug, Clone, Copy)]
pub struct SlotMeta {
    hash: u64,
    /// Window start, ms; 0 without windows.
    pub start: i64,
    /// Largest event time added, ms.
    pub time: i64,
    /// Batch in which it was last touched.
    pub epoch: u32,
    /// Whether it changed since the last commit.
    pub dirty: bool,
    /// Whether the changelog has it.
    pub logged: bool,
    live: bool,
}

/// All groups of one operator.
#[derive(Default)]
pub struct Slots {
    table: HashTable<u32>,
    metas: Vec<SlotMeta>,
    keys: Vec<SmallVec<[u8; KEY_INLINE]>>,
    free: Vec<u32>,
    buckets: BTreeMap<i64, Vec<u32>>,
    windowed: bool,
}

#[inline]
fn mix(hash: u64, start: i64) -> u64 {
    hash ^ start.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

impl Slots {
    /// No groups; `windowed`: groups expire by window start.
    #[must_use]
    pub fn new(windowed: bool) -> Self {
        Self { windowed, ..Self::default() }
    }

    /// Number of slot numbers in use or free: what group states must hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.metas.len()
    }

    /// The group of `key` in the window that starts at `start`; a new one if there is none.
    #[inline]
    pub fn find_or_insert(&mut self, key: &[u8], key_hash: u64, start: i64) -> u32 {
        let hash = mix(key_hash, start);
        let (metas, keys) = (&self.metas, &self.keys);
        let found = self.table.find(hash, |slot| {
            let at = *slot as usize;
            metas[at].hash == hash && metas[at].start == start && keys[at].as_slice() == key
        });
        match found {
            Some(slot) => *slot,
            None => self.insert(hash, key, start),
        }
    }

    #[cold]
    fn insert(&mut self, hash: u64, key: &[u8], start: i64) -> u32 {
        let meta =
            SlotMeta { hash, start, time: i64::MIN, epoch: 0, dirty: false, logged: false, live: true };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.metas[slot as usize] = meta;
                let bytes = &mut self.keys[slot as usize];
                bytes.clear();
                bytes.extend_from_slice(key);
                slot
            }
            None => {
                self.metas.push(meta);
                self.keys.push(SmallVec::from_slice(key));
                u32::try_from(self.metas.len() - 1).expect("fewer than 2^32 groups fit in memory")
            }
        };
        let metas = &self.metas;
        self.table.insert_unique(hash, slot, |slot| metas[*slot as usize].hash);
        if self.windowed {
            self.buckets.entry(start).or_default().push(slot);
        }
        slot
    }

    /// The group of `key` in the window that starts at `start`.
    #[must_use]
    pub fn find(&self, key: &[u8], start: i64) -> Option<u32> {
        let hash = mix(hash_key(key), start);
        self.table
            .find(hash, |slot| {
                let at = *slot as usize;
                self.metas[at].hash == hash
                    && self.metas[at].start == start
                    && self.keys[at].as_slice() == key
            })
            .copied()
    }

    /// What is known of `slot`.
    #[inline]
    pub fn meta(&mut self, slot: u32) -> &mut SlotMeta {
        &mut self.metas[slot as usize]
    }

    /// What is known of `slot`, read only.
    #[must_use]
    pub fn peek(&self, slot: u32) -> &SlotMeta {
        &self.metas[slot as usize]
    }

    /// Key bytes of `slot`.
    #[must_use]
    pub fn key(&self, slot: u32) -> &[u8] {
        &self.keys[slot as usize]
    }

    /// Forgets a group; its number will be used again. The caller resets the group's states.
    pub fn remove(&mut self, slot: u32) {
        let (hash, start) = (self.metas[slot as usize].hash, self.metas[slot as usize].start);
        self.unlink(slot, hash);
        if let Some(bucket) = self.buckets.get_mut(&start) {
            bucket.retain(|other| *other != slot);
            if bucket.is_empty() {
                self.buckets.remove(&start);
            }
        }
    }

    fn unlink(&mut self, slot: u32, hash: u64) {
        if let Ok(entry) = self.table.find_entry(hash, |other| *other == slot) {
            entry.remove();
            self.metas[slot as usize].live = false;
            self.free.push(slot);
        }
    }

    /// Takes out all groups whose window starts at or before `start`, oldest first, and gives their numbers; keys stay
    /// readable until the numbers are used again.
    pub fn expire(&mut self, start: i64) -> Vec<u32> {
        let mut expired = Vec::new();
        while let Some(bucket) = self.buckets.first_entry().filter(|bucket| *bucket.key() <= start) {
            expired.extend(bucket.remove());
        }
        for slot in &expired {
            let hash = self.metas[*slot as usize].hash;
            self.unlink(*slot, hash);
        }
        expired
    }

    /// Groups by window start, for starts within `low ..= high`.
    pub fn windows(&self, low: i64, high: i64) -> impl Iterator<Item = (i64, &[u32])> {
        let range = if low <= high { Some(self.buckets.range(low..=high)) } else { None };
        range.into_iter().flatten().map(|(start, slots)| (*start, slots.as_slice()))
    }

    /// All groups, in slot order.
    pub fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.metas
            .iter()
            .enumerate()
            .filter(|(_, meta)| meta.live)
            .map(|(slot, _)| u32::try_from(slot).unwrap_or(u32::MAX))
    }

    /// Number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_again_expire_by_window_and_are_recycled() {
        let mut slots = Slots::new(true);
        let a0 = slots.find_or_insert(b"a", hash_key(b"a"), 0);
        let a10 = slots.find_or_insert(b"a", hash_key(b"a"), 10);
        assert_ne!(a0, a10);
        assert_eq!(slots.find_or_insert(b"a", hash_key(b"a"), 0), a0);
        assert_eq!(slots.expire(5), [a0]);
        assert_eq!((slots.find(b"a", 0), slots.find(b"a", 10)), (None, Some(a10)));
        assert_eq!(slots.find_or_insert(b"b", hash_key(b"b"), 20), a0);
        assert_eq!((slots.len(), slots.capacity()), (2, 2));
    }
}
