//! Record batches into columns.

use arrow::array::{ArrayRef, BooleanBufferBuilder, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;
use bytes::Bytes;
use herdsman_record::{Batch, Record, Records};

use crate::column::ColumnBuilder;
use crate::delimited::{self, DelimitedReader, Refusal};
use crate::error::looks_like;
use crate::json::reader::{Failure, JsonReader, excerpt};
use crate::json::scan::Stop;
use crate::primitive;
use crate::{
    Column, Decoded, Format, FormatError, FormatSpec, Part, RowError, RowFault, Schema, WindowedKey,
};

/// Most bytes of one call; offsets of Arrow's text columns are 32 bits wide.
const BYTES_MAX: usize = 1 << 30;

/// Turns the records of one topic into columns. It learns the topic's field order, so keep one per topic and query.
///
/// ```
/// use herdsman_formats::{Column, Decoder, Format, FormatSpec, Schema, SqlType};
/// use herdsman_record::{BatchBuilder, Compression};
/// let schema = Schema {
///     key: vec![Column::new("TAIL", SqlType::String)],
///     value: vec![Column::new("AT", SqlType::BigInt)],
/// };
/// let mut decoder = Decoder::new(
///     &schema, &FormatSpec::new(Format::Kafka), &FormatSpec::new(Format::Json), &[true, true],
/// )?;
/// let mut builder = BatchBuilder::new();
/// builder.append(5, Some(b"N14228"), Some(br#"{"at": 17}"#), &[]);
/// let batch = builder.finish(Compression::None)?;
/// let decoded = decoder.decode(&[batch], 0)?;
/// assert_eq!((decoded.len(), decoded.errors.len(), decoded.columns.len()), (1, 0, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    key: PartReader,
    value: PartReader,
    window: Option<WindowedKey>,
    rows_hint: usize,
}

/// Reads keys or values.
#[derive(Debug)]
struct PartReader {
    part: Part,
    format: Format,
    schema: Vec<Column>,
    types: Vec<DataType>,
    needed: Vec<bool>,
    any_needed: bool,
    reader: Reader,
    columns: Vec<ColumnBuilder>,
    /// Look for text that is not UTF-8 value by value, after a whole column failed.
    careful: bool,
}

#[derive(Debug)]
enum Reader {
    Nothing,
    Json(JsonReader),
    Delimited(DelimitedReader),
    Kafka,
}

impl PartReader {
    fn new(part: Part, columns: &[Column], spec: &FormatSpec, needed: &[bool]) -> Result<Self, FormatError> {
        let reader = match spec.format {
            Format::None => Reader::Nothing,
            Format::Kafka => {
                primitive::check(columns)?;
                Reader::Kafka
            }
            Format::Delimited => {
                let delimiter = delimited::check(columns, spec.delimiter)?;
                Reader::Delimited(DelimitedReader::new(delimiter, needed.to_vec()))
            }
            Format::Json => {
                let unwrapped = columns.len() == 1 && (part == Part::Key || spec.unwrap_single);
                let names = columns.iter().map(|column| column.name.clone()).collect();
                Reader::Json(JsonReader::new(names, needed.to_vec(), unwrapped))
            }
            other => return Err(FormatError::Unsupported(other)),
        };
        Ok(Self {
            part,
            format: spec.format,
            schema: columns.to_vec(),
            types: columns.iter().map(|column| column.ty.arrow()).collect(),
            needed: needed.to_vec(),
            any_needed: needed.contains(&true),
            reader,
            columns: columns.iter().map(|column| ColumnBuilder::new(&column.ty)).collect(),
            careful: false,
        })
    }

    /// Pushes one row; `Ok(false)` when the part is null. On an error nothing is left behind.
    #[inline]
    fn read(&mut self, bytes: Option<&[u8]>, row: usize) -> Result<bool, RowFault> {
        let Some(bytes) = bytes else {
            self.push_nulls();
            return Ok(false);
        };
        let result = match &mut self.reader {
            Reader::Nothing => Ok(false),
            // text is read even if no column is needed: a row that does not decode is no row, whatever the query asks
            Reader::Kafka if !self.any_needed => return Ok(true),
            _ if self.schema.is_empty() => return Ok(true),
            Reader::Json(reader) => reader.read(bytes, &mut self.columns, row).map_err(Trouble::Json),
            Reader::Delimited(reader) => {
                reader.read(bytes, &mut self.columns).map(|()| true).map_err(Trouble::Delimited)
            }
            Reader::Kafka => match self.columns.first_mut() {
                None => Ok(true),
                Some(column) => {
                    primitive::push(bytes, column, self.careful).map(|()| true).map_err(Trouble::Kafka)
                }
            },
        };
        match result {
            Ok(present) => {
                if !present {
                    self.push_nulls();
                }
                match self.reader {
                    Reader::Json(_) | Reader::Delimited(_) if self.careful => {
                        self.check_text(bytes, row).map(|()| present)
                    }
                    _ => Ok(present),
                }
            }
            Err(trouble) => {
                self.truncate(row);
                Err(self.fault(trouble, bytes))
            }
        }
    }

