//! A partition's producers as text, so that a start reads back only what came behind.
//!
//! ```text
//! offset 1200                                      everything below is in it
//! producer 7 3 0 1180 1700000000000 0:9:1000 …     id, epoch, begins, first open offset or -1, last ms, sequences
//! aborted 8 900 950 950                            producer, first offset, marker, last stable offset behind it
//! ```

use std::fmt::Write as _;
use std::str::FromStr;

use crate::partition_state::Aborted;
use crate::producers::{Producer, Producers, Sent};

/// State of the producers of one partition at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Batches below are taken in.
    pub(crate) offset: i64,
    producers: Vec<(i64, Producer)>,
    aborted: Vec<Aborted>,
}

impl Snapshot {
    /// Copies the state.
    pub(crate) fn of(offset: i64, producers: &Producers, aborted: &[Aborted]) -> Self {
        let producers = producers.all().into_iter().map(|(id, one)| (id, one.clone())).collect();
        Self { offset, producers, aborted: aborted.to_vec() }
    }

    /// The state, and the offset behind it.
    pub(crate) fn into_state(self) -> (i64, Producers, Vec<Aborted>) {
        let mut producers = Producers::default();
        for (id, producer) in self.producers {
            producers.restore(id, producer);
        }
        (self.offset, producers, self.aborted)
    }

    /// As text. Producers stand in the order of their last use.
    pub(crate) fn encode(mut self) -> String {
        self.producers.sort_by_key(|(_, producer)| producer.used);
        let mut out = format!("offset {}\n", self.offset);
        for (id, one) in &self.producers {
            let open = one.open.unwrap_or(-1);
            let _ =
                write!(out, "producer {id} {} {} {open} {}", one.epoch, u8::from(one.begins), one.last_ms);
            for sent in &one.sent {
                let _ = write!(out, " {}:{}:{}", sent.first_sequence, sent.last_sequence, sent.base_offset);
            }
            out.push('\n');
        }
        for one in &self.aborted {
            let _ = writeln!(out, "aborted {} {} {} {}", one.producer_id, one.first, one.last, one.stable);
        }
        out
    }

    /// From text; `None` if it is of another version.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let offset = lines.next()?.strip_prefix("offset ")?.parse().ok()?;
        let mut found = Self { offset, producers: Vec::new(), aborted: Vec::new() };
        for (line, used) in lines.zip(1..) {
            let mut words = line.split(' ');
            match words.next()? {
                "producer" => {
                    let (id, mut producer) =
                        (number(words.next())?, Producer { used, ..Producer::default() });
                    producer.epoch = number(words.next())?;
                    producer.begins = number::<u8>(words.next())? == 1;
                    producer.open = Some(number(words.next())?).filter(|first| *first >= 0);
                    producer.last_ms = number(words.next())?;
                    producer.sent = words.map(sent).collect::<Option<_>>()?;
                    found.producers.push((id, producer));
                }
                "aborted" => found.aborted.push(Aborted {
                    producer_id: number(words.next())?,
                    first: number(words.next())?,
                    last: number(words.next())?,
                    stable: number(words.next())?,
                }),
                _ => return None,
            }
        }
        Some(found)
    }
}

fn number<T: FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}

fn sent(word: &str) -> Option<Sent> {
    let mut parts = word.split(':');
    Some(Sent {
        first_sequence: number(parts.next())?,
        last_sequence: number(parts.next())?,
        base_offset: number(parts.next())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_reads_back_as_it_was() {
        let sent = Sent { first_sequence: 4, last_sequence: 9, base_offset: 30 };
        let one = Producer { epoch: 2, open: Some(12), last_ms: 99, used: 1, ..Producer::default() };
        let two = Producer { sent: [sent, sent].into(), begins: true, used: 2, ..Producer::default() };
        let aborted = Aborted { producer_id: 7, first: 1, last: 5, stable: 6 };
        let all = Snapshot { offset: 40, producers: vec![(7, one), (-3, two)], aborted: vec![aborted] };
        assert_eq!(Snapshot::decode(&all.clone().encode()), Some(all.clone()));
        let (offset, producers, _) = all.into_state();
        assert_eq!((offset, producers.first_open(), producers.open_of(7, 2)), (40, Some(12), Some(12)));
        assert_eq!(Snapshot::decode("offset 1\nproducer 7 x"), None);
    }
}
