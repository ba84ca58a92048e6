//! The typed model of a route file.

pub(crate) mod handler;
pub(crate) mod parse;
pub(crate) mod step;
pub(crate) mod uri;

use std::sync::Arc;

use crate::connectors::Endpoint;
use crate::error::Place;
use crate::language::Expression;

use handler::{ErrorHandler, OnException};

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    pub id: Arc<str>,
    pub place: Place,
    pub from: Endpoint,
    pub from_place: Place,
    pub steps: Vec<Step>,
    pub handler: ErrorHandler,
    pub on_exceptions: Vec<OnException>,
    /// Number of slots (state of steps) this route needs.
    pub slots: usize,
}

/// Where a step sends, with the slot of its open sinks.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub endpoint: Endpoint,
    pub slot: usize,
    pub place: Place,
}

/// One step of a route.
#[derive(Debug)]
pub(crate) enum Step {
    To(Target),
    ToDynamic { uri: Expression, slot: usize, place: Place },
    Log { message: Expression, level: Level, name: Option<String> },
    SetBody(Expression),
    SetHeader(Arc<str>, Expression),
    SetProperty(Arc<str>, Expression),
    RemoveHeaders { pattern: String, exclude: Option<String> },
    RemoveProperty(String),
    Choice { whens: Vec<(Expression, Vec<Step>)>, otherwise: Vec<Step> },
    Filter(Expression, Vec<Step>),
    Split { list: Expression, steps: Vec<Step> },
    Aggregate(Aggregate),
    Marshal,
    Unmarshal,
    Multicast { parallel: bool, branches: Vec<Vec<Step>> },
    WireTap(Target),
    Throttle { permits: Expression, period_ms: u64, slot: usize },
    Delay(Expression),
    Idempotent { key: Expression, skip: bool, steps: Vec<Step>, slot: usize },
    CircuitBreaker(CircuitBreaker),
    Try { steps: Vec<Step>, catches: Vec<Catch>, finally: Vec<Step> },
    ConvertBody(Conversion),
    Stop,
}

/// Log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// An `aggregate` step.
#[derive(Debug)]
pub(crate) struct Aggregate {
    pub correlation: Expression,
    pub strategy: Strategy,
    pub size: Option<usize>,
    pub timeout_ms: Option<u64>,
    pub predicate: Option<Expression>,
    pub complete_on_stop: bool,
    pub steps: Vec<Step>,
    pub slot: usize,
}

/// How aggregated exchanges become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The bodies as one JSON list.
    GroupedBody,
    /// The bodies as text, one after the other.
    Text,
    /// The last exchange.
    Latest,
    /// The first exchange.
    Original,
}

/// A `circuitBreaker` step.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    pub steps: Vec<Step>,
    pub fallback: Vec<Step>,
    pub window: usize,
    pub calls_min: usize,
    pub failure_percent: f64,
    pub open_ms: u64,
    pub slot: usize,
}

/// A `doCatch` clause.
#[derive(Debug)]
pub(crate) struct Catch {
    pub classes: Vec<String>,
    pub when: Option<Expression>,
    pub steps: Vec<Step>,
}

/// What `convertBodyTo` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conversion {
    Text,
    Bytes,
    Json,
}

impl Route {
    /// Every list of steps in this route, its handlers' included, with every step below it.
    pub fn visit<'a>(&'a self, seen: &mut dyn FnMut(&'a Step)) {
        visit(&self.steps, seen);
        for clause in &self.on_exceptions {
            visit(&clause.steps, seen);
        }
    }
}

/// Calls `seen` with each step, outer ones first.
pub(crate) fn visit<'a>(steps: &'a [Step], seen: &mut dyn FnMut(&'a Step)) {
    for step in steps {
        seen(step);
        match step {
            Step::Choice { whens, otherwise } => {
                whens.iter().for_each(|(_, steps)| visit(steps, seen));
                visit(otherwise, seen);
            }
            Step::Filter(_, steps) | Step::Split { steps, .. } | Step::Idempotent { steps, .. } => {
                visit(steps, seen);
            }
            Step::Aggregate(aggregate) => visit(&aggregate.steps, seen),
            Step::Multicast { branches, .. } => branches.iter().for_each(|steps| visit(steps, seen)),
            Step::CircuitBreaker(breaker) => {
                visit(&breaker.steps, seen);
                visit(&breaker.fallback, seen);
            }
            Step::Try { steps, catches, finally } => {
                visit(steps, seen);
                catches.iter().for_each(|clause| visit(&clause.steps, seen));
                visit(finally, seen);
            }
            _ => {}
        }
    }
}
