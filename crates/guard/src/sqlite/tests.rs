use std::collections::HashMap;

use herdsman_host::{Clock, RealClock};
use rusqlite::params_from_iter;

use super::*;

fn database(rows: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.db");
    let mut connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE treasures (id TEXT PRIMARY KEY, worth INT, note TEXT) WITHOUT ROWID;")
        .unwrap();
    let transaction = connection.transaction().unwrap();
    {
        let mut insert = transaction.prepare("INSERT INTO treasures VALUES (?1, ?2, ?3)").unwrap();
        for n in 0..rows {
            insert.execute((format!("t:{n:07}"), i64::try_from(n).unwrap(), "x".repeat(80))).unwrap();
        }
    }
    transaction.commit().unwrap();
    (folder, path)
}

fn key(n: usize) -> Bytes {
    Bytes::from(format!("t:{n:07}"))
}

#[test]
fn one_query_answers_a_batch_in_the_order_asked() {
    let (_folder, path) = database(100);
    let loader = SqliteLoader::open(&path, "treasures", "id", "json_object('worth', worth)").unwrap();
    let asked = [key(7), key(1_000), key(3), Bytes::from_static(b"\xff\xfe"), key(7)];
    let found = loader.load(&asked).unwrap();
    let texts: Vec<_> = found.iter().map(|value| value.as_deref().map(String::from_utf8_lossy)).collect();
    assert_eq!(
        texts,
        [
            Some(r#"{"worth":7}"#.into()),
            None,
            Some(r#"{"worth":3}"#.into()),
            None,
            Some(r#"{"worth":7}"#.into())
        ]
    );
    let plain = SqliteLoader::open(&path, "treasures", "id", "worth").unwrap();
    assert_eq!(plain.load(&[key(9)]).unwrap(), [Some(Bytes::from_static(b"9"))]);
    assert_eq!(plain.load(&[]).unwrap(), Vec::<Option<Bytes>>::new());
}

#[test]
fn a_table_may_call_its_columns_what_it_likes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT, \"order\" TEXT); INSERT INTO t VALUES (5, 'v', 'o');")
        .unwrap();
    let asked = [Bytes::from_static(b"5"), Bytes::from_static(b"6")];
    for (column, found) in [("value", "v"), ("\"order\"", "o"), ("key", "5"), ("rowid", "5")] {
        let loader = SqliteLoader::open(&path, "t", "key", column).unwrap();
        assert_eq!(
            loader.load(&asked).unwrap(),
            [Some(Bytes::from_static(found.as_bytes())), None],
            "{column}"
        );
    }
}

#[test]
fn what_will_not_do_is_refused_by_name() {
    let (folder, path) = database(1);
    let say = |table, column, value| SqliteLoader::open(&path, table, column, value).unwrap_err().to_string();
    assert!(say("treasures; DROP", "id", "worth").contains("not a plain name"));
    assert!(say("treasures", "1d", "worth").contains("not a plain name"));
    assert!(say("treasure", "id", "worth").contains("no such table: treasure"));
    assert!(say("treasures", "id", "wurth").contains("no such column: wurth"));
    for bad in ["worth); DELETE FROM treasures; --", "1) FROM (SELECT 1", "worth -- ", "'", "", "/* x */ 1"] {
        assert!(say("treasures", "id", bad).contains("not one value expression"), "{bad}");
    }
    let missing = SqliteLoader::open(folder.path().join("no.db"), "t", "id", "v").unwrap_err().to_string();
    assert!(missing.contains("cannot open"), "{missing}");
}

/// Run with `--ignored --nocapture` in release: keys per second of each way to ask for 1,000 keys of 100,000 rows.
#[test]
#[ignore = "a measurement"]
fn measure_the_ways_to_ask() {
    let (_folder, path) = database(100_000);
    let batch: Vec<Bytes> = (0..1_000).map(|n| key(n * 7_919 % 100_000)).collect();
    let connection = connect(&path).unwrap();
    let clock = RealClock;
    let texts: Vec<&str> = batch.iter().map(|key| std::str::from_utf8(key).unwrap()).collect();
    let report = |name: &str, ask: &mut dyn FnMut() -> usize| {
        assert_eq!(ask(), batch.len(), "{name}");
        let start = clock.monotonic_ns();
        let rounds = 200;
        for _ in 0..rounds {
            ask();
        }
        let us = (clock.monotonic_ns() - start) / 1_000;
        println!("{name:>28}: {:>9} keys/s", rounds * batch.len() as u64 * 1_000_000 / us.max(1));
    };
    let loader = SqliteLoader::open(&path, "treasures", "id", "note").unwrap();
    report("rarray joined, by position", &mut || loader.load(&batch).unwrap().iter().flatten().count());
    let by_key = |found: &mut HashMap<Vec<u8>, Bytes>, row: &rusqlite::Row<'_>| {
        let key = row.get_ref(0).unwrap().as_bytes().unwrap().to_vec();
        found.insert(key, Bytes::copy_from_slice(row.get_ref(1).unwrap().as_bytes().unwrap()));
    };
    report("rarray IN, map by key", &mut || {
        let asked = Rc::new(texts.iter().map(|t| Value::Text((*t).to_owned())).collect::<Vec<_>>());
        let sql = "SELECT id, note FROM treasures WHERE id IN rarray(?1)";
        let mut statement = connection.prepare_cached(sql).unwrap();
        let (mut rows, mut found) = (statement.query([asked]).unwrap(), HashMap::new());
        while let Some(row) = rows.next().unwrap() {
            by_key(&mut found, row);
        }
        found.len()
    });
    report("json_each, by position", &mut || {
        let asked = format!("[{}]", texts.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(","));
        let sql = "SELECT asked.key, note FROM json_each(?1) AS asked CROSS JOIN treasures AS t ON t.id = asked.value";
        let mut statement = connection.prepare_cached(sql).unwrap();
        let (mut rows, mut found) = (statement.query([asked]).unwrap(), vec![None; texts.len()]);
        while let Some(row) = rows.next().unwrap() {
            let at: i64 = row.get(0).unwrap();
            found[usize::try_from(at).unwrap()] = bytes_of(row.get_ref(1).unwrap());
        }
        found.iter().flatten().count()
    });
    for chunk in [100, 1_000] {
        let sql = format!("SELECT id, note FROM treasures WHERE id IN ({})", vec!["?"; chunk].join(","));
        report(&format!("IN of {chunk} placeholders"), &mut || {
            let mut found = HashMap::new();
            for part in texts.chunks(chunk) {
                let mut statement = connection.prepare_cached(&sql).unwrap();
                let mut rows = statement.query(params_from_iter(part)).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    by_key(&mut found, row);
                }
            }
            found.len()
        });
    }
    report("one by one (no batch)", &mut || {
        let mut statement = connection.prepare_cached("SELECT note FROM treasures WHERE id = ?1").unwrap();
        let note =
            |t: &&&str| statement.query_row([t], |row| Ok(bytes_of(row.get_ref(0)?))).unwrap().is_some();
        texts.iter().filter(note).count()
    });
}
