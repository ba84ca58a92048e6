//! Aggregate functions: choice by name and types, and columnar state of all groups of an operator.

use std::sync::Arc;

use arrow::array::ArrayRef;

use crate::SqlType;
use crate::expr::{Expr, Value};
use crate::functions::{FunctionError, FunctionInfo};

mod catalog;
mod codec;
mod distinct;
mod lists;
mod offsets;
mod primitives;
mod texts;

pub use catalog::{exists, infos, literal_args, resolve};

/// One aggregate of a query: `SUM(points)`.
#[derive(Debug, Clone)]
pub struct AggregateCall {
    /// The resolved function (it knows its result type and makes its state).
    pub function: Arc<AggregateFunction>,
    /// Column arguments over the input, already cast to `function.arg_types`; literal arguments live in the function.
    pub args: Vec<Expr>,
}

/// A resolved aggregate function with its literal arguments.
#[derive(Debug)]
pub struct AggregateFunction {
    /// Upper-case name.
    pub name: &'static str,
    /// Types of the column arguments after implicit casts.
    pub arg_types: Vec<SqlType>,
    /// Type of the result.
    pub return_type: SqlType,
    pub(crate) kind: catalog::Kind,
}

impl AggregateFunction {
    /// Fresh state for an operator.
    #[must_use]
    pub fn new_state(&self) -> Box<dyn GroupState> {
        catalog::new_state(self)
    }

    /// Whether it can aggregate a table (undo old rows); the analyser refuses others on table sources.
    #[must_use]
    pub fn supports_undo(&self) -> bool {
        catalog::supports_undo(&self.kind)
    }
}

/// Which rows of the argument columns an update reads; `slots[i]` belongs to the i-th of them.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Row `i` for `slots[i]`.
    All,
    /// Row `rows[i]` for `slots[i]` (a row may occur several times: hopping windows).
    Selected(&'a [u32]),
}

impl Rows<'_> {
    /// Calls `apply(slot, row)` for each pair.
    #[inline]
    pub(crate) fn each(self, slots: &[u32], mut apply: impl FnMut(usize, usize)) {
        match self {
            Self::All => slots.iter().enumerate().for_each(|(row, slot)| apply(*slot as usize, row)),
            Self::Selected(rows) => {
                slots.iter().zip(rows).for_each(|(slot, row)| apply(*slot as usize, *row as usize));
            }
        }
    }
}

/// State of one aggregate for all groups of an operator; `slot` is a dense group index chosen by the operator.
pub trait GroupState: Send {
    /// Makes slots `0 .. slots` exist, new ones empty.
    fn ensure(&mut self, slots: usize);
    /// Adds rows to their groups. `args` are the columns of [`AggregateCall::args`], in order.
    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]);
    /// Takes rows out again (table sources; only if [`AggregateFunction::supports_undo`], else nothing happens).
    fn undo(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]);
    /// Adds group `from` to group `into` (session windows grow together); `from` is unchanged.
    fn merge(&mut self, into: u32, from: u32);
    /// Result per slot, of the function's return type.
    fn results(&self, slots: &[u32]) -> ArrayRef;
    /// Appends the slot's state to `out` (changelog, snapshot): versioned, self-delimiting.
    fn encode(&self, slot: u32, out: &mut Vec<u8>);
    /// Reads what [`GroupState::encode`] wrote into `slot` and moves `bytes` past it; never panics on bad bytes.
    ///
    /// # Errors   [`DecodeStateError`] if the bytes are damaged or of another function; the slot is then empty.
    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError>;
    /// Makes the slot empty again, for its next use.
    fn reset(&mut self, slot: u32);
    /// Approximate heap bytes held.
    fn memory_bytes(&self) -> usize;
}

/// Stored aggregate state cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "stored state of {function} is damaged ({reason}): delete the query's state so that it is rebuilt from its topics"
)]
pub struct DecodeStateError {
    /// Which aggregate.
    pub function: &'static str,
    /// What is wrong.
    pub reason: &'static str,
}

/// Outcome of [`resolve`].
#[derive(Debug, Clone)]
pub struct ResolvedAggregate {
    /// The function, to put into an [`AggregateCall`].
    pub function: Arc<AggregateFunction>,
    /// Types to which the column arguments are cast.
    pub arg_types: Vec<SqlType>,
    /// Type of the result.
    pub return_type: SqlType,
}

/// Signature shared with [`FunctionError`] users: an aggregate refused for what its arguments say.
pub(crate) fn invalid(message: impl Into<String>) -> FunctionError {
    FunctionError::Invalid { message: message.into() }
}

/// Keeps the public surface of [`catalog`] in one place.
pub(crate) type Infos = Vec<FunctionInfo>;
/// A literal argument.
pub(crate) type Literal = Value;

#[cfg(test)]
mod tests;
