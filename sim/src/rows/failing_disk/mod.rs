//! A failing disk under a real process: `herdsman serve` with a preloaded shim that makes the n-th call fail once.
//!
//! Every call that changes a file below the data folder is counted (open for writing, write, truncate, sync, rename); the n-th
//! fails with EIO or ENOSPC, is done by half, or takes long. An idempotent client writes on, sends again what was not
//! acknowledged, and goes on until the call is past; then the process is killed and the folder opened without the shim. What must
//! hold: the failure was told, by the protocol or by a start that names the file; nothing acknowledged is lost or there twice; a
//! partition whose sync failed takes no more writes. The standard library and `rustix` go through the C library here, so that
//! a preloaded library sees every call; a run in which it saw none fails.

mod client;
mod full;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use herdsman_host::{RealClock, RealDisk, Seed};
use herdsman_record::TopicPartition;

use crate::house::{Claim, House, batch};
use crate::row::each_seed;
use crate::script::EPOCH_MS;
use crate::server::Server;
use crate::{Failure, Order, Row, Tally};
use client::Client;

/// The row.
pub const ROW: Row = Row {
    name: "failing-disk",
    what: "a real process; one of its first 5,000 file calls fails once, or its small file system is full",
    unit: "runs",
    change: 300,
    long: 5_000,
    run: runs,
};

/// The calls that fail, each in its turn.
const CALLS: u64 = 5_000;
/// Spreads consecutive runs over the calls; prime to them.
const STRIDE: u64 = 1_009;
/// How long a call may stall, ms.
const STALL_MS: u64 = 100;
const KINDS: [&str; 4] = ["eio", "enospc", "short", "stall"];
const TOPIC: &str = "finds";
/// Writes after the call that failed.
const WRITES_AFTER: u64 = 6;

/// The library, and where the runs have their data.
struct Tools {
    shim: PathBuf,
    folder: tempfile::TempDir,
}

/// Where files cost no disk: what counts here is which call fails, not how long it takes.
fn place() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

impl Tools {
    fn make() -> Result<Self, String> {
        let folder = place().map_err(|error| error.to_string())?;
        let (source, shim) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
        std::fs::write(&source, include_str!("shim.c")).map_err(|error| error.to_string())?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&shim).arg(&source).arg("-ldl");
        let done = compiler.output().map_err(|error| format!("cc: {error}"))?;
        if !done.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&done.stderr)));
        }
        Ok(Self { shim, folder })
    }
}

fn runs(order: &Order) -> Result<Tally, Failure> {
    let failed = |what| Failure { seed: order.from, what };
    let tools = Tools::make().map_err(failed)?;
    let mut tally = each_seed(order, |number| one(&tools, number))?;
    tally.add(&full::run(&tools).map_err(failed)?);
    Ok(tally)
}

/// Serves `data`, the failing call in `shim`.
fn start(tools: &Tools, data: &Path, shim: &[(&str, String)]) -> Result<Server, String> {
    let mut environment: Vec<(&str, &OsStr)> =
        shim.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    if !shim.is_empty() {
        environment.push(("LD_PRELOAD", tools.shim.as_os_str()));
        environment.push(("HERDSMAN_SHIM_DIR", data.as_os_str()));
    }
    Server::start_within(data, &["--kafka", "127.0.0.1:0"], &environment)
}

fn port_of(server: &Server) -> Result<u16, String> {
    server.kafka.ok_or_else(|| "a ready line without a Kafka listener".to_owned())
}

/// What was acknowledged: value by offset, per partition.
type Acknowledged = BTreeMap<i32, BTreeMap<i64, String>>;

fn one(tools: &Tools, number: u64) -> Result<Tally, String> {
    let call = number.wrapping_mul(STRIDE) % CALLS + 1;
    let kind = KINDS[usize::try_from(number % 4).unwrap_or(0)];
    let outcome = call_fails(tools, number, call, kind);
    outcome.map_err(|what| format!("call {call}, {kind}: {what}"))
}

