//! The aggregate functions' names, overloads and states.

use std::sync::Arc;

use arrow::datatypes::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, Time32MillisecondType,
    TimestampMillisecondType,
};

use super::distinct::CountDistinct;
use super::lists::{ListKind, Lists};
use super::offsets::{Offset, OffsetText, Policy};
use super::primitives::{Avg, Count, Extreme, Sum};
use super::texts::ExtremeBytes;
use super::{AggregateFunction, GroupState, Infos, Literal, ResolvedAggregate, invalid};
use crate::functions::{ArgType, FunctionError, FunctionInfo, FunctionKind};
use crate::functions::{Signature, choose, describe_type};
use crate::{Column, SqlType};

/// What kind of state an aggregate keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Count,
    CountDistinct,
    Sum,
    Avg,
    Min,
    Max,
    Offset(Policy),
    List(ListKind),
}

struct Def {
    name: &'static str,
    about: &'static str,
    /// Column arguments only.
    overloads: &'static [&'static str],
    /// How many literal arguments may follow: at least, at most.
    literals: (usize, usize),
}

const NUMBERS: &[&str] = &["val INTEGER -> DOUBLE", "val BIGINT -> DOUBLE", "val DOUBLE -> DOUBLE"];
const ORDERED: &[&str] = &[
    "val INTEGER -> INTEGER",
    "val BIGINT -> BIGINT",
    "val DOUBLE -> DOUBLE",
    "val DECIMAL -> DECIMAL",
    "val STRING -> STRING",
    "val BYTES -> BYTES",
    "val DATE -> DATE",
    "val TIME -> TIME",
    "val TIMESTAMP -> TIMESTAMP",
];

#[rustfmt::skip]
const DEFS: &[Def] = &[
    Def { name: "ATTR", about: "The group's only value, or null if there are several.", overloads: &["val T -> T"], literals: (0, 0) },
    Def { name: "AVG", about: "The average of the values.", overloads: NUMBERS, literals: (0, 0) },
    Def { name: "COLLECT_LIST", about: "All values, nulls included, at most 1000.", overloads: &["val T -> ARRAY<T>"], literals: (0, 0) },
    Def { name: "COLLECT_SET", about: "The distinct values, at most 1000.", overloads: &["val T -> ARRAY<T>"], literals: (0, 0) },
    Def { name: "CORRELATION", about: "Pearson's correlation of two columns.", overloads: &["x INTEGER, y INTEGER -> DOUBLE", "x BIGINT, y BIGINT -> DOUBLE", "x DOUBLE, y DOUBLE -> DOUBLE"], literals: (0, 0) },
    Def { name: "COUNT", about: "The number of rows, or of values that are not null.", overloads: &["val T -> BIGINT", " -> BIGINT"], literals: (0, 0) },
    Def { name: "COUNT_DISTINCT", about: "The exact number of distinct values that are not null.", overloads: &["val T -> BIGINT"], literals: (0, 0) },
    Def { name: "EARLIEST_BY_OFFSET", about: "The first value, or the first n.", overloads: &["val T -> T"], literals: (0, 2) },
    Def { name: "HISTOGRAM", about: "How often each text occurs, at most 1000 texts.", overloads: &["val STRING -> MAP<STRING, BIGINT>"], literals: (0, 0) },
    Def { name: "LATEST_BY_OFFSET", about: "The last value, or the last n.", overloads: &["val T -> T"], literals: (0, 2) },
    Def { name: "MAX", about: "The greatest value.", overloads: ORDERED, literals: (0, 0) },
    Def { name: "MIN", about: "The least value.", overloads: ORDERED, literals: (0, 0) },
    Def { name: "STDDEV_SAMP", about: "The sample variance (as ksqlDB's function of this name).", overloads: NUMBERS, literals: (0, 0) },
    Def { name: "STDDEV_SAMPLE", about: "The sample standard deviation.", overloads: NUMBERS, literals: (0, 0) },
    Def { name: "SUM", about: "The sum of the values.", overloads: &["val INTEGER -> INTEGER", "val BIGINT -> BIGINT", "val DOUBLE -> DOUBLE", "val DECIMAL -> DECIMAL"], literals: (0, 0) },
    Def { name: "SUM_LIST", about: "The sum of the elements of all lists.", overloads: &["list ARRAY<INTEGER> -> INTEGER", "list ARRAY<BIGINT> -> BIGINT", "list ARRAY<DOUBLE> -> DOUBLE"], literals: (0, 0) },
    Def { name: "TOPK", about: "The k greatest values; with further columns, structs of them.", overloads: &["val INTEGER -> ARRAY<INTEGER>", "val BIGINT -> ARRAY<BIGINT>", "val DOUBLE -> ARRAY<DOUBLE>", "val STRING -> ARRAY<STRING>"], literals: (1, 1) },
    Def { name: "TOPKDISTINCT", about: "The k greatest distinct values.", overloads: &["val INTEGER -> ARRAY<INTEGER>", "val BIGINT -> ARRAY<BIGINT>", "val DOUBLE -> ARRAY<DOUBLE>", "val DECIMAL -> ARRAY<DECIMAL>", "val STRING -> ARRAY<STRING>", "val BYTES -> ARRAY<BYTES>", "val DATE -> ARRAY<DATE>", "val TIME -> ARRAY<TIME>", "val TIMESTAMP -> ARRAY<TIMESTAMP>"], literals: (1, 1) },
];

