//! What the guard tells about itself: its present choice, how it got there, and what a person would have had to set.

use std::collections::VecDeque;

use super::{Core, ms};
use crate::config::{Lane, Objective};
use crate::lanes;
use crate::stats::{ByHand, Change, Explain, LaneDepths};
use crate::tuner::Settings;

/// Changes told of, the latest ones.
const CHANGES_MAX: usize = 16;

/// The tuner's settings over time.
#[derive(Debug)]
pub(super) struct History {
    since_ns: u64,
    count: u64,
    lowest: Settings,
    highest: Settings,
    changes: VecDeque<(u64, Settings, Settings, String)>,
}

impl History {
    pub(super) fn new(settings: Settings) -> Self {
        Self { since_ns: 0, count: 0, lowest: settings, highest: settings, changes: VecDeque::new() }
    }

    /// Notes a step of the tuner that changed something.
    pub(super) fn note(&mut self, from: Settings, to: Settings, reason: &str, now_ns: u64) {
        if self.since_ns == 0 {
            self.since_ns = now_ns;
        }
        if from == to {
            return;
        }
        self.count += 1;
        let each = |pick: fn(u32, u32) -> u32, a: Settings, b: Settings| Settings {
            batch_size: pick(a.batch_size, b.batch_size),
            linger_us: pick(a.linger_us, b.linger_us),
            connections: pick(a.connections, b.connections),
            depth: pick(a.depth, b.depth),
        };
        self.lowest = each(u32::min, self.lowest, to);
        self.highest = each(u32::max, self.highest, to);
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back((now_ns, from, to, reason.to_owned()));
    }

    fn changes(&self, now_ns: u64) -> Vec<Change> {
        let told = |(at_ns, from, to, reason): &(u64, Settings, Settings, String)| Change {
            seconds_ago: ms(now_ns.saturating_sub(*at_ns)) / 1e3,
            from: *from,
            to: *to,
            reason: reason.clone(),
        };
        self.changes.iter().rev().map(told).collect()
    }
}

impl Core {
    pub(crate) fn explain(&self) -> Explain {
        let settings = self.tuner.settings();
        let mut recent = self.recent[0].clone();
        recent.merge(&self.recent[1]);
        Explain {
            cache: self.config.cache.to_string(),
            objective: match self.config.objective {
                Objective::AsLowAsPossible => "p99 as low as possible, then the fewest requests".into(),
                Objective::P99(limit) => format!("p99 within {limit:?} with the fewest requests"),
            },
            batch_size: settings.batch_size,
            linger_us: settings.linger_us,
            connections: settings.connections,
            connections_ready: self.nodes.iter().map(|node| node.links.ready()).sum(),
            depth: settings.depth,
            in_flight: self.nodes.iter().map(|node| node.links.in_flight()).sum(),
            window_keys: self.nodes.iter().filter_map(|node| node.window.keys()).min(),
            queued: LaneDepths {
                urgent: self.waiting_in(Lane::Urgent),
                normal: self.waiting_in(Lane::Normal),
                bulk: self.waiting_in(Lane::Bulk),
            },
            p50_ms: ms(recent.quantile_ns(0.5)),
            p99_ms: ms(recent.quantile_ns(0.99)),
            keys_per_s: self.tuner.rate() * self.nodes.used() as f64,
            rtt_us: self.tuner.rtt_ns() / 1e3,
            near: self.explain_near(),
            leases: if self.has_record { self.leases.explain(self.now_ns) } else { "off: nothing is loaded" },
            breaker: if self.nodes.any_down() { "open" } else { "closed" },
            reason: self.tuner.reason().to_owned(),
            changes_total: self.history.count,
            changes: self.history.changes(self.now_ns),
            by_hand: self.by_hand(),
        }
    }

    fn waiting_in(&self, lane: Lane) -> usize {
        self.nodes.iter().map(|node| node.lanes.depth(lane)).sum()
    }

    /// Whether every connection that reads tells of changes.
    fn is_tracking(&self) -> bool {
        let mut used = self.nodes.iter().filter(|node| node.used && node.place.is_some()).peekable();
        used.peek().is_some() && used.all(|node| node.links.is_tracking())
    }

    fn explain_near(&self) -> String {
        match self.config.near_capacity {
            0 => "off".into(),
            _ if self.is_tracking() => "the cache tells of changes".into(),
            _ => format!("asks again after {:?}: the cache does not tell of changes", self.config.near_ttl),
        }
    }

    /// What the tuner and the lanes stand for, in the words of other clients.
    fn by_hand(&self) -> Vec<ByHand> {
        let (now, low, high) = (self.tuner.settings(), self.history.lowest, self.history.highest);
        let tuned = |setting, unit, pick: fn(Settings) -> u32| {
            let (lowest, highest) = (pick(low).to_string(), pick(high).to_string());
            ByHand { setting, unit, now: pick(now).to_string(), lowest, highest }
        };
        let constant = |setting, unit, value: String| ByHand {
            setting,
            unit,
            now: value.clone(),
            lowest: value.clone(),
            highest: value,
        };
        vec![
            tuned("batch size", "keys per request", |s| s.batch_size),
            tuned("linger", "us", |s| s.linger_us),
            tuned("pool size", "connections", |s| s.connections),
            tuned("pipeline depth", "requests per connection", |s| s.depth),
            constant(
                "priority: share of a full batch kept for normal",
                "of a batch",
                format!("1/{}", lanes::NORMAL_SHARE),
            ),
            constant(
                "priority: share of a full batch kept for bulk",
                "of a batch",
                format!("1/{}", lanes::BULK_SHARE),
            ),
            constant("queue age at which bulk is shed", "ms", self.config.bulk_age.as_millis().to_string()),
            constant("TCP_NODELAY", "", "on".into()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_keeps_the_latest_changes_and_the_range_of_all() {
        let settings = |batch_size| Settings { batch_size, linger_us: 10, connections: 2, depth: 4 };
        let mut history = History::new(settings(4));
        history.note(settings(4), settings(4), "nothing", 1);
        for n in 0..40_u32 {
            history.note(settings(4 + n), settings(5 + n), "more", u64::from(n) * 1_000_000_000);
        }
        history.note(settings(44), settings(2), "less", 40_000_000_000);
        let told = history.changes(41_000_000_000);
        assert_eq!((history.count, told.len()), (41, CHANGES_MAX));
        assert_eq!((told[0].reason.as_str(), told[0].from, told[0].to), ("less", settings(44), settings(2)));
        assert!((told[0].seconds_ago - 1.0).abs() < 1e-9 && told[1].seconds_ago > told[0].seconds_ago);
        assert_eq!((history.lowest.batch_size, history.highest.batch_size), (2, 44));
    }
}
