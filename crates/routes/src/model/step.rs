//! The steps of a route: YAML to model, each unknown name refused with its place.

use std::sync::Arc;

use crate::connectors::Endpoint;
use crate::error::{RouteError, hint, one_line};
use crate::exchange::FailureKind;
use crate::language::{self, Expression, LANGUAGES};
use crate::model::uri::Uri;
use crate::model::{Aggregate, Catch, CircuitBreaker, Conversion, Level, Step, Strategy, Target};
use crate::yaml::{Entry, Node, Value};

const DEPTH_MAX: usize = 64;
const KNOWN: [&str; 28] = [
    "to",
    "toD",
    "log",
    "setBody",
    "transform",
    "setHeader",
    "setHeaders",
    "setProperty",
    "removeHeader",
    "removeHeaders",
    "removeProperty",
    "choice",
    "filter",
    "split",
    "aggregate",
    "marshal",
    "unmarshal",
    "multicast",
    "wireTap",
    "throttle",
    "delay",
    "idempotentConsumer",
    "circuitBreaker",
    "doTry",
    "stop",
    "convertBodyTo",
    "pipeline",
    "step",
];
const REFUSED: [(&str, &str); 19] = [
    ("bean", "it runs Java code"),
    ("process", "it runs Java code"),
    ("script", "it runs code"),
    ("groovy", "it runs code"),
    ("policy", "it runs Java code"),
    ("transacted", "delivery is at least once here"),
    ("saga", "delivery is at least once here"),
    ("kamelet", "write its steps out"),
    ("loadBalance", "use multicast or choice"),
    ("loop", "use split"),
    ("recipientList", "use multicast or toD"),
    ("routingSlip", "use choice"),
    ("dynamicRouter", "use choice"),
    ("enrich", "use to"),
    ("pollEnrich", "use a second route"),
    ("resequence", "topics keep their order"),
    ("onException", "it stands at the top of the file or in route"),
    ("errorHandler", "it stands at the top of the file or in route"),
    ("sort", "not supported yet"),
];
/// Options that every step may have and that change nothing.
const COMMON: [&str; 2] = ["id", "description"];

/// Turns YAML steps into the model, handing out slots for what needs state.
#[derive(Default)]
pub(crate) struct StepParser {
    /// Slots handed out.
    pub slots: usize,
}

/// The classes of `exception`, each known here.
pub(crate) fn check_classes(node: &Node) -> Result<Vec<String>, RouteError> {
    let items: Vec<&Node> = match &node.value {
        Value::List(items) => items.iter().collect(),
        _ => vec![node],
    };
    let mut classes = Vec::new();
    for item in items {
        let class = item.text("exception")?;
        if FailureKind::Data.covered_by(class).is_none() {
            let reason = format!(
                "exception {} never happens here: use java.lang.Exception, java.io.IOException (cannot be reached), \
                 java.lang.IllegalArgumentException (a record is refused) or \
                 org.apache.camel.ExpressionEvaluationException",
                one_line(class)
            );
            return Err(RouteError::at(&item.place, reason));
        }
        classes.push(class.to_owned());
    }
    Ok(classes)
}

impl StepParser {
    /// A new slot.
    pub fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// A list of steps.
    pub fn steps(&mut self, node: &Node, depth: usize) -> Result<Vec<Step>, RouteError> {
        if depth > DEPTH_MAX {
            return Err(RouteError::at(&node.place, format!("steps are nested more than {DEPTH_MAX} deep")));
        }
        let mut steps = Vec::new();
        for item in node.list("steps")? {
            let entries = match &item.value {
                Value::Scalar(name) => {
                    // `- stop` without a colon
                    let entry = Entry {
                        key: name.clone(),
                        place: item.place.clone(),
                        node: Node { place: item.place.clone(), value: Value::Null },
                    };
                    self.step(&entry, depth, &mut steps)?;
                    continue;
                }
                _ => item.map("a step")?,
            };
            let [entry] = entries else {
                return Err(RouteError::at(
                    &item.place,
                    "a step is one name and its options: begin each with `- `",
                ));
            };
            self.step(entry, depth, &mut steps)?;
        }
        Ok(steps)
    }

