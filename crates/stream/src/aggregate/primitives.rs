//! COUNT, SUM, AVG, MIN and MAX of numbers and times: dense vectors, one tight loop per batch.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, Float64Array, Int64Array, PrimitiveArray,
};
use arrow::datatypes::{ArrowNativeType, DataType, Decimal128Type, Float64Type, Int32Type, Int64Type};

use super::codec::{Reader, VERSION};
use super::{DecodeStateError, GroupState, Rows};
use crate::numbers;

/// COUNT(*) and COUNT(column).
#[derive(Debug, Default)]
pub(crate) struct Count {
    counts: Vec<i64>,
}

impl Count {
    fn add(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef], by: i64) {
        let counts = &mut self.counts;
        match args.first() {
            Some(column) if column.null_count() > 0 => rows.each(slots, |slot, row| {
                if column.is_valid(row) {
                    counts[slot] += by;
                }
            }),
            _ => slots.iter().for_each(|slot| counts[*slot as usize] += by),
        }
    }
}

impl GroupState for Count {
    fn ensure(&mut self, slots: usize) {
        if self.counts.len() < slots {
            self.counts.resize(slots, 0);
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        self.add(slots, rows, args, 1);
    }

    fn undo(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        self.add(slots, rows, args, -1);
    }

    fn merge(&mut self, into: u32, from: u32) {
        self.counts[into as usize] += self.counts[from as usize];
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        Arc::new(slots.iter().map(|slot| self.counts[*slot as usize]).collect::<Int64Array>())
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.counts[slot as usize].to_le_bytes());
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.counts[slot as usize] = 0;
        self.counts[slot as usize] = Reader::new(bytes, "COUNT")?.i64()?;
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
    }

    fn memory_bytes(&self) -> usize {
        self.counts.capacity() * 8
    }
}

/// Fixed-width state values as bytes.
pub(crate) trait Fixed: Sized + Copy + Default {
    fn put(self, out: &mut Vec<u8>);
    fn read(reader: &mut Reader<'_, '_>) -> Result<Self, DecodeStateError>;
}

macro_rules! fixed {
    ($ty:ty) => {
        impl Fixed for $ty {
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn read(reader: &mut Reader<'_, '_>) -> Result<Self, DecodeStateError> {
                let mut fixed = [0; size_of::<$ty>()];
                fixed.copy_from_slice(reader.take(size_of::<$ty>())?);
                Ok(<$ty>::from_le_bytes(fixed))
            }
        }
    };
}

fixed!(i32);
fixed!(i64);
fixed!(f64);
fixed!(i128);

