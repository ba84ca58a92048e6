//! JSON in and out.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use herdsman_formats::{Column, Decoder, Format, FormatSpec, RowFault, Schema, SqlType};
use herdsman_record::TopicPartition;
use proptest::prelude::*;

use crate::support::{Pair, batch, columns, decode, encode, json_decoder};

fn mixed() -> Vec<Column> {
    columns(&[
        ("A", SqlType::BigInt),
        ("B", SqlType::String),
        ("C", SqlType::Double),
        ("D", SqlType::Boolean),
        ("E", SqlType::Integer),
    ])
}

#[test]
fn rows_in_the_learned_order_and_rows_that_surprise_it_decode_alike() {
    let mut decoder = json_decoder(mixed());
    let rows = [
        r#"{"a":1,"b":"x","c":1.5,"d":true,"e":7}"#,
        r#"{"a":2,"b":"y","c":-0.25,"d":false,"e":8}"#,
        r#"{"b":"z","a":3,"c":2,"d":true,"e":9}"#,
        r#"{ "A" : 4 , "B" : null , "extra" : [1,{"x":"]}"}] , "c" : 1e3 }"#,
        r#"{"a":"5","b":17,"c":"2.5","d":null,"e":"10"}"#,
        r#"{"a":6,"b":"q\"\u00e9\ud83d\ude00\n","c":0.1,"d":true,"e":-1}"#,
        r#"{"a":7.9,"b":{ "k" : [ 1.10, true ] },"c":3,"d":true,"e":3000000000}"#,
        r#"{}"#,
        r#"null"#,
    ];
    let decoded = decode(&mut decoder, &rows);
    assert_eq!(decoded.errors, []);
    let a = decoded.columns[0].as_primitive::<Int64Type>();
    let b = decoded.columns[1].as_string::<i32>();
    let c = decoded.columns[2].as_primitive::<Float64Type>();
    let e = decoded.columns[4].as_primitive::<Int32Type>();
    let found: Vec<_> = a.iter().collect();
    assert_eq!(found, [Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), None, None]);
    let found: Vec<_> = b.iter().collect();
    let nested = r#"{"k":[1.10,true]}"#;
    let expected =
        [Some("x"), Some("y"), Some("z"), None, Some("17"), Some("q\"é😀\n"), Some(nested), None, None];
    assert_eq!(found, expected);
    let found: Vec<_> = c.iter().collect();
    let expected =
        [Some(1.5), Some(-0.25), Some(2.0), Some(1000.0), Some(2.5), Some(0.1), Some(3.0), None, None];
    assert_eq!(found, expected);
    assert_eq!((e.value(4), e.value(5), e.value(6)), (10, -1, -1_294_967_296)); // Java's Number.intValue wraps
    let tombstones = decoded.tombstones.unwrap();
    assert_eq!((tombstones.count_set_bits(), tombstones.value(8)), (1, true));
}

