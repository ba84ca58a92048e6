//! What is kept of one connection, and the way of its requests: login, ACLs, the broker, quotas.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdsman_wire::kafka_protocol::messages::RequestKind;
use herdsman_wire::{Answer, Handler, Peer, Reply, Request};

use super::acl::{self, Operation, Resource, Who};
use super::login::Login;
use super::quota::Limits;
use super::screen::Screened;
use super::throttle;
use super::{Records, Security};
use crate::Broker;

/// The principal of a client that nobody knows.
const ANONYMOUS: &str = "User:ANONYMOUS";
/// Decisions that a connection keeps, per kind of resource.
const DECISIONS_MAX: usize = 1_000;

/// What is kept of one connection.
pub struct Session {
    /// `User:ana`; `None` until it has logged in.
    pub(super) principal: Option<Arc<str>>,
    pub(super) login: Login,
    /// Messages of the login come without SaslAuthenticate around them.
    pub(super) sends_tokens: bool,
    /// When the login ends, steady ms.
    pub(super) login_until_ms: Option<u64>,
    host: String,
    /// Version of `records`.
    seen: u64,
    records: Arc<Records>,
    /// Operations decided (as bits) and allowed, by name; one map per kind of resource.
    decisions: [HashMap<String, (i32, i32)>; 4],
    pub(super) limits: Limits,
}

impl Session {
    pub(super) fn new(principal: Option<Arc<str>>, host: String) -> Self {
        Self {
            principal,
            login: Login::default(),
            sends_tokens: false,
            login_until_ms: None,
            host,
            seen: 0,
            records: Arc::default(),
            decisions: Default::default(),
            limits: Limits::default(),
        }
    }

    /// Takes up what has changed since the last request.
    fn refresh(&mut self, security: &Security) {
        let version = security.version();
        if version != self.seen {
            self.records = security.records();
            self.seen = version;
            self.decisions.iter_mut().for_each(HashMap::clear);
            self.limits = Limits::default();
        }
    }

    /// Another user has logged in.
    pub(super) fn becomes(&mut self, principal: Arc<str>) {
        self.principal = Some(principal);
        self.seen = 0;
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// The name without its type: `ana` of `User:ana`.
    pub(super) fn user(&self) -> &str {
        let principal = self.principal.as_deref().unwrap_or(ANONYMOUS);
        principal.split_once(':').map_or(principal, |(_, name)| name)
    }
}

/// One request's view of who may do what.
pub(super) struct Gate<'a> {
    pub(super) security: &'a Security,
    pub(super) session: &'a mut Session,
}

impl Gate<'_> {
    /// Whether the client may do `operation` on the resource called `name`.
    pub(super) fn may(&mut self, operation: Operation, resource: Resource, name: &str) -> bool {
        let bit = operation.bit();
        let kept = self.session.decisions.get(resource as usize - 2).and_then(|kept| kept.get(name)).copied();
        let (known, allowed) = kept.unwrap_or_default();
        if known & bit != 0 {
            return allowed & bit != 0;
        }
        let who = Who {
            principal: self.session.principal.as_deref().unwrap_or(ANONYMOUS),
            host: &self.session.host,
        };
        let may = acl::allows(&self.security.config, &self.session.records, &who, operation, resource, name);
        if !may {
            tracing::debug!(
                principal = who.principal,
                host = who.host,
                ?operation,
                ?resource,
                name,
                "denied"
            );
        }
        if let Some(decisions) = self.session.decisions.get_mut(resource as usize - 2) {
            if kept.is_none() && decisions.len() >= DECISIONS_MAX {
                decisions.clear();
            }
            let decision = (known | bit, if may { allowed | bit } else { allowed });
            match decisions.get_mut(name) {
                Some(place) => *place = decision,
                None => drop(decisions.insert(name.to_owned(), decision)),
            }
        }
        may
    }

    /// Whether the client may do `operation` on the cluster.
    pub(super) fn may_cluster(&mut self, operation: Operation) -> bool {
        self.may(operation, Resource::Cluster, acl::CLUSTER)
    }

    /// Whether the client may write to any topic at all.
    pub(super) fn may_write_somewhere(&self) -> bool {
        let who = Who {
            principal: self.session.principal.as_deref().unwrap_or(ANONYMOUS),
            host: &self.session.host,
        };
        let records = &self.session.records;
        acl::allows_any(&self.security.config, records, &who, Operation::Write, Resource::Topic)
    }

    /// Everything the client may do there, a bit each (KIP-430).
    pub(super) fn operations(&mut self, resource: Resource, name: &str) -> i32 {
        acl::operations_of(resource)
            .iter()
            .filter(|operation| self.may(**operation, resource, name))
            .fold(0, |bits, operation| bits | operation.bit())
    }
}

impl Handler for Broker {
    type Session = Session;

    fn connect(&self, peer: &Peer) -> Session {
        let principal = match (&peer.subject, peer.listener.protocol.wants_login()) {
            (_, true) => None,
            (Some(subject), false) => Some(Arc::from(format!("User:{subject}"))),
            (None, false) => Some(Arc::from(ANONYMOUS)),
        };
        Session::new(principal, peer.remote.ip().to_canonical().to_string())
    }

    fn is_admitted(&self, session: &Session) -> bool {
        session.principal.is_some()
    }

    fn expects_token(&self, session: &Session) -> bool {
        session.sends_tokens
    }

    async fn handle_token(&self, peer: &Arc<Peer>, session: &mut Session, token: Bytes) -> Option<Bytes> {
        self.on_token(peer, session, &token).await
    }

    async fn handle(&self, peer: &Arc<Peer>, session: &mut Session, request: Request) -> Answer {
        let version = request.head.api_version;
        match request.body {
            RequestKind::SaslHandshake(body) => self.on_sasl_handshake(peer, session, &body, version),
            RequestKind::SaslAuthenticate(body) => {
                self.on_sasl_authenticate(peer, session, &body, version).await
            }
            _ if session.login_until_ms.is_some_and(|until| self.steady_ms() > until) => {
                tracing::info!(peer = %peer.remote, user = session.user(), "login expired, connection closed");
                Reply::Close.into()
            }
            _ => {
                session.refresh(&self.security);
                if !self.security.config.authorizer && session.records.quotas.is_empty() {
                    return self.answer(peer, request).await.into();
                }
                self.answer_within(peer, session, request).await
            }
        }
    }
}

impl Broker {
    /// Answers what the client may ask, and tells how long it is to be muted.
    async fn answer_within(&self, peer: &Peer, session: &mut Session, mut request: Request) -> Answer {
        let client = request.head.client_id.clone().unwrap_or_default();
        let security = &self.security;
        session.find_limits(security, &client);
        let mut amend = None;
        if security.config.authorizer {
            match self.screen(&mut Gate { security, session: &mut *session }, &mut request) {
                Screened::Refused(reply) => {
                    let throttle_ms = session.limits.charge_request(Duration::ZERO, self.steady_ms());
                    return throttle::throttled(reply, throttle_ms);
                }
                Screened::Passed(then) => amend = then,
            }
        }
        let produced = session.limits.produced_bytes(&request);
        session.limits.cap_fetch(&mut request);
        let (mut reply, busy) = throttle::timed(&*self.clock, self.answer(peer, request)).await;
        if let Some(amend) = amend {
            amend(&mut reply, &mut Gate { security, session: &mut *session });
        }
        let throttle_ms = session.limits.charge(produced, &mut reply, busy, self.steady_ms());
        throttle::throttled(reply, throttle_ms)
    }
}
