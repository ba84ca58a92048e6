//! Bytes of aggregate state: little-endian numbers, lengths as `u32`, values with a one-byte tag.

use super::DecodeStateError;
use crate::expr::Value;

/// First byte of every encoded slot.
pub(crate) const VERSION: u8 = 1;
/// Containers may not nest deeper than this in stored bytes.
const DEPTH_MAX: usize = 64;

/// Reads state bytes; every read checks what is left.
pub(crate) struct Reader<'r, 'b> {
    bytes: &'r mut &'b [u8],
    function: &'static str,
}

impl<'r, 'b> Reader<'r, 'b> {
    /// Starts at the version byte.
    pub(crate) fn new(bytes: &'r mut &'b [u8], function: &'static str) -> Result<Self, DecodeStateError> {
        let mut reader = Self { bytes, function };
        match reader.u8()? {
            VERSION => Ok(reader),
            _ => Err(reader.error("unknown version")),
        }
    }

    pub(crate) fn error(&self, reason: &'static str) -> DecodeStateError {
        DecodeStateError { function: self.function, reason }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'b [u8], DecodeStateError> {
        match self.bytes.split_at_checked(count) {
            Some((head, rest)) => {
                *self.bytes = rest;
                Ok(head)
            }
            None => Err(self.error("too short")),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeStateError> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(self.take(N)?);
        Ok(fixed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeStateError> {
        Ok(self.fixed::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeStateError> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeStateError> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeStateError> {
        Ok(i64::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, DecodeStateError> {
        Ok(f64::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeStateError> {
        Ok(u128::from_le_bytes(self.fixed()?))
    }

    /// A count of items of at least `least` bytes each: more than the bytes left can hold is damage.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, DecodeStateError> {
        let count = self.u32()? as usize;
        if count.saturating_mul(least) > self.bytes.len() {
            return Err(self.error("a count beyond the end"));
        }
        Ok(count)
    }

    pub(crate) fn text(&mut self) -> Result<&'b str, DecodeStateError> {
        let length = self.count(1)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.error("text that is not UTF-8"))
    }

    fn value_at(&mut self, depth: usize) -> Result<Value, DecodeStateError> {
        if depth > DEPTH_MAX {
            return Err(self.error("values nested too deep"));
        }
        Ok(match self.u8()? {
            0 => Value::Null,
            1 => Value::Boolean(self.u8()? != 0),
            2 => Value::Integer(i32::from_le_bytes(self.fixed()?)),
            3 => Value::BigInt(self.i64()?),
            4 => Value::Double(self.f64()?),
            5 => {
                let unscaled = i128::from_le_bytes(self.fixed()?);
                Value::Decimal(unscaled, self.u8()?, self.u8()?)
            }
            6 => Value::String(self.text()?.to_owned()),
            7 => {
                let length = self.count(1)?;
                Value::Bytes(self.take(length)?.to_vec())
            }
            8 => Value::Date(i32::from_le_bytes(self.fixed()?)),
            9 => Value::Time(i32::from_le_bytes(self.fixed()?)),
            10 => Value::Timestamp(self.i64()?),
            11 => Value::Array(self.values(depth + 1)?),
            12 => {
                let count = self.count(2)?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    entries.push((self.value_at(depth + 1)?, self.value_at(depth + 1)?));
                }
                Value::Map(entries)
            }
            13 => Value::Struct(self.values(depth + 1)?),
            _ => return Err(self.error("unknown value tag")),
        })
    }

    fn values(&mut self, depth: usize) -> Result<Vec<Value>, DecodeStateError> {
        let count = self.count(1)?;
        (0..count).map(|_| self.value_at(depth)).collect()
    }

    pub(crate) fn list(&mut self) -> Result<Vec<Value>, DecodeStateError> {
        self.values(0)
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_list(values: &[Value], out: &mut Vec<u8>) {
    put_count(values.len(), out);
    values.iter().for_each(|value| put_value(value, out));
}

pub(crate) fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0),
        Value::Boolean(value) => out.extend_from_slice(&[1, u8::from(*value)]),
        Value::Integer(value) => {
            out.push(2);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::BigInt(value) => {
            out.push(3);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Double(value) => {
            out.push(4);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Decimal(unscaled, precision, scale) => {
            out.push(5);
            out.extend_from_slice(&unscaled.to_le_bytes());
            out.extend_from_slice(&[*precision, *scale]);
        }
        Value::String(text) => {
            out.push(6);
            put_bytes(text.as_bytes(), out);
        }
        Value::Bytes(bytes) => {
            out.push(7);
            put_bytes(bytes, out);
        }
        Value::Date(value) => {
            out.push(8);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Time(value) => {
            out.push(9);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Timestamp(value) => {
            out.push(10);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Array(items) => {
            out.push(11);
            put_list(items, out);
        }
        Value::Map(entries) => {
            out.push(12);
            put_count(entries.len(), out);
            for (key, value) in entries {
                put_value(key, out);
                put_value(value, out);
            }
        }
        Value::Struct(fields) => {
            out.push(13);
            put_list(fields, out);
        }
    }
}