fn def(name: &str) -> Option<&'static Def> {
    let name = name.to_ascii_uppercase();
    DEFS.iter().find(|def| def.name == name)
}

/// Whether an aggregate is called so (any case).
#[must_use]
pub fn exists(name: &str) -> bool {
    def(name).is_some()
}

/// How many of the last of `args` arguments of aggregate `name` must be literals (TOPK: 1, LATEST_BY_OFFSET: up to 2);
/// they go to [`resolve`] as values. ksqlDB's error if one is not a literal:
/// `Parameter 2 passed to function EARLIEST_BY_OFFSET must be a literal constant, but was expression: 'F0'`.
#[must_use]
pub fn literal_args(name: &str, args: usize) -> usize {
    def(name).map_or(0, |def| args.saturating_sub(1).min(def.literals.1))
}

/// For SHOW FUNCTIONS.
#[must_use]
pub fn infos() -> Infos {
    let info = |def: &Def| FunctionInfo {
        name: def.name,
        kind: FunctionKind::Aggregate,
        description: def.about,
        signatures: def
            .overloads
            .iter()
            .map(|text| {
                let signature = Signature::parse(text);
                (signature.describe_params(), describe_type(&signature.result))
            })
            .collect(),
    };
    DEFS.iter().map(info).collect()
}

/// Chooses the overload of aggregate `name` for column arguments `args` and literal arguments `literals`.
/// COUNT(*) has no column argument.
///
/// # Errors   [`FunctionError`] with ksqlDB's sentences.
pub fn resolve(
    name: &str,
    args: &[SqlType],
    literals: &[Literal],
) -> Result<ResolvedAggregate, FunctionError> {
    let Some(def) = def(name) else { return Err(FunctionError::Unknown { name: name.to_owned() }) };
    let signatures: Vec<Signature> = def.overloads.iter().map(|text| Signature::parse(text)).collect();
    let columns = if def.name == "TOPK" { &args[..args.len().min(1)] } else { args };
    let given: Vec<ArgType> = columns.iter().cloned().map(ArgType::Value).collect();
    let choice = choose(name, &signatures, &given)?;
    if literals.len() < def.literals.0 || literals.len() > def.literals.1 {
        let all: Vec<ArgType> =
            args.iter().cloned().map(ArgType::Value).chain(literals.iter().map(literal_type)).collect();
        let (given, alternatives) = crate::functions::wording(name, &signatures, &all);
        return Err(FunctionError::NoOverload { name: name.to_owned(), given, alternatives });
    }
    let mut arg_types = choice.arg_types;
    if def.name == "TOPK" {
        arg_types.extend(args.iter().skip(1).cloned());
    }
    let (kind, return_type) = kind(def.name, &arg_types, choice.result, literals)?;
    let function = AggregateFunction {
        name: def.name,
        arg_types: arg_types.clone(),
        return_type: return_type.clone(),
        kind,
    };
    Ok(ResolvedAggregate { function: Arc::new(function), arg_types, return_type })
}

