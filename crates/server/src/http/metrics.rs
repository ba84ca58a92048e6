//! `/metrics`: Prometheus text, one place for all names.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use herdsman_broker::{BrokerMetrics, TopicMetrics};
use herdsman_guard::{Explain, GuardStats};
use herdsman_stream::runtime::QueryStatus;

use super::Rooms;

/// Name, help and value of each metric that one kind of thing has.
type Families<T, const N: usize> = [(&'static str, &'static str, fn(&T) -> u64); N];

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| {
                format!("{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
            })
            .collect();
        let _ = match labels.as_slice() {
            [] => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }
}

/// Answers the scrape.
pub(super) async fn metrics(State(rooms): State<Rooms>) -> impl IntoResponse {
    let mut text = Text(String::new());
    queries(&rooms, &mut text);
    guards(&rooms, &mut text);
    if let Some(broker) = &rooms.broker {
        topics(&broker.metrics(), &mut text);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0)
}

fn queries(rooms: &Rooms, text: &mut Text) {
    let queries = rooms.runtime.queries();
    let families: Families<QueryStatus, 5> = [
        ("stream_query_rows_in_total", "Source rows read.", |query| query.rows_in),
        ("stream_query_rows_out_total", "Result rows written.", |query| query.rows_out),
        ("stream_query_late_events_total", "Rows dropped because their window had closed.", |query| {
            query.late_events
        }),
        ("stream_query_errors_total", "Rows on the dead-letter topic.", |query| query.errors),
        ("stream_query_lag_records", "Records between position and end of the sources.", |query| query.lag),
    ];
    for (name, help, value) in families {
        text.family(name, if name.ends_with("_total") { "counter" } else { "gauge" }, help);
        for query in &queries {
            text.sample(name, &[("query", &query.id)], value(query));
        }
    }
}

fn guards(rooms: &Rooms, text: &mut Text) {
    let stats: Vec<_> = rooms.guards.iter().map(|(name, guard)| (name, guard.stats())).collect();
    let families: Families<GuardStats, 11> = [
        ("guard_lookups_total", "Look-ups asked for.", |stats| stats.lookups),
        ("guard_round_trips_total", "Requests sent to the cache.", |stats| stats.round_trips),
        ("guard_misses_total", "Keys the cache did not have.", |stats| stats.misses),
        ("guard_loads_total", "Keys asked of the system of record.", |stats| stats.loads),
        ("guard_shared_total", "Misses that another process's load answered.", |stats| stats.shared),
        ("guard_claims_total", "Leases asked for, repeated claims included.", |stats| stats.claims),
        ("guard_renewals_total", "Values loaded ahead of their expiry.", |stats| stats.renewals),
        ("guard_fills_refused_total", "Values not written because their lease was gone.", |stats| {
            stats.fills_refused
        }),
        ("guard_changes_total", "Changes by other clients that the cache told of.", |stats| stats.changes),
        ("guard_sheds_total", "Look-ups refused or shed.", |stats| stats.sheds),
        ("guard_errors_total", "Cache requests and loads that failed.", |stats| stats.errors),
    ];
    for (name, help, value) in families {
        text.family(name, "counter", help);
        for (cache, stats) in &stats {
            text.sample(name, &[("cache", cache)], value(stats));
        }
    }
    let explained: Vec<_> = rooms.guards.iter().map(|(name, guard)| (name, guard.explain())).collect();
    let gauges: Families<Explain, 6> = [
        ("guard_batch_keys", "Batch size that the tuner has chosen.", |guard| guard.batch_size.into()),
        ("guard_linger_microseconds", "Linger that the tuner has chosen.", |guard| guard.linger_us.into()),
        ("guard_connections", "Connections that the tuner has chosen.", |guard| guard.connections.into()),
        ("guard_depth", "Batches under way per connection.", |guard| guard.depth.into()),
        ("guard_in_flight", "Batches under way.", |guard| guard.in_flight.into()),
        ("guard_tuner_changes", "How often the tuner has changed its settings.", |guard| guard.changes_total),
    ];
    for (name, help, value) in gauges {
        text.family(name, "gauge", help);
        for (cache, guard) in &explained {
            text.sample(name, &[("cache", cache)], value(guard));
        }
    }
    text.family("guard_queue_depth", "gauge", "Keys waiting in each lane.");
    for (cache, guard) in &explained {
        let queued = guard.queued;
        for (lane, keys) in [("urgent", queued.urgent), ("normal", queued.normal), ("bulk", queued.bulk)] {
            text.sample("guard_queue_depth", &[("cache", cache), ("lane", lane)], keys);
        }
    }
}

fn topics(metrics: &BrokerMetrics, text: &mut Text) {
    let families: Families<TopicMetrics, 3> = [
        ("broker_records_appended_total", "Records accepted.", |topic| topic.produced_records),
        ("broker_bytes_appended_total", "Bytes accepted.", |topic| topic.produced_bytes),
        ("broker_duplicates_dropped_total", "Records dropped by their event id.", |topic| {
            topic.duplicates_dropped
        }),
    ];
    for (name, help, value) in families {
        text.family(name, "counter", help);
        for topic in &metrics.topics {
            text.sample(name, &[("topic", &topic.topic)], value(topic));
        }
    }
}
