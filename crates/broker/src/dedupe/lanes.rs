//! Sets of fingerprints side by side, one per generation: a lane each.
//!
//! A fingerprint is its own hash. Its upper half says which group is its home; a group has seven places in each lane, and
//! for each place a tag, 16 bits of the fingerprint's lower half (0: empty). The tags of one group lie in one cache line
//! for all lanes together, so an id that no generation holds, the common case, is refused by one line, however many
//! generations there are; a place is read only where its tag agrees. Beside the tags of a lane stands a mark: somebody
//! had to go on to the next group, for want of room. A search goes on only there. [`Lanes::touch`] reads the tags of
//! an id without deciding anything: a batch touches all its ids first, and the memory answers them side by side.
//!
//! A place holds 96 bits, with its tag 112 of the 128: a fresh id is taken for one of 8 million with a chance of 2^-89.
//! The layout is that of Facebook's F14 (tags in front of a chunk, an overflow mark), with the lanes interleaved. One byte
//! to a tag was measured slower: one fresh id in seven then met its own tag and had to look at the place.

use std::ops::Range;

/// Generations at a time.
pub(super) const LANES: usize = 4;
/// Places of a group in one lane: what is left of two words of four tags each beside the mark.
const PLACES: usize = 7;
/// Ids a lane takes for every five groups: three fifths of its places, so that one group in sixteen overflows.
const ROOM_OF_FIVE: usize = 21;
/// What a place holds of a fingerprint.
type Place = [u32; 3];
/// Fewest groups.
const GROUPS_MIN: usize = 64;
/// Bytes of one group: its tags, and its fingerprints in every lane.
pub(super) const GROUP_BYTES: usize = size_of::<Tags>() + LANES * PLACES * size_of::<Place>();

/// Bytes of a page, and of a huge one.
const PAGE_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

const ONES: u64 = u64::MAX / 0xffff;
const HIGHS: u64 = ONES << 15;
/// The overflow mark, in the second word of a lane's tags, and where it stands.
const OVERFLOW: u64 = 1 << 48;
const OVERFLOW_MASK: u64 = 0xffff << 48;

/// Tags of one group: two words for each lane.
type Tags = [u64; 2 * LANES];

/// Tags of all groups, each in a cache line of its own. Plain words: their memory comes zeroed from the system, untouched.
#[derive(Debug)]
struct TagLines {
    words: Vec<u64>,
    /// Words before the first cache line.
    skip: usize,
    groups: usize,
}

impl TagLines {
    fn new(groups: usize) -> Self {
        let words: Vec<u64> = empty((groups + 1) * size_of::<Tags>() / size_of::<u64>() - 1);
        let skip = words.as_ptr().align_offset(size_of::<Tags>()).min(2 * LANES - 1);
        Self { words, skip, groups }
    }

    #[inline]
    fn get(&self, group: usize) -> Tags {
        let at = self.skip + group * 2 * LANES;
        self.words.get(at..).and_then(<[u64]>::first_chunk).copied().unwrap_or_default()
    }

    fn clear(&mut self, lane: usize, groups: Range<usize>) {
        for group in groups {
            if let Some(tags) = self.lane_mut(group, lane) {
                *tags = [0; 2];
            }
        }
    }

    /// The words of one lane.
    #[inline]
    fn lane_mut(&mut self, group: usize, lane: usize) -> Option<&mut [u64; 2]> {
        let at = self.skip + (group * LANES + lane) * 2;
        self.words.get_mut(at..).and_then(<[u64]>::first_chunk_mut)
    }
}

/// The words of `lane`.
#[inline]
fn lane_of(tags: &Tags, lane: usize) -> [u64; 2] {
    tags.as_chunks().0.get(lane).copied().unwrap_or_default()
}

