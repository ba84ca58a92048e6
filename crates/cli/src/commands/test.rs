//! `herdsman test`: cases of streaming SQL, or one script with its input and expected output.

use std::path::{Path, PathBuf};

use clap::Args;

use super::read;
use crate::failure::Failure;

/// Test cases.
#[derive(Args)]
pub struct Test {
    /// Case files or folders of them
    paths: Vec<PathBuf>,
    /// One script (with -o, and -i if it reads anything), as ksql-test-runner takes them
    #[arg(short = 's', value_name = "FILE", requires = "output")]
    statements: Option<PathBuf>,
    /// Input records: {"inputs": […]}
    #[arg(short = 'i', value_name = "FILE")]
    input: Option<PathBuf>,
    /// Expected records: {"outputs": […]}
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Test {
    /// Runs them; a failed case is a failed command.
    pub fn run(self) -> Result<(), Failure> {
        if let (Some(statements), Some(output)) = (&self.statements, &self.output) {
            return script(statements, self.input.as_deref(), output);
        }
        if self.paths.is_empty() {
            return Err(Failure::usage(
                "nothing to test: name case files or folders, or pass -s FILE -o FILE",
            ));
        }
        for path in &self.paths {
            path.metadata().map_err(|error| Failure::usage(herdsman_server::unreadable(path, &error)))?;
        }
        let summary = herdsman_sql::testing::run_paths(&self.paths, &mut std::io::stdout().lock())
            .map_err(Failure::usage)?;
        if summary.failed() == 0 { Ok(()) } else { Err(Failure::told()) }
    }
}

/// One script as ksql-test-runner runs it.
fn script(statements: &Path, input: Option<&Path>, output: &Path) -> Result<(), Failure> {
    let inputs = input.map(read).transpose()?;
    match herdsman_sql::testing::run_script(&read(statements)?, inputs.as_deref(), &read(output)?) {
        Ok(()) => {
            println!("\t >>> Test passed!");
            Ok(())
        }
        Err(reason) => {
            println!("\t>>>>> Test failed: {reason}");
            Err(Failure::new("the test failed"))
        }
    }
}
