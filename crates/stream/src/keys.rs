//! Keys and table rows as bytes: what state is hashed by, ordered by and stored as.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, StringArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use crate::{Column, SqlType};

/// Turns key columns into bytes and back. A single STRING, BIGINT or INTEGER key is its own bytes (nothing is copied
/// for strings); everything else goes through Arrow's row format, which orders as the values do.
pub struct KeyCodec {
    shape: Shape,
}

enum Shape {
    Text,
    Long,
    Int,
    Wide(RowCodec),
}

/// The key bytes of a batch, one range per row.
pub struct BatchKeys {
    bytes: Buffer,
    offsets: ScalarBuffer<i32>,
}

impl BatchKeys {
    /// Key bytes of row `row`.
    #[inline]
    #[must_use]
    pub fn get(&self, row: usize) -> &[u8] {
        let start = usize::try_from(self.offsets[row]).unwrap_or(0);
        let end = usize::try_from(self.offsets[row + 1]).unwrap_or(0);
        &self.bytes.as_slice()[start..end]
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fixed(bytes: Buffer, width: i32, rows: usize) -> Self {
        let rows = i32::try_from(rows).unwrap_or(0);
        Self { bytes, offsets: (0..=rows).map(|row| row * width).collect() }
    }
}

impl KeyCodec {
    /// A codec for keys of these columns.
    ///
    /// # Errors   a type that Arrow's row format cannot hold.
    pub fn new(columns: &[Column]) -> Result<Self, ArrowError> {
        let shape = match columns {
            [Column { ty: SqlType::String, .. }] => Shape::Text,
            [Column { ty: SqlType::BigInt, .. }] => Shape::Long,
            [Column { ty: SqlType::Integer, .. }] => Shape::Int,
            _ => Shape::Wide(RowCodec::new(columns)?),
        };
        Ok(Self { shape })
    }

    /// Key bytes of every row; a null in a single-column key reads as empty or zero, so drop null keys before.
    ///
    /// # Errors   Arrow's, when the columns have other types.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<BatchKeys, ArrowError> {
        match &self.shape {
            Shape::Text => {
                let array = columns[0].as_string::<i32>();
                Ok(BatchKeys { bytes: array.values().clone(), offsets: array.offsets().inner().clone() })
            }
            Shape::Long => {
                let array = columns[0].as_primitive::<Int64Type>();
                Ok(BatchKeys::fixed(array.values().inner().clone(), 8, rows))
            }
            Shape::Int => {
                let array = columns[0].as_primitive::<Int32Type>();
                Ok(BatchKeys::fixed(array.values().inner().clone(), 4, rows))
            }
            Shape::Wide(codec) => {
                let encoded = codec.encode(columns, rows)?;
                Ok(BatchKeys { bytes: encoded.values().clone(), offsets: encoded.offsets().inner().clone() })
            }
        }
    }

    /// Key columns of encoded keys.
    ///
    /// # Errors   bytes that are not keys of this shape.
    pub fn decode(&self, keys: &[&[u8]]) -> Result<Vec<ArrayRef>, ArrowError> {
        let bad = || ArrowError::ParseError("a stored key has a wrong length".to_owned());
        Ok(match &self.shape {
            Shape::Text => {
                let texts = StringArray::try_from_binary(BinaryArray::from_iter_values(keys))?;
                vec![Arc::new(texts) as ArrayRef]
            }
            Shape::Long => {
                let parse =
                    |key: &&[u8]| <[u8; 8]>::try_from(*key).map(i64::from_le_bytes).map_err(|_| bad());
                vec![Arc::new(Int64Array::from(keys.iter().map(parse).collect::<Result<Vec<_>, _>>()?))
                    as ArrayRef]
            }
            Shape::Int => {
                let parse =
                    |key: &&[u8]| <[u8; 4]>::try_from(*key).map(i32::from_le_bytes).map_err(|_| bad());
                vec![Arc::new(Int32Array::from(keys.iter().map(parse).collect::<Result<Vec<_>, _>>()?))
                    as ArrayRef]
            }
            Shape::Wide(codec) => codec.decode(keys)?,
        })
    }

