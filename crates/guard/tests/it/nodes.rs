//! Caches of several servers, and caches behind TLS: Redis Cluster with a slot that moves, Sentinel with a master that dies, memcached
//! nodes by ketama, ACLs and certificates. Real servers all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::{CacheUrl, Lane};
use herdsman_host::RealClock;

use crate::servers::{self, Record, Server, free_port, guard, keys, until, value_of};

/// One command, as redis-cli would send it, and its reply's first line (or the string that follows).
fn say(port: u16, words: &[&str]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    stream.write_all(text.as_bytes()).unwrap();
    let (mut reader, mut line) = (BufReader::new(stream), String::new());
    reader.read_line(&mut line).unwrap();
    let Some(len) = line.strip_prefix('$').and_then(|len| len.trim_end().parse::<usize>().ok()) else {
        return line.trim_end().to_owned();
    };
    let mut value = vec![0; len];
    reader.read_exact(&mut value).unwrap();
    String::from_utf8(value).unwrap()
}

/// Three masters that share the slots.
fn cluster() -> Option<Vec<Server>> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        // The cluster's own bus takes the port 10,000 above.
        let port = loop {
            let port = free_port();
            if port < 50_000 {
                break port;
            }
        };
        nodes.push(servers::redis_on(port, &more)?);
    }
    for (node, (first, last)) in nodes.iter().zip([(0, 5_460), (5_461, 10_922), (10_923, 16_383)]) {
        let (first, last) = (first.to_string(), last.to_string());
        assert_eq!(say(node.port, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]), "+OK");
        let first_port = nodes[0].port.to_string();
        say(node.port, &["CLUSTER", "MEET", "127.0.0.1", &first_port]);
    }
    for node in &nodes {
        until("the cluster's nodes agree", || {
            say(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && say(node.port, &["CLUSTER", "SLOTS"]) == "*3"
        });
    }
    Some(nodes)
}

fn slot_of(port: u16, key: &str) -> String {
    say(port, &["CLUSTER", "KEYSLOT", key]).trim_start_matches(':').to_owned()
}

/// As `redis-cli --cluster reshard` moves a slot: keys first, a few at a time, then the word.
fn move_slot(slot: &str, from: &Server, to: &Server, others: &[Server]) -> usize {
    let id = |node: &Server| say(node.port, &["CLUSTER", "MYID"]);
    let (from_id, to_id, to_port) = (id(from), id(to), to.port.to_string());
    assert_eq!(say(to.port, &["CLUSTER", "SETSLOT", slot, "IMPORTING", &from_id]), "+OK");
    assert_eq!(say(from.port, &["CLUSTER", "SETSLOT", slot, "MIGRATING", &to_id]), "+OK");
    let mut moved = 0;
    loop {
        let found = Command::new("redis-cli")
            .args(["-p", &from.port.to_string(), "CLUSTER", "GETKEYSINSLOT", slot, "5"])
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        let found: Vec<&str> = found.lines().filter(|line| !line.is_empty()).collect();
        if found.is_empty() {
            break;
        }
        moved += found.len();
        let mut words = vec!["MIGRATE", "127.0.0.1", &to_port, "", "0", "5000", "KEYS"];
        words.extend(&found);
        assert_eq!(say(from.port, &words), "+OK");
        std::thread::sleep(Duration::from_millis(10));
    }
    for node in
        [to, from].into_iter().chain(others.iter().filter(|node| ![to.port, from.port].contains(&node.port)))
    {
        assert_eq!(say(node.port, &["CLUSTER", "SETSLOT", slot, "NODE", &to_id]), "+OK");
    }
    moved
}

