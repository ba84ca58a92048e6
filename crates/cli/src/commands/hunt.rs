//! `herdsman hunt`: the main job.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use herdsman_hunt::{HuntError, HuntOptions, Pace, Replay, Snapshot};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// The treasure hunt.
#[derive(Args)]
pub struct Hunt {
    /// Your own check-ins: CSV, JSON Lines or Parquet (needs --map)
    #[arg(long, value_name = "FILE", requires = "map")]
    input: Option<PathBuf>,
    /// TOML file that names the columns of --input
    #[arg(long, value_name = "MAP", requires = "input")]
    map: Option<PathBuf>,
    /// How many times faster than it happened, or max
    #[arg(long, value_name = "N|max", default_value = "max", value_parser = pace)]
    speed: Pace,
    /// Send the input this often; repetitions carry the same ids, so they are duplicates
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    loops: u64,
    /// The legacy cache: redis://…, memcached://… or the embedded one
    #[arg(long, value_name = "URL", default_value = "embedded")]
    cache: String,
    /// The bus: kafka://host:port,… or the embedded one
    #[arg(long, value_name = "URL", default_value = "embedded")]
    bus: String,
    /// Camel YAML routes for the results, instead of files in the data folder
    #[arg(long, value_name = "FILE")]
    routes: Vec<PathBuf>,
    /// Value of {{NAME}} in the routes
    #[arg(long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
    /// Keep serving after the summary until Ctrl-C (Kafka and HTTP on their usual ports)
    #[arg(long)]
    stay: bool,
    /// Write the summary as JSON
    #[arg(long, value_name = "FILE")]
    summary_json: Option<PathBuf>,
    /// Data folder; started again on the same one the hunt goes on [default: a fresh temporary folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Kafka listener [default: none; 127.0.0.1:9092 with --stay]
    #[arg(long, value_name = "ADDR")]
    kafka: Option<SocketAddr>,
    /// HTTP listener [default: none; 127.0.0.1:8088 with --stay]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Stream threads [default: one per core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Seed of the treasures
    #[arg(long, value_name = "N", default_value_t = 2013)]
    seed: u64,
}

fn pace(text: &str) -> Result<Pace, String> {
    if text == "max" {
        return Ok(Pace::Max);
    }
    match text.parse::<f64>() {
        Ok(times) if times > 0.0 && times.is_finite() => Ok(Pace::Times(times)),
        _ => Err("a number above 0, or max".to_owned()),
    }
}

/// An input that cannot be used is a wrong call (exit code 2).
fn failure(error: HuntError) -> Failure {
    match error {
        HuntError::Input(error) => Failure::usage(error),
        other => Failure::new(other),
    }
}

impl Hunt {
    /// Runs it.
    pub fn run(self) -> Result<(), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst)).map_err(Failure::new)?;
        let default = |port: u16| self.stay.then(|| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut properties = BTreeMap::new();
        for pair in &self.properties {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--property {pair} has no =: write NAME=VALUE")))?;
            properties.insert(name.to_owned(), value.to_owned());
        }
        let bar = bar();
        let shown = bar.clone();
        let options = HuntOptions {
            data: self.data.clone(),
            input: self.input.clone().zip(self.map.clone()),
            pace: self.speed,
            loops: self.loops,
            replay: Replay::Same,
            cache: self.cache.clone(),
            bus: self.bus.clone(),
            routes: self.routes.clone(),
            properties,
            kafka: self.kafka.or_else(|| default(9092).filter(|_| self.bus == "embedded")),
            http: self.http.or_else(|| default(8088)),
            threads: self.threads,
            seed: self.seed,
            stop: Arc::clone(&stop),
            observer: Some(Box::new(move |snapshot| draw(&shown, snapshot))),
            ..HuntOptions::default()
        };
        let mut hunt = herdsman_hunt::Hunt::open(options).map_err(failure)?;
        let summary = hunt.play().map_err(failure)?;
        bar.finish_and_clear();
        print!("{summary}");
        if self.data.is_some() && self.routes.is_empty() {
            println!("  results     {}", hunt.results().display());
        }
        if let Some(file) = &self.summary_json {
            let json = serde_json::to_vec_pretty(&summary)?;
            std::fs::write(file, json)
                .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
        }
        if self.stay && !stop.load(Ordering::SeqCst) {
            let say = |name: &str, address: Option<SocketAddr>| {
                if let Some(address) = address {
                    println!("  {name:<11} {address}");
                }
            };
            say("kafka", hunt.house().kafka());
            say("http", hunt.house().http());
            println!("  Ctrl-C stops.");
            while !stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        hunt.close().map_err(failure)
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{bar:30} {pos:>9}/{len} events  {per_sec}  lag {msg}  {elapsed}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn draw(bar: &ProgressBar, snapshot: &Snapshot) {
    bar.set_length(snapshot.total.unwrap_or(snapshot.offered));
    bar.set_position(snapshot.offered);
    bar.set_message(snapshot.accepted.saturating_sub(snapshot.visible).to_string());
}
