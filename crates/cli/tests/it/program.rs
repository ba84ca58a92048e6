//! Runs the program and keeps what it said.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// The program under test.
pub fn herdsman() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herdsman"));
    command
        .stdin(Stdio::null())
        .env_remove("HERDSMAN_KAFKA")
        .env_remove("HERDSMAN_HTTP")
        .env_remove("HERDSMAN_DATA");
    command
}

/// What a finished run said.
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `arguments` to the end.
pub fn run(arguments: &[&str]) -> Said {
    said(&herdsman().args(arguments).output().unwrap())
}

/// An output as text.
pub fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Seconds on a clock that never goes back.
pub fn now_s() -> f64 {
    use herdsman_host::Clock as _;
    Duration::from_nanos(herdsman_host::RealClock.monotonic_ns()).as_secs_f64()
}

/// A port of loopback that nobody holds now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs `herdsman hunt` with `arguments` and returns its JSON summary.
pub fn hunt(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let summary = folder.path().join("summary.json");
    let output = herdsman().arg("hunt").arg("--summary-json").arg(&summary).args(arguments).output().unwrap();
    let said = said(&output);
    assert_eq!(said.code, 0, "herdsman hunt {arguments:?}: {}{}", said.out, said.err);
    read_json(&summary)
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Repeats `look` until it says something that contains `wanted`, for at most ten seconds; gives that.
pub fn eventually(wanted: &str, mut look: impl FnMut() -> String) -> String {
    let start = now_s();
    let mut last = String::new();
    while now_s() - start < 10.0 {
        last = look();
        if last.contains(wanted) {
            return last;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{wanted} never came; last: {last}");
}

/// A running `herdsman serve`, killed by pid when dropped.
pub struct Server {
    child: Child,
    log: tempfile::NamedTempFile,
    /// Kafka listener.
    pub kafka: String,
    /// HTTP listener.
    pub http: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts on free ports and waits until it answers.
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// The same with more arguments.
    pub fn start_with(data: &Path, more: &[&str]) -> Self {
        Self::start_as(herdsman(), data, more)
    }

    /// The same as a child of `command`, which runs what its arguments say.
    pub fn start_as(mut command: Command, data: &Path, more: &[&str]) -> Self {
        let (kafka, http) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = command
            .args(["serve", "--kafka", &kafka, "--http", &http, "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let server = Self { child, log, kafka, http };
        for _ in 0..200 {
            if std::net::TcpStream::connect(&server.http).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("herdsman serve did not answer on {}", server.http);
    }

    /// The line of its log that contains `wanted`, without time and level, when it has come.
    pub fn says(&self, wanted: &str) -> String {
        let log = eventually(wanted, || std::fs::read_to_string(self.log.path()).unwrap());
        let line = log.lines().find(|line| line.contains(wanted)).unwrap();
        let (_, sentence) = line.split_once(" WARN ").unwrap_or_else(|| panic!("no warning: {line}"));
        sentence.to_owned()
    }

    /// All of its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// Runs SQL and gives what it prints.
    pub fn sql(&self, statements: &str) -> String {
        let answer = run(&["sql", &self.http, "-e", statements]);
        assert_eq!(answer.code, 0, "{statements}: {}", answer.err);
        answer.out
    }

    /// Sends lines, `key|value` or a value, to a topic.
    pub fn produce(&self, topic: &str, lines: impl AsRef<[u8]>) -> Said {
        let mut child = herdsman()
            .args(["produce", "--kafka", &self.kafka, "--key-separator", "|", topic])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_ref()).unwrap();
        said(&child.wait_with_output().unwrap())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}
