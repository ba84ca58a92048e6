//! Nanoseconds per event of the JSON decoder and encoder on 160-byte events:
//! `cargo run --release -p herdsman-formats --example json_speed`.

use herdsman_formats::{Column, Decoder, Encoder, Format, FormatSpec, Rows, Schema, Selection, SqlType};
use herdsman_host::{Clock, RealClock};
use herdsman_record::{Batch, BatchBuilder, Compression};

const EVENTS: usize = 200_000;
const ROUNDS: usize = 20;

fn batches(extra: bool) -> Vec<Batch> {
    let mut out = Vec::new();
    for chunk in 0..EVENTS / 1000 {
        let mut builder = BatchBuilder::new();
        for index in 0..1000 {
            let n = chunk * 1000 + index;
            // every other event has one more field, to show what a second shape costs
            let note = if extra && n % 2 == 0 { ",\"note\":\"x\"" } else { "" };
            let value = format!(
                "{{\"id\":\"UA{:06}D\",\"player\":\"N{:05}\",\"hunt\":\"{}\",\"place\":\"{}\",\"kind\":\"{}\",\
                 \"at\":{},\"lat\":{:.4},\"lon\":-{:.4}{note},\"device\":\"android-14\",\"seq\":{}}}",
                n % 900_000,
                (n * 7919) % 3322,
                ["UA", "AA", "DL", "B6"][n % 4],
                ["JFK", "LGA", "EWR", "SFO", "ORD"][n % 5],
                ["departure", "landing"][n % 2],
                1_357_034_400_000_u64 + (n as u64) * 997,
                40.0 + (n % 1000) as f64 / 777.0,
                73.0 + (n % 1000) as f64 / 555.0,
                n
            );
            builder.append(n as i64, Some(b"N14228"), Some(value.as_bytes()), &[]);
        }
        let base = i64::try_from(chunk * 1000).unwrap_or(0);
        out.push(builder.finish(Compression::None).expect("small").with_base_offset(base, 0));
    }
    out
}

fn measure(name: &str, batches: &[Batch], needed: usize, full: bool) {
    let text = |name: &str| Column::new(name, SqlType::String);
    let schema = Schema {
        key: vec![text("TAIL")],
        value: vec![
            text("ID"),
            text("PLAYER"),
            text("HUNT"),
            text("PLACE"),
            text("KIND"),
            Column::new("AT", SqlType::BigInt),
            Column::new("LAT", SqlType::Double),
            Column::new("LON", SqlType::Double),
            Column::new("SEQ", SqlType::BigInt),
        ],
    };
    let mut flags = vec![false; schema.len()];
    let picked: &[usize] = if needed == 8 { &[1, 2, 3, 4, 5, 6, 7, 8] } else { &[2, 3, 6, 9] };
    for index in picked {
        flags[*index] = true;
    }
    if full {
        flags.fill(true);
    }
    let key = FormatSpec::new(Format::Kafka);
    let value = FormatSpec::new(Format::Json);
    let mut decoder = Decoder::new(&schema, &key, &value, &flags).expect("supported");
    let clock = RealClock;
    // the best time of each group over all rounds: short enough to fall between other work on a shared machine
    let mut best = vec![u64::MAX; batches.len().div_ceil(8)];
    let mut rows = 0;
    for _ in 0..ROUNDS {
        rows = 0;
        for (group, best) in batches.chunks(8).zip(&mut best) {
            let start = clock.monotonic_ns();
            let decoded = decoder.decode(group, 0).expect("sound");
            *best = (*best).min(clock.monotonic_ns() - start);
            assert!(decoded.errors.is_empty());
            rows += decoded.len();
        }
    }
    let best = best.iter().sum();
    report(name, best, rows);
    if full {
        let mut encoder = Encoder::new(&schema, &key, &value).expect("supported");
        let mut builder = BatchBuilder::new();
        let decoded = decoder.decode(&batches[..16.min(batches.len())], 0).expect("sound");
        let mut best = u64::MAX;
        for _ in 0..ROUNDS * 4 {
            let start = clock.monotonic_ns();
            let rows = Rows {
                columns: &decoded.columns,
                selection: Selection::Range(0..decoded.len()),
                timestamps: &decoded.timestamps,
                windows: None,
                tombstones: None,
            };
            encoder.encode(&rows, &mut builder).expect("fits");
            builder.finish(Compression::None).expect("small");
            best = best.min(clock.monotonic_ns() - start);
        }
        report("encode, 9 columns and key", best, decoded.len());
    }
}

#[allow(clippy::cast_precision_loss)]
fn report(name: &str, ns: u64, rows: usize) {
    let each = ns as f64 / rows as f64;
    println!("{name}: {each:.1} ns/event, {:.2} M events/s", 1000.0 / each);
}

fn main() {
    let plain = batches(false);
    let bytes: usize = plain.iter().map(|batch| batch.bytes().len()).sum();
    println!("{EVENTS} events, {} bytes each with their record", bytes / EVENTS);
    measure("decode, 8 of 10 fields", &plain, 8, false);
    measure("decode, 4 of 10 fields", &plain, 4, false);
    measure("decode, two shapes in turn, 8 fields", &batches(true), 8, false);
    measure("decode, 9 fields and key", &plain, 8, true);
}
