//! What a developer repeats: `cargo xtask tidy` checks the rules of the house.

mod tidy;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy::run(),
        other => anyhow::bail!("unknown task {}: the tasks are: tidy", other.unwrap_or("(none)")),
    }
}
