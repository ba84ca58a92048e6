//! A case file: parsing, comments, expansion over formats and config values.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

/// A record of `inputs` or `outputs`.
#[derive(Debug, Clone)]
pub(crate) struct TestRecord {
    pub topic: String,
    pub key: Json,
    pub value: Json,
    pub timestamp: Option<i64>,
    pub window: Option<TestWindow>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TestWindow {
    pub start: i64,
    pub end: i64,
    pub session: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub ty: String,
    pub message: Option<String>,
}

/// One case, expanded.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub name: String,
    pub statements: Vec<String>,
    pub properties: BTreeMap<String, String>,
    pub topics: Vec<Json>,
    pub inputs: Vec<TestRecord>,
    pub outputs: Vec<TestRecord>,
    pub expected: Option<Expected>,
    pub post: Option<Json>,
    pub responses: Option<Vec<Json>>,
    pub expected_error: Option<Json>,
    pub wait_for_push: bool,
}

impl Case {
    pub(crate) fn is_rest(&self) -> bool {
        self.responses.is_some() || self.expected_error.is_some()
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.expected.is_some() || self.expected_error.is_some()
    }

    pub(crate) fn script(statements: &str, inputs: Vec<Json>, outputs: Vec<Json>) -> Result<Self, String> {
        Ok(Self {
            name: "script".to_owned(),
            statements: vec![statements.to_owned()],
            properties: BTreeMap::new(),
            topics: Vec::new(),
            inputs: inputs.iter().map(record).collect::<Result<_, _>>()?,
            outputs: outputs.iter().map(record).collect::<Result<_, _>>()?,
            expected: None,
            post: None,
            responses: None,
            expected_error: None,
            wait_for_push: false,
        })
    }
}

/// `text` without `//` and `/* */` comments outside strings.
pub(crate) fn strip_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                out.push(c);
                out.extend(chars.next());
            }
            '"' => {
                in_string = !in_string;
                out.push(c);
            }
            '/' if !in_string && chars.peek() == Some(&'/') => {
                for c in chars.by_ref() {
                    if c == '\n' {
                        out.push('\n');
                        break;
                    }
                }
            }
            '/' if !in_string && chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in chars.by_ref() {
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            _ => out.push(c),
        }
    }
    out
}

/// All cases of a file, expanded.
pub(crate) fn parse(stem: &str, text: &str) -> Result<Vec<Case>, String> {
    let json: Json =
        serde_json::from_str(&strip_comments(text)).map_err(|error| format!("not JSON: {error}"))?;
    let tests = json.get("tests").and_then(Json::as_array).ok_or("it has no list \"tests\"")?;
    let mut cases = Vec::new();
    for test in tests {
        let Some(test) = test.as_object() else { return Err("a test is not an object".to_owned()) };
        if test.get("enabled") == Some(&Json::Bool(false)) {
            continue;
        }
        for format in options(test, "format") {
            for config in options(test, "config") {
                cases.push(case(stem, test, format.as_deref(), config.as_deref())?);
            }
        }
    }
    Ok(cases)
}

fn options(test: &Map<String, Json>, key: &str) -> Vec<Option<String>> {
    match test.get(key).and_then(Json::as_array) {
        Some(all) if !all.is_empty() => all.iter().map(|one| Some(text(one))).collect(),
        _ => vec![None],
    }
}

fn text(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

fn case(
    stem: &str,
    test: &Map<String, Json>,
    format: Option<&str>,
    config: Option<&str>,
) -> Result<Case, String> {
    let own = test.get("name").and_then(Json::as_str).ok_or("a test has no name")?;
    let mut name = format!("{stem} - {own}");
    if let Some(format) = format {
        name.push_str(&format!(" - {format}"));
    }
    let mut properties = BTreeMap::new();
    for (key, value) in test.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let mut value = text(value);
        if let (true, Some(config)) = (value == "{CONFIG}", config) {
            value = config.to_owned();
            name.push_str(&format!(" - {key}={value}"));
        }
        properties.insert(key.clone(), value);
    }
    let strings =
        test.get("statements").and_then(Json::as_array).ok_or_else(|| format!("{name} has no statements"))?;
    let statements = strings
        .iter()
        .map(text)
        .map(|sql| format.map_or(sql.clone(), |f| sql.replace("{FORMAT}", f)))
        .collect();
    let records = |key: &str| -> Result<Vec<TestRecord>, String> {
        test.get(key).and_then(Json::as_array).into_iter().flatten().map(record).collect()
    };
    let expected = test.get("expectedException").filter(|e| !e.is_null()).map(|expected| Expected {
        ty: expected.get("type").map(text).unwrap_or_default(),
        message: expected.get("message").and_then(Json::as_str).map(str::to_owned),
    });
    let wait_for_push = test
        .get("inputConditions")
        .and_then(|conditions| conditions.get("waitForActivePushQuery"))
        .is_some_and(|wait| *wait == Json::Bool(true));
    Ok(Case {
        statements,
        properties,
        topics: test.get("topics").and_then(Json::as_array).cloned().unwrap_or_default(),
        inputs: records("inputs")?,
        outputs: records("outputs")?,
        expected,
        post: test.get("post").cloned(),
        responses: test.get("responses").and_then(Json::as_array).cloned(),
        expected_error: test.get("expectedError").cloned(),
        wait_for_push,
        name,
    })
}

fn record(json: &Json) -> Result<TestRecord, String> {
    use base64::Engine as _;
    let integer = |json: &Json| json.as_i64().or_else(|| json.as_f64().map(|number| number as i64));
    let window = json.get("window").filter(|window| !window.is_null()).map(|window| TestWindow {
        start: window.get("start").and_then(integer).unwrap_or(0),
        end: window.get("end").and_then(integer).unwrap_or(0),
        session: window
            .get("type")
            .and_then(Json::as_str)
            .is_some_and(|ty| ty.eq_ignore_ascii_case("session")),
    });
    let headers = json.get("headers").and_then(Json::as_array).into_iter().flatten().map(|header| {
        let value = header.get("VALUE").and_then(Json::as_str);
        let value =
            value.map(|value| base64::engine::general_purpose::STANDARD.decode(value).unwrap_or_default());
        (header.get("KEY").map(text).unwrap_or_default(), value)
    });
    Ok(TestRecord {
        topic: json.get("topic").map(text).ok_or("a record has no topic")?,
        key: json.get("key").cloned().unwrap_or(Json::Null),
        value: json.get("value").cloned().unwrap_or(Json::Null),
        timestamp: json.get("timestamp").and_then(integer),
        window,
        headers: headers.collect(),
    })
}
