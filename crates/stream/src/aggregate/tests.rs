//! Aggregates against ksqlDB's results, against a model, and through their bytes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int32Array, Int64Array, StringArray};

use super::*;
use crate::eval::{array_of, value_at};

fn function(name: &str, args: &[SqlType], literals: &[Value]) -> Arc<AggregateFunction> {
    resolve(name, args, literals).unwrap_or_else(|error| panic!("{error}")).function
}

fn ints(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn results(state: &dyn GroupState, function: &AggregateFunction, slots: &[u32]) -> Vec<Value> {
    let array = state.results(slots);
    assert_eq!(*array.data_type(), function.return_type.arrow(), "{}", function.name);
    (0..slots.len()).map(|row| value_at(&array, row, &function.return_type)).collect()
}

/// Result of group 0 after all rows of `columns`.
fn fold(name: &str, types: &[SqlType], literals: &[Value], columns: &[ArrayRef]) -> Value {
    let function = function(name, types, literals);
    let mut state = function.new_state();
    state.ensure(1);
    let rows = columns.first().map_or(0, |column| column.len());
    state.update(&vec![0; rows], Rows::All, columns);
    results(&*state, &function, &[0]).remove(0)
}

fn list(values: &[i32]) -> Value {
    Value::Array(values.iter().map(|value| Value::Integer(*value)).collect())
}

const INT: SqlType = SqlType::Integer;
const TEXT: SqlType = SqlType::String;

#[test]
fn aggregates_give_what_ksqldb_gives() {
    let some = [Some(0), Some(100), None, Some(99), Some(7), Some(100)];
    let column = || vec![ints(&some)];
    let k = [Value::Integer(3)];
    let two = [Value::Integer(2)];
    for (name, literals, expected) in [
        ("COUNT", &[][..], Value::BigInt(5)),
        ("SUM", &[], Value::Integer(306)),
        ("AVG", &[], Value::Double(61.2)),
        ("MIN", &[], Value::Integer(0)),
        ("MAX", &[], Value::Integer(100)),
        ("COUNT_DISTINCT", &[], Value::BigInt(4)),
        ("LATEST_BY_OFFSET", &[], Value::Integer(100)),
        ("EARLIEST_BY_OFFSET", &[], Value::Integer(0)),
        ("LATEST_BY_OFFSET", &two, list(&[7, 100])),
        ("EARLIEST_BY_OFFSET", &two, list(&[0, 100])),
        ("TOPK", &k, list(&[100, 100, 99])),
        ("TOPKDISTINCT", &k, list(&[100, 99, 7])),
        ("COLLECT_SET", &[], {
            let distinct = [Some(0), Some(100), None, Some(99), Some(7)];
            Value::Array(distinct.iter().map(|value| value.map_or(Value::Null, Value::Integer)).collect())
        }),
        ("ATTR", &[], Value::Null),
    ] {
        assert_eq!(fold(name, &[INT], literals, &column()), expected, "{name}");
    }
    let deviation = |name| fold(name, &[INT], &[], &[ints(&[Some(2), Some(4), None, Some(6)])]);
    assert_eq!(deviation("STDDEV_SAMP"), Value::Double(4.0));
    assert_eq!(deviation("STDDEV_SAMPLE"), Value::Double(2.0));
    assert_eq!(fold("SUM", &[INT], &[], &[ints(&[None])]), Value::Integer(0));
    assert_eq!(fold("MIN", &[INT], &[], &[ints(&[None])]), Value::Null);
    assert_eq!(fold("SUM", &[INT], &[], &[ints(&[Some(i32::MAX), Some(1)])]), Value::Integer(i32::MIN));
    let names = [Some("b"), None, Some("a"), Some("b")];
    assert_eq!(fold("MIN", &[TEXT], &[], &[texts(&names)]), Value::String("a".into()));
    assert_eq!(fold("ATTR", &[TEXT], &[], &[texts(&[Some("s"), Some("s")])]), Value::String("s".into()));
    let histogram = fold("HISTOGRAM", &[TEXT], &[], &[texts(&names)]);
    let entry = |name: &str, times| (Value::String(name.into()), Value::BigInt(times));
    assert_eq!(histogram, Value::Map(vec![entry("b", 2), entry("a", 1)]));
    let x: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    let y: ArrayRef = Arc::new(Float64Array::from(vec![-2.0, -4.0, -6.0]));
    let correlation = fold("CORRELATION", &[SqlType::Double, SqlType::Double], &[], &[x, y]);
    assert!(matches!(correlation, Value::Double(value) if (value + 1.0).abs() < 1e-12));
    let ignoring =
        |keep: bool| fold("LATEST_BY_OFFSET", &[INT], &[Value::Boolean(!keep)], &[ints(&[Some(12), None])]);
    assert_eq!((ignoring(false), ignoring(true)), (Value::Integer(12), Value::Null));
    let wide = fold(
        "TOPK",
        &[INT, TEXT],
        &[Value::Integer(2)],
        &[
            ints(&[Some(0), Some(100), None, Some(100)]),
            texts(&[Some("zero"), Some("one"), Some("three"), None]),
        ],
    );
    let item = |sort, name: Value| Value::Struct(vec![Value::Integer(sort), name]);
    assert_eq!(wide, Value::Array(vec![item(100, Value::String("one".into())), item(100, Value::Null)]));
}

#[test]
fn literal_arguments_are_checked_and_named() {
    assert_eq!(
        (literal_args("TOPK", 2), literal_args("EARLIEST_BY_OFFSET", 3), literal_args("SUM", 1)),
        (1, 2, 0)
    );
    assert!(resolve("TOPK", &[INT], &[]).is_err());
    assert!(resolve("TOPK", &[INT], &[Value::Integer(0)]).is_err());
    assert!(
        resolve("SUM", &[TEXT], &[])
            .unwrap_err()
            .to_string()
            .starts_with("Function 'SUM' does not accept parameters (STRING).")
    );
    assert!(
        resolve("CORRELATION", &[INT, SqlType::Double], &[]).unwrap().arg_types
            == [SqlType::Double, SqlType::Double]
    );
    assert!(!function("MAX", &[INT], &[]).supports_undo() && function("SUM", &[INT], &[]).supports_undo());
}

/// Every aggregate with columns of its types, and literals.
fn all() -> Vec<(Arc<AggregateFunction>, Vec<ArrayRef>)> {
    let numbers = ints(&[Some(3), None, Some(-1), Some(3), Some(8), Some(8), Some(0), Some(2)]);
    let words = texts(&[Some("c"), Some("a"), None, Some("c"), Some("ä"), Some(""), Some("b"), Some("c")]);
    let doubles: ArrayRef = Arc::new(Float64Array::from_iter_values((0..8).map(|x| f64::from(x * x))));
    let lists =
        array_of(&(0..8).map(|x| list(&[x, x + 1])).collect::<Vec<_>>(), &SqlType::Array(Box::new(INT)))
            .unwrap();
    let k = [Value::Integer(3)];
    vec![
        (function("COUNT", &[], &[]), vec![]),
        (function("COUNT", &[INT], &[]), vec![numbers.clone()]),
        (function("SUM", &[INT], &[]), vec![numbers.clone()]),
        (function("SUM", &[SqlType::Double], &[]), vec![doubles.clone()]),
        (function("AVG", &[INT], &[]), vec![numbers.clone()]),
        (function("MIN", &[INT], &[]), vec![numbers.clone()]),
        (function("MAX", &[TEXT], &[]), vec![words.clone()]),
        (function("COUNT_DISTINCT", &[TEXT], &[]), vec![words.clone()]),
        (function("LATEST_BY_OFFSET", &[INT], &[]), vec![numbers.clone()]),
        (function("EARLIEST_BY_OFFSET", &[TEXT], &[Value::Boolean(false)]), vec![words.clone()]),
        (function("LATEST_BY_OFFSET", &[TEXT], &k), vec![words.clone()]),
        (function("COLLECT_LIST", &[TEXT], &[]), vec![words.clone()]),
        (function("COLLECT_SET", &[INT], &[]), vec![numbers.clone()]),
        (function("TOPK", &[INT], &k), vec![numbers.clone()]),
        (function("TOPKDISTINCT", &[TEXT], &k), vec![words.clone()]),
        (function("HISTOGRAM", &[TEXT], &[]), vec![words.clone()]),
        (function("ATTR", &[INT], &[]), vec![numbers.clone()]),
        (function("SUM_LIST", &[SqlType::Array(Box::new(INT))], &[]), vec![lists]),
        (function("STDDEV_SAMPLE", &[SqlType::Double], &[]), vec![doubles.clone()]),
        (function("CORRELATION", &[SqlType::Double, SqlType::Double], &[]), vec![doubles.clone(), doubles]),
    ]
}

#[test]
fn batches_selections_bytes_and_merges_give_the_same_result() {
    for (function, columns) in all() {
        let name = function.name;
        let mut whole = function.new_state();
        whole.ensure(2);
        whole.update(&[1; 8], Rows::All, &columns);
        let expected = results(&*whole, &function, &[1]);
        // Rows by selection, in two updates.
        let mut parts = function.new_state();
        parts.ensure(1);
        parts.update(&[0; 3], Rows::Selected(&[0, 1, 2]), &columns);
        parts.update(&[0; 5], Rows::Selected(&[3, 4, 5, 6, 7]), &columns);
        assert_eq!(results(&*parts, &function, &[0]), expected, "{name}");
        // Through bytes, into another slot.
        let mut bytes = Vec::new();
        whole.encode(1, &mut bytes);
        whole.encode(0, &mut bytes);
        let mut copy = function.new_state();
        let mut rest = bytes.as_slice();
        copy.decode(3, &mut rest).unwrap();
        copy.decode(0, &mut rest).unwrap();
        assert!(rest.is_empty(), "{name}");
        assert_eq!(results(&*copy, &function, &[3]), expected, "{name}");
        // Two sessions that grow together.
        let mut sessions = function.new_state();
        sessions.ensure(2);
        sessions.update(&[0; 3], Rows::Selected(&[0, 1, 2]), &columns);
        sessions.update(&[1; 5], Rows::Selected(&[3, 4, 5, 6, 7]), &columns);
        sessions.merge(0, 1);
        let merged = results(&*sessions, &function, &[0]);
        match (&merged[0], &expected[0]) {
            (Value::Double(a), Value::Double(b)) => assert!((a - b).abs() < 1e-9, "{name}"),
            (a, b) => assert_eq!(a, b, "{name}"),
        }
        // A slot that is used again starts empty.
        sessions.reset(0);
        let fresh = {
            let mut fresh = function.new_state();
            fresh.ensure(1);
            results(&*fresh, &function, &[0])
        };
        assert_eq!(format!("{:?}", results(&*sessions, &function, &[0])), format!("{fresh:?}"), "{name}");
        if function.supports_undo() {
            let mut undone = function.new_state();
            undone.ensure(1);
            undone.update(&[0; 8], Rows::All, &columns);
            undone.update(&[0; 2], Rows::Selected(&[2, 4]), &columns);
            undone.undo(&[0; 2], Rows::Selected(&[4, 2]), &columns);
            let back = results(&*undone, &function, &[0]);
            match (&back[0], &expected[0]) {
                (Value::Double(a), Value::Double(b)) => assert!((a - b).abs() < 1e-9, "{name}"),
                // COLLECT_LIST takes the last equal element out, as ksqlDB does.
                (Value::Array(a), Value::Array(b)) => assert_eq!(a.len(), b.len(), "{name}"),
                (a, b) => assert_eq!(a, b, "{name}"),
            }
        }
        assert!(whole.memory_bytes() > 0, "{name}");
    }
}

#[test]
fn damaged_state_is_an_error_and_never_a_panic() {
    for (function, columns) in all() {
        let mut state = function.new_state();
        state.ensure(1);
        state.update(&[0; 8], Rows::All, &columns);
        let mut bytes = Vec::new();
        state.encode(0, &mut bytes);
        for length in 0..bytes.len() {
            assert!(state.decode(0, &mut &bytes[..length]).is_err(), "{} cut at {length}", function.name);
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let _ = state.decode(0, &mut damaged.as_slice());
                state.update(&[0; 8], Rows::All, &columns);
                assert_eq!(state.results(&[0]).len(), 1);
                state.reset(0);
            }
        }
    }
}

