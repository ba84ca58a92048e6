//! Native loads: Produce requests that were encoded once, and Fetch answers whose records nobody decodes.
//!
//! Produce 3 and Fetch 4, the oldest versions Apache Kafka 4 takes: a handful of fields in front of the batches
//! (<https://kafka.apache.org/protocol>).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use hdrhistogram::Histogram;
use herdsman_host::{Clock, RealClock};
use herdsman_record::{BatchBuilder, Compression};

use super::tools::Seen;
use crate::failure::Failure;

/// Topics have as many.
const PARTITIONS: usize = 4;
/// Bytes of a record's value, as in Kafka's own tools.
const VALUE_BYTES: usize = 100;
/// Most bytes of one Fetch answer.
const FETCH_BYTES: i32 = 4 << 20;
/// Bytes in front of a batch's records, and where its length and its last offset delta stand.
const BATCH_HEADER: usize = 61;

/// A load of producers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Produce {
    /// Connections, each a thread and a producer of its own.
    pub(super) connections: usize,
    /// Records of each batch; one batch a request.
    pub(super) batch_records: u64,
    /// Requests of a connection that wait for their answer.
    pub(super) in_flight: usize,
}

impl Produce {
    /// Sends for `time`, everything acknowledged.
    pub(super) fn run(self, address: &str, topic: &str, time: Duration) -> Result<Seen, Failure> {
        let started = RealClock.monotonic_ns();
        let results =
            each(self.connections, |index| self.connection(address, topic, index % PARTITIONS, time));
        let mut latencies = Histogram::<u64>::new(3).map_err(Failure::new)?;
        let mut requests = 0;
        for result in results {
            let own = result?;
            requests += own.len();
            latencies.add(own).map_err(Failure::new)?;
        }
        let records = requests * self.batch_records;
        let ms = |quantile| Some(latencies.value_at_quantile(quantile) as f64 / 1e3);
        Ok(Seen {
            records,
            records_per_s: records as f64 * 1e9 / (RealClock.monotonic_ns() - started) as f64,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        })
    }

