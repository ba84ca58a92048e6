//! HTTP delivery against a small server on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{bus, consume, produce, start};

/// Answers 503 to the first request, 422 to bodies with `bad`, 200 to the rest; keeps the good bodies.
fn server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        let mut requests = 0;
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            requests += 1;
            let status = match () {
                () if requests == 1 => "503 Service Unavailable",
                () if body.contains("bad") => "422 Unprocessable",
                () => {
                    kept.lock().unwrap().push(body);
                    "200 OK"
                }
            };
            let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone");
            reader.get_mut().write_all(reply.as_bytes()).unwrap();
        }
    });
    (port, bodies)
}

#[test]
fn http_retries_what_may_succeed_and_buries_what_is_refused() {
    let (port, bodies) = server();
    let bus = bus(&["finds"]);
    let records: Vec<_> = ["one", "bad", "two"]
        .iter()
        .map(|word| (String::new(), "k".to_owned(), format!("{{\"w\":\"{word}\"}}")))
        .collect();
    produce(&bus, "finds", &records);
    let text = format!(
        r#"
- errorHandler:
    deadLetterChannel:
      deadLetterUri: "kafka:dead"
      redeliveryPolicy: {{maximumRedeliveries: 3, redeliveryDelay: 10, backOffMultiplier: 2}}
- route:
    id: post
    from:
      uri: kafka:finds
      steps:
        - to: "http://127.0.0.1:{port}/ingest?source=hunt"
        - to: "kafka:replies"
"#
    );
    let folder = tempfile::tempdir().unwrap();
    let handle = start(&bus, &text, folder.path());
    assert!(handle.drain(Duration::from_secs(20)));
    let stats = handle.stop();
    assert_eq!(*bodies.lock().unwrap(), [r#"{"w":"one"}"#, r#"{"w":"two"}"#]);
    assert_eq!(stats[0].retried, 3);
    let dead = consume(&bus, "dead");
    assert_eq!(dead.len(), 1);
    assert!(dead[0].headers["herdsman-dead-letter-reason"].contains("answered 422: done"), "{dead:?}");
    let replies = consume(&bus, "replies");
    assert!(replies.len() == 2 && replies.iter().all(|found| found.value == "done"), "{replies:?}");
}
