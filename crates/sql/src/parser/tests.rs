//! What the parser takes and what it refuses.

use super::*;
use crate::ast::StatementKind;

#[test]
fn every_statement_of_the_checklist_parses() {
    let script = "
        CREATE STREAM s (id INT KEY, v ARRAY<STRUCT<a VARCHAR, b MAP<STRING, DECIMAL(4, 2)>>>, h BYTES HEADER('x'))
            WITH (kafka_topic='t', value_format='JSON', partitions=3);
        CREATE OR REPLACE SOURCE TABLE IF NOT EXISTS t (id STRING PRIMARY KEY) WITH (kafka_topic='t', format='JSON');
        CREATE TABLE c WITH (retention_ms=5) AS SELECT id, COUNT(*) AS n FROM s
            WINDOW HOPPING (SIZE 10 SECONDS, ADVANCE BY 5 SECONDS, RETENTION 1 DAY, GRACE PERIOD 0 SECONDS)
            WHERE v[1]->a LIKE 'x!%' ESCAPE '!' AND id NOT IN (1, -2) GROUP BY id HAVING COUNT(*) > 1 EMIT FINAL;
        INSERT INTO s WITH (query_id='q') SELECT l.*, r.x->* FROM l JOIN r WITHIN (1 SECOND, 2 MINUTES) GRACE PERIOD 1 DAY
            ON l.id = r.id PARTITION BY l.id, r.x;
        INSERT INTO s (id, v) VALUES (1, ARRAY[STRUCT(a := 'x', b := MAP('k' := 1.10))]);
        SELECT TRANSFORM(m, (k, v) => k, (k, v) => v + 1), CASE x WHEN 1 THEN 'a' ELSE 'b' END AS `quoted name`
            FROM s WHERE a IS DISTINCT FROM b OR NOT c BETWEEN 1 AND 2 ORDER BY x DESC LIMIT 3 OFFSET 1;
        ALTER STREAM s ADD COLUMN x INT, ADD y STRING; DROP TABLE IF EXISTS t DELETE TOPIC;
        CREATE TYPE p AS STRUCT<a INT>; DROP TYPE IF EXISTS p;
        CREATE SINK CONNECTOR IF NOT EXISTS k WITH ('a.b'='c'); DROP CONNECTOR k;
        SHOW ALL TOPICS EXTENDED; LIST STREAMS EXTENDED; SHOW TABLES; SHOW QUERIES; SHOW FUNCTIONS; SHOW PROPERTIES;
        SHOW CONNECTORS; SHOW CONNECTOR PLUGINS; SHOW TYPES; SHOW VARIABLES; DESCRIBE s EXTENDED; DESCRIBE STREAMS;
        DESCRIBE FUNCTION abs; DESCRIBE CONNECTOR k; EXPLAIN SELECT * FROM s EMIT CHANGES; EXPLAIN csas_1;
        PRINT t FROM BEGINNING INTERVAL 2 LIMIT 3; TERMINATE ALL; PAUSE q; RESUME ALL; SET 'a'='b'; UNSET 'a';
        ALTER SYSTEM 'a'='b'; DEFINE x = 'y'; UNDEFINE x; ASSERT NOT EXISTS TOPIC t TIMEOUT 5 SECONDS;
        ASSERT SCHEMA SUBJECT 's' ID 3;";
    let statements = parse_script(script).unwrap();
    assert_eq!(statements.len(), 39);
    assert!(statements.iter().all(|statement| statement.text.ends_with(';')));
    assert!(matches!(statements[0].kind, StatementKind::CreateSource { table: false, .. }));
}

#[test]
fn syntax_errors_name_place_and_expectation() {
    let error = parse_script("CREATE STREAM INPUT (K STRING (KEY)) WITH (kafka_topic='i');").unwrap_err();
    assert!(
        error.message.starts_with("line 1:32: Syntax Error\nExpecting {'STRING', INTEGER_VALUE}"),
        "{error}"
    );
    let error = parse_script("ASSERT VALUES foo (id INT) VALUES (123);").unwrap_err();
    assert!(error.message.contains("Syntax error at or near 'VALUES' at line 1:8"), "{error}");
    let error = parse_script("SELCT * FROM s;").unwrap_err();
    assert_eq!(error.message, "line 1:1: Syntax Error\nUnknown statement 'SELCT'");
    assert_eq!(error.help.as_deref(), Some("did you mean SELECT?"));
}

#[test]
fn hostile_text_is_refused_without_exhausting_the_stack() {
    let deep = format!("SELECT {}1{} FROM s;", "(".repeat(100_000), ")".repeat(100_000));
    assert!(parse_script(&deep).unwrap_err().message.starts_with("nested deeper than 200 levels"));
    let deep = format!("SELECT {}1 FROM s;", "- ".repeat(100_000));
    assert!(parse_script(&deep).is_err());
    let wide = format!("SELECT * FROM s WHERE {} TRUE;", "TRUE AND ".repeat(50_000));
    assert!(parse_script(&wide).is_ok());
    assert!(parse_script(&" ".repeat(SCRIPT_BYTES_MAX + 1)).is_err());
    for text in ["'", "\"", "`", "/*", "--", "é", "SELECT", "1a", "\u{0}", ";;", "CREATE TABLE t (", "{"] {
        let _ = parse_script(text);
    }
}

#[test]
fn expressions_print_as_ksqldb_prints_them() {
    for (text, printed) in [
        ("a + b * -2", "(A + (B * -2))"),
        ("not a = 1 or b is not null", "((NOT (A = 1)) OR (B IS NOT NULL))"),
        ("x->y[1] || 'it''s'", "CONCAT(X->Y[1], 'it''s')"),
        ("cast(`a b` as decimal(4,2))", "CAST(`a b` AS DECIMAL(4, 2))"),
        ("a not like 'x'", "(NOT (A LIKE 'x'))"),
        ("1e10", "1.0E10"),
    ] {
        let expr = parse_expression(text).unwrap();
        assert_eq!(crate::printer::expression(&expr, crate::printer::Names::Bare), printed);
    }
}
