//! `POST /query`, `/query-stream` and `/close-query`: rows as they come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use herdsman_sql::{QueryHandle, QueryRow, SqlError};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Rooms;
use super::error::ApiError;
use super::statements::{Body, refused};

/// Chunks of a result that wait for a slow client.
const CHUNKS_MAX: usize = 16;
/// How long one look for new rows may take, and so how soon a closed connection is noticed.
const LOOK: Duration = Duration::from_millis(200);

/// Push queries that `/close-query` can end.
static OPEN: LazyLock<Mutex<HashMap<String, Arc<AtomicBool>>>> = LazyLock::new(Mutex::default);

/// How rows are laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// One JSON array: header, rows, final message.
    Array,
    /// Lines: a metadata object, then an array per row.
    Lines,
}

/// `/query`.
pub(super) async fn query(State(rooms): State<Rooms>, body: Bytes) -> Result<Response, ApiError> {
    start(rooms, &body, Layout::Array).await
}

/// `/query-stream`.
pub(super) async fn query_stream(State(rooms): State<Rooms>, body: Bytes) -> Result<Response, ApiError> {
    start(rooms, &body, Layout::Lines).await
}

/// `/close-query`.
pub(super) async fn close(body: Bytes) -> Result<Response, ApiError> {
    let request: Value =
        serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let id = request["queryId"].as_str().unwrap_or_default();
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(closed) = open.get(id) else {
        return Err(ApiError::bad_request(format!("No query with id {id}")));
    };
    closed.store(true, Ordering::Relaxed);
    Ok(().into_response())
}

async fn start(rooms: Rooms, body: &[u8], layout: Layout) -> Result<Response, ApiError> {
    let body = Body::parse(body)?;
    let started = tokio::task::spawn_blocking(move || {
        let session = body.session();
        rooms.engine.query(&body.ksql, &session)
    });
    let handle = match started.await {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => return Ok(refused(&error)),
        Err(error) => return Err(ApiError::internal(error.to_string())),
    };
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || deliver(handle, layout, &sender));
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    let kind = match layout {
        Layout::Array => "application/vnd.ksql.v1+json",
        Layout::Lines => "application/vnd.ksqlapi.delimited.v1",
    };
    Ok(([(header::CONTENT_TYPE, kind)], HttpBody::from_stream(stream)).into_response())
}

/// Writes the result until it ends, the client goes, or `/close-query` names it.
fn deliver(mut handle: QueryHandle, layout: Layout, out: &mpsc::Sender<Result<Bytes, std::io::Error>>) {
    let closed = Arc::new(AtomicBool::new(false));
    let id = handle.query_id().to_owned();
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Arc::clone(&closed));
    let send = |text: String| out.blocking_send(Ok(Bytes::from(text))).is_ok();
    let mut alive = send(opening(&handle, layout));
    while alive && !closed.load(Ordering::Relaxed) {
        match handle.next(LOOK) {
            Ok(Some(rows)) if rows.is_empty() => alive = !out.is_closed(),
            Ok(Some(rows)) => alive = send(lines(&rows, layout)),
            Ok(None) => {
                send(closing(&handle, layout));
                break;
            }
            Err(error) => {
                send(failure(&error, layout));
                break;
            }
        }
    }
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
}

fn opening(handle: &QueryHandle, layout: Layout) -> String {
    match layout {
        Layout::Array => format!("[{},\n", handle.header()),
        Layout::Lines => {
            let names: Vec<&str> = handle.columns().iter().map(|column| column.name.as_str()).collect();
            let types: Vec<String> = handle.columns().iter().map(|column| column.ty.to_string()).collect();
            format!(
                "{}\n",
                json!({ "queryId": handle.query_id(), "columnNames": names, "columnTypes": types })
            )
        }
    }
}

fn lines(rows: &[QueryRow], layout: Layout) -> String {
    let mut text = String::new();
    for row in rows {
        match layout {
            Layout::Array => text.push_str(&format!("{},\n", row.to_json())),
            Layout::Lines => text.push_str(&format!("{}\n", Value::Array(row.columns.clone()))),
        }
    }
    text
}

fn closing(handle: &QueryHandle, layout: Layout) -> String {
    match layout {
        Layout::Array => format!("{}]\n", json!({ "finalMessage": handle.final_message() })),
        Layout::Lines => String::new(),
    }
}

fn failure(error: &SqlError, layout: Layout) -> String {
    match layout {
        Layout::Array => format!("{}]\n", json!({ "errorMessage": error.to_json() })),
        Layout::Lines => format!("{}\n", error.to_json()),
    }
}