    /// One producer; latencies of its requests, microseconds.
    fn connection(
        self,
        address: &str,
        topic: &str,
        partition: usize,
        time: Duration,
    ) -> Result<Histogram<u64>, Failure> {
        let (mut builder, now_ms) = (BatchBuilder::new(), RealClock.now_ms());
        for record in 0..self.batch_records {
            let mut value = [b'A' + (record % 23) as u8; VALUE_BYTES];
            value[..8].copy_from_slice(&record.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            builder.append(now_ms, None, Some(&value), &[]);
        }
        let batch = builder.finish(Compression::None).map_err(Failure::new)?;
        let mut body = (-1_i16).to_be_bytes().to_vec(); // no transaction
        body.extend(1_i16.to_be_bytes()); // acks
        body.extend(30_000_i32.to_be_bytes());
        put_topic(&mut body, topic, partition);
        body.extend(i32::try_from(batch.bytes().len()).unwrap_or(i32::MAX).to_be_bytes());
        body.extend_from_slice(batch.bytes());
        let request = frame(0, 3, &body);
        let error_at = 4 + 4 + 2 + topic.len() + 4 + 4;
        let mut stream = connect(address)?;
        let mut latencies = Histogram::<u64>::new(3).map_err(Failure::new)?;
        let mut sent = std::collections::VecDeque::new();
        let (end, mut answer) = (RealClock.monotonic_ns() + nanos(time), Vec::new());
        while RealClock.monotonic_ns() < end || !sent.is_empty() {
            if RealClock.monotonic_ns() < end && sent.len() < self.in_flight {
                sent.push_back(RealClock.monotonic_ns());
                stream.write_all(&request)?;
                continue;
            }
            receive(&mut stream, &mut answer)?;
            let error = field::<2>(&answer, error_at).map(i16::from_be_bytes)?;
            if error != 0 {
                return Err(Failure::new(format!("{topic}-{partition} refused a batch with error {error}")));
            }
            if let Some(at) = sent.pop_front() {
                latencies.record((RealClock.monotonic_ns() - at) / 1_000).map_err(Failure::new)?;
            }
        }
        Ok(latencies)
    }
}

/// Reads all partitions of `topic` again and again for `time`, a connection each.
pub(super) fn fetch(address: &str, topic: &str, time: Duration) -> Result<Seen, Failure> {
    let started = RealClock.monotonic_ns();
    let mut records = 0;
    for result in each(PARTITIONS, |partition| fetch_partition(address, topic, partition, time)) {
        records += result?;
    }
    Ok(Seen {
        records,
        records_per_s: records as f64 * 1e9 / (RealClock.monotonic_ns() - started) as f64,
        ..Seen::default()
    })
}

fn fetch_partition(address: &str, topic: &str, partition: usize, time: Duration) -> Result<u64, Failure> {
    let mut stream = connect(address)?;
    let (end, mut answer) = (RealClock.monotonic_ns() + nanos(time), Vec::new());
    let (mut offset, mut records) = (0_i64, 0_u64);
    while RealClock.monotonic_ns() < end {
        let mut body = (-1_i32).to_be_bytes().to_vec(); // no replica
        [100, 1, FETCH_BYTES].iter().for_each(|field: &i32| body.extend(field.to_be_bytes()));
        body.push(0); // read uncommitted
        put_topic(&mut body, topic, partition);
        body.extend(offset.to_be_bytes());
        body.extend(FETCH_BYTES.to_be_bytes());
        stream.write_all(&frame(1, 4, &body))?;
        receive(&mut stream, &mut answer)?;
        let error_at = 4 + 4 + 4 + 2 + topic.len() + 4 + 4;
        let error = i16::from_be_bytes(field(&answer, error_at)?);
        if error != 0 {
            return Err(Failure::new(format!("{topic}-{partition} answered with error {error}")));
        }
        // behind the error: high watermark, last stable offset, aborted transactions (none), length of the batches
        let mut at = error_at + 2 + 8 + 8 + 4 + 4;
        let from = offset;
        while let (Ok(base), Ok(length)) = (field(&answer, at), field(&answer, at + 8)) {
            let next = at + 12 + usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
            if next > answer.len() || next < at + BATCH_HEADER {
                break; // the last batch may be cut off
            }
            let last_delta = i32::from_be_bytes(field(&answer, at + 23)?);
            offset = i64::from_be_bytes(base) + i64::from(last_delta) + 1;
            at = next;
        }
        records += u64::try_from(offset - from).unwrap_or(0);
        if offset == from {
            if offset == 0 {
                return Err(Failure::new(format!("{topic}-{partition} is empty")));
            }
            offset = 0;
        }
    }
    Ok(records)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs `work` on `count` threads.
fn each<T: Send>(count: usize, work: impl Fn(usize) -> Result<T, Failure> + Sync) -> Vec<Result<T, Failure>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn({
                    let work = &work;
                    move || work(index)
                })
            })
            .collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(Failure::new("a load thread panicked")))
        };
        threads.into_iter().map(ended).collect()
    })
}

fn connect(address: &str) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// One topic with one partition, up to the partition's own fields.
fn put_topic(body: &mut Vec<u8>, topic: &str, partition: usize) {
    body.extend(1_i32.to_be_bytes());
    body.extend(i16::try_from(topic.len()).unwrap_or(i16::MAX).to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(i32::try_from(partition).unwrap_or(0).to_be_bytes());
}

/// A request with header version 1 and no client id.
fn frame(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut out = i32::try_from(body.len() + 10).unwrap_or(i32::MAX).to_be_bytes().to_vec();
    out.extend(api.to_be_bytes());
    out.extend(version.to_be_bytes());
    out.extend(1_i32.to_be_bytes());
    out.extend((-1_i16).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// One answer, its length left out, over `answer`.
fn receive(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<(), Failure> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    answer.resize(usize::try_from(i32::from_be_bytes(length)).unwrap_or(0), 0);
    stream.read_exact(answer)?;
    Ok(())
}

/// `N` bytes at `at`.
fn field<const N: usize>(answer: &[u8], at: usize) -> Result<[u8; N], Failure> {
    let bytes = answer.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| {
        Failure::new(format!("an answer of {} bytes ends before byte {}", answer.len(), at + N))
    })
}
