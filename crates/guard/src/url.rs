//! Where a cache is and what it speaks, as one line of text that never shows its password.
//!
//! ```text
//! redis://[user[:password]@]host[:port][/db]             one server         rediss://… by TLS
//! redis+cluster://[…@]host[:port],host[:port],…          Redis Cluster      rediss+cluster://… by TLS
//! redis+sentinel://[…@]host[:port],…/mastername[/db]     the master that these sentinels name; rediss+sentinel://… by TLS
//! memcached://host[:port],host[:port],…                  one or more nodes, keys placed by ketama
//! embedded                                               the guard's own
//! ```
//! A TLS address takes `?ca=FILE` (PEM; without it the system's certificates are trusted) and `&cert=FILE&key=FILE`.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::GuardError;

/// A string that never prints: passwords.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
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

/// One server's host and TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl From<std::net::SocketAddr> for Place {
    fn from(addr: std::net::SocketAddr) -> Self {
        Self { host: addr.ip().to_string(), port: addr.port() }
    }
}

/// What a TLS connection trusts and shows; PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Certificates to trust; none: those of the system.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// How a connection to Redis begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Login {
    /// ACL user; empty means the default user.
    pub user: String,
    /// Password, if any.
    pub password: Option<Secret>,
    /// Database number.
    pub db: u32,
    /// TLS, if any.
    pub tls: Option<Tls>,
}

/// Where the cache is and what it speaks; see the module. `Display` and `Debug` print a password as `***`.
#[derive(Clone, PartialEq, Eq)]
pub enum CacheUrl {
    /// One Redis server.
    Redis {
        /// Where it is; port 6379 unless told.
        place: Place,
        /// How a connection begins.
        login: Login,
    },
    /// A Redis Cluster: the slot map is learnt from any of its nodes.
    Cluster {
        /// Nodes to ask first.
        seeds: Vec<Place>,
        /// How a connection begins, on every node.
        login: Login,
    },
    /// The master of a group that sentinels watch.
    Sentinel {
        /// The sentinels, asked in turn; port 26379 unless told.
        sentinels: Vec<Place>,
        /// The group's name.
        master: String,
        /// How a connection to the master begins. Sentinels are asked without a login.
        login: Login,
    },
    /// memcached; several nodes share the keys by ketama.
    Memcached {
        /// The nodes; port 11211 unless told.
        nodes: Vec<Place>,
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
        parse(text).ok_or_else(|| GuardError::Address(hide_password(text)))
    }

    /// One Redis server without login.
    #[must_use]
    pub fn redis(place: impl Into<Place>) -> Self {
        Self::Redis { place: place.into(), login: Login::default() }
    }

    /// `host:port` of all servers named, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Redis { place, .. } => place.to_string(),
            Self::Cluster { seeds: places, .. } | Self::Memcached { nodes: places } => list(places),
            Self::Sentinel { sentinels, master, .. } => format!("{}/{master}", list(sentinels)),
            Self::Embedded => "embedded".into(),
        }
    }

    pub(crate) fn login(&self) -> Option<&Login> {
        match self {
            Self::Redis { login, .. } | Self::Cluster { login, .. } | Self::Sentinel { login, .. } => {
                Some(login)
            }
            Self::Memcached { .. } | Self::Embedded => None,
        }
    }
}

fn list(places: &[Place]) -> String {
    places.iter().map(Place::to_string).collect::<Vec<_>>().join(",")
}

