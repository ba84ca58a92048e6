//! Quotas: how much a user or a client may send, fetch and keep the broker busy, measured as Kafka measures it.
//!
//! A rate is taken over eleven samples of one second, as if at least ten had been full: so ten seconds' worth may come at
//! once. Who is above waits until the rate is right again (KIP-13, KIP-55, KIP-124, KIP-219).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use herdsman_wire::kafka_protocol::messages::RequestKind;
use herdsman_wire::{FetchReply, Reply, Request};
use serde::{Deserialize, Serialize};

use super::session::Session;
use super::{Records, Security};
use crate::topic::lock;

/// What is limited, by Kafka's names: bytes a second, bytes a second, percent of one core.
pub(crate) const KEYS: [&str; 3] = ["producer_byte_rate", "consumer_byte_rate", "request_percentage"];
const PRODUCER: usize = 0;
const CONSUMER: usize = 1;
const REQUEST: usize = 2;
/// `quota.window.num`
const SAMPLES: u64 = 11;
/// `quota.window.size.seconds`
const SAMPLE_MS: u64 = 1_000;
/// Longest that a client waits for having kept the broker busy.
const REQUEST_THROTTLE_MAX_MS: u64 = 1_000;
/// Measured rates kept; past it those nobody uses are dropped.
const BUCKETS_MAX: usize = 10_000;

/// One name, or every name that has no quota of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    Default,
    Named(String),
}

/// Whom a quota limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entity {
    pub(crate) user: Option<Part>,
    pub(crate) client: Option<Part>,
}

/// Whose rate is measured together: by what, user and client id.
type BucketId = (usize, Option<String>, Option<String>);
pub(crate) type Buckets = HashMap<BucketId, Arc<Mutex<Rate>>>;

/// The quota that counts for a user and a client id, and whose rate it limits: the most exact entity goes first.
fn find(records: &Records, key: usize, user: &str, client: &str) -> Option<(f64, BucketId)> {
    let named = |name: &str| Some(Part::Named(name.to_owned()));
    let default = || Some(Part::Default);
    let order = [
        (named(user), named(client)),
        (named(user), default()),
        (named(user), None),
        (default(), named(client)),
        (default(), default()),
        (default(), None),
        (None, named(client)),
        (None, default()),
    ];
    order.into_iter().find_map(|(of_user, of_client)| {
        let entity = Entity { user: of_user, client: of_client };
        let quota = records.quotas.get(&entity)?.get(*KEYS.get(key)?)?;
        let owner = (key, entity.user.map(|_| user.to_owned()), entity.client.map(|_| client.to_owned()));
        Some((*quota, owner))
    })
}

/// A rate over the last samples.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// Begin (steady ms) and sum of each.
    samples: VecDeque<(u64, f64)>,
}

impl Rate {
    /// Adds `amount` (what is taken back is negative); how long to wait until the rate is `limit` a second again, ms.
    fn charge(&mut self, amount: f64, limit: f64, now_ms: u64) -> u64 {
        match self.samples.back_mut() {
            Some((begin_ms, sum)) if now_ms.saturating_sub(*begin_ms) < SAMPLE_MS => *sum += amount,
            _ => self.samples.push_back((now_ms, amount)),
        }
        while self.samples.front().is_some_and(|(begin_ms, _)| now_ms - begin_ms >= SAMPLES * SAMPLE_MS) {
            self.samples.pop_front();
        }
        let oldest_ms = self.samples.front().map_or(now_ms, |(begin_ms, _)| *begin_ms);
        let elapsed_ms = now_ms - oldest_ms;
        let full = (SAMPLES - 1).saturating_sub(elapsed_ms / SAMPLE_MS);
        let window_ms = (elapsed_ms + full * SAMPLE_MS) as f64;
        let sum: f64 = self.samples.iter().map(|(_, sum)| sum).sum();
        let rate = sum / window_ms * 1_000.0;
        if rate <= limit {
            return 0;
        }
        // a limit of almost nothing must not become a wait of for ever
        ((rate - limit) / limit.max(f64::MIN_POSITIVE) * window_ms).round().min(f64::from(i32::MAX)) as u64
    }
}

/// The quotas of one connection.
#[derive(Default)]
pub(super) struct Limits {
    client: Option<String>,
    found: [Option<(f64, Arc<Mutex<Rate>>)>; 3],
}

impl Session {
    /// Looks the quotas up once per client id and change.
    pub(super) fn find_limits(&mut self, security: &Security, client: &str) {
        if self.limits.client.as_deref() == Some(client) {
            return;
        }
        let found = [PRODUCER, CONSUMER, REQUEST].map(|key| {
            let (limit, id) = find(self.records(), key, self.user(), client)?;
            let mut buckets = lock(&security.buckets);
            if buckets.len() >= BUCKETS_MAX {
                buckets.retain(|_, rate| Arc::strong_count(rate) > 1);
            }
            Some((limit, Arc::clone(buckets.entry(id).or_default())))
        });
        self.limits = Limits { client: Some(client.to_owned()), found };
    }
}

