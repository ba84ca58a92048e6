//! Kafka's own performance tools, fetched with Maven once.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::Failure;

/// Apache Kafka's version.
const VERSION: &str = "4.3.1";
const POM: &str = r"<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>herdsman.bench</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.3.1</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>4.3.1</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
";

/// What a client saw.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) records: u64,
    pub(super) records_per_s: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// Folder of Kafka's jars.
pub(super) struct Jars(PathBuf);

impl Jars {
    /// The jars, from the cache of an earlier run or from Maven.
    pub(super) fn fetch() -> Result<Self, Failure> {
        for program in ["java", "mvn"] {
            if Command::new(program)
                .arg("-version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                return Err(Failure::new(format!("no {program} here: install a Java 17 runtime and Maven")));
            }
        }
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("herdsman");
        fs::create_dir_all(&cache)?;
        let folder = cache.join(format!("bench-kafka-{VERSION}"));
        if !folder.exists() {
            let work = tempfile::TempDir::new_in(&cache)?;
            fs::write(work.path().join("pom.xml"), POM)?;
            let libs = work.path().join("libs");
            let mut maven = Command::new("mvn");
            maven.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
            maven.arg(format!("-DoutputDirectory={}", libs.display())).current_dir(work.path());
            if !maven.stdout(Stdio::null()).status()?.success() {
                return Err(Failure::new(format!("Maven could not fetch Apache Kafka {VERSION}")));
            }
            fs::rename(&libs, &folder)?;
        }
        Ok(Self(folder))
    }

    /// `java` with Kafka's classes and `heap`, as `kafka-run-class.sh` starts it.
    pub(super) fn java(&self, heap: &str) -> Command {
        let mut command = Command::new("java");
        command.args([&format!("-Xmx{heap}"), &format!("-Xms{heap}"), "-server", "-XX:+UseG1GC"]);
        command.args(["-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"]);
        command.args(["-XX:+ExplicitGCInvokesConcurrent", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
        command.arg("-cp").arg(format!("{}/*", self.0.display()));
        command
    }

    fn tool<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        class: &str,
        args: I,
    ) -> Result<String, Failure> {
        let output = self.java("512m").arg(class).args(args).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::new(format!("{class} failed: {}", reason.lines().next().unwrap_or("without a word"))))
    }

    /// Sends `records` of 100 bytes, at most `rate` a second.
    pub(super) fn produce(
        &self,
        address: &str,
        topic: &str,
        records: u64,
        codec: &str,
        rate: Option<u64>,
    ) -> Result<Seen, Failure> {
        let throughput = rate.map_or("-1".to_owned(), |rate| rate.to_string());
        let batch = if rate.is_some() { "batch.size=16384" } else { "batch.size=262144" };
        let codec = format!("compression.type={codec}");
        let properties = ["acks=all", "enable.idempotence=true", "linger.ms=5", batch, &codec];
        let count = records.to_string();
        // what the tool's own virtual machine takes to warm up is no latency of the server's
        let warm_up = (records / 4).to_string();
        let args = ["--bootstrap-server", address, "--topic", topic, "--record-size", "100"];
        let args = args.into_iter().chain(["--num-records", &count, "--throughput", &throughput]);
        let args = args.chain(["--warmup-records", &warm_up].into_iter().filter(|_| rate.is_some()));
        let args = args.chain(["--command-property"]).chain(properties);
        let text = self.tool("org.apache.kafka.tools.ProducerPerformance", args)?;
        let last = text.lines().rev().find(|line| line.contains("99.9th")).unwrap_or_default();
        // 4000000 records sent, 561404.2 records/sec (53.54 MB/sec), 9.1 ms avg latency, 259.00 ms max latency,
        // 1 ms 50th, 62 ms 95th, 109 ms 99th, 119 ms 99.9th.
        let number = |after: &str| {
            let part = last.split(", ").find(|part| part.contains(after))?;
            part.split(' ').next()?.parse::<f64>().ok()
        };
        match (number("records sent"), number("records/sec")) {
            (Some(sent), Some(per_s)) if sent > 0.0 && sent as u64 <= records => Ok(Seen {
                records,
                records_per_s: per_s,
                p50_ms: rate.and(number("ms 50th")),
                p99_ms: rate.and(number("ms 99th")),
            }),
            _ => Err(Failure::new(format!("ProducerPerformance did not send {records} records: {last}"))),
        }
    }

    /// Reads `records` from the beginning.
    pub(super) fn consume(&self, address: &str, topic: &str, records: u64) -> Result<Seen, Failure> {
        let count = records.to_string();
        let args =
            ["--bootstrap-server", address, "--topic", topic, "--num-records", &count, "--hide-header"];
        let text = self.tool("org.apache.kafka.tools.ConsumerPerformance", args)?;
        // start, end, MB, MB/s, records, records/s, rebalance ms, fetch ms, fetch MB/s, fetch records/s
        let numbers: Vec<f64> = text
            .lines()
            .rev()
            .find(|line| line.starts_with("20") && line.split(", ").count() >= 10)
            .map(|line| line.split(", ").skip(2).filter_map(|field| field.trim().parse().ok()).collect())
            .unwrap_or_default();
        match (numbers.get(2), numbers.get(7)) {
            (Some(read), Some(per_s)) if *read as u64 >= records => {
                Ok(Seen { records: *read as u64, records_per_s: *per_s, ..Seen::default() })
            }
            _ => Err(Failure::new(format!("ConsumerPerformance did not read {records} records: {text}"))),
        }
    }
}
