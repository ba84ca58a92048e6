//! The only `unsafe` of this crate: reads messages from a consumer's queue many at a time.
//!
//! The safe binding hands out one message per call, behind an allocation each, and names neither topic nor offset at
//! the end of a partition; librdkafka's own batch call gives both.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;

/// Messages taken per call.
const MESSAGES_MAX: usize = 4096;

/// A consumer's queue of fetched messages.
pub(crate) struct MessageQueue<C: ConsumerContext + 'static> {
    queue: *mut sys::rd_kafka_queue_t,
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka queues may be used from any thread; `&mut self` keeps it to one at a time, and the consumer that
// owns the queue lives as long as this does.
unsafe impl<C: ConsumerContext + 'static> Send for MessageQueue<C> {}

/// One message, or the report that a partition's end was reached or failed.
pub(crate) struct RawMessage<'a> {
    /// Identifies the topic during one call of [`MessageQueue::poll`].
    pub(crate) topic_handle: usize,
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) error: Option<RDKafkaErrorCode>,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl<C: ConsumerContext + 'static> MessageQueue<C> {
    pub(crate) fn new(consumer: Arc<BaseConsumer<C>>) -> Option<Self> {
        // SAFETY: the consumer's handle is valid while the consumer lives; the queue returned is counted and released
        // in `drop`.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        (!queue.is_null()).then(|| Self { queue, buffer: vec![ptr::null_mut(); MESSAGES_MAX], consumer })
    }

    pub(crate) fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// Waits up to `timeout` for a first message (`limit` = 1), or takes at once up to `limit` of those that are there
    /// (`timeout` zero). Gives how many were handed to `each`.
    pub(crate) fn poll(
        &mut self,
        limit: usize,
        timeout: Duration,
        mut each: impl FnMut(&RawMessage<'_>),
    ) -> usize {
        let limit = limit.min(self.buffer.len());
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the buffer holds `limit` places; the call writes at most that many valid message pointers.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(self.queue, timeout_ms, self.buffer.as_mut_ptr(), limit)
        };
        let count = usize::try_from(count).unwrap_or(0);
        for place in self.buffer.iter().take(count) {
            // SAFETY: each pointer is a message that we own until it is destroyed right after its use; what is borrowed
            // from it does not leave `each`.
            unsafe {
                each(&read(*place));
                sys::rd_kafka_message_destroy(*place);
            }
        }
        count
    }

    /// High watermark that came with the last fetch of a partition, if any.
    pub(crate) fn high_watermark(&self, topic: &str, partition: i32) -> Option<i64> {
        let topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the handle is valid, the name is a C string, both offsets are written before the call returns.
        let code = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }
}

impl<C: ConsumerContext + 'static> Drop for MessageQueue<C> {
    fn drop(&mut self) {
        // SAFETY: taken in `new`, released once, before the consumer.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) };
    }
}

/// # Safety
/// `message` is valid and outlives what is returned.
unsafe fn read<'a>(message: *mut sys::rd_kafka_message_t) -> RawMessage<'a> {
    // SAFETY: see above; librdkafka fills all fields, null pointers have length 0.
    unsafe {
        let raw = &*message;
        let no_error = raw.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let topic = if raw.rkt.is_null() { "" } else { text(sys::rd_kafka_topic_name(raw.rkt)) };
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        RawMessage {
            topic_handle: raw.rkt as usize,
            topic,
            partition: raw.partition,
            offset: raw.offset,
            error: (!no_error).then(|| RDKafkaErrorCode::from(raw.err)),
            timestamp_ms: sys::rd_kafka_message_timestamp(message, &raw mut kind),
            key: if no_error { bytes(raw.key, raw.key_len) } else { None },
            value: if no_error { bytes(raw.payload, raw.len) } else { None },
            headers: if no_error { headers(message) } else { Vec::new() },
        }
    }
}

/// # Safety
/// `data` is null or points at `len` bytes that outlive `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: see above.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}

/// # Safety
/// `name` is null or a C string that outlives `'a`.
unsafe fn text<'a>(name: *const c_char) -> &'a str {
    if name.is_null() {
        return "";
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default()
}

/// # Safety
/// `message` is valid and outlives `'a`.
unsafe fn headers<'a>(message: *mut sys::rd_kafka_message_t) -> Vec<(&'a str, Option<&'a [u8]>)> {
    let mut found = Vec::new();
    let mut list = ptr::null_mut();
    // SAFETY: the list and what it points at belong to the message.
    unsafe {
        let code = sys::rd_kafka_message_headers(message, &raw mut list);
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        while sys::rd_kafka_header_get_all(list, found.len(), &raw mut name, &raw mut value, &raw mut len)
            == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            found.push((text(name), bytes(value, len)));
        }
    }
    found
}
