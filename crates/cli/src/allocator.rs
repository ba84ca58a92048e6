//! The allocator: mimalloc, told to keep freed memory for a while.
//!
//! Batches come and go many times a second. By default mimalloc gives their pages back after a tenth of a second, and the
//! next batch waits for the kernel to zero them again: measured on the hunt, 7 % of all CPU time.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h (v2 and v3).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds before a freed page goes back (times ten for large areas; mimalloc's own value is 10).
const PURGE_DELAY_MS: std::ffi::c_long = 1_000;

/// Sets what the program wants of the allocator; `MIMALLOC_PURGE_DELAY` in the environment wins.
pub fn configure() {
    // SAFETY: the call writes one number of a table inside the allocator; it is made once, before any thread starts, and
    // an option that a later mimalloc did not know would be ignored by its bounds check.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
}
