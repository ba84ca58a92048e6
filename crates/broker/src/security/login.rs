//! SASL: SaslHandshake names the mechanism, SaslAuthenticate carries its messages (KIP-43, KIP-152, KIP-368).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Answer, Peer, Reply};

use super::scram::Exchange;
use super::session::Session;
use super::{MECHANISMS, Mechanism, random};
use crate::{Broker, BrokerError};

/// `connection.failed.authentication.delay.ms`: a wrong password is answered this late.
const FAILED_DELAY: Duration = Duration::from_millis(100);
/// First version of SaslAuthenticate that tells how long the login is good.
const LIFETIMES: i16 = 1;
/// First version of SaslHandshake after which SaslAuthenticate carries the messages.
const AUTHENTICATES: i16 = 1;
/// Bytes of the server's half of the nonce.
const NONCE_LEN: usize = 24;

/// How far a login has come.
#[derive(Debug, Default)]
pub(super) enum Login {
    /// No mechanism named.
    #[default]
    None,
    /// The mechanism is named, no message has come.
    Named(Mechanism),
    /// SCRAM's first message is answered.
    Proving(Box<Exchange>, Mechanism),
}

/// What one message of a login leads to.
enum Step {
    /// Another message is expected.
    Continue(Vec<u8>, Login),
    /// It is that user.
    Done(String, Vec<u8>),
    /// Refused, with a sentence.
    Refused(String),
}

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// Mechanisms that `peer` may use: a password itself crosses no wire that others can read.
fn offered(peer: &Peer) -> Vec<Mechanism> {
    let listener = &peer.listener;
    let is_private = listener.protocol.is_encrypted() || is_loopback(peer.remote.ip());
    MECHANISMS
        .into_iter()
        .filter(|one| {
            listener.mechanisms.is_empty() || listener.mechanisms.iter().any(|name| name == one.name())
        })
        .filter(|one| *one != Mechanism::Plain || is_private)
        .collect()
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// `login refused for user ana with SCRAM-SHA-256: check name and password (this listener also offers PLAIN over TLS)`
fn wrong_login(peer: &Peer, user: &str, mechanism: Mechanism) -> String {
    let others: Vec<&str> =
        offered(peer).into_iter().filter(|one| *one != mechanism).map(Mechanism::name).collect();
    let over = if peer.listener.protocol.is_encrypted() { " over TLS" } else { "" };
    let also = match others.as_slice() {
        [] => String::new(),
        others => format!(" (this listener also offers {}{over})", others.join(" and ")),
    };
    let user = user.escape_debug();
    format!("login refused for user {user} with {}: check name and password{also}", mechanism.name())
}

impl Broker {
    pub(super) fn on_sasl_handshake(
        &self,
        peer: &Peer,
        session: &mut Session,
        request: &SaslHandshakeRequest,
        version: i16,
    ) -> Answer {
        let response = SaslHandshakeResponse::default();
        let again = session.principal.is_some();
        if !peer.listener.protocol.wants_login() || (again && self.security.config.reauth_max_ms == 0) {
            let code = ResponseError::IllegalSaslState.code();
            return Reply::message(response.with_error_code(code)).into();
        }
        let offered = offered(peer);
        let response = response
            .with_mechanisms(offered.iter().map(|one| StrBytes::from_static_str(one.name())).collect());
        let named = request.mechanism.parse().ok().filter(|one| offered.contains(one));
        let Some(mechanism) = named else {
            tracing::info!(peer = %peer.remote, mechanism = ?request.mechanism.as_str(), "SASL mechanism not offered");
            let code = ResponseError::UnsupportedSaslMechanism.code();
            let reply = Reply::message(response.with_error_code(code));
            return Answer { last: true, ..reply.into() };
        };
        session.login = Login::Named(mechanism);
        session.sends_tokens = version < AUTHENTICATES && !again;
        Reply::message(response).into()
    }

    pub(super) async fn on_sasl_authenticate(
        &self,
        peer: &Peer,
        session: &mut Session,
        request: &SaslAuthenticateRequest,
        version: i16,
    ) -> Answer {
        let response = SaslAuthenticateResponse::default();
        let Some(step) = self.step(peer, session, &request.auth_bytes).await else {
            let said = if session.principal.is_some() {
                "SaslAuthenticate after the login: name a mechanism by SaslHandshake first"
            } else {
                "SaslAuthenticate before SaslHandshake: name a mechanism first"
            };
            let response = response.with_error_code(ResponseError::IllegalSaslState.code());
            let reply = Reply::message(response.with_error_message(Some(text(said))));
            return Answer { last: session.principal.is_none(), ..reply.into() };
        };
        match step {
            Step::Continue(bytes, login) => {
                session.login = login;
                Reply::message(response.with_auth_bytes(bytes.into())).into()
            }
            Step::Done(user, bytes) => match self.logged_in(session, &user) {
                Ok(lifetime_ms) => {
                    let response = response.with_auth_bytes(bytes.into());
                    let lifetime_ms = if version >= LIFETIMES { lifetime_ms } else { 0 };
                    Reply::message(response.with_session_lifetime_ms(lifetime_ms)).into()
                }
                Err(said) => refuse(peer, said).await,
            },
            Step::Refused(said) => refuse(peer, said).await,
        }
    }

    /// What a message leads to; `None` if no mechanism was named before it.
    async fn step(&self, peer: &Peer, session: &mut Session, message: &[u8]) -> Option<Step> {
        Some(match std::mem::take(&mut session.login) {
            Login::None => return None,
            Login::Named(Mechanism::Plain) => self.plain(peer, message).await,
            Login::Named(mechanism) => self.challenge(mechanism, message),
            Login::Proving(exchange, mechanism) => prove(peer, &exchange, mechanism, message),
        })
    }

    /// A message without SaslAuthenticate around it: there is no answer for a refusal but to close.
    pub(super) async fn on_token(&self, peer: &Peer, session: &mut Session, token: &[u8]) -> Option<Bytes> {
        let said = match self.step(peer, session, token).await? {
            Step::Continue(bytes, login) => {
                session.login = login;
                return Some(bytes.into());
            }
            Step::Done(user, bytes) => match self.logged_in(session, &user) {
                Ok(_) => {
                    session.sends_tokens = false;
                    return Some(bytes.into());
                }
                Err(said) => said,
            },
            Step::Refused(said) => said,
        };
        let _ = refuse(peer, said).await;
        None
    }

    /// `authorisation id NUL user NUL password` (RFC 4616).
    async fn plain(&self, peer: &Peer, message: &[u8]) -> Step {
        let malformed =
            || Step::Refused("login refused with PLAIN: the message is not user and password".to_owned());
        let mut parts = message.split(|byte| *byte == 0).map(std::str::from_utf8);
        let (Some(Ok(acts_as)), Some(Ok(user)), Some(Ok(password)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return malformed();
        };
        if user.is_empty() || password.is_empty() || !(acts_as.is_empty() || acts_as == user) {
            return malformed();
        }
        let found = [Mechanism::ScramSha256, Mechanism::ScramSha512]
            .map(|mechanism| (mechanism, self.security.credential(user, mechanism)));
        let [first, second] = found;
        let (mechanism, (credential, is_known)) = if second.1.1 && !first.1.1 { second } else { first };
        let password = password.to_owned();
        let hashed =
            tokio::task::spawn_blocking(move || credential.fits(mechanism, password.as_bytes())).await;
        if hashed.unwrap_or(false) && is_known {
            Step::Done(user.to_owned(), Vec::new())
        } else {
            Step::Refused(wrong_login(peer, user, Mechanism::Plain))
        }
    }

    fn challenge(&self, mechanism: Mechanism, message: &[u8]) -> Step {
        let nonce = match random::<NONCE_LEN>() {
            Ok(nonce) => nonce,
            Err(error) => return Step::Refused(error.to_string()),
        };
        let find = |user: &str| self.security.credential(user, mechanism);
        match Exchange::begin(mechanism, message, &nonce, find) {
            Ok((exchange, answer)) => Step::Continue(answer, Login::Proving(Box::new(exchange), mechanism)),
            Err(reason) => Step::Refused(format!("login refused with {}: {reason}", mechanism.name())),
        }
    }

    /// The client is that user from now on; how long, ms (0: until it leaves).
    fn logged_in(&self, session: &mut Session, user: &str) -> Result<i64, String> {
        let principal = format!("User:{user}");
        if session.principal.as_deref().is_some_and(|before| before != principal) {
            return Err(format!(
                "login refused: this connection is user {}'s, open another one",
                session.user()
            ));
        }
        let lifetime_ms = self.security.config.reauth_max_ms;
        session.login_until_ms = (lifetime_ms > 0).then(|| self.steady_ms().saturating_add(lifetime_ms));
        session.becomes(Arc::from(principal));
        Ok(i64::try_from(lifetime_ms).unwrap_or(i64::MAX))
    }

    /// Whether anybody can log in.
    #[must_use]
    pub fn has_users(&self) -> bool {
        !self.security.config.users.is_empty() || !self.security.records().credentials.is_empty()
    }
}

fn prove(peer: &Peer, exchange: &Exchange, mechanism: Mechanism, message: &[u8]) -> Step {
    match exchange.finish(message) {
        Ok(Some(proved)) => Step::Done(exchange.user.clone(), proved),
        Ok(None) => Step::Refused(wrong_login(peer, &exchange.user, mechanism)),
        Err(reason) => {
            let user = exchange.user.escape_debug();
            Step::Refused(format!("login refused for user {user} with {}: {reason}", mechanism.name()))
        }
    }
}

/// Says so late, here and there, and closes.
async fn refuse(peer: &Peer, said: String) -> Answer {
    tracing::warn!(peer = %peer.remote, "{said}");
    tokio::time::sleep(FAILED_DELAY).await;
    let error = BrokerError::LoginRefused(said);
    let response = SaslAuthenticateResponse::default()
        .with_error_code(error.code())
        .with_error_message(Some(text(error.to_string())));
    Answer { last: true, ..Reply::message(response).into() }
}
