//! Columns into records.

use arrow::array::{Array as _, ArrayRef};
use herdsman_record::{BatchBuilder, partition_for_key};

use crate::delimited;
use crate::json::writer::{field_prefix, write_object, write_value};
use crate::primitive;
use crate::sink::View;
use crate::{Column, Format, FormatError, FormatSpec, Rows, Schema, WindowedKey};

/// Writes rows as records of one topic.
#[derive(Debug)]
pub struct Encoder {
    key: PartWriter,
    value: PartWriter,
    window: Option<WindowedKey>,
    keys: EncodedKeys,
    line: Vec<u8>,
    round_robin: usize,
}

/// Key bytes of some rows.
#[derive(Debug, Default)]
pub struct EncodedKeys {
    bytes: Vec<u8>,
    /// Where each key ends, and whether it is null.
    ends: Vec<(usize, bool)>,
}

impl EncodedKeys {
    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the `index`-th selected row's key; `None` is a null key.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let (end, null) = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |(end, _)| *end);
        if null { None } else { self.bytes.get(start..end) }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

#[derive(Debug)]
struct PartWriter {
    first: usize,
    schema: Vec<Column>,
    format: Format,
    delimiter: u8,
    unwrapped: bool,
    scratch: Vec<u8>,
}

/// The views of one part's columns with the text before each.
struct Views<'a> {
    fields: Vec<(Vec<u8>, View<'a>)>,
    bare: Vec<View<'a>>,
}

impl PartWriter {
    fn new(first: usize, columns: &[Column], spec: &FormatSpec, is_key: bool) -> Result<Self, FormatError> {
        let mut delimiter = b',';
        match spec.format {
            Format::Json | Format::None => {}
            Format::Kafka => primitive::check(columns)?,
            Format::Delimited => delimiter = delimited::check(columns, spec.delimiter)?,
            other => return Err(FormatError::Unsupported(other)),
        }
        Ok(Self {
            first,
            schema: columns.to_vec(),
            format: spec.format,
            delimiter,
            unwrapped: columns.len() == 1 && (is_key || spec.unwrap_single),
            scratch: Vec::new(),
        })
    }

