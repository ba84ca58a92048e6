//! Tables of expressions and what ksqlDB makes of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray};

use super::*;
use crate::Column;
use crate::expr::{ArithmeticOp, CompareOp};
use crate::functions::{self, ArgType, FunctionError};

fn literal(value: Value, ty: SqlType) -> Expr {
    Expr::Literal { value, ty }
}

fn text(value: &str) -> Expr {
    literal(Value::String(value.into()), SqlType::String)
}

fn int(value: i32) -> Expr {
    literal(Value::Integer(value), SqlType::Integer)
}

fn double(value: f64) -> Expr {
    literal(Value::Double(value), SqlType::Double)
}

fn null(ty: SqlType) -> Expr {
    literal(Value::Null, ty)
}

fn array(items: Vec<Expr>) -> Expr {
    let (elements, ty) =
        functions::coerce_list(items.into_iter().map(Some).collect(), &|_| String::new()).unwrap();
    Expr::MakeArray { elements, ty: SqlType::Array(Box::new(ty)) }
}

fn arithmetic(op: ArithmeticOp, left: Expr, right: Expr) -> Expr {
    let ty = functions::arithmetic_type(op, &left.ty(), &right.ty()).unwrap();
    Expr::Arithmetic { op, left: Box::new(left), right: Box::new(right), ty }
}

fn compare(op: CompareOp, left: Expr, right: Expr) -> Expr {
    assert!(functions::comparable(op, &left.ty(), &right.ty()));
    Expr::Compare { op, left: Box::new(left), right: Box::new(right) }
}

fn cast(input: Expr, ty: SqlType) -> Expr {
    assert!(functions::can_cast(&input.ty(), &ty));
    Expr::Cast { input: Box::new(input), ty }
}

fn decimal(text: &str, precision: u8, scale: u8) -> Expr {
    cast(self::text(text), SqlType::Decimal { precision, scale })
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let types: Vec<ArgType> = args
        .iter()
        .map(|arg| match arg {
            Expr::Lambda { params, body, .. } => {
                ArgType::TypedLambda { params: params.clone(), body: body.ty() }
            }
            other => ArgType::Value(other.ty()),
        })
        .collect();
    let resolved = functions::resolve(name, &types).unwrap_or_else(|error| panic!("{error}"));
    let args = args
        .into_iter()
        .zip(resolved.arg_types)
        .map(|(arg, ty)| match arg {
            lambda @ Expr::Lambda { .. } => lambda,
            same if same.ty() == ty => same,
            other => cast(other, ty),
        })
        .collect();
    Expr::Call { function: resolved.function, args, ty: resolved.return_type }
}

fn column(index: usize, ty: SqlType) -> Expr {
    Expr::Column { index, ty }
}

/// The value as `CAST(… AS STRING)` prints it; `null` and `error` for what they are.
fn shown(expr: &Expr) -> String {
    match expr.evaluate_constant(1_000_000) {
        Ok(Value::Null) => "null".to_owned(),
        Ok(value) => value_to_string(&value, &expr.ty()),
        Err(_) => "error".to_owned(),
    }
}

/// Evaluates over `rows` rows; values and the rows that failed.
fn run(expr: &Expr, columns: &[ArrayRef], rows: usize) -> (Vec<Value>, Vec<usize>) {
    let mut failed = Vec::new();
    let mut on_error = |row: usize, _: &str| failed.push(row);
    let mut ctx = EvalContext { now_ms: 0, on_error: &mut on_error };
    let array = expr.evaluate(columns, rows, &mut ctx).unwrap();
    let ty = expr.ty();
    ((0..rows).map(|row| value_at(&array, row, &ty)).collect(), failed)
}