/// SUM of one numeric type; overflow wraps as Java's does; a decimal beyond its precision is null.
#[derive(Debug)]
pub(crate) struct Sum<T: ArrowPrimitiveType> {
    sums: Vec<T::Native>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Sum<T> {
    pub(crate) fn new(data_type: DataType) -> Self {
        Self { sums: Vec::new(), data_type }
    }

    #[inline]
    fn apply(
        &mut self,
        slots: &[u32],
        rows: Rows<'_>,
        args: &[ArrayRef],
        op: impl Fn(T::Native, T::Native) -> T::Native,
    ) {
        let column = args[0].as_primitive::<T>();
        let (values, sums) = (column.values(), &mut self.sums);
        if column.null_count() == 0 {
            rows.each(slots, |slot, row| sums[slot] = op(sums[slot], values[row]));
        } else {
            rows.each(slots, |slot, row| {
                if column.is_valid(row) {
                    sums[slot] = op(sums[slot], values[row]);
                }
            });
        }
    }
}

impl<T: ArrowPrimitiveType> GroupState for Sum<T>
where
    T::Native: Fixed,
{
    fn ensure(&mut self, slots: usize) {
        if self.sums.len() < slots {
            self.sums.resize(slots, T::Native::ZERO);
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        self.apply(slots, rows, args, ArrowNativeTypeOp::add_wrapping);
    }

    fn undo(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        self.apply(slots, rows, args, ArrowNativeTypeOp::sub_wrapping);
    }

    fn merge(&mut self, into: u32, from: u32) {
        self.sums[into as usize] = self.sums[into as usize].add_wrapping(self.sums[from as usize]);
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let sums: PrimitiveArray<T> = slots
            .iter()
            .map(|slot| self.sums[*slot as usize])
            .collect::<Vec<_>>()
            .into_iter()
            .map(Some)
            .collect();
        let sums = sums.with_data_type(self.data_type.clone());
        if let DataType::Decimal128(precision, _) = self.data_type {
            let fits = |value: &i128| numbers::digits(*value) <= u32::from(precision);
            let array: ArrayRef = Arc::new(sums);
            let decimals = array.as_primitive::<Decimal128Type>();
            let checked: PrimitiveArray<Decimal128Type> =
                decimals.iter().map(|value| value.filter(fits)).collect();
            return Arc::new(checked.with_data_type(self.data_type.clone()));
        }
        Arc::new(sums)
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.sums[slot as usize].put(out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        self.sums[slot as usize] = T::Native::read(&mut Reader::new(bytes, "SUM")?)?;
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.sums[slot as usize] = T::Native::ZERO;
    }

    fn memory_bytes(&self) -> usize {
        self.sums.capacity() * T::Native::get_byte_width()
    }
}

/// MIN (`LEAST = true`) or MAX of one fixed-width type; nulls do not count.
#[derive(Debug)]
pub(crate) struct Extreme<T: ArrowPrimitiveType, const LEAST: bool> {
    values: Vec<T::Native>,
    present: Vec<bool>,
    data_type: DataType,
    name: &'static str,
}

impl<T: ArrowPrimitiveType, const LEAST: bool> Extreme<T, LEAST> {
    pub(crate) fn new(data_type: DataType, name: &'static str) -> Self {
        Self { values: Vec::new(), present: Vec::new(), data_type, name }
    }

    #[inline]
    fn offer(values: &mut [T::Native], present: &mut [bool], slot: usize, value: T::Native) {
        let better = if LEAST { value.is_lt(values[slot]) } else { value.is_gt(values[slot]) };
        if better || !present[slot] {
            values[slot] = value;
            present[slot] = true;
        }
    }
}

impl<T: ArrowPrimitiveType, const LEAST: bool> GroupState for Extreme<T, LEAST>
where
    T::Native: Fixed,
{
    fn ensure(&mut self, slots: usize) {
        if self.values.len() < slots {
            self.values.resize(slots, T::Native::ZERO);
            self.present.resize(slots, false);
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let column = args[0].as_primitive::<T>();
        let (input, values, present) = (column.values(), &mut self.values, &mut self.present);
        if column.null_count() == 0 {
            rows.each(slots, |slot, row| Self::offer(values, present, slot, input[row]));
        } else {
            rows.each(slots, |slot, row| {
                if column.is_valid(row) {
                    Self::offer(values, present, slot, input[row]);
                }
            });
        }
    }

    fn undo(&mut self, _slots: &[u32], _rows: Rows<'_>, _args: &[ArrayRef]) {}

    fn merge(&mut self, into: u32, from: u32) {
        if self.present[from as usize] {
            let value = self.values[from as usize];
            Self::offer(&mut self.values, &mut self.present, into as usize, value);
        }
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let value = |slot: &u32| self.present[*slot as usize].then(|| self.values[*slot as usize]);
        let array: PrimitiveArray<T> = slots.iter().map(value).collect();
        Arc::new(array.with_data_type(self.data_type.clone()))
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, u8::from(self.present[slot as usize])]);
        self.values[slot as usize].put(out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let mut reader = Reader::new(bytes, self.name)?;
        let present = reader.u8()? != 0;
        self.values[slot as usize] = T::Native::read(&mut reader)?;
        self.present[slot as usize] = present;
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.values[slot as usize] = T::Native::ZERO;
        self.present[slot as usize] = false;
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * (T::Native::get_byte_width() + 1)
    }
}

/// What AVG adds up: whole numbers exactly (wrapping), doubles as doubles.
pub(crate) trait Average: ArrowPrimitiveType {
    type Sum: Fixed + Send;
    fn add(sum: Self::Sum, value: Self::Native, by: i64) -> Self::Sum;
    fn both(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn double(sum: Self::Sum) -> f64;
}

macro_rules! whole_average {
    ($ty:ty) => {
        impl Average for $ty {
            type Sum = i64;
            fn add(sum: i64, value: Self::Native, by: i64) -> i64 {
                sum.wrapping_add(i64::from(value).wrapping_mul(by))
            }
            fn both(a: i64, b: i64) -> i64 {
                a.wrapping_add(b)
            }
            fn double(sum: i64) -> f64 {
                sum as f64
            }
        }
    };
}

whole_average!(Int32Type);
whole_average!(Int64Type);

impl Average for Float64Type {
    type Sum = f64;
    fn add(sum: f64, value: f64, by: i64) -> f64 {
        if by > 0 { sum + value } else { sum - value }
    }
    fn both(a: f64, b: f64) -> f64 {
        a + b
    }
    fn double(sum: f64) -> f64 {
        sum
    }
}

/// AVG: 0.0 of no values, as ksqlDB.
#[derive(Debug)]
pub(crate) struct Avg<T: Average> {
    sums: Vec<(T::Sum, i64)>,
    of: PhantomData<fn() -> T>,
}

impl<T: Average> Avg<T> {
    pub(crate) fn new() -> Self {
        Self { sums: Vec::new(), of: PhantomData }
    }

    #[inline]
    fn add(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef], by: i64) {
        let column = args[0].as_primitive::<T>();
        let (values, sums) = (column.values(), &mut self.sums);
        let nulls = column.null_count() > 0;
        rows.each(slots, |slot, row| {
            if !nulls || column.is_valid(row) {
                let (sum, count) = sums[slot];
                sums[slot] = (T::add(sum, values[row], by), count + by);
            }
        });
    }
}

impl<T: Average> GroupState for Avg<T> {
    fn ensure(&mut self, slots: usize) {
        if self.sums.len() < slots {
            self.sums.resize(slots, (T::Sum::default(), 0));
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        self.add(slots, rows, args, 1);
    }

    fn undo(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        self.add(slots, rows, args, -1);
    }

    fn merge(&mut self, into: u32, from: u32) {
        let (a, b) = (self.sums[into as usize], self.sums[from as usize]);
        self.sums[into as usize] = (T::both(a.0, b.0), a.1 + b.1);
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let average = |slot: &u32| {
            let (sum, count) = self.sums[*slot as usize];
            if count == 0 { 0.0 } else { T::double(sum) / count as f64 }
        };
        Arc::new(
            slots.iter().map(average).collect::<Vec<f64>>().into_iter().map(Some).collect::<Float64Array>(),
        )
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        let (sum, count) = self.sums[slot as usize];
        out.push(VERSION);
        sum.put(out);
        count.put(out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let mut reader = Reader::new(bytes, "AVG")?;
        let sum = T::Sum::read(&mut reader)?;
        self.sums[slot as usize] = (sum, reader.i64()?);
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.sums[slot as usize] = (T::Sum::default(), 0);
    }

    fn memory_bytes(&self) -> usize {
        self.sums.capacity() * 16
    }
}
