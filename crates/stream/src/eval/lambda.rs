//! TRANSFORM, FILTER and REDUCE: the lambda's body runs on the elements of all rows at once (REDUCE: on the n-th
//! elements of all rows at once).

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::buffer::NullBuffer;

use super::values::{bounds, list_array, map_array};
use super::{EvalError, Frame, Run, boolean, eval, eval_guarded, narrow, plan, truth};
use crate::SqlType;
use crate::expr::Expr;

/// Which lambda function, on which container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LambdaKind {
    Transform,
    Filter,
    Reduce,
}

/// The elements of an array column, or keys and values of a map column, of all non-null rows one after the other.
struct Elements {
    columns: Vec<ArrayRef>,
    /// Row of each element.
    parents: Vec<u32>,
    lengths: Vec<usize>,
    nulls: Option<NullBuffer>,
}

fn elements(array: &ArrayRef) -> Result<Elements, EvalError> {
    let (offsets, children): (&[i32], Vec<&ArrayRef>) = if let Some(list) = array.as_list_opt::<i32>() {
        (list.value_offsets(), vec![list.values()])
    } else if let Some(map) = array.as_map_opt() {
        (map.value_offsets(), vec![map.keys(), map.values()])
    } else {
        return Err(plan("a lambda over something that is neither ARRAY nor MAP"));
    };
    let (mut parents, mut places, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(array.len()));
    for row in 0..array.len() {
        let (start, end) = if array.is_null(row) { (0, 0) } else { bounds(offsets, row) };
        parents.extend(std::iter::repeat_n(narrow(row), end - start));
        places.extend((start..end).map(narrow));
        lengths.push(end - start);
    }
    let places = UInt32Array::from(places);
    let columns = children
        .into_iter()
        .map(|child| arrow::compute::take(child, &places, None))
        .collect::<Result<_, _>>()?;
    Ok(Elements { columns, parents, lengths, nulls: array.nulls().cloned() })
}

/// Evaluates `body` with `params` after the outer columns, once per entry of `parents` (its outer row).
fn run_body(
    lambda: &Expr,
    parents: &[u32],
    params: &[ArrayRef],
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let Expr::Lambda { body, outer_len, params: types } = lambda else {
        return Err(plan("a lambda argument"));
    };
    if params.len() != types.len() || frame.columns.len() < *outer_len {
        return Err(plan("a lambda's parameters"));
    }
    let places = UInt32Array::from(parents.to_vec());
    let mut columns: Vec<ArrayRef> = frame.columns[..*outer_len]
        .iter()
        .map(|column| arrow::compute::take(column, &places, None))
        .collect::<Result<_, _>>()?;
    columns.extend(params.iter().cloned());
    let ids: Vec<u32> = parents.iter().map(|row| narrow(frame.id(*row as usize))).collect();
    eval(body, &Frame { columns: &columns, rows: parents.len(), ids: Some(&ids) }, run)
}

pub(crate) fn call(
    kind: LambdaKind,
    args: &[Expr],
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let input = args.first().ok_or_else(|| plan("a lambda function without arguments"))?;
    let array = eval_guarded(input, frame, run)?;
    match kind {
        LambdaKind::Reduce => reduce(&array, args, ty, frame, run),
        LambdaKind::Transform => {
            let parts = elements(&array)?;
            let mut results = Vec::with_capacity(2);
            for lambda in &args[1..] {
                results.push(run_body(lambda, &parts.parents, &parts.columns, frame, run)?);
            }
            rebuild(results, parts.lengths, parts.nulls)
        }
        LambdaKind::Filter => {
            let parts = elements(&array)?;
            let lambda = args.get(1).ok_or_else(|| plan("FILTER without a lambda"))?;
            let kept = run_body(lambda, &parts.parents, &parts.columns, frame, run)?;
            let kept = truth(boolean(&kept)?);
            let mut lengths = vec![0; array.len()];
            for index in kept.set_indices() {
                lengths[parts.parents[index] as usize] += 1;
            }
            let mask = BooleanArray::new(kept, None);
            let columns = parts
                .columns
                .iter()
                .map(|column| arrow::compute::filter(column, &mask))
                .collect::<Result<_, _>>()?;
            rebuild(columns, lengths, parts.nulls)
        }
    }
}

fn rebuild(
    mut columns: Vec<ArrayRef>,
    lengths: Vec<usize>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, EvalError> {
    match (columns.pop(), columns.pop()) {
        (Some(values), Some(keys)) => map_array(keys, values, lengths, nulls),
        (Some(values), None) => Ok(list_array(values, lengths, nulls)),
        _ => Err(plan("a lambda function without a lambda")),
    }
}

/// REDUCE(container, start, (state, element) => …): null container gives the start, null start gives null.
fn reduce(
    array: &ArrayRef,
    args: &[Expr],
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let (Some(start), Some(lambda)) = (args.get(1), args.get(2)) else {
        return Err(plan("REDUCE's arguments"));
    };
    let mut state = eval_guarded(start, frame, run)?;
    let parts = elements(array)?;
    let mut first = Vec::with_capacity(parts.lengths.len());
    let mut total = 0;
    for length in &parts.lengths {
        first.push(total);
        total += length;
    }
    let longest = parts.lengths.iter().copied().max().unwrap_or(0);
    for step in 0..longest {
        let active: Vec<u32> = (0..frame.rows)
            .filter(|row| parts.lengths[*row] > step && state.is_valid(*row))
            .map(narrow)
            .collect();
        if active.is_empty() {
            break;
        }
        let places: UInt32Array =
            active.iter().map(|row| narrow(first[*row as usize] + step)).collect::<Vec<_>>().into();
        let mut params = vec![arrow::compute::take(&state, &UInt32Array::from(active.clone()), None)?];
        for column in &parts.columns {
            params.push(arrow::compute::take(column, &places, None)?);
        }
        let next = run_body(lambda, &active, &params, frame, run)?;
        let mut pick: Vec<(usize, usize)> = (0..frame.rows).map(|row| (0, row)).collect();
        for (index, row) in active.iter().enumerate() {
            pick[*row as usize] = (1, index);
        }
        state = arrow::compute::interleave(&[state.as_ref(), next.as_ref()], &pick)?;
    }
    debug_assert_eq!(*state.data_type(), ty.arrow(), "REDUCE keeps its state's type");
    Ok(state)
}