fn call_fails(tools: &Tools, number: u64, call: u64, kind: &str) -> Result<Tally, String> {
    let data = tools.folder.path().join(format!("data-{number}"));
    let told = tools.folder.path().join(format!("told-{number}"));
    let shim = [
        ("HERDSMAN_SHIM_AT", call.to_string()),
        ("HERDSMAN_SHIM_KIND", kind.to_owned()),
        ("HERDSMAN_SHIM_STALL_MS", STALL_MS.to_string()),
        ("HERDSMAN_SHIM_TOLD", told.display().to_string()),
    ];
    let mut tally = Tally::of(1);
    let server = start(tools, &data, &shim);
    let mut acknowledged = Acknowledged::new();
    let mut codes = Vec::new();
    match &server {
        Ok(server) => write(port_of(server)?, &told, call, &mut acknowledged, &mut codes)?,
        Err(said) => {
            if !said.contains(&data.display().to_string()) {
                return Err(format!("did not start and named no file: {said}"));
            }
            tally.count("starts refused by name", 1);
        }
    }
    drop(server);
    let hit = std::fs::read_to_string(&told).unwrap_or_default();
    if hit.is_empty() {
        return Err("the shim saw no such call".to_owned());
    }
    tally.count("records acknowledged", acknowledged.values().map(|part| part.len() as u64).sum());
    tally.count("runs with an error code", u64::from(!codes.is_empty()));
    tally.count("failed syncs", u64::from(hit == "fdatasync" && kind != "stall"));
    if let Some(odd) = codes.iter().find(|code| !matches!(code, 56 | -1)) {
        return Err(format!("{hit} failed and the client was told code {odd}"));
    }
    reopened(&data, &acknowledged, number)?;
    let _space = std::fs::remove_dir_all(&data);
    Ok(tally)
}

/// Writes until the call is past, and a little further. What is refused is sent again once, then its partition rests.
fn write(
    port: u16,
    told: &Path,
    call: u64,
    acknowledged: &mut Acknowledged,
    codes: &mut Vec<i16>,
) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("the connection: {error}");
    let mut client = Client::connect(port).map_err(fail)?;
    for _ in 0..3 {
        match client.create(TOPIC).map_err(fail)? {
            0 | 36 => break,
            code => codes.push(code),
        }
    }
    let producer =
        client.producer().map_err(fail)?.map_err(|code| format!("InitProducerId answers {code}"))?;
    let claim = Claim { id: producer, epoch: 0 };
    let (mut sequences, mut resting, mut after) = ([0; 2], [false; 2], 0);
    for turn in 0..call + 100 {
        if after == WRITES_AFTER || resting == [true; 2] {
            break;
        }
        after += u64::from(after > 0 || (turn % 16 == 0 || turn + 20 > call) && told.exists());
        let partition = usize::try_from(turn % 2).unwrap_or(0);
        if resting[partition] {
            continue;
        }
        let value = format!("v:{turn}");
        let made = batch(std::slice::from_ref(&value), Some((claim, sequences[partition])), false, EPOCH_MS);
        let at = i32::try_from(partition).unwrap_or(0);
        let mut answer = client.produce(TOPIC, at, &made).map_err(fail)?;
        if let Err(code) = answer {
            codes.push(code);
            let synced = std::fs::read_to_string(told).unwrap_or_default();
            answer = client.produce(TOPIC, at, &made).map_err(fail)?;
            if synced == "fdatasync" && answer.is_ok() {
                return Err(format!("{TOPIC}-{at} takes writes after its sync failed"));
            }
        }
        match answer {
            Ok(offset) => {
                sequences[partition] += 1;
                acknowledged.entry(at).or_default().insert(offset, value);
            }
            Err(_) => resting[partition] = true,
        }
    }
    Ok(())
}

/// Opens the folder as the next process would and compares.
fn reopened(data: &Path, acknowledged: &Acknowledged, number: u64) -> Result<(), String> {
    if acknowledged.is_empty() && !data.join("topics.json").exists() {
        return Ok(());
    }
    let house = House::open_at(Arc::new(RealDisk), data, RealClock::shared(), &Seed::new(number))
        .map_err(|error| format!("does not open afterwards: {error}"))?;
    for (partition, records) in acknowledged {
        let at = TopicPartition::new(TOPIC, *partition);
        let seen = house.read(&at, 0, true).map_err(|code| format!("{at}: Fetch answers {code}"))?;
        let mut once = BTreeMap::new();
        for one in &seen {
            if let Some(before) = once.insert(&one.value, one.offset) {
                return Err(format!("{at}: {} at offsets {before} and {}", one.value, one.offset));
            }
        }
        for (offset, value) in records {
            if once.get(value) != Some(offset) {
                return Err(format!(
                    "{at}: {value} acknowledged at {offset}, found at {:?}",
                    once.get(value)
                ));
            }
        }
    }
    Ok(())
}
