//! Errors in ksqlDB's JSON: `{"@type": …, "error_code": …, "message": …}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: u32,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, number: u32, message: impl Into<String>) -> Self {
        Self { status, code: u32::from(status.as_u16()) * 100 + number, message: message.into() }
    }

    /// 40000: the request itself is wrong.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 0, message)
    }

    /// 40300: another site's page.
    pub(crate) fn forbidden(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, 0, message)
    }

    /// 40400.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, 0, "HTTP 404 Not Found")
    }

    /// 41500.
    pub(crate) fn unsupported_media_type() -> Self {
        let message = "HTTP 415 Unsupported Media Type: send Content-Type: application/vnd.ksql.v1+json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, 0, message)
    }

    /// 50000.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, 0, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "@type": "generic_error", "error_code": self.code, "message": self.message });
        (self.status, Json(body)).into_response()
    }
}
