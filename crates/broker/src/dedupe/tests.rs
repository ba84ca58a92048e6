use std::collections::HashMap;

use herdsman_record::{BatchBuilder, Compression, EventId};

use super::extract::{EventIdSource, Extractor};
use super::*;

fn id(number: u64) -> EventId {
    EventId::of(&number.to_le_bytes())
}

#[test]
fn an_id_is_accepted_once_per_window_whatever_the_batches() {
    // against a plain map that forgets nothing before the window is over
    let mut dedupe = Dedupe::new(1_000, 1 << 20);
    let mut model: HashMap<EventId, i64> = HashMap::new();
    let mut random = 1_u64;
    for step in 0..2_000_i64 {
        let now = step * 7;
        let ids: Vec<EventId> = (0..50)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                id(random >> 33 & 0xfff)
            })
            .collect();
        let fresh = dedupe.filter(&ids, now);
        for (index, id) in ids.iter().enumerate() {
            let seen = model.get(id).copied();
            if seen.is_some_and(|at| now - at < 1_000) {
                assert!(!fresh.is_fresh(index), "accepted twice within the window at {now}");
            }
            if seen.is_none_or(|at| now - at >= 1_500) {
                assert!(fresh.is_fresh(index), "still refused after one and a half windows at {now}");
            }
            if fresh.is_fresh(index) {
                model.insert(*id, now);
            }
        }
    }
    assert_eq!(dedupe.stats().forgotten_early, 0);
}

#[test]
fn memory_stays_in_its_budget_and_what_it_cost_is_counted() {
    let budget = 1 << 20;
    let mut dedupe = Dedupe::new(i64::MAX / 4, budget);
    let ids: Vec<EventId> = (0..300_000).map(id).collect();
    for chunk in ids.chunks(1_000) {
        assert_eq!(dedupe.filter(chunk, 1).duplicates(), 0);
        assert!(dedupe.stats().memory_bytes <= budget as u64);
    }
    let stats = dedupe.stats();
    assert_eq!(stats.forgotten_early + stats.remembered, 300_000);
    assert!(stats.remembered as usize >= dedupe.capacity() / 3 * 2);
    assert_eq!(dedupe.filter(&ids[299_000..], 1).duplicates(), 1_000);
}

#[test]
fn a_batch_that_was_not_written_is_forgotten() {
    let mut dedupe = Dedupe::new(1_000, 1 << 20);
    let ids = [id(1), id(2), id(1), NO_ID, NO_ID];
    let fresh = dedupe.filter(&ids, 0);
    assert_eq!((fresh.duplicates(), fresh.is_fresh(2), fresh.is_fresh(4)), (1, false, true));
    dedupe.forget(&ids, &fresh);
    assert_eq!(dedupe.filter(&ids, 0), fresh);
}

#[test]
fn the_json_field_is_found_wherever_it_stands_and_never_inside_another() {
    let mut extractor = Extractor::new(EventIdSource::JsonField("id".into()));
    let mut of = |value: &str| {
        let mut builder = BatchBuilder::new();
        builder.append(0, None, Some(value.as_bytes()), &[]);
        let records = builder.finish(Compression::None).unwrap().records().unwrap();
        let mut ids = Vec::new();
        extractor.ids_of(&records, Some(0), &mut ids).unwrap();
        ids[0]
    };
    let a = EventId::of(b"a-1");
    for value in [
        r#"{"id":"a-1","x":1}"#,
        r#"{"x":1,"id":"a-1"}"#,
        r#"{"x":12,"id":"a-1"}"#,
        r#"{"x":{"id":"inner"},"id":"a-1"}"#,
        r#"{"y":"{\"id\":\"inner\"","id":"a-1"}"#,
        r#"{"y":["id",{"id":7}], "id" : "a-1" }"#,
        r#"{"i\u0064":"a\u002d1"}"#,
        r#" { "x" : null , "id":"a-1"}"#,
    ] {
        assert_eq!(of(value), a, "{value}");
    }
    for value in [
        r#"{"x":{"id":"a-1"}}"#,
        r#"{"id":null}"#,
        r#"{"id":{}}"#,
        r#"["id","a-1"]"#,
        "",
        "{",
        r#"{"id":"#,
        r#"{"id":"a"#,
    ] {
        assert_eq!(of(value), NO_ID, "{value}");
    }
    assert_eq!(of(r#"{"id": 17}"#), EventId::of(b"17"));
    assert_eq!(of(r#"{"id":true}"#), EventId::of(b"true"));
}