fn parse(text: &str) -> Option<CacheUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (places, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (family, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    let default_port = match (family, kind) {
        ("redis" | "rediss", "" | "cluster") => 6379,
        ("redis" | "rediss", "sentinel") => 26379,
        ("memcached", "") => 11211,
        _ => return None,
    };
    let places: Vec<Place> =
        places.split(',').map(|place| host_and_port(place, default_port)).collect::<Option<_>>()?;
    if family == "memcached" {
        let bare = login.is_empty() && path.is_empty() && query.is_empty();
        return bare.then_some(CacheUrl::Memcached { nodes: places });
    }
    let (master, db) = match kind {
        "sentinel" => path.split_once('/').unwrap_or((path, "")),
        _ => ("", path),
    };
    let login = Login {
        db: if db.is_empty() { 0 } else { db.parse().ok()? },
        tls: tls(family, query)?,
        ..credentials(login)
    };
    match kind {
        "cluster" => (login.db == 0).then_some(CacheUrl::Cluster { seeds: places, login }),
        "sentinel" => (!master.is_empty()).then(|| CacheUrl::Sentinel {
            sentinels: places,
            master: percent_decode(master),
            login,
        }),
        _ => {
            let [place] = places.try_into().ok()?;
            Some(CacheUrl::Redis { place, login })
        }
    }
}

fn credentials(login: &str) -> Login {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let password = (!password.is_empty()).then(|| Secret::new(percent_decode(password)));
    Login { user: percent_decode(user), password, ..Login::default() }
}

/// Files for TLS; `None` when the query says anything else, or anything without TLS.
fn tls(family: &str, query: &str) -> Option<Option<Tls>> {
    let mut tls = Tls::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let file = Some(PathBuf::from(percent_decode(value)));
        match name {
            "ca" => tls.ca = file,
            "cert" => tls.cert = file,
            "key" => tls.key = file,
            _ => return None,
        }
    }
    if tls.cert.is_some() != tls.key.is_some() {
        return None;
    }
    match family {
        "rediss" => Some(Some(tls)),
        _ => query.is_empty().then_some(None),
    }
}

pub(crate) fn host_and_port(place: &str, default_port: u16) -> Option<Place> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        (host, port.strip_prefix(':').unwrap_or(port))
    } else {
        place.rsplit_once(':').unwrap_or((place, ""))
    };
    let port = if port.is_empty() { default_port } else { port.parse().ok()? };
    (!host.is_empty() && port != 0).then(|| Place { host: host.to_owned(), port })
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
        let scheme = match self {
            Self::Redis { .. } => "",
            Self::Cluster { .. } => "+cluster",
            Self::Sentinel { .. } => "+sentinel",
            Self::Memcached { nodes } => return write!(f, "memcached://{}", list(nodes)),
            Self::Embedded => return f.write_str("embedded"),
        };
        let Some(Login { user, password, db, tls }) = self.login() else { return Ok(()) };
        write!(f, "redis{}{scheme}://", if tls.is_some() { "s" } else { "" })?;
        if password.is_some() {
            write!(f, "{user}:***@")?;
        } else if !user.is_empty() {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.place())?;
        if matches!(self, Self::Cluster { .. }) { Ok(()) } else { write!(f, "/{db}") }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GuardConfig;

    #[test]
    fn cache_addresses_read_and_print_without_their_password() {
        let url = CacheUrl::parse("redis://ana:s3cr%40t@10.0.0.5:6380/2").unwrap();
        assert_eq!(url.to_string(), "redis://ana:***@10.0.0.5:6380/2");
        assert!(
            !format!("{:?}", GuardConfig { cache: url.clone(), ..GuardConfig::default() }).contains("s3cr")
        );
        assert_eq!(url.login().unwrap().password.as_ref().unwrap().expose(), "s3cr@t");
        assert_eq!(CacheUrl::parse("memcached://m").unwrap().place(), "m:11211");
        assert_eq!(CacheUrl::parse("redis://[::1]:7000").unwrap().place(), "[::1]:7000");
        assert_eq!(CacheUrl::parse("embedded").unwrap(), CacheUrl::Embedded);
        for same in [
            "rediss+cluster://ana:***@a:1,[::1]:7000",
            "redis+sentinel://a:26379,b:2/mymaster/3",
            "memcached://a:11211,b:2",
            "rediss://h:6379/0",
        ] {
            assert_eq!(CacheUrl::parse(same).unwrap().to_string(), same);
        }
        let refused = CacheUrl::parse("redis://u:hunter2@h:notaport").unwrap_err().to_string();
        assert!(refused.contains("***") && !refused.contains("hunter2"), "{refused}");
        for bad in [
            "",
            "redis:",
            "http://x",
            "redis://:1",
            "redis://h:1/x",
            "memcached://u@h",
            "redis://a,b",
            "redis://a?ca=x",
            "rediss://a?cert=x",
            "redis+sentinel://a",
            "redis+cluster://a/2",
            "memcached+cluster://a",
        ] {
            assert!(CacheUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tls_address_names_its_files() {
        let url = CacheUrl::parse("rediss://h?ca=/a%20b.pem&cert=c.pem&key=k.pem").unwrap();
        let tls = url.login().unwrap().tls.clone().unwrap();
        assert_eq!(tls.ca.unwrap(), PathBuf::from("/a b.pem"));
        assert_eq!((tls.cert, tls.key), (Some("c.pem".into()), Some("k.pem".into())));
    }
}
