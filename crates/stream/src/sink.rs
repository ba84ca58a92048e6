//! Where a query's results are encoded: sink batches, repartition frames, changelogs, dead letters.

use arrow::array::UInt32Array;
use herdsman_formats::rows::{Rows as EncodeRows, Selection};
use herdsman_formats::{Encoder, FormatSpec, WindowedKey};
use herdsman_record::{Batch, BatchBuilder, Compression, RecordError, TopicPartition, partition_for_key};

use crate::operator::{Context, OperatorError};
use crate::plan::{Format, Sink};
use crate::rows::Rows;
use crate::source::TimeReader;
use crate::{Schema, frame};

/// A batch is closed when it has grown to this many bytes (brokers accept 1 MiB by default).
const BATCH_BYTES: usize = 600 << 10;
/// Rows encoded between two looks at the size of a batch.
const ROWS_STEP: usize = 512;
/// Rows of one repartition frame.
const FRAME_ROWS: usize = 4_096;
/// Header of the records that carry stream time through repartition topics.
pub const WATERMARK_HEADER: &str = "herdsman-watermark";

/// Batches waiting for the next commit, in order per partition.
#[derive(Default)]
pub struct Outbox {
    open: Vec<(TopicPartition, BatchBuilder)>,
    closed: Vec<(TopicPartition, Batch)>,
}

impl Outbox {
    /// The open batch of `at`; one that has grown too large is closed first.
    ///
    /// # Errors   a batch that cannot be sealed.
    pub fn builder(&mut self, at: &TopicPartition) -> Result<&mut BatchBuilder, RecordError> {
        let index = self.index_of(at);
        self.builder_at(index)
    }

    /// Where [`Outbox::builder_at`] finds the open batch of `at`.
    pub fn index_of(&mut self, at: &TopicPartition) -> usize {
        self.open.iter().position(|(open, _)| open == at).unwrap_or_else(|| {
            self.open.push((at.clone(), BatchBuilder::new()));
            self.open.len() - 1
        })
    }

    /// The open batch number `index`; one that has grown too large is closed first.
    ///
    /// # Errors   a batch that cannot be sealed.
    pub fn builder_at(&mut self, index: usize) -> Result<&mut BatchBuilder, RecordError> {
        let (at, builder) = &mut self.open[index];
        if builder.byte_len() > BATCH_BYTES {
            self.closed.push((at.clone(), builder.finish(Compression::None)?));
        }
        Ok(builder)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.iter().all(|(_, builder)| builder.is_empty())
    }

    /// Takes all batches.
    ///
    /// # Errors   a batch that cannot be sealed.
    pub fn take(&mut self) -> Result<Vec<(TopicPartition, Batch)>, RecordError> {
        let mut all = std::mem::take(&mut self.closed);
        for (at, builder) in &mut self.open {
            if !builder.is_empty() {
                all.push((at.clone(), builder.finish(Compression::None)?));
            }
        }
        Ok(all)
    }
}

/// Chooses partitions by key and writes rows.
pub struct SinkWriter {
    partitions: Vec<TopicPartition>,
    encoder: Encoder,
    /// Encodes keys without their window: windows of one key share a partition, as in Kafka Streams.
    partitioner: Encoder,
    time: Option<TimeReader>,
    windowed: bool,
    key_len: usize,
}

impl SinkWriter {
    /// A writer for a topic sink; `None` for push queries.
    ///
    /// # Errors   formats that cannot hold the columns.
    pub fn new(
        sink: &Sink,
        window: Option<WindowedKey>,
        partitions: i32,
    ) -> Result<Option<Self>, OperatorError> {
        let Sink::Topic { topic, schema, key_format, value_format, timestamp } = sink else {
            return Ok(None);
        };
        let time = match timestamp {
            Some(column) => {
                let ty = schema.columns().nth(column.index).map(|column| column.ty.clone());
                let ty = ty.ok_or_else(|| {
                    OperatorError::Other("the sink's timestamp column does not exist".into())
                })?;
                Some(TimeReader::new(column, &ty).map_err(OperatorError::Other)?)
            }
            None => None,
        };
        Ok(Some(Self {
            partitions: (0..partitions)
                .map(|partition| TopicPartition::new(topic.as_str(), partition))
                .collect(),
            encoder: Encoder::new(schema, key_format, value_format)?.with_window(window),
            partitioner: Encoder::new(schema, key_format, value_format)?,
            time,
            windowed: window.is_some(),
            key_len: schema.key.len(),
        }))
    }

