//! Typed expressions: what the analyser makes of SQL text, and what operators evaluate on columns.
//!
//! An expression refers to columns by index into its input's [`Schema`](crate::Schema) (key columns first, then
//! value columns). Names, overloads and implicit casts are resolved before an expression is built, so evaluation
//! cannot fail for reasons of typing; a row whose evaluation fails (a cast, a division by zero) yields null and a
//! line in the processing log, as ksqlDB does.

use std::sync::Arc;

use crate::SqlType;
use crate::functions::ScalarFunction;

/// A literal value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// `TRUE`, `FALSE`
    Boolean(bool),
    /// 32-bit integer
    Integer(i32),
    /// 64-bit integer
    BigInt(i64),
    /// 64-bit float
    Double(f64),
    /// Unscaled value, precision and scale.
    Decimal(i128, u8, u8),
    /// Text
    String(String),
    /// Bytes
    Bytes(Vec<u8>),
    /// Days since the Unix epoch
    Date(i32),
    /// Milliseconds of the day
    Time(i32),
    /// Milliseconds since the Unix epoch
    Timestamp(i64),
    /// Array elements
    Array(Vec<Value>),
    /// Map entries in insertion order
    Map(Vec<(Value, Value)>),
    /// Struct field values in field order
    Struct(Vec<Value>),
}

/// Arithmetic operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArithmeticOp {
    /// `+` (also string concatenation)
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
}

/// Comparison operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// `=`
    Equal,
    /// `<>`, `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `IS DISTINCT FROM`
    IsDistinctFrom,
    /// `IS NOT DISTINCT FROM`
    IsNotDistinctFrom,
}

/// A typed expression tree.
#[derive(Debug, Clone)]
pub enum Expr {
    /// Column `index` of the input (key columns first).
    Column {
        /// Index into the input's columns.
        index: usize,
        /// Its type.
        ty: SqlType,
    },
    /// A constant of type `ty`.
    Literal {
        /// The value.
        value: Value,
        /// Its type.
        ty: SqlType,
    },
    /// `CAST(input AS ty)`; also every implicit cast.
    Cast {
        /// What is cast.
        input: Box<Expr>,
        /// Target type.
        ty: SqlType,
    },
    /// `left op right`; both sides may still differ in numeric type, evaluation widens as ksqlDB does.
    Arithmetic {
        /// Operator.
        op: ArithmeticOp,
        /// Left side.
        left: Box<Expr>,
        /// Right side.
        right: Box<Expr>,
        /// Type of the result.
        ty: SqlType,
    },
    /// `-input`
    Negate(Box<Expr>),
    /// A comparison, type BOOLEAN.
    Compare {
        /// Operator.
        op: CompareOp,
        /// Left side.
        left: Box<Expr>,
        /// Right side.
        right: Box<Expr>,
    },
    /// `left AND right` in three-valued logic as ksqlDB evaluates it.
    And(Box<Expr>, Box<Expr>),
    /// `left OR right`
    Or(Box<Expr>, Box<Expr>),
    /// `NOT input`
    Not(Box<Expr>),
    /// `input IS NULL` (`negated`: IS NOT NULL)
    IsNull {
        /// What is tested.
        input: Box<Expr>,
        /// IS NOT NULL.
        negated: bool,
    },
    /// `input [NOT] BETWEEN low AND high`
    Between {
        /// What is tested.
        input: Box<Expr>,
        /// Lower bound, inclusive.
        low: Box<Expr>,
        /// Upper bound, inclusive.
        high: Box<Expr>,
        /// NOT BETWEEN.
        negated: bool,
    },
    /// `input [NOT] IN (list)`
    In {
        /// What is tested.
        input: Box<Expr>,
        /// Candidates, of comparable types.
        list: Vec<Expr>,
        /// NOT IN.
        negated: bool,
    },
    /// `input [NOT] LIKE pattern ESCAPE escape`
    Like {
        /// What is tested.
        input: Box<Expr>,
        /// Pattern with `%` and `_`.
        pattern: Box<Expr>,
        /// Escape character.
        escape: Option<char>,
        /// NOT LIKE.
        negated: bool,
    },
    /// Searched CASE (a simple CASE is rewritten to it).
    Case {
        /// `(condition, result)` pairs; results share `ty`.
        branches: Vec<(Expr, Expr)>,
        /// ELSE, null if absent.
        otherwise: Option<Box<Expr>>,
        /// Type of the result.
        ty: SqlType,
    },
    /// A scalar function call with its overload chosen.
    Call {
        /// The resolved function.
        function: Arc<ScalarFunction>,
        /// Arguments (lambdas as [`Expr::Lambda`]).
        args: Vec<Expr>,
        /// Type of the result.
        ty: SqlType,
    },
    /// `(x, y) => body`: body sees the outer columns first, then its parameters as columns
    /// `outer_len .. outer_len + params.len()`.
    Lambda {
        /// Types of the parameters.
        params: Vec<SqlType>,
        /// Number of columns of the enclosing input.
        outer_len: usize,
        /// Body.
        body: Box<Expr>,
    },
    /// `input[index]` of an ARRAY (1-based, negative from the end) or MAP (by key).
    Subscript {
        /// Array or map.
        input: Box<Expr>,
        /// Position or key.
        index: Box<Expr>,
        /// Element type.
        ty: SqlType,
    },
    /// `input->field`
    Field {
        /// Struct.
        input: Box<Expr>,
        /// Field index.
        index: usize,
        /// Field type.
        ty: SqlType,
    },
    /// `ARRAY[…]`; elements already cast to the element type.
    MakeArray {
        /// Elements.
        elements: Vec<Expr>,
        /// Array type.
        ty: SqlType,
    },
    /// `MAP(k := v, …)`
    MakeMap {
        /// Entries.
        entries: Vec<(Expr, Expr)>,
        /// Map type.
        ty: SqlType,
    },
    /// `STRUCT(name := value, …)`
    MakeStruct {
        /// Field values in field order.
        fields: Vec<Expr>,
        /// Struct type.
        ty: SqlType,
    },
}

impl Expr {
    /// Type of the expression's value.
    #[must_use]
    pub fn ty(&self) -> SqlType {
        match self {
            Self::Column { ty, .. }
            | Self::Literal { ty, .. }
            | Self::Cast { ty, .. }
            | Self::Arithmetic { ty, .. }
            | Self::Case { ty, .. }
            | Self::Call { ty, .. }
            | Self::Subscript { ty, .. }
            | Self::Field { ty, .. }
            | Self::MakeArray { ty, .. }
            | Self::MakeMap { ty, .. }
            | Self::MakeStruct { ty, .. } => ty.clone(),
            Self::Negate(input) => input.ty(),
            Self::Lambda { body, .. } => body.ty(),
            Self::Compare { .. }
            | Self::And(..)
            | Self::Or(..)
            | Self::Not(_)
            | Self::IsNull { .. }
            | Self::Between { .. }
            | Self::In { .. }
            | Self::Like { .. } => SqlType::Boolean,
        }
    }
}
