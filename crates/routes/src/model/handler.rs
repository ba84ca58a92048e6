//! What happens to an exchange that fails: redelivery, `onException`, dead letters.

use crate::error::RouteError;
use crate::exchange::FailureKind;
use crate::language::Expression;
use crate::model::{Step, Target};
use crate::yaml::{Fields, Node};

/// When and how often a delivery is tried again.
#[derive(Debug, Clone)]
pub(crate) struct Redelivery {
    /// Tries after the first; `None` is for ever.
    pub retries_max: Option<u32>,
    pub delay_ms: u64,
    pub multiplier: f64,
    pub delay_ms_max: u64,
}

/// The route's last resort.
#[derive(Debug, Clone)]
pub(crate) enum ErrorHandler {
    /// None named: deliveries are retried for ever with backoff, what is poison goes to the topic
    /// `<route id>.dead-letter`.
    Default(Redelivery),
    /// `deadLetterChannel`.
    DeadLetter { target: Target, redelivery: Redelivery, original: bool },
    /// `noErrorHandler`: the route halts, uncommitted.
    Halt,
}

/// An `onException` clause.
#[derive(Debug)]
pub(crate) struct OnException {
    pub classes: Vec<String>,
    pub when: Option<Expression>,
    pub redelivery: Option<Redelivery>,
    pub handled: bool,
    pub continued: bool,
    pub steps: Vec<Step>,
}

impl ErrorHandler {
    /// The redelivery of routes without a handler of their own.
    pub fn unnamed() -> Self {
        Self::Default(Redelivery { retries_max: None, delay_ms: 100, multiplier: 2.0, delay_ms_max: 10_000 })
    }

    pub fn redelivery(&self) -> Option<&Redelivery> {
        match self {
            Self::Default(redelivery) | Self::DeadLetter { redelivery, .. } => Some(redelivery),
            Self::Halt => None,
        }
    }
}

const POLICY: [&str; 6] = [
    "maximumRedeliveries",
    "redeliveryDelay",
    "backOffMultiplier",
    "useExponentialBackOff",
    "maximumRedeliveryDelay",
    "id",
];

impl Redelivery {
    /// Camel's defaults: no redelivery, 1 s apart, at most 60 s.
    pub const CAMEL: Self =
        Self { retries_max: Some(0), delay_ms: 1000, multiplier: 1.0, delay_ms_max: 60_000 };

    /// Parses a `redeliveryPolicy` map; what is missing comes from `default`.
    pub fn parse(node: &Node, default: &Self) -> Result<Self, RouteError> {
        let fields: Fields<'_> = node.options("redeliveryPolicy", &POLICY)?;
        let count: i64 = fields.number("maximumRedeliveries", default.retries_max.map_or(-1, i64::from))?;
        let exponential = fields.flag("useExponentialBackOff", fields.get("backOffMultiplier").is_some())?;
        let fallback = if default.multiplier > 1.0 { default.multiplier } else { 2.0 };
        let multiplier: f64 = fields.number("backOffMultiplier", fallback)?;
        if !(1.0..=100.0).contains(&multiplier) {
            let place = fields.get("backOffMultiplier").map_or(fields.place, |node| &node.place);
            return Err(RouteError::at(place, "backOffMultiplier must be from 1 to 100"));
        }
        let keep = fields.get("backOffMultiplier").is_none() && fields.get("useExponentialBackOff").is_none();
        Ok(Self {
            retries_max: u32::try_from(count).ok(),
            delay_ms: fields.millis("redeliveryDelay", default.delay_ms)?,
            multiplier: if keep {
                default.multiplier
            } else if exponential {
                multiplier
            } else {
                1.0
            },
            delay_ms_max: fields.millis("maximumRedeliveryDelay", default.delay_ms_max)?,
        })
    }

    /// Whether another try after `tries` is allowed.
    pub fn allows(&self, tries: u32) -> bool {
        self.retries_max.is_none_or(|max| tries < max)
    }

    /// Milliseconds before try `tries + 1`.
    pub fn delay(&self, tries: u32) -> u64 {
        let mut delay = self.delay_ms;
        for _ in 0..tries.min(64) {
            delay = scale(delay, self.multiplier).min(self.delay_ms_max);
        }
        delay.min(self.delay_ms_max)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "saturates"
)]
fn scale(delay_ms: u64, factor: f64) -> u64 {
    (delay_ms as f64 * factor) as u64
}

impl OnException {
    /// Whether this clause is for a failure of `kind`.
    pub fn covers(&self, kind: FailureKind) -> bool {
        self.classes.iter().any(|class| kind.covered_by(class) == Some(true))
    }
}
