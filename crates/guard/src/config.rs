//! What a user states about the cache: where it is, what is wanted, how long things live. No batch size, no pool size.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::error::GuardError;

/// A string that never prints: passwords.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes the plain text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The plain text, for the wire only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the cache is and what it speaks. `Display` and `Debug` print a password as `***`.
#[derive(Clone, PartialEq, Eq)]
pub enum CacheUrl {
    /// `redis://[user[:password]@]host:port[/db]`
    Redis {
        /// Host name or address.
        host: String,
        /// TCP port, 6379 unless told.
        port: u16,
        /// Database number.
        db: u32,
        /// ACL user; empty means the default user.
        user: String,
        /// Password, if any.
        password: Option<Secret>,
    },
    /// `memcached://host:port`
    Memcached {
        /// Host name or address.
        host: String,
        /// TCP port, 11211 unless told.
        port: u16,
    },
    /// `embedded`: the guard starts its own RESP cache on a free loopback port.
    Embedded,
}

impl CacheUrl {
    /// Reads a cache address.
    ///
    /// # Errors
    /// `GuardError::Address` when the scheme, host, port or database cannot be read; the message hides a password.
    pub fn parse(text: &str) -> Result<Self, GuardError> {
        if text == "embedded" || text == "embedded:" || text == "embedded://" {
            return Ok(Self::Embedded);
        }
        let bad = || GuardError::Address(hide_password(text));
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let (login, place) = rest.rsplit_once('@').map_or(("", rest), |(login, place)| (login, place));
        let (place, path) = place.split_once('/').unwrap_or((place, ""));
        let default_port = if scheme == "memcached" { 11211 } else { 6379 };
        let (host, port) = host_and_port(place, default_port).ok_or_else(bad)?;
        match scheme {
            "redis" => {
                let db = if path.is_empty() { 0 } else { path.parse().map_err(|_| bad())? };
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                let password = (!password.is_empty()).then(|| Secret::new(percent_decode(password)));
                Ok(Self::Redis { host, port, db, user: percent_decode(user), password })
            }
            "memcached" if login.is_empty() && path.is_empty() => Ok(Self::Memcached { host, port }),
            _ => Err(bad()),
        }
    }

    /// `host:port`, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Redis { host, port, .. } | Self::Memcached { host, port } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Redis { host, port, .. } | Self::Memcached { host, port } => format!("{host}:{port}"),
            Self::Embedded => "embedded".into(),
        }
    }
}

fn host_and_port(place: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        (host, port.strip_prefix(':').unwrap_or(port))
    } else {
        place.rsplit_once(':').unwrap_or((place, ""))
    };
    let port = if port.is_empty() { default_port } else { port.parse().ok()? };
    (!host.is_empty() && port != 0).then(|| (host.to_owned(), port))
}

fn percent_decode(text: &str) -> String {
    let raw = text.as_bytes();
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        let hex = raw.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Everything between the scheme and the last `@` may hold a password.
fn hide_password(text: &str) -> String {
    let Some((login, place)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = login.split_once("://").map_or("", |(scheme, _)| scheme);
    format!("{scheme}://***@{place}")
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis { db, user, password, .. } => {
                f.write_str("redis://")?;
                if password.is_some() {
                    write!(f, "{user}:***@")?;
                } else if !user.is_empty() {
                    write!(f, "{user}@")?;
                }
                write!(f, "{}/{db}", self.place())
            }
            Self::Memcached { .. } => write!(f, "memcached://{}", self.place()),
            Self::Embedded => f.write_str("embedded"),
        }
    }
}

impl fmt::Debug for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for CacheUrl {
    type Err = GuardError;

    fn from_str(text: &str) -> Result<Self, GuardError> {
        Self::parse(text)
    }
}

/// The one thing a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Hold this 99th percentile of the cache's answer time with the fewest requests.
    P99(Duration),
    /// The lowest 99th percentile, and among near-equal ones the fewest requests.
    AsLowAsPossible,
}

impl From<Option<Duration>> for Objective {
    /// A 99th percentile to hold, or none: as low as possible.
    fn from(p99: Option<Duration>) -> Self {
        p99.map_or(Self::AsLowAsPossible, Self::P99)
    }
}

