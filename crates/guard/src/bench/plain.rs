//! What every service writes first: GET; if absent, read the system of record and SET. Connections come from a pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore};

use crate::dialer::{Dialer, Stream};
use crate::error::GuardError;
use crate::protocol::{put_array, put_bulk};
use crate::url::CacheUrl;

/// Connections to the cache, and queries at the system of record at once: what a service would configure.
const POOL: usize = 64;

/// See the module.
pub(super) struct Plain {
    free: Semaphore,
    pool: Mutex<Vec<Stream>>,
    record: Semaphore,
    memcached: bool,
    ttl: Duration,
    load: Arc<dyn Fn() + Send + Sync>,
    load_time: Duration,
}

impl Plain {
    /// `load` is called once per load and returns at once; the load itself takes `load_time`.
    pub(super) async fn open(
        url: &CacheUrl,
        ttl: Duration,
        load_time: Duration,
        load: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, GuardError> {
        let (dialer, mut pool) = (Dialer::new(url.clone(), false)?, Vec::new());
        for _ in 0..POOL {
            pool.push(dialer.open_one().await.map_err(GuardError::Start)?.0);
        }
        Ok(Self {
            free: Semaphore::new(POOL),
            pool: Mutex::new(pool),
            record: Semaphore::new(POOL),
            memcached: matches!(url, CacheUrl::Memcached { .. }),
            ttl,
            load,
            load_time,
        })
    }

    pub(super) async fn look_up(&self, key: &[u8]) -> std::io::Result<()> {
        if self.say(&[b"GET", key]).await? {
            return Ok(());
        }
        {
            let _permit = self.record.acquire().await.map_err(std::io::Error::other)?;
            (self.load)();
            tokio::time::sleep(self.load_time).await;
        }
        let ttl = self.ttl.as_millis().to_string();
        self.say(&[b"SET", key, b"treasure", b"PX", ttl.as_bytes()]).await.map(|_| ())
    }

    /// One command on one pooled connection: whether a value came back.
    async fn say(&self, words: &[&[u8]]) -> std::io::Result<bool> {
        let _permit = self.free.acquire().await.map_err(std::io::Error::other)?;
        let stream = self.pool.lock().await.pop();
        let mut stream = stream.ok_or_else(|| std::io::Error::other("the pool is empty"))?;
        let mut bytes = BytesMut::new();
        match words {
            [b"GET", key] if self.memcached => bytes.extend_from_slice(&[b"get ", *key, b"\r\n"].concat()),
            [_, key, value, ..] if self.memcached => {
                let head = format!(" 0 {} {}\r\n", self.ttl.as_secs().max(1), value.len());
                bytes.extend_from_slice(&[b"set ", *key, head.as_bytes(), value, b"\r\n"].concat());
            }
            _ => {
                put_array(&mut bytes, words.len());
                words.iter().for_each(|word| put_bulk(&mut bytes, word));
            }
        }
        stream.write_all(&bytes).await?;
        bytes.clear();
        let get = words.len() == 2;
        let found = loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let value = bytes.starts_with(b"$8") || bytes.starts_with(b"VALUE");
            let whole: &[u8] = if self.memcached && get { b"END\r\n" } else { b"\r\n" };
            let lines = if value && !self.memcached { 2 } else { 1 };
            if bytes.ends_with(whole) && bytes.iter().filter(|byte| **byte == b'\n').count() >= lines {
                break value;
            }
        };
        self.pool.lock().await.push(stream);
        Ok(found)
    }
}
