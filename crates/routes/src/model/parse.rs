//! The top of a route file: `- route:`, `- from:`, `- onException:`, `- errorHandler:`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::connectors::Endpoint;
use crate::error::{RouteError, hint, one_line};
use crate::language;
use crate::model::handler::{ErrorHandler, OnException, Redelivery};
use crate::model::step::{StepParser, check_classes};
use crate::model::uri::Uri;
use crate::model::{Route, Target};
use crate::yaml::{self, Entry, Node, Value};

const TOP: [&str; 4] = ["route", "from", "onException", "errorHandler"];
const REFUSED: [(&str, &str); 10] = [
    ("beans", "beans are Java code"),
    ("rest", "REST belongs to the server"),
    ("restConfiguration", "REST belongs to the server"),
    ("routeTemplate", "write the routes out"),
    ("templatedRoute", "write the routes out"),
    ("routeConfiguration", "put onException and errorHandler at the top of the file"),
    ("intercept", "use steps in the route"),
    ("interceptFrom", "use steps in the route"),
    ("interceptSendToEndpoint", "use steps in the route"),
    ("onCompletion", "use steps in the route"),
];

/// Parses one file.
pub(crate) fn parse_file(
    file: &Arc<str>,
    text: &str,
    properties: &BTreeMap<String, String>,
) -> Result<Vec<Route>, RouteError> {
    let mut tree = yaml::parse(file, text)?;
    crate::properties::resolve(&mut tree, properties)?;
    let mut tops: Vec<&Entry> = Vec::new();
    for item in tree.list("a route file")? {
        for entry in item.map("a route file's item")? {
            if let Some((name, why)) = REFUSED.iter().find(|(name, _)| *name == entry.key) {
                return Err(RouteError::at(&entry.place, format!("{name} is refused: {why}")));
            }
            if !TOP.contains(&entry.key.as_str()) {
                let reason =
                    format!("a route file has no {}{}", one_line(&entry.key), hint(&entry.key, &TOP));
                return Err(RouteError::at(&entry.place, reason));
            }
            tops.push(entry);
        }
    }
    let globals =
        |name: &'static str| tops.iter().filter(move |entry| entry.key == name).map(|entry| &entry.node);
    let stem =
        std::path::Path::new(file.as_ref()).file_stem().map_or("route".into(), |stem| stem.to_string_lossy());
    let mut routes: Vec<Route> = Vec::new();
    for entry in tops.iter().filter(|entry| entry.key == "route" || entry.key == "from") {
        let fallback = format!("{stem}-{}", routes.len() + 1);
        let route = RouteParser { steps: StepParser::default(), fallback: &fallback }.parse(
            entry,
            &globals("onException").collect::<Vec<_>>(),
            globals("errorHandler").next_back(),
        )?;
        if routes.iter().any(|other| other.id == route.id) {
            return Err(RouteError::at(&route.place, format!("route id {} is used twice", route.id)));
        }
        routes.push(route);
    }
    if routes.is_empty() {
        return Err(RouteError::at(&tree.place, "no route here: begin with `- route:` or `- from:`"));
    }
    Ok(routes)
}

struct RouteParser<'a> {
    steps: StepParser,
    fallback: &'a str,
}

