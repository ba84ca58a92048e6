//! The file of credentials, ACLs and quotas: a line with the hash of the rest, then JSON. Replaced whole or not at all.
//!
//! ```text
//! herdsman-security 1 sha256=3b1f…
//! {"credentials":[…],"acls":[…],"quotas":[…]}
//! ```
//! It holds no password, only what SCRAM keeps of one. Numbers of ACLs are the protocol's.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use herdsman_host::Disk;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::Records;
use super::acl::Acl;
use super::quota::Entity;
use super::scram::{Credential, Mechanism};
use crate::BrokerError;

/// Its name in the data folder.
pub(crate) const FILE: &str = "security";
const MAGIC: &str = "herdsman-security 1 sha256=";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    credentials: Vec<KeptCredential>,
    acls: Vec<Acl>,
    quotas: Vec<KeptQuota>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptCredential {
    user: String,
    mechanism: String,
    iterations: u32,
    salt: String,
    stored_key: String,
    server_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptQuota {
    entity: Entity,
    values: BTreeMap<String, f64>,
}

fn damaged(path: &Path, reason: &str) -> BrokerError {
    BrokerError::Security(format!(
        "{}: {reason}; who may do what cannot be guessed: put back a copy of this file, or remove it and set users, ACLs and quotas again",
        path.display()
    ))
}

fn hash(body: &str) -> String {
    digest(&SHA256, body.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the file holds; nothing if there is none.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Records, BrokerError> {
    if !disk.exists(path) {
        return Ok(Records::default());
    }
    let bytes = disk.read_all(path).map_err(|error| damaged(path, &format!("cannot be read ({error})")))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged(path, "is damaged"))?;
    let (head, body) = text.split_once('\n').ok_or_else(|| damaged(path, "is cut short"))?;
    if head.strip_prefix(MAGIC) != Some(&hash(body)) {
        return Err(damaged(path, "is damaged (its hash differs)"));
    }
    let document: Document =
        serde_json::from_str(body).map_err(|error| damaged(path, &format!("is not understood ({error})")))?;
    document.into_records().ok_or_else(|| damaged(path, "holds a credential that is not understood"))
}

/// Replaces the file.
pub(super) fn write(disk: &dyn Disk, path: &Path, records: &Records) -> Result<(), BrokerError> {
    let unwritten = |reason: String| {
        BrokerError::Security(format!("cannot write {} ({reason}): nothing was changed", path.display()))
    };
    let document = Document::of(records);
    let body = serde_json::to_string(&document).map_err(|error| unwritten(error.to_string()))?;
    let text = format!("{MAGIC}{}\n{body}", hash(&body));
    disk.replace(path, text.as_bytes()).map_err(|error| unwritten(error.to_string()))
}

impl Document {
    fn of(records: &Records) -> Self {
        let credentials = records.credentials.iter().map(|((user, mechanism), credential)| KeptCredential {
            user: user.clone(),
            mechanism: mechanism.name().to_owned(),
            iterations: credential.iterations,
            salt: STANDARD.encode(&credential.salt),
            stored_key: STANDARD.encode(&credential.stored_key),
            server_key: STANDARD.encode(&credential.server_key),
        });
        let quotas = records
            .quotas
            .iter()
            .map(|(entity, values)| KeptQuota { entity: entity.clone(), values: values.clone() });
        Self {
            credentials: credentials.collect(),
            acls: records.acls.iter().cloned().collect(),
            quotas: quotas.collect(),
        }
    }

    fn into_records(self) -> Option<Records> {
        let mut records = Records { acls: self.acls.into_iter().collect(), ..Records::default() };
        for kept in self.credentials {
            let mechanism: Mechanism = kept.mechanism.parse().ok()?;
            let bytes = |text: &str| STANDARD.decode(text).ok();
            let credential = Credential {
                salt: bytes(&kept.salt)?,
                iterations: kept.iterations,
                stored_key: bytes(&kept.stored_key)?,
                server_key: bytes(&kept.server_key)?,
            };
            records.credentials.insert((kept.user, mechanism), credential);
        }
        records.quotas = self.quotas.into_iter().map(|kept| (kept.entity, kept.values)).collect();
        Some(records)
    }
}
