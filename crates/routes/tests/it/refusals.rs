//! What is wrong in a file is told in one line with its place.

use std::collections::BTreeMap;

use herdsman_routes::{RouteSet, check};

fn refusal(text: &str) -> String {
    match RouteSet::parse("finds.yaml", text, &BTreeMap::new()) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

fn step(step: &str) -> String {
    refusal(&format!("- from:\n    uri: kafka:finds\n    steps:\n      - {step}\n"))
}

#[test]
fn each_mistake_gets_one_line_with_its_place_and_the_nearest_name() {
    let cases = [
        (step("fliter: {}"), "finds.yaml:4:9: unknown step fliter: did you mean filter?"),
        (step("to: 'kafak:out'"), "finds.yaml:4:13: unknown endpoint kafak: did you mean kafka?"),
        (
            step("to: {uri: 'postgresql:localhost/db', parameters: {tabel: t}}"),
            "finds.yaml:4:59: postgresql has no option tabel: did you mean table?",
        ),
        (
            step("setBody: {groovy: 'body * 2'}"),
            "finds.yaml:4:19: language groovy is refused: write it in simple or jsonpath",
        ),
        (
            step("setBody: {spel: '#{body}'}"),
            "finds.yaml:4:19: language spel is refused: write it in simple or jsonpath",
        ),
        (step("bean: {ref: x}"), "finds.yaml:4:9: step bean is refused: it runs Java code"),
        (
            step("filter: {simple: '${body.points.intValue()} > 5', steps: [stop: {}]}"),
            "OGNL method intValue() is refused: it runs Java code",
        ),
        (
            step("filter: {simple: '${boddy.points} > 5', steps: [stop: {}]}"),
            "unknown simple function boddy: did you mean body?",
        ),
        (step("to: 'direct:nowhere'"), "finds.yaml:4:13: no route begins at direct:nowhere"),
        (
            step("to: 'https://example.org/x'"),
            "https is not in this build (no TLS): use http on loopback to a TLS proxy",
        ),
        (step("toD: 'http://${header.host}/x'"), "toD: scheme and host must stand before the first ${…}"),
        (step("to: 'file:../etc'"), "`..` is refused"),
        (
            step("setBody: {simple: '{{points}}'}"),
            "no property points; give it a value, or write {{points:default}}",
        ),
        (
            refusal("- onExeption: {}\n- from: {uri: 'timer:x', steps: [stop: {}]}\n"),
            "finds.yaml:1:3: a route file has no onExeption: did you mean onException?",
        ),
        (refusal("- beans: []\n"), "finds.yaml:1:3: beans is refused: beans are Java code"),
        (
            refusal(
                "- from: {uri: 'direct:a', steps: [to: 'direct:b']}\n- from: {uri: 'direct:b', steps: [to: 'direct:a']}\n",
            ),
            "comes back to itself over direct or seda",
        ),
        (refusal("a: &x [1]\nb: *x\n"), "YAML aliases are refused"),
    ];
    for (said, expected) in cases {
        assert!(said.contains(expected), "{said}\n  should contain\n{expected}");
        assert!(said.starts_with("finds.yaml:"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_missing_file_is_named_with_the_nearest_and_a_password_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("claims.yaml");
    let text = "- route:\n    id: out\n    from:\n      uri: kafka:claims\n      steps:\n        \
                - to: 'postgresql:h/db?table=t&password=RAW(can&ary)&tabel=x'\n";
    std::fs::write(&good, text).unwrap();
    let results = check(&[good, folder.path().join("claim.yaml")], &BTreeMap::new());
    let said: Vec<String> = results.into_iter().map(|result| result.unwrap_err().to_string()).collect();
    assert!(said[0].contains("claims.yaml:6:15: postgresql has no option tabel"), "{}", said[0]);
    assert!(!said[0].contains("can&ary"));
    assert!(said[1].ends_with("no such file: did you mean claims.yaml?"), "{}", said[1]);
}