#[test]
fn arithmetic_overflows_and_fails_as_java_does() {
    use ArithmeticOp::{Add, Divide, Modulo, Multiply, Subtract};
    for (op, left, right, result) in [
        (Add, int(i32::MAX), int(1), "-2147483648"),
        (Divide, int(7), int(2), "3"),
        (Divide, int(-7), int(2), "-3"),
        (Modulo, int(-7), int(2), "-1"),
        (Divide, int(1), int(0), "error"),
        (Divide, double(1.0), int(0), "Infinity"),
        (Add, text("a"), text("b"), "ab"),
        (Add, int(1), null(SqlType::BigInt), "null"),
        (Divide, decimal("10.10", 4, 2), decimal("2.00", 4, 2), "5.0500000"),
        (Divide, decimal("10.10", 4, 2), decimal("0", 4, 2), "error"),
        (Divide, decimal("1", 4, 2), decimal("3", 4, 2), "error"),
        (Modulo, decimal("10.10", 4, 2), decimal("-2.00", 4, 2), "0.10"),
        (Subtract, decimal("10.10", 4, 2), decimal("-5.00", 4, 2), "15.10"),
        (Multiply, decimal("1.50", 4, 2), int(3), "4.50"),
        (Add, decimal("10.01", 4, 2), double(5.1), "15.11"),
    ] {
        let expr = arithmetic(op, left, right);
        assert_eq!(shown(&expr), result, "{expr:?}");
    }
}

#[test]
fn casts_read_print_and_refuse_as_java_does() {
    for (input, ty, result) in [
        (text(" 12 "), SqlType::Integer, "12"),
        (text("1.5"), SqlType::Integer, "error"),
        (text("yes"), SqlType::Boolean, "true"),
        (double(1.2), SqlType::Integer, "1"),
        (double(10_000_000.0), SqlType::String, "1.0E7"),
        (literal(Value::BigInt(2_147_483_648), SqlType::BigInt), SqlType::Integer, "-2147483648"),
        (int(10), SqlType::Decimal { precision: 2, scale: 1 }, "error"),
        (text("0.99"), SqlType::Decimal { precision: 2, scale: 1 }, "1.0"),
        (text("2022-04-28T21:44:47.943Z"), SqlType::Timestamp, "2022-04-28T21:44:47.943"),
        (literal(Value::Timestamp(-2000), SqlType::Timestamp), SqlType::Time, "23:59:58"),
        (array(vec![int(1), int(3)]), SqlType::String, "[1, 3]"),
        (array(vec![text("1"), text("3")]), SqlType::Array(Box::new(SqlType::Integer)), "[1, 3]"),
        (null(SqlType::Double), SqlType::String, "null"),
    ] {
        let expr = cast(input, ty);
        assert_eq!(shown(&expr), result, "{expr:?}");
    }
    let fields = vec![Column::new("F0", SqlType::Integer), Column::new("f1", SqlType::Integer)];
    let pair = Expr::MakeStruct { fields: vec![int(1), int(3)], ty: SqlType::Struct(fields) };
    assert_eq!(shown(&cast(pair, SqlType::String)), "Struct{F0=1,f1=3}");
}

#[test]
fn comparisons_with_null_are_false_and_numbers_compare_by_value() {
    use CompareOp::{Equal, GreaterOrEqual, IsDistinctFrom, Less, NotEqual};
    for (op, left, right, result) in [
        (NotEqual, null(SqlType::Integer), int(1), "false"),
        (Equal, null(SqlType::Integer), null(SqlType::Integer), "false"),
        (IsDistinctFrom, null(SqlType::Integer), int(1), "true"),
        (IsDistinctFrom, null(SqlType::Integer), null(SqlType::Integer), "false"),
        (Equal, decimal("10.01", 4, 2), double(10.01), "true"),
        (Less, decimal("10.01", 4, 2), decimal("10.012", 5, 3), "true"),
        (Less, int(2), double(2.5), "true"),
        (
            GreaterOrEqual,
            literal(Value::Timestamp(10), SqlType::Timestamp),
            text("1970-01-01T00:00:00.010"),
            "true",
        ),
        (Equal, array(vec![int(1)]), array(vec![int(1)]), "true"),
        (Less, text("a"), text("b"), "true"),
    ] {
        let expr = compare(op, left, right);
        assert_eq!(shown(&expr), result, "{expr:?}");
    }
}

