//! A set of 128-bit fingerprints: one array, linear probing, at most half full.
//!
//! Half full a search for what is not there looks at 2.5 slots, three quarters full at 8.5: that was measured to cost
//! more than the cache misses.
//!
//! A fingerprint is its own hash. Beside each slot stands a tag, one byte of its fingerprint (0: empty). A search reads
//! tags, 64 of them in a cache line, and a slot only where the tag agrees: an id that is not there, the common case, is
//! refused by tags alone, which fit the processor's caches where the slots do not. [`Table::touch`] reads the tag of an
//! id without deciding anything: a batch touches all its ids first, and the memory answers them side by side.

/// No fingerprint: `EventId(0)` stands for a record without an id and is never stored.
const EMPTY: u128 = 0;
/// Smallest table, slots.
const SLOTS_MIN: usize = 1 << 10;
/// Bytes of one slot with its tag.
pub(super) const SLOT_BYTES: usize = size_of::<u128>() + 1;

/// Bytes of a page, and of a huge one.
const PAGE_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// `count` empty slots, on huge pages if the system grants them: with small ones most look-ups in a large table wait for the
/// page tables (measured in a virtual machine: 72 ns a look-up in 64 MiB).
#[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "advice is Linux's"))]
fn empty<T: Copy + Default>(count: usize) -> Vec<T> {
    let mut slots = vec![T::default(); count];
    #[cfg(target_os = "linux")]
    {
        let start = slots.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE_BYTES);
        let len = (count * size_of::<T>()).saturating_sub(skip) / PAGE_BYTES * PAGE_BYTES;
        if len >= HUGE_PAGE_BYTES {
            // SAFETY: `skip + len` bytes from `start` lie inside the allocation of `slots`, which is ours alone here; the
            // advice changes neither contents nor access rights.
            let advised = unsafe {
                rustix::mm::madvise(start.add(skip).cast(), len, rustix::mm::Advice::LinuxHugepage)
            };
            if let Err(error) = advised {
                tracing::debug!(%error, "no huge pages for event ids");
            }
        }
    }
    slots
}

/// A set of fingerprints.
#[derive(Debug)]
pub(super) struct Table {
    /// A power of two.
    slots: Vec<u128>,
    /// As many.
    tags: Vec<u8>,
    len: usize,
}

/// The byte that stands for `id`, never 0. The low bits say where it is, these are others.
#[inline]
fn tag_of(id: u128) -> u8 {
    id.to_be_bytes()[0] | 1
}

impl Table {
    /// Room for `ids` without growing.
    pub(super) fn with_capacity(ids: usize) -> Self {
        let slots = (ids * 2).next_power_of_two().max(SLOTS_MIN);
        Self { slots: empty(slots), tags: empty(slots), len: 0 }
    }

    /// No ids, in the same memory.
    pub(super) fn emptied(mut self) -> Self {
        self.tags.fill(0); // what the tags call empty is never read
        self.len = 0;
        self
    }

    /// Ids it takes without growing.
    pub(super) fn room(&self) -> usize {
        self.slots.len() / 2
    }

    /// Writes the part of the empty table that begins at slot `from`, `count` slots of it, so that the system backs it
    /// with memory now; returns where to go on.
    pub(super) fn touch_pages(&mut self, from: usize, count: usize) -> usize {
        let end = from.saturating_add(count).min(self.slots.len());
        if let (Some(slots), Some(tags)) = (self.slots.get_mut(from..end), self.tags.get_mut(from..end)) {
            slots.fill(EMPTY);
            tags.fill(0);
        }
        end
    }

    /// Moves everything into `larger`, an empty table of at least twice the room.
    pub(super) fn move_into(&mut self, larger: Self) {
        let old = std::mem::replace(self, larger);
        self.len = old.len;
        for (id, _) in old.slots.into_iter().zip(old.tags).filter(|(_, tag)| *tag != 0) {
            if let Err(place) = self.find(id) {
                self.set(place, id);
            }
        }
    }

