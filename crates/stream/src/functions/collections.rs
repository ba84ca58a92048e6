//! Arrays and maps.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};

use super::args::{Outcome, list, long, map, text};
use super::catalog::{Def, columns, lambda, row, strict};
use super::{ArgColumn, RowCall, ScalarFunction};
use crate::SqlType;
use crate::eval::{EvalError, LambdaKind, compare_values, value_to_string, values_equal};
use crate::expr::Value;

/// GENERATE_SERIES and the like make no longer arrays.
const SERIES_MAX: i64 = 1 << 20;

#[rustfmt::skip]
pub(crate) const DEFS: &[Def] = &[
    Def { name: "ARRAY_CONCAT", about: "Two arrays one after the other.", overloads: &[row("array1 ARRAY<T>, array2 ARRAY<T> -> ARRAY<T>", array_concat)] },
    Def { name: "ARRAY_CONTAINS", about: "Whether an array holds a value.", overloads: &[row("array ARRAY<T>, val T -> BOOLEAN", array_contains)] },
    Def { name: "ARRAY_DISTINCT", about: "Without repeated elements.", overloads: &[strict("array ARRAY<T> -> ARRAY<T>", |_, a| Ok(Value::Array(distinct(list(&a[0])?.iter()))))] },
    Def { name: "ARRAY_EXCEPT", about: "The distinct elements of the first array that are not in the second.", overloads: &[strict("left ARRAY<T>, right ARRAY<T> -> ARRAY<T>", array_except)] },
    Def { name: "ARRAY_INTERSECT", about: "The distinct elements that are in both arrays.", overloads: &[strict("left ARRAY<T>, right ARRAY<T> -> ARRAY<T>", array_intersect)] },
    Def { name: "ARRAY_JOIN", about: "The elements as one text.", overloads: &[row("array ARRAY<T> -> STRING", array_join), row("array ARRAY<T>, delimiter STRING -> STRING", array_join)] },
    Def { name: "ARRAY_LENGTH", about: "The number of elements.", overloads: &[columns("array ARRAY<T> -> INTEGER", array_length)] },
    Def { name: "ARRAY_MAX", about: "The greatest element.", overloads: &[strict("array ARRAY<T> -> T", |_, a| array_extreme(&a[0], Ordering::Greater))] },
    Def { name: "ARRAY_MIN", about: "The least element.", overloads: &[strict("array ARRAY<T> -> T", |_, a| array_extreme(&a[0], Ordering::Less))] },
    Def { name: "ARRAY_REMOVE", about: "Without the elements equal to a value.", overloads: &[row("array ARRAY<T>, element T -> ARRAY<T>", array_remove)] },
    Def { name: "ARRAY_SORT", about: "Sorted, nulls last.", overloads: &[strict("array ARRAY<T> -> ARRAY<T>", array_sort), strict("array ARRAY<T>, direction STRING -> ARRAY<T>", array_sort)] },
    Def { name: "ARRAY_UNION", about: "The distinct elements of both arrays.", overloads: &[strict("left ARRAY<T>, right ARRAY<T> -> ARRAY<T>", |_, a| Ok(Value::Array(distinct(list(&a[0])?.iter().chain(list(&a[1])?)))))] },
    Def { name: "AS_MAP", about: "A map from an array of keys and one of values.", overloads: &[strict("keys ARRAY<STRING>, vals ARRAY<T> -> MAP<STRING, T>", as_map)] },
    Def { name: "ENTRIES", about: "The entries of a map as structs K, V.", overloads: &[
        strict("map MAP<STRING, INTEGER>, sorted BOOLEAN -> ARRAY<STRUCT<K STRING, V INTEGER>>", entries),
        strict("map MAP<STRING, BIGINT>, sorted BOOLEAN -> ARRAY<STRUCT<K STRING, V BIGINT>>", entries),
        strict("map MAP<STRING, DOUBLE>, sorted BOOLEAN -> ARRAY<STRUCT<K STRING, V DOUBLE>>", entries),
        strict("map MAP<STRING, BOOLEAN>, sorted BOOLEAN -> ARRAY<STRUCT<K STRING, V BOOLEAN>>", entries),
        strict("map MAP<STRING, STRING>, sorted BOOLEAN -> ARRAY<STRUCT<K STRING, V STRING>>", entries),
    ] },
    Def { name: "FILTER", about: "The elements or entries for which a lambda is true.", overloads: &[lambda("array ARRAY<T>, lambda LAMBDA (T) => BOOLEAN -> ARRAY<T>", LambdaKind::Filter), lambda("map MAP<K, V>, lambda LAMBDA (K, V) => BOOLEAN -> MAP<K, V>", LambdaKind::Filter)] },
    Def { name: "GENERATE_SERIES", about: "The whole numbers from start to end.", overloads: &[
        strict("start INTEGER, end INTEGER -> ARRAY<INTEGER>", series), strict("start INTEGER, end INTEGER, step INTEGER -> ARRAY<INTEGER>", series),
        strict("start BIGINT, end BIGINT -> ARRAY<BIGINT>", series), strict("start BIGINT, end BIGINT, step INTEGER -> ARRAY<BIGINT>", series),
    ] },
    Def { name: "MAP_KEYS", about: "The keys of a map.", overloads: &[strict("input MAP<STRING, T> -> ARRAY<STRING>", |_, a| Ok(Value::Array(map(&a[0])?.iter().map(|(key, _)| key.clone()).collect())))] },
    Def { name: "MAP_UNION", about: "The entries of both maps; the second one's win.", overloads: &[row("map1 MAP<STRING, T>, map2 MAP<STRING, T> -> MAP<STRING, T>", map_union)] },
    Def { name: "MAP_VALUES", about: "The values of a map.", overloads: &[strict("input MAP<STRING, T> -> ARRAY<T>", |_, a| Ok(Value::Array(map(&a[0])?.iter().map(|(_, value)| value.clone()).collect())))] },
    Def { name: "REDUCE", about: "Folds the elements or entries into a state with a lambda.", overloads: &[lambda("array ARRAY<T>, state S, lambda LAMBDA (S, T) => S -> S", LambdaKind::Reduce), lambda("map MAP<K, V>, state S, lambda LAMBDA (S, K, V) => S -> S", LambdaKind::Reduce)] },
    Def { name: "SLICE", about: "The elements from one position to another, both counted from 1.", overloads: &[row("in ARRAY<T>, from INTEGER, to INTEGER -> ARRAY<T>", slice)] },
    Def { name: "TRANSFORM", about: "Applies lambdas to all elements or entries.", overloads: &[lambda("array ARRAY<T>, lambda LAMBDA (T) => U -> ARRAY<U>", LambdaKind::Transform), lambda("map MAP<K, V>, keyLambda LAMBDA (K, V) => A, valueLambda LAMBDA (K, V) => B -> MAP<A, B>", LambdaKind::Transform)] },
];

