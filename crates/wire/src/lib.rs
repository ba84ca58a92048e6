//! Kafka frames ↔ typed requests, and the loop that serves them: connection state, no disk, no meaning.
//!
//! ```text
//! socket ── frame (4-byte length, checked first) ── layout check (counts ≤ bytes left) ── RequestKind ── Handler
//!        ◄─ chunks (record bytes by reference) ──── encode at the request's version ◄──── Reply
//! ```
//! What a request means is decided by the [`Handler`], one floor up. Record bytes are slices of the frame on the way
//! in and slices of the log on the way out: nothing here copies them. A listener may speak TLS (`tls`) and may want its
//! clients to log in first; until then they have three APIs, small frames and little time.

pub mod chunks;
pub mod connection;
pub mod fetch;
pub mod listener;
pub mod request;
pub mod schema;
pub mod server;
mod share;
pub mod tls;
pub mod versions;

pub use chunks::Chunks;
pub use connection::Peer;
pub use fetch::{FetchReply, PartitionReply, TopicReply};
pub use kafka_protocol;
pub use listener::{Listener, Protocol};
pub use request::{Head, Reply, Request, RequestError};
pub use server::{Answer, Handler, Limits, serve};
pub use share::ShareExtras;
pub use tls::{ClientAuth, Tls, TlsError, TlsFiles};
pub use versions::{is_announced, supported};