    /// Ids held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the arrays.
    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * SLOT_BYTES
    }

    #[inline]
    fn home(&self, id: u128) -> usize {
        id as usize & (self.slots.len() - 1)
    }

    #[inline]
    fn tag_at(&self, place: usize) -> u8 {
        self.tags.get(place & (self.slots.len() - 1)).copied().unwrap_or(0)
    }

    #[inline]
    fn at(&self, place: usize) -> u128 {
        self.slots.get(place & (self.slots.len() - 1)).copied().unwrap_or(EMPTY)
    }

    fn set(&mut self, place: usize, id: u128) {
        let place = place & (self.slots.len() - 1);
        if let (Some(slot), Some(tag)) = (self.slots.get_mut(place), self.tags.get_mut(place)) {
            *slot = id;
            *tag = if id == EMPTY { 0 } else { tag_of(id) };
        }
    }

    /// Reads where `id` would be, so that it is in the cache when it is looked up.
    #[inline]
    pub(super) fn touch(&self, id: u128) -> u8 {
        self.tag_at(self.home(id))
    }

    /// The place of `id`, or the empty one that ends its search.
    #[inline]
    fn find(&self, id: u128) -> Result<usize, usize> {
        let tag = tag_of(id);
        let mut place = self.home(id);
        loop {
            match self.tag_at(place) {
                0 => return Err(place),
                found if found == tag && self.at(place) == id => return Ok(place),
                _ => place += 1,
            }
        }
    }

    /// Whether it holds `id`.
    #[inline]
    pub(super) fn contains(&self, id: u128) -> bool {
        self.find(id).is_ok()
    }

    /// Takes `id` in; `false` if it was there.
    #[inline]
    pub(super) fn insert(&mut self, id: u128) -> bool {
        let Err(mut place) = self.find(id) else { return false };
        if (self.len + 1) * 2 > self.slots.len() {
            self.grow();
            let Err(moved) = self.find(id) else { return false };
            place = moved;
        }
        self.set(place, id);
        self.len += 1;
        true
    }

    /// Takes `id` out; those behind it move up so that every search still ends right.
    pub(super) fn remove(&mut self, id: u128) -> bool {
        let Ok(mut hole) = self.find(id) else { return false };
        let mask = self.slots.len() - 1;
        let mut place = hole + 1;
        loop {
            if self.tag_at(place) == 0 {
                break;
            }
            let found = self.at(place);
            // it may fill the hole if its home is not between the hole and itself
            let from_home = place.wrapping_sub(self.home(found)) & mask;
            if from_home >= place.wrapping_sub(hole) & mask {
                self.set(hole, found);
                hole = place;
            }
            place += 1;
        }
        self.set(hole, EMPTY);
        self.len -= 1;
        true
    }

    fn grow(&mut self) {
        self.move_into(Self::with_capacity(self.slots.len()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_holds_what_a_plain_set_holds_whatever_is_added_and_removed() {
        let (mut table, mut model) = (Table::with_capacity(0), HashSet::new());
        let mut random = 7_u64;
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // few homes, so that searches run into each other and around the end
            let id = u128::from(random >> 40 & 0x3f | 0x3e0) | u128::from(random >> 50 & 0x1f) << 64;
            if random >> 63 == 0 {
                assert_eq!(table.insert(id), model.insert(id));
            } else {
                assert_eq!(table.remove(id), model.remove(&id));
            }
            assert_eq!(table.contains(id), model.contains(&id));
        }
        assert_eq!(table.len(), model.len());
        let mut larger = Table::with_capacity(table.room() * 2);
        assert_eq!(larger.touch_pages(0, 7), 7);
        assert_eq!(larger.touch_pages(7, usize::MAX), larger.room() * 2);
        assert_eq!(larger.len(), 0);
        table.move_into(larger);
        assert_eq!(table.len(), model.len());
        assert!(!table.contains(u128::MAX) && model.iter().all(|id| table.contains(*id)));
        let emptied = table.emptied();
        assert!(emptied.is_empty() && !model.iter().any(|id| emptied.contains(*id)));
        assert_eq!(Table::with_capacity(2 << 20).bytes(), (64 << 20) + (4 << 20));
    }
}