    fn step(&mut self, entry: &Entry, depth: usize, out: &mut Vec<Step>) -> Result<(), RouteError> {
        let node = &entry.node;
        let name = entry.key.as_str();
        let step = match name {
            "to" => Step::To(self.target(node, name)?),
            "wireTap" => Step::WireTap(self.target(node, name)?),
            "toD" => self.dynamic(node)?,
            "log" => log(node)?,
            "setBody" | "transform" => Step::SetBody(self.expression(node, name, &[])?),
            "setHeader" | "setProperty" => {
                let expression = self.expression(node, name, &["name"])?;
                let field = self.name_of(node, name)?;
                if name == "setHeader" {
                    Step::SetHeader(field, expression)
                } else {
                    Step::SetProperty(field, expression)
                }
            }
            "setHeaders" => {
                let fields = node.options(name, &["headers", "id", "description"])?;
                for header in fields.need("headers", name)?.list("headers")? {
                    let expression = self.expression(header, "header", &["name"])?;
                    out.push(Step::SetHeader(self.name_of(header, "header")?, expression));
                }
                return Ok(());
            }
            "removeHeader" => {
                let pattern = self.name_of(node, name)?.to_string();
                Step::RemoveHeaders { pattern, exclude: None }
            }
            "removeHeaders" => {
                let fields = node.options(name, &["pattern", "excludePattern", "id", "description"])?;
                let pattern = fields.need("pattern", name)?.text("pattern")?.to_owned();
                Step::RemoveHeaders { pattern, exclude: fields.text("excludePattern")?.map(str::to_owned) }
            }
            "removeProperty" => Step::RemoveProperty(self.name_of(node, name)?.to_string()),
            "choice" => self.choice(node, depth)?,
            "filter" => {
                let predicate = self.predicate_with(node, name, &["steps"])?;
                Step::Filter(predicate, self.children(node, name, depth)?)
            }
            "split" => {
                let list = self.expression(node, name, &["steps", "delimiter", "streaming"])?;
                Step::Split { list, steps: self.children(node, name, depth)? }
            }
            "aggregate" => self.aggregate(node, depth)?,
            "marshal" | "unmarshal" => {
                data_format(node, name)?;
                if name == "marshal" { Step::Marshal } else { Step::Unmarshal }
            }
            "multicast" => self.multicast(node, depth)?,
            "throttle" => {
                let permits = self.expression(node, name, &["timePeriodMillis"])?;
                let fields = node.options(name, &with(&["timePeriodMillis"]))?;
                let period_ms = fields.millis("timePeriodMillis", 1000)?.max(1);
                Step::Throttle { permits, period_ms, slot: self.slot() }
            }
            "delay" => Step::Delay(self.expression(node, name, &[])?),
            "idempotentConsumer" => self.idempotent(node, depth)?,
            "circuitBreaker" => self.breaker(node, depth)?,
            "doTry" => self.do_try(node, depth)?,
            "stop" => {
                node.options(name, &COMMON)?;
                Step::Stop
            }
            "convertBodyTo" => convert(node)?,
            "pipeline" | "step" => {
                out.append(&mut self.children(node, name, depth)?);
                return Ok(());
            }
            other => return Err(unknown(entry, other)),
        };
        out.push(step);
        Ok(())
    }

    fn target(&mut self, node: &Node, name: &str) -> Result<Target, RouteError> {
        let uri = endpoint_uri(node, name)?;
        let endpoint = Endpoint::parse(&uri)?;
        if !endpoint.is_sink() {
            return Err(uri.refuse(format!("{} can only begin a route", uri.scheme)));
        }
        Ok(Target { endpoint, slot: self.slot(), place: uri.place })
    }

    /// `toD`: scheme and host are fixed by the file, so that no record can choose where its bytes go.
    fn dynamic(&mut self, node: &Node) -> Result<Step, RouteError> {
        let (text, place) = match &node.value {
            Value::Scalar(text) => (text.as_str(), &node.place),
            _ => {
                let fields = node.options("toD", &["uri", "id", "description"])?;
                let uri = fields.need("uri", "toD")?;
                (uri.text("uri")?, &uri.place)
            }
        };
        let simple = language::simple::Simple::parse(text).map_err(|reason| RouteError::at(place, reason))?;
        let prefix = simple.constant_prefix();
        let (scheme, rest) = prefix.split_once(':').unwrap_or(("", ""));
        let fixed = match scheme {
            "" => false,
            "http" | "https" | "postgresql" | "questdb" | "influxdb" => {
                rest.trim_start_matches('/').contains('/')
            }
            _ => true,
        };
        if !fixed {
            return Err(RouteError::at(place, "toD: scheme and host must stand before the first ${…}"));
        }
        if simple.constant().is_none() && matches!(scheme, "direct" | "seda") {
            return Err(RouteError::at(place, format!("toD cannot choose a {scheme} route: use choice")));
        }
        Ok(Step::ToDynamic { uri: Expression::Simple(simple), slot: self.slot(), place: place.clone() })
    }

