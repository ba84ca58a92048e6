//! Two tables joined on their primary keys, as Kafka Streams' `KTableKTable…Join` does it.

use arrow::array::{ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::BooleanBuffer;

use crate::Schema;
use crate::operator::{ChangeSink, Context, Operator, OperatorError};
use crate::operators::table_state::with_keys;
use crate::plan::JoinKind;
use crate::rows::{OldRows, Rows, take_columns};
use crate::table_store::TableStore;

const TAGS: [u8; 2] = [b'l', b'r'];

/// A table-table join with both tables.
pub struct TableTableJoin {
    stores: [TableStore; 2],
    key_len: [usize; 2],
    keep: [bool; 2],
    send_old: bool,
}

impl TableTableJoin {
    /// A join of empty tables.
    ///
    /// # Errors   types that cannot be encoded.
    pub fn new(
        left: &Schema,
        right: &Schema,
        kind: JoinKind,
        windowed: bool,
        send_old: bool,
    ) -> Result<Self, OperatorError> {
        Ok(Self {
            stores: [TableStore::new(left, windowed)?, TableStore::new(right, windowed)?],
            key_len: [left.key.len(), right.key.len()],
            keep: [
                matches!(kind, JoinKind::Left | JoinKind::Outer),
                matches!(kind, JoinKind::Right | JoinKind::Outer),
            ],
            send_old,
        })
    }

    /// Key and values of this side (nulls where it has no row), then of the other, in left-right order.
    fn joined(side: usize, own: Vec<ArrayRef>, other: &[ArrayRef]) -> Vec<ArrayRef> {
        if side == 0 {
            own.into_iter().chain(other.iter().cloned()).collect()
        } else {
            other.iter().cloned().chain(own).collect()
        }
    }
}

fn rows_where(mask: &BooleanBuffer) -> UInt32Array {
    (0_u32..).zip(mask.iter()).map(|(row, is)| is.then_some(row)).collect()
}

impl Operator for TableTableJoin {
    fn on_rows(
        &mut self,
        side: usize,
        rows: Rows,
        _ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let rows = with_keys(rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        let (key_len, len) = (self.key_len[side], rows.len());
        let Some(old) = self.stores[side].apply(&rows, key_len, true)? else { return Ok(()) };
        let other_store = &mut self.stores[1 - side];
        let partners = other_store.find_all(&rows, key_len)?;
        let is: BooleanBuffer = (0..len).map(|row| !rows.is_tombstone(row)).collect();
        let has: BooleanBuffer = partners.iter().map(Option::is_some).collect();
        let (keep_this, keep_other) = (self.keep[side], self.keep[1 - side]);
        let present = |this: &BooleanBuffer| -> BooleanBuffer {
            let row = |(this, has): (bool, bool)| (this && (has || keep_this)) || (has && keep_other);
            this.iter().zip(has.iter()).map(row).collect()
        };
        let told: BooleanBuffer = (0..len)
            .map(|row| has.value(row) || (keep_this && (is.value(row) || old.present.value(row))))
            .collect();

        let key = &rows.columns[..key_len];
        let other_rows = rows_where(&has);
        let mut other = take_columns(key, &other_rows)?;
        other.extend(other_store.gather(&partners)?);
        let times: Vec<i64> = partners
            .iter()
            .zip(rows.times.iter())
            .map(|(slot, time)| slot.map_or(*time, |slot| other_store.time(slot).max(*time)))
            .collect();
        let own = take_columns(&rows.columns, &rows_where(&is))?;
        let mut columns = key.to_vec();
        columns.extend(Self::joined(side, own, &other));
        let mut result = Rows::new(columns, times);
        result.windows = rows.windows.clone();
        result.observed = rows.observed.clone();
        result.tombstones = Some(!&present(&is));
        if self.send_old {
            let mut before = take_columns(key, &rows_where(&old.present))?;
            before.extend(old.values.iter().cloned());
            result.old =
                Some(OldRows { values: Self::joined(side, before, &other), present: present(&old.present) });
        }
        let result = result.filter(&BooleanArray::new(told, None))?.normal();
        if !result.is_empty() {
            out.push(result);
        }
        Ok(())
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        for (store, tag) in self.stores.iter_mut().zip(TAGS) {
            store.drain_changes(tag, sink);
        }
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        let side = usize::from(key.first() == Some(&TAGS[1]));
        self.stores[side].restore(key.get(1..).unwrap_or_default(), value)
    }
}
