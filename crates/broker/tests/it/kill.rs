//! kill -9 at random moments under producers: every acknowledged record is there, in order, once.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::server::{Server, free_port, python, scripts};

const KILLS: u64 = 25;

#[test]
fn every_acknowledged_record_survives_25_kills_in_order_and_once() {
    under_kills("producers.py", &[]);
}

#[test]
fn a_transaction_is_whole_or_absent_after_25_kills_and_a_copy_is_exact() {
    under_kills("transactions.py", &["SEED"]);
}

/// Runs a script that writes, against a broker that is killed again and again; the script checks what is there at the end.
fn under_kills(script: &str, arguments: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut server = Server::start(dir.path(), port);
    // the moments differ from run to run on purpose; a failure shows what was lost
    let seed = u64::from(std::process::id());
    let mut clients = Command::new(python())
        .arg(scripts().join(script))
        .arg(server.address())
        .args(arguments.iter().map(|argument| argument.replace("SEED", &seed.to_string())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(clients.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().ends_with("ing"), "it says when it has begun");
    for kill in 0..KILLS {
        let random = (seed + kill).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        std::thread::sleep(Duration::from_millis(60 + random % 400));
        server.kill();
        server = Server::start(dir.path(), port);
    }
    std::thread::sleep(Duration::from_millis(500));
    clients.stdin.take().unwrap().write_all(b"stop\n").unwrap();
    let report: Vec<String> = said.map(Result::unwrap).collect();
    let status = clients.wait().unwrap();
    let report = report.join("\n");
    println!("{report}");
    assert!(status.success() && report.ends_with("all good"), "{script}, seed {seed}: {report}");
}
