//! A disk that fills under a running server: a file system of a few MiB in a namespace of its own.

use std::process::Command;

use super::one_line;
use crate::program::{Server, eventually, run};

/// Runs a command with a file system of `MIB` MiB on `FOLDER`; a file called `more` there makes it four times as large.
const TINY_DISK: &str = r#"
mount -t tmpfs -o size="$MIB"m none "$FOLDER" || exit 9
( until [ -e "$FOLDER/more" ]; do kill -0 $$ || exit; sleep 0.1; done 2>/dev/null; mount -o remount,size="$((4 * MIB))"m "$FOLDER" ) &
exec "$0" "$@"
"#;

fn tiny_disk(folder: &std::path::Path, mib: u32, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", TINY_DISK, program])
        .env("FOLDER", folder)
        .env("MIB", mib.to_string());
    command
}

#[test]
fn writes_are_refused_aloud_reads_and_queries_go_on_and_writes_resume_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    if !tiny_disk(data, 1, "true").status().is_ok_and(|status| status.success()) {
        return println!("SKIPPED: this system lets no user mount a small file system");
    }
    let server = Server::start_as(tiny_disk(data, 8, env!("CARGO_BIN_EXE_herdsman")), data, &[]);
    let namespace = format!("/proc/{}/root{}", server.pid(), data.display());
    server.sql("CREATE STREAM finds (text VARCHAR) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='KAFKA', PARTITIONS=1); CREATE STREAM copies AS SELECT text FROM finds;");
    let lines = |from: usize| (from..from + 1_000).map(|at| format!("{at:01000}\n")).collect::<String>();
    let mut sent = 0;
    let refused = loop {
        let said = server.produce("finds", lines(sent));
        if said.code != 0 {
            break said;
        }
        sent += 1_000;
        assert!(sent < 20_000, "the disk never filled");
    };
    assert_eq!(refused.code, 1);
    assert_eq!(
        one_line(&refused.err),
        format!(
            "herdsman: kafka://{} cannot write finds-0 to its disk, reads go on: free space there, its log says how much it needs",
            server.kafka
        )
    );
    assert_eq!(
        server.says("lower retention.bytes of finds"),
        format!(
            "no space in {}: writes refused, reads go on; free space or lower retention.bytes of finds, then writes resume by themselves",
            data.display()
        )
    );
    let read = |topic: &str| {
        run(&["consume", "--kafka", &server.kafka, "--from-beginning", "--exit-at-end", topic])
            .out
            .lines()
            .count()
    };
    let kept = read("finds");
    assert!(kept >= sent, "{kept} of {sent} acknowledged");
    std::fs::write(format!("{namespace}/more"), "").unwrap();
    eventually("0", || server.produce("finds", "again\n").code.to_string());
    let all = read("finds");
    assert!(all > kept);
    eventually(&all.to_string(), || read("COPIES").to_string());
}
