//! HTTP: ksqlDB's REST API, the guards' explanations and Prometheus metrics.
//!
//! | path | answer |
//! |---|---|
//! | `POST /ksql` | statements → an array of entities |
//! | `POST /query` | push and pull queries → a JSON array that grows as rows come |
//! | `POST /query-stream` | the same as lines: a header object, then one array per row |
//! | `POST /close-query` | ends a push query |
//! | `GET /info`, `/healthcheck`, `/clusterStatus` | as ksqlDB |
//! | `GET /guards` | what each guard has chosen, and why |
//! | `GET /metrics` | Prometheus text |
//!
//! Requests whose `Host` or `Origin` names another site are refused, and changes need a JSON content type, so that a
//! web page elsewhere cannot talk to a listener on loopback (DNS rebinding, cross-site requests).

mod error;
mod metrics;
mod query;
mod statements;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use herdsman_broker::Broker;
use herdsman_guard::Guard;
use herdsman_sql::Engine;
use herdsman_stream::runtime::Runtime;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::error::ApiError;

/// Largest request body, bytes: a statement of 1 MiB and its properties.
const BODY_BYTES_MAX: usize = 2 << 20;

/// What the handlers reach.
#[derive(Clone)]
pub struct Rooms {
    /// SQL.
    pub engine: Arc<Engine>,
    /// Running queries.
    pub runtime: Runtime,
    /// The embedded broker, if there is one.
    pub broker: Option<Arc<Broker>>,
    /// Guards by the name of their cache.
    pub guards: BTreeMap<String, Guard>,
}

/// Serves HTTP/1.1 and h2c on `listener` until `stopping` turns true.
pub async fn serve(listener: TcpListener, rooms: Rooms, mut stopping: watch::Receiver<bool>) {
    let app = Router::new()
        .route("/", get(|| async { Redirect::temporary("/info") }))
        .route("/ksql", post(statements::ksql))
        .route("/query", post(query::query))
        .route("/query-stream", post(query::query_stream))
        .route("/close-query", post(query::close))
        .route("/info", get(info))
        .route("/healthcheck", get(health))
        .route("/clusterStatus", get(|| async { Json(json!({ "clusterStatus": {} })) }))
        .route("/guards", get(guards))
        .route("/metrics", get(metrics::metrics))
        .fallback(|| async { ApiError::not_found() })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(same_site))
        .with_state(rooms);
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stopping.changed().await;
    });
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP listener stopped");
    }
}

/// Refuses requests that another site's page may have made.
async fn same_site(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if let Some(reason) = foreign(headers) {
        return ApiError::forbidden(reason).into_response();
    }
    if request.method() == axum::http::Method::POST && !is_json(headers) {
        return ApiError::unsupported_media_type().into_response();
    }
    next.run(request).await
}

fn foreign(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !host.is_empty() && !is_local(host) {
        return Some(format!("Host {host} is not this server: call it by its address"));
    }
    let origin = text(header::ORIGIN)?;
    let site = origin.split("://").nth(1).unwrap_or(origin);
    (site != host).then(|| format!("Origin {origin} may not call this server"))
}

/// An address (whatever its digits) or localhost: names can be pointed at loopback by strangers, addresses cannot.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind == "application/json" || (kind.starts_with("application/vnd.ksql") && kind.contains("json"))
}

async fn info(State(rooms): State<Rooms>) -> Json<Value> {
    Json(json!({
        "KsqlServerInfo": {
            "version": env!("CARGO_PKG_VERSION"),
            "kafkaClusterId": "herdsman",
            "ksqlServiceId": rooms.engine.service_id(),
            "serverStatus": "RUNNING",
        }
    }))
}

async fn health(State(rooms): State<Rooms>) -> Response {
    use herdsman_stream::runtime::QueryState;
    let failed: Vec<String> = rooms
        .runtime
        .queries()
        .into_iter()
        .filter(|query| matches!(query.state, QueryState::Error(_)))
        .map(|query| query.id)
        .collect();
    let healthy = failed.is_empty();
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "isHealthy": healthy,
        "details": {
            "metastore": { "isHealthy": true },
            "kafka": { "isHealthy": true },
            "commandRunner": { "isHealthy": true },
            "queries": { "isHealthy": healthy, "failed": failed },
        },
        "serverState": "READY",
    });
    (status, Json(body)).into_response()
}

async fn guards(State(rooms): State<Rooms>) -> Json<Value> {
    let explained = rooms
        .guards
        .iter()
        .map(|(name, guard)| (name.clone(), json!({ "explain": guard.explain(), "stats": guard.stats() })));
    Json(Value::Object(explained.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_recognised() {
        let headers = |pairs: &[(header::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, value.parse().unwrap());
            }
            headers
        };
        assert!(foreign(&headers(&[(header::HOST, "127.0.0.1:8088")])).is_none());
        assert!(
            foreign(&headers(&[(header::HOST, "localhost:8088"), (header::ORIGIN, "http://localhost:8088")]))
                .is_none()
        );
        assert!(foreign(&headers(&[(header::HOST, "evil.example:8088")])).is_some());
        assert!(
            foreign(&headers(&[(header::HOST, "127.0.0.1:8088"), (header::ORIGIN, "https://evil.example")]))
                .is_some()
        );
        assert!(is_json(&headers(&[(header::CONTENT_TYPE, "application/vnd.ksql.v1+json; charset=utf-8")])));
        assert!(!is_json(&headers(&[(header::CONTENT_TYPE, "text/plain")])));
    }
}
