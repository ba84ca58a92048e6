//! Retry verdicts of HTTP: what may succeed later, and what is the record's fault.

use super::REPLY_BYTES_MAX;
use crate::connectors::{SendError, Verdict};

/// An agent that follows no redirect, takes every status as an answer, and stops in time.
pub(crate) fn agent(connect: std::time::Duration, response: std::time::Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_connect(Some(connect))
        .timeout_global(Some(response))
        .build()
        .new_agent()
}

/// Status and body of a reply.
pub(crate) struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// Sends `body` and reads the bounded reply. A failure to talk at all is for a retry.
pub(crate) fn request(
    agent: &ureq::Agent,
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Reply, SendError> {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(name.as_str(), value.as_str());
    }
    let place = url.split('?').next().unwrap_or(url);
    let request =
        request.body(body).map_err(|error| SendError::poison(Some(0), format!("{place}: {error}")))?;
    let mut response = agent.run(request).map_err(|error| SendError::retry(format!("{place}: {error}")))?;
    let content_type = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = response
        .body_mut()
        .with_config()
        .limit(REPLY_BYTES_MAX)
        .read_to_vec()
        .map_err(|error| SendError::retry(format!("{place}: {error}")))?;
    Ok(Reply { status: response.status().as_u16(), content_type, body })
}

/// What a status outside 2xx means.
pub(crate) fn verdict(status: u16) -> Verdict {
    match status {
        // 401, 403, 404, 407: the address or the login is wrong, not the record: someone may mend it
        408 | 425 | 429 | 401 | 403 | 404 | 407 | 500..=599 => Verdict::Retry,
        _ => Verdict::Poison(None),
    }
}

/// The error for a status outside 2xx, with the first words of the reply.
pub(crate) fn refused(url: &str, reply: &Reply) -> SendError {
    let said: String = String::from_utf8_lossy(&reply.body).chars().take(200).collect();
    let place = url.split('?').next().unwrap_or(url);
    let message = crate::error::one_line(&format!("{place} answered {}: {said}", reply.status));
    SendError { delivered: 0, verdict: verdict(reply.status), message }
}
