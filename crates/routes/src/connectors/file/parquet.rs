//! Rolling Parquet files: written as `.NAME-000001.parquet.part`, renamed when complete and synced.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use herdsman_host::Clock;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::Config;
use super::columns::{columns, widen};
use super::folder::Folder;
use crate::connectors::{Doors, Held, SendError, Sink, hold};
use crate::exchange::Exchange;
use crate::language::Scope;

const ROW_GROUP: usize = 65_536;
const OPEN_FILES_MAX: usize = 64;

struct Open {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    part: String,
    name: String,
    rows: usize,
    opened_ns: u64,
    held: Held,
}

/// Writes rolling Parquet files into one folder.
pub(crate) struct ParquetSink {
    config: Arc<Config>,
    folder: Folder,
    clock: Arc<dyn Clock>,
    route: Arc<str>,
    open: HashMap<String, Open>,
    /// Columns seen so far per name: a later file starts with them.
    schemas: HashMap<String, SchemaRef>,
    next: HashMap<String, u64>,
    /// Rows of files that could not be closed: they must be read again, so they are held for good.
    stuck: Held,
}

impl ParquetSink {
    pub fn new(config: Arc<Config>, folder: Folder, doors: &Doors) -> Self {
        Self {
            config,
            folder,
            clock: Arc::clone(&doors.clock),
            route: Arc::clone(&doors.route),
            open: HashMap::new(),
            schemas: HashMap::new(),
            next: HashMap::new(),
            stuck: Held::new(),
        }
    }

    /// The next free `NAME-000001.parquet` and its name while it is written.
    fn next_names(&mut self, name: &str) -> Result<(String, String), SendError> {
        let stem = name.strip_suffix(".parquet").unwrap_or(name);
        let next = self.next.entry(name.to_owned()).or_insert(1);
        let full = loop {
            let full = format!("{stem}-{next:06}.parquet");
            *next += 1;
            if !self.folder.exists(&full)? {
                break full;
            }
        };
        let (folder, base) =
            full.rsplit_once('/').map_or(("", full.as_str()), |(folder, base)| (folder, base));
        let slash = if folder.is_empty() { "" } else { "/" };
        Ok((format!("{folder}{slash}.{base}.part"), full.clone()))
    }

    fn write(&mut self, name: &str, batch: &[Exchange]) -> Result<(), SendError> {
        let mut rows = Vec::with_capacity(batch.len());
        for (index, exchange) in batch.iter().enumerate() {
            match exchange.json() {
                Some(value) if value.is_object() => rows.push(Arc::clone(value)),
                _ => {
                    return Err(SendError::poison(
                        Some(index),
                        format!("file {name}: the body is not a JSON object"),
                    ));
                }
            }
        }
        let known = self.schemas.get(name).cloned().unwrap_or_else(|| Arc::new(Schema::empty()));
        if let Some(wider) = widen(&known, &rows) {
            self.schemas.insert(name.to_owned(), wider);
        }
        let schema = self.schemas.get(name).cloned().unwrap_or(known);
        if schema.fields().is_empty() {
            return Err(SendError::poison(
                Some(0),
                format!("file {name}: a JSON object without fields has no columns"),
            ));
        }
        if self.open.get(name).is_some_and(|open| open.schema != schema) {
            self.close(name)?;
        }
        if !self.open.contains_key(name) {
            self.begin(name, &schema)?;
        }
        self.append(name, &schema, &rows, batch)
    }

    fn begin(&mut self, name: &str, schema: &SchemaRef) -> Result<(), SendError> {
        if self.open.len() >= OPEN_FILES_MAX {
            self.flush(true)?;
        }
        let (part, full) = self.next_names(name)?;
        let file = self.folder.file(&part, true)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))
            .map_err(|error| SendError::retry(format!("file {full}: {error}")))?;
        let opened_ns = self.clock.monotonic_ns();
        let schema = Arc::clone(schema);
        let open = Open { writer, schema, part, name: full, rows: 0, opened_ns, held: Held::new() };
        self.open.insert(name.to_owned(), open);
        Ok(())
    }

    fn append(
        &mut self,
        name: &str,
        schema: &SchemaRef,
        rows: &[Arc<Value>],
        batch: &[Exchange],
    ) -> Result<(), SendError> {
        let Some(open) = self.open.get_mut(name) else { return Ok(()) };
        let written = columns(schema, rows)
            .map_err(|error| error.to_string())
            .and_then(|columns| open.writer.write(&columns).map_err(|error| error.to_string()));
        if let Err(error) = written {
            return Err(SendError::retry(format!("file {}: {error}", open.name)));
        }
        open.rows += rows.len();
        batch.iter().for_each(|exchange| hold(&mut open.held, exchange));
        if open.rows >= self.config.roll_records { self.close(name) } else { Ok(()) }
    }

    fn close(&mut self, name: &str) -> Result<(), SendError> {
        let Some(open) = self.open.remove(name) else { return Ok(()) };
        let failed = |error: String| SendError::retry(format!("file {}: {error}", open.name));
        let closed = open
            .writer
            .into_inner()
            .map_err(|error| failed(error.to_string()))
            .and_then(|file| file.sync_all().map_err(|error| failed(error.to_string())))
            .and_then(|()| self.folder.rename(&open.part, &open.name));
        if closed.is_err() {
            merge(&mut self.stuck, &open.held);
        }
        closed
    }
}

fn merge(into: &mut Held, from: &Held) {
    for (at, offset) in from {
        into.entry(at.clone()).and_modify(|low| *low = (*low).min(*offset)).or_insert(*offset);
    }
}

impl Sink for ParquetSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        let route = Arc::clone(&self.route);
        let scope = Scope { route: &route, now_ms: self.clock.now_ms() };
        let mut at = 0;
        for (name, count) in Arc::clone(&self.config).runs(batch, &scope)? {
            let part = batch.get(at..at + count).unwrap_or_default();
            self.write(&name, part).map_err(|error| error.after(at))?;
            at += count;
        }
        Ok(())
    }

    fn flush(&mut self, force: bool) -> Result<(), SendError> {
        if !self.stuck.is_empty() {
            return Err(SendError::retry("a Parquet file could not be closed: its rows are read again"));
        }
        let now_ns = self.clock.monotonic_ns();
        let old = |open: &Open| now_ns.saturating_sub(open.opened_ns) / 1_000_000 >= self.config.roll_ms;
        let due: Vec<String> =
            self.open.iter().filter(|(_, open)| force || old(open)).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.close(&name)?;
        }
        Ok(())
    }

    fn held(&self, held: &mut Held) {
        merge(held, &self.stuck);
        self.open.values().for_each(|open| merge(held, &open.held));
    }
}