    fn name_of(&self, node: &Node, what: &str) -> Result<Arc<str>, RouteError> {
        if let Value::Scalar(name) = &node.value {
            return Ok(Arc::from(name.as_str()));
        }
        match node.map(what)?.iter().find(|entry| entry.key == "name") {
            Some(entry) => Ok(Arc::from(entry.node.text("name")?)),
            None => Err(RouteError::at(&node.place, format!("{what} needs name"))),
        }
    }

    /// The expression of a step whose other options are `others`.
    fn expression(&self, node: &Node, what: &str, others: &[&str]) -> Result<Expression, RouteError> {
        if let Value::Scalar(text) = &node.value {
            let simple = language::simple::Simple::parse(text)
                .map_err(|reason| RouteError::at(&node.place, reason))?;
            return Ok(Expression::Simple(simple));
        }
        let found = language::find(node.map(what)?)?;
        node.options(what, &with(others))?;
        found.ok_or_else(|| {
            RouteError::at(&node.place, format!("{what} needs an expression: simple, jsonpath or constant"))
        })
    }

    fn predicate_with(&self, node: &Node, what: &str, others: &[&str]) -> Result<Expression, RouteError> {
        let expression = self.expression(node, what, others)?;
        if let Expression::Simple(simple) = &expression {
            simple.check_predicate().map_err(|reason| RouteError::at(&node.place, reason))?;
        }
        Ok(expression)
    }

    /// A predicate that stands alone.
    pub fn predicate(&self, node: &Node, what: &str) -> Result<Expression, RouteError> {
        self.predicate_with(node, what, &[])
    }

    fn children(&mut self, node: &Node, what: &str, depth: usize) -> Result<Vec<Step>, RouteError> {
        match node.map(what)?.iter().find(|entry| entry.key == "steps") {
            Some(entry) => self.steps(&entry.node, depth + 1),
            None => Err(RouteError::at(&node.place, format!("{what} needs steps"))),
        }
    }

    fn choice(&mut self, node: &Node, depth: usize) -> Result<Step, RouteError> {
        let fields = node.options("choice", &["when", "otherwise", "id", "description", "precondition"])?;
        let mut whens = Vec::new();
        for when in fields.need("when", "choice")?.list("when")? {
            let predicate = self.predicate_with(when, "when", &["steps"])?;
            whens.push((predicate, self.children(when, "when", depth)?));
        }
        let otherwise = match fields.get("otherwise") {
            Some(node) => {
                node.options("otherwise", &["steps", "id", "description"])?;
                self.children(node, "otherwise", depth)?
            }
            None => Vec::new(),
        };
        Ok(Step::Choice { whens, otherwise })
    }

    fn aggregate(&mut self, node: &Node, depth: usize) -> Result<Step, RouteError> {
        let known = [
            "correlationExpression",
            "completionSize",
            "completionTimeout",
            "completionPredicate",
            "aggregationStrategy",
            "completeAllOnStop",
            "steps",
            "id",
            "description",
        ];
        let fields = node.options("aggregate", &known)?;
        let correlation = self.expression(
            fields.need("correlationExpression", "aggregate")?,
            "correlationExpression",
            &[],
        )?;
        let size: usize = fields.number("completionSize", 0)?;
        let timeout_ms = fields.millis("completionTimeout", 0)?;
        let predicate = fields.get("completionPredicate");
        let predicate = predicate.map(|node| self.predicate(node, "completionPredicate")).transpose()?;
        if size == 0 && timeout_ms == 0 && predicate.is_none() {
            let reason = "aggregate needs completionSize, completionTimeout or completionPredicate";
            return Err(RouteError::at(&node.place, reason));
        }
        let strategy = match fields.text("aggregationStrategy")? {
            None => Strategy::GroupedBody,
            Some(class) => {
                strategy(class, fields.get("aggregationStrategy").map_or(&node.place, |node| &node.place))?
            }
        };
        Ok(Step::Aggregate(Aggregate {
            correlation,
            strategy,
            size: Some(size).filter(|size| *size > 0),
            timeout_ms: Some(timeout_ms).filter(|timeout| *timeout > 0),
            predicate,
            complete_on_stop: fields.flag("completeAllOnStop", false)?,
            steps: self.children(node, "aggregate", depth)?,
            slot: self.slot(),
        }))
    }

