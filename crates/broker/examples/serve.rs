//! Serves one data folder over the Kafka protocol: `serve DIR PORT [NAME=VALUE…]`.
//!
//! Prints `ready 127.0.0.1:PORT` and runs until it is killed. The broker's tests kill it without notice; it is also the
//! smallest whole broker one can run. `NAME=VALUE` are default topic configs, except for these:
//!
//! | name | value |
//! |---|---|
//! | `listener` | one more: `SASL_SSL:9093`; encrypted ones use the files of `tls` |
//! | `tls` | a folder with `server.pem`, `server.key` and, for clients, `ca.pem` |
//! | `client.auth` | `required` or `requested`: clients show certificates |
//! | `user` | one more, `name:password` |
//! | `authorizer` | `true`: ACLs decide |
//! | `super` | one more super user, `User:name` |
//! | `reauth.ms` | how long a login is good |

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use herdsman_broker::{Broker, BrokerConfig, Secret, SecurityConfig};
use herdsman_host::{RealClock, RealDisk};
use herdsman_log::LogConfig;
use herdsman_wire::{ClientAuth, Limits, Listener, Protocol, Tls, TlsFiles};

type Failure = Box<dyn std::error::Error>;

/// What the `NAME=VALUE` say.
#[derive(Default)]
struct Settings {
    listeners: Vec<(Protocol, u16)>,
    tls: PathBuf,
    client_auth: ClientAuth,
    security: SecurityConfig,
    topic_defaults: BTreeMap<String, String>,
}

impl Settings {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "listener" => {
                let (protocol, port) = value.split_once(':').ok_or("listener=PROTOCOL:PORT")?;
                self.listeners.push((protocol.parse()?, port.parse()?));
            }
            "tls" => self.tls = value.into(),
            "client.auth" if value == "required" => self.client_auth = ClientAuth::Required,
            "client.auth" => self.client_auth = ClientAuth::Requested,
            "user" => {
                let (user, password) = value.split_once(':').ok_or("user=NAME:PASSWORD")?;
                self.security.users.push((user.to_owned(), Secret::new(password)));
            }
            "authorizer" => self.security.authorizer = value.parse()?,
            "super" => self.security.super_users.push(value.to_owned()),
            "reauth.ms" => self.security.reauth_max_ms = value.parse()?,
            _ => drop(self.topic_defaults.insert(name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    fn listener(&self, protocol: Protocol) -> Result<Listener, Failure> {
        let files = TlsFiles {
            certificate: self.tls.join("server.pem"),
            key: self.tls.join("server.key"),
            client_ca: (self.client_auth != ClientAuth::None).then(|| self.tls.join("ca.pem")),
            client_auth: self.client_auth,
        };
        let tls = protocol.is_encrypted().then(|| Tls::open(files)).transpose()?;
        Ok(Listener { protocol, tls, ..Listener::default() })
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: serve DIR PORT [NAME=VALUE…]";
    let dir = PathBuf::from(arguments.next().ok_or(usage)?);
    let port: u16 = arguments.next().ok_or(usage)?.parse()?;
    let mut settings = Settings::default();
    for argument in arguments {
        let (name, value) = argument.split_once('=').ok_or(usage)?;
        settings.set(name, value)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async move {
        let log_config =
            LogConfig { topic_defaults: settings.topic_defaults.clone(), ..LogConfig::default() };
        let config = BrokerConfig { security: settings.security.clone(), ..BrokerConfig::default() };
        let (broker, recovery) =
            Broker::open(Arc::new(RealDisk), &dir, RealClock::shared(), log_config, config)?;
        for note in recovery.notes {
            eprintln!("{note}");
        }
        let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let ready = socket.local_addr()?;
        let mut sockets = vec![(socket, Arc::default())];
        for (protocol, port) in &settings.listeners {
            let socket = tokio::net::TcpListener::bind(("127.0.0.1", *port)).await?;
            sockets.push((socket, Arc::new(settings.listener(*protocol)?)));
        }
        println!("ready {ready}");
        let (_stop, shutdown) = tokio::sync::watch::channel(false);
        Arc::new(broker).serve_all(sockets, Limits::default(), shutdown).await?;
        Ok(())
    })
}
