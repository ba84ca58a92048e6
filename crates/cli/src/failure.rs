//! How a command fails: one line on standard error, exit code 1, or 2 when the call itself was wrong.

use std::fmt::Display;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The work failed (exit code 1).
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// The call was wrong: a flag, a file name, an input that cannot be used (exit code 2).
    pub fn usage(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 2 }
    }

    /// The work failed, and what was wrong has been printed (exit code 1).
    pub fn told() -> Self {
        Self::new("")
    }

    /// Prints the line; ksqlDB's words may have been several.
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            let line: Vec<&str> = self.message.lines().map(str::trim).collect();
            eprintln!("herdsman: {}", line.join(" "));
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self::new(message)
    }
}

/// Help and version go to standard output; a wrong call of `program` becomes one line that says what was meant.
pub fn usage(program: &clap::Command, error: &clap::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Ok(());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return Err(Failure::usage(""));
        }
        _ => {}
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(value)) => Some(value.clone()),
        Some(ContextValue::Strings(values)) => values.first().cloned(),
        _ => None,
    };
    let what = match error.kind() {
        ErrorKind::UnknownArgument => {
            text(ContextKind::InvalidArg).map(|flag| format!("unknown flag {flag}"))
        }
        ErrorKind::InvalidSubcommand => {
            text(ContextKind::InvalidSubcommand).map(|name| format!("unknown command {name}"))
        }
        _ => None,
    };
    let near = text(ContextKind::SuggestedArg)
        .map(|flag| with_value(program, flag))
        .or_else(|| text(ContextKind::SuggestedSubcommand));
    let line = match (what, near) {
        (Some(what), Some(near)) => format!("{what}: did you mean {near}?"),
        (Some(what), None) => format!("{what}: herdsman --help lists what there is"),
        (None, _) => first_paragraph(&error.to_string()),
    };
    Err(Failure::usage(line))
}

/// `--kafka` as `--kafka ADDR`, as the command that was called names its value.
fn with_value(program: &clap::Command, flag: String) -> String {
    let mut called = program;
    for word in std::env::args().skip(1) {
        called = called.find_subcommand(&word).unwrap_or(called);
    }
    let long = flag.trim_start_matches('-');
    let argument = called.get_arguments().find(|argument| argument.get_long() == Some(long));
    let takes_value = argument.filter(|argument| argument.get_action().takes_values());
    match takes_value.and_then(|argument| argument.get_value_names()?.first()) {
        Some(name) => format!("{flag} {name}"),
        None => flag,
    }
}

fn first_paragraph(text: &str) -> String {
    let paragraph: Vec<&str> =
        text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    paragraph.join(" ").trim_start_matches("error: ").to_owned()
}
