//! `herdsman consume`: prints the records of a topic.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use herdsman_record::{Record, TopicPartition};

use super::{Cluster, topic};
use crate::failure::Failure;

/// Records to lines.
#[derive(Args)]
pub struct Consume {
    #[command(flatten)]
    cluster: Cluster,
    /// Topic
    topic: String,
    /// Begin at the first record instead of the next one
    #[arg(long)]
    from_beginning: bool,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Stop when the end of the topic is reached
    #[arg(long)]
    exit_at_end: bool,
    /// One JSON object a line, with key, partition, offset and timestamp
    #[arg(long)]
    json: bool,
}

impl Consume {
    /// Prints until told to stop.
    pub fn run(self) -> Result<(), Failure> {
        let bus = self.cluster.connect()?;
        let description = bus.topic(&self.topic)?.ok_or_else(|| topic::missing(bus.as_ref(), &self.topic))?;
        let mut start = Vec::new();
        let mut left_to_end = 0_i64;
        for partition in 0..description.partitions {
            let at = TopicPartition::new(self.topic.as_str(), partition);
            let range = bus.offsets(&at)?;
            let offset = if self.from_beginning { range.start } else { range.end };
            left_to_end += range.end - offset;
            start.push((at, offset));
        }
        let mut reader = bus.reader(&start)?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut left = self.max.unwrap_or(u64::MAX);
        while left > 0 && (left_to_end > 0 || !self.exit_at_end) {
            for fetched in reader.poll(1 << 20, Duration::from_millis(200))? {
                left_to_end -= fetched.next_offset - fetched.position;
                for batch in &fetched.batches {
                    for record in batch.records()?.iter() {
                        let record = record?;
                        if record.offset < fetched.position || left == 0 {
                            continue;
                        }
                        left -= 1;
                        self.print(&mut out, fetched.topic_partition.partition, &record)?;
                    }
                }
            }
            out.flush()?;
        }
        Ok(())
    }

    fn print(&self, out: &mut impl Write, partition: i32, record: &Record<'_>) -> std::io::Result<()> {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        if self.json {
            let line = serde_json::json!({
                "partition": partition, "offset": record.offset, "timestamp": record.timestamp_ms,
                "key": text(record.key), "value": text(record.value),
            });
            return writeln!(out, "{line}");
        }
        out.write_all(record.value.unwrap_or_default())?;
        out.write_all(b"\n")
    }
}
