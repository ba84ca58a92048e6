use std::time::Duration;

use super::*;
use crate::core::sim::{Server, Sim};

/// The best p99 of a sweep of fixed settings in the same simulation.
fn best_fixed(server: Server, rate: f64) -> (u64, Settings) {
    let mut best = (u64::MAX, Settings { batch_size: 0, linger_us: 0, connections: 0, depth: 0 });
    for (batch_size, linger_us) in [(1, 0), (4, 100), (16, 200), (64, 400)] {
        for connections in [2, 16] {
            let settings = Settings { batch_size, linger_us, connections, depth: 4 };
            let mut sim = Sim::fixed(settings, server, rate, 7);
            sim.run(50);
            let p99 = sim.run(150).p99_us;
            if p99 < best.0 {
                best = (p99, settings);
            }
        }
    }
    best
}

#[test]
fn it_settles_within_a_second_near_the_best_fixed_settings_and_stays_there() {
    for (rtt_us, rate) in [(500, 20e3), (500, 80e3), (2_000, 40e3)] {
        let server = Server::with_rtt_us(rtt_us);
        let (best, settings) = best_fixed(server, rate);
        let mut sim = Sim::new(Objective::AsLowAsPossible, server, rate, 11);
        sim.run(1_000);
        let first = sim.run(300).p99_us;
        sim.run(1_000);
        let steady = sim.run(1_000);
        let mut batches: Vec<_> = sim.seen.iter().map(|s| s.batch_size).collect();
        batches.sort_unstable();
        batches.dedup();
        println!(
            "rtt {rtt_us} us, {rate} keys/s: best fixed {best} us ({settings:?}); after 1 s {first} us; steady {} us with {:?} \
             ({} requests/s), batches {batches:?}",
            steady.p99_us,
            sim.seen.last(),
            steady.requests_per_s
        );
        assert!(first * 100 <= best * 150, "after 1 s {first} us, best fixed {best} us");
        assert!(steady.p99_us * 100 <= best * 125, "steady {} us, best fixed {best} us", steady.p99_us);
        assert!(batches.len() <= 3, "wanders over {batches:?}");
    }
}

#[test]
fn it_follows_load_and_round_trip_there_and_back() {
    let near = Server::with_rtt_us(500);
    let far = Server::with_rtt_us(2_000);
    let mut sim = Sim::new(Objective::AsLowAsPossible, near, 20e3, 3);
    sim.run(2_000);
    let before = sim.run(500).p99_us;
    for (name, server, rate) in [("load x 5", near, 100e3), ("far", far, 40e3)] {
        sim.set(server, rate);
        sim.run(1_000);
        let after = sim.run(200).p99_us;
        let (best, _) = best_fixed(server, rate);
        println!("{name}: {after} us a second after the change, best fixed {best} us");
        assert!(after * 100 <= best * 150, "{name}: {after} us, best fixed {best} us");
    }
    sim.set(near, 20e3);
    sim.run(2_000);
    let back = sim.run(500).p99_us;
    assert!(back * 100 <= before * 130, "{before} us before, {back} us after the way there and back");
}

#[test]
fn an_objective_is_held_with_fewer_requests_than_the_fastest_way() {
    let server = Server::with_rtt_us(500);
    let mut fast = Sim::new(Objective::AsLowAsPossible, server, 50e3, 5);
    let mut cheap = Sim::new(Objective::P99(Duration::from_millis(5)), server, 50e3, 5);
    for sim in [&mut fast, &mut cheap] {
        sim.run(3_000);
    }
    let (fast, cheap) = (fast.run(1_000), cheap.run(1_000));
    println!("fast {fast:?}, within 5 ms {cheap:?}");
    assert!(cheap.p99_us <= 5_000, "{cheap:?}");
    assert!(cheap.requests_per_s * 2 <= fast.requests_per_s, "{cheap:?} against {fast:?}");
}

#[test]
fn the_same_measurements_give_the_same_decisions() {
    let m = Measurement {
        interval_ns: 50_000_000,
        arrivals: 5_000,
        keys: 5_000,
        batches: 400,
        trip_min_ns: 500_000,
        trip_sum_ns: 240_000_000,
        p99_ns: 1_200_000,
        backlog: 3,
    };
    let run = || {
        let (mut tuner, mut seen) = (Tuner::new(Objective::AsLowAsPossible), Vec::new());
        for step in 0..200_u64 {
            tuner = tuner.step(&m, step * 50_000_000);
            seen.push(tuner.settings());
        }
        seen
    };
    assert_eq!(run(), run());
    assert!(run().iter().all(|s| s.slots() <= SLOTS_MAX && s.batch_size <= 1 << LEVEL_MAX));
}

#[test]
fn every_change_of_settings_brings_its_own_reason() {
    let mut tuner = Tuner::new(Objective::AsLowAsPossible);
    for step in 0..400_u64 {
        let arrivals = if step < 200 { 5_000 } else { 1_000 + step * 7 % 900 };
        let m = Measurement {
            interval_ns: 50_000_000,
            arrivals,
            keys: arrivals,
            batches: 1 + arrivals / 12,
            trip_min_ns: 500_000,
            trip_sum_ns: 240_000_000,
            p99_ns: 1_200_000 + step % 5 * 10_000,
            backlog: 3,
        };
        let (before, said) = (tuner.settings(), tuner.reason().to_owned());
        tuner = tuner.step(&m, step * 50_000_000);
        let follows = tuner.reason().starts_with("linger and slots follow");
        assert!(tuner.settings() == before || tuner.reason() != said || follows, "step {step}: {said}");
    }
}
