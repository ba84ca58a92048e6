//! The open house: bus, caches, streams, SQL, routes and listeners of one process, wired here and nowhere else.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herdsman_broker::{Broker, BrokerConfig, EmbeddedBus};
use herdsman_bus::Bus;
use herdsman_guard::Guard;
use herdsman_host::{Clock, RealDisk};
use herdsman_kafka::KafkaBus;
use herdsman_log::LogConfig;
use herdsman_routes::{RouteSet, RoutesHandle};
use herdsman_sql::{Engine, EngineConfig};
use herdsman_stream::runtime::{CacheLookup, Runtime, RuntimeConfig};
use herdsman_wire::{Listener, Protocol};
use tokio::sync::watch;

use crate::caches;
use crate::config::Config;
use crate::error::ServerError;
use crate::http;
use crate::listen;

/// How often the log's retention, checkpoints and timed syncs are looked at.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(1);

/// Everything that runs in one process. Closed by [`House::close`].
pub struct House {
    bus: Arc<dyn Bus>,
    broker: Option<Arc<Broker>>,
    engine: Arc<Engine>,
    runtime: Runtime,
    guards: BTreeMap<String, Guard>,
    routes: Vec<RoutesHandle>,
    clock: Arc<dyn Clock>,
    kafka: Vec<(Protocol, SocketAddr)>,
    http: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    network: Option<tokio::runtime::Runtime>,
    recovery: Vec<String>,
}

impl House {
    /// Opens the data folder (or connects to the cluster), starts caches, streams, SQL, listeners and routes.
    ///
    /// # Errors   [`ServerError`], one line each; nothing is left running then.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, ServerError> {
        config.check_addresses()?;
        let kafka_listeners = bind_kafka(config)?;
        let http_listener = config.http.map(|address| listen::bind(address, "--http")).transpose()?;
        let mut recovery = Vec::new();
        let (bus, broker) = open_bus(config, &clock, &mut recovery)?;
        let mut guards = BTreeMap::new();
        let mut behind: HashMap<String, Arc<dyn CacheLookup>> = HashMap::new();
        for (name, cache) in &config.caches {
            let guard = caches::open(name, cache, &config.data, &clock)?;
            behind.insert(name.clone(), Arc::new(guard.clone()));
            guards.insert(name.clone(), guard);
        }
        let streams =
            RuntimeConfig { threads: config.thread_count(), guards: behind, ..RuntimeConfig::default() };
        let runtime = Runtime::new(Arc::clone(&bus), Arc::clone(&clock), streams)
            .map_err(|error| ServerError::Runtime(error.to_string()))?;
        let settings = EngineConfig { default_partitions: config.partitions, ..EngineConfig::default() };
        let engine = Engine::new(Arc::clone(&bus), runtime.clone(), Arc::clone(&clock), settings)
            .map_err(|error| ServerError::Sql(error.to_string()))?;
        let (stop, stopping) = watch::channel(false);
        let network = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|error| ServerError::Runtime(error.to_string()))?;
        let mut house = Self {
            bus,
            broker,
            engine: Arc::new(engine),
            runtime,
            guards,
            routes: Vec::new(),
            clock,
            kafka: kafka_listeners
                .iter()
                .filter_map(|(socket, listener)| Some((listener.protocol, socket.local_addr().ok()?)))
                .collect(),
            http: http_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            stop,
            network: Some(network),
            recovery,
        };
        house.serve(kafka_listeners, http_listener, &stopping)?;
        if !config.routes.is_empty() {
            let set = RouteSet::load_all(&config.routes, &config.properties).map_err(routes_error)?;
            house.run_routes(set.with_root(&config.data))?;
        }
        Ok(house)
    }

    fn serve(
        &self,
        kafka: Vec<(std::net::TcpListener, Arc<Listener>)>,
        http: Option<std::net::TcpListener>,
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), ServerError> {
        let Some(network) = &self.network else { return Ok(()) };
        let _inside = network.enter();
        let convert = |listener: std::net::TcpListener| {
            let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
            tokio::net::TcpListener::from_std(listener)
                .map_err(|source| ServerError::Listen { address, source })
        };
        if let (false, Some(broker)) = (kafka.is_empty(), &self.broker) {
            let sockets: Result<Vec<_>, ServerError> =
                kafka.into_iter().map(|(socket, listener)| Ok((convert(socket)?, listener))).collect();
            let limits = herdsman_wire::Limits::default();
            let serving = Arc::clone(broker).serve_all(sockets?, limits, stopping.clone());
            network.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the Kafka listeners stopped");
                }
            });
        }
        if let Some(listener) = http {
            let listener = convert(listener)?;
            let state = http::Rooms {
                engine: Arc::clone(&self.engine),
                runtime: self.runtime.clone(),
                broker: self.broker.clone(),
                guards: self.guards.clone(),
            };
            network.spawn(http::serve(listener, state, stopping.clone()));
        }
        if let Some(broker) = self.broker.clone().filter(|_| self.kafka.is_empty()) {
            network.spawn(maintain(broker, stopping.clone()));
        }
        Ok(())
    }

    /// Runs a route set until the house closes.
    pub fn run_routes(&mut self, set: RouteSet) -> Result<(), ServerError> {
        let handle = herdsman_routes::run(set, Arc::clone(&self.bus), Arc::clone(&self.clock))
            .map_err(routes_error)?;
        self.routes.push(handle);
        Ok(())
    }

    /// The event bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// SQL.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The running queries.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Guards by the name of their cache.
    #[must_use]
    pub fn guards(&self) -> &BTreeMap<String, Guard> {
        &self.guards
    }

    /// The running route sets.
    #[must_use]
    pub fn routes(&self) -> &[RoutesHandle] {
        &self.routes
    }

    /// Where the first Kafka listener is.
    #[must_use]
    pub fn kafka(&self) -> Option<SocketAddr> {
        self.kafka.first().map(|(_, address)| *address)
    }

    /// Where Kafka clients can come in, and how.
    #[must_use]
    pub fn listeners(&self) -> &[(Protocol, SocketAddr)] {
        &self.kafka
    }

    /// Where the HTTP listener is.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// What opening the data folder found and mended, a sentence each.
    #[must_use]
    pub fn recovery(&self) -> &[String] {
        &self.recovery
    }

    /// What an acknowledgement means here.
    #[must_use]
    pub fn durability(&self) -> String {
        self.broker.as_ref().map_or_else(|| format!("{} decides", self.bus.url()), |broker| broker.url_line())
    }

    /// Stops listeners, routes and queries (each finishes what it has in hand and commits), then syncs the log.
    pub fn close(mut self) -> Result<(), ServerError> {
        let _ = self.stop.send(true);
        for routes in self.routes.drain(..) {
            routes.stop();
        }
        self.runtime.shutdown();
        if let Some(network) = self.network.take() {
            network.shutdown_timeout(Duration::from_secs(2));
        }
        if let Some(broker) = &self.broker {
            broker.report_repeats(true);
        }
        self.bus.sync()?;
        Ok(())
    }
}

