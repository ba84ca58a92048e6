//! One transactional id: its producer, its epoch, the partitions of its open transaction.
//!
//! ```text
//!            first partition              end, or time-out
//! Empty ───────────────────► Ongoing ─────────────────────► CompleteCommit | CompleteAbort
//!                               ▲          first partition         │
//!                               └──────────────────────────────────┘
//! ```
//! Every method returns the state that follows; nothing changes before the caller has written it.

use std::collections::BTreeSet;

use herdsman_record::TopicPartition;

use crate::markers::Outcome;

/// Where a transactional id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has a producer and no transaction yet.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// The last transaction was committed.
    CompleteCommit,
    /// The last transaction was aborted.
    CompleteAbort,
}

impl State {
    /// Name as DescribeTransactions and ListTransactions print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }
}

/// Why a transactional request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The producer id does not belong to the transactional id.
    #[error("the producer id is not the one of this transactional id: call initTransactions")]
    IdMapping,
    /// A newer producer of the same transactional id took over.
    #[error("a newer producer of this transactional id took over: close this one")]
    Fenced,
    /// The request does not fit the state of the transaction.
    #[error("the transaction is {} and does not allow this", .0.name())]
    InvalidState(State),
    /// A partition that is not part of the transaction; abort and begin anew.
    #[error("the partition is not part of the transaction: abort it and begin a new one")]
    NotAdded,
    /// `transaction.timeout.ms` is 0, negative, or above the broker's limit.
    #[error("transaction.timeout.ms is 1 to {max_ms}: transaction.max.timeout.ms is the limit")]
    Timeout {
        /// `transaction.max.timeout.ms`.
        max_ms: i32,
    },
}

/// In whose name a producer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
}

/// What the end of a transaction comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was ended before; the answer is the present producer.
    Repeated,
    /// Write the markers at this claim, then take the next state.
    Write {
        /// Producer and epoch of the markers.
        marker: Claim,
        /// The state that follows.
        next: Transaction,
    },
}

/// State of one transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its producer id.
    pub producer_id: i64,
    /// Epoch of its newest producer.
    pub producer_epoch: i16,
    /// Epoch before the last change, −1 for none: a request that repeats the change still carries it.
    pub last_epoch: i16,
    /// Producer id before the epochs of it ran out, −1 for none.
    pub previous_producer_id: i64,
    /// `transaction.timeout.ms` of its producer.
    pub timeout_ms: i32,
    /// Where it stands.
    pub state: State,
    /// Partitions of the open transaction; the offsets topic stands among them.
    pub partitions: BTreeSet<TopicPartition>,
    /// When the transaction began, ms since the Unix epoch; −1 for none.
    pub start_ms: i64,
    /// When the state last changed, ms since the Unix epoch.
    pub update_ms: i64,
}

/// The highest epoch is kept for the marker that ends the last transaction of a producer id.
const EPOCH_LAST: i16 = i16::MAX - 1;