#[test]
fn a_cluster_serves_every_key_from_its_node_while_a_slot_moves() {
    let Some(nodes) = cluster() else { return };
    let url = format!("redis+cluster://127.0.0.1:{}", nodes[1].port);
    let record = Record::new(Duration::ZERO);
    let guard = guard(&url, &record, |config| config.near_capacity = 0);
    let mut asked = keys("k", 2_000);
    asked.extend((0..200).map(|n| Bytes::from(format!("{{moving}}:{n}"))));
    asked.extend(["odd}{key", "{}empty", "with blank\r\nand line"].map(Bytes::from));
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("the cluster has what was loaded", || guard.stats().fills as usize == asked.len());
    let size = |node: &Server| say(node.port, &["DBSIZE"]).trim_start_matches(':').parse::<usize>().unwrap();
    until("each node has its share", || nodes.iter().all(|node| size(node) > 500));
    assert_eq!(nodes.iter().map(size).sum::<usize>(), asked.len(), "values, and no lease left");
    let loaded = record.keys();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    assert_eq!((record.keys(), loaded, guard.stats().errors), (loaded, asked.len(), 0));

    let slot = slot_of(nodes[0].port, "{moving}");
    let owner = nodes.iter().position(|node| {
        say(node.port, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).trim_start_matches(':') != "0"
    });
    let (from, to) = (owner.unwrap(), (owner.unwrap() + 1) % 3);
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Deletions and loads of keys in the slot go on meanwhile.
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                guard.invalidate(&asked[2_000..2_010]);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        until("the load is on", || rounds.load(Ordering::SeqCst) > 5);
        let moved = move_slot(&slot, &nodes[from], &nodes[to], &nodes);
        assert!(moved >= 190, "{moved} keys were moved");
        let after = rounds.load(Ordering::SeqCst);
        until("the load goes on", || rounds.load(Ordering::SeqCst) > after + 5);
        stop.store(true, Ordering::SeqCst);
    });
    let stats = guard.stats();
    assert!(stats.redirects > 0, "{stats:?}");
    assert_eq!(stats.errors, 0, "{stats:?}");
    // What was deleted during the move is in the cache again, at the new node.
    std::thread::sleep(Duration::from_millis(100));
    until("values are written at the new node", || {
        guard.get_many(&asked, Lane::Normal).unwrap();
        let before = record.keys();
        guard.get_many(&asked, Lane::Normal).unwrap() == expected && record.keys() == before
    });
    println!("{} redirects, {} rounds, {} loads", stats.redirects, rounds.into_inner(), record.keys());
}

#[test]
fn a_dead_node_of_a_cluster_costs_only_its_own_keys() {
    let Some(mut nodes) = cluster() else { return };
    let record = Record::new(Duration::ZERO);
    let ports: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let guard = guard(&format!("redis+cluster://{}", ports.join(",")), &record, |config| {
        config.near_capacity = 0;
        config.degraded_loads_per_s = 1_000_000;
    });
    let asked = keys("k", 600);
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("the cluster has them", || guard.stats().fills == 600);
    // Without full coverage the others refuse everything; a cache is better served by what is left.
    for node in &nodes {
        assert_eq!(say(node.port, &["CONFIG", "SET", "cluster-require-full-coverage", "no"]), "+OK");
    }
    let theirs = say(nodes[2].port, &["DBSIZE"]).trim_start_matches(':').parse::<usize>().unwrap();
    drop(nodes.pop());
    until("the breaker is open", || {
        assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
        guard.explain().breaker == "open"
    });
    let before = record.keys();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    assert_eq!(record.keys() - before, theirs, "only the dead node's keys are loaded");
}

fn sentinel(master: u16, folder: &Path) -> Option<Server> {
    let port = free_port();
    let file = folder.join(format!("sentinel-{port}.conf"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor herd 127.0.0.1 {master} 1\n\
         sentinel down-after-milliseconds herd 500\nsentinel failover-timeout herd 3000\n"
    );
    std::fs::write(&file, text).unwrap();
    servers::start("redis-server", &[file.to_str().unwrap(), "--sentinel"], port)
}

#[test]
fn a_failover_by_sentinel_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(master) = servers::redis() else { return };
    let text = master.port.to_string();
    let Some(replica) = servers::redis_on(free_port(), &["--replicaof", "127.0.0.1", &text]) else { return };
    let Some(sentinel) = sentinel(master.port, folder.path()) else { return };
    until("the replica follows", || {
        say(replica.port, &["INFO", "replication"]).contains("master_link_status:up")
    });
    until("the sentinel knows the replica", || say(sentinel.port, &["SENTINEL", "REPLICAS", "herd"]) == "*1");
    let record = Record::new(Duration::ZERO);
    let url = format!("redis+sentinel://127.0.0.1:{}/herd", sentinel.port);
    let guard = guard(&url, &record, |config| {
        config.near_capacity = 0;
        config.degraded_loads_per_s = 1_000_000;
    });
    let asked = keys("k", 300);
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("master and replica have what was loaded", || say(replica.port, &["DBSIZE"]) == ":300");
    drop(master);
    let clock = RealClock::shared();
    let (died, mut worst) = (clock.monotonic_ns(), 0);
    while say(replica.port, &["ROLE"]) != "*3" || guard.explain().breaker == "open" {
        let begin = clock.monotonic_ns();
        assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected, "the record answers meanwhile");
        worst = worst.max(clock.monotonic_ns() - begin);
        assert!(clock.monotonic_ns() - died < 20_000_000_000, "{:?}", guard.explain());
        std::thread::sleep(Duration::from_millis(20));
    }
    until("the new master answers", || {
        let before = record.keys();
        guard.get_many(&asked, Lane::Normal).unwrap() == expected && record.keys() == before
    });
    let after = Duration::from_nanos(clock.monotonic_ns() - died);
    println!(
        "followed {after:?} after the master's death; the slowest look-up took {:?}",
        Duration::from_nanos(worst)
    );
}

