//! Who may do what, and how much of it: logins, ACLs, quotas. What clients change here is kept in one file, replaced whole.
//!
//! Reading order: `session` (what is kept of a connection, and the way of a request), `login` and `scram`, `acl` and
//! `screen` (which parts of a request are refused), `quota` and `throttle`, then the `…_api` files. Without an authorizer, a
//! login or a quota a request costs one relaxed load here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use herdsman_host::Disk;
use ring::rand::{SecureRandom, SystemRandom};

use crate::BrokerError;
use crate::topic::lock;

pub(crate) mod acl;
mod acl_api;
mod credentials_api;
mod login;
pub(crate) mod quota;
mod quota_api;
pub(crate) mod scram;
mod screen;
pub(crate) mod session;
mod store;
#[cfg(test)]
mod tests;
mod throttle;

pub use scram::{MECHANISMS, Mechanism};
pub(crate) use store::FILE;

use acl::Acl;
use quota::{Buckets, Entity};
use scram::Credential;

/// Iterations of a configured user's password, the least that Kafka allows.
const ITERATIONS: u32 = 4_096;

/// A password: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Settings of security, in Kafka's words.
#[derive(Debug, Clone, Default)]
pub struct SecurityConfig {
    /// Whether ACLs decide (Kafka's `authorizer.class.name` is set).
    pub authorizer: bool,
    /// `super.users`: principals that may do everything, `User:admin`.
    pub super_users: Vec<String>,
    /// `allow.everyone.if.no.acl.found`.
    pub allow_everyone_if_no_acl_found: bool,
    /// Users that are there from the start, with their passwords.
    pub users: Vec<(String, Secret)>,
    /// `connections.max.reauth.ms`: how long a login is good (KIP-368); 0: as long as the connection.
    pub reauth_max_ms: u64,
}

/// What clients have set and the file keeps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Records {
    /// By user and mechanism.
    pub(crate) credentials: BTreeMap<(String, Mechanism), Credential>,
    pub(crate) acls: BTreeSet<Acl>,
    pub(crate) quotas: BTreeMap<Entity, BTreeMap<String, f64>>,
}

/// The security of one broker.
pub(crate) struct Security {
    pub(crate) config: SecurityConfig,
    /// Credentials of the configured users: never on disk, never changed by a request.
    configured: BTreeMap<(String, Mechanism), Credential>,
    /// Makes salts for users who are not there, so that they look like those who are.
    decoy: ring::hmac::Key,
    records: RwLock<Arc<Records>>,
    /// Changes with `records`.
    version: AtomicU64,
    pub(crate) buckets: Mutex<Buckets>,
    file: Option<(Arc<dyn Disk>, PathBuf)>,
    changing: Mutex<()>,
}

impl Security {
    /// Security whose records are kept in `file`, or nowhere.
    ///
    /// # Errors
    /// The file is damaged: what it says who may do cannot be guessed.
    pub(crate) fn open(
        config: SecurityConfig,
        file: Option<(Arc<dyn Disk>, PathBuf)>,
    ) -> Result<Self, BrokerError> {
        let records = match &file {
            Some((disk, path)) => store::read(disk.as_ref(), path)?,
            None => Records::default(),
        };
        let mut configured = BTreeMap::new();
        for (user, password) in &config.users {
            for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
                let salt = random::<20>()?;
                let credential = Credential::of_password(mechanism, password.0.as_bytes(), &salt, ITERATIONS);
                configured.insert((user.clone(), mechanism), credential);
            }
        }
        let config = SecurityConfig {
            users: config.users.into_iter().map(|(user, _)| (user, Secret::new(""))).collect(),
            ..config
        };
        Ok(Self {
            config,
            configured,
            decoy: ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &random::<32>()?),
            records: RwLock::new(Arc::new(records)),
            version: AtomicU64::new(1),
            buckets: Mutex::default(),
            file,
            changing: Mutex::default(),
        })
    }

    /// Changes whenever [`Security::records`] does.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// What clients have set, as of now.
    pub(crate) fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the records: on disk first, then for everyone. `change` says whether there is anything to keep.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Records) -> T) -> Result<T, BrokerError> {
        let _changing = lock(&self.changing);
        let before = self.records();
        let mut records = Records::clone(&before);
        let result = change(&mut records);
        if records == *before {
            return Ok(result);
        }
        if let Some((disk, path)) = &self.file {
            store::write(disk.as_ref(), path, &records)?;
        }
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(records);
        self.version.fetch_add(1, Ordering::Release);
        Ok(result)
    }

    /// Whether the user is one of the configuration.
    pub(crate) fn is_configured(&self, user: &str) -> bool {
        self.config.users.iter().any(|(name, _)| name == user)
    }

    /// The credential of a user; for a user who is not there one that no password fits, always the same.
    pub(crate) fn credential(&self, user: &str, mechanism: Mechanism) -> (Credential, bool) {
        let key = (user.to_owned(), mechanism);
        let found = self.configured.get(&key).cloned();
        if let Some(found) = found.or_else(|| self.records().credentials.get(&key).cloned()) {
            return (found, true);
        }
        let salt = ring::hmac::sign(&self.decoy, user.as_bytes());
        (Credential::unusable(salt.as_ref(), ITERATIONS), false)
    }
}

/// Random bytes nobody can foresee.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], BrokerError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| BrokerError::Security("the system gives no random bytes".to_owned()))?;
    Ok(bytes)
}
