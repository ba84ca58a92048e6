//! `herdsman mirror`: keeps clusters in step.

use std::path::PathBuf;
use std::sync::mpsc;

use clap::Args;
use herdsman_mirror::{Mirror, MirrorConfig};

use super::read;
use crate::failure::Failure;

/// The mirror.
#[derive(Args)]
pub struct MirrorCommand {
    /// Clusters and topics
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl MirrorCommand {
    /// Mirrors until Ctrl-C.
    pub fn run(self) -> Result<(), Failure> {
        let text = read(&self.config)?;
        let config = MirrorConfig::from_toml(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", self.config.display())))?;
        let (stop, stopped) = mpsc::sync_channel(1);
        ctrlc::set_handler(move || {
            let _ = stop.try_send(());
        })
        .map_err(Failure::new)?;
        let names: Vec<String> = config.clusters.keys().cloned().collect();
        let mirror = Mirror::start(config)?;
        println!("ready: mirroring {} to each other", names.join(", "));
        let _ = stopped.recv();
        mirror.stop();
        Ok(())
    }
}
