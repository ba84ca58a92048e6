//! A table joined with another on a foreign key, as Kafka Streams' foreign-key join does it (KIP-213).

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;

use crate::Schema;
use crate::expr::Expr;
use crate::keys::KeyCodec;
use crate::operator::{ChangeSink, Context, Operator, OperatorError};
use crate::operators::stream_stream_join::present_only;
use crate::operators::table_state::with_keys;
use crate::plan::JoinKind;
use crate::rows::Rows;
use crate::table_store::TableStore;

type Bytes = Box<[u8]>;

struct Line {
    key: Bytes,
    left: Option<Bytes>,
    foreign: Option<Bytes>,
    right: Option<Bytes>,
    time: i64,
}

/// A foreign-key join with both tables and the subscriptions of left rows to right keys.
pub struct ForeignKeyJoin {
    left: TableStore,
    right: TableStore,
    left_schema: Schema,
    right_schema: Schema,
    left_key: KeyCodec,
    right_key: KeyCodec,
    foreign_key: Expr,
    outer: bool,
    foreign_of: HashMap<Bytes, Bytes>,
    subscribers: HashMap<Bytes, BTreeSet<Bytes>>,
    dirty: BTreeSet<Bytes>,
}

impl ForeignKeyJoin {
    /// A join of empty tables.
    ///
    /// # Errors   types that cannot be encoded.
    pub fn new(
        left: &Schema,
        right: &Schema,
        kind: JoinKind,
        foreign_key: Expr,
    ) -> Result<Self, OperatorError> {
        Ok(Self {
            left: TableStore::new(left, false)?,
            right: TableStore::new(right, false)?,
            left_key: KeyCodec::new(&left.key)?,
            right_key: KeyCodec::new(&right.key)?,
            left_schema: left.clone(),
            right_schema: right.clone(),
            foreign_key,
            outer: kind == JoinKind::Left,
            foreign_of: HashMap::new(),
            subscribers: HashMap::new(),
            dirty: BTreeSet::new(),
        })
    }

    fn subscribe(&mut self, key: &[u8], foreign: Option<&[u8]>) {
        if let Some(before) = self.foreign_of.remove(key)
            && let Some(all) = self.subscribers.get_mut(&before)
        {
            all.remove(key);
            if all.is_empty() {
                self.subscribers.remove(&before);
            }
        }
        if let Some(foreign) = foreign {
            self.foreign_of.insert(key.into(), foreign.into());
            self.subscribers.entry(foreign.into()).or_default().insert(key.into());
        }
    }

    fn left_row(
        &mut self,
        rows: &Rows,
        row: usize,
        foreign: Option<&[u8]>,
        lines: &mut Vec<Line>,
    ) -> Result<(), OperatorError> {
        let one = rows.slice(row, 1);
        let keys = self.left_key.encode(&one.columns[..self.left_schema.key.len()], 1)?;
        let key: Bytes = keys.get(0).into();
        let existed = self.left.find(&key).is_some();
        let before = self.foreign_of.get(&key).cloned();
        self.left.apply(&one, self.left_schema.key.len(), false)?;
        let foreign = foreign.filter(|_| !one.is_tombstone(0));
        self.subscribe(&key, foreign);
        self.dirty.insert(key.clone());
        let gone = |time| Line { key: key.clone(), left: None, foreign: None, right: None, time };
        let time = one.times[0];
        if one.is_tombstone(0) {
            if existed && (before.is_some() || self.outer) {
                lines.push(gone(time));
            }
            return Ok(());
        }
        let left = self.left.find(&key).and_then(|slot| self.left.row(slot)).map(Bytes::from);
        let Some(foreign) = foreign else {
            if self.outer {
                lines.push(Line { key, left, foreign: None, right: None, time });
            } else if before.is_some() {
                lines.push(gone(time));
            }
            return Ok(());
        };
        let slot = self.right.find(foreign);
        let time = slot.map_or(time, |slot| self.right.time(slot).max(time));
        let right = slot.and_then(|slot| self.right.row(slot)).map(Bytes::from);
        let moved = before.is_some_and(|before| *before != *foreign);
        if right.is_some() || self.outer {
            let foreign = right.as_ref().map(|_| foreign.into());
            lines.push(Line { key, left, foreign, right, time });
        } else if moved {
            lines.push(gone(time));
        }
        Ok(())
    }

