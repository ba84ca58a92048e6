//! The interactive shell: history in the user's state folder, statements end with a semicolon.

use std::path::PathBuf;

use reedline::{
    DefaultPrompt, DefaultPromptSegment, FileBackedHistory, Reedline, Signal, ValidationResult, Validator,
};

use super::client::Client;
use crate::failure::Failure;

/// A statement goes on until its semicolon.
struct Complete;

impl Validator for Complete {
    fn validate(&self, line: &str) -> ValidationResult {
        let line = line.trim();
        if line.is_empty() || line.ends_with(';') || is_word(line) {
            ValidationResult::Complete
        } else {
            ValidationResult::Incomplete
        }
    }
}

fn is_word(line: &str) -> bool {
    matches!(line.to_lowercase().as_str(), "exit" | "quit" | "help")
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("herdsman/history"))
}

/// Reads statements until `exit` or the end of input.
pub(super) fn run(client: &Client) -> Result<(), Failure> {
    let mut editor = Reedline::create().with_validator(Box::new(Complete));
    if let Some(file) = history_file() {
        let history = FileBackedHistory::with_file(10_000, file)?;
        editor = editor.with_history(Box::new(history));
    }
    let prompt =
        DefaultPrompt::new(DefaultPromptSegment::Basic("herdsman".into()), DefaultPromptSegment::Empty);
    loop {
        match editor.read_line(&prompt)? {
            Signal::Success(line) => match line.trim().to_lowercase().as_str() {
                "" => {}
                "exit" | "quit" | "exit;" | "quit;" => return Ok(()),
                "help" | "help;" => {
                    println!("Statements end with a semicolon. SHOW STREAMS; SHOW TABLES; SHOW QUERIES; exit")
                }
                _ => {
                    if let Err(failure) = client.run_script(&line) {
                        failure.report();
                    }
                }
            },
            Signal::CtrlD => return Ok(()),
            _ => {}
        }
    }
}
