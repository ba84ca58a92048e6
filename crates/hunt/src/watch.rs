//! The watch: when does an event's result become visible?
//!
//! Measured on public features only. Every persistent query is a consumer group that commits its input offsets
//! together with its output. An event is *through* once every query that reads the check-ins has committed past it,
//! and *visible* once the second stages of those queries (their repartition topics) have committed what stood there
//! at that moment. Latency is that moment less the event's arrival, weighted by events; polled every millisecond.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use herdsman_bus::{Bus, BusError};
use herdsman_host::Clock;
use herdsman_record::TopicPartition;

use crate::feed::{CHECKINS, Flow};

/// Events that went into one partition together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Partition of the check-ins.
    pub partition: usize,
    /// Offset after the last of them.
    pub next_offset: i64,
    /// How many.
    pub events: u64,
    /// When the first of them arrived, monotonic ns.
    pub arrived_ns: u64,
}

/// The queue from feed to watch; bounded by the feed's in-flight limit.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Mutex<VecDeque<Arrival>>>);

impl Arrivals {
    /// Adds one arrival.
    pub fn push(&self, arrival: Arrival) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(arrival);
    }

    fn drain(&self) -> Vec<Arrival> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// One persistent query that reads the check-ins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its consumer group.
    pub group: String,
    /// Its repartition topics with their number of partitions.
    pub repartitions: Vec<(String, i32)>,
}

/// Follows the queries' commits and keeps the latency histogram.
pub struct Watch {
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    flow: Arc<Flow>,
    arrivals: Arrivals,
    readings: Vec<Reading>,
    partitions: Vec<TopicPartition>,
    pending: Vec<VecDeque<Arrival>>,
    through: VecDeque<Through>,
    latency_us: Histogram<u64>,
    /// Latencies of events that arrived before this are not kept (warm-up of a benchmark), monotonic ns.
    counted_from_ns: u64,
}

/// Events whose first stage is done, and the marks that the second stages must pass.
struct Through {
    arrivals: Vec<Arrival>,
    marks: Vec<Mark>,
}

struct Mark {
    group: usize,
    at: TopicPartition,
    offset: i64,
}

/// Latencies of the events that became visible, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

impl Watch {
    /// A watch over `readings` of the check-ins' `partitions` partitions.
    pub fn new(
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        flow: Arc<Flow>,
        arrivals: Arrivals,
        readings: Vec<Reading>,
        partitions: i32,
    ) -> Self {
        let partitions: Vec<_> =
            (0..partitions).map(|partition| TopicPartition::new(CHECKINS, partition)).collect();
        Self {
            bus,
            clock,
            flow,
            arrivals,
            readings,
            pending: vec![VecDeque::new(); partitions.len()],
            partitions,
            through: VecDeque::new(),
            latency_us: Histogram::new(3).expect("3 significant digits are allowed"),
            counted_from_ns: 0,
        }
    }

    /// Keeps no latency of events that arrived before `monotonic_ns`.
    #[must_use]
    pub fn counting_from(mut self, monotonic_ns: u64) -> Self {
        self.counted_from_ns = monotonic_ns;
        self
    }

    /// Looks once. Returns whether anything is still on its way.
    pub fn look(&mut self) -> Result<bool, BusError> {
        for arrival in self.arrivals.drain() {
            if let Some(queue) = self.pending.get_mut(arrival.partition) {
                queue.push_back(arrival);
            }
        }
        self.advance_first_stage()?;
        self.advance_second_stage()?;
        Ok(!self.through.is_empty() || self.pending.iter().any(|queue| !queue.is_empty()))
    }

    fn advance_first_stage(&mut self) -> Result<(), BusError> {
        if self.pending.iter().all(VecDeque::is_empty) {
            return Ok(());
        }
        let mut done = vec![i64::MAX; self.partitions.len()];
        for reading in &self.readings {
            let committed = self.bus.committed(&reading.group, &self.partitions)?;
            for (least, offset) in done.iter_mut().zip(committed) {
                *least = (*least).min(offset.unwrap_or(0));
            }
        }
        let mut arrivals = Vec::new();
        for (queue, done) in self.pending.iter_mut().zip(done) {
            while let Some(arrival) = queue.pop_front_if(|arrival| arrival.next_offset <= done) {
                arrivals.push(arrival);
            }
        }
        if !arrivals.is_empty() {
            let marks = self.marks()?;
            self.through.push_back(Through { arrivals, marks });
        }
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Mark>, BusError> {
        let mut marks = Vec::new();
        for (group, reading) in self.readings.iter().enumerate() {
            for (topic, partitions) in &reading.repartitions {
                for partition in 0..*partitions {
                    let at = TopicPartition::new(topic.as_str(), partition);
                    let offset = self.bus.offsets(&at)?.end;
                    marks.push(Mark { group, at, offset });
                }
            }
        }
        Ok(marks)
    }

    fn advance_second_stage(&mut self) -> Result<(), BusError> {
        while let Some(first) = self.through.front_mut() {
            let mut open = Vec::new();
            for mark in first.marks.drain(..) {
                let group = self.readings.get(mark.group).map_or("", |reading| reading.group.as_str());
                let committed = self.bus.committed(group, std::slice::from_ref(&mark.at))?;
                let reached = committed.first().copied().flatten().unwrap_or(0) >= mark.offset;
                if !reached {
                    open.push(mark);
                }
            }
            first.marks = open;
            if !first.marks.is_empty() {
                return Ok(());
            }
            let now_ns = self.clock.monotonic_ns();
            for arrival in self.through.pop_front().into_iter().flat_map(|through| through.arrivals) {
                let micros = now_ns.saturating_sub(arrival.arrived_ns) / 1_000;
                if arrival.arrived_ns >= self.counted_from_ns {
                    let _ = self.latency_us.record_n(micros.max(1), arrival.events);
                }
                self.flow.visible.fetch_add(arrival.events, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Looks every millisecond until `finished` says so and nothing is on its way, or until `give_up` says so.
    pub fn run(&mut self, finished: impl Fn() -> bool, give_up: impl Fn() -> bool) -> Result<(), BusError> {
        loop {
            let ending = finished();
            let open = self.look()?;
            if (ending && !open) || give_up() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Percentiles so far.
    #[must_use]
    pub fn latency(&self) -> Latency {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of hours fit")]
        let ms = |value: u64| value as f64 / 1_000.0;
        Latency {
            p50: ms(self.latency_us.value_at_quantile(0.50)),
            p99: ms(self.latency_us.value_at_quantile(0.99)),
            p999: ms(self.latency_us.value_at_quantile(0.999)),
            max: ms(self.latency_us.max()),
        }
    }
}