/// `count` empty items, on huge pages if the system grants them: with small ones most look-ups in a large table wait for the
/// page tables (measured in a virtual machine: 72 ns a look-up in 64 MiB).
#[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "advice is Linux's"))]
fn empty<T: Copy + Default>(count: usize) -> Vec<T> {
    let mut items = vec![T::default(); count];
    #[cfg(target_os = "linux")]
    {
        let start = items.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE_BYTES);
        let len = (count * size_of::<T>()).saturating_sub(skip) / PAGE_BYTES * PAGE_BYTES;
        if len >= HUGE_PAGE_BYTES {
            // SAFETY: `skip + len` bytes from `start` lie inside the allocation of `items`, which is ours alone here; the
            // advice changes neither contents nor access rights.
            let advised = unsafe {
                rustix::mm::madvise(start.add(skip).cast(), len, rustix::mm::Advice::LinuxHugepage)
            };
            if let Err(error) = advised {
                tracing::debug!(%error, "no huge pages for event ids");
            }
        }
    }
    items
}

/// Fingerprints of up to [`LANES`] generations; each is in one lane at most.
#[derive(Debug)]
pub(super) struct Lanes {
    tags: TagLines,
    /// Places, seven to a group; none for a lane that was never used.
    ids: [Vec<Place>; LANES],
    lens: [usize; LANES],
}

