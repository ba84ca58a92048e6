//! One copy: histories of leases claimed, used and deleted by four clients of a real cache at once must be such as one after the other could have
//! made them (linearizable: Herlihy and Wing 1990; searched for as Wing and Gong 1993, with Lowe's memory of states, each key by itself).

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Bytes, BytesMut};
use herdsman_host::{Clock, RealClock, Seed};

use crate::core::{Answer, Claim, Claimed, Command, Found, LeasedFill, Want};
use crate::embedded::{CacheConfig, CacheServer};
use crate::protocol::{Codec, Resp};

const CLIENTS: u64 = 4;
const KEYS: usize = 4;
/// 200 in all; those of one key fit a word.
const PER_CLIENT: usize = 50;
const LONG_MS: u64 = 600_000;
/// A lease that says "does not exist".
const ABSENT: u64 = u64::MAX;

/// What was asked of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    Get,
    Claim { token: u64 },
    Fill { token: u64, found: Found },
    Delete,
}

/// One command: begun and answered at these times.
#[derive(Debug, Clone)]
struct Operation {
    key: usize,
    begin_ns: u64,
    end_ns: u64,
    ask: Ask,
    answer: Answer,
}

/// What happened, as the clients saw it.
#[derive(Debug, Clone, Default)]
pub struct History {
    operations: Vec<Operation>,
}

/// One key in the only copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct State {
    value: Option<Bytes>,
    lease: Option<u64>,
}

impl State {
    /// What the only copy answers, and how it is then.
    fn next(&self, ask: &Ask) -> (Answer, Self) {
        let mut next = self.clone();
        let answer = match ask {
            Ask::Get => Answer::Values(vec![self.value.clone()]),
            Ask::Claim { token } => Answer::Claimed(vec![match (&self.value, self.lease) {
                (Some(value), _) => Claimed::Value(value.clone()),
                (None, Some(ABSENT)) => Claimed::Absent,
                (None, Some(_)) => Claimed::Held,
                (None, None) => {
                    next.lease = Some(*token);
                    Claimed::Won(*token)
                }
            }]),
            Ask::Fill { token, found } => {
                let held = self.lease == Some(*token);
                let taken = held && self.value.is_none();
                if held {
                    next.lease = None;
                }
                match found {
                    Found::Value { value, .. } if taken => next.value = Some(value.clone()),
                    Found::Absent { .. } if taken => next.lease = Some(ABSENT),
                    _ => {}
                }
                Answer::Filled(vec![taken])
            }
            Ask::Delete => {
                next = Self::default();
                Answer::Done
            }
        };
        (answer, next)
    }
}

impl History {
    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Some order in which each operation lies between its begin and its end explains all answers.
    ///
    /// # Errors
    /// The key for which there is none.
    pub fn check(&self) -> Result<(), String> {
        for key in 0..KEYS {
            let of_key: Vec<&Operation> = self.operations.iter().filter(|o| o.key == key).collect();
            if of_key.len() > 64 {
                return Err(format!("{} operations of key {key}: 64 at most", of_key.len()));
            }
            if !explained(&of_key) {
                return Err(format!("no order of these explains them: {of_key:#?}"));
            }
        }
        Ok(())
    }
}

fn explained(operations: &[&Operation]) -> bool {
    let all = u64::MAX.checked_shr(64 - u32::try_from(operations.len()).unwrap_or(64)).unwrap_or(0);
    let mut seen: HashSet<(u64, State)> = HashSet::new();
    let mut open = vec![(0_u64, State::default())];
    while let Some((done, state)) = open.pop() {
        if done == all {
            return true;
        }
        let left = || operations.iter().enumerate().filter(|(at, _)| done >> at & 1 == 0);
        let first_end_ns = left().map(|(_, operation)| operation.end_ns).min().unwrap_or(0);
        for (at, operation) in left().filter(|(_, operation)| operation.begin_ns <= first_end_ns) {
            let (answer, next) = state.next(&operation.ask);
            let step = (done | 1 << at, next);
            if answer == operation.answer && seen.insert(step.clone()) {
                open.push(step);
            }
        }
    }
    false
}

/// Four clients of one cache for 50 commands each on four keys; `cache`: a Redis, otherwise an embedded cache is started.
///
/// # Errors
/// A history that no order explains, or a cache that does not answer.
pub fn leases(seed: u64, cache: Option<SocketAddr>) -> Result<History, String> {
    let clock = RealClock::shared();
    let mut server = None;
    let cache = match cache {
        Some(cache) => cache,
        None => {
            let started = CacheServer::start(
                ([127, 0, 0, 1], 0).into(),
                CacheConfig { clock: clock.clone(), ..CacheConfig::default() },
            );
            server.insert(started.map_err(|error| error.to_string())?).addr()
        }
    };
    let prefix = format!("history:{seed}:{:x}", clock.monotonic_ns());
    let parts: Vec<Result<Vec<Operation>, String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (prefix, clock) = (&prefix, &clock);
                scope.spawn(move || {
                    client(n, Seed::new(seed.wrapping_mul(CLIENTS) + n), cache, prefix, &**clock)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| Err("a client has failed".into())))
            .collect()
    });
    let mut history = History::default();
    for part in parts {
        history.operations.extend(part?);
    }
    history.check()?;
    Ok(history)
}

