//! JSON Lines: one line per exchange, synced before the batch counts as delivered.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use herdsman_host::Clock;

use super::Config;
use super::folder::Folder;
use crate::connectors::{Doors, SendError, Sink};
use crate::exchange::Exchange;
use crate::language::Scope;

const OPEN_FILES_MAX: usize = 64;

/// Appends lines to files of one folder.
pub(crate) struct LinesSink {
    config: Arc<Config>,
    folder: Folder,
    clock: Arc<dyn Clock>,
    route: Arc<str>,
    files: HashMap<String, File>,
    started: std::collections::HashSet<String>,
}

impl LinesSink {
    pub fn new(config: Arc<Config>, folder: Folder, doors: &Doors) -> Self {
        let (clock, route) = (Arc::clone(&doors.clock), Arc::clone(&doors.route));
        Self {
            config,
            folder,
            clock,
            route,
            files: HashMap::new(),
            started: std::collections::HashSet::new(),
        }
    }

    fn append(&mut self, name: &str, batch: &[Exchange]) -> Result<(), SendError> {
        if !self.files.contains_key(name) {
            if self.files.len() >= OPEN_FILES_MAX {
                self.files.clear();
            }
            let over = self.config.start_over && self.started.insert(name.to_owned());
            let mut file = self.folder.file(name, over)?;
            cut_torn_line(&mut file).map_err(|error| SendError::retry(format!("file {name}: {error}")))?;
            self.files.insert(name.to_owned(), file);
        }
        let mut bytes = Vec::new();
        for exchange in batch {
            let start = bytes.len();
            if let Some(body) = exchange.body_bytes() {
                bytes.extend_from_slice(&body);
            }
            // a line feed inside JSON is only space; a record is one line, whatever it holds
            for byte in bytes.iter_mut().skip(start) {
                if matches!(*byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
            bytes.push(b'\n');
        }
        let Some(file) = self.files.get_mut(name) else { return Ok(()) };
        let before = file.stream_position();
        let written = before.and_then(|before| {
            let result = file.write_all(&bytes).and_then(|()| file.sync_data());
            if result.is_err() {
                // half a batch must not stay: it comes again
                let _ = file.set_len(before).and_then(|()| file.seek(SeekFrom::Start(before)));
            }
            result
        });
        if let Err(error) = written {
            self.files.remove(name);
            return Err(SendError::retry(format!("file {name}: {error}")));
        }
        Ok(())
    }
}

impl Sink for LinesSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        let route = Arc::clone(&self.route);
        let scope = Scope { route: &route, now_ms: self.clock.now_ms() };
        let mut at = 0;
        for (name, count) in Arc::clone(&self.config).runs(batch, &scope)? {
            let part = batch.get(at..at + count).unwrap_or_default();
            self.append(&name, part).map_err(|error| error.after(at))?;
            at += count;
        }
        Ok(())
    }
}

/// Cuts what follows the last line feed and leaves the position at the end.
fn cut_torn_line(file: &mut File) -> std::io::Result<()> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let whole = end;
    let mut block = [0_u8; 4096];
    while end > 0 {
        let from = end.saturating_sub(4096);
        let len = usize::try_from(end - from).unwrap_or(0);
        file.seek(SeekFrom::Start(from))?;
        let part = block.get_mut(..len).unwrap_or_default();
        file.read_exact(part)?;
        if let Some(index) = part.iter().rposition(|byte| *byte == b'\n') {
            end = from + u64::try_from(index).unwrap_or(0) + 1;
            break;
        }
        end = from;
    }
    if end < whole {
        file.set_len(end)?;
    }
    file.seek(SeekFrom::Start(end)).map(|_| ())
}
