//! SCRAM as the server sees it: what is kept of a password, and the two messages that prove one.
//!
//! ```text
//! client  n,,n=ana,r=NONCE1
//! server  r=NONCE1NONCE2,s=SALT,i=4096
//! client  c=biws,r=NONCE1NONCE2,p=PROOF
//! server  v=SIGNATURE
//! ```
//! Sources: RFC 5802, RFC 7677, KIP-84. A user who is not there gets the same messages as one with a wrong password.

use std::num::NonZeroU32;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

/// How clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// The password itself (RFC 4616): over TLS or loopback only.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

/// All mechanisms, the strongest first.
pub const MECHANISMS: [Mechanism; 3] = [Mechanism::ScramSha512, Mechanism::ScramSha256, Mechanism::Plain];

impl Mechanism {
    /// Its name in SASL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// Its number in Describe- and AlterUserScramCredentials (KIP-554).
    pub(crate) fn number(self) -> i8 {
        match self {
            Self::Plain => 0,
            Self::ScramSha256 => 1,
            Self::ScramSha512 => 2,
        }
    }

    /// The SCRAM mechanism of that number.
    pub(crate) fn of_number(number: i8) -> Option<Self> {
        [Self::ScramSha256, Self::ScramSha512].into_iter().find(|mechanism| mechanism.number() == number)
    }

    fn hmac(self) -> hmac::Algorithm {
        if self == Self::ScramSha512 { hmac::HMAC_SHA512 } else { hmac::HMAC_SHA256 }
    }

    fn digest(self) -> &'static digest::Algorithm {
        if self == Self::ScramSha512 { &digest::SHA512 } else { &digest::SHA256 }
    }

    /// Bytes of its hash.
    pub(crate) fn hash_len(self) -> usize {
        self.digest().output_len()
    }

    fn sign(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac(), key), text).as_ref().to_vec()
    }
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        MECHANISMS
            .into_iter()
            .find(|mechanism| mechanism.name() == text)
            .ok_or_else(|| format!("{text} is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"))
    }
}

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u32,
    pub(crate) stored_key: Vec<u8>,
    pub(crate) server_key: Vec<u8>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} iterations, ***", self.iterations)
    }
}

impl Credential {
    /// From the password itself.
    pub(crate) fn of_password(mechanism: Mechanism, password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = salted(mechanism, password, salt, iterations);
        Self::of_salted(mechanism, &salted, salt, iterations)
    }

    /// From the salted password, as an administrator's client sends it.
    pub(crate) fn of_salted(mechanism: Mechanism, salted: &[u8], salt: &[u8], iterations: u32) -> Self {
        let client_key = mechanism.sign(salted, b"Client Key");
        Self {
            salt: salt.to_vec(),
            iterations,
            stored_key: digest::digest(mechanism.digest(), &client_key).as_ref().to_vec(),
            server_key: mechanism.sign(salted, b"Server Key"),
        }
    }

    /// One that no password fits.
    pub(crate) fn unusable(salt: &[u8], iterations: u32) -> Self {
        Self { salt: salt.to_vec(), iterations, stored_key: Vec::new(), server_key: Vec::new() }
    }

    /// Whether it was made from `password`. Takes as long as a login of SCRAM takes a client: some milliseconds.
    pub(crate) fn fits(&self, mechanism: Mechanism, password: &[u8]) -> bool {
        let other = Self::of_password(mechanism, password, &self.salt, self.iterations);
        is_equal(&other.stored_key, &self.stored_key)
    }
}

fn salted(mechanism: Mechanism, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
    let algorithm = match mechanism {
        Mechanism::ScramSha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        _ => pbkdf2::PBKDF2_HMAC_SHA256,
    };
    let mut out = vec![0; mechanism.hash_len()];
    pbkdf2::derive(
        algorithm,
        NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN),
        salt,
        password,
        &mut out,
    );
    out
}

/// Compares in a time that does not depend on where the two differ.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    #[expect(
        deprecated,
        reason = "ring offers no other comparison of two byte strings; it stays as long as 0.17"
    )]
    ring::constant_time::verify_slices_are_equal(left, right).is_ok()
}

/// A login under way: the client's first message has been answered.
#[derive(Debug)]
pub(crate) struct Exchange {
    mechanism: Mechanism,
    pub(crate) user: String,
    credential: Credential,
    is_known: bool,
    header: String,
    client_nonce: String,
    nonce: String,
    /// Both first messages, as they are signed.
    said: String,
}

/// Why a message is refused.
pub(crate) type Refusal = &'static str;

