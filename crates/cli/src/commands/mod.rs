//! One file per command.

pub mod bench;
pub mod consume;
pub mod doctor;
pub mod group;
pub mod guard;
pub mod hunt;
pub mod mirror;
pub mod produce;
pub mod route;
pub mod serve;
pub mod sql;
pub mod test;
pub mod topic;

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use herdsman_bus::{Bus, BusError};
use herdsman_kafka::{KafkaBus, KafkaOptions};

use crate::failure::Failure;

/// Where a running cluster is.
#[derive(Args, Clone)]
pub struct Cluster {
    /// Address of a Kafka listener (Herdsman's or Apache Kafka's)
    #[arg(
        long,
        env = "HERDSMAN_KAFKA",
        default_value = "127.0.0.1:9092",
        value_name = "ADDR",
        global = true
    )]
    pub kafka: String,
    /// User to log in as, where the listener asks for it; the password is taken from HERDSMAN_PASSWORD
    #[arg(long, env = "HERDSMAN_USER", value_name = "NAME", global = true)]
    pub user: Option<String>,
}

impl Cluster {
    /// Connects; a wrong address is answered within two seconds, with a right one if there is one at the usual place.
    pub fn connect(&self) -> Result<Arc<dyn Bus>, Failure> {
        self.connect_with(KafkaOptions::default())
    }

    /// The same for someone who waits: what a broker refuses is told after some tries, with its reason.
    pub fn connect_impatiently(&self) -> Result<Arc<dyn Bus>, Failure> {
        let properties = BTreeMap::from([("retries".to_owned(), TRIES_OF_THE_IMPATIENT.to_owned())]);
        self.connect_with(KafkaOptions { properties, ..KafkaOptions::default() })
    }

    fn connect_with(&self, mut options: KafkaOptions) -> Result<Arc<dyn Bus>, Failure> {
        if let Some(user) = &self.user {
            options.properties.extend(self.login(user)?);
        }
        match KafkaBus::connect(&self.kafka, options) {
            Ok(bus) => Ok(Arc::new(bus)),
            Err(BusError::Unavailable { reason, .. }) => Err(Failure::new(reason)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Cluster {
    /// Settings of a login by PLAIN: this client has no TLS, so the password stays on this machine.
    fn login(&self, user: &str) -> Result<BTreeMap<String, String>, Failure> {
        let mut resolved =
            self.kafka.split(',').flat_map(|one| one.trim().to_socket_addrs().into_iter().flatten());
        if let Some(far) = resolved.find(|address| !address.ip().is_loopback()) {
            return Err(Failure::usage(format!(
                "--user would show the password to everyone on the way to {far}: use a listener on 127.0.0.1, or a client with TLS"
            )));
        }
        let password = std::env::var("HERDSMAN_PASSWORD")
            .map_err(|_| Failure::usage(format!("no password for user {user}: set HERDSMAN_PASSWORD")))?;
        let settings = [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", user),
            ("sasl.password", &password),
        ];
        Ok(settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// With librdkafka's back-off (0.1 s, doubled up to 1 s) about four seconds.
const TRIES_OF_THE_IMPATIENT: &str = "6";

/// Port where a server's SQL usually is.
const USUAL_HTTP: u16 = 8088;

/// Nothing at `url` answers as a server: what was there instead, and which address would be right.
pub fn no_server(url: &str, error: &ureq::Error) -> Failure {
    let reason = match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        ureq::Error::Timeout(_) => "no answer".to_owned(),
        ureq::Error::Io(_) | ureq::Error::Protocol(_) => "something else than SQL listens there".to_owned(),
        other => other.to_string(),
    };
    let host = url.parse::<ureq::http::Uri>().ok().and_then(|uri| Some(uri.host()?.to_owned()));
    let usual = host.map(|host| format!("{host}:{USUAL_HTTP}")).filter(|usual| !url.ends_with(usual));
    let next = match usual.filter(|usual| answers(usual)) {
        Some(usual) => format!("one answers at http://{usual}: pass that address"),
        None => "start one with herdsman serve".to_owned(),
    };
    Failure::new(format!("no server at {url} ({reason}); {next}"))
}

fn answers(address: &str) -> bool {
    let mut resolved = address.to_socket_addrs().into_iter().flatten();
    resolved.any(|address| TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok())
}

/// The text of `file`; one that is not there is a wrong call, told with the nearest name in its folder.
pub fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::usage(herdsman_server::unreadable(file, &error)))
}
