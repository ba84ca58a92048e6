//! Deletions on their way to the cache: until one is through, its key is answered by the system of record.

use std::collections::HashMap;

use bytes::Bytes;
use rapidhash::fast::RandomState;

use super::links::What;
use super::{Command, Core};

/// Deletions remembered while the cache is down; beyond that the TTL ends what is out of date.
const DELETES_MAX: usize = 1_000_000;

/// How often each key is being deleted, and the deletions that no connection carries.
#[derive(Debug, Default)]
pub(super) struct Deletes {
    deleting: HashMap<Bytes, u32, RandomState>,
    unsent: Vec<Bytes>,
}

impl Deletes {
    pub(super) fn is_quiet(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(super) fn is_deleting(&self, key: &Bytes) -> bool {
        !self.deleting.is_empty() && self.deleting.contains_key(key)
    }

    /// These are through.
    pub(super) fn done(&mut self, keys: &[Bytes]) {
        for key in keys {
            if let Some(count) = self.deleting.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.deleting.remove(key);
                }
            }
        }
    }

    /// These are to be sent (again).
    pub(super) fn again(&mut self, keys: Vec<Bytes>) {
        self.unsent.extend(keys);
        if self.unsent.len() > DELETES_MAX {
            let dropped: Vec<Bytes> = self.unsent.drain(..self.unsent.len() - DELETES_MAX).collect();
            tracing::warn!(
                dropped = dropped.len(),
                "too many deletions wait for the cache: their time to live ends them"
            );
            self.done(&dropped);
        }
    }
}

impl Core {
    pub(super) fn delete(&mut self, keys: Vec<Bytes>) {
        for key in &keys {
            *self.deletes.deleting.entry(key.clone()).or_insert(0) += 1;
        }
        self.deletes.again(keys);
        self.retry_deletes();
    }

    /// Sends the deletions that wait, each to its node, if that has a connection to carry them.
    pub(super) fn retry_deletes(&mut self) {
        if self.deletes.unsent.is_empty() {
            return;
        }
        let unsent = std::mem::take(&mut self.deletes.unsent);
        for (node, keys) in self.nodes.split(unsent, |key| key) {
            let sent =
                self.write(node, What::Delete(keys.clone()), Command::Delete(keys.clone()), self.now_ns);
            if !sent {
                self.deletes.unsent.extend(keys);
            }
        }
    }
}
