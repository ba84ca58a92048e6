//! The herd across four real processes: this test program, started again, is each of them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::embedded::CacheServer;
use herdsman_guard::{CacheUrl, Guard, GuardConfig, Lane, LoadError, Loader};
use herdsman_host::RealClock;

use crate::servers::{self, until};

const LOOKUPS: usize = 2_500;

/// Writes a line per load into a file that all processes share, then takes its time: `first_ms` for the first line of all, 20 ms else.
struct Counting {
    file: PathBuf,
    first_ms: u64,
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

impl Loader for Counting {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(&self.file).map_err(LoadError::new)?;
        for _ in keys {
            file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(LoadError::new)?;
        }
        let first = lines(&self.file).len() == 1;
        std::thread::sleep(Duration::from_millis(if first { self.first_ms } else { 20 }));
        Ok(keys.iter().map(servers::value_of).collect())
    }
}

/// One process: says `ready`, waits for a line, looks up one key 2,500 times at once, says how it went.
#[test]
#[ignore = "the other tests start it"]
fn member() {
    let Ok(arguments) = std::env::var("HERD_MEMBER") else { return };
    let [url, file, first_ms] = arguments.split('\n').collect::<Vec<_>>()[..] else { panic!("{arguments}") };
    let counting = Counting { file: file.into(), first_ms: first_ms.parse().unwrap() };
    let config =
        GuardConfig { cache: CacheUrl::parse(url).unwrap(), near_capacity: 0, ..GuardConfig::default() };
    let guard = Guard::open(config, Arc::new(counting), RealClock::shared()).unwrap();
    until("the cache is connected", || guard.explain().connections_ready > 0);
    println!("\nmember: ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let key = Bytes::from_static(b"treasure:1");
        let tasks: Vec<_> = (0..LOOKUPS)
            .map(|_| {
                let (guard, key) = (guard.clone(), key.clone());
                tokio::spawn(async move { guard.get(key, Lane::Normal).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(Some(Bytes::from_static(b"record:treasure:1"))));
        }
    });
    println!("\nmember: answered");
}

struct Member {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Member {
    fn start(url: &str, file: &Path, first_ms: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::member", "--ignored", "--nocapture"])
            .env("HERD_MEMBER", format!("{url}\n{}\n{first_ms}", file.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, said) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(word) = line.strip_prefix("member: ") {
                    drop(sender.send(word.to_owned()));
                }
            }
        });
        Self { stdin: child.stdin.take().unwrap(), child, said }
    }

    fn hears(&self, word: &str) {
        assert_eq!(self.said.recv_timeout(Duration::from_secs(20)).as_deref(), Ok(word));
    }

    fn go(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
    }
}

fn four(url: &str, file: &Path, first_ms: u64) -> Vec<Member> {
    let members: Vec<_> = (0..4).map(|_| Member::start(url, file, first_ms)).collect();
    members.iter().for_each(|member| member.hears("ready"));
    members
}

fn one_load(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("loads");
    let mut members = four(url, &file, 200);
    members.iter_mut().for_each(Member::go);
    members.iter().for_each(|member| member.hears("answered"));
    assert_eq!(lines(&file).len(), 1, "{url}: loads of one key, 10,000 look-ups in four processes");
}

fn taken_over(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("loads");
    let mut members = four(url, &file, 60_000);
    members.iter_mut().for_each(Member::go);
    until("somebody loads", || lines(&file).len() == 1);
    // Longer than a lease: it is extended, so the others still wait.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(lines(&file).len(), 1, "{url}: the holder lives");
    let holder = lines(&file)[0].parse::<u32>().unwrap();
    let at = members.iter().position(|member| member.child.id() == holder).unwrap();
    members.remove(at).child.kill().unwrap();
    let (clock, mut again) = (RealClock::shared(), None);
    let killed_ns = clock.monotonic_ns();
    until("another takes over", || {
        again = lines(&file).get(1).cloned();
        again.is_some()
    });
    let gap_ms = (clock.monotonic_ns() - killed_ns) / 1_000_000;
    println!("{url}: taken over {gap_ms} ms after kill -9, lease 2,000 ms");
    members.iter().for_each(|member| member.hears("answered"));
    assert_eq!(lines(&file).len(), 2, "{url}: one load by the dead, one by its successor");
    assert_ne!(again, Some(holder.to_string()));
    assert!(gap_ms <= 2_200, "{url}: taken over after {gap_ms} ms");
}

