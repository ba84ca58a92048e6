//! The servers that are measured, one at a time; stopped by pid.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::tools::{Jars, Seen};
use crate::commands::bench::free_port;
use crate::failure::Failure;

/// A running server with its own folder and port.
pub(super) struct Peer {
    name: &'static str,
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server spent on a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) cpu_s: f64,
    pub(super) peak_mb: f64,
}

impl Peer {
    /// `herdsman serve`, this very program.
    pub(super) fn herdsman() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (kafka, http) = (free_address()?, free_address()?);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--kafka", &kafka, "--http", &http, "--data"]).arg(folder.path().join("data"));
        Self::start("herdsman", command, kafka, folder)
    }

    /// One node of Apache Kafka, with the heap and collector of its own start script.
    pub(super) fn kafka(jars: &Jars) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (address, controller) = (free_address()?, free_address()?);
        let config = folder.path().join("server.properties");
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
             listeners=PLAINTEXT://{address},CONTROLLER://{controller}\n\
             advertised.listeners=PLAINTEXT://{address}\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
            folder.path().join("data").display()
        );
        std::fs::write(&config, properties)?;
        let mut format = jars.java("256m");
        format.args(["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c"]).arg(&config);
        if !format.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            return Err(Failure::new("Apache Kafka could not format its data folder"));
        }
        let mut command = jars.java("1g");
        command.arg("kafka.Kafka").arg(&config);
        Self::start("kafka", command, address, folder)
    }

    fn start(
        name: &'static str,
        mut command: Command,
        address: String,
        folder: tempfile::TempDir,
    ) -> Result<Self, Failure> {
        let log = File::create(folder.path().join("server.log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let peer = Self { name, child, address, _folder: folder };
        for _ in 0..600 {
            if peer.topic(&["list"]).is_ok() {
                return Ok(peer);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(Failure::new(format!("{name} does not answer on {} after a minute", peer.address)))
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn topic(&self, args: &[&str]) -> Result<(), Failure> {
        let address: SocketAddr = self.address.parse().map_err(Failure::new)?;
        TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        let mut command = Command::new(std::env::current_exe()?);
        let output = command.args(["topic", "--kafka", &self.address]).args(args).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::new(String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// A topic of four partitions.
    pub(super) fn make_topic(&self, name: &str, configs: &[&str]) -> Result<(), Failure> {
        let mut args = vec!["create", name, "--partitions", "4"];
        configs.iter().for_each(|config| args.extend(["--config", config]));
        self.topic(&args)
    }

    /// Runs `load` and tells what the server spent on it.
    pub(super) fn watch(
        &self,
        load: impl FnOnce() -> Result<Seen, Failure>,
    ) -> Result<(Seen, Usage), Failure> {
        let before = self.cpu_s()?;
        let seen = load()?;
        Ok((seen, Usage { cpu_s: self.cpu_s()? - before, peak_mb: self.peak_mb()? }))
    }

    fn proc(&self, file: &str) -> Result<String, Failure> {
        let path = Path::new("/proc").join(self.child.id().to_string()).join(file);
        std::fs::read_to_string(&path)
            .map_err(|error| Failure::new(format!("{} has ended: {error}", self.name)))
    }

    /// User and system time of the server so far.
    fn cpu_s(&self) -> Result<f64, Failure> {
        const TICKS_PER_S: f64 = 100.0; // USER_HZ on Linux, fixed for all architectures in /proc
        let stat = self.proc("stat")?;
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
        Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S)
    }

    fn peak_mb(&self) -> Result<f64, Failure> {
        let status = self.proc("status")?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        Ok(kib.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0)
    }
}

fn free_address() -> Result<String, Failure> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}
