//! Typed views of the columns handed to an encoder, made once per call.

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, ListArray, MapArray, StringArray, StructArray, Time32MillisecondArray,
    TimestampMillisecondArray,
};

use crate::SqlType;

/// One column, its type resolved.
pub(crate) enum View<'a> {
    Boolean(&'a BooleanArray),
    Integer(&'a Int32Array),
    BigInt(&'a Int64Array),
    Double(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a Date32Array),
    Time(&'a Time32MillisecondArray),
    Timestamp(&'a TimestampMillisecondArray),
    Array(&'a ListArray, Box<View<'a>>),
    Map(&'a MapArray, Box<View<'a>>, Box<View<'a>>),
    /// Fields with the text that stands before each value: `{"A":`, then `,"B":`.
    Struct(&'a StructArray, Vec<(Vec<u8>, View<'a>)>),
    /// A column that is null everywhere.
    Null,
}

fn cast<'a, T: 'static>(array: &'a ArrayRef, ty: &SqlType) -> Result<&'a T, String> {
    array
        .as_any()
        .downcast_ref::<T>()
        .ok_or_else(|| format!("it is {}, the schema says {ty}", array.data_type()))
}

impl<'a> View<'a> {
    pub(crate) fn new(array: &'a ArrayRef, ty: &SqlType) -> Result<Self, String> {
        if array.data_type().is_null() {
            return Ok(Self::Null);
        }
        Ok(match ty {
            SqlType::Boolean => Self::Boolean(cast(array, ty)?),
            SqlType::Integer => Self::Integer(cast(array, ty)?),
            SqlType::BigInt => Self::BigInt(cast(array, ty)?),
            SqlType::Double => Self::Double(cast(array, ty)?),
            SqlType::Decimal { .. } => {
                let array: &Decimal128Array = cast(array, ty)?;
                Self::Decimal(array, u8::try_from(array.scale()).unwrap_or(0))
            }
            SqlType::String => Self::Text(cast(array, ty)?),
            SqlType::Bytes => Self::Bytes(cast(array, ty)?),
            SqlType::Date => Self::Date(cast(array, ty)?),
            SqlType::Time => Self::Time(cast(array, ty)?),
            SqlType::Timestamp => Self::Timestamp(cast(array, ty)?),
            SqlType::Array(element) => {
                let array: &ListArray = cast(array, ty)?;
                Self::Array(array, Box::new(Self::new(array.values(), element)?))
            }
            SqlType::Map(key, value) => {
                let array: &MapArray = cast(array, ty)?;
                Self::Map(
                    array,
                    Box::new(Self::new(array.keys(), key)?),
                    Box::new(Self::new(array.values(), value)?),
                )
            }
            SqlType::Struct(columns) => {
                let array: &StructArray = cast(array, ty)?;
                if array.columns().len() != columns.len() {
                    return Err(format!("it has {} fields, the schema says {ty}", array.columns().len()));
                }
                let fields =
                    columns.iter().zip(array.columns()).enumerate().map(|(index, (column, field))| {
                        let prefix = crate::json::writer::field_prefix(index, &column.name);
                        Self::new(field, &column.ty).map(|view| (prefix, view))
                    });
                Self::Struct(array, fields.collect::<Result<_, _>>()?)
            }
        })
    }

    #[inline]
    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Boolean(array) => array.is_null(row),
            Self::Integer(array) => array.is_null(row),
            Self::BigInt(array) => array.is_null(row),
            Self::Double(array) => array.is_null(row),
            Self::Decimal(array, _) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::Bytes(array) => array.is_null(row),
            Self::Date(array) => array.is_null(row),
            Self::Time(array) => array.is_null(row),
            Self::Timestamp(array) => array.is_null(row),
            Self::Array(array, _) => array.is_null(row),
            Self::Map(array, _, _) => array.is_null(row),
            Self::Struct(array, _) => array.is_null(row),
            Self::Null => true,
        }
    }
}
