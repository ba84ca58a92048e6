//! Retry verdicts of PostgreSQL, by SQLSTATE.

use crate::connectors::{SendError, Verdict};
use crate::error::one_line;

/// What an error means for the batch, and whether the connection is still good.
pub(crate) fn verdict(shown: &str, error: &tokio_postgres::Error) -> (SendError, bool) {
    let Some(db) = error.as_db_error() else {
        let mut said = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            said = format!("{said}: {inner}");
            source = inner.source();
        }
        return (SendError::retry(format!("{shown}: {said}")), false);
    };
    let code = db.code().code();
    let message = one_line(&format!("{shown}: {} (SQLSTATE {code})", db.message()));
    match code.get(..2) {
        // data exception, constraint violation, program limit: this record, not the server
        Some("22" | "23" | "54") => {
            (SendError { delivered: 0, verdict: Verdict::Poison(None), message }, true)
        }
        // connection, shutdown, resources
        Some("08" | "57" | "53" | "58") => {
            (SendError { delivered: 0, verdict: Verdict::Retry, message }, false)
        }
        _ => (SendError { delivered: 0, verdict: Verdict::Retry, message }, true),
    }
}