#[test]
fn a_failing_row_is_null_and_reported_once_and_the_batch_goes_on() {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(2), Some(0), None, Some(5)]));
    let quotient = arithmetic(ArithmeticOp::Divide, int(10), column(0, SqlType::Integer));
    let twice = arithmetic(ArithmeticOp::Add, quotient.clone(), quotient.clone());
    let (values, failed) = run(&twice, std::slice::from_ref(&numbers), 4);
    assert_eq!(values, [Value::Integer(10), Value::Null, Value::Null, Value::Integer(4)]);
    assert_eq!(failed, [1]);
    // A function's argument is a boundary: COALESCE sees null.
    let (values, failed) = run(&call("COALESCE", vec![quotient, int(-1)]), std::slice::from_ref(&numbers), 4);
    assert_eq!(values, [Value::Integer(5), Value::Integer(-1), Value::Integer(-1), Value::Integer(2)]);
    assert_eq!(failed, [1]);
    // AND and CASE do not evaluate what they do not need.
    let guard = compare(CompareOp::NotEqual, column(0, SqlType::Integer), int(0));
    let quotient = arithmetic(ArithmeticOp::Divide, int(10), column(0, SqlType::Integer));
    let test = compare(CompareOp::Greater, quotient.clone(), int(3));
    let both = Expr::And(Box::new(guard.clone()), Box::new(test));
    let (values, failed) = run(&both, std::slice::from_ref(&numbers), 4);
    assert_eq!(values, [true, false, false, false].map(Value::Boolean));
    assert!(failed.is_empty());
    let case = Expr::Case {
        branches: vec![(guard, quotient)],
        otherwise: Some(Box::new(int(-1))),
        ty: SqlType::Integer,
    };
    let (values, failed) = run(&case, &[numbers], 4);
    assert_eq!(values, [5, -1, -1, 2].map(Value::Integer));
    assert!(failed.is_empty());
}

#[test]
fn in_between_and_like_are_false_on_null() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("some%_x"), Some("other"), None]));
    let like = |pattern: &str, escape| Expr::Like {
        input: Box::new(column(0, SqlType::String)),
        pattern: Box::new(text(pattern)),
        escape,
        negated: false,
    };
    for (pattern, escape, expected) in [
        ("some%", None, [true, false, false]),
        ("%!%!_x", Some('!'), [true, false, false]),
        ("_th_r", None, [false, true, false]),
        ("%o%e%", None, [true, true, false]),
        ("other", None, [false, true, false]),
        ("%er", None, [false, true, false]),
    ] {
        let (values, _) = run(&like(pattern, escape), std::slice::from_ref(&texts), 3);
        assert_eq!(values, expected.map(Value::Boolean), "{pattern}");
    }
    let list = |negated| Expr::In {
        input: Box::new(column(0, SqlType::String)),
        list: vec![text("x"), null(SqlType::String), text("other")],
        negated,
    };
    assert_eq!(
        run(&list(false), std::slice::from_ref(&texts), 3).0,
        [false, true, false].map(Value::Boolean)
    );
    assert_eq!(run(&list(true), &[texts], 3).0, [true, false, true].map(Value::Boolean));
    let between = Expr::Between {
        input: Box::new(double(2.5)),
        low: Box::new(int(2)),
        high: Box::new(double(3.9)),
        negated: false,
    };
    assert_eq!(shown(&between), "true");
}

