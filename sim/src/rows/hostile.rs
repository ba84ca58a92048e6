//! Hostile sockets on every listener, good clients beside them.
//!
//! Kafka plain, TLS and SASL, HTTP, and the RESP sidecar: malformed requests, announced lengths, half-open and slow connections, readers that do
//! not read, bombs in each codec, and idle connections, half as many as hostile ones, that stay.

mod bytes;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use herdsman_testkit::{Process, RedisServer, TempDir, self_signed, wait_for_port};

use self::bytes::Numbers;
use super::script::Script;
use crate::row::each_seed;
use crate::server::{Server, free_address, program, resident_bytes};
use crate::{Failure, Order, Row, Tally};

/// The row.
pub const ROW: Row = Row {
    name: "hostile",
    what: "hostile sockets on every listener, half as many idle ones, good clients beside them: memory grows by 64 MiB at most",
    unit: "connections",
    change: 500,
    long: 10_000,
    run,
};

/// What strangers may make the server and the sidecar grow by, together.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// Half-open connections and such that stay at the same time.
const KEPT_MAX: usize = 400;
/// A complete request is answered or hung up on within it.
const ANSWER: Duration = Duration::from_secs(10);
/// Listeners, in the order of [`House::doors`].
const DOORS: [&str; 5] = ["plain", "tls", "sasl", "http", "resp"];

/// Everything that runs.
struct House {
    server: Server,
    sidecar: Process,
    _redis: RedisServer,
    good: Script,
    doors: [SocketAddr; 5],
    _folder: TempDir,
}

fn run(order: &Order) -> Result<Tally, Failure> {
    attack(order).map_err(|what| Failure { seed: order.from, what })
}

fn attack(order: &Order) -> Result<Tally, String> {
    let bombs = bytes::bombs().map_err(|error| error.to_string())?;
    let mut house = House::open()?;
    std::thread::sleep(Duration::from_secs(3));
    house.good.tell("phase attack")?;
    let before = house.resident();
    let (peak, stop) = (AtomicU64::new(before), AtomicBool::new(false));
    let pids = [house.server.process.pid(), house.sidecar.pid()];
    let doors = house.doors;
    let kept = Mutex::new(VecDeque::new());
    let mut idle = Vec::new();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(pids.iter().map(|pid| resident_bytes(*pid)).sum(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcome = (0..order.count / 2)
            .try_for_each(|at| {
                let door = doors[usize::try_from(at).unwrap_or(0) % doors.len()];
                idle.push(
                    TcpStream::connect(door).map_err(|error| format!("idle connection {at}: {error}"))?,
                );
                Ok(())
            })
            .map_err(|what| Failure { seed: order.from, what })
            .and_then(|()| each_seed(order, |seed| one(seed, &doors, &bombs, &kept)));
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    let mut tally = outcome.map_err(|failure| format!("seed {}: {}", failure.seed, failure.what))?;
    if !house.server.process.is_running() || !house.sidecar.is_running() {
        return Err("the server or the sidecar has ended".to_owned());
    }
    let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
    tally.count("idle", idle.len() as u64);
    tally.count("grown_kib", grown >> 10);
    house.good.tell("end")?;
    let (report, well) = house.good.end();
    judge(&report, well, &mut tally)?;
    if grown > GROWTH_BYTES_MAX {
        return Err(format!("memory grew by {} MiB ({tally:?})", grown >> 20));
    }
    Ok(tally)
}

/// Every listener served its good client without an error; the times go into the tally.
fn judge(report: &str, well: bool, tally: &mut Tally) -> Result<(), String> {
    const NAMES: [[&str; 2]; 5] = [
        ["plain_p99_us_control", "plain_p99_us"],
        ["tls_p99_us_control", "tls_p99_us"],
        ["sasl_p99_us_control", "sasl_p99_us"],
        ["http_p99_us_control", "http_p99_us"],
        ["resp_p99_us_control", "resp_p99_us"],
    ];
    for (door, names) in DOORS.iter().zip(NAMES) {
        for (phase, name) in ["control", "attack"].into_iter().zip(names) {
            let line = report.lines().find(|line| line.starts_with(&format!("{door} {phase} ")));
            let figures: Vec<u64> = line
                .unwrap_or_default()
                .split(' ')
                .skip(2)
                .filter_map(|figure| figure.parse().ok())
                .collect();
            match figures[..] {
                [calls, p99, 0] if calls > 0 => tally.count(name, p99),
                _ => return Err(format!("{door}, {phase}: a good client was not served: {report}")),
            }
        }
    }
    if well { Ok(()) } else { Err(format!("the good clients failed: {report}")) }
}

/// One stranger.
fn one(
    seed: u64,
    doors: &[SocketAddr; 5],
    bombs: &[Vec<u8>],
    kept: &Mutex<VecDeque<TcpStream>>,
) -> Result<Tally, String> {
    let mut numbers = Numbers(seed);
    let door = numbers.below(doors.len());
    let connect = || TcpStream::connect(doors[door]);
    let mut stream = connect().map_err(|error| format!("{} does not accept: {error}", DOORS[door]))?;
    let keep = |stream| {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(stream);
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    };
    let timeouts =
        stream.set_read_timeout(Some(ANSWER)).and_then(|()| stream.set_write_timeout(Some(ANSWER)));
    timeouts.map_err(|error| error.to_string())?;
    let mut tally = Tally::of(1);
    // what is sent may be hung up on at any byte
    match numbers.below(6) {
        0 => {
            let _ = stream.write_all(&announced(door));
            tally.count("announced", 1);
            keep(stream);
        }
        1 => {
            let good = real(door, &mut numbers);
            let _ = stream.write_all(&good[..numbers.below(good.len())]);
            tally.count("half_open", 1);
            keep(stream);
        }
        2 => {
            for byte in real(door, &mut numbers).iter().take(12) {
                let _ = stream.write_all(&[*byte]);
                std::thread::sleep(Duration::from_millis(10));
            }
            tally.count("slow", 1);
        }
        3 => {
            let _ = stream.set_nonblocking(true);
            for _ in 0..50 {
                let _ = stream.write_all(&answered_at_length(door));
            }
            tally.count("unread", 1);
            keep(stream);
        }
        4 if door == 0 => {
            let _ = stream.write_all(&bombs[numbers.below(bombs.len())]);
            settle(&mut stream, "a bomb")?;
            tally.count("bombs", 1);
        }
        _ => {
            let (bytes, waits) = malformed(door, &mut numbers);
            let _ = stream.write_all(&bytes);
            if waits {
                keep(stream);
            } else {
                settle(&mut stream, &format!("{}: {bytes:02x?}", DOORS[door]))?;
            }
            tally.count("malformed", 1);
        }
    }
    Ok(tally)
}

/// Says that no more comes, and reads until the server hangs up.
fn settle(stream: &mut TcpStream, what: &str) -> Result<(), String> {
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("neither answered nor hung up on within {ANSWER:?}: {what}"));
            }
            Err(_) => return Ok(()),
        }
    }
}