    fn push_nulls(&mut self) {
        for (column, needed) in self.columns.iter_mut().zip(&self.needed) {
            if *needed {
                column.push_null();
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        for (column, needed) in self.columns.iter_mut().zip(&self.needed) {
            if *needed {
                column.truncate(rows);
            }
        }
    }

    #[cold]
    fn check_text(&mut self, bytes: &[u8], row: usize) -> Result<(), RowFault> {
        if std::str::from_utf8(bytes).is_ok() {
            return Ok(());
        }
        self.truncate(row);
        let hint = format!("it is not UTF-8; {}", looks_like(bytes, self.format, self.part));
        Err(RowFault::NotFormat { format: self.format, hint })
    }

    #[cold]
    fn fault(&self, trouble: Trouble, bytes: &[u8]) -> RowFault {
        let mismatch = |index: usize, found: String| match self.schema.get(index) {
            Some(column) => {
                RowFault::Mismatch { column: column.name.clone(), wanted: column.ty.clone(), found }
            }
            None => RowFault::NotFormat { format: self.format, hint: found },
        };
        let not_format = |hint: String| RowFault::NotFormat { format: self.format, hint };
        match trouble {
            Trouble::Kafka(found) => mismatch(0, found),
            Trouble::Delimited(Refusal::Count(found)) => {
                RowFault::FieldCount { found, declared: self.schema.len() }
            }
            Trouble::Delimited(Refusal::Syntax(reason)) => not_format(reason),
            Trouble::Delimited(Refusal::Mismatch(index, found)) => mismatch(index, found),
            Trouble::Json(Failure { stop: Stop::TooDeep, .. }) => RowFault::TooDeep,
            Trouble::Json(Failure { stop: Stop::Mismatch, column: Some(index), at }) => {
                mismatch(index, excerpt(bytes, at))
            }
            Trouble::Json(Failure { stop: Stop::Mismatch, column: None, at }) => {
                not_format(format!("an object is expected, found {}", excerpt(bytes, at)))
            }
            Trouble::Json(Failure { stop: Stop::Syntax, at, .. }) => {
                if matches!(bytes.iter().find(|byte| !byte.is_ascii_whitespace()), Some(b'{' | b'[')) {
                    let near = bytes.get(at..).unwrap_or_default();
                    let near = crate::error::quote(&String::from_utf8_lossy(near.get(..48).unwrap_or(near)));
                    not_format(format!("it breaks off at byte {at}, at {near}"))
                } else {
                    not_format(looks_like(bytes, self.format, self.part))
                }
            }
        }
    }

    /// The columns; `None` if some text is not UTF-8.
    fn finish(&mut self, rows: usize) -> Option<Vec<ArrayRef>> {
        let mut out = Vec::with_capacity(self.columns.len());
        let mut sound = true;
        for ((column, ty), needed) in self.columns.iter_mut().zip(&self.types).zip(&self.needed) {
            if !needed {
                out.push(new_null_array(ty, rows));
                continue;
            }
            match column.finish(ty) {
                Ok(array) => out.push(array),
                Err(_) => sound = false,
            }
        }
        sound.then_some(out)
    }
}

enum Trouble {
    Json(Failure),
    Delimited(Refusal),
    Kafka(String),
}

/// What grows beside the columns.
#[derive(Default)]
struct Rows {
    out: Decoded,
    tombstones: Marks,
    null_keys: Marks,
}

/// Bits that are mostly false: nothing is kept before the first true one.
#[derive(Default)]
struct Marks {
    bits: Option<BooleanBufferBuilder>,
}

impl Marks {
    #[inline]
    fn push(&mut self, row: usize, mark: bool) {
        if mark && self.bits.is_none() {
            let mut bits = BooleanBufferBuilder::new(row + 64);
            bits.append_n(row, false);
            self.bits = Some(bits);
        }
        if let Some(bits) = &mut self.bits {
            bits.append(mark);
        }
    }

    fn finish(&mut self) -> Option<BooleanBuffer> {
        self.bits.take().map(|mut bits| bits.finish())
    }
}

impl Decoder {
    /// A decoder of `schema` that fills the `needed` columns (one flag per column, key first).
    /// Errors: formats that are not built yet, columns or delimiters a format cannot hold.
    pub fn new(
        schema: &Schema,
        key: &FormatSpec,
        value: &FormatSpec,
        needed: &[bool],
    ) -> Result<Self, FormatError> {
        let flag = |index: usize| needed.get(index).copied().unwrap_or(true);
        let keys: Vec<bool> = (0..schema.key.len()).map(flag).collect();
        let values: Vec<bool> = (schema.key.len()..schema.len()).map(flag).collect();
        Ok(Self {
            key: PartReader::new(Part::Key, &schema.key, key, &keys)?,
            value: PartReader::new(Part::Value, &schema.value, value, &values)?,
            window: None,
            rows_hint: 0,
        })
    }

    /// Expects `window` behind the key bytes, and fills [`Decoded::windows`].
    #[must_use]
    pub fn with_window(mut self, window: Option<WindowedKey>) -> Self {
        self.window = window;
        self
    }

    /// Decodes all records of `batches` at or after `from_offset`; control batches are passed over.
    /// Errors: a damaged batch, more than 1 GiB of records. Rows that do not decode are no error: see
    /// [`Decoded::errors`].
    pub fn decode(&mut self, batches: &[Batch], from_offset: i64) -> Result<Decoded, FormatError> {
        let mut all = Vec::with_capacity(batches.len());
        let mut bytes = 0;
        for batch in batches {
            if batch.header().is_control() || batch.next_offset() <= from_offset {
                continue;
            }
            let records = batch.records()?;
            bytes += records.body().len();
            if bytes > BYTES_MAX {
                return Err(FormatError::TooLarge(bytes));
            }
            all.push(records);
        }
        let mut decoded = self.try_decode(&all, from_offset)?;
        if decoded.is_none() {
            self.key.careful = true;
            self.value.careful = true;
            decoded = self.try_decode(&all, from_offset)?;
            self.key.careful = false;
            self.value.careful = false;
        }
        let mut decoded = decoded.unwrap_or_default();
        decoded.raw = all;
        Ok(decoded)
    }

    /// `None`: some text was not UTF-8.
    fn try_decode(&mut self, all: &[Records], from_offset: i64) -> Result<Option<Decoded>, FormatError> {
        let mut rows = Rows::default();
        rows.out.offsets.reserve(self.rows_hint);
        rows.out.timestamps.reserve(self.rows_hint);
        if self.window.is_some() {
            rows.out.windows = Some((Vec::new(), Vec::new()));
        }
        for records in all {
            for record in records.iter() {
                let record = match record {
                    Ok(record) => record,
                    Err(error) => {
                        self.key.truncate(0);
                        self.value.truncate(0);
                        return Err(error.into());
                    }
                };
                if record.offset >= from_offset {
                    self.push_record(&record, &mut rows);
                }
            }
        }
        let mut out = rows.out;
        self.rows_hint = out.offsets.len();
        let (keys, values) = (self.key.finish(out.len()), self.value.finish(out.len()));
        let (Some(mut columns), Some(values)) = (keys, values) else { return Ok(None) };
        columns.extend(values);
        out.columns = columns;
        out.tombstones = rows.tombstones.finish();
        out.null_keys = rows.null_keys.finish();
        Ok(Some(out))
    }

    #[inline]
    fn push_record(&mut self, record: &Record<'_>, rows: &mut Rows) {
        let row = rows.out.offsets.len();
        let mut key = record.key;
        let mut window = (0, 0);
        if let (Some(kind), Some(bytes)) = (self.window, key) {
            match split_window(kind, bytes) {
                Some((bare, bounds)) => {
                    key = Some(bare);
                    window = bounds;
                }
                None => {
                    let hint = format!(
                        "{} bytes cannot end in a window of {} bytes",
                        bytes.len(),
                        kind.suffix_len()
                    );
                    let fault = RowFault::NotFormat { format: self.key.format, hint };
                    rows.out.errors.push(row_error(record, Part::Key, fault));
                    return;
                }
            }
        }
        let has_key = match self.key.read(key, row) {
            Ok(present) => present,
            Err(fault) => return rows.out.errors.push(row_error(record, Part::Key, fault)),
        };
        match self.value.read(record.value, row) {
            Ok(present) => {
                rows.tombstones.push(row, !present);
                rows.null_keys.push(row, !has_key);
                rows.out.offsets.push(record.offset);
                rows.out.timestamps.push(record.timestamp_ms);
                if let Some((starts, ends)) = &mut rows.out.windows {
                    starts.push(window.0);
                    ends.push(window.1);
                }
            }
            Err(fault) => {
                self.key.truncate(row);
                rows.out.errors.push(row_error(record, Part::Value, fault));
            }
        }
    }
}

#[cold]
fn row_error(record: &Record<'_>, part: Part, fault: RowFault) -> RowError {
    RowError {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        part,
        fault,
        key: record.key.map(Bytes::copy_from_slice),
        value: record.value.map(Bytes::copy_from_slice),
    }
}

/// The key without its window, and the window's start and end.
fn split_window(kind: WindowedKey, bytes: &[u8]) -> Option<(&[u8], (i64, i64))> {
    let (rest, last) = bytes.split_last_chunk::<8>()?;
    let start = i64::from_be_bytes(*last);
    match kind {
        WindowedKey::Time { size_ms } => Some((rest, (start, start.saturating_add(size_ms)))),
        WindowedKey::Session => {
            let (rest, end) = rest.split_last_chunk::<8>()?;
            Some((rest, (start, i64::from_be_bytes(*end))))
        }
    }
}
