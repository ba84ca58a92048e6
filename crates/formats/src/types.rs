//! SQL types, columns and schemas, and how each type lies in Arrow memory.
//!
//! | SQL | Arrow |
//! |---|---|
//! | BOOLEAN | Boolean |
//! | INTEGER, BIGINT, DOUBLE | Int32, Int64, Float64 |
//! | DECIMAL(p, s) | Decimal128(p, s) |
//! | STRING, BYTES | Utf8, Binary |
//! | DATE, TIME, TIMESTAMP | Date32, Time32(ms), Timestamp(ms, no zone) |
//! | ARRAY, MAP, STRUCT | List, Map (string or other keys), Struct |

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

/// A ksqlDB data type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SqlType {
    /// `BOOLEAN`
    Boolean,
    /// `INTEGER`, 32 bits
    Integer,
    /// `BIGINT`, 64 bits
    BigInt,
    /// `DOUBLE`, IEEE 754 binary64
    Double,
    /// `DECIMAL(precision, scale)`, 1 ≤ precision ≤ 38
    Decimal {
        /// Total number of digits.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `STRING` (alias `VARCHAR`)
    String,
    /// `BYTES`
    Bytes,
    /// `DATE`, days since the Unix epoch
    Date,
    /// `TIME`, milliseconds of the day
    Time,
    /// `TIMESTAMP`, milliseconds since the Unix epoch
    Timestamp,
    /// `ARRAY<element>`
    Array(Box<SqlType>),
    /// `MAP<key, value>`
    Map(Box<SqlType>, Box<SqlType>),
    /// `STRUCT<name type, …>`
    Struct(Vec<Column>),
}

/// A named, typed column or struct field. Names keep the case that ksqlDB resolved (upper case unless quoted).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// Resolved name, without quotes.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
}

impl Column {
    /// A column called `name` of type `ty`.
    pub fn new(name: impl Into<String>, ty: SqlType) -> Self {
        Self { name: name.into(), ty }
    }
}

/// Key and value columns of a source, an operator's output or a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// Columns of the record key, in order; empty when the source has no key.
    pub key: Vec<Column>,
    /// Columns of the record value, in order.
    pub value: Vec<Column>,
}

impl Schema {
    /// Number of key and value columns; a batch's columns lie in this order: key first, then value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.key.len() + self.value.len()
    }

    /// Whether there is no column at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All columns, key first.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().chain(&self.value)
    }

    /// Index (key first) of the column called `name`.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns().position(|column| column.name == name)
    }
}

impl SqlType {
    /// The Arrow type that holds this SQL type.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(i8::MAX))
            }
            Self::String => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time32(TimeUnit::Millisecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::Array(element) => DataType::List(Arc::new(Field::new("item", element.arrow(), true))),
            Self::Map(key, value) => {
                let fields = Fields::from(vec![
                    Field::new("keys", key.arrow(), false),
                    Field::new("values", value.arrow(), true),
                ]);
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields), false)), false)
            }
            Self::Struct(columns) => DataType::Struct(
                columns.iter().map(|column| Field::new(&column.name, column.ty.arrow(), true)).collect(),
            ),
        }
    }

    /// INTEGER, BIGINT, DECIMAL or DOUBLE.
    #[must_use]
    pub fn is_numeric(&self) -> bool {
        matches!(self, Self::Integer | Self::BigInt | Self::Double | Self::Decimal { .. })
    }
}

/// As ksqlDB prints types in messages and schemas: `STRUCT<`a` INTEGER, `B` ARRAY<STRING>>`.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::Integer => f.write_str("INTEGER"),
            Self::BigInt => f.write_str("BIGINT"),
            Self::Double => f.write_str("DOUBLE"),
            Self::Decimal { precision, scale } => write!(f, "DECIMAL({precision}, {scale})"),
            Self::String => f.write_str("STRING"),
            Self::Bytes => f.write_str("BYTES"),
            Self::Date => f.write_str("DATE"),
            Self::Time => f.write_str("TIME"),
            Self::Timestamp => f.write_str("TIMESTAMP"),
            Self::Array(element) => write!(f, "ARRAY<{element}>"),
            Self::Map(key, value) => write!(f, "MAP<{key}, {value}>"),
            Self::Struct(columns) => {
                f.write_str("STRUCT<")?;
                for (index, column) in columns.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "`{}` {}", column.name, column.ty)?;
                }
                f.write_str(">")
            }
        }
    }
}
