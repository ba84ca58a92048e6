//! Serves one data folder over the Kafka protocol: `serve DIR PORT [NAME=VALUE…]`.
//!
//! Prints `ready 127.0.0.1:PORT` and runs until it is killed. The broker's tests kill it without notice; it is also the
//! smallest whole broker one can run. `NAME=VALUE` are default topic configs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use herdsman_broker::{Broker, BrokerConfig};
use herdsman_host::{RealClock, RealDisk};
use herdsman_log::LogConfig;
use herdsman_wire::Limits;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: serve DIR PORT [NAME=VALUE…]";
    let dir = PathBuf::from(arguments.next().ok_or(usage)?);
    let port: u16 = arguments.next().ok_or(usage)?.parse()?;
    let topic_defaults: BTreeMap<String, String> = arguments
        .filter_map(|argument| {
            argument.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async move {
        let log_config = LogConfig { topic_defaults, ..LogConfig::default() };
        let disk = Arc::new(RealDisk);
        let (broker, recovery) =
            Broker::open(disk, &dir, RealClock::shared(), log_config, BrokerConfig::default())?;
        for note in recovery.notes {
            eprintln!("{note}");
        }
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        println!("ready {}", listener.local_addr()?);
        let (_stop, shutdown) = tokio::sync::watch::channel(false);
        Arc::new(broker).serve(listener, Limits::default(), shutdown).await?;
        Ok(())
    })
}
