//! DescribeUserScramCredentials and AlterUserScramCredentials (KIP-554).

use std::collections::{BTreeMap, BTreeSet};

use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use herdsman_wire::kafka_protocol::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult,
};
use herdsman_wire::kafka_protocol::messages::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use super::scram::{Credential, Mechanism};
use super::{ITERATIONS, Records, Security};
use crate::{Broker, BrokerError};

/// Most iterations, as in Kafka: a login must not keep a client busy for long.
const ITERATIONS_MAX: i32 = 16_384;
/// Longest salt, bytes.
const SALT_MAX: usize = 1_024;

type Refusal = (ResponseError, String);

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// A change asked for: `None` deletes.
type Change = (Mechanism, Option<Credential>);
/// What is asked for each user, or why it is refused.
type Wanted = BTreeMap<String, Result<Vec<Change>, Refusal>>;

impl Broker {
    pub(crate) fn on_describe_scram(
        &self,
        request: DescribeUserScramCredentialsRequest,
    ) -> DescribeUserScramCredentialsResponse {
        let mut known: BTreeMap<String, Vec<(Mechanism, u32)>> = BTreeMap::new();
        let records = self.security.records();
        for ((user, mechanism), credential) in self.security.configured.iter().chain(&records.credentials) {
            known.entry(user.clone()).or_default().push((*mechanism, credential.iterations));
        }
        let asked = request.users.filter(|users| !users.is_empty());
        let asked: Vec<String> = match asked {
            Some(users) => users.into_iter().map(|user| user.name.to_string()).collect(),
            None => known.keys().cloned().collect(),
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        asked.iter().for_each(|user| *counts.entry(user).or_default() += 1);
        let results = counts.into_iter().map(|(user, count)| {
            let result = DescribeUserScramCredentialsResult::default().with_user(text(user));
            let refused = |error: ResponseError, said: String| {
                result.clone().with_error_code(error.code()).with_error_message(Some(text(said)))
            };
            match known.get(user) {
                _ if count > 1 => {
                    refused(ResponseError::DuplicateResource, format!("user {user} is asked for twice"))
                }
                None => {
                    refused(ResponseError::ResourceNotFound, format!("user {user} has no SCRAM credential"))
                }
                Some(found) => {
                    let infos = found.iter().map(|(mechanism, iterations)| {
                        CredentialInfo::default()
                            .with_mechanism(mechanism.number())
                            .with_iterations(i32::try_from(*iterations).unwrap_or(i32::MAX))
                    });
                    result.with_credential_infos(infos.collect())
                }
            }
        });
        DescribeUserScramCredentialsResponse::default().with_results(results.collect())
    }

    pub(crate) fn on_alter_scram(
        &self,
        request: &AlterUserScramCredentialsRequest,
    ) -> AlterUserScramCredentialsResponse {
        let (order, mut wanted) = changes(&self.security, request);
        let changed = self.security.change(|records| {
            for (user, changes) in &mut wanted {
                if let Ok(found) = changes
                    && let Err(refusal) = apply(records, user, found)
                {
                    *changes = Err(refusal);
                }
            }
        });
        let results = order.into_iter().map(|user| {
            let result = AlterUserScramCredentialsResult::default().with_user(text(user.as_str()));
            let refused = |code: i16, said: &str| {
                result.clone().with_error_code(code).with_error_message(Some(text(said)))
            };
            match (wanted.get(&user), &changed) {
                (Some(Err((error, said))), _) => refused(error.code(), said),
                (_, Err(error)) => refused(BrokerError::code(error), &error.to_string()),
                _ => result,
            }
        });
        AlterUserScramCredentialsResponse::default().with_results(results.collect())
    }
}

/// Users in the order they are named, and what is asked for each.
fn changes(security: &Security, request: &AlterUserScramCredentialsRequest) -> (Vec<String>, Wanted) {
    let mut order = Vec::new();
    let mut wanted: Wanted = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let deletions = request.deletions.iter().map(|one| (&one.name, one.mechanism, None));
    let upsertions = request.upsertions.iter().map(|one| (&one.name, one.mechanism, Some(one)));
    for (name, number, upsertion) in deletions.chain(upsertions) {
        let user = name.to_string();
        let change = Mechanism::of_number(number)
            .ok_or_else(|| {
                (ResponseError::UnsupportedSaslMechanism, format!("no SCRAM mechanism has number {number}"))
            })
            .and_then(|mechanism| match upsertion {
                None => Ok((mechanism, None)),
                Some(one) => credential(mechanism, one.iterations, &one.salt, &one.salted_password)
                    .map(|credential| (mechanism, Some(credential))),
            })
            .and_then(|change| check_user(security, &user).map(|()| change));
        let is_second = !seen.insert((user.clone(), number));
        if !wanted.contains_key(&user) {
            order.push(user.clone());
        }
        let entry = wanted.entry(user).or_insert_with(|| Ok(Vec::new()));
        match (entry.as_mut(), change) {
            _ if is_second => {
                let said = "a credential cannot be changed twice in one request".to_owned();
                *entry = Err((ResponseError::DuplicateResource, said));
            }
            (Ok(changes), Ok(change)) => changes.push(change),
            (Ok(_), Err(refusal)) => *entry = Err(refusal),
            (Err(_), _) => {}
        }
    }
    (order, wanted)
}

fn check_user(security: &Security, user: &str) -> Result<(), Refusal> {
    if user.is_empty() {
        return Err((ResponseError::UnacceptableCredential, "the user name is empty".to_owned()));
    }
    if security.is_configured(user) {
        let said = format!("user {user} is set in the configuration: change the password there");
        return Err((ResponseError::UnacceptableCredential, said));
    }
    Ok(())
}

fn credential(
    mechanism: Mechanism,
    iterations: i32,
    salt: &[u8],
    salted_password: &[u8],
) -> Result<Credential, Refusal> {
    let refused = |said: String| Err((ResponseError::UnacceptableCredential, said));
    let least = i32::try_from(ITERATIONS).unwrap_or(0);
    if !(least..=ITERATIONS_MAX).contains(&iterations) {
        return refused(format!("{iterations} iterations: {least} to {ITERATIONS_MAX} are allowed"));
    }
    if salt.is_empty() || salt.len() > SALT_MAX {
        return refused(format!("a salt of {} bytes: 1 to {SALT_MAX} are allowed", salt.len()));
    }
    if salted_password.len() != mechanism.hash_len() {
        return refused(format!(
            "the salted password of {} has {} bytes",
            mechanism.name(),
            mechanism.hash_len()
        ));
    }
    Ok(Credential::of_salted(
        mechanism,
        salted_password,
        salt,
        u32::try_from(iterations).unwrap_or(ITERATIONS),
    ))
}

/// All changes of one user, or none.
fn apply(records: &mut Records, user: &str, changes: &[Change]) -> Result<(), Refusal> {
    let missing = changes.iter().any(|(mechanism, credential)| {
        credential.is_none() && !records.credentials.contains_key(&(user.to_owned(), *mechanism))
    });
    if missing {
        return Err((ResponseError::ResourceNotFound, format!("user {user} has no such SCRAM credential")));
    }
    for (mechanism, credential) in changes {
        let key = (user.to_owned(), *mechanism);
        match credential {
            Some(credential) => drop(records.credentials.insert(key, credential.clone())),
            None => drop(records.credentials.remove(&key)),
        }
    }
    Ok(())
}
