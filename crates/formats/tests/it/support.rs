//! Batches and schemas for the tests.

use herdsman_formats::{
    Column, Decoded, Decoder, Encoder, Format, FormatSpec, Rows, Schema, Selection, SqlType,
};
use herdsman_record::{Batch, BatchBuilder, Compression};

/// Key and value of a record.
pub type Pair<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

pub fn columns(spec: &[(&str, SqlType)]) -> Vec<Column> {
    spec.iter().map(|(name, ty)| Column::new(*name, ty.clone())).collect()
}

pub fn batch(records: &[Pair<'_>], base: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    for (index, (key, value)) in records.iter().enumerate() {
        builder.append(1_000 + i64::try_from(index).unwrap(), *key, *value, &[("event-id", Some(b"7f3a"))]);
    }
    builder.finish(Compression::Lz4).unwrap().with_base_offset(base, 0)
}

pub fn json_decoder(value: Vec<Column>) -> Decoder {
    let schema = Schema { key: vec![], value };
    let needed = vec![true; schema.len()];
    Decoder::new(&schema, &FormatSpec::new(Format::None), &FormatSpec::new(Format::Json), &needed).unwrap()
}

/// Decodes values (no keys) with `decoder`.
pub fn decode(decoder: &mut Decoder, values: &[&str]) -> Decoded {
    let records: Vec<_> = values.iter().map(|value| (None, Some(value.as_bytes()))).collect();
    decoder.decode(&[batch(&records, 0)], 0).unwrap()
}

/// Encodes all rows and gives back keys and values as text.
pub fn encode(
    schema: &Schema,
    key: &FormatSpec,
    value: &FormatSpec,
    decoded: &Decoded,
) -> Vec<(Option<String>, Option<String>)> {
    let mut encoder = Encoder::new(schema, key, value).unwrap();
    let mut builder = BatchBuilder::new();
    let rows = Rows {
        columns: &decoded.columns,
        selection: Selection::Range(0..decoded.len()),
        timestamps: &decoded.timestamps,
        windows: None,
        tombstones: decoded.tombstones.as_ref(),
    };
    encoder.encode(&rows, &mut builder).unwrap();
    let batch = builder.finish(Compression::None).unwrap();
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let records = batch.records().unwrap();
    records
        .iter()
        .map(|record| record.map(|record| (text(record.key), text(record.value))).unwrap())
        .collect()
}