/// The three priorities. Urgent goes first, bulk is shed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Somebody waits for this one.
    Urgent,
    /// The stream's own look-ups.
    Normal,
    /// Warm-ups and scans: answered when there is room, shed by age when there is not.
    Bulk,
}

impl Lane {
    /// All lanes, first served first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Urgent => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        })
    }
}

/// What a guard needs to know. Batch size, linger, connections and depth are not here: the tuner chooses them.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// Where the cache is.
    pub cache: CacheUrl,
    /// What to hold.
    pub objective: Objective,
    /// How long a loaded value lives in the cache; each one is spread by ± 10 % so that they do not expire together.
    pub ttl: Duration,
    /// How long "does not exist" is remembered: in this process, and where the backend has room beside the values (Redis, the
    /// embedded cache) by all processes.
    pub negative_ttl: Duration,
    /// Entries of the near cache in this process; 0 turns it off.
    pub near_capacity: usize,
    /// How long the near cache may answer without asking the cache again (± 10 %). Where the cache tells of changes (Redis 6 and later), what
    /// another client changes is answered for one trip longer, a few milliseconds; where it does not, or after a lost connection, for this long.
    pub near_ttl: Duration,
    /// For this long after `near_ttl` the old value is still answered while one look-up refreshes it; zero turns it off. A value behind which
    /// the record has changed without [`crate::Guard::invalidate`] is answered for at most 1.1 × (`ttl` + `near_ttl`) plus this.
    pub stale_while_revalidate: Duration,
    /// How long a lease on a missing key lives in the cache: one process at a time loads it, and if that dies another takes over
    /// within this time (memcached counts whole seconds: at least two). A load that takes longer keeps its lease. Zero turns leases
    /// off: then only look-ups of one process share a load, as with the embedded cache, which no other process knows.
    pub lease: Duration,
    /// Queries in flight at the system of record at most, and threads that run them.
    pub loaders: usize,
    /// While the cache is down: keys per second asked of the system of record at most.
    pub degraded_loads_per_s: u32,
    /// A bulk look-up older than this in the queue is shed with `GuardError::Shed`.
    pub bulk_age: Duration,
    /// A look-up unanswered after this gets `GuardError::Deadline`.
    pub deadline: Duration,
    /// Keys that may wait in one lane before new look-ups are refused.
    pub lane_capacity: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            cache: CacheUrl::Embedded,
            objective: Objective::AsLowAsPossible,
            ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            near_capacity: 65_536,
            near_ttl: Duration::from_secs(5),
            stale_while_revalidate: Duration::ZERO,
            lease: Duration::from_secs(2),
            loaders: 2,
            degraded_loads_per_s: 10_000,
            bulk_age: Duration::from_millis(500),
            deadline: Duration::from_secs(10),
            lane_capacity: 262_144,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_addresses_read_and_print_without_their_password() {
        let url = CacheUrl::parse("redis://ana:s3cr%40t@10.0.0.5:6380/2").unwrap();
        assert_eq!(url.to_string(), "redis://ana:***@10.0.0.5:6380/2");
        assert!(
            !format!("{:?}", GuardConfig { cache: url.clone(), ..GuardConfig::default() }).contains("s3cr")
        );
        let CacheUrl::Redis { password: Some(password), .. } = url else { panic!("redis with password") };
        assert_eq!(password.expose(), "s3cr@t");
        assert_eq!(CacheUrl::parse("memcached://m").unwrap().place(), "m:11211");
        assert_eq!(CacheUrl::parse("redis://[::1]:7000").unwrap().place(), "[::1]:7000");
        assert_eq!(CacheUrl::parse("embedded").unwrap(), CacheUrl::Embedded);
        let refused = CacheUrl::parse("redis://u:hunter2@h:notaport").unwrap_err().to_string();
        assert!(refused.contains("***") && !refused.contains("hunter2"), "{refused}");
        for bad in ["", "redis:", "http://x", "redis://:1", "redis://h:1/x", "memcached://u@h"] {
            assert!(CacheUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
