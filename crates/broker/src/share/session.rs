//! What one member of a share group fetches from request to request (KIP-932, share sessions).

use std::collections::BTreeSet;

use super::{ShareError, Shares};
use crate::group::consumer::TopicId;

/// Begins a session.
const INITIAL: i32 = 0;
/// Ends it.
const FINAL: i32 = -1;

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Epoch that the next request must carry.
    pub next_epoch: i32,
    /// The partitions fetched.
    pub partitions: BTreeSet<(TopicId, i32)>,
    /// Where the last fetch began, so that the next begins behind it.
    pub turn: usize,
}

/// What a request means for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStep {
    /// It begins it.
    Begins,
    /// It goes on.
    GoesOn,
    /// It ends it.
    Ends,
}

impl Shares {
    /// Takes one request of a member into its session.
    ///
    /// # Errors
    /// There is no such session, it is at another epoch, or there are too many.
    pub fn step_session(
        &mut self,
        group: &str,
        member: &str,
        epoch: i32,
        may_begin: bool,
    ) -> Result<SessionStep, ShareError> {
        let id = (group.to_owned(), member.to_owned());
        if epoch == INITIAL {
            if !may_begin {
                return Err(ShareError::SessionEpoch);
            }
            if !self.sessions.contains_key(&id) && self.sessions.len() >= self.config.sessions_max {
                return Err(ShareError::SessionLimit);
            }
            self.sessions.insert(id, Session { next_epoch: 1, partitions: BTreeSet::new(), turn: 0 });
            return Ok(SessionStep::Begins);
        }
        let session = self.sessions.get_mut(&id).ok_or(ShareError::SessionNotFound)?;
        if epoch == FINAL {
            self.sessions.remove(&id);
            return Ok(SessionStep::Ends);
        }
        if epoch != session.next_epoch {
            return Err(ShareError::SessionEpoch);
        }
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        Ok(SessionStep::GoesOn)
    }
}
