//! Which node of the cache has a key.
//!
//! - **Redis Cluster**: 16,384 slots, CRC-16 (XMODEM) of the key or of its hash tag. Source: the Redis Cluster specification.
//! - **memcached, several nodes**: ketama as libketama, libmemcached and twemproxy place keys: 160 points per node on a ring of 32-bit
//!   numbers, four from each MD5 of `name-0` … `name-39`; a key belongs to the first point at or after its own MD5's first four bytes
//!   (little-endian). A node's name is `host:port`, or `host` on the default port 11211.

use std::sync::OnceLock;

use md5::{Digest, Md5};

use crate::url::Place;

/// Slots of a Redis Cluster.
pub(crate) const SLOTS: u16 = 16_384;
const POINTS_PER_NODE: u32 = 160;
const MEMCACHED_PORT: u16 = 11_211;

/// Names a node of the cache; an index that is never used for another place.
pub(crate) type NodeIndex = u16;

/// How keys are spread over the nodes of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One server has them all.
    One(Place),
    /// Ranges of slots (both ends included) and who has them.
    Slots(Vec<(u16, u16, Place)>),
    /// All share them by ketama.
    Ketama(Vec<Place>),
}

/// The slot of a key.
pub(crate) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS
}

/// What lies between the key's first `{` and the next `}`, if it is anything.
fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

/// A short text whose slot is `slot`: in braces it takes any name to that slot.
pub(crate) fn tag_of(slot: u16) -> String {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let (mut tags, mut left) = (vec![u32::MAX; usize::from(SLOTS)], SLOTS);
        let mut n = 0;
        while left > 0 {
            let place = &mut tags[usize::from(crc16(format!("{n:x}").as_bytes()) % SLOTS)];
            if *place == u32::MAX {
                *place = n;
                left -= 1;
            }
            n += 1;
        }
        tags
    });
    format!("{:x}", tags[usize::from(slot % SLOTS)])
}

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = (n as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = crc16_table();
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) ^ u16::from(*byte))])
}

/// The ring of ketama: points in order, each with the node that owns it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring(Vec<(u32, NodeIndex)>);

impl Ring {
    /// For nodes that are indexed in the order given.
    pub(crate) fn new(nodes: &[Place]) -> Self {
        let mut points = Vec::new();
        for (node, Place { host, port }) in (0..).zip(nodes) {
            let name = if *port == MEMCACHED_PORT { host.clone() } else { format!("{host}:{port}") };
            for n in 0..POINTS_PER_NODE / 4 {
                let digest = Md5::digest(format!("{name}-{n}"));
                let quarters = digest.chunks_exact(4).map(le_u32);
                points.extend(quarters.map(|point| (point, node)));
            }
        }
        points.sort_unstable();
        Self(points)
    }

    pub(crate) fn node(&self, key: &[u8]) -> NodeIndex {
        let hash = le_u32(&Md5::digest(key));
        let at = self.0.partition_point(|(point, _)| *point < hash);
        self.0.get(at).or(self.0.first()).map_or(0, |(_, node)| *node)
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).rev().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // Answers of CLUSTER KEYSLOT on Redis 7.0.
        for (key, expected) in
            [("foo", 12_182), ("{user1000}.following", 3_443), ("user1000", 3_443), ("", 0)]
        {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }

    #[test]
    fn every_slot_has_a_tag() {
        for n in 0..SLOTS {
            assert_eq!(slot(format!("{{{}}}x", tag_of(n)).as_bytes()), n);
        }
    }

    #[test]
    fn a_node_that_is_added_takes_its_share_and_moves_nothing_else() {
        let place = |n| Place { host: format!("10.0.0.{n}"), port: 11_211 };
        let (three, four): (Vec<_>, Vec<_>) = ((1..=3).map(place).collect(), (1..=4).map(place).collect());
        let (before, after) = (Ring::new(&three), Ring::new(&four));
        let mut moved = 0;
        for n in 0..10_000 {
            let key = format!("key:{n}");
            let (a, b) = (before.node(key.as_bytes()), after.node(key.as_bytes()));
            assert!(a == b || b == 3, "{key} went from {a} to {b}");
            moved += u32::from(a != b);
        }
        assert!((1_500..3_500).contains(&moved), "{moved} of 10,000 moved to the fourth node");
    }
}
