//! The main job.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::program::{herdsman, hunt, read_json, said};

/// Check-ins of the season.
const SEASON: u64 = 655_867;

fn same_result(one: &Value, other: &Value) {
    for key in ["treasures", "claims", "clues", "fouls", "events_unique", "leaderboard"] {
        assert_eq!(one[key], other[key], "{key}");
    }
}

#[test]
fn the_same_input_gives_the_same_claims_and_leaderboard_whatever_threads_and_repetitions() {
    let once = hunt(&["--threads", "2"]);
    assert_eq!(once["events_in"], SEASON);
    assert_eq!(once["events_unique"], SEASON);
    assert_eq!(once["duplicates_dropped"], 0);
    assert!(once["late_events"].as_u64().unwrap() > 1_000, "{}", once["late_events"]);
    let (treasures, claims) = (once["treasures"].as_u64().unwrap(), once["claims"].as_u64().unwrap());
    assert!(claims > 5_000 && claims <= treasures, "{claims} of {treasures}");
    assert!(once["fouls"].as_u64().unwrap() > 0, "real data breaks the fair-play rule");
    let leaderboard = once["leaderboard"].as_array().unwrap();
    assert!(leaderboard.len() > 4_000);
    assert!(once["cache"]["round_trips"].as_u64().unwrap() < once["cache"]["lookups"].as_u64().unwrap() / 10);
    assert!(
        once["cache"]["loads"].as_u64().unwrap() <= once["cache"]["loads_without_guard"].as_u64().unwrap()
    );
    let twice = hunt(&["--threads", "1", "--loops", "2"]);
    assert_eq!(twice["events_in"], SEASON * 2);
    assert_eq!(twice["duplicates_dropped"], SEASON);
    same_result(&once, &twice);
}

#[test]
fn a_hunt_stopped_by_ctrl_c_goes_on_where_it_was_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let summary = folder.path().join("summary.json");
    let mut child = herdsman()
        .args(["hunt", "--speed", "4000000", "--data"])
        .arg(&data)
        .arg("--summary-json")
        .arg(&summary)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let sent = || std::fs::read(data.join("hunt.progress.json")).ok();
    let offered = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).ok()?["offered"].as_u64();
    while sent().and_then(offered).unwrap_or(0) < 20_000 {
        assert!(child.try_wait().unwrap().is_none(), "the hunt ended before it was stopped");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert!(child.wait().unwrap().success());
    let first = read_json(&summary);
    assert_eq!(first["complete"], false, "{first}");
    let sent = first["events_in"].as_u64().unwrap();
    assert!(sent > 0 && sent < SEASON, "{sent}");
    let output =
        herdsman().args(["hunt", "--data"]).arg(&data).arg("--summary-json").arg(&summary).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output).err);
    let second = read_json(&summary);
    assert_eq!((&second["complete"], &second["events_in"]), (&Value::Bool(true), &Value::from(SEASON)));
    assert_eq!(second["duplicates_dropped"], 0);
    same_result(&second, &hunt(&[]));
    assert!(
        data.join("results/claims.parquet").exists() || data.join("results").read_dir().unwrap().count() >= 3
    );
}

#[test]
fn real_redis_and_memcached_give_the_same_hunt() {
    let embedded = hunt(&[]);
    let (redis, memcached) = (testkit::RedisServer::start(), testkit::MemcachedServer::start());
    for url in [redis.url(), memcached.url()] {
        let with = hunt(&["--cache", &url]);
        same_result(&embedded, &with);
        assert!(with["cache"]["round_trips"].as_u64().unwrap() > 0);
    }
}

#[test]
fn anyones_csv_becomes_a_hunt_and_its_bad_rows_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut csv = String::from("id,who,team,spot,at\n");
    for day in 0..40_i64 {
        for who in ["ana", "bob", "cy"] {
            let at = 1_700_000_000 + day * 86_400 + i64::try_from(who.len()).unwrap() * 60;
            csv.push_str(&format!("{who}-{day},{who},red,spot{},{at}\n", day % 7));
        }
    }
    csv.push_str("broken,ana,red\n");
    let input = write("finds.csv", &csv);
    let map = write(
        "map.toml",
        "time_unit = \"s\"\n[columns]\nevent_id = \"id\"\nplayer = \"who\"\nhunt = \"team\"\nplace = \"UCASE(spot)\"\ntime = \"at\"\n",
    );
    let summary = hunt(&["--input", &input, "--map", &map]);
    assert_eq!(summary["events_in"], 120);
    assert_eq!(summary["rejected_rows"], 1);
    assert_eq!(summary["rejected_first"][0], "line 122: 3 fields, the header has 5");
    assert!(summary["claims"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary["leaderboard"].as_array().unwrap().len(), 3);
}
