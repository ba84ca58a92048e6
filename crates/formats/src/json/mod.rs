//! JSON text straight into columns, and columns into JSON text.
//!
//! Producers write the same fields in the same order, record after record. [`reader::JsonReader`] learns that order
//! as literal bytes between the values and checks it speculatively; a row that differs is read again by the full
//! reader, which knows every rule of ksqlDB's deserializer.

pub(crate) mod number;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod value;
pub(crate) mod writer;

/// Deepest nesting that is read.
pub(crate) const DEPTH_MAX: usize = 128;

/// Longest number that is read, bytes.
pub(crate) const NUMBER_MAX: usize = 4096;