#[test]
fn topics_with_several_kinds_of_rows_keep_every_field_in_its_row() {
    let mut decoder =
        json_decoder(columns(&[("A", SqlType::BigInt), ("B", SqlType::String), ("C", SqlType::BigInt)]));
    let mut rows = Vec::new();
    let mut expected = Vec::new();
    for n in 0..400_i64 {
        // kinds share a beginning, end early, or differ from the start; their order follows no pattern
        let kind = (n * 7919 % 31) % 7;
        let (a, b, c) = (Some(n), Some(format!("row-{n}")), Some(-n));
        let (row, values) = match kind {
            0 => (format!("{{\"a\":{n},\"b\":\"row-{n}\",\"c\":-{n}}}"), (a, b, c)),
            1 => (format!("{{\"a\":{n},\"b\":\"row-{n}\"}}"), (a, b, None)),
            2 => (format!("{{\"a\":{n},\"b\":\"row-{n}\",\"x\":[1],\"c\":-{n}}}"), (a, b, c)),
            3 => (format!("{{\"a\":{n},\"c\":-{n}}}"), (a, None, c)),
            4 => (format!("{{\"c\":-{n},\"b\":\"row-{n}\",\"a\":{n}}}"), (a, b, c)),
            5 => (format!("{{\"a\": {n}, \"b\": \"row-{n}\", \"c\": -{n}}}"), (a, b, c)),
            _ => ("{\"x\":{}}".to_owned(), (None, None, None)),
        };
        rows.push(row);
        expected.push(values);
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let decoded = decode(&mut decoder, &rows);
    assert_eq!(decoded.errors, []);
    let a = decoded.columns[0].as_primitive::<Int64Type>().iter();
    let b = decoded.columns[1].as_string::<i32>().iter();
    let c = decoded.columns[2].as_primitive::<Int64Type>().iter();
    let found: Vec<_> = a.zip(b).zip(c).map(|((a, b), c)| (a, b.map(str::to_owned), c)).collect();
    assert_eq!(found, expected);
}

#[test]
fn bad_rows_are_left_out_with_their_reason_and_harm_no_other() {
    let mut decoder = json_decoder(mixed());
    let good = br#"{"a":1,"b":"x","c":1.5,"d":true,"e":7}"#;
    let deep = format!(r#"{{"z":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let bad: Vec<&[u8]> = vec![
        good,
        &[0, 0, 0, 0, 1, 2, 6],
        br#"{"a":1,"b":"x""#,
        br#"{"a":"ten"}"#,
        br#"{"d":1}"#,
        b"\xff\xfe",
        b"{\"a\":1,\"b\":\"\xff\",\"c\":1.5,\"d\":true,\"e\":7}",
        b"a,b,c",
        br#"{"a":01}"#,
        br#"{"a":1} x"#,
        b"",
        deep.as_bytes(),
        good,
    ];
    let records: Vec<_> = bad.iter().map(|value| (None, Some(*value))).collect();
    let decoded = decoder.decode(&[batch(&records, 17)], 0).unwrap();
    assert_eq!(decoded.offsets, [17, 29]);
    assert_eq!(decoded.columns[1].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x", "x"]);
    let at = TopicPartition::new("finds", 2);
    let sentences: Vec<String> = decoded.errors.iter().map(|error| error.sentence(&at)).collect();
    assert_eq!(
        sentences[0],
        "finds-2 offset 18 is not JSON: it begins 00 00 00 00 01, like Avro with schema 1; use VALUE_FORMAT='AVRO'"
    );
    assert!(sentences[1].contains("breaks off at byte"), "{}", sentences[1]);
    assert_eq!(sentences[2], "finds-2 offset 20 cannot be read: column A is BIGINT, found '\"ten\"'");
    assert_eq!(sentences[3], "finds-2 offset 21 cannot be read: column D is BOOLEAN, found '1'");
    assert!(sentences[6].ends_with("it begins 'a,b,c', like separated values; use VALUE_FORMAT='DELIMITED'"));
    assert_eq!(decoded.errors[10].fault, RowFault::TooDeep);
    assert_eq!(decoded.errors.len(), 11);
    assert_eq!(decoded.errors[0].value.as_deref(), Some(&[0, 0, 0, 0, 1, 2, 6][..]));
}

#[test]
fn nested_types_keys_and_decimals_come_back_as_they_went_out() {
    let inner = columns(&[("X", SqlType::Integer), ("Y", SqlType::Array(Box::new(SqlType::String)))]);
    let schema = Schema {
        key: columns(&[("K1", SqlType::BigInt), ("K2", SqlType::String)]),
        value: columns(&[
            ("D", SqlType::Decimal { precision: 6, scale: 2 }),
            ("BY", SqlType::Bytes),
            ("AT", SqlType::Timestamp),
            ("DAY", SqlType::Date),
            ("T", SqlType::Time),
            ("S", SqlType::Struct(inner)),
            ("M", SqlType::Map(Box::new(SqlType::String), Box::new(SqlType::Double))),
        ]),
    };
    let json = FormatSpec::new(Format::Json);
    let mut decoder = Decoder::new(&schema, &json, &json, &[true; 9]).unwrap();
    let key: &[u8] = br#"{"K1":5,"K2":"a"}"#;
    let first = r#"{"D":1.10,"BY":"aGk=","AT":1,"DAY":19000,"T":5,"S":{"X":1,"Y":["p",null]},"M":{"a":1.0,"b":1.0E10}}"#;
    let second = r#"{"D":-0.05,"BY":null,"AT":null,"DAY":null,"T":null,"S":{"X":null,"Y":null},"M":{}}"#;
    let third = r#"{"D":null,"BY":"","AT":null,"DAY":null,"T":null,"S":null,"M":null}"#;
    let loose = br#"{"m":{},"s":{"y":null,"x":null},"d":"-0.050"}"#;
    let decoded = decoder
        .decode(
            &[batch(
                &[
                    (Some(key), Some(first.as_bytes())),
                    (Some(key), Some(second.as_bytes())),
                    (Some(key), Some(third.as_bytes())),
                    (None, Some(&loose[..])),
                    (Some(key), None),
                    (Some(key), Some(br#"{"d":1.005}"#)),
                ],
                3,
            )],
            0,
        )
        .unwrap();
    assert_eq!(decoded.errors.len(), 1);
    assert!(decoded.null_keys.as_ref().unwrap().value(3));
    let out = encode(&schema, &json, &json, &decoded);
    let values: Vec<_> = out.iter().map(|(_, value)| value.as_deref()).collect();
    assert_eq!(values, [Some(first), Some(second), Some(third), Some(second), None]);
    assert_eq!(out[0].0.as_deref(), Some(r#"{"K1":5,"K2":"a"}"#));
    let headers: Vec<_> = decoded.records().map(|record| record.headers.get("event-id").is_some()).collect();
    assert_eq!(headers, [true; 5]);
}

#[test]
fn a_single_column_stands_unwrapped_when_asked_and_a_null_then_is_a_tombstone() {
    let schema =
        Schema { key: columns(&[("K", SqlType::String)]), value: columns(&[("V", SqlType::BigInt)]) };
    let json = FormatSpec::new(Format::Json);
    let bare = FormatSpec { unwrap_single: true, ..FormatSpec::new(Format::Json) };
    let mut decoder = Decoder::new(&schema, &json, &bare, &[true, true]).unwrap();
    let records: Vec<Pair<'_>> =
        vec![(Some(b"\"k\""), Some(b" 12 ")), (Some(b"\"l\""), Some(b"null")), (Some(b"k"), Some(b"1"))];
    let decoded = decoder.decode(&[batch(&records, 0)], 0).unwrap();
    assert_eq!((decoded.len(), decoded.errors.len()), (2, 1));
    let out = encode(&schema, &json, &bare, &decoded);
    assert_eq!(out, [(Some("\"k\"".into()), Some("12".into())), (Some("\"l\"".into()), None)]);
}

#[test]
fn an_exact_name_wins_over_one_in_another_case_and_the_last_of_equals_wins() {
    let mut decoder = json_decoder(columns(&[("A", SqlType::BigInt), ("b", SqlType::BigInt)]));
    let decoded = decode(
        &mut decoder,
        &[r#"{"A":1,"a":2,"b":3,"B":4}"#, r#"{"a":2,"A":1,"B":4}"#, r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#],
    );
    let a: Vec<_> = decoded.columns[0].as_primitive::<Int64Type>().iter().collect();
    let b: Vec<_> = decoded.columns[1].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(a, [Some(1), Some(1), Some(2), Some(2)]);
    assert_eq!(b, [Some(3), None, None, None]);
}

#[test]
fn columns_that_are_not_needed_are_null_and_cost_no_error() {
    let schema = Schema { key: vec![], value: mixed() };
    let json = FormatSpec::new(Format::Json);
    let needed = [false, true, false, false, false];
    let mut decoder = Decoder::new(&schema, &FormatSpec::new(Format::None), &json, &needed).unwrap();
    let decoded = decode(&mut decoder, &[r#"{"a":"not a number","b":"x"}"#, r#"{"a":1,"b":"y"}"#]);
    assert_eq!((decoded.len(), decoded.errors.len()), (2, 0));
    assert_eq!((decoded.columns[0].null_count(), decoded.columns[1].null_count()), (2, 0));
    // a query that counts rows needs no column, and still counts no row that is none
    let mut decoder = Decoder::new(&schema, &FormatSpec::new(Format::None), &json, &[false; 5]).unwrap();
    let decoded = decode(&mut decoder, &[r#"{"a":1}"#, "null", "garbage", r#"{"a":2}"#]);
    assert_eq!((decoded.offsets.as_slice(), decoded.errors.len()), (&[0, 1, 3][..], 1));
    assert!(decoded.tombstones.unwrap().value(1));
}

#[test]
fn avro_is_refused_by_name() {
    let schema = Schema { key: vec![], value: mixed() };
    let refused =
        Decoder::new(&schema, &FormatSpec::new(Format::None), &FormatSpec::new(Format::Avro), &[true; 5]);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the AVRO format is not supported yet: use JSON, DELIMITED, KAFKA or NONE"
    );
}

/// Any JSON value of a few levels.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1.0e15..1.0e15_f64).prop_map(Into::into),
        "[ -~é\"\\\\\n\u{1F600}]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec(("[a-eA-E]{1,2}", inner), 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A row with any value in a STRING column gives what serde_json prints compactly; the row before and after
    /// make the reader speculate.
    #[test]
    fn any_value_in_a_text_column_is_its_compact_text(value in any_json(), pretty in any::<bool>()) {
        let mut decoder = json_decoder(columns(&[("N", SqlType::BigInt), ("S", SqlType::String)]));
        let body = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let row = format!("{{\"n\":1,\"s\":{body}}}");
        let plain = r#"{"n":1,"s":"x"}"#;
        let decoded = decode(&mut decoder, &[plain, &row, plain]);
        prop_assert!(decoded.errors.is_empty());
        let found = decoded.columns[1].as_string::<i32>();
        match &value {
            serde_json::Value::Null => prop_assert!(found.is_null(1)),
            serde_json::Value::String(text) => prop_assert_eq!(found.value(1), text),
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) => {}
            _ => {
                let again: serde_json::Value = serde_json::from_str(found.value(1)).unwrap();
                let expected: serde_json::Value = serde_json::from_str(&body).unwrap();
                let (again, expected) = (normal(&again), normal(&expected));
                prop_assert_eq!(again, expected);
            }
        }
        prop_assert_eq!(found.value(2), "x");
    }

    /// Numbers parse to the same doubles and integers as Rust's own parser says.
    #[test]
    fn numbers_parse_exactly(integer in any::<i64>(), double in any::<f64>(), digits in 1_u32..17) {
        prop_assume!(double.is_finite());
        let mut decoder = json_decoder(columns(&[("I", SqlType::BigInt), ("D", SqlType::Double)]));
        let short = format!("{:.*}", usize::try_from(digits).unwrap(), double % 1.0e6);
        let rows = [format!("{{\"i\":{integer},\"d\":{double:?}}}"), format!("{{\"i\":0,\"d\":{short}}}")];
        let decoded = decode(&mut decoder, &[&rows[0], &rows[1]]);
        prop_assert!(decoded.errors.is_empty());
        prop_assert_eq!(decoded.columns[0].as_primitive::<Int64Type>().value(0), integer);
        let doubles = decoded.columns[1].as_primitive::<Float64Type>();
        prop_assert_eq!(doubles.value(0).to_bits(), double.to_bits());
        prop_assert_eq!(doubles.value(1).to_bits(), short.parse::<f64>().unwrap().to_bits());
    }

    /// No bytes make the decoder panic or lose its place: each record is a row or an error.
    #[test]
    fn no_bytes_break_the_decoder(mut rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
        let mut decoder = json_decoder(mixed());
        let good = br#"{"a":1,"b":"x","c":1.5,"d":true,"e":7}"#;
        for (index, row) in rows.iter_mut().enumerate() {
            // half of them: a good row with some bytes replaced
            if index % 2 == 0 {
                let noise = std::mem::replace(row, good.to_vec());
                for pair in noise.chunks_exact(2).take(2) {
                    let at = usize::from(pair[0]) % row.len();
                    row[at] = pair[1];
                }
            }
        }
        let mut records: Vec<Pair<'_>> = vec![(None, Some(good))];
        records.extend(rows.iter().map(|row| (None, Some(&**row))));
        records.push((None, Some(good)));
        let decoded = decoder.decode(&[batch(&records, 0)], 0).unwrap();
        prop_assert_eq!(decoded.len() + decoded.errors.len(), records.len());
        for column in &decoded.columns {
            prop_assert_eq!(column.len(), decoded.len());
        }
    }
}

/// Doubles in a comparable form: Java's layout differs from Rust's, the value does not.
fn normal(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Number(number) => number.as_f64().map_or(serde_json::Value::Null, |double| {
            serde_json::Value::String(double.to_bits().to_string())
        }),
        serde_json::Value::Array(items) => items.iter().map(normal).collect(),
        serde_json::Value::Object(fields) => serde_json::Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), normal(value))).collect(),
        ),
        other => other.clone(),
    }
}
