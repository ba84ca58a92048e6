//! JSON, DELIMITED and KAFKA bytes to Arrow columns and back.
//!
//! [`Decoder`] turns record batches into columns, reading only the columns a query needs; [`Encoder`] appends rows
//! to batch builders. Rows that do not decode are left out and reported ([`RowError`]), the others are unharmed.
//!
//! `Format`, `FormatSpec` and `WindowedKey` live here; the planner's crate re-exports them
//! (`pub use herdsman_formats::{Format, FormatSpec, WindowedKey};`).

pub mod decoded;
pub mod decoder;
pub mod encoder;
pub mod error;
pub mod format;
pub mod java;
pub mod rows;
pub mod types;

mod column;
mod delimited;
mod json;
mod primitive;
mod sink;

pub use decoded::Decoded;
pub use decoder::Decoder;
pub use encoder::{EncodedKeys, Encoder};
pub use error::{FormatError, Part, RowError, RowFault};
pub use format::{Format, FormatSpec, WindowedKey};
pub use rows::{Rows, Selection};
pub use types::{Column, Schema, SqlType};
