//! What an exported script looks like, and what is refused.

use super::*;

const SCRIPT: &str = "
CREATE STREAM finds (hunt VARCHAR KEY, hunter VARCHAR, points INT, at BIGINT)
  WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', TIMESTAMP='at');
CREATE TABLE per_hunt AS SELECT hunt, COUNT(*) AS n, AVG(points) AS mean FROM finds
  WINDOW TUMBLING (SIZE 10 SECONDS, GRACE PERIOD 5 SECONDS) WHERE hunter <> 'x' + 'y' GROUP BY hunt EMIT CHANGES;";

#[test]
fn a_windowed_count_becomes_a_window_table_function_in_a_statement_set() {
    let sql = flink(SCRIPT).unwrap();
    for part in [
        "CREATE TABLE `FINDS` (\n  `hunt` STRING,\n  `hunter` STRING,\n  `points` INT,\n  `at` BIGINT,\n  `ROWTIME` AS TO_TIMESTAMP_LTZ(`at`, 3),\n  WATERMARK FOR `ROWTIME` AS `ROWTIME` - INTERVAL '5' SECOND\n)",
        "'connector' = 'upsert-kafka'",
        "PRIMARY KEY (`HUNT`, `WINDOWSTART`, `WINDOWEND`) NOT ENFORCED",
        "EXECUTE STATEMENT SET\nBEGIN\n  INSERT INTO `PER_HUNT` (`HUNT`, `N`, `MEAN`, `WINDOWSTART`, `WINDOWEND`)",
        "FROM TABLE(TUMBLE(TABLE `FINDS`, DESCRIPTOR(`ROWTIME`), INTERVAL '10' SECOND)) AS `FINDS`",
        "WHERE (`FINDS`.`hunter` <> ('x' || 'y'))\n  GROUP BY `FINDS`.`hunt`, window_start, window_end;",
        "AVG(CAST(`FINDS`.`points` AS DOUBLE)) AS `MEAN`",
    ] {
        assert!(sql.contains(part), "missing {part} in\n{sql}");
    }
}

#[test]
fn what_flink_cannot_say_is_refused_by_name_and_so_is_what_needs_it() {
    let script = format!(
        "{SCRIPT}\nCREATE TABLE treasures (id VARCHAR PRIMARY KEY, worth INT)
         WITH (CACHE='legacy', KEY_PATTERN='treasure:{{id}}', VALUE_FORMAT='JSON');
         CREATE STREAM rich AS SELECT f.hunt, t.worth FROM finds f JOIN treasures t ON f.hunter = t.id;"
    );
    let exported = flink_with(&script, &FlinkOptions::default()).unwrap();
    let refused: Vec<String> = exported.refused.iter().map(|error| error.message.clone()).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("TREASURES: a cache-backed table"), "{refused:?}");
    assert!(refused[1].contains("TREASURES"), "{refused:?}");
    assert!(exported.sql.contains("PER_HUNT") && !exported.sql.contains("RICH"));
    assert!(flink(&script).unwrap_err().place.is_some());
}
