//! Scalar and table functions: names, overloads, implicit casts, and the typing rules the analyser uses.
//!
//! Overload choice follows ksqlDB: an exact overload wins over one that needs an implicit cast, which wins over a
//! variadic one; error sentences contain ksqlDB's words.

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;

use crate::SqlType;
use crate::eval::EvalError;
use crate::expr::Value;

mod args;
mod catalog;
mod collections;
mod datetime;
mod json;
mod math;
mod pattern;
mod signature;
mod table;
mod text;
pub mod typing;
mod url;

pub use datetime::{check_pattern, format_timestamp_with, parse_timestamp_with};
pub(crate) use signature::{Signature, choose, describe as describe_type, wording};
pub use table::zip_results;
pub use typing::{
    TypeError, arithmetic_type, can_cast, can_implicitly_cast, coerce_list, common_type, comparable,
    compare_name,
};

/// What the analyser knows about one argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgType {
    /// An expression of this type.
    Value(SqlType),
    /// The literal NULL (or an expression whose type is unknown).
    Null,
    /// A lambda whose body is not analysed yet.
    Lambda {
        /// Number of its parameters.
        params: usize,
    },
    /// A lambda whose body is analysed (its parameters' types came from [`lambda_params`]).
    TypedLambda {
        /// Types of its parameters.
        params: Vec<SqlType>,
        /// Type of its body.
        body: SqlType,
    },
}

/// Why a call cannot be resolved; messages contain ksqlDB's sentences.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FunctionError {
    /// No scalar, aggregate or table function has this name.
    #[error("Can't find any functions with the name '{name}'")]
    Unknown {
        /// The name as written.
        name: String,
    },
    /// The name exists, but no overload takes these arguments.
    #[error(
        "Function '{name}' does not accept parameters ({given}).\nValid alternatives are:\n{alternatives}\nFor detailed information on a function run: DESCRIBE FUNCTION <Function-Name>;"
    )]
    NoOverload {
        /// The name as written.
        name: String,
        /// Argument types, comma separated.
        given: String,
        /// One overload per line.
        alternatives: String,
    },
    /// Several overloads fit equally well.
    #[error(
        "Function '{name}' cannot be resolved due to ambiguous method parameters ({given}).\nUse CAST() to explicitly cast your parameters to one of the supported signatures.\nValid alternatives are:\n{alternatives}\nFor detailed information on a function run: DESCRIBE FUNCTION <Function-Name>;"
    )]
    Ambiguous {
        /// The name as written.
        name: String,
        /// Argument types, comma separated.
        given: String,
        /// One overload per line.
        alternatives: String,
    },
    /// The arguments have the right types but a wrong value or form.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
    },
}

/// A resolved scalar call: `args` must be cast to `arg_types` (lambdas are left as they are).
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The overload.
    pub function: Arc<ScalarFunction>,
    /// Type of each argument after implicit casts; for a lambda, its body's type.
    pub arg_types: Vec<SqlType>,
    /// Type of the result.
    pub return_type: SqlType,
}

/// A function as SHOW FUNCTIONS and DESCRIBE FUNCTION print it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Upper-case name.
    pub name: &'static str,
    /// SCALAR, AGGREGATE or TABLE.
    pub kind: FunctionKind,
    /// One sentence.
    pub description: &'static str,
    /// `(arguments, return type)` per overload, as ksqlDB prints types.
    pub signatures: Vec<(String, String)>,
}

/// What sort of function a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionKind {
    /// One value per row.
    Scalar,
    /// One value per group.
    Aggregate,
    /// Several rows per row.
    Table,
}

/// What a row-wise kernel knows beside its arguments.
pub(crate) struct RowCall<'a> {
    pub(crate) function: &'a ScalarFunction,
    pub(crate) now_ms: i64,
}

/// An argument column of a vectorised kernel; a scalar has one row that stands for all.
pub(crate) struct ArgColumn<'a> {
    pub(crate) array: &'a ArrayRef,
    pub(crate) scalar: bool,
}

