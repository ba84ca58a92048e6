//! What can keep a server from starting or serving; each message is one line that says what to do next.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the house cannot open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The configuration file cannot be read.
    #[error("{0}")]
    NoConfig(String),
    /// The configuration cannot be used.
    #[error("{place}: {reason}")]
    Config {
        /// File or variable.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A listener on a reachable address without authentication.
    #[error(
        "refusing to listen on {0} without authentication: listen on 127.0.0.1, ask for a login in [[listeners]] of the configuration, or say --allow-anonymous"
    )]
    OpenAddress(SocketAddr),
    /// The port is taken.
    #[error("cannot listen on {address}: {holder}; stop that, or pass {flag} {other}")]
    PortInUse {
        /// Address asked for.
        address: SocketAddr,
        /// Who holds it, as far as the system tells.
        holder: String,
        /// The flag that would change it.
        flag: &'static str,
        /// A free address.
        other: SocketAddr,
    },
    /// The address cannot be used at all.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address asked for.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The broker cannot start.
    #[error(transparent)]
    Broker(#[from] herdsman_broker::BrokerError),
    /// The bus refuses.
    #[error(transparent)]
    Bus(#[from] herdsman_bus::BusError),
    /// A cache behind the guard cannot be used.
    #[error("cache {name}: {reason}")]
    Cache {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The stream runtime cannot start.
    #[error("streams: {0}")]
    Runtime(String),
    /// The SQL engine cannot start.
    #[error("sql: {0}")]
    Sql(String),
    /// A route file is refused.
    #[error("{0}")]
    Routes(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}
