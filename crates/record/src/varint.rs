//! Zig-zag variable-length integers of record batch v2.

/// Appends `value` zig-zag encoded, 7 bits a byte, low bits first.
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while bits >= 0x80 {
        out.push(u8::try_from(bits & 0x7f).unwrap_or(0) | 0x80);
        bits >>= 7;
    }
    out.push(u8::try_from(bits).unwrap_or(0));
}

/// Reads a zig-zag varint at `*at` and moves past it; `None` if it is cut short or longer than 10 bytes.
#[inline]
pub fn get_varlong(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(i64::from(first >> 1) ^ -i64::from(first & 1));
    }
    let mut bits = 0_u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        bits |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some((bits >> 1).cast_signed() ^ -((bits & 1).cast_signed()));
        }
    }
    None
}

/// Encoded length in bytes.
#[must_use]
pub fn varlong_len(value: i64) -> usize {
    let bits = ((value << 1) ^ (value >> 63)).cast_unsigned();
    (64 - (bits | 1).leading_zeros() as usize).div_ceil(7)
}
