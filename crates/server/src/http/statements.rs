//! `POST /ksql`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use herdsman_sql::{Session, SqlError};
use serde::Deserialize;
use serde_json::Value;

use super::Rooms;
use super::error::ApiError;

/// A request of `/ksql`, `/query` or `/query-stream`.
#[derive(Debug, Deserialize)]
pub(super) struct Body {
    /// The statements.
    #[serde(alias = "sql")]
    pub(super) ksql: String,
    /// Properties of this request.
    #[serde(default, rename = "streamsProperties", alias = "properties")]
    pub(super) properties: BTreeMap<String, Value>,
    /// Variables for `${name}`.
    #[serde(default, rename = "sessionVariables")]
    pub(super) variables: BTreeMap<String, Value>,
}

impl Body {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(bytes).map_err(|error| {
            ApiError::bad_request(format!(
                "the request body is not {{\"ksql\": \"…\", \"streamsProperties\": {{}}}}: {error}"
            ))
        })
    }

    pub(super) fn session(&self) -> Session {
        let texts = |values: &BTreeMap<String, Value>| {
            values.iter().map(|(name, value)| (name.clone(), text(value))).collect::<BTreeMap<_, _>>()
        };
        Session::new(texts(&self.properties), texts(&self.variables))
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A refused statement as ksqlDB answers it.
pub(super) fn refused(error: &SqlError) -> Response {
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    (status, Json(error.to_json())).into_response()
}

/// Carries statements out, in order.
pub(super) async fn ksql(State(rooms): State<Rooms>, body: Bytes) -> Result<Response, ApiError> {
    let body = Body::parse(&body)?;
    let done = tokio::task::spawn_blocking(move || {
        let session = body.session();
        rooms.engine.execute(&body.ksql, &session)
    });
    match done.await {
        Ok(Ok(entities)) => Ok(Json(entities).into_response()),
        Ok(Err(error)) => Ok(refused(&error)),
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}
