//! Randomness that can be replayed: xoshiro256++ from one number, with labelled sub-streams.
//!
//! Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2021); SplitMix64 fills the state.
//! Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A deterministic generator. The same seed gives the same numbers on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    origin: u64,
    state: [u64; 4],
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Seed {
    /// The generator of seed `origin`.
    #[must_use]
    pub fn new(origin: u64) -> Self {
        let mut fill = origin;
        Self { origin, state: std::array::from_fn(|_| split_mix(&mut fill)) }
    }

    /// A generator that differs from run to run.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self::new(RandomState::new().build_hasher().finish())
    }

    /// The number it was made from; print it so that a run can be repeated.
    #[must_use]
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// An independent generator named `label`, whatever was drawn from this one before.
    #[must_use]
    pub fn stream(&self, label: &str) -> Self {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self::new(label.bytes().fold(self.origin ^ 0xcbf2_9ce4_8422_2325, fnv))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let out = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        out
    }

    /// A number below `bound` (0 if `bound` is 0); bias below 2⁻³² for bounds under 2³².
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next_u64()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// An index into something of `len` elements; 0 if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// True once in `n` times on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_labels_do_not_depend_on_draws() {
        let (mut one, mut two) = (Seed::new(7), Seed::new(7));
        assert_eq!(
            (0..9).map(|_| one.next_u64()).collect::<Vec<_>>(),
            (0..9).map(|_| two.next_u64()).collect::<Vec<_>>()
        );
        assert_eq!(one.stream("disk"), Seed::new(7).stream("disk"));
        assert_ne!(one.stream("disk"), one.stream("net"));
        assert!((0..1_000).all(|_| one.below(10) < 10));
        assert_eq!(one.below(0), 0);
    }
}