    fn right_row(&mut self, rows: &Rows, row: usize, lines: &mut Vec<Line>) -> Result<(), OperatorError> {
        let one = rows.slice(row, 1);
        let key_len = self.right_schema.key.len();
        let keys = self.right_key.encode(&one.columns[..key_len], 1)?;
        let foreign: Bytes = keys.get(0).into();
        self.right.apply(&one, key_len, false)?;
        let right = self.right.find(&foreign).and_then(|slot| self.right.row(slot)).map(Bytes::from);
        for key in self.subscribers.get(&foreign).into_iter().flatten() {
            let Some(slot) = self.left.find(key) else { continue };
            let time = self.left.time(slot).max(one.times[0]);
            let left =
                (right.is_some() || self.outer).then(|| self.left.row(slot).map(Bytes::from)).flatten();
            let of_right = right.as_ref().map(|_| foreign.clone());
            lines.push(Line { key: key.clone(), left, foreign: of_right, right: right.clone(), time });
        }
        Ok(())
    }

    fn output(&self, lines: &[Line]) -> Result<Option<Rows>, OperatorError> {
        if lines.is_empty() {
            return Ok(None);
        }
        let keys: Vec<&[u8]> = lines.iter().map(|line| &*line.key).collect();
        let mut columns = self.left_key.decode(&keys)?;
        columns.extend(self.left.decode(&lines.iter().map(|line| line.left.as_deref()).collect::<Vec<_>>())?);
        columns.extend(self.foreign_keys(lines)?);
        columns
            .extend(self.right.decode(&lines.iter().map(|line| line.right.as_deref()).collect::<Vec<_>>())?);
        let mut rows = Rows::new(columns, lines.iter().map(|line| line.time).collect());
        rows.tombstones = Some(lines.iter().map(|line| line.left.is_none()).collect::<BooleanBuffer>());
        Ok(Some(rows.normal()))
    }

    fn foreign_keys(&self, lines: &[Line]) -> Result<Vec<ArrayRef>, OperatorError> {
        let rows: Vec<Option<&[u8]>> = lines.iter().map(|line| line.foreign.as_deref()).collect();
        let known: Vec<&[u8]> = rows.iter().flatten().copied().collect();
        if known.is_empty() {
            let types = crate::keys::arrow_types(&self.right_schema.key);
            return Ok(types.iter().map(|ty| arrow::array::new_null_array(ty, lines.len())).collect());
        }
        let filled: Vec<&[u8]> = rows.iter().map(|row| row.unwrap_or(known[0])).collect();
        present_only(&self.right_key.decode(&filled)?, &rows)
    }
}

impl Operator for ForeignKeyJoin {
    fn on_rows(
        &mut self,
        side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let rows = with_keys(rows)?;
        let mut lines = Vec::new();
        if side == 0 {
            let column = ctx.evaluate(&self.foreign_key, &rows, &rows.columns)?;
            let known = BooleanArray::new((0..rows.len()).map(|row| column.is_valid(row)).collect(), None);
            let foreign = self.right_key.encode(std::slice::from_ref(&column), rows.len())?;
            for row in 0..rows.len() {
                let foreign = known.value(row).then(|| foreign.get(row));
                self.left_row(&rows, row, foreign, &mut lines)?;
            }
        } else {
            for row in 0..rows.len() {
                self.right_row(&rows, row, &mut lines)?;
            }
        }
        out.extend(self.output(&lines)?);
        Ok(())
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        self.left.drain_changes(b'l', sink);
        self.right.drain_changes(b'r', sink);
        for key in std::mem::take(&mut self.dirty) {
            let mut tagged = vec![b's'];
            tagged.extend_from_slice(&key);
            sink(&tagged, self.foreign_of.get(&key).map(|foreign| &**foreign));
        }
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        let Some((tag, rest)) = key.split_first() else { return Ok(()) };
        match tag {
            b'l' => self.left.restore(rest, value),
            b'r' => self.right.restore(rest, value),
            _ => {
                self.subscribe(rest, value);
                Ok(())
            }
        }
    }
}
