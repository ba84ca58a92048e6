//! The window: how many keys may be under way to a node while it has more to do than it can, and not all of them are alike.
//!
//! What has been sent waits at the cache, and nothing overtakes it there: behind every slot full of bulk keys an urgent one
//! would wait for all of them. So as soon as keys of one lane wait for long while a more urgent lane is in use, what is under way is
//! bounded, and the rest waits here, where lanes count. Once per round of answers the bound shrinks by 2 × the shortest trip /
//! the round's shortest, and grows by a sixteenth: it settles where a trip takes about two of the shortest. Of five requests under
//! way one is being answered and one waits for that: 1.67 just keep the cache busy. (Shortest with shortest: the mean of a round holds
//! what a busy machine adds, and would close the bound for nothing.) Sources: TCP Vegas (Brakmo and Peterson 1995) and the gradient limit
//! of Netflix's concurrency-limits.
//!
//! A queue of our own making must not pass for a longer way, so four times a second (and for one per cent of the time at most)
//! what is under way drains and one key measures the shortest trip alone (BBR's `ProbeRTT`, Cardwell et al. 2016).

use super::links::Links;
use crate::lanes::Lanes;

/// Keys under way are never bounded below this, nor a request below the next.
const KEYS_MIN: f64 = 16.0;
const REQUEST_MIN: usize = 4;
/// How long a trip may take, in shortest trips.
const LONGER: f64 = 2.0;
/// Requests into which the keys under way are divided.
const REQUESTS: usize = 5;
/// A lane is in use for so long after its last key.
const IN_USE_NS: u64 = 1_000_000_000;
/// Waiting longer than the linger and two trips by this much, a lane is held up.
const HELD_UP_NS: u64 = 1_000_000;
const PROBE_GAP_NS: u64 = 250_000_000;
const PROBE_KEYS: usize = 1;
/// The second shortest of so many probes counts: each is lengthened by what else this machine does, and a bound after the luckiest would be too
/// narrow for all others.
const PROBES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Not before then.
    At(u64),
    /// What is under way drains.
    Draining,
    /// A key is under way alone.
    Alone,
}

#[derive(Debug)]
struct Bound {
    keys: f64,
    shortest_ns: f64,
    /// What the latest probes took.
    probed_ns: [f64; PROBES],
    probe: Probe,
    round_ends_ns: u64,
    /// Of the round: answers, and the shortest trip.
    trips: usize,
    trip_ns: f64,
    /// A lane was held up at this time.
    needed_ns: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window(Option<Bound>);

#[expect(clippy::cast_precision_loss, reason = "keys and nanoseconds, 53 bits are plenty")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count of keys")]
fn whole(keys: f64) -> usize {
    keys as usize
}

impl Window {
    /// Opens or ends the bound. `shortest_ns` is what is known of the trip without one.
    pub(super) fn look(
        &mut self,
        lanes: &Lanes,
        links: &Links,
        (linger_ns, shortest_ns): (u64, f64),
        now_ns: u64,
    ) {
        let known_ns = self.0.as_ref().map_or(shortest_ns, |bound| bound.shortest_ns);
        if known_ns <= 0.0 {
            return;
        }
        let patience_ns = linger_ns.saturating_add(whole(2.0 * known_ns) as u64).saturating_add(HELD_UP_NS);
        let held_up = lanes.is_held_up(now_ns.saturating_sub(patience_ns), now_ns.saturating_sub(IN_USE_NS));
        match &mut self.0 {
            Some(bound) if held_up => bound.needed_ns = now_ns,
            Some(bound) if now_ns.saturating_sub(bound.needed_ns) > IN_USE_NS => self.0 = None,
            None if held_up => {
                self.0 = Some(Bound {
                    keys: (as_f64(links.keys_under_way() as u64) / 2.0).max(KEYS_MIN),
                    shortest_ns,
                    probed_ns: [shortest_ns; PROBES],
                    // What was known may already be long by our own doing.
                    probe: Probe::Draining,
                    round_ends_ns: now_ns,
                    trips: 0,
                    trip_ns: f64::MAX,
                    needed_ns: now_ns,
                });
            }
            _ => {}
        }
    }

    /// Of `room` keys for one request: how many may go with `waiting` in the lanes; `None`: wait for an answer.
    pub(super) fn admit(&self, room: usize, waiting: usize, links: &Links) -> Option<usize> {
        let Some(bound) = &self.0 else { return Some(room) };
        let under_way = links.keys_under_way();
        match bound.probe {
            Probe::Draining | Probe::Alone => (under_way == 0).then_some(PROBE_KEYS.min(room)),
            Probe::At(_) => {
                let left = whole(bound.keys).saturating_sub(under_way);
                let request = (whole(bound.keys) / REQUESTS).max(REQUEST_MIN);
                (left >= request.min(waiting)).then_some(request.min(left).min(room))
            }
        }
    }

    /// A request has left.
    pub(super) fn sent(&mut self) {
        if let Some(bound) = &mut self.0
            && bound.probe == Probe::Draining
        {
            bound.probe = Probe::Alone;
        }
    }

    /// A request was answered after `trip_ns`, or its connection was lost (`None`).
    pub(super) fn answered(&mut self, trip_ns: Option<u64>, links: &Links, now_ns: u64) {
        let Some(bound) = &mut self.0 else { return };
        let under_way = links.keys_under_way();
        if bound.probe == Probe::Alone && under_way == 0 {
            if let Some(trip_ns) = trip_ns {
                bound.probed_ns.rotate_right(1);
                bound.probed_ns[0] = as_f64(trip_ns);
                let mut sorted = bound.probed_ns;
                sorted.sort_by(f64::total_cmp);
                bound.shortest_ns = sorted[1];
            }
            let gap_ns = PROBE_GAP_NS.max(whole(300.0 * bound.shortest_ns) as u64);
            bound.probe = Probe::At(now_ns + gap_ns);
            (bound.round_ends_ns, bound.trips, bound.trip_ns) = (now_ns, 0, f64::MAX);
            return;
        }
        if let (Probe::At(at_ns), Some(trip_ns)) = (bound.probe, trip_ns) {
            bound.learn(as_f64(trip_ns), under_way, now_ns);
            if now_ns >= at_ns {
                bound.probe = Probe::Draining;
            }
        }
    }

    /// Keys that may be under way, if that is bounded.
    pub(super) fn keys(&self) -> Option<usize> {
        self.0.as_ref().map(|bound| whole(bound.keys))
    }
}

impl Bound {
    fn learn(&mut self, trip_ns: f64, under_way: usize, now_ns: u64) {
        self.trips += 1;
        self.trip_ns = self.trip_ns.min(trip_ns);
        if now_ns < self.round_ends_ns || self.trips < REQUESTS {
            return;
        }
        let gradient = (LONGER * self.shortest_ns / self.trip_ns).clamp(0.5, 1.0);
        // A bound that nobody reaches says nothing about a higher one.
        let reached = as_f64(under_way as u64) * 2.0 >= self.keys;
        let growth = if reached { self.keys / 16.0 + 1.0 } else { 0.0 };
        self.keys = (self.keys * gradient + growth).max(KEYS_MIN);
        self.round_ends_ns = now_ns + whole(self.trip_ns) as u64;
        (self.trips, self.trip_ns) = (0, f64::MAX);
    }
}
