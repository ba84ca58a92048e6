//! Python clients that are told what to do by line, and answer by line.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use herdsman_testkit::Process;

/// A running script; killed, by its id, when dropped.
#[derive(Debug)]
pub struct Script {
    process: Process,
    told: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Runs the file `name` of `sim/src/rows`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, arguments: &[&str]) -> Result<Self, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rows").join(name);
        let mut child = Command::new(herdsman_testkit::kafka_python())
            .arg(path)
            .args(arguments)
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(told), Some(out)) = pipes else { return Err(format!("{name}: no pipes")) };
        Ok(Self { process: child.into(), told, said: BufReader::new(out).lines() })
    }

    /// Tells it a line.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.told, "{line}").map_err(|error| format!("{line} could not be told: {error}"))
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// It has ended.
    pub fn hear(&mut self) -> Result<String, String> {
        let line = self.said.next().ok_or("a client ended early: see its standard error")?;
        line.map_err(|error| error.to_string())
    }

    /// What it says until it ends, and whether it ended well.
    pub fn end(mut self) -> (String, bool) {
        let rest: Vec<String> = self.said.by_ref().map_while(Result::ok).collect();
        (rest.join("\n"), self.process.wait())
    }
}