/// A request that is in order.
fn real(door: usize, numbers: &mut Numbers) -> Vec<u8> {
    match door {
        3 => b"POST /ksql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 24\r\nConnection: close\r\n\r\n{\"ksql\":\"SHOW STREAMS;\"}".to_vec(),
        4 => b"*3\r\n$4\r\nMGET\r\n$4\r\nwide\r\n$4\r\nnone\r\n".to_vec(),
        _ => {
            let all = bytes::requests();
            bytes::framed(&all[numbers.below(all.len())])
        }
    }
}

/// A request that is not, and whether it may rightly wait for others before it is answered.
fn malformed(door: usize, numbers: &mut Numbers) -> (Vec<u8>, bool) {
    /// Fetch, JoinGroup, SyncGroup, ShareFetch.
    const WAITING: [u8; 4] = [1, 11, 14, 78];
    let good = real(door, numbers);
    if door >= 3 {
        return (bytes::mutated(&good, 0, numbers), false);
    }
    let keep = if numbers.below(4) == 0 { 0 } else { 11 };
    let bad = bytes::mutated(&good[4..], keep, numbers);
    let waits = bad.get(1).is_some_and(|api| WAITING.contains(api));
    if numbers.below(8) == 0 {
        (bytes::mutated(&bytes::framed(&bad), 0, numbers), waits)
    } else {
        (bytes::framed(&bad), waits)
    }
}

/// Much announced, little sent.
fn announced(door: usize) -> Vec<u8> {
    let mut bytes = match door {
        1 => vec![0x16, 0x03, 0x01, 0xff, 0xff],
        3 => b"POST /ksql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n".to_vec(),
        4 => b"*2\r\n$3\r\nGET\r\n$67108864\r\n".to_vec(),
        _ => (100_u32 << 20).to_be_bytes().to_vec(),
    };
    bytes.extend([b'a'; 1000]);
    bytes
}

/// A request whose answer is long.
fn answered_at_length(door: usize) -> Vec<u8> {
    match door {
        3 => b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        4 => b"*2\r\n$3\r\nGET\r\n$4\r\nwide\r\n".to_vec(),
        _ => bytes::fetch_wide(),
    }
}

impl House {
    fn open() -> Result<Self, String> {
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let (pem, key) = self_signed(folder.path(), "server", "/CN=localhost", "IP:127.0.0.1");
        let [plain, tls, sasl, resp] = [(); 4].map(|()| free_address());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "kafka = '{plain}'\n[[listeners]]\naddress = '{tls}'\nprotocol = 'SSL'\ncertificate = '{}'\nkey = '{}'\n\
             [[listeners]]\naddress = '{sasl}'\nprotocol = 'SASL_PLAINTEXT'\n[security.users.ana]\npassword_file = '{}'\n",
            pem.display(),
            key.display(),
            at("password"),
        );
        let write =
            |name: &str, text: &str| std::fs::write(at(name), text).map_err(|error| error.to_string());
        write("herdsman.toml", &config)?;
        write("password", "oak\n")?;
        let server = Server::start(&folder.path().join("data"), &["--config", &at("herdsman.toml")])?;
        let redis = RedisServer::start();
        let mut command = Command::new(program());
        command.args(["guard", "proxy", "--listen", &resp.to_string(), "--cache", &redis.url()]);
        let sidecar = Process::start(command, &folder.path().join("sidecar.log"));
        wait_for_port(resp.port(), 10);
        let http: SocketAddr = server.http.parse().map_err(|_| format!("no address: {}", server.http))?;
        let doors = [plain, tls, sasl, http, resp];
        let addresses = doors.map(|door| door.to_string());
        let ca = pem.display().to_string();
        let mut arguments: Vec<&str> = addresses.iter().map(String::as_str).collect();
        arguments.push(&ca);
        let mut good = Script::start("hostile/good.py", &arguments)?;
        good.hear()?;
        Ok(Self { server, sidecar, _redis: redis, good, doors, _folder: folder })
    }

    fn resident(&self) -> u64 {
        resident_bytes(self.server.process.pid()) + resident_bytes(self.sidecar.pid())
    }
}
