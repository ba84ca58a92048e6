//! The sidecar before a real Redis: the same answers as going direct, in the same order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use herdsman_guard::proxy::Proxy;
use herdsman_guard::{CacheUrl, Objective};
use herdsman_host::RealClock;

use crate::servers::{self, until};

fn proxy_for(port: u16) -> Proxy {
    let cache = CacheUrl::parse(&format!("redis://127.0.0.1:{port}")).unwrap();
    Proxy::start(([127, 0, 0, 1], 0).into(), cache, Objective::AsLowAsPossible, RealClock::shared()).unwrap()
}

/// Sends inline commands in one write and reads until the last one's reply, an echo of `end`.
fn talk(to: SocketAddr, commands: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(format!("{commands}ECHO end\r\n").as_bytes()).unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0_u8; 65_536]);
    while !text.ends_with(b"$3\r\nend\r\n") {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "closed after {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_client_of_the_sidecar_sees_what_a_client_of_redis_sees() {
    let Some(redis) = servers::redis() else { return };
    let proxy = proxy_for(redis.port);
    let direct = SocketAddr::from(([127, 0, 0, 1], redis.port));
    for commands in [
        "SET a 1\r\nGET a\r\nGET none\r\nINCR a\r\nGET a\r\nMGET a none a\r\nGET a\r\nDEL a\r\nGET a\r\n",
        "RPUSH l x y\r\nGET l\r\nLRANGE l 0 -1\r\nDEL l\r\nNOSUCH\r\nGET\r\n",
        "SET k 1\r\nMULTI\r\nINCR k\r\nGET k\r\nEXEC\r\nGET k\r\nDEL k\r\n",
        "SELECT 2\r\nSET b 2\r\nGET b\r\nSELECT 0\r\nGET b\r\nFLUSHALL\r\n",
        "CLIENT SETNAME me\r\nHELLO 2 x\r\nPING\r\n",
        "\r\nPING\r\n*0\r\n*-1\r\n  \r\nGET a\r\n\n",
    ] {
        assert_eq!(talk(proxy.addr(), commands), talk(direct, commands), "{commands}");
    }
    let many: String = (0..3_000).map(|n| format!("SET n{} {n}\r\nGET n{}\r\n", n % 7, n % 7)).collect();
    assert_eq!(talk(proxy.addr(), &many), talk(direct, &many), "a pipeline that reads what it wrote");
}

#[test]
fn the_sidecar_explains_itself_between_commands() {
    let Some(redis) = servers::redis() else { return };
    let proxy = proxy_for(redis.port);
    let said = talk(proxy.addr(), "SET a 1\r\nHERDSMAN EXPLAIN\r\nGET a\r\n");
    assert!(said.starts_with("+OK\r\n$") && said.contains("\r\n$1\r\n1\r\n"), "in order: {said}");
    for n in 0..2_000 {
        talk(proxy.addr(), &format!("MGET k{n} k{}\r\n", n + 1));
    }
    until("the tuner has measured", || {
        let told = herdsman_guard::proxy::explain_at(proxy.addr()).unwrap();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told["explain"]["rtt_us"].as_f64().is_some_and(|us| us > 0.0)
    });
    let explain = serde_json::to_value(proxy.explain()).unwrap();
    let names: Vec<_> = explain["by_hand"].as_array().unwrap().iter().map(|by| &by["setting"]).collect();
    assert_eq!(names[..4], ["batch size", "linger", "pool size", "pipeline depth"]);
    assert_eq!(explain["by_hand"][2]["now"], explain["connections"].to_string());
    assert_eq!(
        explain["changes_total"].as_u64().unwrap().min(16),
        explain["changes"].as_array().unwrap().len() as u64
    );
    let refused = herdsman_guard::proxy::explain_at(([127, 0, 0, 1], redis.port).into()).unwrap_err();
    assert!(refused.to_string().contains("no herdsman guard"), "{refused}");
}

#[test]
fn redis_benchmark_runs_through_the_sidecar_in_fewer_requests() {
    let Some(redis) = servers::redis() else { return };
    let proxy = proxy_for(redis.port);
    talk(proxy.addr(), "SET key:000000000000 x\r\n");
    let port = proxy.addr().port().to_string();
    let args = ["-p", &port, "-t", "set,get", "-n", "20000", "-c", "100", "-q"];
    let Ok(output) = Command::new("redis-benchmark").args(args).output() else {
        return println!("SKIPPED: redis-benchmark is not installed");
    };
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
    assert!(output.status.success() && text.contains("GET: "), "{text}");
    let stats = proxy.stats();
    assert!(stats.lookups >= 20_000, "{stats:?}");
    assert!(
        stats.round_trips * 2 < stats.lookups,
        "{} requests for {} look-ups",
        stats.round_trips,
        stats.lookups
    );
}

#[test]
fn a_dead_cache_is_an_error_for_every_command_and_never_nothing() {
    let port = servers::free_port();
    let proxy = proxy_for(port);
    until("the breaker opens", || proxy.explain().breaker == "open");
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.write_all(b"GET a\r\nMGET a b\r\nSET a 1\r\n").unwrap();
    let (mut text, mut buffer) = (String::new(), [0_u8; 4_096]);
    while text.matches("\r\n").count() < 3 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert_eq!(text.matches("-ERR herdsman guard: cache 127.0.0.1").count(), 3, "{text}");
}
