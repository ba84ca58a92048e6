//! Addresses and settings of a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use herdsman_bus::BusError;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// Longest wait for one TCP connection while connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

/// How to talk to a cluster. `Debug` names the properties but never their values, which may be secrets.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Codec of produced batches: `none`, `lz4`, `zstd`, `snappy` or `gzip`.
    pub compression: String,
    /// Replicas of created topics; −1 is the cluster's default.
    pub replication_factor: i32,
    /// How long a write may take before it counts as failed.
    pub delivery_timeout: Duration,
    /// How long other requests may take.
    pub request_timeout: Duration,
    /// More librdkafka settings (`security.protocol`, `sasl.username` …), applied last.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("compression", &self.compression)
            .field("replication_factor", &self.replication_factor)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            compression: "none".to_owned(),
            replication_factor: -1,
            delivery_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }
}

/// `host:port` pairs of `kafka://host:port,host:port`.
pub(crate) fn addresses(url: &str) -> Result<Vec<String>, BusError> {
    let list = url.strip_prefix("kafka://").unwrap_or(url).trim_end_matches('/');
    let found: Vec<String> =
        list.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
    let has_port = |one: &String| one.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !found.is_empty() && found.iter().all(has_port) {
        return Ok(found);
    }
    Err(BusError::Unavailable {
        bus: url.to_owned(),
        reason: "is no Kafka address: write kafka://host:port, several separated by commas".to_owned(),
    })
}

/// Makes sure that at least one address accepts connections, so that a wrong one is known at once.
pub(crate) fn probe(url: &str, addresses: &[String]) -> Result<(), BusError> {
    let mut refused = Vec::new();
    for address in addresses {
        match try_connect(address) {
            Ok(()) => return Ok(()),
            Err(reason) => refused.push(format!("no Kafka listener at {address} ({reason})")),
        }
    }
    let mut reason = refused.join("; ");
    let usual = addresses
        .iter()
        .filter_map(|address| address.rsplit_once(':'))
        .map(|(host, _)| format!("{host}:9092"));
    for address in usual.filter(|usual| !addresses.contains(usual)) {
        if try_connect(&address).is_ok() {
            reason.push_str(&format!("; one answers at {address}: pass that address"));
            break;
        }
    }
    Err(BusError::Unavailable { bus: url.to_owned(), reason })
}

fn try_connect(address: &str) -> Result<(), String> {
    let mut last = "name not found".to_owned();
    for resolved in address.to_socket_addrs().map_err(|error| error.to_string())? {
        match TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => {
                last = match error.kind() {
                    io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                    io::ErrorKind::TimedOut => "no answer".to_owned(),
                    _ => error.to_string(),
                }
            }
        }
    }
    Err(last)
}

/// Settings that all clients of a bus share.
pub(crate) fn client(addresses: &[String], options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", addresses.join(","))
        .set("client.id", "herdsman")
        .set("allow.auto.create.topics", "false")
        .set("socket.nagle.disable", "true")
        .set("topic.metadata.refresh.fast.interval.ms", "50")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000");
    // what fails is told by errors; librdkafka's own lines would go straight to the terminal
    config.set_log_level(RDKafkaLogLevel::Emerg);
    for (name, value) in &options.properties {
        config.set(name, value);
    }
    config
}

/// Settings of a reader: big queue and short back-off, measured 384 k/s → 1.2 M/s with them.
pub(crate) fn consumer(addresses: &[String], options: &KafkaOptions, group: &str) -> ClientConfig {
    let mut config = client(addresses, options);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.queue.backoff.ms", "2")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "100")
        .set("check.crcs", "true");
    config
}

/// Largest record sent at all, bytes: what fits into one request of a broker with its defaults.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Settings of a producer.
pub(crate) fn producer(addresses: &[String], options: &KafkaOptions) -> ClientConfig {
    let mut config = client(addresses, options);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "1")
        // the broker's own limit decides, and its answer names both numbers
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        .set("batch.num.messages", "100000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "131072")
        .set("compression.codec", &options.compression)
        .set("message.timeout.ms", options.delivery_timeout.as_millis().to_string());
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let mut options = KafkaOptions::default();
        options.properties.insert("sasl.password".to_owned(), "canary".to_owned());
        let printed = format!("{options:?}");
        assert!(printed.contains("sasl.password") && !printed.contains("canary"), "{printed}");
    }
}