#[test]
fn memcached_nodes_share_the_keys_as_twemproxy_does() {
    let Some(nodes) = (0..3).map(|_| servers::memcached()).collect::<Option<Vec<_>>>() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (port, stats) = (free_port(), free_port());
    let mut text =
        format!("pool:\n  listen: 127.0.0.1:{port}\n  hash: md5\n  distribution: ketama\n  servers:\n");
    nodes.iter().for_each(|node| text.push_str(&format!("   - 127.0.0.1:{}:1\n", node.port)));
    std::fs::write(folder.path().join("t.yml"), text).unwrap();
    let (file, stats) = (folder.path().join("t.yml"), stats.to_string());
    let args = ["-c", file.to_str().unwrap(), "-s", &stats, "-a", "127.0.0.1"];
    let Some(twemproxy) = servers::start("nutcracker", &args, port) else { return };
    let list: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let record = Record::new(Duration::ZERO);
    let url = format!("memcached://{}", list.join(","));
    let shared = guard(&url, &record, |config| config.near_capacity = 0);
    let mut asked = keys("k", 3_000);
    asked.push(Bytes::from("with blank"));
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    assert_eq!(shared.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("the nodes have what was loaded", || shared.stats().fills == 3_001);
    assert_eq!(shared.get_many(&asked, Lane::Normal).unwrap(), expected);
    assert_eq!(record.keys(), 3_001);
    // What the guard wrote, twemproxy finds where it looks.
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", twemproxy.port)).unwrap());
    for key in &asked[..500] {
        let key = std::str::from_utf8(key).unwrap();
        stream.get_mut().write_all(format!("get {key}\r\n").as_bytes()).unwrap();
        let mut lines = [String::new(), String::new(), String::new()];
        stream.read_line(&mut lines[0]).unwrap();
        assert!(lines[0].starts_with("VALUE "), "{key}: {}", lines[0]);
        for line in &mut lines[1..] {
            stream.read_line(line).unwrap();
        }
    }
    // A node that dies takes only its own keys with it.
    let mut nodes = nodes;
    drop(nodes.pop());
    let limited = guard(&url, &record, |config| {
        config.near_capacity = 0;
        config.degraded_loads_per_s = 1_000_000;
    });
    until("its breaker opens", || {
        assert_eq!(limited.get_many(&asked, Lane::Normal).unwrap(), expected);
        limited.explain().breaker == "open"
    });
    let before = record.keys();
    assert_eq!(limited.get_many(&asked, Lane::Normal).unwrap(), expected);
    let loaded = record.keys() - before;
    assert!((600..1_500).contains(&loaded), "{loaded} of 3,001 keys were the dead node's");
}

#[test]
fn twemproxy_in_front_of_memcached_is_spoken_to_in_the_classic_protocol() {
    let Some(node) = servers::memcached() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (port, stats) = (free_port(), free_port().to_string());
    let text = format!(
        "pool:\n  listen: 127.0.0.1:{port}\n  hash: md5\n  distribution: ketama\n  servers:\n   - 127.0.0.1:{}:1\n",
        node.port
    );
    std::fs::write(folder.path().join("t.yml"), text).unwrap();
    let file = folder.path().join("t.yml");
    let args = ["-c", file.to_str().unwrap(), "-s", &stats, "-a", "127.0.0.1"];
    let Some(twemproxy) = servers::start("nutcracker", &args, port) else { return };
    let record = Record::new(Duration::ZERO);
    let guard = guard(&format!("memcached://127.0.0.1:{}", twemproxy.port), &record, |config| {
        config.near_capacity = 0;
    });
    let asked = keys("k", 500);
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("it has what was loaded", || guard.stats().fills == 500);
    until("it answers", || {
        let before = record.keys();
        guard.get_many(&asked, Lane::Normal).unwrap() == expected && record.keys() == before
    });
    let stats = guard.stats();
    assert_eq!((stats.claims, stats.errors), (0, 0), "no meta protocol, no leases: {stats:?}");
    guard.invalidate(&asked[..10]);
    assert_eq!(guard.get_many(&asked[..10], Lane::Normal).unwrap(), expected[..10]);
    assert_eq!(record.keys(), 510);
}

/// A certificate authority, and a key and certificate for 127.0.0.1 under it.
fn certificates(folder: &Path) -> Option<(PathBuf, PathBuf, PathBuf)> {
    let file = |name: &str| folder.join(name);
    let openssl = |args: &[&str]| {
        let made = Command::new("openssl").args(args).current_dir(folder).output().ok()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(())
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut ca =
        vec!["req", "-x509", "-days", "2", "-subj", "/CN=herd", "-keyout", "ca.key", "-out", "ca.pem"];
    ca.extend(key);
    if openssl(&ca).is_none() {
        println!("SKIPPED: openssl is not installed");
        return None;
    }
    let mut request = vec!["req", "-subj", "/CN=cache", "-keyout", "s.key", "-out", "s.csr"];
    request.extend(key);
    openssl(&request)?;
    std::fs::write(file("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    let sign = [
        "x509",
        "-req",
        "-in",
        "s.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
    ];
    openssl(&[&sign[..], &["-extfile", "ext", "-out", "s.pem"]].concat())?;
    Some((file("ca.pem"), file("s.pem"), file("s.key")))
}

#[test]
fn redis_behind_tls_and_acls_serves_its_user_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some((ca, cert, key)) = certificates(folder.path()) else { return };
    let (port, text) = (free_port(), |path: &Path| path.to_str().unwrap().to_owned());
    let (ca, cert, key) = (text(&ca), text(&cert), text(&key));
    let port_text = port.to_string();
    let args = [
        "--port",
        "0",
        "--tls-port",
        &port_text,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--user",
        "default",
        "off",
        "--user",
        "guard",
        "on",
        ">pa:ss@wd",
        "~*",
        "+@all",
    ];
    let Some(_redis) = servers::start("redis-server", &args, port) else { return };
    let record = Record::new(Duration::ZERO);
    let files = format!("?ca={ca}&cert={cert}&key={key}");
    let url = format!("rediss://guard:pa%3Ass%40wd@127.0.0.1:{port}{files}");
    let secure = guard(&url, &record, |config| config.near_capacity = 0);
    let mut asked = keys("k", 5_000);
    asked.push(Bytes::from(vec![b'x'; 300_000]));
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    assert_eq!(secure.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("the cache has what was loaded", || secure.stats().fills == 5_001);
    assert_eq!(secure.get_many(&asked, Lane::Normal).unwrap(), expected);
    assert_eq!((record.keys(), secure.stats().errors), (5_001, 0));
    assert!(!format!("{secure:?} {:?}", secure.explain()).contains("ss@wd"), "the password is never told");
    assert_eq!(secure.explain().near, "off");
    // Its near cache hears of changes through TLS as well.
    let near = guard(&url, &record, |_| {});
    assert!(near.get_many(&asked[..1], Lane::Normal).is_ok());
    until("it tracks", || near.explain().near == "the cache tells of changes");
    for refused in [
        format!("rediss://guard:wrong@127.0.0.1:{port}{files}"),
        format!("rediss://127.0.0.1:{port}{files}"),
        format!("rediss://guard:pa%3Ass%40wd@127.0.0.1:{port}?cert={cert}&key={key}"),
        format!("redis://guard:pa%3Ass%40wd@127.0.0.1:{port}"),
    ] {
        let record = Record::new(Duration::ZERO);
        let CacheUrl::Redis { .. } = CacheUrl::parse(&refused).unwrap() else { panic!("{refused}") };
        let opened = servers::try_guard(&refused, &record);
        // No certificate to trust at all is refused at once; everything else is seen by the breaker.
        let Ok(outside) = opened else { continue };
        until("nobody else is let in", || outside.explain().breaker == "open");
        assert_eq!(outside.stats().connects, 0, "{refused}");
    }
    let missing =
        servers::try_guard(&format!("rediss://h:1?ca={}/none.pem", folder.path().display()), &record);
    assert!(missing.unwrap_err().to_string().contains("none.pem"));
}

#[test]
fn a_user_without_scripts_and_a_server_without_resp3_are_served_as_far_as_they_go() {
    let acl = ["--user", "poor", "on", ">p", "~k:*", "+mget", "+set", "+del", "+ping", "+select"];
    let Some(redis) = servers::redis_on(free_port(), &acl) else { return };
    let record = Record::new(Duration::ZERO);
    let asked = keys("k", 50);
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    let poor = guard(&format!("redis://poor:p@127.0.0.1:{}", redis.port), &record, |_| {});
    assert_eq!(poor.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("it is said that leases are refused", || poor.explain().leases.starts_with("refused"));
    assert!(poor.explain().near.starts_with("asks again"), "it may not track");
    assert_eq!(poor.explain().breaker, "closed");
    let Some(old) = servers::redis_on(free_port(), &["--rename-command", "HELLO", ""]) else { return };
    let record = Record::new(Duration::ZERO);
    let resp2 = guard(&format!("redis://127.0.0.1:{}", old.port), &record, |_| {});
    assert_eq!(resp2.get_many(&asked, Lane::Normal).unwrap(), expected);
    until("it takes the fills", || resp2.stats().fills == 50);
    assert!(resp2.explain().near.starts_with("asks again"));
    assert_eq!((resp2.stats().errors, resp2.explain().leases), (0, "one process loads a missing key"));
}
