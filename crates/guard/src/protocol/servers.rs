//! The codecs against real servers: random commands are answered as the model cache of the simulations answers them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use herdsman_host::Seed;

use super::{Codec, Memcached, Resp};
use crate::core::model::ModelCache;
use crate::core::{Answer, Claim, Claimed, Command, Fill, Found, LeasedFill, Want};
use crate::embedded::CacheServer;

const HOUR_MS: u64 = 3_600_000;
const NAMES: [&str; 4] = ["a", "b", "with blank", "c"];

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn start(program: &str, args: &[&str]) -> Option<Server> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let args = args.iter().map(|arg| arg.replace("PORT", &port.to_string()));
    let quiet = Program::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = quiet else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    let server = Server { child, port };
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(server);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{program} does not listen on {port} after 5 s");
}

fn redis() -> Option<Server> {
    start("redis-server", &["--port", "PORT", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
}

fn memcached() -> Option<Server> {
    start("memcached", &["-l", "127.0.0.1", "-p", "PORT", "-U", "0", "-u", "nobody"])
}

/// One connection and its codec.
struct Talk {
    stream: TcpStream,
    codec: Codec,
    bytes: BytesMut,
}

impl Talk {
    fn new(port: u16, codec: Codec) -> Self {
        Self { stream: TcpStream::connect(("127.0.0.1", port)).unwrap(), codec, bytes: BytesMut::new() }
    }

    fn ask(&mut self, command: &Command) -> Answer {
        let mut out = BytesMut::new();
        self.codec.encode(command, &mut out);
        self.stream.write_all(&out).unwrap();
        let mut answers = Vec::new();
        let mut buffer = [0_u8; 4_096];
        while answers.is_empty() {
            let n = self.stream.read(&mut buffer).unwrap();
            assert!(n > 0, "closed after {command:?}");
            self.bytes.extend_from_slice(&buffer[..n]);
            self.codec.decode(&mut self.bytes, &mut answers).unwrap();
        }
        assert!(self.bytes.is_empty() && answers.len() == 1, "more than one answer to {command:?}");
        answers.remove(0)
    }
}

/// Draws commands over few keys; `full` also draws what memcached does otherwise: there a lease lies in the value's place, so
/// that nobody can write past it.
struct Draw {
    random: Seed,
    full: bool,
    /// The tokens last won, as the model and as the server name them.
    tokens: HashMap<Bytes, (u64, u64)>,
    next_token: u64,
}

impl Draw {
    fn dice(&mut self, sides: u64) -> u64 {
        self.random.next_u64() % sides
    }

    fn keys(&mut self) -> Vec<Bytes> {
        let first = self.dice(4);
        (0..1 + self.dice(3)).map(|n| Bytes::from(NAMES[usize::try_from((first + n) % 4).unwrap()])).collect()
    }

    fn value(&mut self) -> Bytes {
        Bytes::from(["", "x", "a longer\r\nvalue", "y"][usize::try_from(self.dice(4)).unwrap()])
    }

    fn command(&mut self, model: &ModelCache) -> Command {
        let keys = self.keys();
        match self.dice(8) {
            0 => Command::Delete(keys),
            2 if self.full => {
                let value = self.value();
                let fill = |key| Fill { key, value: value.clone(), ttl_ms: HOUR_MS };
                Command::Fill(keys.into_iter().map(fill).collect())
            }
            1 | 2 => Command::Get(keys),
            3 => {
                let held = |key: Bytes| self.tokens.get(&key).map(|(token, _)| (key.clone(), *token));
                Command::Extend { leases: keys.into_iter().filter_map(held).collect(), lease_ms: HOUR_MS }
            }
            4 | 5 => {
                let renew = self.full && self.dice(2) == 0;
                let old = |key: &Bytes| model.values.get(key).map(|(value, _)| value.clone());
                let wants = keys.into_iter().map(|key| Want { renews: old(&key).filter(|_| renew), key });
                self.next_token += 1;
                Command::Claim(Claim { wants: wants.collect(), token: self.next_token, lease_ms: HOUR_MS })
            }
            _ => Command::FillLeased(keys.into_iter().map(|key| self.leased_fill(key, model)).collect()),
        }
    }

    fn leased_fill(&mut self, key: Bytes, model: &ModelCache) -> LeasedFill {
        let token = self.tokens.get(&key).map_or(99_999, |(token, _)| *token);
        let renews = model.values.get(&key).map(|(value, _)| value.clone());
        let renews =
            if self.full { renews.filter(|_| self.random.next_u64().is_multiple_of(2)) } else { None };
        let found = match self.dice(6) {
            0 if self.full => Found::Absent { ttl_ms: HOUR_MS },
            0 | 1 => Found::Nothing,
            _ => Found::Value { value: self.value(), ttl_ms: HOUR_MS },
        };
        LeasedFill { key, token, renews, found }
    }

    /// The same command with the server's own tokens.
    fn translated(&self, command: &Command) -> Command {
        let server = |key: &Bytes, token: u64| self.tokens.get(key).map_or(token, |(_, server)| *server);
        let mut command = command.clone();
        match &mut command {
            Command::FillLeased(fills) => fills.iter_mut().for_each(|f| f.token = server(&f.key, f.token)),
            Command::Extend { leases, .. } => {
                leases.iter_mut().for_each(|(k, token)| *token = server(k, *token))
            }
            _ => {}
        }
        command
    }

    /// Notes the names of leases won, and makes the server's answer comparable.
    fn note(&mut self, command: &Command, model: &Answer, server: &mut Answer) {
        let (Command::Claim(claim), Answer::Claimed(ours), Answer::Claimed(theirs)) =
            (command, model, server)
        else {
            return;
        };
        for ((want, ours), theirs) in claim.wants.iter().zip(ours).zip(theirs) {
            if let (Claimed::Won(ours), Claimed::Won(theirs)) = (ours, theirs) {
                self.tokens.insert(want.key.clone(), (*ours, *theirs));
                *theirs = *ours;
            }
        }
    }
}

fn compare(name: &str, port: u16, codec: Codec, full: bool, seed: u64) {
    let mut draw = Draw { random: Seed::new(seed), full, tokens: HashMap::new(), next_token: 0 };
    let (mut talk, mut model, mut won, mut taken) = (Talk::new(port, codec), ModelCache::default(), 0, 0);
    talk.ask(&Command::Delete(NAMES.map(Bytes::from).to_vec()));
    for step in 0..4_000 {
        let command = draw.command(&model);
        if matches!(&command, Command::Extend { leases, .. } if leases.is_empty()) {
            continue;
        }
        let mut answer = talk.ask(&draw.translated(&command));
        let expected = model.execute(&command, 1);
        draw.note(&command, &expected, &mut answer);
        if let Answer::Claimed(claimed) = &answer {
            won += claimed.iter().filter(|claimed| matches!(claimed, Claimed::Won(_))).count();
        }
        if let Answer::Filled(filled) = &answer {
            taken += filled.iter().filter(|taken| **taken).count();
        }
        assert_eq!(answer, expected, "{name}, seed {seed}, step {step}: {command:?}");
    }
    assert!(won > 300 && taken > 100, "{won} leases won, {taken} fills taken");
}

#[test]
fn redis_keeps_leases_as_the_model_does() {
    let Some(redis) = redis() else { return };
    (1..=5).for_each(|seed| compare("redis", redis.port, Codec::Resp(Resp::default()), true, seed));
}

#[test]
fn the_embedded_cache_keeps_leases_as_the_model_does() {
    let cache = CacheServer::start(([127, 0, 0, 1], 0).into(), Default::default()).unwrap();
    (1..=5).for_each(|seed| {
        compare("embedded", cache.addr().port(), Codec::Resp(Resp::default()), true, seed);
    });
}

#[test]
fn memcached_keeps_leases_as_the_model_does() {
    let Some(memcached) = memcached() else { return };
    let codec = || Codec::Memcached(Memcached::of_version("1.6.18"));
    (1..=5).for_each(|seed| compare("memcached", memcached.port, codec(), false, seed));
    let mut talk = Talk::new(memcached.port, codec());
    let mut claim = |key: &'static str, renews: Option<&'static str>| {
        let want = Want { key: Bytes::from(key), renews: renews.map(Bytes::from) };
        let claim = Claim { wants: vec![want], token: 0, lease_ms: 1_000 };
        let Answer::Claimed(claimed) = talk.ask(&Command::Claim(claim)) else { panic!("no claim") };
        let fill = |token, value: &'static str, renews: Option<&'static str>| LeasedFill {
            key: Bytes::from(key),
            token,
            renews: renews.map(Bytes::from),
            found: Found::Value { value: Bytes::from(value), ttl_ms: HOUR_MS },
        };
        let Some(Claimed::Won(token)) = claimed.first() else { return claimed };
        let fills = vec![fill(*token, "new", renews)];
        assert_eq!(talk.ask(&Command::FillLeased(fills)), Answer::Filled(vec![true]));
        claimed
    };
    assert!(matches!(claim("r", None)[0], Claimed::Won(_)));
    assert!(matches!(claim("r", Some("new"))[0], Claimed::Won(_)), "the value is known: it may be renewed");
    assert_eq!(claim("r", Some("old")), [Claimed::Held], "another value than the one to renew");
    assert_eq!(claim("r", None), [Claimed::Value(Bytes::from("new"))]);
}

#[test]
fn an_old_memcached_is_not_asked_for_leases() {
    for (version, expected) in
        [("1.5.22", false), ("1.6.0", true), ("1.6.18", true), ("2.0", true), ("?", false)]
    {
        assert_eq!(
            Codec::Memcached(Memcached::of_version(version)).abilities().leases,
            expected,
            "{version}"
        );
    }
}
