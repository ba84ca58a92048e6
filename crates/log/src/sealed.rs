//! Small text files with a checksum in their first line: `<magic> <crc32c>`.

use herdsman_record::batch::crc32c;

/// The file's bytes for `body`.
pub(crate) fn seal(magic: &str, body: &str) -> Vec<u8> {
    format!("{magic} {:08x}\n{body}", crc32c(body.as_bytes())).into_bytes()
}

/// The body, if `bytes` begin with `magic` and the checksum is right; else what is wrong.
pub(crate) fn open<'a>(magic: &str, bytes: &'a [u8]) -> Result<&'a str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let (first, body) = text.split_once('\n').ok_or("its first line is cut short")?;
    let stored =
        first.strip_prefix(magic).ok_or_else(|| format!("it begins {first:?}, expected {magic:?}"))?;
    if u32::from_str_radix(stored.trim(), 16) == Ok(crc32c(body.as_bytes())) {
        return Ok(body);
    }
    Err("its checksum is wrong".to_owned())
}
