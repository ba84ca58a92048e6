//! Runs case files: `cargo run -p herdsman-sql --example cases -- PATH…`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let paths: Vec<_> = std::env::args_os().skip(1).map(std::path::PathBuf::from).collect();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let summary = herdsman_sql::testing::run_paths(&paths, &mut out)?;
    out.flush()?;
    std::process::exit(i32::from(summary.failed() > 0));
}