#[test]
fn arrays_count_from_one_and_maps_answer_by_key() {
    let at = |index: i32| Expr::Subscript {
        input: Box::new(array(vec![text("Red"), text("Green")])),
        index: Box::new(int(index)),
        ty: SqlType::String,
    };
    let seen: Vec<String> = [1, 2, 3, 0, -1, -2, -3].map(|index| shown(&at(index))).to_vec();
    assert_eq!(seen, ["Red", "Green", "null", "null", "Green", "Red", "null"]);
    let ty = SqlType::Map(Box::new(SqlType::String), Box::new(SqlType::Integer));
    let map =
        Expr::MakeMap { entries: vec![(text("a"), int(1)), (text("a"), int(2)), (text("b"), int(3))], ty };
    assert_eq!(shown(&map), "{a=2, b=3}");
    let get = |key: &str| Expr::Subscript {
        input: Box::new(map.clone()),
        index: Box::new(text(key)),
        ty: SqlType::Integer,
    };
    assert_eq!((shown(&get("a")), shown(&get("z"))), ("2".to_owned(), "null".to_owned()));
}

#[test]
fn lambdas_see_their_parameters_and_the_outer_columns() {
    let lists: ArrayRef = {
        let rows = [
            Value::Array(vec![Value::Integer(1), Value::Integer(2), Value::Null]),
            Value::Null,
            Value::Array(vec![]),
            Value::Array(vec![Value::Integer(0)]),
        ];
        array_of(&rows, &SqlType::Array(Box::new(SqlType::Integer))).unwrap()
    };
    let offsets: ArrayRef = Arc::new(Int32Array::from(vec![10, 20, 30, 40]));
    let columns = [lists, offsets];
    let source = || column(0, SqlType::Array(Box::new(SqlType::Integer)));
    let element = || column(2, SqlType::Integer);
    let lambda = |params: usize, body: Expr| Expr::Lambda {
        params: vec![SqlType::Integer; params],
        outer_len: 2,
        body: Box::new(body),
    };
    let given = [ArgType::Value(source().ty()), ArgType::Lambda { params: 1 }];
    assert_eq!(functions::lambda_params("TRANSFORM", &given, 1), Ok(vec![SqlType::Integer]));
    let plus = arithmetic(ArithmeticOp::Add, element(), column(1, SqlType::Integer));
    let (values, _) = run(&call("TRANSFORM", vec![source(), lambda(1, plus)]), &columns, 4);
    let expected = [
        Value::Array(vec![Value::Integer(11), Value::Integer(12), Value::Null]),
        Value::Null,
        Value::Array(vec![]),
    ];
    assert_eq!(values[..3], expected);
    let over = arithmetic(ArithmeticOp::Divide, int(10), element());
    let (values, failed) = run(&call("TRANSFORM", vec![source(), lambda(1, over)]), &columns, 4);
    assert_eq!((values[3].clone(), failed), (Value::Null, vec![3]));
    let positive = compare(CompareOp::Greater, element(), int(1));
    let (values, _) = run(&call("FILTER", vec![source(), lambda(1, positive)]), &columns, 4);
    assert_eq!(values[0], Value::Array(vec![Value::Integer(2)]));
    let sum =
        arithmetic(ArithmeticOp::Add, element(), call("IFNULL", vec![column(3, SqlType::Integer), int(0)]));
    let (values, _) = run(&call("REDUCE", vec![source(), int(100), lambda(2, sum)]), &columns, 4);
    assert_eq!(values, [103, 100, 100, 100].map(Value::Integer));
}