    /// Encodes `rows` of the task of partition `task`.
    ///
    /// # Errors   columns that do not fit the sink's schema.
    pub fn write(
        &mut self,
        rows: &Rows,
        task: i32,
        ctx: &mut Context<'_>,
        outbox: &mut Outbox,
    ) -> Result<(), OperatorError> {
        let mut rows = rows.clone();
        if let Some(reader) = &self.time {
            let times = reader.read(&rows, ctx)?;
            let stamp = |(row, time): (usize, Option<i64>)| {
                if rows.is_tombstone(row) { rows.times[row] } else { time.unwrap_or(-1) }
            };
            rows.times = times.into_iter().enumerate().map(stamp).collect();
            for (row, _) in rows.times.iter().enumerate().filter(|(_, time)| **time < 0) {
                let reason =
                    "was not written: its TIMESTAMP column is null, unreadable or negative".to_owned();
                let offset = rows.offsets.as_ref().map(|offsets| offsets[row]);
                ctx.failures.push(crate::operator::Failure { offset, reason });
            }
            rows = rows.filter(&rows.times.iter().map(|time| Some(*time >= 0)).collect())?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        if let Some(null_keys) = rows.null_keys.take() {
            if rows.columns.len() > self.key_len && self.key_len > 1 {
                let mut start = 0;
                while start < rows.len() {
                    let len = (start..rows.len())
                        .take_while(|row| null_keys.value(*row) == null_keys.value(start))
                        .count();
                    let part = rows.slice(start, len);
                    if null_keys.value(start) {
                        self.write_keyless(&part, task, outbox)?;
                    } else {
                        self.write_rows(&part, task, outbox)?;
                    }
                    start += len;
                }
                return Ok(());
            }
            rows.null_keys = Some(null_keys);
        }
        self.write_rows(&rows, task, outbox)
    }

    /// Rows whose whole key is null although it has several columns.
    fn write_keyless(&mut self, rows: &Rows, task: i32, outbox: &mut Outbox) -> Result<(), OperatorError> {
        let mut keyed = BatchBuilder::new();
        let rows_in = EncodeRows {
            columns: &rows.columns,
            selection: Selection::Range(0..rows.len()),
            timestamps: &rows.times,
            windows: rows.windows.as_ref().filter(|_| self.windowed).map(|w| (&w.start[..], &w.end[..])),
            tombstones: rows.tombstones.as_ref(),
        };
        self.encoder.encode(&rows_in, &mut keyed)?;
        let partition = usize::try_from(task).unwrap_or(0) % self.partitions.len().max(1);
        let at = outbox.index_of(&self.partitions[partition]);
        for record in keyed.finish(Compression::None)?.records()?.iter() {
            let record = record?;
            outbox.builder_at(at)?.append(record.timestamp_ms, None, record.value, &[]);
        }
        Ok(())
    }

    fn write_rows(&mut self, rows: &Rows, task: i32, outbox: &mut Outbox) -> Result<(), OperatorError> {
        let times = &rows.times;
        let windows = rows.windows.as_ref().filter(|_| self.windowed).map(|w| (&w.start[..], &w.end[..]));
        let all = |selection| EncodeRows {
            columns: &rows.columns,
            selection,
            timestamps: times,
            windows,
            tombstones: rows.tombstones.as_ref(),
        };
        if self.partitions.len() == 1 {
            let mut start = 0;
            while start < rows.len() {
                let end = (start + ROWS_STEP).min(rows.len());
                self.encoder
                    .encode(&all(Selection::Range(start..end)), outbox.builder(&self.partitions[0])?)?;
                start = end;
            }
            return Ok(());
        }
        let keys = EncodeRows { windows: None, ..all(Selection::Range(0..rows.len())) };
        let by_partition = spread(&mut self.partitioner, &keys, rows, self.partitions.len(), task)?;
        for (at, picked) in self.partitions.iter().zip(&by_partition) {
            for part in picked.chunks(ROWS_STEP) {
                self.encoder.encode(&all(Selection::Indices(part)), outbox.builder(at)?)?;
            }
        }
        Ok(())
    }
}

/// Row numbers per partition, by key; rows without a key stay on the task's number.
fn spread(
    partitioner: &mut Encoder,
    keys: &EncodeRows<'_>,
    rows: &Rows,
    partitions: usize,
    task: i32,
) -> Result<Vec<Vec<u32>>, OperatorError> {
    let count = i32::try_from(partitions).unwrap_or(i32::MAX).max(1);
    let mut spread = vec![Vec::new(); partitions];
    let encoded = partitioner.encode_keys(keys)?;
    for row in 0..rows.len() {
        let partition = match encoded.get(row) {
            Some(key) if !rows.is_null_key(row) => partition_for_key(key, count),
            _ => task % count,
        };
        let partition = usize::try_from(partition).unwrap_or(0);
        spread[partition].push(u32::try_from(row).unwrap_or(u32::MAX));
    }
    Ok(spread)
}

/// Writes rows into a repartition topic, as columnar frames.
pub struct Repartitioner {
    partitions: Vec<TopicPartition>,
    partitioner: Encoder,
}

impl Repartitioner {
    /// A writer for `topic`; keys are placed as clients that write `key_format` place them.
    ///
    /// # Errors   a key format that cannot hold the key columns.
    pub fn new(
        topic: &str,
        partitions: i32,
        schema: &Schema,
        key_format: &FormatSpec,
    ) -> Result<Self, OperatorError> {
        let keys = Schema { key: schema.key.clone(), value: Vec::new() };
        Ok(Self {
            partitions: (0..partitions).map(|partition| TopicPartition::new(topic, partition)).collect(),
            partitioner: Encoder::new(&keys, key_format, &FormatSpec::new(Format::None))?,
        })
    }

