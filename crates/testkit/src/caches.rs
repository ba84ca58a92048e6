//! Redis and memcached.

use std::process::Command;

use tempfile::TempDir;

use crate::{Process, free_port, wait_for_port};

/// A Redis server without persistence.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl RedisServer {
    /// Starts one on a free port.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(free_port())
    }

    /// Starts one on `port`.
    #[must_use]
    pub fn start_on(port: u16) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(folder.path());
        let process = Process::start(command, &folder.path().join("redis.log"));
        wait_for_port(port, 10);
        Self { process, port, _folder: folder }
    }

    /// `redis://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// A memcached server.
#[derive(Debug)]
pub struct MemcachedServer {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl MemcachedServer {
    /// Starts one on a free port.
    #[must_use]
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let port = free_port();
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "nobody", "-m", "64"]);
        let process = Process::start(command, &folder.path().join("memcached.log"));
        wait_for_port(port, 10);
        Self { process, port, _folder: folder }
    }

    /// `memcached://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
