use std::path::PathBuf;

use super::*;

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

const MAP: &str = "time_unit = \"s\"\n[columns]\nplayer = \"UCASE(who)\"\nhunt = \"team\"\nplace = \"spot\"\ntime = \"at\"\nlat = \"lat\"\nlon = \"lon\"\n";

#[test]
fn rows_become_check_ins_and_bad_rows_are_told_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write(
        folder.path(),
        "finds.csv",
        "who,team,spot,at,lat,lon\nana,red,oak,1700000000,60.1,24.9\nbob,red,oak,soon,60.1,24.9\ncy,red\n,red,elm,1700000001,,\ndee,blue,elm,1700000002,,\n",
    );
    let map = write(folder.path(), "map.toml", MAP);
    let mut input = Mapped::open(&csv, &map).unwrap();
    let events = input.next(100).unwrap();
    assert_eq!(events.player.iter().flatten().collect::<Vec<_>>(), ["ANA", "DEE"]);
    assert_eq!(events.scheduled.values().as_ref(), [1_700_000_000_000, 1_700_000_002_000]);
    assert_eq!((events.lat.is_valid(0), events.lat.is_valid(1)), (true, false));
    let told: Vec<_> = events.rejected.iter().map(|row| (row.line, row.reason.as_str())).collect();
    assert_eq!(
        told,
        [(3, "time, actual cannot be read"), (4, "2 fields, the header has 6"), (5, "player cannot be read")]
    );
    assert_eq!(events.event_id.value(0).len(), 32);
    assert_eq!(input.position(), 5);
    assert!(input.next(100).unwrap().is_empty());
    input.seek(4).unwrap();
    assert_eq!(input.next(100).unwrap().player.value(0), "DEE");
}

#[test]
fn json_lines_give_the_same_events_as_csv() {
    let folder = tempfile::tempdir().unwrap();
    let map = write(folder.path(), "map.toml", MAP);
    let csv = write(folder.path(), "f.csv", "who,team,spot,at,lat,lon\nana,red,oak,1700000000,60.1,24.9\n");
    let json = write(
        folder.path(),
        "f.jsonl",
        "{\"who\":\"ana\",\"team\":\"red\",\"spot\":\"oak\",\"at\":1700000000,\"lat\":60.1,\"lon\":24.9}\n{broken\n",
    );
    let one = Mapped::open(&csv, &map).unwrap().next(10).unwrap();
    let two = Mapped::open(&json, &map).unwrap().next(10).unwrap();
    assert_eq!(one.event_id, two.event_id);
    assert_eq!(two.rejected.len(), 1);
    assert!(two.rejected[0].reason.starts_with("not JSON"), "{}", two.rejected[0].reason);
}

#[test]
fn wrong_files_maps_and_columns_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write(folder.path(), "finds.csv", "who,team,spot,at,lat,lon\n");
    let map = write(folder.path(), "map.toml", MAP);
    let say = |file: &Path, map: &Path| match Mapped::open(file, map).and_then(|mut input| input.next(1)) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert!(say(&csv, &map).ends_with("holds no rows: nothing to hunt"));
    assert!(say(&folder.path().join("finds.cvs"), &map).contains("no file finds.cvs in"));
    assert!(say(&folder.path().join("finds.cvs"), &map).ends_with("did you mean finds.csv?"));
    let misspelt = write(folder.path(), "misspelt.toml", &MAP.replace("\"team\"", "\"taem\""));
    assert!(say(&csv, &misspelt).contains("has no column taem: did you mean team? it has who, team"));
    let unknown = write(folder.path(), "unknown.toml", &MAP.replace("place =", "plaice ="));
    assert!(say(&csv, &unknown).contains("unknown key plaice: did you mean place?"));
}