#[test]
fn overloads_are_chosen_and_refused_as_ksqldb_does() {
    let value = |ty: SqlType| ArgType::Value(ty);
    let error = |name: &str, args: &[ArgType]| functions::resolve(name, args).unwrap_err().to_string();
    assert_eq!(error("wont_find_me", &[]), "Can't find any functions with the name 'wont_find_me'");
    assert!(error("greatest", &[value(SqlType::Integer), value(SqlType::BigInt)]).starts_with(
        "Function 'greatest' cannot be resolved due to ambiguous method parameters (INTEGER, BIGINT)."
    ));
    let nulls = [ArgType::Null, ArgType::Null, ArgType::Null, ArgType::Null];
    assert!(error("greatest", &nulls).contains("ambiguous method parameters (null, null, null, null)."));
    assert!(error("greatest", &[]).starts_with("Function 'greatest' does not accept parameters ()."));
    assert!(
        error("COALESCE", &[])
            .starts_with("Function 'COALESCE' does not accept parameters ().\nValid alternatives are:\n")
    );
    let time = [value(SqlType::Time), value(SqlType::Integer), value(SqlType::Time)];
    assert!(
        error("timeadd", &time)
            .starts_with("Function 'timeadd' does not accept parameters (TIME, INTEGER, TIME).")
    );
    let map = SqlType::Map(Box::new(SqlType::String), Box::new(SqlType::Integer));
    let refused = functions::resolve_table("explode", &[value(map)]).unwrap_err();
    assert!(matches!(refused, FunctionError::NoOverload { .. }));
    assert!(refused.to_string().starts_with(
        "Function 'explode' does not accept parameters (MAP<STRING, INTEGER>).\nValid alternatives are:\n\
         explode(ARRAY<DECIMAL> input)\nexplode(ARRAY<T> list)\n"
    ));
    let mixed =
        functions::resolve("GREATEST", &[value(SqlType::Date), value(SqlType::String), ArgType::Null])
            .unwrap();
    assert_eq!(mixed.return_type, SqlType::Date);
    let round = functions::resolve("ROUND", &[value(SqlType::Decimal { precision: 33, scale: 16 })]).unwrap();
    assert_eq!(round.return_type, SqlType::Decimal { precision: 17, scale: 0 });
    let substring = functions::resolve("substring", &[value(SqlType::String), ArgType::Null]).unwrap();
    assert_eq!(substring.return_type, SqlType::String);
    let names: std::collections::BTreeSet<&str> = functions::list().iter().map(|info| info.name).collect();
    assert_eq!(names.len(), 129 + 18 + 2);
}

