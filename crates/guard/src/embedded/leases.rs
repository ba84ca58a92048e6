//! The guard's three scripts on leases, understood by their text: the same meaning as on Redis, without Lua.

use bytes::{Bytes, BytesMut};

use super::commands::{expiry, integer, value};
use super::store::Store;
use crate::protocol::scripts::{ABSENT, CLAIM, EXTEND, FILL};
use crate::protocol::{number, put_array};

type Words<'a> = [&'a [u8]];

/// `EVAL script n key… arg…`
pub(super) fn eval(args: &Words<'_>, db: usize, store: &mut Store, out: &mut BytesMut) -> Result<(), String> {
    let [script, keys, rest @ ..] = args else {
        return Err("ERR wrong number of arguments for 'eval' command".into());
    };
    let keys = number(keys).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= rest.len());
    let Some(key_count) = keys else { return Err("ERR the number of keys does not fit".into()) };
    let (keys, args) = rest.split_at(key_count);
    let pairs: Vec<(&[u8], &[u8])> = keys.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    match *script {
        script if script == CLAIM.as_bytes() => claim(&pairs, args, db, store, out),
        script if script == FILL.as_bytes() => fill(&pairs, args, db, store, out),
        script if script == EXTEND.as_bytes() => extend(keys, args, db, store, out),
        _ => Err("ERR this cache runs no Lua: only the guard's own scripts on leases".into()),
    }
}

fn short() -> String {
    "ERR too few arguments for the script".into()
}

fn claim(
    pairs: &[(&[u8], &[u8])],
    args: &Words<'_>,
    db: usize,
    store: &mut Store,
    out: &mut BytesMut,
) -> Result<(), String> {
    let [token, ttl, kinds @ ..] = args else { return Err(short()) };
    if kinds.len() != pairs.len() * 2 {
        return Err(short());
    }
    let until = expiry(b"PX", ttl, store)?;
    put_array(out, pairs.len());
    for ((key, lease), kind) in pairs.iter().zip(kinds.chunks_exact(2)) {
        let (found, held) = (store.get(db, key), store.get(db, lease));
        match (found, held) {
            (Some(found), _) if kind[0] == b"new" => value(out, Some(&found)),
            (found, _) if kind[0] == b"renew" && found.as_deref() != Some(kind[1]) => integer(out, 0)?,
            (_, Some(held)) => integer(out, if held == ABSENT { 2 } else { 0 })?,
            (_, None) => {
                store.set(db, lease, token, until);
                integer(out, 1)?;
            }
        }
    }
    Ok(())
}

fn fill(
    pairs: &[(&[u8], &[u8])],
    args: &Words<'_>,
    db: usize,
    store: &mut Store,
    out: &mut BytesMut,
) -> Result<(), String> {
    if args.len() != pairs.len() * 6 {
        return Err(short());
    }
    put_array(out, pairs.len());
    for ((key, lease), args) in pairs.iter().zip(args.chunks_exact(6)) {
        integer(out, fill_one(key, lease, args, db, store)?.into())?;
    }
    Ok(())
}

fn fill_one(
    key: &[u8],
    lease: &[u8],
    args: &Words<'_>,
    db: usize,
    store: &mut Store,
) -> Result<bool, String> {
    let [token, found, ttl, new, kind, old] = *args else { return Err(short()) };
    if store.get(db, lease).as_deref() != Some(token) {
        return Ok(false);
    }
    store.remove(db, lease);
    let now: Option<Bytes> = store.get(db, key);
    let taken = now.as_deref().is_none_or(|now| kind == b"renew" && now == old);
    match found {
        b"value" if taken => store.set(db, key, new, expiry(b"PX", ttl, store)?),
        b"absent" if taken => {
            store.remove(db, key);
            store.set(db, lease, ABSENT, expiry(b"PX", ttl, store)?);
        }
        _ => {}
    }
    Ok(taken)
}

fn extend(
    leases: &Words<'_>,
    args: &Words<'_>,
    db: usize,
    store: &mut Store,
    out: &mut BytesMut,
) -> Result<(), String> {
    let [ttl, tokens @ ..] = args else { return Err(short()) };
    let until = expiry(b"PX", ttl, store)?;
    for (lease, token) in leases.iter().zip(tokens) {
        if store.get(db, lease).as_deref() == Some(*token) {
            store.set_expiry(db, lease, until);
        }
    }
    integer(out, 0)
}