/// Prints nanoseconds per row of the hot aggregates over 10,000 groups.
#[test]
#[ignore = "a measurement, not a test"]
fn speed_of_group_updates() {
    const ROWS: usize = 8192;
    const GROUPS: u64 = 10_000;
    let clock = herdsman_host::RealClock::shared();
    let mut seed = 42_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let slots: Vec<u32> = (0..ROWS).map(|_| u32::try_from(next() % GROUPS).unwrap()).collect();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| next() as i64 % 1000)));
    let words: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| format!("player{:04}", next() % 5000))));
    let few: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| format!("place{}", next() % 5))));
    let cases = [
        ("COUNT(*)", function("COUNT", &[], &[]), vec![]),
        ("SUM(bigint)", function("SUM", &[SqlType::BigInt], &[]), vec![numbers.clone()]),
        ("MAX(bigint)", function("MAX", &[SqlType::BigInt], &[]), vec![numbers.clone()]),
        ("AVG(bigint)", function("AVG", &[SqlType::BigInt], &[]), vec![numbers.clone()]),
        ("MIN(string)", function("MIN", &[TEXT], &[]), vec![words.clone()]),
        ("LATEST_BY_OFFSET(bigint)", function("LATEST_BY_OFFSET", &[SqlType::BigInt], &[]), vec![numbers]),
        ("LATEST_BY_OFFSET(string)", function("LATEST_BY_OFFSET", &[TEXT], &[]), vec![words.clone()]),
        ("COUNT_DISTINCT(string, few)", function("COUNT_DISTINCT", &[TEXT], &[]), vec![few]),
        ("COUNT_DISTINCT(string, many)", function("COUNT_DISTINCT", &[TEXT], &[]), vec![words]),
    ];
    for (name, function, columns) in cases {
        let mut state = function.new_state();
        state.ensure(usize::try_from(GROUPS).unwrap());
        state.update(&slots, Rows::All, &columns);
        let started = clock.monotonic_ns();
        for _ in 0..1000 {
            state.update(std::hint::black_box(&slots), Rows::All, &columns);
        }
        let spent = clock.monotonic_ns() - started;
        println!("{name:30} {:.2} ns/row", spent as f64 / (1000.0 * ROWS as f64));
    }
}
