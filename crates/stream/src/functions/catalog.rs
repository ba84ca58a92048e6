//! All scalar functions by name, from the tables of the sibling modules.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::signature::{self, Signature};
use super::{
    ArgType, ColumnKernel, FunctionError, FunctionInfo, FunctionKind, Kernel, Resolved, RowKernel,
    ScalarFunction, collections, datetime, json, math, text, typing, url,
};
use crate::SqlType;
use crate::eval::LambdaKind;

/// How a DECIMAL (or otherwise open) result follows from the arguments' types.
pub(crate) type ResultRule = fn(&[SqlType]) -> SqlType;

/// One overload as the tables write it.
pub(crate) struct Overload {
    pub(crate) signature: &'static str,
    pub(crate) rule: Option<ResultRule>,
    pub(crate) kernel: Kernel,
}

/// One function as the tables write it.
pub(crate) struct Def {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) overloads: &'static [Overload],
}

impl Overload {
    pub(crate) const fn new(signature: &'static str, kernel: Kernel) -> Self {
        Self { signature, rule: None, kernel }
    }

    pub(crate) const fn ruled(signature: &'static str, rule: ResultRule, kernel: Kernel) -> Self {
        Self { signature, rule: Some(rule), kernel }
    }
}

/// Row by row, null if an argument is.
pub(crate) const fn strict(signature: &'static str, kernel: RowKernel) -> Overload {
    Overload::new(signature, Kernel::Strict(kernel))
}

/// Row by row, nulls included.
pub(crate) const fn row(signature: &'static str, kernel: RowKernel) -> Overload {
    Overload::new(signature, Kernel::Row(kernel))
}

/// One DOUBLE to another, a whole column at once.
pub(crate) const fn doubles(signature: &'static str, compute: fn(f64) -> f64) -> Overload {
    Overload::new(signature, Kernel::Doubles(compute))
}

/// All rows at once.
pub(crate) const fn columns(signature: &'static str, kernel: ColumnKernel) -> Overload {
    Overload::new(signature, Kernel::Columns(kernel))
}

/// With lambdas.
pub(crate) const fn lambda(signature: &'static str, kind: LambdaKind) -> Overload {
    Overload::new(signature, Kernel::Lambda(kind))
}

struct Entry {
    def: &'static Def,
    signatures: Vec<Signature>,
}

fn all() -> &'static HashMap<&'static str, Entry> {
    static ALL: OnceLock<HashMap<&'static str, Entry>> = OnceLock::new();
    ALL.get_or_init(|| {
        [text::DEFS, math::DEFS, datetime::DEFS, collections::DEFS, json::DEFS, url::DEFS]
            .into_iter()
            .flatten()
            .map(|def| {
                let parse = |overload: &Overload| Signature::parse(overload.signature);
                (def.name, Entry { def, signatures: def.overloads.iter().map(parse).collect() })
            })
            .collect()
    })
}

fn entry(name: &str) -> Result<&'static Entry, FunctionError> {
    let upper = name.to_ascii_uppercase();
    all().get(upper.as_str()).ok_or_else(|| FunctionError::Unknown { name: name.to_owned() })
}

pub(crate) fn exists(name: &str) -> bool {
    all().contains_key(name)
}

/// The first DECIMAL among the arguments: what a DECIMAL result is without a rule.
fn first_decimal(args: &[SqlType]) -> SqlType {
    let decimal = args.iter().find(|ty| matches!(ty, SqlType::Decimal { .. }));
    decimal.cloned().unwrap_or(SqlType::Decimal { precision: typing::MAX_PRECISION, scale: 0 })
}

pub(crate) fn resolve_scalar(name: &str, args: &[ArgType]) -> Result<Resolved, FunctionError> {
    let entry = entry(name)?;
    let choice = signature::choose(name, &entry.signatures, args)?;
    let overload = &entry.def.overloads[choice.index];
    let decimal = entry.signatures[choice.index].result == signature::Param::Decimal;
    let return_type = match (overload.rule, choice.result) {
        (Some(rule), _) => rule(&choice.arg_types),
        (None, _) if decimal => first_decimal(&choice.arg_types),
        (None, Some(ty)) => ty,
        (None, None) => {
            let (given, alternatives) = signature::wording(name, &entry.signatures, args);
            return Err(FunctionError::NoOverload { name: name.to_owned(), given, alternatives });
        }
    };
    let function = ScalarFunction {
        name: entry.def.name,
        arg_types: choice.arg_types.clone(),
        return_type: return_type.clone(),
        kernel: overload.kernel,
    };
    Ok(Resolved { function: Arc::new(function), arg_types: choice.arg_types, return_type })
}

pub(crate) fn lambda_params(
    name: &str,
    args: &[ArgType],
    index: usize,
) -> Result<Vec<SqlType>, FunctionError> {
    signature::lambda_params(name, &entry(name)?.signatures, args, index)
}

pub(crate) fn infos() -> Vec<FunctionInfo> {
    let info = |entry: &Entry| FunctionInfo {
        name: entry.def.name,
        kind: FunctionKind::Scalar,
        description: entry.def.about,
        signatures: entry
            .signatures
            .iter()
            .map(|signature| (signature.describe_params(), signature::describe(&signature.result)))
            .collect(),
    };
    all().values().map(info).collect()
}