impl ArgColumn<'_> {
    pub(crate) fn at(&self, row: usize) -> usize {
        if self.scalar { 0 } else { row }
    }
}

pub(crate) type RowKernel = fn(&RowCall<'_>, &[Value]) -> Result<Value, String>;
pub(crate) type ColumnKernel = fn(
    &ScalarFunction,
    &[ArgColumn<'_>],
    usize,
    i64,
    &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError>;

/// How a scalar function is computed.
#[derive(Clone, Copy)]
pub(crate) enum Kernel {
    /// Row by row; any null argument makes the result null.
    Strict(RowKernel),
    /// Row by row, nulls included.
    Row(RowKernel),
    /// One DOUBLE to another, a whole column at once; null stays null and no value can fail.
    Doubles(fn(f64) -> f64),
    /// All rows at once.
    Columns(ColumnKernel),
    /// With lambdas.
    Lambda(crate::eval::LambdaKind),
}

/// One overload of a scalar function, resolved for a call site (types are known).
pub struct ScalarFunction {
    /// Upper-case name.
    pub name: &'static str,
    /// Types of the arguments after implicit casts (a lambda: its body's type).
    pub arg_types: Vec<SqlType>,
    /// Type of the result.
    pub return_type: SqlType,
    /// How it is computed.
    pub(crate) kernel: Kernel,
}

impl fmt::Debug for ScalarFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?}) -> {}", self.name, self.arg_types, self.return_type)
    }
}

/// A table function, resolved for a call site: each row gives a list of results.
pub struct TableFunction {
    /// Upper-case name.
    pub name: &'static str,
    /// Types of the arguments after implicit casts.
    pub arg_types: Vec<SqlType>,
    /// Type of one result.
    pub return_type: SqlType,
    pub(crate) kind: table::TableKind,
}

impl fmt::Debug for TableFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?}) -> {}", self.name, self.arg_types, self.return_type)
    }
}

/// Chooses the overload of scalar function `name` (any case) for `args`.
///
/// # Errors   [`FunctionError`] with ksqlDB's sentences; a lambda must be typed ([`lambda_params`]) before.
pub fn resolve(name: &str, args: &[ArgType]) -> Result<Resolved, FunctionError> {
    catalog::resolve_scalar(name, args)
}

/// Types of the parameters of the lambda at argument `index` of a call of `name`, so that its body can be analysed:
/// TRANSFORM(ARRAY<T>, x => …): `[T]`; TRANSFORM(MAP<K, V>, (k, v) => …, (k, v) => …): `[K, V]`;
/// REDUCE(ARRAY<T>, S, (s, x) => …): `[S, T]`; FILTER likewise.
///
/// # Errors   [`FunctionError::NoOverload`] if `name` takes no lambda there.
pub fn lambda_params(name: &str, args: &[ArgType], index: usize) -> Result<Vec<SqlType>, FunctionError> {
    catalog::lambda_params(name, args, index)
}

/// Chooses the overload of table function `name`: function, argument types to cast to, type of one result.
///
/// # Errors   [`FunctionError`] with ksqlDB's sentences.
pub fn resolve_table(
    name: &str,
    args: &[ArgType],
) -> Result<(Arc<TableFunction>, Vec<SqlType>, SqlType), FunctionError> {
    table::resolve(name, args)
}

/// What sort of function `name` (any case) is, if it is one.
#[must_use]
pub fn kind(name: &str) -> Option<FunctionKind> {
    let name = name.to_ascii_uppercase();
    if crate::aggregate::exists(&name) {
        Some(FunctionKind::Aggregate)
    } else if table::exists(&name) {
        Some(FunctionKind::Table)
    } else if catalog::exists(&name) {
        Some(FunctionKind::Scalar)
    } else {
        None
    }
}

/// All functions, by name: what SHOW FUNCTIONS and DESCRIBE FUNCTION need.
#[must_use]
pub fn list() -> Vec<FunctionInfo> {
    let mut all = catalog::infos();
    all.extend(table::infos());
    all.extend(crate::aggregate::infos());
    all.sort_by(|a, b| a.name.cmp(b.name));
    all
}