impl Limits {
    fn charge_one(&self, key: usize, amount: f64, now_ms: u64) -> u64 {
        match self.found.get(key) {
            Some(Some((limit, rate))) => lock(rate).charge(amount, *limit, now_ms),
            _ => 0,
        }
    }

    /// Bytes of records that a request brings, if they are limited.
    pub(super) fn produced_bytes(&self, request: &Request) -> usize {
        match (&request.body, &self.found[PRODUCER]) {
            (RequestKind::Produce(produce), Some(_)) => produce
                .topic_data
                .iter()
                .flat_map(|topic| &topic.partition_data)
                .map(|partition| partition.records.as_ref().map_or(0, bytes::Bytes::len))
                .sum(),
            _ => 0,
        }
    }

    /// A fetch brings at most what the quota allows in its window, or a client could never fetch at all.
    pub(super) fn cap_fetch(&self, request: &mut Request) {
        if let (RequestKind::Fetch(fetch), Some((limit, _))) = (&mut request.body, &self.found[CONSUMER]) {
            let window_bytes = limit * (SAMPLES - 1) as f64;
            fetch.max_bytes = fetch.max_bytes.min(window_bytes.clamp(1.0, f64::from(i32::MAX)) as i32);
        }
    }

    /// How long the client is to wait for this request, ms. The answer to a fetch above the quota is emptied: it was not sent.
    pub(super) fn charge(&self, produced: usize, reply: &mut Reply, busy: Duration, now_ms: u64) -> u64 {
        let mut wait_ms = self.charge_request(busy, now_ms);
        if produced > 0 {
            wait_ms = wait_ms.max(self.charge_one(PRODUCER, produced as f64, now_ms));
        }
        if let (Reply::Fetch(fetch), Some(_)) = (&mut *reply, &self.found[CONSUMER]) {
            let sent: usize =
                fetch.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.record_bytes()).sum();
            let fetch_ms = self.charge_one(CONSUMER, sent as f64, now_ms);
            if fetch_ms > 0 {
                self.charge_one(CONSUMER, -(sent as f64), now_ms);
                *fetch = FetchReply::default();
            }
            wait_ms = wait_ms.max(fetch_ms);
        }
        wait_ms
    }

    /// The part of [`Limits::charge`] that every request pays.
    pub(super) fn charge_request(&self, busy: Duration, now_ms: u64) -> u64 {
        self.charge_one(REQUEST, busy.as_secs_f64() * 100.0, now_ms).min(REQUEST_THROTTLE_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn ten_seconds_worth_comes_at_once_and_the_rest_waits_until_the_rate_is_right() {
        let mut rate = Rate::default();
        assert_eq!(rate.charge(10_000.0, 1_000.0, 5_000), 0, "10 s of 1,000 B/s");
        assert_eq!(rate.charge(1_000.0, 1_000.0, 5_000), 1_000, "1,000 B above wait 1 s");
        // a second later the rate is right: 11,000 B in 11 s
        assert_eq!(rate.charge(0.0, 1_000.0, 6_000), 1_000, "a window counts once it is full");
        assert_eq!(rate.charge(0.0, 1_000.0, 15_999), 1, "11,000 B within 10,999 ms are still remembered");
        assert_eq!(rate.charge(10_000.0, 1_000.0, 30_000), 0, "after a pause it begins anew");
    }

    #[test]
    fn the_most_exact_entity_decides_and_names_whose_rate_it_is() {
        let part = |name: &str| match name {
            "" => None,
            "*" => Some(Part::Default),
            name => Some(Part::Named(name.to_owned())),
        };
        let mut records = Records::default();
        let order = [
            ("", "*"),
            ("", "app"),
            ("*", ""),
            ("*", "*"),
            ("*", "app"),
            ("ana", ""),
            ("ana", "*"),
            ("ana", "app"),
        ];
        assert_eq!(find(&records, 0, "ana", "app"), None);
        for (quota, (user, client)) in (1..).zip(order) {
            let entity = Entity { user: part(user), client: part(client) };
            records.quotas.insert(entity, BTreeMap::from([(KEYS[0].to_owned(), f64::from(quota))]));
            let (found, (_, of_user, of_client)) = find(&records, 0, "ana", "app").unwrap();
            assert_eq!(found, f64::from(quota), "({user}, {client})");
            assert_eq!((of_user.is_some(), of_client.is_some()), (!user.is_empty(), !client.is_empty()));
            assert_eq!(find(&records, 1, "ana", "app"), None, "another key has no quota");
        }
        assert_eq!(find(&records, 0, "bob", "other").unwrap().0, 4.0);
    }
}
