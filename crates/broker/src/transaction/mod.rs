//! Transactions: which producer may write in the name of a transactional id, what its transaction spans, how it ends.
//!
//! [`Transaction`] is the state of one transactional id as a pure machine: (state, request, now) → next state or refusal.
//! The broker around it writes the next state to `__transaction_state` before it answers. The end of a transaction is one
//! atomic append of all markers, of the group's offsets and of the next state: there is no prepared state in between
//! that a start would have to complete, as a cluster of several brokers needs.
//!
//! Source: KIP-98, KIP-360 (epoch bumps by the client), KIP-890 (an epoch for each transaction, partitions added by
//! their first batch), KIP-1228 (markers of a higher epoch).

pub mod records;
pub mod state;
#[cfg(test)]
mod tests;

pub use crate::markers::Outcome;
pub use records::TRANSACTIONS_TOPIC;
pub use state::{Claim, End, State, Transaction, TransactionError};

/// Limits of transactions, named as Kafka names them.
#[derive(Debug, Clone)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`: an id unused for so long is forgotten.
    pub id_expiration_ms: i64,
    /// Size of `__transaction_state` at which it is written anew, bytes.
    pub log_bytes_max: u64,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self { max_timeout_ms: 900_000, id_expiration_ms: 604_800_000, log_bytes_max: 64 << 20 }
    }
}
