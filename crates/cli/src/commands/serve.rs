//! `herdsman serve`: bus and SQL for other programs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;

use clap::Args;
use herdsman_host::RealClock;
use herdsman_server::{Config, House};
use herdsman_wire::Protocol;

use crate::failure::Failure;

/// The server.
#[derive(Args)]
pub struct Serve {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Kafka listener [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDR")]
    kafka: Option<SocketAddr>,
    /// HTTP listener [default: 127.0.0.1:8088]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Serve without authentication on an address that is not loopback
    #[arg(long)]
    allow_anonymous: bool,
}

impl Serve {
    /// Serves until Ctrl-C or SIGTERM.
    pub fn run(self) -> Result<(), Failure> {
        let mut config = Config::load(self.config.as_deref()).map_err(Failure::usage)?;
        if let Some(data) = self.data {
            config.data = data;
        }
        config.kafka = self.kafka.or(config.kafka);
        config.http = self.http.or(config.http);
        config.allow_anonymous |= self.allow_anonymous;
        // a heap of many small pieces would take whole pages of 2 MiB
        if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
            tracing::info!(%error, "huge pages stay on");
        }
        let (stop, stopped) = mpsc::sync_channel(1);
        ctrlc::set_handler(move || {
            let _ = stop.try_send(());
        })
        .map_err(Failure::new)?;
        let house = House::open(&config, RealClock::shared())?;
        for note in house.recovery() {
            eprintln!("recovered: {note}");
        }
        println!("{}", ready_line(&house, &config));
        let _ = stopped.recv();
        Ok(house.close()?)
    }
}

/// One line: where it listens, where the data is, what an acknowledgement means, and whether anyone may come in.
fn ready_line(house: &House, config: &Config) -> String {
    let address =
        |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let kafka: Vec<String> = house
        .listeners()
        .iter()
        .map(|(protocol, address)| match protocol {
            Protocol::Plaintext => address.to_string(),
            other => format!("{} {address}", other.name()),
        })
        .collect();
    let kafka = if kafka.is_empty() { "off".to_owned() } else { kafka.join(" and ") };
    let open =
        if config.allow_anonymous { "; ANYONE WHO REACHES IT MAY USE IT (--allow-anonymous)" } else { "" };
    format!(
        "ready: kafka {kafka}, http {}, data {}; {}{open}",
        address(house.http()),
        config.data.display(),
        house.durability(),
    )
}