fn literal_type(literal: &Literal) -> ArgType {
    match literal {
        Literal::Boolean(_) => ArgType::Value(SqlType::Boolean),
        Literal::Integer(_) => ArgType::Value(SqlType::Integer),
        Literal::BigInt(_) => ArgType::Value(SqlType::BigInt),
        Literal::Double(_) => ArgType::Value(SqlType::Double),
        Literal::String(_) => ArgType::Value(SqlType::String),
        _ => ArgType::Null,
    }
}

fn positive(name: &str, literal: &Literal) -> Result<usize, FunctionError> {
    let number = match literal {
        Literal::Integer(value) => i64::from(*value),
        Literal::BigInt(value) => *value,
        _ => return Err(invalid(format!("{name} takes a whole number as its size"))),
    };
    match usize::try_from(number) {
        Ok(size @ 1..=100_000) => Ok(size),
        _ => Err(invalid(format!("{name} must have a size between 1 and 100000, not {number}"))),
    }
}

fn kind(
    name: &'static str,
    args: &[SqlType],
    result: Option<SqlType>,
    literals: &[Literal],
) -> Result<(Kind, SqlType), FunctionError> {
    let first = args.first().cloned().unwrap_or(SqlType::BigInt);
    let plain = result.unwrap_or_else(|| first.clone());
    let array = || SqlType::Array(Box::new(first.clone()));
    Ok(match name {
        "COUNT" => (Kind::Count, SqlType::BigInt),
        "COUNT_DISTINCT" => (Kind::CountDistinct, SqlType::BigInt),
        "SUM" => (Kind::Sum, first),
        "AVG" => (Kind::Avg, SqlType::Double),
        "MIN" => (Kind::Min, first),
        "MAX" => (Kind::Max, first),
        "COLLECT_LIST" => (Kind::List(ListKind::CollectList), array()),
        "COLLECT_SET" => (Kind::List(ListKind::CollectSet), array()),
        "ATTR" => (Kind::List(ListKind::Attr), first),
        "HISTOGRAM" => (Kind::List(ListKind::Histogram), plain),
        "SUM_LIST" => (Kind::List(ListKind::SumList), plain),
        "STDDEV_SAMPLE" => (Kind::List(ListKind::Deviation { root: true }), SqlType::Double),
        "STDDEV_SAMP" => (Kind::List(ListKind::Deviation { root: false }), SqlType::Double),
        "CORRELATION" => (Kind::List(ListKind::Correlation), SqlType::Double),
        "TOPKDISTINCT" => (Kind::List(ListKind::TopKDistinct { k: positive(name, &literals[0])? }), array()),
        "TOPK" => {
            let k = positive(name, &literals[0])?;
            let wide = args.len() > 1;
            let ty = if wide {
                let others = args[1..].iter().enumerate();
                let mut fields = vec![Column::new("sort_col", first)];
                fields.extend(others.map(|(index, ty)| Column::new(format!("col{index}"), ty.clone())));
                SqlType::Array(Box::new(SqlType::Struct(fields)))
            } else {
                array()
            };
            (Kind::List(ListKind::TopK { k, wide }), ty)
        }
        _ => offsets(name, first, literals)?,
    })
}

/// LATEST_BY_OFFSET / EARLIEST_BY_OFFSET (col), (col, ignoreNulls), (col, n), (col, n, ignoreNulls).
fn offsets(name: &'static str, ty: SqlType, literals: &[Literal]) -> Result<(Kind, SqlType), FunctionError> {
    let latest = name == "LATEST_BY_OFFSET";
    let (n, ignore_nulls) = match literals {
        [] => (None, true),
        [Literal::Boolean(ignore)] => (None, *ignore),
        [n] => (Some(positive(name, n)?), true),
        [n, Literal::Boolean(ignore)] => (Some(positive(name, n)?), *ignore),
        _ => return Err(invalid(format!("{name} takes (column, n, ignoreNulls)"))),
    };
    let policy = Policy { latest, ignore_nulls };
    Ok(match n {
        Some(_) => (Kind::List(ListKind::Offsets { n, policy }), SqlType::Array(Box::new(ty))),
        None => (Kind::Offset(policy), ty),
    })
}

