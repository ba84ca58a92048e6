//! `herdsman guard`: the sidecar proxy, and what it has chosen.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, Subcommand};
use herdsman_guard::CacheUrl;

use crate::failure::Failure;

/// The guard.
#[derive(Args)]
pub struct GuardCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// A RESP sidecar in front of a cache
    Proxy {
        /// Where clients connect
        #[arg(long, value_name = "ADDR")]
        listen: SocketAddr,
        /// The cache
        #[arg(long, value_name = "URL")]
        cache: String,
        /// Hold this 99th percentile, for example 5ms
        #[arg(long, value_name = "TIME", value_parser = duration)]
        p99: Option<Duration>,
    },
    /// What the guards of a running server have chosen, and why
    Explain {
        /// Server
        #[arg(default_value = "http://127.0.0.1:8088")]
        url: String,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text} is no time: write for example 5ms or 1s");
    let (number, unit) =
        text.split_at(text.find(|character: char| character.is_alphabetic()).ok_or_else(refused)?);
    let number: f64 = number.parse().map_err(|_| refused())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return Err(refused()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| refused())
}

impl GuardCommand {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Proxy { listen, cache, p99 } => proxy(listen, &cache, p99),
            Action::Explain { url } => explain(&url),
        }
    }
}

fn proxy(listen: SocketAddr, cache: &str, p99: Option<Duration>) -> Result<(), Failure> {
    if !listen.ip().is_loopback() {
        return Err(Failure::usage(format!(
            "refusing to listen on {listen}: the proxy has no authentication, listen on 127.0.0.1"
        )));
    }
    let cache = CacheUrl::parse(cache).map_err(Failure::usage)?;
    let (stop, stopped) = mpsc::sync_channel(1);
    ctrlc::set_handler(move || {
        let _ = stop.try_send(());
    })
    .map_err(Failure::new)?;
    let proxy =
        herdsman_guard::proxy::Proxy::start(listen, cache.clone(), p99, herdsman_host::RealClock::shared())?;
    println!("ready: {} in front of {cache}", proxy.addr());
    let _ = stopped.recv();
    Ok(())
}

fn explain(url: &str) -> Result<(), Failure> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let response = ureq::get(format!("{}/guards", url.trim_end_matches('/'))).call().map_err(|error| {
        Failure::new(format!("no server at {url}: {error}; start one with herdsman serve"))
    })?;
    let guards: serde_json::Value = serde_json::from_reader(response.into_body().into_reader())?;
    println!("{guards:#}");
    Ok(())
}
