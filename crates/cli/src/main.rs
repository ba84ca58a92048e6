//! The herdsman program: one file per command; this file is the table of contents.

mod allocator;
mod commands;
mod failure;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;

/// Event bus, streaming SQL, routes and a self-tuning cache connection in one program.
#[derive(Parser)]
#[command(name = "herdsman", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the treasure hunt end to end, on the shipped flights or on your own file
    Hunt(commands::hunt::Hunt),
    /// Serve the bus (Kafka protocol) and SQL (ksql REST)
    Serve(commands::serve::Serve),
    /// Create, list, describe and delete topics
    Topic(commands::topic::Topic),
    /// Send lines of standard input to a topic
    Produce(commands::produce::Produce),
    /// Print the records of a topic
    Consume(commands::consume::Consume),
    /// Show and reset the committed offsets of consumer groups
    Group(commands::group::Group),
    /// Talk SQL to a server, or check and export scripts
    Sql(commands::sql::Sql),
    /// Run test cases of streaming SQL
    Test(commands::test::Test),
    /// Check or run Camel YAML routes
    Route(commands::route::Route),
    /// The connection to a legacy cache: sidecar proxy and explanations
    Guard(commands::guard::GuardCommand),
    /// Keep clusters in step
    Mirror(commands::mirror::MirrorCommand),
    /// Measure this machine's Herdsman, and its peers
    Bench(commands::bench::Bench),
    /// Say what is wrong with this machine, configuration or data folder
    Doctor(commands::doctor::Doctor),
}

fn main() -> std::process::ExitCode {
    allocator::configure();
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(error) => failure::usage(&Cli::command(), &error),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("HERDSMAN_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_target(false)
        .init();
    match command {
        Command::Hunt(hunt) => hunt.run(),
        Command::Serve(serve) => serve.run(),
        Command::Topic(topic) => topic.run(),
        Command::Produce(produce) => produce.run(),
        Command::Consume(consume) => consume.run(),
        Command::Group(group) => group.run(),
        Command::Sql(sql) => sql.run(),
        Command::Test(test) => test.run(),
        Command::Route(route) => route.run(),
        Command::Guard(guard) => guard.run(),
        Command::Mirror(mirror) => mirror.run(),
        Command::Bench(bench) => bench.run(),
        Command::Doctor(doctor) => doctor.run(),
    }
}
