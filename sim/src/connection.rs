//! A client's connection to a broker of this process: typed requests in, typed answers out, no socket, no runtime.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use herdsman_broker::Broker;
use herdsman_record::{Batch, RecordError, TopicPartition};
use herdsman_wire::kafka_protocol::messages::{ApiKey, RequestKind, TopicName};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Handler as _, Head, Peer, Reply, Request, ShareExtras};

/// A connection of a client without a login.
pub struct Connection {
    broker: Arc<Broker>,
    peer: Arc<Peer>,
}

impl Connection {
    /// Connects.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 9092));
        let peer = Peer { id: 0, remote: local, local, listener: Arc::default(), subject: None };
        Self { broker, peer: Arc::new(peer) }
    }

    /// Sends one request and reads the answer.
    ///
    /// # Errors
    /// The request waits for something: nothing here does.
    pub fn call(&self, api: ApiKey, version: i16, body: impl Into<RequestKind>) -> Result<Reply, String> {
        let head = Head { api_key: api as i16, api_version: version, correlation_id: 0, client_id: None };
        let request = Request { head, api, body: body.into(), share: ShareExtras::default() };
        let mut session = self.broker.connect(&self.peer);
        let answer = pin!(self.broker.handle(&self.peer, &mut session, request));
        match answer.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Ok(answer.reply),
            Poll::Pending => Err(format!("{api:?} is not answered")),
        }
    }
}

/// Text as the codec has it.
#[must_use]
pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// Name of a partition's topic.
#[must_use]
pub fn topic(at: &TopicPartition) -> TopicName {
    TopicName(text(&at.topic))
}

/// Topic configs from pairs.
#[must_use]
pub fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The batches of a partition's answer to Fetch.
///
/// # Errors
/// Bytes that are no batches, or whose CRC is wrong.
pub fn batches(records: Vec<Bytes>) -> Result<Vec<Batch>, RecordError> {
    let mut batches = Vec::new();
    for mut bytes in records {
        while !bytes.is_empty() {
            let batch = Batch::split_first(&mut bytes)?;
            batch.check_crc()?;
            batches.push(batch);
        }
    }
    Ok(batches)
}