    fn multicast(&mut self, node: &Node, depth: usize) -> Result<Step, RouteError> {
        let fields = node.options("multicast", &["steps", "parallelProcessing", "id", "description"])?;
        let mut branches = Vec::new();
        for step in fields.need("steps", "multicast")?.list("steps")? {
            let branch = Node { place: step.place.clone(), value: Value::List(vec![step.clone()]) };
            let pipeline = match &step.value {
                Value::Map(entries) => entries.first().filter(|entry| entry.key == "pipeline"),
                _ => None,
            };
            branches.push(match pipeline {
                Some(entry) => self.children(&entry.node, "pipeline", depth)?,
                None => self.steps(&branch, depth + 1)?,
            });
        }
        Ok(Step::Multicast { parallel: fields.flag("parallelProcessing", false)?, branches })
    }

    fn idempotent(&mut self, node: &Node, depth: usize) -> Result<Step, RouteError> {
        let others = ["steps", "idempotentRepository", "skipDuplicate", "eager", "removeOnFailure"];
        let key = self.expression(node, "idempotentConsumer", &others)?;
        let fields = node.options("idempotentConsumer", &with(&others))?;
        if let Some(repository) = fields.text("idempotentRepository")?
            && !repository.to_lowercase().contains("memory")
        {
            let place = fields.get("idempotentRepository").map_or(&node.place, |node| &node.place);
            return Err(RouteError::at(place, "idempotentRepository must be memory: beans are refused"));
        }
        Ok(Step::Idempotent {
            key,
            skip: fields.flag("skipDuplicate", true)?,
            steps: self.children(node, "idempotentConsumer", depth)?,
            slot: self.slot(),
        })
    }

    fn breaker(&mut self, node: &Node, depth: usize) -> Result<Step, RouteError> {
        let known = ["steps", "onFallback", "resilience4jConfiguration", "id", "description"];
        let fields = node.options("circuitBreaker", &known)?;
        let empty = Node { place: node.place.clone(), value: Value::Null };
        let config = fields.get("resilience4jConfiguration").unwrap_or(&empty);
        let known =
            ["failureRateThreshold", "minimumNumberOfCalls", "slidingWindowSize", "waitDurationInOpenState"];
        let config = config.options("resilience4jConfiguration", &known)?;
        let fallback = match fields.get("onFallback") {
            Some(node) => {
                node.options("onFallback", &["steps", "id", "description"])?;
                self.children(node, "onFallback", depth)?
            }
            None => Vec::new(),
        };
        let window: usize = config.number("slidingWindowSize", 100)?;
        Ok(Step::CircuitBreaker(CircuitBreaker {
            steps: self.children(node, "circuitBreaker", depth)?,
            fallback,
            window: window.clamp(1, 10_000),
            calls_min: config.number("minimumNumberOfCalls", 100)?,
            failure_percent: config.number("failureRateThreshold", 50.0)?,
            open_ms: config.number("waitDurationInOpenState", 60_u64)?.saturating_mul(1000),
            slot: self.slot(),
        }))
    }

    fn do_try(&mut self, node: &Node, depth: usize) -> Result<Step, RouteError> {
        let fields = node.options("doTry", &["steps", "doCatch", "doFinally", "id", "description"])?;
        let mut catches = Vec::new();
        if let Some(list) = fields.get("doCatch") {
            for node in list.list("doCatch")? {
                let clause =
                    node.options("doCatch", &["exception", "onWhen", "steps", "id", "description"])?;
                catches.push(Catch {
                    classes: check_classes(clause.need("exception", "doCatch")?)?,
                    when: clause.get("onWhen").map(|node| self.predicate(node, "onWhen")).transpose()?,
                    steps: self.children(node, "doCatch", depth)?,
                });
            }
        }
        let finally = match fields.get("doFinally") {
            Some(node) => self.children(node, "doFinally", depth)?,
            None => Vec::new(),
        };
        Ok(Step::Try { steps: self.children(node, "doTry", depth)?, catches, finally })
    }
}

/// `others`, the languages, and the options that every step has.
fn with<'a>(others: &[&'a str]) -> Vec<&'a str> {
    let mut known = others.to_vec();
    known.extend(LANGUAGES);
    known.push("expression");
    known.extend(COMMON);
    known
}

