//! Regular expressions of clients: linear time, and they must match the whole name.

use regex::{Regex, RegexBuilder};

/// Largest compiled pattern, bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Compiles `pattern` so that it matches whole names. Errors: it is malformed or too large.
pub(crate) fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(PATTERN_BYTES_MAX).build()
}
