//! Leases on Redis: each key's lease lies beside it under a name of its own, so that other clients of the cache never see one;
//! three scripts (atomic there, since Redis 2.6) change both together. `embedded` carries out the same three without Lua.
//!
//! `KEYS` are pairs: the key, its lease. A lease holds its holder's token, or `-`: "known not to exist".

use bytes::{Bytes, BytesMut};

use super::resp::{put_array, put_bulk};
use crate::core::{Claim, Found, LeasedFill, Want};

/// What the lease of a key that does not exist holds.
pub(crate) const ABSENT: &[u8] = b"-";

/// `ARGV`: token, milliseconds, then per key `new` or `renew` and the value to renew. Answers per key: a value; or 1 won, 0 held by another,
/// 2 does not exist, 3 not a string.
pub(crate) const CLAIM: &str = "\
local out = {}
for i = 1, #KEYS, 2 do
  local kind, old = ARGV[i + 2], ARGV[i + 3]
  local value = redis.pcall('GET', KEYS[i])
  if type(value) == 'table' then out[#out + 1] = 3
  elseif kind == 'new' and value then out[#out + 1] = value
  elseif kind == 'renew' and value ~= old then out[#out + 1] = 0
  elseif redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[2], 'NX') then out[#out + 1] = 1
  else out[#out + 1] = redis.call('GET', KEYS[i + 1]) == '-' and 2 or 0
  end
end
return out";

/// `ARGV` per key: token, what was found (`value`, `absent`, `nothing`), milliseconds to live, value, `new` or `renew`, the value to
/// renew. Answers per key: 1 taken, 0 refused. What was written is read, so that a change to it is told to its writer.
pub(crate) const FILL: &str = "\
local out = {}
for i = 1, #KEYS, 2 do
  local at = (i - 1) * 3
  local found, ttl, value, kind, old = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  local taken = redis.call('GET', KEYS[i + 1]) == ARGV[at + 1]
  if taken then
    redis.call('DEL', KEYS[i + 1])
    if kind == 'new' and found == 'value' then
      taken = redis.call('SET', KEYS[i], value, 'PX', ttl, 'NX')
      redis.pcall('GET', KEYS[i])
    else
      local now = redis.pcall('GET', KEYS[i])
      taken = not now or (kind == 'renew' and now == old)
      if taken and found == 'value' then
        redis.call('SET', KEYS[i], value, 'PX', ttl)
        redis.call('GET', KEYS[i])
      elseif taken and found == 'absent' then
        redis.call('DEL', KEYS[i])
        redis.call('SET', KEYS[i + 1], '-', 'PX', ttl)
      end
    end
  end
  out[#out + 1] = taken and 1 or 0
end
return out";

/// `KEYS`: leases. `ARGV`: milliseconds, then a token per lease.
pub(crate) const EXTEND: &str = "\
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i + 1] then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
return 0";

/// Where the lease of `key` lies.
pub(crate) fn lease_name(key: &[u8]) -> Bytes {
    Bytes::from([b"herdsman:lease:", key].concat())
}

fn put_eval(out: &mut BytesMut, script: &str, key_count: usize, argument_count: usize) {
    put_array(out, 3 + key_count + argument_count);
    put_bulk(out, b"EVAL");
    put_bulk(out, script.as_bytes());
    put_number(out, key_count as u64);
}

fn put_number(out: &mut BytesMut, n: u64) {
    put_bulk(out, n.to_string().as_bytes());
}

fn put_renews(out: &mut BytesMut, renews: Option<&Bytes>) {
    put_bulk(out, if renews.is_some() { b"renew" } else { b"new" });
    put_bulk(out, renews.map_or(&b""[..], |value| value));
}

/// How the lease of a key is called.
type Name = fn(&[u8]) -> Bytes;

pub(super) fn put_claim(out: &mut BytesMut, claim: &Claim, lease_name: Name) {
    put_eval(out, CLAIM, claim.wants.len() * 2, 2 + claim.wants.len() * 2);
    for Want { key, .. } in &claim.wants {
        put_bulk(out, key);
        put_bulk(out, &lease_name(key));
    }
    put_number(out, claim.token);
    put_number(out, claim.lease_ms);
    claim.wants.iter().for_each(|want| put_renews(out, want.renews.as_ref()));
}

pub(super) fn put_leased_fill(out: &mut BytesMut, fills: &[LeasedFill], lease_name: Name) {
    put_eval(out, FILL, fills.len() * 2, fills.len() * 6);
    for LeasedFill { key, .. } in fills {
        put_bulk(out, key);
        put_bulk(out, &lease_name(key));
    }
    for fill in fills {
        put_number(out, fill.token);
        let (word, ttl_ms, value): (&[u8], u64, &[u8]) = match &fill.found {
            Found::Value { value, ttl_ms } => (b"value", *ttl_ms, value),
            Found::Absent { ttl_ms } => (b"absent", *ttl_ms, b""),
            Found::Nothing => (b"nothing", 0, b""),
        };
        put_bulk(out, word);
        put_number(out, ttl_ms);
        put_bulk(out, value);
        put_renews(out, fill.renews.as_ref());
    }
}

pub(super) fn put_extend(out: &mut BytesMut, leases: &[(Bytes, u64)], lease_ms: u64, lease_name: Name) {
    put_eval(out, EXTEND, leases.len(), 1 + leases.len());
    leases.iter().for_each(|(key, _)| put_bulk(out, &lease_name(key)));
    put_number(out, lease_ms);
    leases.iter().for_each(|(_, token)| put_number(out, *token));
}