#[test]
fn functions_give_what_ksqldb_gives() {
    let d = double;
    let t = text;
    let ty = |ty: SqlType| null(ty);
    let cases: Vec<(&str, Vec<Expr>, &str)> = vec![
        ("ABS", vec![decimal("-3.2", 3, 1)], "3.2"),
        ("CEIL", vec![decimal("1.1", 3, 1)], "2.0"),
        ("FLOOR", vec![d(-1.1)], "-2.0"),
        ("ROUND", vec![d(-1.5)], "-1"),
        ("ROUND", vec![d(12345.678), int(-2)], "12300.0"),
        ("ROUND", vec![d(1.234_567), int(2)], "1.23"),
        ("ROUND", vec![decimal("12345678987654321.2345678987654321", 33, 16)], "12345678987654321"),
        ("TRUNC", vec![d(-1.79), int(1)], "-1.7"),
        ("SIGN", vec![int(-3)], "-1"),
        ("LN", vec![int(0)], "-Infinity"),
        ("COT", vec![int(0)], "Infinity"),
        ("EXP", vec![int(1)], "2.718281828459045"),
        ("GREATEST", vec![t("apple"), null(SqlType::String), t("zebra")], "zebra"),
        ("LEAST", vec![int(3), int(1)], "1"),
        ("SUBSTRING", vec![t("some_string"), int(6), int(3)], "str"),
        ("SUBSTRING", vec![t("short"), int(6), int(3)], ""),
        ("SUBSTRING", vec![t("some_string"), int(-3)], "ing"),
        ("SUBSTRING", vec![t("äöü!"), int(2), int(2)], "öü"),
        ("UCASE", vec![t("foo")], "FOO"),
        ("LEN", vec![t("añb")], "3"),
        ("CONCAT", vec![t("a"), ty(SqlType::String), t("c")], "ac"),
        ("CONCAT_WS", vec![t("SEP"), t("foo"), ty(SqlType::String), t("baz")], "fooSEPbaz"),
        ("CHR", vec![t("\\u004b")], "K"),
        ("CHR", vec![t("\\ud820\\udeb8")], "\u{182b8}"),
        ("CHR", vec![int(75)], "K"),
        ("ELT", vec![int(2), t("a"), t("b")], "b"),
        ("FIELD", vec![t("hello"), t("x"), t("hello")], "2"),
        ("ENCODE", vec![t("RXhhbXBsZSE="), t("base64"), t("hex")], "4578616d706c6521"),
        ("INITCAP", vec![t("the   quick br0wn FOX")], "The   Quick Br0wn Fox"),
        ("INSTR", vec![t("corporate floor"), t("or"), int(3), int(2)], "14"),
        ("INSTR", vec![t("corporate floor"), t("or"), int(-4), int(2)], "2"),
        ("LPAD", vec![t("foo"), int(7), t("Bar")], "BarBfoo"),
        ("RPAD", vec![t("foo"), int(2), t("Bar")], "fo"),
        ("LPAD", vec![t("foo"), int(i32::MAX), t("Bar")], "error"),
        ("REPLACE", vec![t("anaconda"), t("a"), t("o")], "onocondo"),
        ("SPLIT", vec![t("..a.."), t(".")], "[, , a, , ]"),
        (
            "SPLIT_TO_MAP",
            vec![t("apple:green/banana:yellow"), t("/"), t(":")],
            "{apple=green, banana=yellow}",
        ),
        ("REGEXP_EXTRACT", vec![t("test."), t("test_ testa")], "test_"),
        (
            "REGEXP_EXTRACT_ALL",
            vec![t("(\\w+) (\\w*)"), t("wei zhang joe coates"), int(2)],
            "[zhang, coates]",
        ),
        ("REGEXP_REPLACE", vec![t("baababaa"), t("(ab)"), t("<$1>")], "ba<ab><ab>aa"),
        ("REGEXP_EXTRACT", vec![t("(?=x)"), t("x")], "error"),
        ("MASK", vec![t("AbC #$% 123")], "XxX-----nnn"),
        ("MASK_KEEP_RIGHT", vec![t("AbC123"), int(2)], "XxXn23"),
        ("MD5", vec![t("")], "d41d8cd98f00b204e9800998ecf8427e"),
        ("ARRAY_SORT", vec![array(vec![int(3), int(1)]), t("DESC")], "[3, 1]"),
        ("ARRAY_JOIN", vec![array(vec![int(3), int(1)])], "3,1"),
        ("ARRAY_UNION", vec![array(vec![int(3), int(1)]), array(vec![int(1), int(2)])], "[3, 1, 2]"),
        ("GENERATE_SERIES", vec![int(4), int(0)], "[4, 3, 2, 1, 0]"),
        ("GENERATE_SERIES", vec![int(0), int(i32::MAX)], "error"),
        ("SLICE", vec![array(vec![t("a"), t("b"), t("c")]), int(2), int(3)], "[b, c]"),
        ("EXTRACTJSONFIELD", vec![t("{\"array\": [1.23450]}"), t("$.array[0]")], "1.23450"),
        ("EXTRACTJSONFIELD", vec![t("{\"array\": [1]}"), t("$.array[-1]")], "null"),
        ("JSON_CONCAT", vec![t("[1, 2]"), t("{\"a\": 1}")], "[1,2,{\"a\":1}]"),
        ("JSON_KEYS", vec![t("{\"Red\": 3, \"Green\": 5}")], "[Red, Green]"),
        ("JSON_RECORDS", vec![t("{\"White\": \"Seven\", \"Pink\": 8}")], "{White=Seven, Pink=8}"),
        ("JSON_ARRAY_CONTAINS", vec![t("[\"Pink\", null]"), t("Pink")], "true"),
        ("IS_JSON_STRING", vec![t("abc")], "false"),
        ("TO_JSON_STRING", vec![literal(Value::Date(1000), SqlType::Date)], "\"1972-09-27\""),
        ("TO_JSON_STRING", vec![array(vec![int(1)])], "[1]"),
        ("URL_ENCODE_PARAM", vec![t("?foo $bar")], "%3Ffoo+%24bar"),
        ("URL_DECODE_PARAM", vec![t("%3Ffoo+%24bar")], "?foo $bar"),
        ("URL_EXTRACT_HOST", vec![t("http://test@confluent.io:8080")], "confluent.io"),
        ("URL_EXTRACT_PORT", vec![t("http://test@confluent.io:8080/nested/path?query&jobs")], "8080"),
        ("URL_EXTRACT_PARAMETER", vec![t("http://www.test.com/?one=a&two=b&three"), t("two")], "b"),
        ("URL_EXTRACT_PROTOCOL", vec![t("www.confluent.io")], "null"),
        ("DATETOSTRING", vec![int(18_993), t("dd-MMM-yyyy")], "01-Jan-2022"),
        (
            "TIMESTAMPTOSTRING",
            vec![
                literal(Value::BigInt(1_526_075_913_000), SqlType::BigInt),
                t("yyyy-MM-dd HH:mm:ss zzz"),
                t("America/Los_Angeles"),
            ],
            "2018-05-11 14:58:33 PDT",
        ),
        ("STRINGTOTIMESTAMP", vec![t("2018-05-11T21:58:33Z"), t("yyyy-MM-dd'T'HH:mm:ssX")], "1526075913000"),
        ("PARSE_DATE", vec![t("2004"), t("yyyy-MM-dd")], "error"),
        ("PARSE_TIME", vec![t("01:02:03"), t("HH:mm:ss")], "01:02:03"),
        (
            "CONVERT_TZ",
            vec![
                literal(Value::Timestamp(100), SqlType::Timestamp),
                t("America/Los_Angeles"),
                t("America/New_York"),
            ],
            "1970-01-01T03:00:00.100",
        ),
        ("TIMESUB", vec![t("MILLISECONDS"), int(10), literal(Value::Time(5), SqlType::Time)], "23:59:59.995"),
        ("DATEADD", vec![t("DAYS"), int(-5), literal(Value::Date(5), SqlType::Date)], "1970-01-01"),
        ("DATEADD", vec![t("DAYS"), ty(SqlType::Integer), literal(Value::Date(5), SqlType::Date)], "null"),
        ("UNIX_TIMESTAMP", vec![], "1000000"),
        ("GEO_DISTANCE", vec![d(37.4439), d(-122.1663), d(51.5257), d(-0.1122)], "8634.659796579546"),
        ("NULLIF", vec![t("x"), t("x")], "null"),
    ];
    for (name, args, result) in cases {
        let expr = call(name, args);
        assert_eq!(shown(&expr), result, "{name}");
    }
    let uuid = shown(&call("UUID", vec![]));
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
}