fn client(
    n: u64,
    mut random: Seed,
    cache: SocketAddr,
    prefix: &str,
    clock: &dyn Clock,
) -> Result<Vec<Operation>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(cache).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut codec = Codec::Resp(Resp::new(false));
    // The last token of each key: won, or lost since.
    let (mut tokens, mut operations, mut turn) = ([0; KEYS], Vec::new(), 0);
    for at in 0..PER_CLIENT {
        // Each key once in four commands: no key gets more than a word holds.
        if at % KEYS == 0 {
            turn = random.index(KEYS);
        }
        let key = (at + turn) % KEYS;
        let ask = match random.below(10) {
            0..=2 => Ask::Get,
            3..=5 => Ask::Claim { token: n << 32 | at as u64 | 1 << 40 },
            6..=8 => {
                let value = Bytes::from(format!("{n}:{at}"));
                let found = match random.below(4) {
                    0 => Found::Absent { ttl_ms: LONG_MS },
                    1 => Found::Nothing,
                    _ => Found::Value { value, ttl_ms: LONG_MS },
                };
                Ask::Fill { token: tokens[key], found }
            }
            _ => Ask::Delete,
        };
        let name = Bytes::from(format!("{prefix}:{key}"));
        let (mut bytes, mut answers) = (BytesMut::new(), Vec::new());
        codec.encode(&ask.command(name), &mut bytes);
        let begin_ns = clock.monotonic_ns();
        stream.write_all(&bytes).map_err(failed)?;
        bytes.clear();
        while answers.is_empty() {
            let mut chunk = [0; 4_096];
            let read = stream.read(&mut chunk).map_err(failed)?;
            if read == 0 {
                return Err("the cache closed the connection".into());
            }
            bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
            codec.decode(&mut bytes, &mut answers).map_err(|violation| violation.0.to_owned())?;
        }
        let (end_ns, answer) = (clock.monotonic_ns(), answers.remove(0));
        if let Answer::Claimed(claimed) = &answer
            && let [Claimed::Won(token)] = claimed[..]
        {
            tokens[key] = token;
        }
        operations.push(Operation { key, begin_ns, end_ns, ask, answer });
    }
    Ok(operations)
}

impl Ask {
    fn command(&self, key: Bytes) -> Command {
        match self {
            Self::Get => Command::Get(vec![key]),
            Self::Claim { token } => {
                let wants = vec![Want { key, renews: None }];
                Command::Claim(Claim { wants, token: *token, lease_ms: LONG_MS })
            }
            Self::Fill { token, found } => Command::FillLeased(vec![LeasedFill {
                key,
                token: *token,
                renews: None,
                found: found.clone(),
            }]),
            Self::Delete => Command::Delete(vec![key]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(begin_ns: u64, end_ns: u64, ask: Ask, answer: Answer) -> Operation {
        Operation { key: 0, begin_ns, end_ns, ask, answer }
    }

    fn won(begin_ns: u64, end_ns: u64, token: u64) -> Operation {
        operation(begin_ns, end_ns, Ask::Claim { token }, Answer::Claimed(vec![Claimed::Won(token)]))
    }

    fn filled(begin_ns: u64, end_ns: u64, token: u64, taken: bool) -> Operation {
        let found = Found::Value { value: Bytes::from_static(b"v"), ttl_ms: LONG_MS };
        operation(begin_ns, end_ns, Ask::Fill { token, found }, Answer::Filled(vec![taken]))
    }

    fn got(begin_ns: u64, end_ns: u64, value: Option<&'static str>) -> Operation {
        operation(
            begin_ns,
            end_ns,
            Ask::Get,
            Answer::Values(vec![value.map(|v| Bytes::from_static(v.as_bytes()))]),
        )
    }

    fn deleted(begin_ns: u64, end_ns: u64) -> Operation {
        operation(begin_ns, end_ns, Ask::Delete, Answer::Done)
    }

    #[test]
    fn what_one_copy_cannot_have_done_is_found() {
        let good = |operations: Vec<Operation>| History { operations }.check().is_ok();
        assert!(good(vec![won(0, 10, 1), filled(20, 30, 1, true), got(40, 50, Some("v"))]));
        assert!(good(vec![won(0, 10, 1), deleted(20, 50), won(30, 40, 2)]), "deleted between the two");
        assert!(!good(vec![won(0, 10, 1), won(20, 30, 2)]), "two holders");
        assert!(
            !good(vec![won(0, 10, 1), deleted(20, 30), filled(40, 50, 1, true)]),
            "written after a deletion"
        );
        assert!(!good(vec![won(0, 10, 1), filled(20, 30, 1, true), got(40, 50, None)]), "a lost value");
        assert!(good(vec![won(0, 10, 1), filled(20, 60, 1, true), got(40, 50, None)]), "not written yet");
    }

    #[test]
    fn leases_on_the_embedded_cache_are_one_copy() {
        for seed in 1..=10 {
            assert_eq!(leases(seed, None).unwrap().len(), 200, "seed {seed}");
        }
    }
}
