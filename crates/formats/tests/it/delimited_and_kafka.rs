//! DELIMITED, KAFKA and windowed keys.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use herdsman_formats::{Decoder, Encoder, Format, FormatSpec, Rows, Schema, Selection, SqlType, WindowedKey};
use herdsman_record::{BatchBuilder, Compression, TopicPartition, partition_for_key};

use crate::support::{Pair, batch, columns, encode};

#[test]
fn delimited_rows_are_quoted_as_commons_csv_quotes_them() {
    let schema = Schema {
        key: columns(&[("K", SqlType::String)]),
        value: columns(&[("A", SqlType::String), ("B", SqlType::BigInt), ("C", SqlType::String)]),
    };
    let key = FormatSpec::new(Format::Kafka);
    let value = FormatSpec::new(Format::Delimited);
    let mut decoder = Decoder::new(&schema, &key, &value, &[true; 4]).unwrap();
    let lines =
        ["x,1,y", "\"a,b\",2,\"say \"\"hi\"\"\"", ",3,", "#c,4,d ", "Z\u{e9},5,\u{e9}", "x,1", "x,one,y"];
    let records: Vec<_> = lines.iter().map(|line| (Some(&b"k"[..]), Some(line.as_bytes()))).collect();
    let decoded = decoder.decode(&[batch(&records, 0)], 0).unwrap();
    let at = TopicPartition::new("t", 0);
    let sentences: Vec<_> = decoded.errors.iter().map(|error| error.sentence(&at)).collect();
    assert_eq!(
        sentences,
        [
            "t-0 offset 5 cannot be read: it has 2 fields, 3 columns are declared",
            "t-0 offset 6 cannot be read: column B is BIGINT, found 'one'"
        ]
    );
    let out = encode(&schema, &key, &value, &decoded);
    let values: Vec<_> = out.iter().flat_map(|(_, value)| value.as_deref()).collect();
    assert_eq!(
        values,
        ["x,1,y", "\"a,b\",2,\"say \"\"hi\"\"\"", ",3,", "\"#c\",4,\"d \"", "Z\u{e9},5,\u{e9}"]
    );
}

#[test]
fn kafka_serializers_are_big_endian_and_wrong_sizes_are_said() {
    let schema =
        Schema { key: columns(&[("K", SqlType::Integer)]), value: columns(&[("V", SqlType::Double)]) };
    let kafka = FormatSpec::new(Format::Kafka);
    let mut decoder = Decoder::new(&schema, &kafka, &kafka, &[true, true]).unwrap();
    let two = 2.5_f64.to_be_bytes();
    let records: Vec<Pair<'_>> =
        vec![(Some(&[0, 0, 1, 0]), Some(&two)), (Some(&[0]), Some(&two)), (None, None)];
    let decoded = decoder.decode(&[batch(&records, 0)], 0).unwrap();
    assert_eq!(decoded.offsets, [0, 2]);
    assert_eq!(
        decoded.errors[0].sentence(&TopicPartition::new("t", 1)),
        "t-1 offset 1: the key cannot be read: column K is INTEGER, found 1 bytes where 4 belong"
    );
    let mut encoder = Encoder::new(&schema, &kafka, &kafka).unwrap();
    let mut builder = BatchBuilder::new();
    let rows = Rows {
        columns: &decoded.columns,
        selection: Selection::Indices(&[1, 0]),
        timestamps: &decoded.timestamps,
        windows: None,
        tombstones: None,
    };
    encoder.encode(&rows, &mut builder).unwrap();
    let out = builder.finish(Compression::None).unwrap().records().unwrap();
    let found: Vec<_> =
        out.iter().map(|record| record.map(|record| (record.key, record.value)).unwrap()).collect();
    assert_eq!(found, [(None, None), (Some(&[0, 0, 1, 0][..]), Some(&two[..]))]);
}

#[test]
fn windows_ride_behind_the_key_and_rows_go_where_their_bare_key_belongs() {
    let schema =
        Schema { key: columns(&[("K", SqlType::String)]), value: columns(&[("V", SqlType::BigInt)]) };
    let key = FormatSpec::new(Format::Kafka);
    let value = FormatSpec::new(Format::Json);
    let mut decoder = Decoder::new(&schema, &key, &value, &[true, true]).unwrap();
    let records: Vec<Pair<'_>> =
        vec![(Some(b"N1"), Some(b"{\"v\":1}")), (Some(b"N2"), Some(b"{\"v\":2}")), (Some(b"N3"), None)];
    let decoded = decoder.decode(&[batch(&records, 0)], 0).unwrap();
    let (starts, ends) = ([10_000, 20_000, 30_000], [11_000, 20_500, 39_000]);
    for window in [WindowedKey::Time { size_ms: 10_000 }, WindowedKey::Session] {
        let mut encoder = Encoder::new(&schema, &key, &value).unwrap().with_window(Some(window));
        let mut builders = vec![BatchBuilder::new(); 5];
        let rows = Rows {
            columns: &decoded.columns,
            selection: Selection::Range(0..3),
            timestamps: &decoded.timestamps,
            windows: Some((&starts, &ends)),
            tombstones: decoded.tombstones.as_ref(),
        };
        encoder.encode_partitioned(&rows, &mut builders).unwrap();
        let mut reader =
            Decoder::new(&schema, &key, &value, &[true, true]).unwrap().with_window(Some(window));
        let mut seen = 0;
        for (partition, builder) in builders.iter_mut().enumerate().filter(|(_, builder)| !builder.is_empty())
        {
            let back = reader.decode(&[builder.finish(Compression::None).unwrap()], 0).unwrap();
            let keys = back.columns[0].as_string::<i32>();
            let (from, to) = back.windows.as_ref().unwrap();
            for row in 0..back.len() {
                assert_eq!(
                    partition_for_key(keys.value(row).as_bytes(), 5),
                    i32::try_from(partition).unwrap()
                );
                let index = usize::from(keys.value(row).as_bytes()[1] - b'1');
                assert_eq!(from[row], starts[index]);
                let end = if window == WindowedKey::Session { ends[index] } else { starts[index] + 10_000 };
                assert_eq!(to[row], end);
                assert_eq!(back.columns[1].is_null(row), index == 2);
                seen += 1;
            }
        }
        assert_eq!(seen, 3);
    }
    let again = decoder.decode(&[batch(&records, 5)], 6).unwrap();
    assert_eq!(
        (again.offsets.clone(), again.columns[1].as_primitive::<Int64Type>().value(0)),
        (vec![6, 7], 2)
    );
}

#[test]
fn text_that_is_not_utf_8_is_replaced_in_the_kafka_format_and_refused_in_json_beside_it() {
    let schema =
        Schema { key: columns(&[("K", SqlType::String)]), value: columns(&[("V", SqlType::String)]) };
    let (key, value) = (FormatSpec::new(Format::Kafka), FormatSpec::new(Format::Json));
    let mut decoder = Decoder::new(&schema, &key, &value, &[true, true]).unwrap();
    let good: Pair<'_> = (Some(b"N\xff1"), Some(b"{\"v\":\"a\"}"));
    let bad: Pair<'_> = (Some(b"N2"), Some(b"{\"v\":\"\xff\"}"));
    for (records, refused) in [(vec![good], 0), (vec![good, bad], 1)] {
        let decoded = decoder.decode(&[batch(&records, 0)], 0).unwrap();
        let keys = decoded.columns[0].as_string::<i32>();
        assert_eq!((decoded.len(), keys.value(0), decoded.errors.len()), (1, "N\u{fffd}1", refused));
    }
}