    /// Order of two keys, as Kafka Streams' stores order their serialized keys.
    #[must_use]
    pub fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        match self.shape {
            Shape::Text | Shape::Wide(_) => a.cmp(b),
            Shape::Long | Shape::Int => a.iter().rev().cmp(b.iter().rev()),
        }
    }

    /// A number that orders as [`KeyCodec::compare`] does wherever it differs: the first 16 bytes of the order.
    #[must_use]
    pub fn prefix(&self, key: &[u8]) -> u128 {
        let mut bytes = [0; 16];
        match self.shape {
            Shape::Text | Shape::Wide(_) => {
                let len = key.len().min(16);
                bytes[..len].copy_from_slice(&key[..len]);
            }
            Shape::Long | Shape::Int => {
                bytes.iter_mut().zip(key.iter().rev()).for_each(|(place, byte)| *place = *byte);
            }
        }
        u128::from_be_bytes(bytes)
    }
}

/// Turns rows of columns into bytes and back (Arrow's row format).
pub struct RowCodec {
    converter: RowConverter,
    columns: usize,
}

impl RowCodec {
    /// A codec for these columns.
    ///
    /// # Errors   a type that Arrow's row format cannot hold.
    pub fn new(columns: &[Column]) -> Result<Self, ArrowError> {
        let fields = columns.iter().map(|column| SortField::new(column.ty.arrow())).collect();
        Ok(Self { converter: RowConverter::new(fields)?, columns: columns.len() })
    }

    /// One byte string per row.
    ///
    /// # Errors   Arrow's, when the columns have other types or are too large.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<BinaryArray, ArrowError> {
        if self.columns == 0 {
            return Ok(BinaryArray::from_iter_values(std::iter::repeat_n([], rows)));
        }
        self.converter.convert_columns(columns)?.try_into_binary()
    }

    /// Columns of encoded rows.
    ///
    /// # Errors   Arrow's, when the bytes do not decode.
    pub fn decode(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.columns == 0 {
            return Ok(Vec::new());
        }
        let parser = self.converter.parser();
        self.converter.convert_rows(rows.iter().map(|row| parser.parse(row)))
    }

    /// Columns of encoded rows; `None` gives nulls.
    ///
    /// # Errors   Arrow's, when the bytes do not decode.
    pub fn decode_optional(
        &self,
        rows: &[Option<&[u8]>],
        types: &[DataType],
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        if rows.iter().all(Option::is_some) {
            return self.decode(&rows.iter().flatten().copied().collect::<Vec<_>>());
        }
        let nulls: Vec<ArrayRef> = types.iter().map(|ty| arrow::array::new_null_array(ty, 1)).collect();
        let null = self.encode(&nulls, 1)?;
        let filled: Vec<&[u8]> = rows.iter().map(|row| row.unwrap_or_else(|| null.value(0))).collect();
        self.decode(&filled)
    }
}

/// Arrow types of columns.
#[must_use]
pub fn arrow_types(columns: &[Column]) -> Vec<DataType> {
    columns.iter().map(|column| column.ty.arrow()).collect()
}

/// 64-bit hash of key bytes.
#[inline]
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3(key)
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    #[test]
    fn keys_of_every_shape_come_back_and_keep_their_order() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["b", "a", ""]));
        let long: ArrayRef = Arc::new(Int64Array::from(vec![3, -1, 256]));
        for columns in [vec![text.clone()], vec![long.clone()], vec![text.slice(1, 2), long.slice(1, 2)]] {
            let schema: Vec<Column> = columns
                .iter()
                .map(|c| {
                    Column::new(
                        "K",
                        if c.data_type() == &DataType::Utf8 { SqlType::String } else { SqlType::BigInt },
                    )
                })
                .collect();
            let codec = KeyCodec::new(&schema).unwrap();
            let keys = codec.encode(&columns, columns[0].len()).unwrap();
            let all: Vec<&[u8]> = (0..keys.len()).map(|row| keys.get(row)).collect();
            assert_eq!(codec.decode(&all).unwrap(), columns);
        }
        let codec = KeyCodec::new(&[Column::new("K", SqlType::BigInt)]).unwrap();
        assert_eq!(codec.compare(&3_i64.to_le_bytes(), &256_i64.to_le_bytes()), Ordering::Less);
        assert!(codec.prefix(&3_i64.to_le_bytes()) < codec.prefix(&256_i64.to_le_bytes()));
        let texts = KeyCodec::new(&[Column::new("K", SqlType::String)]).unwrap();
        assert!(texts.prefix(b"") < texts.prefix(b"a") && texts.prefix(b"a") < texts.prefix(b"ab"));
        let long = [b"0123456789abcdefX".as_slice(), b"0123456789abcdefY"];
        assert_eq!(
            texts.prefix(long[0]),
            texts.prefix(long[1]),
            "what the prefix leaves open, compare decides"
        );
    }
}