impl Transaction {
    /// The state of an id that was not known before.
    #[must_use]
    pub fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer_id,
            producer_epoch: 0,
            last_epoch: -1,
            previous_producer_id: -1,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start_ms: -1,
            update_ms: now_ms,
        }
    }

    /// Its producer now.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim { producer_id: self.producer_id, producer_epoch: self.producer_epoch }
    }

    /// A producer begins, or (`expected` given) asks for a new epoch. An open transaction is aborted: write its markers at
    /// the claim returned, then take the next state. `fresh` gives a new producer id.
    ///
    /// # Errors
    /// [`TransactionError::Fenced`]: what is expected is no longer so.
    pub fn init(
        &self,
        expected: Option<Claim>,
        timeout_ms: i32,
        fresh: impl FnOnce() -> i64,
        now_ms: i64,
    ) -> Result<(Option<Claim>, Self), TransactionError> {
        let is_open = self.state == State::Ongoing;
        let repeated = match expected {
            None => false,
            Some(claim) if claim == self.claim() => false,
            Some(claim) if !is_open && self.is_before(claim) => true,
            Some(_) => return Err(TransactionError::Fenced),
        };
        let mut next = self.ended(Outcome::Abort, now_ms);
        next.timeout_ms = timeout_ms;
        if repeated {
            return Ok((None, Self { state: self.state, ..next }));
        }
        next.bump(fresh, expected.map_or(-1, |_| self.producer_epoch));
        if is_open {
            return Ok((Some(self.next_marker()), next));
        }
        next.state = State::Empty;
        Ok((None, next))
    }

    /// Whether the claim is the one before the last change, whose answer was lost.
    fn is_before(&self, claim: Claim) -> bool {
        let same_id = claim.producer_id == self.producer_id;
        let rotated = claim.producer_id == self.previous_producer_id;
        self.last_epoch >= 0 && claim.producer_epoch == self.last_epoch && (same_id || rotated)
    }

    /// Moves on to the next epoch, or to a new producer id when there is none left.
    fn bump(&mut self, fresh: impl FnOnce() -> i64, last_epoch: i16) {
        self.last_epoch = last_epoch;
        if self.producer_epoch >= EPOCH_LAST {
            self.previous_producer_id = std::mem::replace(&mut self.producer_id, fresh());
            self.producer_epoch = 0;
        } else {
            self.previous_producer_id = -1;
            self.producer_epoch += 1;
        }
    }

    /// The abort that takes an open transaction from a producer whose time is over.
    #[must_use]
    pub fn expire(&self, fresh: impl FnOnce() -> i64, now_ms: i64) -> (Claim, Self) {
        let mut next = self.ended(Outcome::Abort, now_ms);
        next.bump(fresh, -1);
        (self.next_marker(), next)
    }

    fn next_marker(&self) -> Claim {
        Claim { producer_epoch: self.producer_epoch.saturating_add(1), ..self.claim() }
    }

    fn ended(&self, outcome: Outcome, now_ms: i64) -> Self {
        let state = if outcome == Outcome::Commit { State::CompleteCommit } else { State::CompleteAbort };
        Self { state, partitions: BTreeSet::new(), start_ms: -1, update_ms: now_ms, ..self.clone() }
    }

    /// Whether the claim is that of the present producer.
    pub fn check(&self, claim: Claim) -> Result<(), TransactionError> {
        if claim.producer_id != self.producer_id {
            Err(TransactionError::IdMapping)
        } else if claim.producer_epoch != self.producer_epoch {
            Err(TransactionError::Fenced)
        } else {
            Ok(())
        }
    }

    /// Partitions join the transaction, the first of them opens it. `None`: they are part of it.
    pub fn add(
        &self,
        claim: Claim,
        partitions: impl IntoIterator<Item = TopicPartition>,
        now_ms: i64,
    ) -> Result<Option<Self>, TransactionError> {
        self.check(claim)?;
        let mut next = self.clone();
        if self.state != State::Ongoing {
            (next.state, next.start_ms) = (State::Ongoing, now_ms);
            next.partitions.clear();
        }
        next.partitions.extend(partitions);
        next.update_ms = now_ms;
        let changed = next.state != self.state || next.partitions.len() != self.partitions.len();
        Ok(changed.then_some(next))
    }

    /// Whether a batch of this producer may be written to the partition, which it must have added before.
    pub fn verify(&self, claim: Claim, at: &TopicPartition) -> Result<(), TransactionError> {
        self.check(claim)?;
        match self.state {
            State::Ongoing if self.partitions.contains(at) => Ok(()),
            _ => Err(TransactionError::NotAdded),
        }
    }

    /// The producer ends its transaction. With `bumps` (version 5 on) each end gives it a new epoch, and the marker has
    /// that epoch: what was sent before and arrives later is refused.
    pub fn end(
        &self,
        claim: Claim,
        outcome: Outcome,
        bumps: bool,
        fresh: impl FnOnce() -> i64,
        now_ms: i64,
    ) -> Result<End, TransactionError> {
        let same = matches!(
            (self.state, outcome),
            (State::CompleteCommit, Outcome::Commit) | (State::CompleteAbort, Outcome::Abort)
        );
        if bumps && self.state != State::Ongoing && self.is_before(claim) {
            return if same { Ok(End::Repeated) } else { Err(TransactionError::InvalidState(self.state)) };
        }
        self.check(claim)?;
        match self.state {
            State::Ongoing => {}
            // a client that does not know whether anything was written aborts to be sure
            _ if bumps && outcome == Outcome::Abort => {}
            _ if same && !bumps => return Ok(End::Repeated),
            state => return Err(TransactionError::InvalidState(state)),
        }
        let mut next = self.ended(outcome, now_ms);
        if !bumps {
            return Ok(End::Write { marker: claim, next });
        }
        next.bump(fresh, self.producer_epoch);
        Ok(End::Write { marker: self.next_marker(), next })
    }

    /// Whether its transaction has been open for longer than its time-out.
    #[must_use]
    pub fn is_overdue(&self, now_ms: i64) -> bool {
        self.state == State::Ongoing && now_ms.saturating_sub(self.start_ms) > i64::from(self.timeout_ms)
    }

    /// Whether it has no transaction and was not used for so long.
    #[must_use]
    pub fn is_unused(&self, now_ms: i64, expiration_ms: i64) -> bool {
        self.state != State::Ongoing && now_ms.saturating_sub(self.update_ms) > expiration_ms
    }
}