#[test]
fn a_filter_keeps_true_rows_only() {
    let amounts: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0)]));
    let expr = compare(CompareOp::Greater, column(0, SqlType::Double), double(0.5));
    let mut on_error = |_: usize, _: &str| {};
    let mut ctx = EvalContext { now_ms: 0, on_error: &mut on_error };
    let kept = expr.evaluate_filter(&[amounts], 3, &mut ctx).unwrap();
    assert_eq!(kept, BooleanArray::from(vec![true, false, true]));
}

#[test]
fn a_chain_of_texts_and_numbers_is_null_where_a_link_is() {
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("JFK"), Some("EWR"), None, Some("LGA")]));
    let days: ArrayRef = Arc::new(Int64Array::from(vec![Some(-7), Some(-7), Some(3), None]));
    let day = || cast(column(1, SqlType::BigInt), SqlType::String);
    let plus = |left, right| arithmetic(ArithmeticOp::Add, left, right);
    let chain = plus(plus(plus(column(0, SqlType::String), text(":")), day()), plus(text("|"), day()));
    let mut on_error = |_: usize, reason: &str| panic!("{reason}");
    let mut ctx = EvalContext { now_ms: 0, on_error: &mut on_error };
    let columns = [names, days];
    let joined = chain.evaluate(&columns, 4, &mut ctx).unwrap();
    let expected: ArrayRef =
        Arc::new(StringArray::from(vec![Some("JFK:-7|-7"), Some("EWR:-7|-7"), None, None]));
    assert_eq!(&joined, &expected);
    let nothing = plus(column(0, SqlType::String), null(SqlType::String));
    assert_eq!(nothing.evaluate(&columns, 4, &mut ctx).unwrap().null_count(), 4);
}

