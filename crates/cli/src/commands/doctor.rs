//! `herdsman doctor`: what is wrong with this machine, configuration or data folder, and how to mend it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use herdsman_server::{Config, listen};

use crate::failure::Failure;

/// A check-up.
#[derive(Args)]
pub struct Doctor {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Doctor {
    /// Prints one line per finding; fails if any needs mending.
    pub fn run(self) -> Result<(), Failure> {
        let mut sick = 0;
        let mut tell = |fine: bool, line: String| {
            sick += u32::from(!fine);
            println!("{} {line}", if fine { "ok  " } else { "MEND" });
        };
        let config = match Config::load(self.config.as_deref()) {
            Ok(config) => {
                tell(true, "configuration reads".to_owned());
                config
            }
            Err(error) => {
                tell(false, error.to_string());
                Config::default()
            }
        };
        for (flag, address) in [("--kafka", config.kafka), ("--http", config.http)] {
            if let Some(address) = address {
                let (fine, line) = port(flag, address);
                tell(fine, line);
            }
        }
        for listener in &config.listeners {
            let (fine, line) = port("listener", listener.address);
            tell(fine, line);
        }
        if let Err(error) = config.check_addresses().and_then(|()| config.open_listeners()) {
            tell(false, error.to_string());
        }
        let data = self.data.unwrap_or(config.data);
        if data.exists() {
            let writable = tempfile::Builder::new().prefix(".doctor").tempfile_in(&data);
            match writable {
                Ok(_) => tell(true, format!("data folder {} can be written", data.display())),
                Err(error) => {
                    tell(false, format!("data folder {} cannot be written: {error}", data.display()))
                }
            }
        } else {
            tell(true, format!("data folder {} will be made", data.display()));
        }
        let files = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let limit = files
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .and_then(|line| line.split_whitespace().nth(3))
            .and_then(|number| number.parse::<u64>().ok());
        if let Some(limit) = limit {
            tell(limit >= 4_096, format!("{limit} open files allowed; 4,096 or more are needed (ulimit -n)"));
        }
        if sick == 0 { Ok(()) } else { Err(Failure::new(format!("{sick} things to mend"))) }
    }
}

fn port(flag: &str, address: SocketAddr) -> (bool, String) {
    match std::net::TcpListener::bind(address) {
        Ok(_) => (true, format!("{address} is free for {flag}")),
        Err(error) => {
            let holder = listen::holder(address.port())
                .map_or_else(|| error.to_string(), |(name, pid)| format!("{name} (pid {pid}) holds it"));
            (false, format!("{address} is not free: {holder}; stop that or pass another {flag}"))
        }
    }
}
