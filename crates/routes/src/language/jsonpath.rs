//! JSONPath: the subset that routes use.
//!
//! `$`, `.name`, `['name']`, `[0]`, `[-1]`, `[0,2]`, `[1:3]`, `[*]`, `.*`, `..name`, `[?(@.points > 5 && @.kind == 'claim')]`,
//! `.length()`. A path without wildcard, slice, filter or `..` is definite: it gives one value, or null.

use serde_json::Value;

use super::operator::{Operator, compare, equal, truth, whole_match};

/// A compiled path.
#[derive(Debug, Clone)]
pub(crate) struct JsonPath {
    steps: Vec<Step>,
    definite: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Name(String),
    Names(Vec<String>),
    Index(Vec<i64>),
    Slice(Option<i64>, Option<i64>),
    Wildcard,
    Descend,
    Filter(Filter),
    Length,
}

#[derive(Debug, Clone)]
enum Filter {
    Or(Vec<Filter>),
    And(Vec<Filter>),
    Not(Box<Filter>),
    Exists(Operand),
    Compare(Operand, Operator, Operand),
}

#[derive(Debug, Clone)]
enum Operand {
    Path { root: bool, path: Box<JsonPath> },
    Literal(Value),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl JsonPath {
    /// Compiles `text`. The error says what is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.starts_with('$') {
            return Err(format!("jsonpath {text} must begin with $"));
        }
        let mut parser = Parser { text, at: 1, depth: 0 };
        let path = parser.steps()?;
        if parser.at < text.len() {
            return Err(parser.error("not understood from here"));
        }
        Ok(path)
    }

    /// The value: one for a definite path (null if absent), else the list of all that match.
    pub fn value(&self, body: &Value) -> Value {
        let found = self.find(body, body);
        if self.definite { found.into_iter().next().unwrap_or(Value::Null) } else { Value::Array(found) }
    }

    /// As a predicate: something is there, and it is not `false`.
    pub fn matches(&self, body: &Value) -> bool {
        let found = self.find(body, body);
        if self.definite { found.first().is_some_and(truth) } else { !found.is_empty() }
    }

    fn find(&self, root: &Value, from: &Value) -> Vec<Value> {
        let mut found = vec![from.clone()];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in &found {
                apply(step, root, value, &mut next);
            }
            found = next;
        }
        found
    }
}

fn apply(step: &Step, root: &Value, value: &Value, out: &mut Vec<Value>) {
    match (step, value) {
        (Step::Name(name), Value::Object(fields)) => out.extend(fields.get(name).cloned()),
        (Step::Names(names), Value::Object(fields)) => {
            out.extend(names.iter().filter_map(|name| fields.get(name).cloned()));
        }
        (Step::Index(indexes), Value::Array(items)) => {
            out.extend(indexes.iter().filter_map(|index| items.get(place(*index, items.len())?).cloned()));
        }
        (Step::Slice(from, to), Value::Array(items)) => {
            let bound = |end: Option<i64>, default: usize| match end {
                None => default,
                Some(end) => {
                    place(end, items.len()).unwrap_or(if end < 0 { 0 } else { items.len() }).min(items.len())
                }
            };
            let (from, to) = (bound(*from, 0), bound(*to, items.len()));
            out.extend(items.get(from..to).unwrap_or_default().iter().cloned());
        }
        (Step::Wildcard, Value::Array(items)) => out.extend(items.iter().cloned()),
        (Step::Wildcard, Value::Object(fields)) => out.extend(fields.values().cloned()),
        (Step::Descend, _) => descend(value, out),
        (Step::Filter(filter), Value::Array(items)) => {
            out.extend(items.iter().filter(|item| filter.test(root, item)).cloned());
        }
        (Step::Filter(filter), Value::Object(_)) if filter.test(root, value) => out.push(value.clone()),
        (Step::Length, Value::Array(items)) => out.push(Value::from(items.len())),
        (Step::Length, Value::Object(fields)) => out.push(Value::from(fields.len())),
        (Step::Length, Value::String(text)) => out.push(Value::from(text.chars().count())),
        _ => {}
    }
}

fn place(index: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).ok()?;
    usize::try_from(if index < 0 { len + index } else { index }).ok()
}

fn descend(value: &Value, out: &mut Vec<Value>) {
    out.push(value.clone());
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, out)),
        Value::Object(fields) => fields.values().for_each(|item| descend(item, out)),
        _ => {}
    }
}

