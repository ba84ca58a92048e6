//! XFetch: a value in use is loaded again a little before it expires, so that nobody waits for the load.
//!
//! Each look-up within reach of the expiry draws; it triggers the load if `load × -ln(u)` reaches the expiry, u uniform in (0, 1].
//! So the chance is e^(-left/load) with `left` time to go: with n look-ups per load time the first trigger
//! comes about `load × ln(n)` early, whatever n is, and a key that nobody asks for is not loaded. Source: Vattani, Chierichetti and Lowenstein, "Optimal
//! Probabilistic Cache Stampede Prevention" (VLDB 2015), with β = 1, which the paper finds best.
//!
//! Only the process that loaded a value draws: it alone knows when the cache will forget it and what the load costs. If that process is gone,
//! the value expires and the next miss claims its lease.

/// Beyond this many load times before the expiry nobody draws: the chance is below e^-20.
const REACH: u64 = 20;

/// When look-ups of a value begin to draw: `load_ns` zero means never.
pub(crate) fn draws_from_ns(expires_ns: u64, load_ns: u64) -> u64 {
    if load_ns == 0 { u64::MAX } else { expires_ns.saturating_sub(load_ns.saturating_mul(REACH)) }
}

/// Whether a look-up at `now_ns` loads the value again. `draw` is 64 uniform bits.
#[expect(clippy::cast_precision_loss, reason = "a chance")]
pub(crate) fn is_early(now_ns: u64, expires_ns: u64, load_ns: u64, draw: u64) -> bool {
    let unit = ((draw >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    load_ns > 0 && load_ns as f64 * -unit.ln() >= expires_ns.saturating_sub(now_ns) as f64
}

/// Spreads `n` over all 64 bits (the finaliser of SplitMix64), so that a draw needs no state that threads would share.
pub(crate) fn scatter(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long before the expiry the first of `per_load` look-ups per load time triggers, in load times; median of many.
    fn lead(per_load: u64) -> f64 {
        const LOAD: u64 = 20_000_000;
        let expires = 10_000 * LOAD;
        let mut leads: Vec<f64> = (0..400_u64)
            .map(|round| {
                let mut now = draws_from_ns(expires, LOAD);
                while now < expires && !is_early(now, expires, LOAD, scatter(now ^ (round << 40))) {
                    now += LOAD / per_load;
                }
                expires.saturating_sub(now) as f64 / LOAD as f64
            })
            .collect();
        leads.sort_by(f64::total_cmp);
        leads[leads.len() / 2]
    }

    #[test]
    fn the_first_trigger_comes_a_load_time_times_the_logarithm_of_the_rate_early() {
        for per_load in [20, 400] {
            // The median of the first trigger, from the paper's chance summed over the look-ups.
            let expected = (per_load as f64 / std::f64::consts::LN_2).ln();
            let found = lead(per_load);
            assert!((found - expected).abs() < 0.25, "{per_load} per load: {found}, expected {expected}");
        }
        assert!(!is_early(0, 1_000, 0, u64::MAX), "what was not loaded here is not renewed here");
        assert!(is_early(1_000, 1_000, 1, u64::MAX), "at the expiry everybody triggers");
    }
}
