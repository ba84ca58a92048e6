//! Starts real servers on free loopback ports; each is stopped by its pid when dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::{CacheUrl, Guard, GuardConfig, GuardError, LoadError, Loader};
use herdsman_host::RealClock;

pub struct Server {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn redis_on(port: u16, more: &[&str]) -> Option<Server> {
    let text = port.to_string();
    let mut args = vec!["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    args.extend_from_slice(more);
    start("redis-server", &args, port)
}

pub fn redis() -> Option<Server> {
    redis_on(free_port(), &[])
}

pub fn memcached() -> Option<Server> {
    let port = free_port();
    start("memcached", &["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "nobody"], port)
}

pub fn start(program: &str, args: &[&str], port: u16) -> Option<Server> {
    start_command(Command::new(program).args(args), port)
}

/// Starts a server in a folder of its own (another user's in `/`) and waits until it listens on `port`.
pub fn start_command(command: &mut Command, port: u16) -> Option<Server> {
    let folder = tempfile::tempdir().unwrap();
    let own = command.get_program() != "setpriv";
    command.current_dir(if own { folder.path() } else { std::path::Path::new("/") });
    let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        println!("SKIPPED: {} is not installed", command.get_program().display());
        return None;
    };
    let server = Server { child, port, _folder: folder };
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(server);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} does not listen on {port} after 5 s", command.get_program().display());
}

/// A system of record that answers `record:<key>` for every key that does not begin with `no`, after `delay`.
pub struct Record {
    pub delay: Duration,
    pub keys: AtomicUsize,
    pub queries: AtomicUsize,
}

impl Record {
    pub fn new(delay: Duration) -> Arc<Self> {
        Arc::new(Self { delay, keys: AtomicUsize::new(0), queries: AtomicUsize::new(0) })
    }

    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::SeqCst)
    }
}

pub fn value_of(key: &Bytes) -> Option<Bytes> {
    (!key.starts_with(b"no")).then(|| Bytes::from([b"record:", key.as_ref()].concat()))
}

impl Loader for Record {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.keys.fetch_add(keys.len(), Ordering::SeqCst);
        self.queries.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        Ok(keys.iter().map(value_of).collect())
    }
}

pub fn guard(url: &str, record: &Arc<Record>, change: impl FnOnce(&mut GuardConfig)) -> Guard {
    let mut config = GuardConfig { cache: CacheUrl::parse(url).unwrap(), ..GuardConfig::default() };
    change(&mut config);
    Guard::open(config, Arc::clone(record) as Arc<dyn Loader>, RealClock::shared()).unwrap()
}

/// As [`guard`] with the defaults, which may be refused.
pub fn try_guard(url: &str, record: &Arc<Record>) -> Result<Guard, GuardError> {
    let config = GuardConfig { cache: CacheUrl::parse(url)?, ..GuardConfig::default() };
    Guard::open(config, Arc::clone(record) as Arc<dyn Loader>, RealClock::shared())
}

pub fn keys(prefix: &str, n: usize) -> Vec<Bytes> {
    (0..n).map(|n| Bytes::from(format!("{prefix}:{n}"))).collect()
}

/// Waits until `done`, five seconds at most.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 5 s: {what}");
}