impl Filter {
    fn test(&self, root: &Value, item: &Value) -> bool {
        match self {
            Self::Or(parts) => parts.iter().any(|part| part.test(root, item)),
            Self::And(parts) => parts.iter().all(|part| part.test(root, item)),
            Self::Not(part) => !part.test(root, item),
            Self::Exists(operand) => operand.value(root, item).is_some(),
            Self::Compare(left, operator, right) => {
                let left = left.value(root, item).unwrap_or(Value::Null);
                let right = right.value(root, item).unwrap_or(Value::Null);
                match operator {
                    Operator::Equal => equal(&left, &right),
                    Operator::NotEqual => !equal(&left, &right),
                    Operator::Greater | Operator::Less | Operator::GreaterOrEqual | Operator::LessOrEqual
                        if compare(&left, &right).is_none() =>
                    {
                        false
                    }
                    other => other.apply(&left, &right).unwrap_or(false),
                }
            }
        }
    }
}

impl Operand {
    fn value(&self, root: &Value, item: &Value) -> Option<Value> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            Self::Path { root: from_root, path } => {
                path.find(root, if *from_root { root } else { item }).into_iter().next()
            }
        }
    }
}

impl Parser<'_> {
    fn error(&self, what: &str) -> String {
        let rest: String = self.rest().chars().take(20).collect();
        format!("jsonpath {}: {what}: {}", self.text, if rest.is_empty() { "the end" } else { &rest })
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn steps(&mut self) -> Result<JsonPath, String> {
        let mut steps = Vec::new();
        let mut definite = true;
        loop {
            if self.eat("..") {
                definite = false;
                steps.push(Step::Descend);
                if self.eat("*") {
                    steps.push(Step::Wildcard);
                } else if !self.rest().starts_with('[') {
                    steps.push(Step::Name(self.name()?));
                }
            } else if self.eat(".length()") {
                steps.push(Step::Length);
            } else if self.eat(".*") {
                definite = false;
                steps.push(Step::Wildcard);
            } else if self.eat(".") {
                steps.push(Step::Name(self.name()?));
            } else if self.eat("[") {
                let step = self.bracket()?;
                definite &= matches!(&step, Step::Name(_)) || matches!(&step, Step::Index(i) if i.len() == 1);
                steps.push(step);
            } else {
                return Ok(JsonPath { steps, definite });
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let len = rest
            .find(|found: char| !(found.is_alphanumeric() || found == '_' || found == '-' || found == '$'))
            .unwrap_or(rest.len());
        if len == 0 {
            return Err(self.error("a name is missing"));
        }
        let name = rest.get(..len).unwrap_or_default().to_owned();
        self.at += len;
        Ok(name)
    }

    fn quoted(&mut self) -> Option<String> {
        let quote = self.rest().chars().next().filter(|found| *found == '\'' || *found == '"')?;
        let mut out = String::new();
        let mut escaped = false;
        for (index, found) in self.rest().char_indices().skip(1) {
            if escaped {
                out.push(found);
                escaped = false;
            } else if found == '\\' {
                escaped = true;
            } else if found == quote {
                self.at += index + 1;
                return Some(out);
            } else {
                out.push(found);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let rest = self.rest();
        let len = rest
            .char_indices()
            .find(|(index, found)| !(found.is_ascii_digit() || (*index == 0 && *found == '-')))
            .map_or(rest.len(), |(index, _)| index);
        let number = rest.get(..len)?.parse().ok()?;
        self.at += len;
        Some(number)
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.space();
        let step = if self.eat("*") {
            Step::Wildcard
        } else if self.eat("?(") {
            let filter = self.or()?;
            self.space();
            if !self.eat(")") {
                return Err(self.error(") is missing"));
            }
            Step::Filter(filter)
        } else if self.rest().starts_with(['\'', '"']) {
            let mut names = vec![self.quoted().ok_or_else(|| self.error("a quote is not closed"))?];
            self.space();
            while self.eat(",") {
                self.space();
                names.push(self.quoted().ok_or_else(|| self.error("a quoted name is missing"))?);
                self.space();
            }
            if names.len() == 1 { Step::Name(names.remove(0)) } else { Step::Names(names) }
        } else {
            let first = self.integer();
            self.space();
            if self.eat(":") {
                self.space();
                Step::Slice(first, self.integer())
            } else {
                let mut indexes = vec![first.ok_or_else(|| self.error("an index is missing"))?];
                while self.eat(",") {
                    self.space();
                    indexes.push(self.integer().ok_or_else(|| self.error("an index is missing"))?);
                    self.space();
                }
                Step::Index(indexes)
            }
        };
        self.space();
        if self.eat("]") { Ok(step) } else { Err(self.error("] is missing")) }
    }

    fn or(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > 32 {
            return Err(self.error("nested more than 32 deep"));
        }
        let mut parts = vec![self.and()?];
        loop {
            self.space();
            if !self.eat("||") {
                break;
            }
            parts.push(self.and()?);
        }
        self.depth -= 1;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Or(parts) })
    }

    fn and(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.test()?];
        loop {
            self.space();
            if !self.eat("&&") {
                break;
            }
            parts.push(self.test()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::And(parts) })
    }

    fn test(&mut self) -> Result<Filter, String> {
        self.space();
        if self.rest().starts_with('!') && !self.rest().starts_with("!=") {
            self.at += 1;
            return Ok(Filter::Not(Box::new(self.test()?)));
        }
        if self.eat("(") {
            let inner = self.or()?;
            self.space();
            return if self.eat(")") { Ok(inner) } else { Err(self.error(") is missing")) };
        }
        let left = self.operand()?;
        self.space();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            (">=", Operator::GreaterOrEqual),
            ("<=", Operator::LessOrEqual),
            ("=~", Operator::Regex { negated: false, compiled: None }),
            (">", Operator::Greater),
            ("<", Operator::Less),
        ];
        for (token, operator) in operators {
            if !self.eat(token) {
                continue;
            }
            self.space();
            if let Operator::Regex { .. } = operator {
                let pattern = self.regex()?;
                let compiled = Some(whole_match(&pattern)?);
                let right = Operand::Literal(Value::Null);
                return Ok(Filter::Compare(left, Operator::Regex { negated: false, compiled }, right));
            }
            let right = self.operand()?;
            return Ok(Filter::Compare(left, operator, right));
        }
        Ok(Filter::Exists(left))
    }

    fn regex(&mut self) -> Result<String, String> {
        if !self.eat("/") {
            return self.quoted().ok_or_else(|| self.error("a regex like /a.*/ is missing"));
        }
        let end = self.rest().find('/').ok_or_else(|| self.error("a regex is not closed"))?;
        let pattern = self.rest().get(..end).unwrap_or_default().to_owned();
        self.at += end + 1;
        Ok(pattern)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.space();
        if self.eat("@") {
            return Ok(Operand::Path { root: false, path: Box::new(self.steps()?) });
        }
        if self.eat("$") {
            return Ok(Operand::Path { root: true, path: Box::new(self.steps()?) });
        }
        if let Some(text) = self.quoted() {
            return Ok(Operand::Literal(Value::from(text)));
        }
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.eat(word) {
                return Ok(Operand::Literal(value));
            }
        }
        let rest = self.rest();
        let len = rest
            .find(|found: char| !(found.is_ascii_digit() || "+-.eE".contains(found)))
            .unwrap_or(rest.len());
        let number = rest.get(..len).and_then(|text| serde_json::from_str::<serde_json::Number>(text).ok());
        match number {
            Some(number) => {
                self.at += len;
                Ok(Operand::Literal(Value::Number(number)))
            }
            None => Err(self.error("a value is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_the_jsonpath_article_says() {
        let store = json!({"store": {"book": [
            {"category": "fiction", "title": "Sword", "price": 12.99},
            {"category": "reference", "title": "Sayings", "price": 8.95},
            {"category": "fiction", "title": "Moby", "isbn": "0-553", "price": 8.99}],
            "bicycle": {"color": "red", "price": 19.95}}});
        let value = |path: &str| JsonPath::parse(path).unwrap().value(&store);
        assert_eq!(value("$.store.bicycle.color"), json!("red"));
        assert_eq!(value("$['store']['book'][0]['title']"), json!("Sword"));
        assert_eq!(value("$.store.book[-1].title"), json!("Moby"));
        assert_eq!(value("$.store.book[0:2].title"), json!(["Sword", "Sayings"]));
        assert_eq!(value("$.store.book[?(@.price < 10 && @.category == 'fiction')].title"), json!(["Moby"]));
        assert_eq!(value("$.store.book[?(@.isbn)].title"), json!(["Moby"]));
        assert_eq!(value("$.store.book[?(@.title =~ /S.*/)].title"), json!(["Sword", "Sayings"]));
        assert_eq!(value("$..price"), json!([12.99, 8.95, 8.99, 19.95]));
        assert_eq!(value("$.store.book.length()"), json!(3));
        assert_eq!(value("$.nothing"), Value::Null);
        assert!(JsonPath::parse("$.a[?(@.b >)]").unwrap_err().contains("a value is missing"));
    }
}