    /// Adds `rows` of the task of partition `task`.
    ///
    /// # Errors   columns that do not fit.
    pub fn write(&mut self, rows: &Rows, task: i32, outbox: &mut Outbox) -> Result<(), OperatorError> {
        if self.partitions.len() == 1 {
            return frames(&self.partitions[0], rows, outbox);
        }
        let keys = EncodeRows {
            columns: &rows.columns,
            selection: Selection::Range(0..rows.len()),
            timestamps: &rows.times,
            windows: None,
            tombstones: None,
        };
        let by_partition = spread(&mut self.partitioner, &keys, rows, self.partitions.len(), task)?;
        for (at, picked) in self.partitions.iter().zip(by_partition) {
            if !picked.is_empty() {
                frames(at, &rows.take(&UInt32Array::from(picked))?, outbox)?;
            }
        }
        Ok(())
    }

    /// Tells every partition that upstream partition `task` has reached `time`.
    ///
    /// # Errors   a batch that cannot be sealed.
    pub fn mark(&self, task: i32, time: i64, idle: bool, outbox: &mut Outbox) -> Result<(), OperatorError> {
        let mut value = task.to_be_bytes().to_vec();
        value.extend_from_slice(&time.to_be_bytes());
        value.push(u8::from(idle));
        for at in &self.partitions {
            outbox.builder(at)?.append(time.max(0), None, None, &[(WATERMARK_HEADER, Some(&value))]);
        }
        Ok(())
    }
}

fn frames(at: &TopicPartition, rows: &Rows, outbox: &mut Outbox) -> Result<(), OperatorError> {
    let mut start = 0;
    while start < rows.len() {
        let mut len = FRAME_ROWS.min(rows.len() - start);
        let mut bytes = frame::encode(&rows.slice(start, len));
        while bytes.len() > BATCH_BYTES && len > 1 {
            len /= 2;
            bytes = frame::encode(&rows.slice(start, len));
        }
        outbox.builder(at)?.append(rows.times[start].max(0), None, Some(&bytes), &[]);
        start += len;
    }
    Ok(())
}

/// Reads a stream time record: upstream partition, stream time, idleness.
#[must_use]
pub fn read_mark(value: &[u8]) -> Option<(usize, i64, bool)> {
    let (partition, rest) = value.split_first_chunk::<4>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let partition = usize::try_from(i32::from_be_bytes(*partition)).ok()?;
    Some((partition, i64::from_be_bytes(*time), rest.first() == Some(&1)))
}