impl Exchange {
    /// Reads the client's first message; the exchange, and the answer to it.
    pub(crate) fn begin(
        mechanism: Mechanism,
        message: &[u8],
        server_nonce: &[u8],
        find: impl FnOnce(&str) -> (Credential, bool),
    ) -> Result<(Self, Vec<u8>), Refusal> {
        let message = std::str::from_utf8(message).map_err(|_| "the first message is not UTF-8")?;
        let mut parts = message.splitn(3, ',');
        let (Some(binding), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("the first message has no header");
        };
        if !matches!(binding, "n" | "y") {
            return Err("channel binding is not offered");
        }
        let mut attributes = bare.split(',');
        let user = attributes.next().and_then(|part| part.strip_prefix("n=")).ok_or("no user name")?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or("no nonce")?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the nonce is empty or not printable");
        }
        if attributes.any(|part| part == "tokenauth=true") {
            return Err("delegation tokens are not offered");
        }
        let user = unescaped(user).ok_or("the user name is escaped wrongly")?;
        if let Some(identity) = identity.strip_prefix("a=") {
            if unescaped(identity).as_deref() != Some(&user) {
                return Err("another user's name to act under");
            }
        } else if !identity.is_empty() {
            return Err("the first message has no header");
        }
        let (credential, is_known) = find(&user);
        let client_nonce = nonce.to_owned();
        let nonce = format!("{client_nonce}{}", STANDARD.encode(server_nonce));
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&credential.salt), credential.iterations);
        let exchange = Self {
            mechanism,
            user,
            credential,
            is_known,
            header: STANDARD.encode(format!("{binding},{identity},")),
            client_nonce,
            nonce,
            said: format!("{bare},{answer}"),
        };
        Ok((exchange, answer.into_bytes()))
    }

    /// Reads the client's proof; the server's own, or `None` if it was made from another password.
    pub(crate) fn finish(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let message = std::str::from_utf8(message).map_err(|_| "the last message is not UTF-8")?;
        let (bare, proof) = message.rsplit_once(",p=").ok_or("no proof")?;
        let mut attributes = bare.split(',');
        let header =
            attributes.next().and_then(|part| part.strip_prefix("c=")).ok_or("no channel binding")?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or("no nonce")?;
        if header != self.header {
            return Err("the channel binding has changed");
        }
        // librdkafka before 2.6.1 puts its own half in front once more; ours is there in full all the same
        let nonce =
            nonce.strip_prefix(&self.client_nonce).filter(|rest| *rest == self.nonce).unwrap_or(nonce);
        if nonce != self.nonce {
            return Err("the nonce is another login's");
        }
        let proof = STANDARD.decode(proof).map_err(|_| "the proof is not base64")?;
        let said = format!("{},{bare}", self.said);
        let signature = self.mechanism.sign(&self.credential.stored_key, said.as_bytes());
        if proof.len() != signature.len() {
            return Err("the proof has another length");
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(left, right)| left ^ right).collect();
        let stored_key = digest::digest(self.mechanism.digest(), &client_key);
        if !is_equal(stored_key.as_ref(), &self.credential.stored_key) || !self.is_known {
            return Ok(None);
        }
        let verifier = self.mechanism.sign(&self.credential.server_key, said.as_bytes());
        Ok(Some(format!("v={}", STANDARD.encode(verifier)).into_bytes()))
    }
}

/// A name with `=2C` and `=3D` as `,` and `=`; `None` for any other `=`.
fn unescaped(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut parts = name.split('=');
    out.push_str(parts.next()?);
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        out.push(character);
        out.push_str(rest);
    }
    if out.is_empty() { None } else { Some(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_exchange_of_the_rfc_is_answered_as_it_says() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let credential = Credential::of_password(Mechanism::ScramSha256, b"pencil", &salt, 4096);
        let find = |user: &str| {
            assert_eq!(user, "user");
            (credential.clone(), true)
        };
        let (mut exchange, _) =
            Exchange::begin(Mechanism::ScramSha256, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", b"", find).unwrap();
        // the server's half of the nonce is chosen at random: here it is the example's
        exchange.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        exchange.said =
            format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", exchange.nonce);
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let proved = exchange.finish(last.as_bytes()).unwrap().unwrap();
        assert_eq!(String::from_utf8(proved).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let other = last.replace("dHzb", "dHzc");
        assert_eq!(exchange.finish(other.as_bytes()), Ok(None), "a proof with another bit is refused");
        let other = last.replace("k0,p", "k1,p");
        assert_eq!(exchange.finish(other.as_bytes()), Err("the nonce is another login's"));
    }

    #[test]
    fn a_user_who_is_not_there_is_refused_only_at_the_end() {
        let none = |_: &str| (Credential::unusable(b"salt", 4096), false);
        let (exchange, answer) =
            Exchange::begin(Mechanism::ScramSha512, b"n,,n=eve,r=abc", b"xy", none).unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), "r=abceHk=,s=c2FsdA==,i=4096");
        let last = format!("c=biws,r=abceHk=,p={}", STANDARD.encode([0; 64]));
        assert_eq!(exchange.finish(last.as_bytes()), Ok(None));
    }

    #[test]
    fn messages_that_break_the_rules_are_refused_without_a_panic() {
        let find = |_: &str| (Credential::unusable(b"salt", 4096), true);
        let begin = |message: &[u8]| {
            Exchange::begin(Mechanism::ScramSha256, message, b"x", find).map(|_| ()).unwrap_err()
        };
        for message in [
            &b""[..],
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=",
            b"n,,n=ana",
            b"n,,n=ana,r=",
            b"p=tls-unique,,n=ana,r=a",
            b"n,a=eve,n=ana,r=a",
            b"n,,n=a=2na,r=a",
            b"n,,n=ana,r=a\x01",
            b"\xff\xff",
            b"n,,n=ana,r=a,tokenauth=true",
        ] {
            assert!(!begin(message).is_empty());
        }
        assert_eq!(unescaped("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        let (exchange, _) = Exchange::begin(Mechanism::ScramSha256, b"n,,n=ana,r=a", b"x", find).unwrap();
        for message in [
            &b""[..],
            b"c=biws",
            b"c=biws,r=a,p=",
            b"c=eSws,r=aeA==,p=AA==",
            b"c=biws,r=aeA==,p=AA==",
            b"\xff",
        ] {
            assert!(exchange.finish(message).is_err());
        }
    }
}
