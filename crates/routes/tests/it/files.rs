//! The hunt's default shape: two topics to JSON Lines and Parquet, without any server.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, Int64Array, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::{bus, committed, produce, start};

const DEFAULT: &str = r#"
- route:
    id: claims-out
    from:
      uri: kafka:claims
      steps:
        - multicast:
            steps:
              - to: "file:out?fileName=claims.jsonl"
              - to: "file:out?fileName=claims.parquet&format=parquet&rollRecords=400"
- route:
    id: leaderboard-out
    from:
      uri: kafka:leaderboard
      steps:
        - to: "file:out?fileName=leaderboard.jsonl"
        - to: "file:out?fileName=boards/${body.hunt}.parquet&format=parquet"
"#;

fn claim(index: usize) -> Value {
    json!({"event_id": format!("c{index}"), "treasure": format!("t{index}"), "player": format!("N{}", index % 7),
           "points": index, "at": 1_700_000_000_000_i64 + i64::try_from(index).unwrap()})
}

fn parquet_rows(folder: &Path, prefix: &str) -> (usize, BTreeSet<(String, i64)>) {
    let mut rows = BTreeSet::new();
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.ends_with(".part"), "{name} was left open");
        if !name.starts_with(prefix) || !name.ends_with(".parquet") {
            continue;
        }
        files += 1;
        let file = std::fs::File::open(&path).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let text =
                batch.column_by_name("player").unwrap().as_any().downcast_ref::<StringArray>().unwrap();
            let points =
                batch.column_by_name("points").unwrap().as_any().downcast_ref::<Int64Array>().unwrap();
            for row in 0..batch.num_rows() {
                assert!(rows.insert((text.value(row).to_owned(), points.value(row))), "row twice");
            }
        }
    }
    (files, rows)
}

#[test]
fn claims_and_leaderboard_become_json_lines_and_parquet_row_by_row() {
    let bus = bus(&["claims", "leaderboard"]);
    let claims: Vec<Value> = (0..1000).map(claim).collect();
    let expected: BTreeSet<(String, i64)> = claims
        .iter()
        .map(|claim| (claim["player"].as_str().unwrap().to_owned(), claim["points"].as_i64().unwrap()))
        .collect();
    let records = |values: &[Value]| -> Vec<(String, String, String)> {
        let all = values.iter().enumerate();
        all.map(|(index, value)| (format!("c{index}"), format!("k{}", index % 5), value.to_string()))
            .collect()
    };
    produce(&bus, "claims", &records(&claims));
    let boards: Vec<Value> =
        (0..30).map(|index| json!({"hunt": if index % 2 == 0 { "AA" } else { "UA" }, "player": format!("N{index}"), "points": index})).collect();
    produce(&bus, "leaderboard", &records(&boards));
    let folder = tempfile::tempdir().unwrap();
    let handle = start(&bus, DEFAULT, folder.path());
    assert!(handle.drain(Duration::from_secs(30)));
    let stats = handle.stop();
    assert_eq!((stats[0].records_in, stats[0].deliveries, stats[0].lag), (1000, 2000, 0), "{stats:?}");
    assert_eq!(stats[1].deliveries, 60);
    let out = folder.path().join("out");
    let lines = std::fs::read_to_string(out.join("claims.jsonl")).unwrap();
    let read: BTreeSet<(String, i64)> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|claim| (claim["player"].as_str().unwrap().to_owned(), claim["points"].as_i64().unwrap()))
        .collect();
    assert_eq!((lines.lines().count(), &read), (1000, &expected));
    let (files, rows) = parquet_rows(&out, "claims-");
    assert!(files >= 2, "{files} files, 400 rows each");
    assert_eq!(rows, expected);
    assert_eq!(parquet_rows(&out.join("boards"), "AA").1.len(), 15);
    assert_eq!(std::fs::read_to_string(out.join("leaderboard.jsonl")).unwrap().lines().count(), 30);
    assert_eq!(committed(&bus, "claims-out", "claims"), 1000);
}

#[test]
fn offsets_wait_for_an_open_parquet_file_and_torn_lines_and_links_are_dealt_with() {
    let bus = bus(&["claims"]);
    let records: Vec<_> =
        (0..50).map(|index| (format!("c{index}"), "k".to_owned(), claim(index).to_string())).collect();
    produce(&bus, "claims", &records);
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
- route:
    id: out
    from: {uri: "kafka:claims", steps: [{to: "file:p?format=parquet&rollInterval=1h"}]}
"#;
    let handle = start(&bus, text, folder.path());
    crate::support::wait_for("50 rows", 10, || handle.stats()[0].deliveries == 50);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(committed(&bus, "out", "claims"), 0, "the file is not closed");
    handle.stop();
    assert_eq!(committed(&bus, "out", "claims"), 50);
    assert_eq!(parquet_rows(&folder.path().join("p"), "data").1.len(), 50);

    // a line cut short by a crash goes; a link is never followed, even if a record asks
    let elsewhere = tempfile::tempdir().unwrap();
    let out = folder.path().join("l");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("N1.jsonl"), "{\"whole\":1}\n{\"torn").unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("x"), out.join("N2.jsonl")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), out.join("N3.jsonl")).unwrap();
    let text = r#"
- route:
    id: lines
    from: {uri: "kafka:claims?groupId=l", steps: [{to: "file:l?fileName=${body.player}.jsonl"}]}
"#;
    let evil = json!({"player": "../../evil"}).to_string();
    produce(&bus, "claims", &[("evil".to_owned(), "k".to_owned(), evil)]);
    let handle = start(&bus, text, folder.path());
    assert!(handle.drain(Duration::from_secs(10)));
    let stats = handle.stop();
    let lines = std::fs::read_to_string(out.join("N1.jsonl")).unwrap();
    assert!(lines.starts_with("{\"whole\":1}\n{\"event_id\":\"c1\""), "{lines}");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    // players 2 and 3 of 7 among 50, and the one that tried to leave the folder
    assert_eq!(stats[0].dead_letters, 7 + 7 + 1, "{stats:?}");
}
