//! `herdsman serve` as a real process, and what the system says of it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use herdsman_host::{Clock as _, RealClock};
use herdsman_testkit::Process;

/// The program: `HERDSMAN_BIN`, or the one beside what runs now.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("HERDSMAN_BIN") {
        return program.into();
    }
    let here = std::env::current_exe().unwrap_or_default();
    let mut folders = here.ancestors().skip(1).take(2).map(|folder| folder.join("herdsman"));
    folders.find(|program| program.exists()).unwrap_or_else(|| PathBuf::from("target/release/herdsman"))
}

/// A running server; killed, by its id, when dropped.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// Port of its Kafka listener on 127.0.0.1; `None` with other listeners than that.
    pub kafka: Option<u16>,
    /// Where its HTTP listener is.
    pub http: String,
    /// From the start of the process to its ready line.
    pub ready: Duration,
}

impl Server {
    /// Serves `data` with `arguments` (the Kafka listener, a configuration), HTTP on a free port; its log goes to a file beside `data`.
    ///
    /// # Errors
    /// It cannot be started, or ends without a ready line.
    pub fn start(data: &Path, arguments: &[&str]) -> Result<Self, String> {
        Self::start_within(data, arguments, &[])
    }

    /// As [`Server::start`], with more environment.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_within(
        data: &Path,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self, String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log"));
        let log = log.map_err(|error| format!("the server's log: {error}"))?;
        let started = RealClock.monotonic_ns();
        let program = program();
        let mut child = Command::new(&program)
            .args(["serve", "--http", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let ready = Duration::from_nanos(RealClock.monotonic_ns() - started);
        let http = line.split("http ").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_owned);
        let kafka =
            line.split("kafka 127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
        let process = Process::from(child);
        let Some(http) = http else {
            let log = std::fs::read_to_string(data.with_extension("log")).unwrap_or_default();
            return Err(format!("no ready line but {line:?}; its log: {log}"));
        };
        Ok(Self { process, kafka, http, ready })
    }
}

/// Resident memory of process `pid` now, bytes; 0 when it is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// A free port of loopback as an address.
#[must_use]
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], herdsman_testkit::free_port()))
}