#[test]
fn functions_of_doubles_and_division_by_a_constant_keep_nulls() {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(-1.5), None, Some(2.5)]));
    let whole: ArrayRef = Arc::new(Int64Array::from(vec![Some(-7), None, Some(7)]));
    let mut on_error = |_: usize, reason: &str| panic!("{reason}");
    let mut ctx = EvalContext { now_ms: 0, on_error: &mut on_error };
    let floor = call("FLOOR", vec![column(0, SqlType::Double)]).evaluate(&[values], 3, &mut ctx).unwrap();
    let expected: ArrayRef = Arc::new(Float64Array::from(vec![Some(-2.0), None, Some(2.0)]));
    assert_eq!(&floor, &expected);
    let constant = call("FLOOR", vec![double(2.5)]).evaluate(&[], 2, &mut ctx).unwrap();
    let expected: ArrayRef = Arc::new(Float64Array::from(vec![2.0, 2.0]));
    assert_eq!(&constant, &expected);
    let halved = arithmetic(ArithmeticOp::Divide, column(0, SqlType::BigInt), int(2));
    let expected: ArrayRef = Arc::new(Int64Array::from(vec![Some(-3), None, Some(3)]));
    assert_eq!(&halved.evaluate(&[whole], 3, &mut ctx).unwrap(), &expected);
}

/// Prints nanoseconds per row of a filter, arithmetic and concatenation: `cargo test --release -- --ignored speed`.
#[test]
#[ignore = "a measurement, not a test"]
fn speed_of_filter_arithmetic_and_concatenation() {
    const ROWS: usize = 8192;
    let clock = herdsman_host::RealClock::shared();
    let amounts: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS as i64).map(|row| row % 1000)));
    let names: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("player{}", row % 97))));
    let columns = [amounts, names];
    let amount = || column(0, SqlType::BigInt);
    let limit = || literal(Value::BigInt(500), SqlType::BigInt);
    let cases = [
        ("filter  amount > 500", compare(CompareOp::Greater, amount(), limit())),
        ("arith   amount * 2 + amount", {
            let twice = arithmetic(ArithmeticOp::Multiply, amount(), int(2));
            arithmetic(ArithmeticOp::Add, twice, amount())
        }),
        ("concat  'p:' + name", arithmetic(ArithmeticOp::Add, text("p:"), column(1, SqlType::String))),
        ("equals  name = 'player5'", compare(CompareOp::Equal, column(1, SqlType::String), text("player5"))),
        ("cast    amount AS STRING", cast(amount(), SqlType::String)),
        (
            "substr  SUBSTRING(name, 1, 3)",
            call("SUBSTRING", vec![column(1, SqlType::String), int(1), int(3)]),
        ),
        (
            "case    WHEN amount > 500",
            Expr::Case {
                branches: vec![(compare(CompareOp::Greater, amount(), limit()), text("big"))],
                otherwise: Some(Box::new(text("small"))),
                ty: SqlType::String,
            },
        ),
    ];
    for (name, expr) in cases {
        let mut on_error = |_: usize, _: &str| {};
        let mut ctx = EvalContext { now_ms: 0, on_error: &mut on_error };
        let started = clock.monotonic_ns();
        for _ in 0..1000 {
            std::hint::black_box(expr.evaluate(&columns, ROWS, &mut ctx).unwrap());
        }
        let spent = clock.monotonic_ns() - started;
        println!("{name:32} {:.2} ns/row", spent as f64 / (1000.0 * ROWS as f64));
    }
}