/// High bit set in the lowest zero tag of `word`, if it has one; above that the bits mean nothing.
#[inline]
fn zero_tags(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// The tag of `id`: neither 0 nor what the overflow mark may be.
#[inline]
fn tag_of(id: u128) -> u64 {
    (id as u64 & 0xffff).max(2)
}

#[inline]
fn place_of(id: u128) -> Place {
    [(id >> 96) as u32, (id >> 64) as u32, (id >> 32) as u32]
}

/// An id with this home, place and tag.
fn id_of(place: Place, tag: u64) -> u128 {
    let [upper, middle, lower] = place.map(u128::from);
    upper << 96 | middle << 64 | lower << 32 | u128::from(tag)
}

impl Lanes {
    /// `groups` groups, at least the fewest.
    pub(super) fn with_groups(groups: usize) -> Self {
        let groups = groups.max(GROUPS_MIN);
        Self { tags: TagLines::new(groups), ids: std::array::from_fn(|_| Vec::new()), lens: [0; LANES] }
    }

    /// Ids that a lane of `groups` groups takes.
    pub(super) fn room_of(groups: usize) -> usize {
        groups * ROOM_OF_FIVE / 5
    }

    /// Groups.
    pub(super) fn groups(&self) -> usize {
        self.tags.groups
    }

    /// Ids a lane takes.
    pub(super) fn room(&self) -> usize {
        Self::room_of(self.groups())
    }

    /// Ids in `lane`.
    pub(super) fn len(&self, lane: usize) -> usize {
        self.lens.get(lane).copied().unwrap_or(0)
    }

    /// Ids in all lanes.
    pub(super) fn total(&self) -> usize {
        self.lens.iter().sum()
    }

    /// Bytes of the arrays.
    pub(super) fn bytes(&self) -> usize {
        let ids: usize = self.ids.iter().map(Vec::len).sum();
        self.tags.groups * size_of::<Tags>() + ids * size_of::<Place>()
    }

    /// Whether `lane` has memory.
    pub(super) fn is_open(&self, lane: usize) -> bool {
        self.ids.get(lane).is_some_and(|ids| !ids.is_empty())
    }

    /// Makes `lane` ready to take ids.
    pub(super) fn open(&mut self, lane: usize) {
        let places = self.groups() * PLACES;
        if let Some(ids) = self.ids.get_mut(lane).filter(|ids| ids.is_empty()) {
            *ids = empty(places);
        }
    }

    /// Forgets what `lane` holds; its memory stays.
    pub(super) fn clear(&mut self, lane: usize) {
        self.tags.clear(lane, 0..self.groups());
        if let Some(len) = self.lens.get_mut(lane) {
            *len = 0;
        }
    }

    /// Writes `count` groups of the open, empty `lane` from group `from` on, so that the system backs them with memory
    /// now; returns where to go on.
    pub(super) fn touch_lane(&mut self, lane: usize, from: usize, count: usize) -> usize {
        let end = from.saturating_add(count).min(self.groups());
        if let Some(ids) = self.ids.get_mut(lane).and_then(|ids| ids.get_mut(from * PLACES..end * PLACES)) {
            ids.fill(Place::default());
        }
        end
    }

    /// The same for the tags and all open lanes; nothing is held yet.
    pub(super) fn touch_all(&mut self, from: usize, count: usize) -> usize {
        let end = from.saturating_add(count).min(self.groups());
        for lane in 0..LANES {
            self.touch_lane(lane, from, count);
            self.tags.clear(lane, from..end);
        }
        end
    }

    /// An empty one of `groups` groups with the same lanes open.
    pub(super) fn larger(&self, groups: usize) -> Self {
        let mut larger = Self::with_groups(groups);
        for lane in (0..LANES).filter(|lane| self.is_open(*lane)) {
            larger.open(lane);
        }
        larger
    }

    /// Bytes of [`Lanes::larger`].
    pub(super) fn bytes_of_larger(&self, groups: usize) -> usize {
        let open = (0..LANES).filter(|lane| self.is_open(*lane)).count();
        groups * (size_of::<Tags>() + open * PLACES * size_of::<Place>())
    }

    /// Moves everything into `larger`, which is empty and has more groups.
    pub(super) fn move_into(&mut self, larger: Self) {
        let old = std::mem::replace(self, larger);
        for (lane, ids) in old.ids.iter().enumerate() {
            if ids.is_empty() {
                continue;
            }
            self.open(lane);
            for (group, ids) in ids.chunks(PLACES).enumerate() {
                let tags = lane_of(&old.tags.get(group), lane);
                for (place, held) in ids.iter().enumerate() {
                    match tag_at(tags, place) {
                        0 => {}
                        tag => self.put(lane, id_of(*held, tag)),
                    }
                }
            }
        }
    }

    #[inline]
    fn home(&self, id: u128) -> usize {
        let upper = u128::from((id >> 64) as u64);
        ((upper * self.tags.groups as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, group: usize) -> usize {
        if group + 1 == self.tags.groups { 0 } else { group + 1 }
    }

    /// Reads the tags of `id`'s home, so that they are in the cache when it is looked up.
    #[inline]
    pub(super) fn touch(&self, id: u128) -> u64 {
        self.tags.get(self.home(id))[0]
    }

    /// Whether any lane holds `id`.
    #[inline]
    pub(super) fn contains(&self, id: u128) -> bool {
        let wanted = tag_of(id) * ONES;
        let (mut hits, mut overflow) = (0, 0);
        for [low, high] in self.tags.get(self.home(id)).as_chunks().0 {
            hits |= zero_tags(low ^ wanted) | zero_tags(high ^ wanted);
            overflow |= high;
        }
        (hits != 0 || overflow & OVERFLOW_MASK != 0) && self.find(id).is_some()
    }

    /// Lane, group and place of `id`.
    fn find(&self, id: u128) -> Option<(usize, usize, usize)> {
        (0..LANES).find_map(|lane| self.find_in(lane, id).map(|(group, place)| (lane, group, place)))
    }

    #[inline]
    fn find_in(&self, lane: usize, id: u128) -> Option<(usize, usize)> {
        let wanted = tag_of(id) * ONES;
        let mut group = self.home(id);
        for _ in 0..self.groups() {
            let tags = lane_of(&self.tags.get(group), lane);
            if zero_tags(tags[0] ^ wanted) | zero_tags(tags[1] ^ wanted) != 0
                && let Some(place) = self.place_in(lane, group, tags, id)
            {
                return Some((group, place));
            }
            if tags[1] & OVERFLOW_MASK == 0 {
                return None;
            }
            group = self.after(group);
        }
        None
    }

    /// Where in `group` `id` is, one of whose `tags` is likely its own.
    fn place_in(&self, lane: usize, group: usize, tags: [u64; 2], id: u128) -> Option<usize> {
        let ids = self.ids.get(lane).and_then(|ids| ids.get(group * PLACES..(group + 1) * PLACES))?;
        let (tag, wanted) = (tag_of(id), place_of(id));
        (0..)
            .zip(ids)
            .find(|(place, held)| tag_at(tags, *place) == tag && **held == wanted)
            .map(|(place, _)| place)
    }

    /// Takes `id`, which no lane holds, into the open `lane`, which has room.
    #[inline]
    pub(super) fn put(&mut self, lane: usize, id: u128) {
        let mut group = self.home(id);
        let place = loop {
            let Some(tags) = self.tags.lane_mut(group, lane) else { return };
            let (low, high) = (zero_tags(tags[0]), zero_tags(tags[1] | OVERFLOW_MASK));
            let (word, hit) = if low != 0 { (0, low) } else { (1, high) };
            if hit != 0 {
                let place = hit.trailing_zeros() / 16;
                tags[word] |= tag_of(id) << (place * 16);
                break word * 4 + place as usize;
            }
            tags[1] |= OVERFLOW;
            group = self.after(group);
        };
        if let Some(slot) = self.ids.get_mut(lane).and_then(|ids| ids.get_mut(group * PLACES + place)) {
            *slot = place_of(id);
        }
        if let Some(len) = self.lens.get_mut(lane) {
            *len += 1;
        }
    }

    /// Takes `id` out of whichever lane holds it. Those behind it stay: a search goes by the overflow marks.
    pub(super) fn remove(&mut self, id: u128) -> bool {
        let Some((lane, group, place)) = self.find(id) else { return false };
        if let Some(tags) = self.tags.lane_mut(group, lane) {
            tags[place / 4] &= !(0xffff << (place % 4 * 16));
        }
        if let Some(len) = self.lens.get_mut(lane) {
            *len -= 1;
        }
        true
    }
}

#[inline]
fn tag_at(tags: [u64; 2], place: usize) -> u64 {
    tags[place / 4] >> (place % 4 * 16) & 0xffff
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn lanes_hold_what_plain_sets_hold_whatever_is_added_removed_cleared_and_moved() {
        let mut lanes = Lanes::with_groups(0);
        (0..LANES).for_each(|lane| lanes.open(lane));
        let mut model: HashMap<u128, usize> = HashMap::new();
        let mut random = 7_u64;
        for step in 0..420_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // few homes, the last group's among them, and few tags, so that searches run into each other and around the end
            let home = u128::from((random >> 40 & 7).wrapping_sub(4)) << 120;
            let id = home | u128::from(random >> 50 & 0x1f) << 32 | u128::from(random >> 55 & 1) << 9;
            let lane = (random >> 30) as usize % LANES;
            let room = lanes.len(lane) < lanes.room();
            match (random >> 61, model.contains_key(&id)) {
                (0..4, false) if room => {
                    lanes.put(lane, id);
                    model.insert(id, lane);
                }
                (4..7, held) => assert_eq!(lanes.remove(id), held && model.remove(&id).is_some()),
                _ => {}
            }
            if step % 40_000 == 39_999 {
                lanes.clear(lane);
                model.retain(|_, held| *held != lane);
                let mut larger = lanes.larger(lanes.groups() * 3 / 2);
                assert_eq!(
                    (larger.touch_all(0, 7), larger.touch_all(7, usize::MAX)),
                    (7, lanes.groups() * 3 / 2)
                );
                lanes.move_into(larger);
                assert!(model.keys().all(|id| lanes.contains(*id)));
            }
            assert_eq!(lanes.contains(id), model.contains_key(&id));
        }
        let held = |lane| model.values().filter(|held| **held == lane).count();
        assert!((0..LANES).all(|lane| lanes.len(lane) == held(lane) && held(lane) > 14));
        assert_eq!(lanes.total(), model.len());
    }

    #[test]
    fn one_group_in_sixteen_overflows_when_a_lane_is_full_and_a_group_takes_400_bytes() {
        let mut lanes = Lanes::with_groups(10_000);
        lanes.open(0);
        for number in 0..lanes.room() as u64 {
            lanes.put(0, herdsman_record::EventId::of(&number.to_le_bytes()).0);
        }
        let over = (0..10_000).filter(|group| lanes.tags.get(*group)[1] & OVERFLOW_MASK != 0).count();
        assert!((400..900).contains(&over), "{over} of 10,000");
        (0..LANES).for_each(|lane| lanes.open(lane));
        assert_eq!((GROUP_BYTES, lanes.bytes()), (400, 4_000_000));
    }
}
