//! All flows of a mirror and the handle to them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use herdsman_bus::{Bus, BusError};
use herdsman_host::{Clock, RealClock};
use herdsman_kafka::{KafkaBus, KafkaOptions};

use crate::flow::{Connect, Flow};
use crate::stats::Counters;
use crate::{MirrorConfig, MirrorStats};

/// A write that takes longer counts as a cluster that is away.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// A running mirror: one thread per ordered pair of clusters. Dropping it stops it.
pub struct Mirror {
    flows: Vec<Running>,
    stop: Arc<AtomicBool>,
}

struct Running {
    source: String,
    target: String,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("flows", &self.flows.len()).finish_non_exhaustive()
    }
}

impl Mirror {
    /// Starts mirroring between the clusters of `config`. Clusters that are away are waited for.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(config: MirrorConfig) -> std::io::Result<Self> {
        let clusters = config.clusters.clone();
        let connect = move |name: &str| -> Result<Arc<dyn Bus>, BusError> {
            let cluster = clusters.get(name).ok_or_else(|| BusError::Unavailable {
                bus: name.to_owned(),
                reason: "no such cluster in the mirror configuration".to_owned(),
            })?;
            let mut options = KafkaOptions { delivery_timeout: DELIVERY_TIMEOUT, ..KafkaOptions::default() };
            options.properties.insert("queued.max.messages.kbytes".to_owned(), "16384".to_owned());
            options.properties.extend(cluster.properties.clone());
            Ok(Arc::new(KafkaBus::connect(&format!("kafka://{}", cluster.bootstrap), options)?))
        };
        Self::start_with(config, connect, RealClock::shared())
    }

    /// Starts mirroring between buses that `connect` opens by cluster name.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start_with(
        config: MirrorConfig,
        connect: impl Fn(&str) -> Result<Arc<dyn Bus>, BusError> + Send + Sync + 'static,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let config = Arc::new(config);
        let connect: Arc<Connect> = Arc::new(connect);
        let mut mirror = Self { flows: Vec::new(), stop: Arc::new(AtomicBool::new(false)) };
        for source in config.clusters.keys() {
            for target in config.clusters.keys().filter(|target| *target != source) {
                let counters = Arc::new(Counters::default());
                let flow = Flow {
                    source: source.clone(),
                    target: target.clone(),
                    config: Arc::clone(&config),
                    connect: Arc::clone(&connect),
                    counters: Arc::clone(&counters),
                    stop: Arc::clone(&mirror.stop),
                    clock: Arc::clone(&clock),
                };
                let thread = std::thread::Builder::new()
                    .name(format!("mirror {source} {target}"))
                    .spawn(move || flow.run())?;
                mirror.flows.push(Running {
                    source: source.clone(),
                    target: target.clone(),
                    counters,
                    thread: Some(thread),
                });
            }
        }
        Ok(mirror)
    }

    /// What the flows did so far.
    #[must_use]
    pub fn stats(&self) -> MirrorStats {
        let flows = self.flows.iter().map(|flow| flow.counters.snapshot(&flow.source, &flow.target));
        MirrorStats { flows: flows.collect() }
    }

    /// Stops all flows after their current round, their progress committed.
    pub fn stop(mut self) -> MirrorStats {
        self.join();
        self.stats()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for flow in &mut self.flows {
            if let Some(thread) = flow.thread.take()
                && thread.join().is_err()
            {
                flow.counters.failed("the flow's thread panicked: please report this".to_owned());
            }
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.join();
    }
}
