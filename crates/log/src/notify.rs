//! Wakes whoever waits for new records: threads by condition variable, tasks by watch channel.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::hold;

/// A counter that can be waited for. Raising it costs one atomic add when nobody waits.
pub(crate) struct Notify {
    version: AtomicU64,
    waiters: AtomicUsize,
    gate: Mutex<()>,
    raised: Condvar,
    watch: watch::Sender<u64>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            waiters: AtomicUsize::new(0),
            gate: Mutex::new(()),
            raised: Condvar::new(),
            watch: watch::Sender::new(0),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    pub(crate) fn raise(&self) {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        if self.waiters.load(Ordering::SeqCst) > 0 {
            drop(hold(&self.gate)); // a waiter between its check and its sleep holds the gate
            self.raised.notify_all();
        }
        if self.watch.receiver_count() > 0 {
            self.watch.send_modify(|seen| *seen = version.max(*seen));
        }
    }

    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let version = self.version();
        if version > seen || timeout.is_zero() {
            return version;
        }
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let gate = hold(&self.gate);
        let _woken = self.raised.wait_timeout_while(gate, timeout, |()| self.version() <= seen);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        self.version()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        let mut receiver = self.watch.subscribe();
        let version = self.version();
        self.watch.send_modify(|seen| *seen = version.max(*seen));
        receiver.mark_unchanged();
        receiver
    }
}
