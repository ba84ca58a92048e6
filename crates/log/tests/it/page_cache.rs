//! `herdsman.page.cache.bytes`: what is synced and old leaves the page cache, each byte once.

use std::path::Path;
use std::sync::Arc;

use herdsman_host::{Seed, SimClock, SimDisk};
use herdsman_log::{Log, LogConfig};
use herdsman_record::TopicPartition;

use crate::batch_of;

const KEEP: u64 = 10_000;
const PAGE: u64 = 4096;

#[test]
fn synced_bytes_leave_the_page_cache_once_but_for_the_newest() {
    let disk = SimDisk::new(&Seed::new(1));
    let defaults = [("herdsman.page.cache.bytes", KEEP.to_string()), ("segment.bytes", "50000".to_owned())];
    let topic_defaults = defaults.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let config = LogConfig { topic_defaults, ..LogConfig::default() };
    let log =
        Log::open(Arc::new(disk.clone()), Path::new("/d"), Arc::new(SimClock::new(0)), config).unwrap().0;
    log.create_topic("t", 1, &Default::default()).unwrap();
    let tp = TopicPartition::new("t", 0);
    for round in 0..40 {
        for id in 0..4 {
            log.append(&tp, batch_of(&[id], 0, 1_000)).unwrap();
        }
        let before: u64 = segments(&disk).iter().map(|(_, forgotten, _)| *forgotten).sum();
        log.flush(&tp).unwrap();
        let all = segments(&disk);
        let (size, forgotten) =
            all.iter().fold((0, 0), |(size, sum), (len, forgotten, _)| (size + len, sum + forgotten));
        assert!(forgotten >= before);
        assert!(size - forgotten >= KEEP.min(size), "round {round}: the newest stay");
        assert!(
            size - forgotten <= KEEP + PAGE * all.len() as u64,
            "round {round}: {forgotten} of {size} left"
        );
        assert!(all.iter().all(|(_, _, twice)| *twice <= PAGE), "round {round}: each byte once");
    }
    assert!(segments(&disk).len() > 3, "over several segments");
}

/// Of each segment: length, bytes below the highest that was forgotten, most bytes forgotten twice at one place.
fn segments(disk: &SimDisk) -> Vec<(u64, u64, u64)> {
    let logs = disk.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.map(|path| {
        let ranges = disk.forgotten(&path);
        let len = disk.len_of(&path);
        let twice = ranges.windows(2).map(|pair| pair[0].end.saturating_sub(pair[1].start)).max();
        (len, ranges.iter().map(|range| range.end).max().unwrap_or(0), twice.unwrap_or(0))
    })
    .collect()
}