#[test]
fn ten_thousand_cold_misses_in_four_processes_make_one_load_and_a_dead_holder_is_replaced() {
    if let Some(redis) = servers::redis() {
        one_load(&format!("redis://127.0.0.1:{}", redis.port));
        taken_over(&format!("redis://127.0.0.1:{}/1", redis.port));
    }
}

#[test]
fn the_same_on_memcached() {
    for check in [one_load, taken_over] {
        let Some(memcached) = servers::memcached() else { return };
        check(&format!("memcached://127.0.0.1:{}", memcached.port));
    }
}

#[test]
fn the_same_on_the_embedded_cache() {
    for check in [one_load, taken_over] {
        let cache = CacheServer::start(([127, 0, 0, 1], 0).into(), Default::default()).unwrap();
        check(&cache.url().to_string());
    }
}

/// Reads the present version of the record, then waits until it may answer.
struct Versioned {
    version: Arc<Mutex<u32>>,
    gate: Mutex<Option<Receiver<()>>>,
    started: Arc<Mutex<u32>>,
}

impl Loader for Versioned {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        let version = *self.version.lock().unwrap();
        *self.started.lock().unwrap() += 1;
        if let Some(gate) = self.gate.lock().unwrap().take() {
            gate.recv().map_err(LoadError::new)?;
        }
        Ok(vec![Some(Bytes::from(format!("version {version}"))); keys.len()])
    }
}

fn deletion_overtakes_load(url: &str) {
    let version = Arc::new(Mutex::new(1));
    let started = Arc::new(Mutex::new(0));
    let (open, gate) = channel();
    let guard = |gate| {
        let config = GuardConfig { cache: CacheUrl::parse(url).unwrap(), ..GuardConfig::default() };
        let (version, started) = (Arc::clone(&version), Arc::clone(&started));
        let loader = Versioned { version, gate: Mutex::new(gate), started };
        Guard::open(config, Arc::new(loader), RealClock::shared()).unwrap()
    };
    let (slow, other) = (guard(Some(gate)), guard(None));
    let keys = [Bytes::from_static(b"treasure:7")];
    let asked = {
        let (slow, keys) = (slow.clone(), keys.clone());
        std::thread::spawn(move || slow.get_many(&keys, Lane::Normal))
    };
    until("the first load has read", || *started.lock().unwrap() == 1);
    *version.lock().unwrap() = 2;
    other.invalidate(&keys);
    // Answered by the cache, so the deletion before it on the same connection is through.
    let probe = other.get_many(&[Bytes::from_static(b"probe")], Lane::Normal).unwrap();
    assert_eq!(probe.len(), 1);
    open.send(()).unwrap();
    assert_eq!(
        asked.join().unwrap().unwrap(),
        [Some(Bytes::from_static(b"version 1"))],
        "asked before the change"
    );
    until("the cache has refused what is out of date", || slow.stats().fills_refused == 1);
    for guard in [&slow, &other] {
        assert_eq!(
            guard.get_many(&keys, Lane::Normal).unwrap(),
            [Some(Bytes::from_static(b"version 2"))],
            "{url}: {:?}",
            guard.stats()
        );
    }
}

#[test]
fn what_was_read_before_a_deletion_by_another_process_is_never_written_after_it() {
    if let Some(redis) = servers::redis() {
        deletion_overtakes_load(&format!("redis://127.0.0.1:{}", redis.port));
    }
    if let Some(memcached) = servers::memcached() {
        deletion_overtakes_load(&format!("memcached://127.0.0.1:{}", memcached.port));
    }
    let cache = CacheServer::start(([127, 0, 0, 1], 0).into(), Default::default()).unwrap();
    deletion_overtakes_load(&cache.url().to_string());
}
