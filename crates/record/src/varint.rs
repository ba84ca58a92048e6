//! Zig-zag variable-length integers of record batch v2.

/// Appends `value` zig-zag encoded, 7 bits a byte, low bits first.
#[inline]
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let low = |bits: u64| (bits & 0x7f) as u8;
    if bits < 0x80 {
        out.push(low(bits));
    } else if bits < 0x4000 {
        out.extend_from_slice(&[low(bits) | 0x80, low(bits >> 7)]);
    } else {
        out.extend_from_slice(&[low(bits) | 0x80, low(bits >> 7) | 0x80]);
        bits >>= 14;
        while bits >= 0x80 {
            out.push(low(bits) | 0x80);
            bits >>= 7;
        }
        out.push(low(bits));
    }
}

/// Reads a zig-zag varint at `*at` and moves past it; `None` if it is cut short or longer than 10 bytes.
#[inline]
pub fn get_varlong(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(i64::from(first >> 1) ^ -i64::from(first & 1));
    }
    match bytes.get(*at..*at + 8).and_then(|ahead| ahead.first_chunk()) {
        Some(ahead) => get_from_word(u64::from_le_bytes(*ahead), bytes, at),
        None => get_by_bytes(bytes, at),
    }
}

/// As [`get_varlong`], from `word`, the eight bytes at `*at`; longer ones byte by byte.
#[inline]
fn get_from_word(word: u64, bytes: &[u8], at: &mut usize) -> Option<i64> {
    let ends = !word & 0x8080_8080_8080_8080;
    if ends == 0 {
        return get_by_bytes(bytes, at);
    }
    let len = ends.trailing_zeros() / 8 + 1;
    // the bits of those bytes, seven of each, moved together in three steps
    let bits = word & (u64::MAX >> (64 - 8 * len)) & 0x7f7f_7f7f_7f7f_7f7f;
    let bits = (bits & 0x007f_007f_007f_007f) | ((bits & 0x7f00_7f00_7f00_7f00) >> 1);
    let bits = (bits & 0x0000_3fff_0000_3fff) | ((bits & 0x3fff_0000_3fff_0000) >> 2);
    let bits = (bits & 0x0000_0000_0fff_ffff) | ((bits & 0x0fff_ffff_0000_0000) >> 4);
    *at += len as usize;
    Some((bits >> 1).cast_signed() ^ -((bits & 1).cast_signed()))
}

#[cold]
fn get_by_bytes(bytes: &[u8], at: &mut usize) -> Option<i64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_come_back_wherever_they_lie_and_cut_ones_do_not() {
        let around = |bits: u32| [1_i64 << bits, (1 << bits) - 1, -(1 << bits), -(1 << bits) - 1];
        let values = (0..63).flat_map(around).chain([0, i64::MAX, i64::MIN]);
        for value in values {
            let mut encoded = vec![0xff; 3];
            put_varlong(&mut encoded, value);
            let end = encoded.len();
            assert_eq!(end - 3, varlong_len(value));
            for behind in [0, 1, 7, 8] {
                encoded.truncate(end);
                encoded.resize(end + behind, 0xff);
                let mut at = 3;
                assert_eq!(get_varlong(&encoded, &mut at), Some(value), "{value} with {behind} bytes behind");
                assert_eq!(at, end);
            }
            encoded.truncate(end - 1);
            assert_eq!(get_varlong(&encoded, &mut 3), None, "{value} cut short");
        }
        assert_eq!(get_varlong(&[0xff; 16], &mut 0), None, "no end within ten bytes");
    }
}