pub(crate) fn supports_undo(kind: &Kind) -> bool {
    match kind {
        Kind::Count | Kind::Sum | Kind::Avg => true,
        Kind::List(kind) => matches!(
            kind,
            ListKind::CollectList
                | ListKind::Histogram
                | ListKind::Attr
                | ListKind::SumList
                | ListKind::Deviation { .. }
                | ListKind::Correlation
        ),
        Kind::CountDistinct | Kind::Min | Kind::Max | Kind::Offset(_) => false,
    }
}

fn extreme<const LEAST: bool>(function: &AggregateFunction) -> Box<dyn GroupState> {
    let (ty, name) = (function.return_type.arrow(), function.name);
    match function.return_type {
        SqlType::Integer => Box::new(Extreme::<Int32Type, LEAST>::new(ty, name)),
        SqlType::BigInt => Box::new(Extreme::<Int64Type, LEAST>::new(ty, name)),
        SqlType::Decimal { .. } => Box::new(Extreme::<Decimal128Type, LEAST>::new(ty, name)),
        SqlType::Date => Box::new(Extreme::<Date32Type, LEAST>::new(ty, name)),
        SqlType::Time => Box::new(Extreme::<Time32MillisecondType, LEAST>::new(ty, name)),
        SqlType::Timestamp => Box::new(Extreme::<TimestampMillisecondType, LEAST>::new(ty, name)),
        SqlType::String => Box::new(ExtremeBytes::<LEAST>::new(true, name)),
        SqlType::Bytes => Box::new(ExtremeBytes::<LEAST>::new(false, name)),
        _ => Box::new(Extreme::<Float64Type, LEAST>::new(ty, name)),
    }
}

fn offset(function: &AggregateFunction, policy: Policy) -> Box<dyn GroupState> {
    let ty = function.return_type.arrow();
    match function.return_type {
        SqlType::Integer => Box::new(Offset::<Int32Type>::new(ty, policy)),
        SqlType::BigInt => Box::new(Offset::<Int64Type>::new(ty, policy)),
        SqlType::Double => Box::new(Offset::<Float64Type>::new(ty, policy)),
        SqlType::Decimal { .. } => Box::new(Offset::<Decimal128Type>::new(ty, policy)),
        SqlType::Date => Box::new(Offset::<Date32Type>::new(ty, policy)),
        SqlType::Time => Box::new(Offset::<Time32MillisecondType>::new(ty, policy)),
        SqlType::Timestamp => Box::new(Offset::<TimestampMillisecondType>::new(ty, policy)),
        SqlType::String => Box::new(OffsetText::new(policy)),
        _ => lists(function, ListKind::Offsets { n: None, policy }),
    }
}

fn lists(function: &AggregateFunction, kind: ListKind) -> Box<dyn GroupState> {
    Box::new(Lists::new(kind, function.name, function.arg_types.clone(), function.return_type.clone()))
}

pub(crate) fn new_state(function: &AggregateFunction) -> Box<dyn GroupState> {
    let ty = function.return_type.arrow();
    match function.kind {
        Kind::Count => Box::<Count>::default(),
        Kind::CountDistinct => {
            Box::new(CountDistinct::new(function.arg_types.first().cloned().unwrap_or(SqlType::String)))
        }
        Kind::Sum => match function.return_type {
            SqlType::Integer => Box::new(Sum::<Int32Type>::new(ty)),
            SqlType::BigInt => Box::new(Sum::<Int64Type>::new(ty)),
            SqlType::Decimal { .. } => Box::new(Sum::<Decimal128Type>::new(ty)),
            _ => Box::new(Sum::<Float64Type>::new(ty)),
        },
        Kind::Avg => match function.arg_types.first() {
            Some(SqlType::Integer) => Box::new(Avg::<Int32Type>::new()),
            Some(SqlType::BigInt) => Box::new(Avg::<Int64Type>::new()),
            _ => Box::new(Avg::<Float64Type>::new()),
        },
        Kind::Min => extreme::<true>(function),
        Kind::Max => extreme::<false>(function),
        Kind::Offset(policy) => offset(function, policy),
        Kind::List(kind) => lists(function, kind),
    }
}
