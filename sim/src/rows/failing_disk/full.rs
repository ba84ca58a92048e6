//! A full file system of 64 MB: writes are refused with the right error, reads go on, and writes resume when there is space.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::Client;
use super::{TOPIC, Tools, port_of, start};
use crate::Tally;
use crate::house::batch;
use crate::script::EPOCH_MS;

/// KAFKA_STORAGE_ERROR: clients try again.
const STORAGE_ERROR: i16 = 56;
/// Left free at the beginning, bytes.
const FREE: usize = 6 << 20;

/// A mounted file system; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn at(path: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(path);
        let done = mount.output().map_err(|error| format!("mount: {error}"))?;
        if done.status.success() {
            Ok(Self(path.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _done = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

pub(super) fn run(tools: &Tools) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mount = match Mount::at(&tools.folder.path().join("full")) {
        Ok(mount) => mount,
        Err(reason) => {
            println!("SKIPPED a full file system: cannot mount one ({reason})");
            return Ok(tally);
        }
    };
    let filler = mount.0.join("filler");
    std::fs::write(&filler, vec![1; (64 << 20) - FREE]).map_err(|error| error.to_string())?;
    let server = start(tools, &mount.0.join("data"), &[])
        .map_err(|what| format!("does not start on an almost full file system: {what}"))?;
    fill(port_of(&server)?, &filler).map_err(|what| format!("on a full file system: {what}"))?;
    drop(server);
    tally.count("full file systems", 1);
    Ok(tally)
}

fn fill(port: u16, filler: &Path) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("the connection: {error}");
    let mut client = Client::connect(port).map_err(fail)?;
    let made = client.create(TOPIC).map_err(fail)?;
    if made != 0 {
        return Err(format!("CreateTopics answers {made}"));
    }
    let large = batch(&[format!("v:{}", "x".repeat(100_000))], None, false, EPOCH_MS);
    let mut written = 0;
    let refused = loop {
        match client.produce(TOPIC, 0, &large).map_err(fail)? {
            Ok(_) => written += 1,
            Err(code) => break code,
        }
        if written > 1_000 {
            return Err("never full".to_owned());
        }
    };
    if refused != STORAGE_ERROR {
        return Err(format!("Produce answers {refused}, not {STORAGE_ERROR}"));
    }
    match client.fetch(TOPIC, 0, 0).map_err(fail)? {
        Ok(bytes) if bytes > 0 => {}
        other => return Err(format!("Fetch answers {other:?}")),
    }
    std::fs::remove_file(filler).map_err(|error| error.to_string())?;
    match client.produce(TOPIC, 0, &large).map_err(fail)? {
        Ok(offset) if offset == written => Ok(()),
        other => Err(format!("with space again, Produce answers {other:?}, not offset {written}")),
    }
}