    fn views<'a>(&self, columns: &'a [ArrayRef], rows: usize) -> Result<Views<'a>, FormatError> {
        let mut views = Views { fields: Vec::new(), bare: Vec::new() };
        for (index, column) in self.schema.iter().enumerate() {
            let at = self.first + index;
            let wrong = |reason: String| FormatError::Input { column: at, reason };
            let array = columns.get(at).ok_or_else(|| wrong("it is missing".to_owned()))?;
            if array.len() < rows {
                return Err(wrong(format!("it has {} rows, row {rows} was asked for", array.len())));
            }
            let view = View::new(array, &column.ty).map_err(wrong)?;
            if self.format == Format::Json && !self.unwrapped {
                views.fields.push((field_prefix(index, &column.name), view));
            } else {
                views.bare.push(view);
            }
        }
        Ok(views)
    }

    /// Appends the part of one row; false when it is null.
    #[inline]
    fn write(&mut self, views: &Views<'_>, row: usize, out: &mut Vec<u8>) -> bool {
        match self.format {
            Format::Json if !self.unwrapped => {
                write_object(&views.fields, row, out);
                true
            }
            Format::Delimited if !views.bare.is_empty() => {
                if let [one] = &*views.bare
                    && one.is_null(row)
                {
                    return false;
                }
                delimited::write_line(&views.bare, row, self.delimiter, &mut self.scratch, out);
                true
            }
            Format::Json | Format::Kafka => match views.bare.first() {
                Some(view) if !view.is_null(row) => {
                    if self.format == Format::Json {
                        write_value(view, row, out);
                    } else {
                        primitive::write(view, row, out);
                    }
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl Encoder {
    /// An encoder of `schema`. Errors: formats that are not built yet, columns or delimiters a format cannot hold.
    pub fn new(schema: &Schema, key: &FormatSpec, value: &FormatSpec) -> Result<Self, FormatError> {
        Ok(Self {
            key: PartWriter::new(0, &schema.key, key, true)?,
            value: PartWriter::new(schema.key.len(), &schema.value, value, false)?,
            window: None,
            keys: EncodedKeys::default(),
            line: Vec::new(),
            round_robin: 0,
        })
    }

    /// Writes `window` behind the key bytes; [`Rows::windows`] is needed then.
    #[must_use]
    pub fn with_window(mut self, window: Option<WindowedKey>) -> Self {
        self.window = window;
        self
    }

    /// The key bytes of the selected rows, window included, for partitioning. Valid until the next call.
    pub fn encode_keys(&mut self, rows: &Rows<'_>) -> Result<&EncodedKeys, FormatError> {
        let end = rows.selection.end();
        let views = self.key.views(rows.columns, end)?;
        let windows = match (self.window, rows.windows) {
            (None, _) => None,
            (Some(kind), Some((starts, ends))) if starts.len() >= end && ends.len() >= end => {
                Some((kind, starts, ends))
            }
            (Some(_), _) => return Err(too_short("window bounds", end)),
        };
        self.keys.clear();
        if self.key.schema.is_empty() {
            self.keys.ends.resize(rows.selection.len(), (0, true));
            return Ok(&self.keys);
        }
        for row in rows.selection.iter() {
            let present = self.key.write(&views, row, &mut self.keys.bytes);
            if let (true, Some((kind, starts, ends))) = (present, windows) {
                if kind == WindowedKey::Session {
                    self.keys.bytes.extend_from_slice(&ends[row].to_be_bytes());
                }
                self.keys.bytes.extend_from_slice(&starts[row].to_be_bytes());
            }
            self.keys.ends.push((self.keys.bytes.len(), !present));
        }
        Ok(&self.keys)
    }

    /// Appends the selected rows to `out`.
    pub fn encode(&mut self, rows: &Rows<'_>, out: &mut BatchBuilder) -> Result<(), FormatError> {
        self.encode_to(rows, std::slice::from_mut(out))
    }

    /// Appends each selected row to the builder of its partition: by the murmur2 hash of the key bytes as every
    /// Kafka client does; rows without a key go to one partition after another, call by call.
    pub fn encode_partitioned(
        &mut self,
        rows: &Rows<'_>,
        out: &mut [BatchBuilder],
    ) -> Result<(), FormatError> {
        self.encode_to(rows, out)
    }

    fn encode_to(&mut self, rows: &Rows<'_>, out: &mut [BatchBuilder]) -> Result<(), FormatError> {
        let end = rows.selection.end();
        if rows.timestamps.len() < end {
            return Err(too_short("timestamps", end));
        }
        if rows.tombstones.is_some_and(|tombstones| tombstones.len() < end) {
            return Err(too_short("tombstone marks", end));
        }
        let views = self.value.views(rows.columns, end)?;
        self.encode_keys(rows)?;
        let partitions = i32::try_from(out.len()).unwrap_or(i32::MAX);
        self.round_robin = (self.round_robin + 1) % out.len().max(1);
        for (index, row) in rows.selection.iter().enumerate() {
            self.line.clear();
            let dead = rows.tombstones.is_some_and(|tombstones| tombstones.value(row));
            let present = !dead && self.value.write(&views, row, &mut self.line);
            let key = self.keys.get(index);
            let at = match key {
                Some(_) if partitions <= 1 => 0,
                // windowed keys are placed by their bare key, as Kafka Streams does
                Some(key) => {
                    let suffix = self.window.map_or(0, WindowedKey::suffix_len);
                    let bare = key.get(..key.len().saturating_sub(suffix)).unwrap_or(key);
                    usize::try_from(partition_for_key(bare, partitions)).unwrap_or(0)
                }
                None => self.round_robin,
            };
            if let Some(builder) = out.get_mut(at) {
                builder.append(rows.timestamps[row], key, present.then_some(&*self.line), &[]);
            }
        }
        Ok(())
    }
}

fn too_short(what: &str, end: usize) -> FormatError {
    FormatError::Input { column: 0, reason: format!("{what} are missing or end before row {end}") }
}