fn holds(items: &[Value], value: &Value) -> bool {
    items.iter().any(|item| values_equal(item, value))
}

fn distinct<'v>(items: impl Iterator<Item = &'v Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for item in items {
        if !holds(&kept, item) {
            kept.push(item.clone());
        }
    }
    kept
}

fn array_concat(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    match (&args[0], &args[1]) {
        (Value::Null, Value::Null) => Ok(Value::Null),
        (Value::Null, only) | (only, Value::Null) => Ok(only.clone()),
        (a, b) => Ok(Value::Array([list(a)?, list(b)?].concat())),
    }
}

fn array_contains(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(Value::Boolean(args[0] != Value::Null && holds(list(&args[0])?, &args[1])))
}

fn array_except(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let right = list(&args[1])?;
    Ok(Value::Array(distinct(list(&args[0])?.iter().filter(|item| !holds(right, item)))))
}

fn array_intersect(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let right = list(&args[1])?;
    Ok(Value::Array(distinct(list(&args[0])?.iter().filter(|item| holds(right, item)))))
}

fn array_join(call: &RowCall<'_>, args: &[Value]) -> Outcome {
    if args[0] == Value::Null {
        return Ok(Value::Null);
    }
    let delimiter = match args.get(1) {
        None => ",",
        Some(Value::Null) => "",
        Some(delimiter) => text(delimiter)?,
    };
    match &call.function.arg_types[0] {
        SqlType::Array(element)
            if !matches!(**element, SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(_)) =>
        {
            super::text::join(&args[0], delimiter, |item| value_to_string(item, element))
        }
        other => Err(format!("unsupported element type for ARRAY_JOIN: {other}")),
    }
}

