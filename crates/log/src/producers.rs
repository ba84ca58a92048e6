//! What the broker wants back of a partition's producers after a restart: where to read, and a file to keep it in.
//!
//! The file's contents are the caller's; here they get a name, a checksum and the promise to survive a power cut.

use std::ops::Range;

use herdsman_record::TopicPartition;

use crate::partition::Partition;
use crate::{Log, LogError, sealed};

const FILE: &str = "producers.snapshot";
const MAGIC: &str = "herdsman-producers 1";

impl Log {
    /// Offset ranges whose batches may name producers: everything else says nothing about them and need not be read.
    pub fn producer_ranges(&self, tp: &TopicPartition) -> Result<Vec<Range<i64>>, LogError> {
        self.partition(tp)?.producer_ranges()
    }

    /// Keeps `body`, what is known of the producers below some offset that is durable, for the next start.
    pub fn store_producers(&self, tp: &TopicPartition, body: &str) -> Result<(), LogError> {
        let partition = self.partition(tp)?;
        let path = partition.dir.join(FILE);
        partition.place.disk.replace(&path, &sealed::seal(MAGIC, body)).map_err(LogError::io("write", &path))
    }

    /// What [`Log::store_producers`] kept; `None` if there is nothing, or nothing whole.
    pub fn load_producers(&self, tp: &TopicPartition) -> Result<Option<String>, LogError> {
        let partition = self.partition(tp)?;
        let (disk, path) = (partition.place.disk.as_ref(), partition.dir.join(FILE));
        if !disk.exists(&path) {
            return Ok(None);
        }
        let bytes = disk.read_all(&path).map_err(LogError::io("read", &path))?;
        match sealed::open(MAGIC, &bytes) {
            Ok(body) => Ok(Some(body.to_owned())),
            Err(reason) => {
                tracing::warn!(path = %path.display(), %reason, "producers are read back from the log instead");
                Ok(None)
            }
        }
    }

    /// Wakes everyone who waits for appends: what readers may see has changed without one.
    pub fn wake(&self) {
        self.notify.raise();
    }
}

impl Partition {
    fn producer_ranges(&self) -> Result<Vec<Range<i64>>, LogError> {
        let segments = self.segments();
        let (start, end) = (self.start(), self.high_watermark());
        let mut ranges: Vec<Range<i64>> = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            let until = segments.get(at + 1).map_or(end, |next| next.base_offset.min(end));
            let has = segment
                .has_producers(self.place.disk.as_ref(), until)
                .map_err(LogError::io("index", &segment.path))?;
            let from = segment.base_offset.max(start);
            match ranges.last_mut() {
                _ if !has || from >= until => {}
                Some(last) if last.end == from => last.end = until,
                _ => ranges.push(from..until),
            }
        }
        Ok(ranges)
    }
}