impl RouteParser<'_> {
    fn parse(
        mut self,
        entry: &Entry,
        exceptions: &[&Node],
        handler: Option<&Node>,
    ) -> Result<Route, RouteError> {
        let mut id = self.fallback.to_owned();
        let mut own_exceptions: Vec<&Node> = Vec::new();
        let mut own_handler = handler;
        let from = if entry.key == "route" {
            let known = ["id", "description", "from", "errorHandler", "onException", "autoStartup"];
            let fields = entry.node.options("route", &known)?;
            if let Some(given) = fields.text("id")? {
                id = given.to_owned();
            }
            if let Some(node) = fields.get("onException") {
                match &node.value {
                    Value::List(items) => own_exceptions.extend(items),
                    _ => own_exceptions.push(node),
                }
            }
            own_handler = fields.get("errorHandler").or(own_handler);
            if !fields.flag("autoStartup", true)? {
                return Err(RouteError::at(
                    fields.place,
                    "autoStartup: false is not supported: remove the route",
                ));
            }
            fields.need("from", "route")?
        } else {
            &entry.node
        };
        let valid = |found: char| found.is_ascii_alphanumeric() || "._-".contains(found);
        if id.is_empty() || id.len() > 200 || !id.chars().all(valid) {
            id = id.chars().map(|found| if valid(found) { found } else { '-' }).take(200).collect();
        }
        let fields = from.options("from", &["uri", "parameters", "steps", "id", "description"])?;
        let uri_node = fields.need("uri", "from")?;
        let uri = Uri::parse(uri_node.text("uri")?, fields.get("parameters"), &uri_node.place)?;
        let endpoint = Endpoint::parse(&uri)?;
        if !endpoint.is_source() {
            return Err(uri.refuse(format!("{} cannot begin a route, only end one", uri.scheme)));
        }
        let mut on_exceptions = Vec::new();
        for node in own_exceptions.iter().chain(exceptions) {
            on_exceptions.push(self.on_exception(node)?);
        }
        let handler = match own_handler {
            Some(node) => self.error_handler(node)?,
            None => ErrorHandler::unnamed(),
        };
        let steps = match fields.get("steps") {
            Some(node) => self.steps.steps(node, 0)?,
            None => Vec::new(),
        };
        if steps.is_empty() {
            return Err(RouteError::at(&from.place, "from has no steps: the route would do nothing"));
        }
        Ok(Route {
            id: id.into(),
            place: entry.place.clone(),
            from: endpoint,
            from_place: uri_node.place.clone(),
            steps,
            handler,
            on_exceptions,
            slots: self.steps.slots,
        })
    }

    fn on_exception(&mut self, node: &Node) -> Result<OnException, RouteError> {
        let known =
            ["exception", "handled", "continued", "onWhen", "redeliveryPolicy", "steps", "id", "description"];
        let fields = node.options("onException", &known)?;
        let classes = check_classes(fields.need("exception", "onException")?)?;
        let constant = |name: &str| -> Result<bool, RouteError> {
            let Some(node) = fields.get(name) else { return Ok(false) };
            match &node.value {
                Value::Map(entries) => match language::find(entries)? {
                    Some(language::Expression::Constant(value)) => Ok(value.as_str() == Some("true")),
                    _ => {
                        Err(RouteError::at(&node.place, format!("{name} must be a constant: true or false")))
                    }
                },
                _ => fields.flag(name, false),
            }
        };
        let redelivery = fields.get("redeliveryPolicy");
        Ok(OnException {
            classes,
            when: fields.get("onWhen").map(|node| self.steps.predicate(node, "onWhen")).transpose()?,
            redelivery: redelivery.map(|node| Redelivery::parse(node, &Redelivery::CAMEL)).transpose()?,
            handled: constant("handled")?,
            continued: constant("continued")?,
            steps: fields.get("steps").map(|node| self.steps.steps(node, 0)).transpose()?.unwrap_or_default(),
        })
    }

    fn error_handler(&mut self, node: &Node) -> Result<ErrorHandler, RouteError> {
        let known = ["deadLetterChannel", "defaultErrorHandler", "noErrorHandler"];
        let fields = node.options("errorHandler", &known)?;
        if let Some(inner) = fields.get("deadLetterChannel") {
            let known = ["deadLetterUri", "redeliveryPolicy", "useOriginalMessage", "id"];
            let fields = inner.options("deadLetterChannel", &known)?;
            let uri_node = fields.need("deadLetterUri", "deadLetterChannel")?;
            let uri = Uri::parse(uri_node.text("deadLetterUri")?, None, &uri_node.place)?;
            let endpoint = Endpoint::parse(&uri)?;
            if !endpoint.is_sink() {
                return Err(uri.refuse(format!("{} cannot take dead letters", uri.scheme)));
            }
            let slot = self.steps.slot();
            let redelivery = match fields.get("redeliveryPolicy") {
                Some(node) => Redelivery::parse(node, &Redelivery::CAMEL)?,
                None => Redelivery::CAMEL,
            };
            return Ok(ErrorHandler::DeadLetter {
                target: Target { endpoint, slot, place: uri_node.place.clone() },
                redelivery,
                original: fields.flag("useOriginalMessage", false)?,
            });
        }
        if let Some(inner) = fields.get("defaultErrorHandler") {
            let fields = inner.options("defaultErrorHandler", &["redeliveryPolicy", "id"])?;
            let ErrorHandler::Default(unnamed) = ErrorHandler::unnamed() else {
                return Ok(ErrorHandler::unnamed());
            };
            return Ok(ErrorHandler::Default(match fields.get("redeliveryPolicy") {
                Some(node) => Redelivery::parse(node, &unnamed)?,
                None => unnamed,
            }));
        }
        if fields.get("noErrorHandler").is_some() {
            return Ok(ErrorHandler::Halt);
        }
        Err(RouteError::at(
            &node.place,
            "errorHandler needs deadLetterChannel, defaultErrorHandler or noErrorHandler",
        ))
    }
}
