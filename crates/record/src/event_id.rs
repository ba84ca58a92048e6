//! The id that a user gives an event, as a 128-bit fingerprint.

/// Name of the record header that carries an event id.
pub const EVENT_ID_HEADER: &str = "event-id";

/// Fingerprint of an event id: 128 bits, so that two different ids among 2³² collide with probability 2⁻⁶⁵.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId(pub u128);

impl EventId {
    /// Fingerprint of the id's bytes. Stable across processes and restarts.
    #[inline]
    #[must_use]
    pub fn of(id: &[u8]) -> Self {
        let low = rapidhash::v3::rapidhash_v3_seeded(id, &SEED_LOW);
        let high = rapidhash::v3::rapidhash_v3_seeded(id, &SEED_HIGH);
        Self((u128::from(high) << 64) | u128::from(low))
    }
}

const SEED_LOW: rapidhash::v3::RapidSecrets = rapidhash::v3::RapidSecrets::seed(0x6865_7264);
const SEED_HIGH: rapidhash::v3::RapidSecrets = rapidhash::v3::RapidSecrets::seed(0x736d_616e);
