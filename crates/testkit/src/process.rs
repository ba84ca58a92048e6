//! Child processes, ports and folders.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(20);

/// A port of 127.0.0.1 that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    free_ports(1).first().copied().expect("one was asked for")
}

/// `count` different free ports.
#[must_use]
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::new();
    let mut ports = BTreeSet::new();
    while ports.len() < count {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port is free");
        ports.insert(listener.local_addr().expect("it is bound").port());
        held.push(listener);
    }
    ports.into_iter().collect()
}

/// A program of the system with the system's libraries: `cargo test` lets programs find the libraries it built first, and
/// kcat would speak through our librdkafka, which has no TLS.
#[must_use]
pub fn system_program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Waits until something accepts connections on `port`; panics after `seconds`.
pub fn wait_for_port(port: u16, seconds: u64) {
    for _ in 0..seconds * 50 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        sleep(PAUSE);
    }
    panic!("nothing listens on 127.0.0.1:{port} after {seconds} s");
}

/// The folder for what tests fetch: `HERDSMAN_TEST_CACHE`, by default `target/test-cache` of the workspace.
#[must_use]
pub fn test_cache() -> PathBuf {
    let folder = std::env::var_os("HERDSMAN_TEST_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-cache"), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("the test cache can be made");
    folder
}

/// A child process that is killed, by its id, when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` without standard input, its output going to `log`.
    #[must_use]
    pub fn start(mut command: Command, log: &Path) -> Self {
        let out = std::fs::File::create(log).expect("the log file can be made");
        let err = out.try_clone().expect("the log file can be shared");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display()));
        Self { child }
    }

    /// Waits until it ends by itself; whether it ended well.
    pub fn wait(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Self { child }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
