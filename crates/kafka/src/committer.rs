//! Outputs and input offsets in one Kafka transaction.

use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::{BusError, Committer};
use herdsman_record::{Batch, TopicPartition};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::bus::Shared;
use crate::dedupe::{Filtered, TopicDedupe};
use crate::delivery::{Producer, Reports, Ticket, send};
use crate::error::{is_fenced, unavailable};

/// Tries of one commit after aborted transactions.
const TRIES_MAX: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(30);

/// A transactional producer.
pub(crate) struct KafkaCommitter {
    shared: Arc<Shared>,
    id: String,
    config: ClientConfig,
    /// `None` after a fatal error, until the next commit makes a new one.
    producer: Option<Producer>,
    fenced: bool,
}

/// How a try ended, if not well.
enum Failed {
    /// The transaction was aborted, or has to be: nothing of it stands.
    Abort(BusError),
    /// The producer is of no more use.
    Fatal(BusError),
}

impl KafkaCommitter {
    pub(crate) fn new(shared: Arc<Shared>, id: &str, mut config: ClientConfig) -> Result<Self, BusError> {
        config.set("transactional.id", id).set("transaction.timeout.ms", "60000");
        let mut committer = Self { shared, id: id.to_owned(), config, producer: None, fenced: false };
        committer.producer = Some(committer.open()?);
        Ok(committer)
    }

    /// A producer that owns the transactional id; fences earlier owners.
    fn open(&self) -> Result<Producer, BusError> {
        let what = format!("opening transactions of {}", self.id);
        let failed = |error: KafkaError| unavailable(&self.shared.url, &what, &error);
        let producer: Producer = self.config.create_with_context(Reports).map_err(failed)?;
        retry(|| producer.init_transactions(TIMEOUT)).map_err(failed)?;
        Ok(producer)
    }

    fn sort(&self, what: &str, error: &KafkaError) -> Failed {
        if error.rdkafka_error_code().is_some_and(is_fenced) {
            return Failed::Fatal(BusError::Fenced(self.id.clone()));
        }
        let told = unavailable(&self.shared.url, what, error);
        match error {
            KafkaError::Transaction(error) if error.is_fatal() => Failed::Fatal(told),
            _ => Failed::Abort(told),
        }
    }

    fn attempt(
        &self,
        producer: &Producer,
        outputs: &[(TopicPartition, Batch)],
        filtered: &[Option<Filtered>],
        group: &str,
        offsets: &TopicPartitionList,
    ) -> Result<Vec<i64>, Failed> {
        retry(|| producer.begin_transaction())
            .map_err(|error| self.sort("beginning a transaction", &error))?;
        let mut tickets = Vec::with_capacity(outputs.len());
        for ((at, batch), filtered) in outputs.iter().zip(filtered) {
            let ticket = Arc::new(Ticket::default());
            let fresh = filtered.as_ref().map(|filtered| &filtered.fresh);
            send(&self.shared.url, producer, at, batch, fresh, &ticket)
                .map_err(|error| self.fatal(producer, error))?;
            tickets.push(ticket);
        }
        let mut bases = Vec::with_capacity(outputs.len());
        for ((at, _), ticket) in outputs.iter().zip(&tickets) {
            let base = ticket.wait().map_err(|code| {
                let told = crate::error::write_failed(&self.shared.url, at, code);
                if is_fenced(code) {
                    Failed::Fatal(BusError::Fenced(self.id.clone()))
                } else {
                    self.fatal(producer, told)
                }
            })?;
            bases.push(base);
        }
        if offsets.count() > 0 {
            let metadata = self.shared.group_metadata(group).map_err(Failed::Abort)?;
            retry(|| producer.send_offsets_to_transaction(offsets, &metadata, TIMEOUT))
                .map_err(|error| self.sort("sending input offsets", &error))?;
        }
        retry(|| producer.commit_transaction(TIMEOUT)).map_err(|error| self.sort("committing", &error))?;
        Ok(bases)
    }

    /// A failed send: fatal if the producer is fenced or broken, else the transaction is to be aborted.
    fn fatal(&self, producer: &Producer, error: BusError) -> Failed {
        match producer.client().fatal_error() {
            Some((code, _)) if is_fenced(code) => Failed::Fatal(BusError::Fenced(self.id.clone())),
            Some(_) => Failed::Fatal(error),
            None => Failed::Abort(error),
        }
    }

    fn run(
        &mut self,
        outputs: &[(TopicPartition, Batch)],
        filtered: &[Option<Filtered>],
        group: &str,
        offsets: &TopicPartitionList,
    ) -> Result<Vec<i64>, BusError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let producer = match self.producer.take() {
                Some(producer) => producer,
                None => self.open()?,
            };
            match self.attempt(&producer, outputs, filtered, group, offsets) {
                Ok(bases) => {
                    self.producer = Some(producer);
                    return Ok(bases);
                }
                Err(Failed::Fatal(error)) => {
                    self.fenced = matches!(error, BusError::Fenced(_));
                    return Err(error);
                }
                Err(Failed::Abort(error)) => {
                    if let Err(abort) = retry(|| producer.abort_transaction(TIMEOUT)) {
                        if let Failed::Fatal(error) = self.sort("aborting a transaction", &abort) {
                            self.fenced = matches!(error, BusError::Fenced(_));
                            return Err(error);
                        }
                    } else {
                        self.producer = Some(producer);
                    }
                    let hopeless = matches!(error, BusError::UnknownTopic(_) | BusError::Refused(_));
                    if hopeless || tries >= TRIES_MAX {
                        return Err(error);
                    }
                    std::thread::sleep(RETRY_PAUSE * tries);
                }
            }
        }
    }
}

/// Repeats a call while librdkafka says that it may be repeated.
fn retry(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let mut tries = 0;
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && tries < TRIES_MAX => {
                tries += 1;
                std::thread::sleep(RETRY_PAUSE * tries);
            }
            result => return result,
        }
    }
}

impl Committer for KafkaCommitter {
    fn commit(
        &mut self,
        outputs: Vec<(TopicPartition, Batch)>,
        group: &str,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Vec<i64>, BusError> {
        if self.fenced {
            return Err(BusError::Fenced(self.id.clone()));
        }
        if outputs.is_empty() && offsets.is_empty() {
            return Ok(Vec::new());
        }
        let list = self.shared.offset_list(offsets, Offset::Offset)?;
        let windows: Vec<Option<Arc<TopicDedupe>>> =
            outputs.iter().map(|(at, _)| self.shared.dedupe(&at.topic)).collect::<Result<_, _>>()?;
        let mut filtered: Vec<Option<Filtered>> = Vec::with_capacity(outputs.len());
        for ((_, batch), window) in outputs.iter().zip(&windows) {
            let now_ms = self.shared.now_ms();
            filtered.push(window.as_ref().map(|window| window.lock().filter(batch, now_ms)).transpose()?);
        }
        let result = self.run(&outputs, &filtered, group, &list);
        if result.is_err() {
            for (window, filtered) in windows.iter().zip(&filtered) {
                if let (Some(window), Some(filtered)) = (window, filtered) {
                    window.lock().forget(filtered);
                }
            }
        }
        result
    }
}
