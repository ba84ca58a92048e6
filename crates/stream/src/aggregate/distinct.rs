//! COUNT_DISTINCT: exact, by 128-bit fingerprints of the values (ksqlDB estimates with HyperLogLog).
//!
//! Up to 32 fingerprints of a group lie in one small vector behind a 64-bit Bloom filter: a value whose bit is not set is
//! new and nothing is scanned. More go into a hash set. With 10^9 values in a group the chance of one wrong count is below
//! 10^-20.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, Time32MillisecondType,
    TimestampMillisecondType,
};
use hashbrown::HashSet;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

use super::codec::{self, Reader, VERSION};
use super::{DecodeStateError, GroupState, Rows};
use crate::SqlType;
use crate::eval::value_at;

const SMALL: usize = 32;

#[derive(Debug, Clone)]
enum Set {
    Few { bloom: u64, prints: Vec<u128> },
    Many(HashSet<u128, rapidhash::fast::RandomState>),
}

impl Set {
    const EMPTY: Self = Self::Few { bloom: 0, prints: Vec::new() };

    #[inline]
    fn insert(&mut self, print: u128) {
        match self {
            Self::Few { bloom, prints } => {
                let bit = 1 << (print & 63);
                if *bloom & bit != 0 && prints.contains(&print) {
                    return;
                }
                *bloom |= bit;
                if prints.len() < SMALL {
                    prints.push(print);
                } else {
                    let mut many: HashSet<u128, _> = prints.iter().copied().collect();
                    many.insert(print);
                    *self = Self::Many(many);
                }
            }
            Self::Many(prints) => {
                prints.insert(print);
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Few { prints, .. } => prints.len(),
            Self::Many(prints) => prints.len(),
        }
    }

    fn each(&self, mut visit: impl FnMut(u128)) {
        match self {
            Self::Few { prints, .. } => prints.iter().copied().for_each(visit),
            Self::Many(prints) => prints.iter().for_each(|print| visit(*print)),
        }
    }
}

/// Two independent 64-bit hashes with fixed seeds: the same on every machine and after a restart.
#[inline]
fn fingerprint(bytes: &[u8]) -> u128 {
    const FIRST: RapidSecrets = RapidSecrets::seed(0x6865_7264_736d_616e);
    const SECOND: RapidSecrets = RapidSecrets::seed(0x0064_6973_7469_6e63);
    let first = rapidhash_v3_seeded(bytes, &FIRST);
    let second = rapidhash_v3_seeded(bytes, &SECOND);
    u128::from(first) << 64 | u128::from(second)
}

/// COUNT_DISTINCT of any type; nulls do not count.
#[derive(Debug)]
pub(crate) struct CountDistinct {
    sets: Vec<Set>,
    ty: SqlType,
}

impl CountDistinct {
    pub(crate) fn new(ty: SqlType) -> Self {
        Self { sets: Vec::new(), ty }
    }
}

impl GroupState for CountDistinct {
    fn ensure(&mut self, slots: usize) {
        if self.sets.len() < slots {
            self.sets.resize(slots, Set::EMPTY);
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let column = &args[0];
        let sets = &mut self.sets;
        let nulls = column.null_count() > 0;
        macro_rules! primitive {
            ($ty:ty) => {{
                let values = column.as_primitive::<$ty>();
                rows.each(slots, |slot, row| {
                    if !nulls || values.is_valid(row) {
                        sets[slot].insert(fingerprint(&values.value(row).to_le_bytes()));
                    }
                });
            }};
        }
        match column.data_type() {
            DataType::Utf8 => {
                let texts = column.as_string::<i32>();
                rows.each(slots, |slot, row| {
                    if !nulls || texts.is_valid(row) {
                        sets[slot].insert(fingerprint(texts.value(row).as_bytes()));
                    }
                });
            }
            DataType::Int32 => primitive!(Int32Type),
            DataType::Int64 => primitive!(Int64Type),
            DataType::Float64 => primitive!(Float64Type),
            DataType::Decimal128(..) => primitive!(Decimal128Type),
            DataType::Date32 => primitive!(Date32Type),
            DataType::Time32(_) => primitive!(Time32MillisecondType),
            DataType::Timestamp(..) => primitive!(TimestampMillisecondType),
            _ => {
                let (ty, mut bytes) = (&self.ty, Vec::new());
                rows.each(slots, |slot, row| {
                    if column.is_valid(row) {
                        bytes.clear();
                        codec::put_value(&value_at(column, row, ty), &mut bytes);
                        sets[slot].insert(fingerprint(&bytes));
                    }
                });
            }
        }
    }

    fn undo(&mut self, _slots: &[u32], _rows: Rows<'_>, _args: &[ArrayRef]) {}

    fn merge(&mut self, into: u32, from: u32) {
        let added = self.sets[from as usize].clone();
        added.each(|print| self.sets[into as usize].insert(print));
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let count = |slot: &u32| i64::try_from(self.sets[*slot as usize].len()).unwrap_or(i64::MAX);
        Arc::new(slots.iter().map(count).collect::<Int64Array>())
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.push(VERSION);
        let set = &self.sets[slot as usize];
        out.reserve(4 + set.len() * 16);
        out.extend_from_slice(&u32::try_from(set.len()).unwrap_or(u32::MAX).to_le_bytes());
        set.each(|print| out.extend_from_slice(&print.to_le_bytes()));
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let mut reader = Reader::new(bytes, "COUNT_DISTINCT")?;
        for _ in 0..reader.count(16)? {
            let print = reader.u128()?;
            self.sets[slot as usize].insert(print);
        }
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        match &mut self.sets[slot as usize] {
            Set::Few { bloom, prints } => {
                *bloom = 0;
                prints.clear();
            }
            many @ Set::Many(_) => *many = Set::EMPTY,
        }
    }

    fn memory_bytes(&self) -> usize {
        let heap = |set: &Set| match set {
            Set::Few { prints, .. } => prints.capacity() * 16,
            Set::Many(prints) => prints.capacity() * 17,
        };
        self.sets.capacity() * size_of::<Set>() + self.sets.iter().map(heap).sum::<usize>()
    }
}
