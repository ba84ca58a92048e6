//! What each command means.

use std::sync::atomic::Ordering::Relaxed;

use bytes::{BufMut, BytesMut};

use super::store::{DATABASES, Store};
use crate::protocol::{number, put_array, put_bulk};

const NEVER: i64 = i64::MAX;

/// What one connection has chosen.
#[derive(Debug, Default)]
pub(crate) struct Session {
    db: usize,
    /// Close after the replies are out.
    pub(crate) quit: bool,
}

type Words<'a> = [&'a [u8]];
type Outcome = Result<(), String>;

fn ok(out: &mut BytesMut) -> Outcome {
    out.extend_from_slice(b"+OK\r\n");
    Ok(())
}

pub(super) fn integer(out: &mut BytesMut, n: i64) -> Outcome {
    out.extend_from_slice(format!(":{n}\r\n").as_bytes());
    Ok(())
}

pub(super) fn value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(value) => put_bulk(out, value),
        None => out.extend_from_slice(b"$-1\r\n"),
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Runs one request and appends its reply.
pub(crate) fn run(words: &Words<'_>, session: &mut Session, store: &mut Store, out: &mut BytesMut) {
    let Some((name, args)) = words.split_first() else { return };
    store.counts.commands.fetch_add(1, Relaxed);
    let mut upper = [0_u8; 16];
    let name_len = name.len().min(upper.len());
    upper[..name_len].copy_from_slice(&name[..name_len]);
    upper[..name_len].make_ascii_uppercase();
    let outcome = keyed(&upper[..name_len], args, session.db, store, out)
        .or_else(|| server(&upper[..name_len], args, session, store, out))
        .unwrap_or_else(|| Err(format!("ERR unknown command '{}'", shown(name))));
    if let Err(error) = outcome {
        out.put_u8(b'-');
        out.extend_from_slice(error.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// A stranger's bytes in an error line: short, printable.
fn shown(bytes: &[u8]) -> String {
    bytes.iter().take(64).map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}

fn arity(name: &[u8]) -> Outcome {
    Err(format!("ERR wrong number of arguments for '{}' command", shown(name).to_lowercase()))
}

const SYNTAX: &str = "ERR syntax error";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";

fn keyed(name: &[u8], args: &Words<'_>, db: usize, store: &mut Store, out: &mut BytesMut) -> Option<Outcome> {
    Some(match (name, args) {
        (b"GET", [key]) => {
            value(out, store.get(db, key).as_deref());
            Ok(())
        }
        (b"MGET", [_, ..]) => {
            put_array(out, args.len());
            args.iter().for_each(|key| value(out, store.get(db, key).as_deref()));
            Ok(())
        }
        (b"SET", [key, new, options @ ..]) => set(key, new, options, db, store, out),
        (b"SETNX", [key, new]) => {
            let absent = !store.contains(db, key);
            if absent {
                store.set(db, key, new, NEVER);
            }
            integer(out, absent.into())
        }
        (b"SETEX" | b"PSETEX", [key, ttl, new]) => {
            match expiry(if name == b"SETEX" { b"EX" } else { b"PX" }, ttl, store) {
                Ok(at) => {
                    store.set(db, key, new, at);
                    ok(out)
                }
                Err(error) => Err(error),
            }
        }
        (b"MSET", [_, _, ..]) if args.len().is_multiple_of(2) => {
            args.chunks_exact(2).for_each(|pair| store.set(db, pair[0], pair[1], NEVER));
            ok(out)
        }
        (b"GETSET" | b"GETDEL", [key, ..]) if args.len() == if name == b"GETSET" { 2 } else { 1 } => {
            value(out, store.get(db, key).as_deref());
            match args.get(1) {
                Some(new) => store.set(db, key, new, NEVER),
                None => {
                    store.remove(db, key);
                }
            }
            Ok(())
        }
        (b"STRLEN", [key]) => integer(out, store.get(db, key).map_or(0, |found| count(found.len()))),
        (b"APPEND", [key, more]) => {
            let at = store.expiry(db, key).unwrap_or(NEVER);
            let mut whole = store.get(db, key).unwrap_or_default().to_vec();
            whole.extend_from_slice(more);
            store.set(db, key, &whole, at);
            integer(out, count(whole.len()))
        }
        (b"INCR", [key]) => add(key, 1, db, store, out),
        (b"DECR", [key]) => add(key, -1, db, store, out),
        (b"INCRBY" | b"DECRBY", [key, by]) => match number(by) {
            Some(by) => add(key, if name == b"INCRBY" { by } else { -by }, db, store, out),
            None => Err(NOT_INTEGER.into()),
        },
        (b"DEL" | b"UNLINK", [_, ..]) => {
            integer(out, count(args.iter().filter(|key| store.remove(db, key)).count()))
        }
        (b"EXISTS", [_, ..]) => {
            integer(out, count(args.iter().filter(|key| store.contains(db, key)).count()))
        }
        (b"TYPE", [key]) => {
            out.extend_from_slice(if store.contains(db, key) { b"+string\r\n" } else { b"+none\r\n" });
            Ok(())
        }
        (b"EVAL", _) => super::leases::eval(args, db, store, out),
        (b"EXPIRE" | b"PEXPIRE" | b"TTL" | b"PTTL" | b"PERSIST", [_, ..]) => {
            return times(name, args, db, store, out);
        }
        (
            b"GET" | b"MGET" | b"SET" | b"SETNX" | b"SETEX" | b"PSETEX" | b"MSET" | b"GETSET" | b"GETDEL"
            | b"STRLEN",
            _,
        )
        | (
            b"APPEND" | b"INCR" | b"DECR" | b"INCRBY" | b"DECRBY" | b"DEL" | b"UNLINK" | b"EXISTS" | b"TYPE",
            _,
        ) => arity(name),
        _ => return None,
    })
}

fn times(name: &[u8], args: &Words<'_>, db: usize, store: &mut Store, out: &mut BytesMut) -> Option<Outcome> {
    Some(match (name, args) {
        (b"EXPIRE" | b"PEXPIRE", [key, ttl]) => match number(ttl) {
            Some(ttl) => {
                let unit = if name == b"EXPIRE" { 1_000 } else { 1 };
                let at = store.now_ms().saturating_add(ttl.saturating_mul(unit));
                integer(out, store.set_expiry(db, key, at).into())
            }
            None => Err(NOT_INTEGER.into()),
        },
        (b"TTL" | b"PTTL", [key]) => integer(
            out,
            match store.expiry(db, key) {
                None => -2,
                Some(NEVER) => -1,
                Some(at) if name == b"TTL" => (at - store.now_ms() + 500) / 1_000,
                Some(at) => at - store.now_ms(),
            },
        ),
        (b"PERSIST", [key]) => {
            let had = store.expiry(db, key).is_some_and(|at| at != NEVER) && store.set_expiry(db, key, NEVER);
            integer(out, had.into())
        }
        _ => arity(name),
    })
}

pub(super) fn expiry(option: &[u8], number_text: &[u8], store: &Store) -> Result<i64, String> {
    let n = number(number_text).ok_or(NOT_INTEGER)?;
    let at = match option {
        b"EX" => n.checked_mul(1_000).and_then(|ms| ms.checked_add(store.now_ms())),
        b"PX" => n.checked_add(store.now_ms()),
        b"EXAT" => n.checked_mul(1_000),
        _ => Some(n),
    };
    at.filter(|_| n > 0).ok_or_else(|| "ERR invalid expire time in 'set' command".into())
}

fn set(
    key: &[u8],
    new: &[u8],
    options: &Words<'_>,
    db: usize,
    store: &mut Store,
    out: &mut BytesMut,
) -> Outcome {
    let (mut at, mut only_new, mut only_old, mut keep, mut get) = (NEVER, false, false, false, false);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match option.to_ascii_uppercase().as_slice() {
            b"NX" => only_new = true,
            b"XX" => only_old = true,
            b"KEEPTTL" => keep = true,
            b"GET" => get = true,
            name @ (b"EX" | b"PX" | b"EXAT" | b"PXAT") if at == NEVER => {
                at = expiry(name, rest.next().ok_or(SYNTAX)?, store)?;
            }
            _ => return Err(SYNTAX.into()),
        }
    }
    if (only_new && only_old) || (keep && at != NEVER) {
        return Err(SYNTAX.into());
    }
    let old = if get { store.get(db, key) } else { None };
    let exists = (only_new || only_old) && store.contains(db, key);
    let refused = (only_new && exists) || (only_old && !exists);
    if !refused {
        let at = if keep { store.expiry(db, key).unwrap_or(NEVER) } else { at };
        store.set(db, key, new, at);
    }
    if get || refused {
        value(out, old.as_deref());
        return Ok(());
    }
    ok(out)
}

fn add(key: &[u8], by: i64, db: usize, store: &mut Store, out: &mut BytesMut) -> Outcome {
    let at = store.expiry(db, key).unwrap_or(NEVER);
    let old = store.get(db, key).map_or(Some(0), |text| number(&text)).ok_or(NOT_INTEGER)?;
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    store.set(db, key, new.to_string().as_bytes(), at);
    integer(out, new)
}

fn server(
    name: &[u8],
    args: &Words<'_>,
    session: &mut Session,
    store: &mut Store,
    out: &mut BytesMut,
) -> Option<Outcome> {
    Some(match (name, args) {
        (b"PING", []) => {
            out.extend_from_slice(b"+PONG\r\n");
            Ok(())
        }
        (b"PING" | b"ECHO", [word]) => {
            put_bulk(out, word);
            Ok(())
        }
        (b"SELECT", [db]) => {
            match number(db).and_then(|n| usize::try_from(n).ok()).filter(|n| *n < DATABASES) {
                Some(db) => {
                    session.db = db;
                    ok(out)
                }
                None => Err("ERR DB index is out of range".into()),
            }
        }
        (b"DBSIZE", []) => integer(out, count(store.len(session.db))),
        (b"FLUSHDB", _) => {
            store.clear(session.db);
            ok(out)
        }
        (b"FLUSHALL", _) => {
            (0..DATABASES).for_each(|db| store.clear(db));
            ok(out)
        }
        (b"INFO", _) => {
            put_bulk(out, info(store).as_bytes());
            Ok(())
        }
        (b"TIME", []) => {
            let now = store.now_ms();
            put_array(out, 2);
            put_bulk(out, (now / 1_000).to_string().as_bytes());
            put_bulk(out, (now % 1_000 * 1_000).to_string().as_bytes());
            Ok(())
        }
        (b"HELLO", []) => hello(out),
        (b"HELLO", [version, ..]) if *version == b"2" => hello(out),
        (b"HELLO", _) => Err("NOPROTO this cache speaks RESP2: say HELLO 2".into()),
        (b"AUTH", _) => Err("ERR AUTH called without any password configured: this cache has none".into()),
        (b"CLIENT", [what, ..]) => match what.to_ascii_uppercase().as_slice() {
            b"ID" => integer(out, 1),
            b"GETNAME" => {
                value(out, None);
                Ok(())
            }
            b"SETNAME" | b"SETINFO" | b"REPLY" | b"NO-EVICT" | b"NO-TOUCH" => ok(out),
            other => Err(format!("ERR unknown subcommand '{}' of CLIENT", shown(other))),
        },
        (b"COMMAND", [what, ..]) if what.eq_ignore_ascii_case(b"COUNT") => integer(out, 0),
        (b"COMMAND" | b"CONFIG", _) => {
            put_array(out, 0);
            Ok(())
        }
        (b"QUIT", _) => {
            session.quit = true;
            ok(out)
        }
        _ => return None,
    })
}

fn hello(out: &mut BytesMut) -> Outcome {
    let facts = [("server", "redis"), ("version", "7.0.0"), ("mode", "standalone"), ("role", "master")];
    put_array(out, facts.len() * 2 + 4);
    for (name, fact) in facts {
        put_bulk(out, name.as_bytes());
        put_bulk(out, fact.as_bytes());
    }
    put_bulk(out, b"proto");
    integer(out, 2)?;
    put_bulk(out, b"modules");
    put_array(out, 0);
    Ok(())
}

fn info(store: &Store) -> String {
    let counts = &store.counts;
    let mut text = format!(
        "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nserver_name:herdsman\r\n\r\n\
         # Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:allkeys-lru\r\n\r\n\
         # Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\nkeyspace_hits:{}\r\n\
         keyspace_misses:{}\r\nevicted_keys:{}\r\n\r\n# Keyspace\r\n",
        store.memory(),
        store.memory_max(),
        counts.connections.load(Relaxed),
        counts.commands.load(Relaxed),
        counts.hits.load(Relaxed),
        counts.misses.load(Relaxed),
        counts.evicted.load(Relaxed),
    );
    for db in (0..DATABASES).filter(|db| store.len(*db) > 0) {
        text.push_str(&format!("db{db}:keys={},expires=0,avg_ttl=0\r\n", store.len(db)));
    }
    text
}
