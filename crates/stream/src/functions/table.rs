//! Table functions: EXPLODE and CUBE_EXPLODE.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array};

use super::signature::{self, Signature};
use super::{ArgType, FunctionError, FunctionInfo, FunctionKind, TableFunction};
use crate::SqlType;
use crate::eval::{EvalError, array_of, value_at};
use crate::expr::Value;

/// CUBE_EXPLODE refuses more columns: each doubles the rows.
const CUBE_MAX: usize = 16;

/// Which table function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableKind {
    Explode,
    CubeExplode,
}

struct Def {
    name: &'static str,
    about: &'static str,
    kind: TableKind,
    overloads: &'static [&'static str],
}

const DEFS: &[Def] = &[
    Def {
        name: "EXPLODE",
        about: "One row per element of an array.",
        kind: TableKind::Explode,
        overloads: &["input ARRAY<DECIMAL> -> DECIMAL", "list ARRAY<T> -> T"],
    },
    Def {
        name: "CUBE_EXPLODE",
        about: "One row per combination in which some elements are replaced by null.",
        kind: TableKind::CubeExplode,
        overloads: &["columns ARRAY<T> -> ARRAY<T>"],
    },
];

fn def(name: &str) -> Option<&'static Def> {
    let name = name.to_ascii_uppercase();
    DEFS.iter().find(|def| def.name == name)
}

pub(crate) fn exists(name: &str) -> bool {
    def(name).is_some()
}

pub(crate) fn infos() -> Vec<FunctionInfo> {
    let info = |def: &Def| FunctionInfo {
        name: def.name,
        kind: FunctionKind::Table,
        description: def.about,
        signatures: def
            .overloads
            .iter()
            .map(|text| Signature::parse(text))
            .map(|signature| (signature.describe_params(), signature::describe(&signature.result)))
            .collect(),
    };
    DEFS.iter().map(info).collect()
}

pub(crate) fn resolve(
    name: &str,
    args: &[ArgType],
) -> Result<(Arc<TableFunction>, Vec<SqlType>, SqlType), FunctionError> {
    let Some(def) = def(name) else { return Err(FunctionError::Unknown { name: name.to_owned() }) };
    let signatures: Vec<Signature> = def.overloads.iter().map(|text| Signature::parse(text)).collect();
    let choice = signature::choose(name, &signatures, args)?;
    let Some(SqlType::Array(element)) = choice.arg_types.first() else {
        let (given, alternatives) = signature::wording(name, &signatures, args);
        return Err(FunctionError::NoOverload { name: name.to_owned(), given, alternatives });
    };
    let return_type = match def.kind {
        TableKind::Explode => (**element).clone(),
        TableKind::CubeExplode => SqlType::Array(element.clone()),
    };
    let function = TableFunction {
        name: def.name,
        arg_types: choice.arg_types.clone(),
        return_type: return_type.clone(),
        kind: def.kind,
    };
    Ok((Arc::new(function), choice.arg_types, return_type))
}

impl TableFunction {
    /// The results of each row as a list (null: none).
    ///
    /// # Errors   [`EvalError`] if the columns are not of `arg_types`.
    pub fn apply(&self, args: &[ArrayRef], rows: usize) -> Result<ListArray, EvalError> {
        let list = args.first().and_then(|array| array.as_list_opt::<i32>()).ok_or_else(|| {
            EvalError::Plan { what: format!("{} of something that is not an ARRAY", self.name) }
        })?;
        match self.kind {
            TableKind::Explode => Ok(list.clone()),
            TableKind::CubeExplode => {
                let mut results = Vec::with_capacity(rows);
                for row in 0..rows {
                    results.push(match value_at(list, row, &self.arg_types[0]) {
                        Value::Array(items) => Value::Array(cube(&items)),
                        _ => Value::Null,
                    });
                }
                let ty = SqlType::Array(Box::new(self.return_type.clone()));
                Ok(array_of(&results, &ty)?.as_list::<i32>().clone())
            }
        }
    }
}

/// All combinations of an item or null, from all null to all items; a null item is not doubled.
fn cube(items: &[Value]) -> Vec<Value> {
    let items = &items[..items.len().min(CUBE_MAX)];
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for item in items {
        let choices: &[&Value] = if *item == Value::Null { &[&Value::Null] } else { &[&Value::Null, item] };
        rows = rows
            .into_iter()
            .flat_map(|row| {
                choices.iter().map(move |choice| {
                    let mut next = row.clone();
                    next.push((*choice).clone());
                    next
                })
            })
            .collect();
    }
    rows.into_iter().map(Value::Array).collect()
}

/// Lines several table functions' results up: for each result row its input row, and one column per function (shorter
/// ones end in nulls). Rows without any result vanish.
///
/// # Errors   [`EvalError`] if Arrow refuses.
pub fn zip_results(lists: &[ListArray], rows: usize) -> Result<(UInt32Array, Vec<ArrayRef>), EvalError> {
    let span = |list: &ListArray, row: usize| {
        if list.is_null(row) { (0, 0) } else { crate::eval::values::bounds(list.value_offsets(), row) }
    };
    let mut parents = Vec::new();
    let mut places: Vec<Vec<Option<u32>>> = vec![Vec::new(); lists.len()];
    for row in 0..rows {
        let longest =
            lists.iter().map(|list| span(list, row)).map(|(start, end)| end - start).max().unwrap_or(0);
        parents.extend(std::iter::repeat_n(crate::eval::narrow(row), longest));
        for (list, places) in lists.iter().zip(&mut places) {
            let (start, end) = span(list, row);
            let at = |index: usize| (start + index < end).then(|| crate::eval::narrow(start + index));
            places.extend((0..longest).map(at));
        }
    }
    let columns = lists
        .iter()
        .zip(places)
        .map(|(list, places)| arrow::compute::take(list.values(), &UInt32Array::from(places), None))
        .collect::<Result<_, _>>()?;
    Ok((UInt32Array::from(parents), columns))
}
