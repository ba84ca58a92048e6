//! `herdsman route`: check and run Camel YAML routes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc;

use clap::{Args, Subcommand};
use herdsman_host::RealClock;
use herdsman_routes::RouteSet;

use super::Cluster;
use crate::failure::Failure;

/// Routes.
#[derive(Args)]
pub struct Route {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Read route files and report every mistake with its place
    Check {
        /// Route files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Run routes against a running cluster until Ctrl-C
    Run {
        #[command(flatten)]
        cluster: Cluster,
        /// Value of {{NAME}}
        #[arg(long = "property", value_name = "NAME=VALUE")]
        properties: Vec<String>,
        /// Route files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

impl Route {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Check { files } => {
                let mut broken = 0;
                for (index, result) in
                    herdsman_routes::check(&files, &BTreeMap::new()).into_iter().enumerate()
                {
                    match result {
                        Ok(ids) => {
                            let file =
                                files.get(index).map(|file| file.display().to_string()).unwrap_or_default();
                            println!("{file}: {}", ids.join(", "));
                        }
                        Err(error) => {
                            broken += 1;
                            eprintln!("{error}");
                        }
                    }
                }
                if broken == 0 { Ok(()) } else { Err(Failure::told()) }
            }
            Action::Run { cluster, properties, files } => {
                let mut values = BTreeMap::new();
                for pair in &properties {
                    let (name, value) = pair.split_once('=').ok_or_else(|| {
                        Failure::usage(format!("--property {pair} has no =: write NAME=VALUE"))
                    })?;
                    values.insert(name.to_owned(), value.to_owned());
                }
                let set = RouteSet::load_all(&files, &values)?;
                let ids = set.ids().join(", ");
                let bus = cluster.connect()?;
                let (stop, stopped) = mpsc::sync_channel(1);
                ctrlc::set_handler(move || {
                    let _ = stop.try_send(());
                })
                .map_err(Failure::new)?;
                let running = herdsman_routes::run(set, bus, RealClock::shared())?;
                println!("ready: {ids}");
                let _ = stopped.recv();
                running.stop();
                Ok(())
            }
        }
    }
}
