//! Prints the Flink SQL of a ksqlDB script: `cargo run -p herdsman-sql --example flink -- FILE`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: flink FILE")?;
    let script = std::fs::read_to_string(path)?;
    let exported = herdsman_sql::export::flink_with(&script, &herdsman_sql::export::FlinkOptions::default())
        .map_err(|error| error.caret())?;
    for refused in &exported.refused {
        eprintln!("{}", refused.caret());
    }
    println!("{}", exported.sql);
    Ok(())
}
