//! One connection to a server of the cache: opened, authenticated and warmed before it takes work; Nagle off.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::core::{Abilities, Command, Event, LinkId};
use crate::dialer::{Dialer, Stream};
use crate::driver::{Inbox, Message};
use crate::protocol::Codec;
use crate::url::Place;

/// Room for what is read at once: little at first, so that a connection costs nothing before it carries anything.
const READ_MIN: usize = 4 * 1024;
const READ_MAX: usize = 64 * 1024;

/// The sending end; reading goes on in its own task until this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    flusher: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Takes bytes without a task in between; a TLS connection has none.
    direct: Option<OwnedWriteHalf>,
    codec: Mutex<Codec>,
    unsent: Mutex<BytesMut>,
    flush: Notify,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.flusher.abort();
    }
}

impl Connection {
    /// What the server can do.
    pub(crate) fn abilities(&self) -> Abilities {
        self.shared.codec.lock().unwrap_or_else(PoisonError::into_inner).abilities()
    }

    /// Writes at once as much as the socket takes; the rest follows when it can.
    pub(crate) fn send(&self, command: &Command) {
        let mut unsent = self.shared.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = unsent.is_empty();
        self.shared.codec.lock().unwrap_or_else(PoisonError::into_inner).encode(command, &mut unsent);
        if was_empty
            && let Some(direct) = &self.shared.direct
            && let Ok(sent) = direct.try_write(&unsent)
        {
            let _ = unsent.split_to(sent);
        }
        if unsent.is_empty() {
            // Keeps one buffer's allocation, not a burst's.
            if unsent.capacity() < 1 << 20 {
                unsent.reserve(4_096);
            }
        } else {
            self.shared.flush.notify_one();
        }
    }
}

/// Opens a connection in the background and reports `Opened` or `Refused`.
pub(crate) async fn open(dialer: Dialer, place: Place, link: LinkId, inbox: Arc<Inbox>) {
    let (stream, codec) = match dialer.open(&place).await {
        Ok(opened) => opened,
        Err(error) => return inbox.push(Event::Refused { link, error }),
    };
    let codec = Mutex::new(codec);
    let (unsent, flush) = (Mutex::new(BytesMut::with_capacity(4_096)), Notify::new());
    let (shared, reader, flusher) = match stream {
        Stream::Plain(stream) => {
            let (incoming, outgoing) = stream.into_split();
            let shared = Arc::new(Shared { direct: Some(outgoing), codec, unsent, flush });
            let reader = tokio::spawn(read(Arc::clone(&shared), incoming, link, Arc::clone(&inbox)));
            (Arc::clone(&shared), reader, tokio::spawn(flush_direct(shared)))
        }
        Stream::Tls(stream) => {
            let (incoming, outgoing) = tokio::io::split(*stream);
            let shared = Arc::new(Shared { direct: None, codec, unsent, flush });
            let reader = tokio::spawn(read(Arc::clone(&shared), incoming, link, Arc::clone(&inbox)));
            (Arc::clone(&shared), reader, tokio::spawn(flush_through(shared, outgoing)))
        }
    };
    inbox.push_message(Message::Opened(link, Connection { shared, reader, flusher }));
}

async fn read(shared: Arc<Shared>, incoming: impl AsyncRead + Unpin, link: LinkId, inbox: Arc<Inbox>) {
    let error = read_until_end(&shared, incoming, link, &inbox).await;
    inbox.push(Event::Down { link, error });
}

async fn read_until_end(
    shared: &Shared,
    mut incoming: impl AsyncRead + Unpin,
    link: LinkId,
    inbox: &Inbox,
) -> String {
    let (mut bytes, mut room) = (BytesMut::new(), READ_MIN);
    loop {
        bytes.reserve(room);
        match incoming.read_buf(&mut bytes).await {
            Ok(0) => return "the cache closed the connection".into(),
            Ok(read) if read >= room => room = (room * 2).min(READ_MAX),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        let mut answers = Vec::new();
        let decoded =
            shared.codec.lock().unwrap_or_else(PoisonError::into_inner).decode(&mut bytes, &mut answers);
        if !answers.is_empty() {
            inbox.push(Event::Answers { link, answers });
        }
        if let Err(violation) = decoded {
            return format!("bytes that answer nothing: {}", violation.0);
        }
    }
}

/// Writes what the socket did not take at once.
async fn flush_direct(shared: Arc<Shared>) {
    let Some(direct) = &shared.direct else { return };
    loop {
        shared.flush.notified().await;
        loop {
            if direct.writable().await.is_err() {
                return; // the reader reports it
            }
            let mut unsent = shared.unsent.lock().unwrap_or_else(PoisonError::into_inner);
            if unsent.is_empty() {
                break;
            }
            match direct.try_write(&unsent) {
                Ok(sent) => {
                    let _ = unsent.split_to(sent);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Writes everything, through TLS.
async fn flush_through(shared: Arc<Shared>, mut outgoing: impl AsyncWrite + Unpin) {
    loop {
        shared.flush.notified().await;
        loop {
            let bytes = std::mem::take(&mut *shared.unsent.lock().unwrap_or_else(PoisonError::into_inner));
            if bytes.is_empty() {
                break;
            }
            // The reader reports what goes wrong.
            if outgoing.write_all(&bytes).await.is_err() || outgoing.flush().await.is_err() {
                return;
            }
        }
    }
}
