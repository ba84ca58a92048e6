//! The guard's own thread: takes events from the inbox, lets `core` decide, performs what it decided.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use herdsman_host::Clock;
use tokio::sync::Notify;

use crate::connection::{Connection, open};
use crate::core::{Core, Effect, Event, LinkId};
use crate::dialer::Dialer;
use crate::discovery::discover;
use crate::loading::LoaderPool;
use crate::stats::Explain;
use crate::timer::Timer;

/// An event, or something only the thread itself understands.
#[derive(Debug)]
pub(crate) enum Message {
    Event(Event),
    Opened(LinkId, Connection),
    Stop,
}

/// Where callers, connections and loader threads leave messages. Bounded by the lanes' bounds, which callers obey.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: Mutex<Vec<Message>>,
    wake: Notify,
}

impl Inbox {
    pub(crate) fn push(&self, event: Event) {
        self.push_message(Message::Event(event));
    }

    pub(crate) fn push_message(&self, message: Message) {
        let first = {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            messages.push(message);
            messages.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    fn take(&self, into: &mut Vec<Message>) {
        std::mem::swap(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner), into);
    }
}

/// What the thread last said about itself.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) explain: Explain,
    pub(crate) settings: crate::tuner::Settings,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) dialer: Dialer,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) loaders: Option<LoaderPool>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) report: Arc<Mutex<Report>>,
    pub(crate) connections: HashMap<LinkId, Connection>,
}

/// Between two reports, nanoseconds.
const REPORT_NS: u64 = 50_000_000;

impl Driver {
    pub(crate) async fn run(mut self) {
        let timer = match Timer::new() {
            Ok(timer) => timer,
            Err(error) => {
                tracing::error!("the guard has no timer: {error}");
                self.core.close();
                return;
            }
        };
        let (mut messages, mut effects, mut reported_ns) = (Vec::new(), Vec::new(), 0);
        loop {
            self.inbox.take(&mut messages);
            let busy = !messages.is_empty();
            let now_ns = self.clock.monotonic_ns();
            for message in messages.drain(..) {
                match message {
                    Message::Event(event) => self.core.on_event(event, now_ns),
                    Message::Opened(link, connection) => {
                        let abilities = connection.abilities();
                        self.connections.insert(link, connection);
                        self.core.on_event(Event::Up { link, abilities }, now_ns);
                    }
                    Message::Stop => {
                        self.core.close();
                        return;
                    }
                }
            }
            self.core.settle(now_ns, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            if now_ns.saturating_sub(reported_ns) >= REPORT_NS {
                reported_ns = now_ns;
                self.publish();
            }
            if busy {
                // Lets connections read before the next look at the inbox; what arrived meanwhile goes together.
                tokio::task::yield_now().await;
            }
            self.wait(&timer, now_ns, reported_ns).await;
        }
    }

    async fn wait(&mut self, timer: &Timer, now_ns: u64, reported_ns: u64) {
        // A report that is out of date is renewed before a long sleep.
        let deadline = match self.core.deadline_ns() {
            Some(deadline) => deadline,
            None if reported_ns < now_ns => now_ns + REPORT_NS,
            None => return self.inbox.wake.notified().await,
        };
        let wait = Duration::from_nanos(deadline.saturating_sub(self.clock.monotonic_ns()));
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            biased;
            () = self.inbox.wake.notified() => {}
            () = timer.sleep(wait) => {}
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Open { link, place } => {
                tokio::spawn(open(self.dialer.clone(), place, link, Arc::clone(&self.inbox)));
            }
            Effect::Discover { known } => {
                let (dialer, inbox) = (self.dialer.clone(), Arc::clone(&self.inbox));
                tokio::spawn(async move {
                    let result = discover(&dialer, known).await;
                    inbox.push(Event::Discovered { result });
                });
            }
            Effect::Close { link } => drop(self.connections.remove(&link)),
            Effect::Send { link, command } => {
                if let Some(connection) = self.connections.get(&link) {
                    connection.send(&command);
                }
            }
            Effect::Load { load, keys } => match &self.loaders {
                Some(loaders) => loaders.submit(load, keys),
                None => {
                    let result = Err(crate::LoadError("there is no system of record".into()));
                    self.inbox.push(Event::Loaded { load, result });
                }
            },
        }
    }

    fn publish(&self) {
        let (p50_ms, p99_ms) = self.core.percentiles_ms();
        let report = Report { explain: self.core.explain(), settings: self.core.settings(), p50_ms, p99_ms };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}
