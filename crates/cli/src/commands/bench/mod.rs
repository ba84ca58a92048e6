//! `herdsman bench`: measurements that anyone can run again, JSON lines with `--json`.

mod bus;
mod chaos;
mod guard;
mod hunt;
mod pool;
mod seed;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Benchmarks.
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The whole hunt: events/s, latency, memory, and how the time splits by room
    Hunt(hunt::HuntBench),
    /// The design that failed (HAProxy, stateless workers, Redis per event) beside ours
    Seed(seed::Seed),
    /// The guard while its cache fails in every way it knows
    Chaos(chaos::ChaosBench),
    /// The guard's look-ups: rate and latency
    Guard(guard::GuardBench),
    /// The bus under Kafka's own tools and under native loads, with `--vs kafka` beside Apache Kafka
    Bus(bus::BusBench),
    /// The pool while it changes under load, and after a restart with 1,000 clients
    Pool(pool::PoolBench),
    /// 10,000 identical cold misses: loads and latency, guard beside plain cache-aside
    Herd(guard::HerdBench),
}

/// A loopback port that nobody listens on now.
fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Bench {
    /// Runs one.
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Hunt(bench) => bench.run(),
            What::Seed(bench) => bench.run(),
            What::Chaos(bench) => bench.run(),
            What::Guard(bench) => bench.run(),
            What::Bus(bench) => bench.run(),
            What::Herd(bench) => bench.run(),
            What::Pool(bench) => bench.run(),
        }
    }
}