/// What the Kafka listener does beside serving, for a broker without one.
async fn maintain(broker: Arc<Broker>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(MAINTENANCE_PERIOD) => {}
            _ = stopping.changed() => return,
        }
        let broker = Arc::clone(&broker);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || broker.maintain()).await {
            tracing::error!(%error, "maintenance failed");
        }
    }
}

/// Takes the sockets first, so that an address in use is told before anything is opened.
fn bind_kafka(config: &Config) -> Result<Vec<(std::net::TcpListener, Arc<Listener>)>, ServerError> {
    let listeners = config.open_listeners()?;
    listeners
        .into_iter()
        .map(|(address, listener)| Ok((listen::bind(address, "--kafka")?, listener)))
        .collect()
}

fn routes_error(error: impl std::fmt::Display) -> ServerError {
    ServerError::Routes(error.to_string())
}

type OpenBus = (Arc<dyn Bus>, Option<Arc<Broker>>);

fn open_bus(
    config: &Config,
    clock: &Arc<dyn Clock>,
    recovery: &mut Vec<String>,
) -> Result<OpenBus, ServerError> {
    if let Some(address) = config.bus.strip_prefix("kafka://") {
        if !config.listeners.is_empty() {
            return Err(ServerError::Config {
                place: "listeners".to_owned(),
                reason: format!(
                    "clients of {} talk to it: remove listeners, or use bus = \"embedded\"",
                    config.bus
                ),
            });
        }
        let bus = KafkaBus::connect(address, herdsman_kafka::KafkaOptions::default())?;
        return Ok((Arc::new(bus), None));
    }
    if config.bus != "embedded" {
        return Err(ServerError::Config {
            place: "bus".to_owned(),
            reason: format!("{} is neither embedded nor kafka://host:port", config.bus),
        });
    }
    let settings = BrokerConfig {
        num_partitions: config.partitions,
        security: config.security()?,
        ..BrokerConfig::default()
    };
    let log = LogConfig { topic_defaults: config.topic_defaults.clone(), ..LogConfig::default() };
    let (broker, found) = Broker::open(Arc::new(RealDisk), &config.data, Arc::clone(clock), log, settings)?;
    config.check_users(broker.has_users())?;
    recovery.extend(found.notes);
    let broker = Arc::new(broker);
    Ok((Arc::new(EmbeddedBus::new(Arc::clone(&broker), &config.data.display().to_string())), Some(broker)))
}
