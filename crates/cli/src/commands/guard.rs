//! `herdsman guard`: the sidecar proxy, and what it has chosen.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, Subcommand};
use herdsman_guard::CacheUrl;
use serde_json::Value;

use super::no_server;
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
        /// Serve without authentication on an address that is not loopback
        #[arg(long)]
        allow_anonymous: bool,
    },
    /// What the guards of a running server or sidecar have chosen, and why
    Explain {
        /// Server, or the sidecar's redis://host:port
        #[arg(default_value = "http://127.0.0.1:8088")]
        url: String,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
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
            Action::Proxy { listen, cache, p99, allow_anonymous } => {
                if !listen.ip().is_loopback() && !allow_anonymous {
                    return Err(Failure::usage(format!(
                        "refusing to listen on {listen} without authentication: listen on 127.0.0.1, or say --allow-anonymous"
                    )));
                }
                proxy(listen, &cache, p99)
            }
            Action::Explain { url, json } => explain(&url, json),
        }
    }
}

fn proxy(listen: SocketAddr, cache: &str, p99: Option<Duration>) -> Result<(), Failure> {
    let cache = CacheUrl::parse(cache).map_err(Failure::usage)?;
    drop(herdsman_server::listen::bind(listen, "--listen")?);
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

fn explain(url: &str, json: bool) -> Result<(), Failure> {
    let guards: Value = match url.strip_prefix("redis://") {
        Some(place) => {
            let no_address = |error| Failure::usage(format!("{url} is no sidecar's address: {error}"));
            let addr = place.trim_end_matches('/').parse().map_err(no_address)?;
            let told = herdsman_guard::proxy::explain_at(addr);
            let told = told.map_err(|error| Failure::new(format!("no guard at {addr}: {error}")))?;
            serde_json::json!({ place: serde_json::from_str::<Value>(&told)? })
        }
        None => from_server(url)?,
    };
    if json {
        println!("{guards:#}");
        return Ok(());
    }
    let Some(guards) = guards.as_object().filter(|guards| !guards.is_empty()) else {
        println!("no guard: no cache-backed table has been declared");
        return Ok(());
    };
    for (name, guard) in guards {
        print(name, &guard["explain"]);
    }
    Ok(())
}

fn from_server(url: &str) -> Result<Value, Failure> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let url = url.trim_end_matches('/');
    let response = ureq::get(format!("{url}/guards")).call().map_err(|error| no_server(url, &error))?;
    Ok(serde_json::from_reader(response.into_body().into_reader())?)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn settings(value: &Value) -> String {
    format!(
        "batch {}, linger {} us, {} connections of depth {}",
        value["batch_size"], value["linger_us"], value["connections"], value["depth"]
    )
}

fn print(name: &str, explain: &Value) {
    println!("{name}: {} · breaker {}", text(&explain["cache"]), text(&explain["breaker"]));
    println!("  objective  {}", text(&explain["objective"]));
    println!(
        "  now        {} ({} ready, {} batches under way)",
        settings(explain),
        explain["connections_ready"],
        explain["in_flight"]
    );
    let queued = &explain["queued"];
    println!(
        "  lanes      {} urgent, {} normal, {} bulk keys wait",
        queued["urgent"], queued["normal"], queued["bulk"]
    );
    let figure = |name: &str| explain[name].as_f64().unwrap_or(0.0);
    println!(
        "  measured   {:.0} keys/s past the near cache, round trip {:.0} us, p50 {:.2} ms, p99 {:.2} ms",
        figure("keys_per_s"),
        figure("rtt_us"),
        figure("p50_ms"),
        figure("p99_ms")
    );
    println!("  near cache {}", text(&explain["near"]));
    println!("  leases     {}", text(&explain["leases"]));
    println!("  why        {}", text(&explain["reason"]));
    for change in explain["changes"].as_array().into_iter().flatten() {
        let ago = change["seconds_ago"].as_f64().unwrap_or(0.0);
        println!("  {ago:>8.1} s ago: {} ({})", settings(&change["to"]), text(&change["reason"]));
    }
    println!("  by hand, somebody would have set (now; lowest and highest that were right since the start):");
    for by in explain["by_hand"].as_array().into_iter().flatten() {
        let (now, low, high) = (text(&by["now"]), text(&by["lowest"]), text(&by["highest"]));
        let range = if low == high { String::new() } else { format!("; {low} to {high}") };
        println!("    {:<48} {now} {}{range}", text(&by["setting"]), text(&by["unit"]));
    }
}