fn unknown(entry: &Entry, name: &str) -> RouteError {
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return RouteError::at(&entry.place, format!("step {name} is refused: {why}"));
    }
    RouteError::at(&entry.place, format!("unknown step {}{}", one_line(name), hint(name, &KNOWN)))
}

/// The address of `to: URI` or `to: {uri, parameters}`.
fn endpoint_uri(node: &Node, name: &str) -> Result<Uri, RouteError> {
    if let Value::Scalar(text) = &node.value {
        return Uri::parse(text, None, &node.place);
    }
    let fields = node.options(name, &["uri", "parameters", "id", "description", "copy"])?;
    let uri = fields.need("uri", name)?;
    Uri::parse(uri.text("uri")?, fields.get("parameters"), &uri.place)
}

fn log(node: &Node) -> Result<Step, RouteError> {
    let parse = |node: &Node| -> Result<Expression, RouteError> {
        let simple = language::simple::Simple::parse(node.text("message")?);
        simple.map(Expression::Simple).map_err(|reason| RouteError::at(&node.place, reason))
    };
    if matches!(node.value, Value::Scalar(_)) {
        return Ok(Step::Log { message: parse(node)?, level: Level::Info, name: None });
    }
    let fields = node.options("log", &["message", "loggingLevel", "logName", "id", "description"])?;
    let level = match fields.text("loggingLevel")?.unwrap_or("INFO") {
        "TRACE" => Level::Trace,
        "DEBUG" => Level::Debug,
        "INFO" => Level::Info,
        "WARN" => Level::Warn,
        "ERROR" => Level::Error,
        other => {
            let reason = format!(
                "loggingLevel has no {}{}",
                one_line(other),
                hint(other, &["TRACE", "DEBUG", "INFO", "WARN", "ERROR"])
            );
            return Err(RouteError::at(&node.place, reason));
        }
    };
    let name = fields.text("logName")?.map(str::to_owned);
    Ok(Step::Log { message: parse(fields.need("message", "log")?)?, level, name })
}

fn data_format(node: &Node, name: &str) -> Result<(), RouteError> {
    let fields = node.map(name)?;
    for entry in fields {
        match entry.key.as_str() {
            "json" => {
                entry.node.options("json", &["library", "unmarshalType", "prettyPrint", "id"])?;
                return Ok(());
            }
            "id" | "description" => {}
            other => {
                let reason = format!("{name} has no data format {}: json is there", one_line(other));
                return Err(RouteError::at(&entry.place, reason));
            }
        }
    }
    Err(RouteError::at(&node.place, format!("{name} needs a data format: json: {{}}")))
}

fn convert(node: &Node) -> Result<Step, RouteError> {
    let text = match &node.value {
        Value::Scalar(text) => text.as_str(),
        _ => {
            let fields =
                node.options("convertBodyTo", &["type", "charset", "mandatory", "id", "description"])?;
            fields.need("type", "convertBodyTo")?.text("type")?
        }
    };
    let conversion = match text {
        "String" | "java.lang.String" => Conversion::Text,
        "byte[]" | "bytes" => Conversion::Bytes,
        "Map" | "java.util.Map" | "json" => Conversion::Json,
        other => {
            let reason =
                format!("convertBodyTo {} is refused: String, byte[] and Map are there", one_line(other));
            return Err(RouteError::at(&node.place, reason));
        }
    };
    Ok(Step::ConvertBody(conversion))
}

fn strategy(class: &str, place: &crate::error::Place) -> Result<Strategy, RouteError> {
    let name =
        class.trim_start_matches("#class:").rsplit('.').next().unwrap_or(class).trim_start_matches('#');
    let name = name.strip_suffix("AggregationStrategy").unwrap_or(name);
    match name {
        "GroupedBody" => Ok(Strategy::GroupedBody),
        "String" => Ok(Strategy::Text),
        "UseLatest" => Ok(Strategy::Latest),
        "UseOriginal" => Ok(Strategy::Original),
        _ => {
            let reason = format!(
                "aggregationStrategy {} is refused: GroupedBodyAggregationStrategy, StringAggregationStrategy, \
                 UseLatestAggregationStrategy and UseOriginalAggregationStrategy are there",
                one_line(class)
            );
            Err(RouteError::at(place, reason))
        }
    }
}