fn array_length(
    _: &ScalarFunction,
    args: &[ArgColumn<'_>],
    rows: usize,
    _: i64,
    _: &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError> {
    let lists = args[0].array.as_list::<i32>();
    let length = |row: usize| {
        let at = args[0].at(row);
        lists.is_valid(at).then(|| lists.value_length(at))
    };
    Ok(std::sync::Arc::new((0..rows).map(length).collect::<Int32Array>()))
}

fn array_extreme(array: &Value, wanted: Ordering) -> Outcome {
    let mut best = &Value::Null;
    for item in list(array)?.iter().filter(|item| **item != Value::Null) {
        if *best == Value::Null || compare_values(item, best)? == wanted {
            best = item;
        }
    }
    Ok(best.clone())
}

fn array_remove(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    if args[0] == Value::Null {
        return Ok(Value::Null);
    }
    Ok(Value::Array(list(&args[0])?.iter().filter(|item| !values_equal(item, &args[1])).cloned().collect()))
}

fn array_sort(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let descending = match args.get(1).map_or(Ok("ASC"), text)?.to_ascii_uppercase().as_str() {
        "ASC" | "ASCENDING" => false,
        "DESC" | "DESCENDING" => true,
        _ => return Ok(Value::Null),
    };
    let (mut items, nulls): (Vec<Value>, Vec<Value>) =
        list(&args[0])?.iter().cloned().partition(|item| *item != Value::Null);
    items.sort_by(|a, b| {
        let order = compare_values(a, b).unwrap_or(Ordering::Equal);
        if descending { order.reverse() } else { order }
    });
    items.extend(nulls);
    Ok(Value::Array(items))
}

fn put(entries: &mut Vec<(Value, Value)>, key: Value, value: Value) {
    match entries.iter_mut().find(|(held, _)| values_equal(held, &key)) {
        Some((_, held)) => *held = value,
        None => entries.push((key, value)),
    }
}

fn as_map(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let mut entries = Vec::new();
    for (key, value) in list(&args[0])?.iter().zip(list(&args[1])?) {
        put(&mut entries, key.clone(), value.clone());
    }
    Ok(Value::Map(entries))
}

fn entries(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let mut entries = map(&args[0])?.to_vec();
    if args[1] == Value::Boolean(true) {
        entries.sort_by(|(a, _), (b, _)| compare_values(a, b).unwrap_or(Ordering::Equal));
    }
    Ok(Value::Array(entries.into_iter().map(|(key, value)| Value::Struct(vec![key, value])).collect()))
}

fn series(call: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (start, end) = (long(&args[0])?, long(&args[1])?);
    let step = args.get(2).map_or(Ok(if end >= start { 1 } else { -1 }), long)?;
    if step == 0 {
        return Err("GENERATE_SERIES step cannot be zero".to_owned());
    }
    if (end > start && step < 0) || (end < start && step > 0) {
        return Err(format!("GENERATE_SERIES step has wrong sign: {step}"));
    }
    let count = end
        .checked_sub(start)
        .and_then(|span| span.checked_div(step))
        .map_or(i64::MAX, |n| n.saturating_add(1));
    if count > SERIES_MAX {
        return Err(format!("GENERATE_SERIES would make {count} elements, the limit is {SERIES_MAX}"));
    }
    let small = call.function.return_type == SqlType::Array(Box::new(SqlType::Integer));
    let item = |index: i64| {
        let value = start + index * step;
        if small { Value::Integer(i32::try_from(value).unwrap_or(i32::MAX)) } else { Value::BigInt(value) }
    };
    Ok(Value::Array((0..count).map(item).collect()))
}

fn map_union(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    match (&args[0], &args[1]) {
        (Value::Null, Value::Null) => Ok(Value::Null),
        (Value::Null, only) | (only, Value::Null) => Ok(only.clone()),
        (a, b) => {
            let mut entries = map(a)?.to_vec();
            for (key, value) in map(b)? {
                put(&mut entries, key.clone(), value.clone());
            }
            Ok(Value::Map(entries))
        }
    }
}

fn slice(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    if args[0] == Value::Null {
        return Ok(Value::Null);
    }
    let items = list(&args[0])?;
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let from = if args[1] == Value::Null { 1 } else { long(&args[1])? };
    let to = if args[2] == Value::Null { length } else { long(&args[2])? };
    let start = (from - 1).max(0);
    let end = to.min(length);
    if start > end {
        return Ok(Value::Null);
    }
    let at = |index: i64| usize::try_from(index).unwrap_or(0);
    Ok(Value::Array(items[at(start)..at(end)].to_vec()))
}
