//! The herd by seed: four guards that miss one key at once load it once; when the holder of its lease dies, another takes over within the lease time.

use std::time::Duration;

use super::Fault;
use super::world::{MS, World};
use crate::config::{GuardConfig, Lane};

const LEASE: Duration = Duration::from_millis(500);
const LOOKUPS: u64 = 25;

/// One seed; in every second one the process whose load is under way dies. In every fifth there are no leases: then each process loads once.
///
/// # Errors
/// What did not hold: more than one load, no take-over in time, a look-up that waits for too long.
pub fn herd(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    let leases = !seed.is_multiple_of(5);
    let lease = if leases { LEASE } else { Duration::ZERO };
    let config = GuardConfig { lease, ..GuardConfig::default() };
    let mut world = World::new(seed, 4, (1, 0), config, fault);
    world.load_ns = (1 + seed % 60) * MS;
    world.run(20 * MS)?;
    for _ in 0..LOOKUPS {
        for p in 0..4 {
            let gap_ns = world.random.below(MS / 10);
            world.run(gap_ns)?;
            world.ask(p, vec![0], Lane::Normal)?;
        }
    }
    let mut killed_ns = None;
    if leases && seed.is_multiple_of(2) {
        while world.seen.load_times.is_empty() {
            world.run(MS / 10)?;
        }
        let (_, holder) = world.seen.load_times[0];
        let at_ns = world.random.below(world.load_ns / 2);
        world.run(at_ns)?;
        if let Some(p) = world.life_of(holder)
            && world.waiting() > 0
        {
            world.kill(p);
            killed_ns = Some(world.now_ns);
        }
    }
    world.run(1_500 * MS)?;
    if world.waiting() > 0 {
        return Err(format!("{} look-ups still wait after a second and a half", world.waiting()));
    }
    let loads = world.seen.load_times.len();
    let allowed = if leases { 1 + usize::from(killed_ns.is_some()) } else { 4 };
    if loads == 0 || loads > allowed {
        return Err(format!("{loads} loads of one key"));
    }
    if let (Some(killed_ns), Some((again_ns, _))) = (killed_ns, world.seen.load_times.get(1)) {
        let gap_ms = again_ns.saturating_sub(killed_ns) / MS;
        // A claim is repeated every 50 ms at least.
        if u128::from(gap_ms) > LEASE.as_millis() + 60 {
            return Err(format!("taken over {gap_ms} ms after the holder's death, the lease is {LEASE:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_herd_loads_once_whatever_the_seed() {
        (1..=200).for_each(|seed| herd(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}")));
    }
}
