//! Listeners and users as the configuration names them, checked and made into what the broker takes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use herdsman_broker::security::Mechanism;
use herdsman_broker::{Secret, SecurityConfig};
use herdsman_wire::{ClientAuth, Listener, Protocol, Tls, TlsFiles};
use serde::Deserialize;

use crate::config::Config;
use crate::error::ServerError;
use crate::nearest::unreadable;

/// One more listener for Kafka clients, with Kafka's security protocols.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: String,
    /// `host:port` told to clients; none: the address each client reached us at.
    #[serde(default)]
    pub advertised: Option<String>,
    /// SASL mechanisms offered (`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`); empty: all. PLAIN only over TLS or loopback.
    #[serde(default)]
    pub mechanisms: Vec<String>,
    /// The server's certificate and those that vouch for it, PEM.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The certificate's key, PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Authorities whose client certificates are good, PEM.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether clients show a certificate: `none`, `requested` or `required`.
    #[serde(default)]
    pub client_auth: Option<String>,
}

/// Who there is and who may do what.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecuritySettings {
    /// Whether ACLs decide.
    pub authorizer: bool,
    /// `super.users`: principals that may do everything, `User:admin`.
    pub super_users: Vec<String>,
    /// `allow.everyone.if.no.acl.found`.
    pub allow_everyone_if_no_acl_found: bool,
    /// `connections.max.reauth.ms`: how long a login is good, ms; 0: as long as the connection.
    pub reauth_max_ms: u64,
    /// Users that are there from the start.
    pub users: BTreeMap<String, UserConfig>,
}

/// Where a user's password is; it never stands in the configuration itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// The first line of this file.
    pub password_file: Option<PathBuf>,
    /// The value of this environment variable.
    pub password_env: Option<String>,
}

fn refused(place: String, reason: impl Into<String>) -> ServerError {
    ServerError::Config { place, reason: reason.into() }
}

impl ListenerConfig {
    fn place(&self) -> String {
        format!("listener {}", self.address)
    }

    fn protocol(&self) -> Result<Protocol, ServerError> {
        self.protocol.parse().map_err(|reason: String| refused(self.place(), reason))
    }

    fn client_auth(&self) -> Result<ClientAuth, ServerError> {
        match self.client_auth.as_deref() {
            None | Some("none") => Ok(ClientAuth::None),
            Some("requested") => Ok(ClientAuth::Requested),
            Some("required") => Ok(ClientAuth::Required),
            Some(other) => Err(refused(
                self.place(),
                format!("client_auth {other} is none of none, requested, required"),
            )),
        }
    }

    /// Whether everybody who comes in is known.
    fn is_authenticated(&self) -> Result<bool, ServerError> {
        let protocol = self.protocol()?;
        Ok(protocol.wants_login() || (protocol.is_encrypted() && self.client_auth()? == ClientAuth::Required))
    }

    fn check(&self, allow_anonymous: bool) -> Result<(), ServerError> {
        let is_loopback = self.address.ip().is_loopback();
        if !is_loopback && !allow_anonymous && !self.is_authenticated()? {
            return Err(ServerError::OpenAddress(self.address));
        }
        let protocol = self.protocol()?;
        for name in &self.mechanisms {
            let mechanism: Mechanism =
                name.parse().map_err(|reason: String| refused(self.place(), reason))?;
            if mechanism == Mechanism::Plain && !is_loopback && !protocol.is_encrypted() {
                return Err(refused(
                    self.place(),
                    "PLAIN over SASL_PLAINTEXT shows passwords to everyone on the way: use SASL_SSL, or SCRAM only",
                ));
            }
        }
        if !self.mechanisms.is_empty() && !protocol.wants_login() {
            let said = format!(
                "mechanisms, but {} asks for no login: use SASL_SSL or SASL_PLAINTEXT",
                protocol.name()
            );
            return Err(refused(self.place(), said));
        }
        let files = self.certificate.is_some() || self.key.is_some() || self.client_ca.is_some();
        if files && !protocol.is_encrypted() {
            let said = format!("certificates, but {} is not encrypted: use SSL or SASL_SSL", protocol.name());
            return Err(refused(self.place(), said));
        }
        self.advertised()?;
        Ok(())
    }

    fn advertised(&self) -> Result<Option<(String, u16)>, ServerError> {
        let Some(text) = &self.advertised else { return Ok(None) };
        let parts =
            text.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        match parts.filter(|(host, _)| !host.is_empty()) {
            Some(parts) => Ok(Some(parts)),
            None => Err(refused(self.place(), format!("advertised = {text} is not host:port"))),
        }
    }

    fn open(&self) -> Result<Listener, ServerError> {
        let protocol = self.protocol()?;
        let tls = if protocol.is_encrypted() {
            let needed = |path: &Option<PathBuf>, name: &str| {
                path.clone().ok_or_else(|| {
                    refused(self.place(), format!("{} needs {name}: the name of a PEM file", protocol.name()))
                })
            };
            let files = TlsFiles {
                certificate: needed(&self.certificate, "certificate")?,
                key: needed(&self.key, "key")?,
                client_ca: self.client_ca.clone(),
                client_auth: self.client_auth()?,
            };
            Some(Tls::open(files).map_err(|error| refused(self.place(), error.to_string()))?)
        } else {
            None
        };
        Ok(Listener { protocol, tls, mechanisms: self.mechanisms.clone(), advertised: self.advertised()? })
    }
}

impl Config {
    /// Refuses addresses other than loopback where clients need not say who they are, unless `allow_anonymous` says so
    /// aloud; and listeners that contradict themselves.
    pub fn check_addresses(&self) -> Result<(), ServerError> {
        for address in [self.kafka, self.http].into_iter().flatten() {
            if !address.ip().is_loopback() && !self.allow_anonymous {
                return Err(ServerError::OpenAddress(address));
            }
        }
        self.listeners.iter().try_for_each(|listener| listener.check(self.allow_anonymous))
    }

