//! A real Apache Kafka broker (`KRaft`, one node) from Maven Central.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Process, free_ports, test_cache};

const POM: &str = include_str!("../kafka/pom.xml");
const VERSION: &str = "4.3.1";
/// Small and quick to start rather than fast.
const JVM: [&str; 7] = [
    "-Xms192m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
];

/// One broker with its own folder and ports.
#[derive(Debug)]
pub struct KafkaServer {
    process: Process,
    folder: TempDir,
    port: u16,
    starts: u32,
}

/// Kafka's jars, fetched once with Maven.
fn jars() -> PathBuf {
    let cache = test_cache();
    let folder = cache.join(format!("kafka-{VERSION}"));
    if folder.exists() {
        return folder;
    }
    // fetched beside and renamed at the end, so that several tests may do it at once
    let work = TempDir::new_in(&cache).expect("a folder in the test cache");
    fs::write(work.path().join("pom.xml"), POM).expect("the pom can be written");
    let libs = work.path().join("libs");
    let status = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .current_dir(work.path())
        .status()
        .expect("mvn is installed");
    assert!(status.success(), "mvn could not fetch Kafka's jars");
    let _ = fs::rename(&libs, &folder);
    assert!(folder.exists(), "Kafka's jars are in {}", folder.display());
    folder
}

fn java(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command.args(JVM).arg("-cp").arg(format!("{}/*", jars.display()));
    command
}

/// A tool of Apache Kafka, by its Java class, to be given its arguments.
#[must_use]
pub fn kafka_tool(class: &str) -> Command {
    let mut command = java(&jars());
    command.arg(class);
    command
}

impl KafkaServer {
    /// Starts a broker on free ports; panics if it is not ready within a minute.
    #[must_use]
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let ports = free_ports(2);
        let (port, controller) = (ports[0], ports[1]);
        let data = folder.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             log.dirs={}\nnum.partitions=1\nauto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\nshare.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
             log.retention.ms=-1\nlog.retention.bytes=-1\nlog.index.size.max.bytes=1048576\n",
            data.display()
        );
        let config = folder.path().join("server.properties");
        fs::write(&config, properties).expect("the configuration can be written");
        let jars = jars();
        let formatted = java(&jars)
            .args(["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c"])
            .arg(&config)
            .output()
            .expect("java is installed");
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let process = Self::launch(folder.path(), 0);
        Self { process, folder, port, starts: 0 }
    }

    fn launch(folder: &Path, start: u32) -> Process {
        let mut command = java(&jars());
        command.arg("kafka.Kafka").arg(folder.join("server.properties"));
        let log = folder.join(format!("broker-{start}.log"));
        let mut process = Process::start(command, &log);
        for _ in 0..1200 {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.contains("Kafka Server started") {
                return process;
            }
            assert!(process.is_running(), "Kafka ended: {text}");
            sleep(Duration::from_millis(50));
        }
        panic!("Kafka is not ready after a minute: {}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// `kafka://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`KafkaServer::kill`], on the same data and port.
    pub fn restart(&mut self) {
        self.process.kill();
        self.starts += 1;
        self.process = Self::launch(self.folder.path(), self.starts);
    }
}
