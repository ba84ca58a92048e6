//! How clients reach a socket: its name, its security protocol, the address told to clients.

use std::str::FromStr;

use crate::tls::Tls;

/// How clients talk to a listener, by the names of Kafka's `security.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS; clients are known by their certificate, if they have to show one.
    Ssl,
    /// A login over a connection that anyone on the way can read.
    SaslPlaintext,
    /// A login over TLS.
    SaslSsl,
}

/// All protocols.
pub const PROTOCOLS: [Protocol; 4] =
    [Protocol::Plaintext, Protocol::Ssl, Protocol::SaslPlaintext, Protocol::SaslSsl];

impl Protocol {
    /// Its name in Kafka's configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether clients have to log in.
    #[must_use]
    pub fn wants_login(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PROTOCOLS
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("{text} is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"))
    }
}

/// What is known of a listener beside its socket.
#[derive(Debug, Default)]
pub struct Listener {
    /// How clients talk to it.
    pub protocol: Protocol,
    /// Keys and certificates; there if and only if the protocol is encrypted.
    pub tls: Option<Tls>,
    /// SASL mechanisms offered; empty: every one that is known.
    pub mechanisms: Vec<String>,
    /// Host and port told to clients; `None`: the address each client reached us at.
    pub advertised: Option<(String, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_known_by_kafkas_names() {
        for protocol in PROTOCOLS {
            assert_eq!(protocol.name().to_lowercase().parse::<Protocol>(), Ok(protocol));
        }
        let refused = "TLS".parse::<Protocol>().unwrap_err();
        assert_eq!(refused, "TLS is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
    }
}
