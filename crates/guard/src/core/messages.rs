//! What goes in and out of `core`: events from outside, effects to perform, commands to the cache and its answers.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::config::Lane;
use crate::error::{GuardError, LoadError};
use crate::placement::Topology;
use crate::tuner::Settings;
use crate::url::Place;

/// Names one connection for its whole life; never used again.
pub(crate) type LinkId = u64;
/// Names one query at the system of record.
pub(crate) type LoadId = u64;

/// What a request to the cache is. Each one gets exactly one [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Get(Vec<Bytes>),
    /// Asks for the leases of keys that the cache does not have.
    Claim(Claim),
    /// Writes without leases.
    Fill(Vec<Fill>),
    /// Writes what was loaded under leases, each only if its lease is still held, and gives the leases back.
    FillLeased(Vec<LeasedFill>),
    /// Lets these leases (key, token) live for `lease_ms` from now.
    Extend {
        leases: Vec<(Bytes, u64)>,
        lease_ms: u64,
    },
    /// Deletes values and whatever leases there are on them.
    Delete(Vec<Bytes>),
    /// To a node of a cluster that is just receiving these keys' slots.
    Asking(Box<Command>),
}

/// A request for leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) wants: Vec<Want>,
    /// Names the holder; a backend that has names of its own answers with those.
    pub(crate) token: u64,
    pub(crate) lease_ms: u64,
}

/// One lease asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) key: Bytes,
    /// Ahead of its expiry: the value that is to be replaced. `None`: there is no value.
    pub(crate) renews: Option<Bytes>,
}

/// What became of one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// There is a value meanwhile.
    Value(Bytes),
    /// It is ours to load, under this token.
    Won(u64),
    /// Somebody else loads it (or has renewed it).
    Held,
    /// Somebody else has found that it does not exist.
    Absent,
    /// The cache cannot hold a lease on this key.
    Refused,
}

/// One value on its way into the cache; never overwrites what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) ttl_ms: u64,
}

/// The end of one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeasedFill {
    pub(crate) key: Bytes,
    pub(crate) token: u64,
    /// As in [`Want`].
    pub(crate) renews: Option<Bytes>,
    pub(crate) found: Found,
}

/// What a load under a lease came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Value {
        value: Bytes,
        ttl_ms: u64,
    },
    /// It does not exist; remembered for so long.
    Absent {
        ttl_ms: u64,
    },
    /// Nothing: the load failed.
    Nothing,
}

/// What a cache can do beyond reading and writing; found out by each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Abilities {
    /// Leases on missing keys.
    pub(crate) leases: bool,
    /// Telling a connection that a key it has read was changed.
    pub(crate) tracking: bool,
}

/// The cache's answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To `Get`: one value or absence per key, in the order asked.
    Values(Vec<Option<Bytes>>),
    /// To `Claim`, in the order asked.
    Claimed(Vec<Claimed>),
    /// To `FillLeased`: whether each was taken; if not, its lease was lost.
    Filled(Vec<bool>),
    /// To `Fill`, `Extend` and `Delete`.
    Done,
    /// The cache said no, in its words.
    Failed(String),
    /// Of the keys asked for, those at these positions lie elsewhere; the rest is answered.
    Elsewhere { rest: Box<Answer>, away: Vec<(usize, Elsewhere)> },
    /// To no command: these keys, read on this connection, were changed by somebody; `None`: any key may have been.
    Changed(Option<Vec<Bytes>>),
}

/// Where a node of a cluster says that a key is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// There, like all of its slot, from now on.
    Moved { slot: u16, place: Place },
    /// There, this once: its slot is moving.
    Ask { place: Place },
    /// Nowhere for now, in the node's words.
    Later(String),
}

/// One value or absence per key, in the order asked.
pub(crate) type Values = Result<Vec<Option<Bytes>>, GuardError>;

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Reply {
    Thread(SyncSender<Values>),
    Task(oneshot::Sender<Values>),
    /// To a measurement: when it was asked.
    Measured(u64, Arc<dyn Measured>),
}

/// Counts answers instead of reading them.
pub(crate) trait Measured: std::fmt::Debug + Send + Sync {
    /// What was asked at `since_ns` has its answer now: a value for every key, or not.
    fn answered(&self, since_ns: u64, found: bool);
}

impl Reply {
    pub(super) fn send(self, result: Values) {
        // Whoever stopped waiting does not need the answer.
        match self {
            Self::Thread(sender) => drop(sender.send(result)),
            Self::Task(sender) => drop(sender.send(result)),
            Self::Measured(since_ns, measured) => {
                measured.answered(since_ns, result.is_ok_and(|values| values.iter().all(Option::is_some)));
            }
        }
    }
}

/// Something happened outside.
#[derive(Debug)]
pub(crate) enum Event {
    Lookup {
        keys: Vec<Bytes>,
        counts: Vec<u32>,
        lane: Lane,
        at_ns: u64,
        reply: Reply,
    },
    Refresh {
        keys: Vec<Bytes>,
    },
    /// Keys with their present values, to be loaded ahead of their expiry.
    Renew {
        entries: Vec<(Bytes, Bytes)>,
    },
    Invalidate {
        keys: Vec<Bytes>,
    },
    /// Other settings that never move: for measurements.
    Fix(Settings),
    Up {
        link: LinkId,
        abilities: Abilities,
    },
    Refused {
        link: LinkId,
        error: String,
    },
    Down {
        link: LinkId,
        error: String,
    },
    /// What was found out about the cache's nodes.
    Discovered {
        result: Result<Topology, String>,
    },
    Answers {
        link: LinkId,
        answers: Vec<Answer>,
    },
    Loaded {
        load: LoadId,
        result: Result<Vec<Option<Bytes>>, LoadError>,
    },
}

/// Something to do outside.
#[derive(Debug)]
pub(crate) enum Effect {
    Open {
        link: LinkId,
        place: Place,
    },
    /// Find out about the cache's nodes; these are known.
    Discover {
        known: Vec<Place>,
    },
    Close {
        link: LinkId,
    },
    Send {
        link: LinkId,
        command: Command,
    },
    Load {
        load: LoadId,
        keys: Vec<Bytes>,
    },
}
