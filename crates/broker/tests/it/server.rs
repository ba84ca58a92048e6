//! Starts the example `serve` as a real process on a free loopback port, and finds the Python clients.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) use herdsman_testkit::free_port;
use herdsman_testkit::test_cache;

/// A broker process; killed without notice when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Serves `dir` on `port`.
    pub(crate) fn start(dir: &Path, port: u16) -> Self {
        Self::start_with(dir, port, &[])
    }

    /// The same with `NAME=VALUE` arguments.
    pub(crate) fn start_with(dir: &Path, port: u16, settings: &[&str]) -> Self {
        let mut child = Command::new(built("serve"))
            .arg(dir)
            .arg(port.to_string())
            .args(settings)
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo builds the example with the tests");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped above");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        Self { child, port: port.unwrap_or_else(|| panic!("no ready line but {line:?}")) }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Resident memory now, MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn build_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_owned()
}

fn built(example: &str) -> PathBuf {
    build_dir().join("examples").join(example)
}

/// The folder of npm packages with KafkaJS in it, made once; `None` without Node.js.
pub(crate) fn node_modules() -> Option<PathBuf> {
    const KAFKAJS: &str = "2.2.4";
    Command::new("npm").arg("--version").output().ok()?;
    let folder = test_cache().join(format!("kafkajs-{KAFKAJS}"));
    let modules = folder.join("node_modules");
    if !modules.join("kafkajs/package.json").exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let wanted = format!("kafkajs@{KAFKAJS}");
        run(Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder)
            .arg(wanted));
    }
    Some(modules)
}

/// Runs a command to its end; its output is the failure message.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The folder of this test's own files.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")
}