    /// Everything that Kafka clients can reach: addresses and how clients talk there. Reads the certificates.
    pub fn open_listeners(&self) -> Result<Vec<(SocketAddr, Arc<Listener>)>, ServerError> {
        let plain = self.kafka.map(|address| Ok((address, Arc::default())));
        let others = self.listeners.iter().map(|one| Ok((one.address, Arc::new(one.open()?))));
        plain.into_iter().chain(others).collect()
    }

    /// Users with their passwords, and the rest of security.
    pub(crate) fn security(&self) -> Result<SecurityConfig, ServerError> {
        let settings = &self.security;
        for name in &settings.super_users {
            if name.split_once(':').is_none_or(|(kind, name)| kind != "User" || name.is_empty()) {
                return Err(refused(
                    "super_users".to_owned(),
                    format!("{name} is not of the form User:name"),
                ));
            }
        }
        let users: Result<_, ServerError> = settings
            .users
            .iter()
            .map(|(name, user)| Ok((name.clone(), Secret::new(user.password(name)?))))
            .collect();
        Ok(SecurityConfig {
            authorizer: settings.authorizer,
            super_users: settings.super_users.clone(),
            allow_everyone_if_no_acl_found: settings.allow_everyone_if_no_acl_found,
            users: users?,
            reauth_max_ms: settings.reauth_max_ms,
        })
    }

    /// Where clients have to log in, somebody must be able to.
    pub(crate) fn check_users(&self, has_users: bool) -> Result<(), ServerError> {
        for listener in &self.listeners {
            if listener.protocol()?.wants_login() && !has_users {
                let said = "it asks for a login, but there is no user: name one, [security.users.NAME] password_file = \"FILE\"";
                return Err(refused(listener.place(), said));
            }
        }
        Ok(())
    }
}

impl UserConfig {
    fn password(&self, name: &str) -> Result<String, ServerError> {
        let place = format!("user {name}");
        let password = match (&self.password_file, &self.password_env) {
            (Some(path), None) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| refused(place.clone(), unreadable(path, &error)))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            (None, Some(variable)) => std::env::var(variable)
                .map_err(|_| refused(place.clone(), format!("environment variable {variable} is not set")))?,
            _ => return Err(refused(place, "give password_file or password_env, one of them")),
        };
        if password.is_empty() { Err(refused(place, "the password is empty")) } else { Ok(password) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let config = Config::parse(text, "herdsman.toml").unwrap();
        let checked = config.check_addresses().and_then(|()| config.open_listeners().map(|_| ()));
        let checked = checked.and_then(|()| config.security().map(|_| ()));
        checked.and_then(|()| config.check_users(!config.security.users.is_empty())).unwrap_err().to_string()
    }

    #[test]
    fn a_reachable_address_needs_somebody_who_is_known_or_a_word_that_it_does_not() {
        let open = "refusing to listen on 0.0.0.0:9093 without authentication: ";
        for protocol in ["PLAINTEXT", "SSL"] {
            let text = format!("[[listeners]]\naddress = '0.0.0.0:9093'\nprotocol = '{protocol}'\n");
            assert!(refusal(&text).starts_with(open), "{protocol}");
            let text = format!("allow_anonymous = true\n{text}");
            Config::parse(&text, "herdsman.toml").unwrap().check_addresses().unwrap();
        }
        let sasl = "[[listeners]]\naddress = '0.0.0.0:9093'\nprotocol = 'SASL_PLAINTEXT'\n";
        Config::parse(sasl, "herdsman.toml").unwrap().check_addresses().unwrap();
        assert_eq!(
            refusal(&format!("{sasl}mechanisms = ['PLAIN']")),
            "listener 0.0.0.0:9093: PLAIN over SASL_PLAINTEXT shows passwords to everyone on the way: use SASL_SSL, or SCRAM only"
        );
        assert!(
            refusal(sasl).starts_with("listener 0.0.0.0:9093: it asks for a login, but there is no user")
        );
    }

    #[test]
    fn listeners_that_contradict_themselves_are_refused_by_name() {
        let listener = |rest: &str| refusal(&format!("[[listeners]]\naddress = '127.0.0.1:9093'\n{rest}"));
        for (rest, said) in [
            ("protocol = 'TLS'", "TLS is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
            ("protocol = 'SSL'", "SSL needs certificate: the name of a PEM file"),
            (
                "protocol = 'SASL_PLAINTEXT'\nmechanisms = ['GSSAPI']",
                "GSSAPI is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
            ),
            (
                "protocol = 'PLAINTEXT'\ncertificate = 'a.pem'",
                "certificates, but PLAINTEXT is not encrypted: use SSL or SASL_SSL",
            ),
            ("protocol = 'PLAINTEXT'\nadvertised = 'bus'", "advertised = bus is not host:port"),
            (
                "protocol = 'SSL'\ncertificate = 'no.pem'\nkey = 'no.key'",
                "cannot read certificate no.pem: no such file",
            ),
        ] {
            assert_eq!(listener(rest), format!("listener 127.0.0.1:9093: {said}"));
        }
        assert_eq!(
            refusal("[security]\nsuper_users = ['admin']"),
            "super_users: admin is not of the form User:name"
        );
        assert_eq!(
            refusal("[security.users.ana]"),
            "user ana: give password_file or password_env, one of them"
        );
        let unset = refusal("[security.users.ana]\npassword_env = 'HERDSMAN_TEST_UNSET'");
        assert_eq!(unset, "user ana: environment variable HERDSMAN_TEST_UNSET is not set");
    }
}
