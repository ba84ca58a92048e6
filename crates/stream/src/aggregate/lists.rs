//! Aggregates whose group is a short list of values: COLLECT_*, TOPK*, *_BY_OFFSET(…, n), HISTOGRAM, ATTR, SUM_LIST,
//! STDDEV_*, CORRELATION. Row by row: these are not hot.

use arrow::array::{ArrayRef, new_null_array};

use super::codec::{self, Reader, VERSION};
use super::offsets::Policy;
use super::{DecodeStateError, GroupState, Rows};
use crate::SqlType;
use crate::eval::{array_of, compare_values, value_at, values_equal};
use crate::expr::Value;

/// Elements beyond this are not collected, as in ksqlDB.
pub(crate) const COLLECT_MAX: usize = 1000;

/// Which aggregate a [`Lists`] is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ListKind {
    CollectList,
    CollectSet,
    /// `wide`: several columns, results are structs.
    TopK {
        k: usize,
        wide: bool,
    },
    TopKDistinct {
        k: usize,
    },
    /// `n`: how many; `None`: one value, not an array.
    Offsets {
        n: Option<usize>,
        policy: Policy,
    },
    Histogram,
    Attr,
    SumList,
    /// `root`: STDDEV_SAMPLE; else STDDEV_SAMP, which in ksqlDB is the variance.
    Deviation {
        root: bool,
    },
    Correlation,
}

/// State of one such aggregate.
#[derive(Debug)]
pub(crate) struct Lists {
    kind: ListKind,
    name: &'static str,
    states: Vec<Vec<Value>>,
    arg_types: Vec<SqlType>,
    return_type: SqlType,
    sequence: i64,
}

fn pair(first: Value, second: Value) -> Value {
    Value::Struct(vec![first, second])
}

fn parts(value: &Value) -> (&Value, &Value) {
    match value {
        Value::Struct(fields) if fields.len() == 2 => (&fields[0], &fields[1]),
        _ => (&Value::Null, &Value::Null),
    }
}

fn double(value: &Value) -> f64 {
    match value {
        Value::Double(value) => *value,
        Value::BigInt(value) => *value as f64,
        Value::Integer(value) => f64::from(*value),
        _ => 0.0,
    }
}

fn long(value: &Value) -> i64 {
    if let Value::BigInt(value) = value { *value } else { 0 }
}

impl Lists {
    pub(crate) fn new(
        kind: ListKind,
        name: &'static str,
        arg_types: Vec<SqlType>,
        return_type: SqlType,
    ) -> Self {
        Self { kind, name, states: Vec::new(), arg_types, return_type, sequence: 0 }
    }

    fn add(&mut self, slot: usize, args: Vec<Value>) {
        self.sequence += 1;
        let sequence = self.sequence;
        let state = &mut self.states[slot];
        let mut args = args.into_iter();
        let value = args.next().unwrap_or(Value::Null);
        match self.kind {
            ListKind::CollectList if state.len() < COLLECT_MAX => state.push(value),
            ListKind::CollectSet
                if state.len() < COLLECT_MAX && !state.iter().any(|held| values_equal(held, &value)) =>
            {
                state.push(value);
            }
            ListKind::CollectList | ListKind::CollectSet => {}
            ListKind::TopK { k, wide } if value != Value::Null => {
                let item =
                    if wide { Value::Struct(std::iter::once(value).chain(args).collect()) } else { value };
                insert_descending(state, item, k);
            }
            ListKind::TopKDistinct { k } if value != Value::Null => {
                if !state.iter().any(|held| values_equal(held, &value)) {
                    insert_descending(state, value, k);
                }
            }
            ListKind::TopK { .. } | ListKind::TopKDistinct { .. } => {}
            ListKind::Offsets { n, policy } => {
                if !(policy.ignore_nulls && value == Value::Null) {
                    let keep = n.unwrap_or(1);
                    if policy.latest && state.len() >= keep {
                        state.remove(0);
                    }
                    if state.len() < keep {
                        state.push(pair(Value::BigInt(sequence), value));
                    }
                }
            }
            ListKind::Histogram if value != Value::Null => count(state, value, 1, COLLECT_MAX),
            ListKind::Histogram => {}
            ListKind::Attr => count(state, value, 1, usize::MAX),
            ListKind::SumList => sum_list(state, &value, &self.return_type, 1),
            ListKind::Deviation { .. } if value != Value::Null => deviation(state, double(&value), 1.0),
            ListKind::Correlation => {
                let other = args.next().unwrap_or(Value::Null);
                if value != Value::Null && other != Value::Null {
                    correlate(state, double(&value), double(&other), 1.0);
                }
            }
            ListKind::Deviation { .. } => {}
        }
    }

    fn remove(&mut self, slot: usize, args: Vec<Value>) {
        let state = &mut self.states[slot];
        let mut args = args.into_iter();
        let value = args.next().unwrap_or(Value::Null);
        match self.kind {
            ListKind::CollectList => {
                if let Some(last) = state.iter().rposition(|held| values_equal(held, &value)) {
                    state.remove(last);
                }
            }
            ListKind::Histogram if value != Value::Null => count(state, value, -1, COLLECT_MAX),
            ListKind::Attr => count(state, value, -1, usize::MAX),
            ListKind::SumList => sum_list(state, &value, &self.return_type, -1),
            ListKind::Deviation { .. } if value != Value::Null => deviation(state, double(&value), -1.0),
            ListKind::Correlation => {
                let other = args.next().unwrap_or(Value::Null);
                if value != Value::Null && other != Value::Null {
                    correlate(state, double(&value), double(&other), -1.0);
                }
            }
            _ => {}
        }
    }

    fn result(&self, state: &[Value]) -> Value {
        match self.kind {
            ListKind::CollectList
            | ListKind::CollectSet
            | ListKind::TopK { .. }
            | ListKind::TopKDistinct { .. } => Value::Array(state.to_vec()),
            ListKind::Offsets { n: None, .. } => {
                state.last().map_or(Value::Null, |item| parts(item).1.clone())
            }
            ListKind::Offsets { n: Some(_), .. } => {
                Value::Array(state.iter().map(|item| parts(item).1.clone()).collect())
            }
            ListKind::Histogram => {
                let entry = |item: &Value| (parts(item).0.clone(), parts(item).1.clone());
                Value::Map(state.iter().map(entry).collect())
            }
            ListKind::Attr => {
                let mut present = state.iter().filter(|item| long(parts(item).1) > 0);
                match (present.next(), present.next()) {
                    (Some(only), None) => parts(only).0.clone(),
                    _ => Value::Null,
                }
            }
            ListKind::SumList => state.first().cloned().unwrap_or_else(|| zero(&self.return_type)),
            ListKind::Deviation { root } => {
                let [n, _, m2] = numbers::<3>(state);
                let variance = if n < 2.0 { 0.0 } else { m2 / (n - 1.0) };
                Value::Double(if root { variance.sqrt() } else { variance })
            }
            ListKind::Correlation => {
                let [n, sx, sy, sxx, syy, sxy] = numbers::<6>(state);
                let spread = (n * sxx - sx * sx).sqrt() * (n * syy - sy * sy).sqrt();
                Value::Double(if n < 2.0 { f64::NAN } else { (n * sxy - sx * sy) / spread })
            }
        }
    }

    fn merge_states(&mut self, into: usize, from: usize) {
        let other = self.states[from].clone();
        let state = &mut self.states[into];
        match self.kind {
            ListKind::CollectList => {
                state.extend(other);
                state.truncate(COLLECT_MAX);
            }
            ListKind::CollectSet => {
                for value in other {
                    if state.len() < COLLECT_MAX && !state.iter().any(|held| values_equal(held, &value)) {
                        state.push(value);
                    }
                }
            }
            ListKind::TopK { k, .. } => {
                other.into_iter().for_each(|value| insert_descending(state, value, k));
            }
            ListKind::TopKDistinct { k } => {
                for value in other {
                    if !state.iter().any(|held| values_equal(held, &value)) {
                        insert_descending(state, value, k);
                    }
                }
            }
            ListKind::Offsets { n, policy } => {
                state.extend(other);
                state.sort_by_key(|item| long(parts(item).0));
                let keep = n.unwrap_or(1);
                if policy.latest {
                    let drop = state.len().saturating_sub(keep);
                    state.drain(..drop);
                } else {
                    state.truncate(keep);
                }
            }
            ListKind::Histogram | ListKind::Attr => {
                let limit = if self.kind == ListKind::Histogram { COLLECT_MAX } else { usize::MAX };
                for item in other {
                    let (value, times) = parts(&item);
                    count(state, value.clone(), long(times), limit);
                }
            }
            ListKind::SumList => {
                if let Some(sum) = other.first() {
                    add_to_sum(state, sum, &self.return_type, 1);
                }
            }
            ListKind::Deviation { .. } => {
                let ([n1, mean1, m1], [n2, mean2, m2]) = (numbers::<3>(state), numbers::<3>(&other));
                let n = n1 + n2;
                if n > 0.0 {
                    let delta = mean2 - mean1;
                    let mean = (mean1 * n1 + mean2 * n2) / n;
                    *state = [n, mean, m1 + m2 + delta * delta * n1 * n2 / n].map(Value::Double).to_vec();
                }
            }
            ListKind::Correlation => {
                let (a, b) = (numbers::<6>(state), numbers::<6>(&other));
                *state = a.iter().zip(b).map(|(a, b)| Value::Double(a + b)).collect();
            }
        }
    }
}

fn zero(ty: &SqlType) -> Value {
    match ty {
        SqlType::Integer => Value::Integer(0),
        SqlType::BigInt => Value::BigInt(0),
        _ => Value::Double(0.0),
    }
}

fn numbers<const N: usize>(state: &[Value]) -> [f64; N] {
    let mut numbers = [0.0; N];
    numbers.iter_mut().zip(state).for_each(|(number, value)| *number = double(value));
    numbers
}

/// Inserts after all that are not smaller; keeps the first `k`.
fn insert_descending(state: &mut Vec<Value>, item: Value, k: usize) {
    fn sort_key(item: &Value) -> &Value {
        if let Value::Struct(fields) = item { fields.first().unwrap_or(&Value::Null) } else { item }
    }
    let smaller =
        |held: &Value| compare_values(sort_key(held), sort_key(&item)).is_ok_and(std::cmp::Ordering::is_lt);
    let at = state.iter().position(smaller).unwrap_or(state.len());
    if at < k {
        state.insert(at, item);
        state.truncate(k);
    }
}

fn count(state: &mut Vec<Value>, value: Value, by: i64, limit: usize) {
    match state.iter_mut().position(|item| values_equal(parts(item).0, &value)) {
        Some(at) => {
            let times = (long(parts(&state[at]).1) + by).max(0);
            if times == 0 {
                state.remove(at);
            } else {
                state[at] = pair(value, Value::BigInt(times));
            }
        }
        None if by > 0 && state.len() < limit => state.push(pair(value, Value::BigInt(by))),
        None => {}
    }
}

fn sum_list(state: &mut Vec<Value>, value: &Value, ty: &SqlType, by: i64) {
    if let Value::Array(items) = value {
        items.iter().for_each(|item| add_to_sum(state, item, ty, by));
    }
}

fn add_to_sum(state: &mut Vec<Value>, item: &Value, ty: &SqlType, by: i64) {
    if state.is_empty() {
        state.push(zero(ty));
    }
    #[expect(clippy::cast_possible_truncation, reason = "Java's int addition wraps")]
    let small = by as i32;
    match (&mut state[0], item) {
        (Value::Integer(sum), Value::Integer(item)) => *sum = sum.wrapping_add(item.wrapping_mul(small)),
        (Value::BigInt(sum), Value::BigInt(item)) => *sum = sum.wrapping_add(item.wrapping_mul(by)),
        (Value::Double(sum), Value::Double(item)) => *sum += item * by as f64,
        _ => {}
    }
}

/// Welford's update, forwards or backwards: count, mean, sum of squared deviations.
fn deviation(state: &mut Vec<Value>, x: f64, by: f64) {
    let [n, mean, m2] = numbers::<3>(state);
    let count = n + by;
    let next = if count <= 0.0 {
        [0.0; 3]
    } else if by > 0.0 {
        let delta = x - mean;
        let new_mean = mean + delta / count;
        [count, new_mean, m2 + delta * (x - new_mean)]
    } else {
        let old_mean = (mean * n - x) / count;
        [count, old_mean, m2 - (x - mean) * (x - old_mean)]
    };
    *state = next.map(Value::Double).to_vec();
}

fn correlate(state: &mut Vec<Value>, x: f64, y: f64, by: f64) {
    let held = numbers::<6>(state);
    let add = [1.0, x, y, x * x, y * y, x * y];
    *state = held.iter().zip(add).map(|(held, add)| Value::Double(held + by * add)).collect();
}

impl GroupState for Lists {
    fn ensure(&mut self, slots: usize) {
        if self.states.len() < slots {
            self.states.resize(slots, Vec::new());
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let types = self.arg_types.clone();
        rows.each(slots, |slot, row| {
            let values = args.iter().zip(&types).map(|(column, ty)| value_at(column, row, ty)).collect();
            self.add(slot, values);
        });
    }

    fn undo(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let types = self.arg_types.clone();
        rows.each(slots, |slot, row| {
            let values = args.iter().zip(&types).map(|(column, ty)| value_at(column, row, ty)).collect();
            self.remove(slot, values);
        });
    }

    fn merge(&mut self, into: u32, from: u32) {
        if into != from {
            self.merge_states(into as usize, from as usize);
        }
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let values: Vec<Value> = slots.iter().map(|slot| self.result(&self.states[*slot as usize])).collect();
        // Decoded bytes could hold values of another type; they read as null rather than stop the query.
        array_of(&values, &self.return_type)
            .unwrap_or_else(|_| new_null_array(&self.return_type.arrow(), slots.len()))
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.push(VERSION);
        codec::put_list(&self.states[slot as usize], out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let list = Reader::new(bytes, self.name)?.list()?;
        if matches!(self.kind, ListKind::Offsets { .. }) {
            let newest = list.iter().map(|item| long(parts(item).0)).max().unwrap_or(0);
            self.sequence = self.sequence.max(newest);
        }
        self.states[slot as usize] = list;
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.states[slot as usize].clear();
    }

    fn memory_bytes(&self) -> usize {
        let item = |value: &Value| match value {
            Value::String(text) => text.capacity(),
            Value::Bytes(bytes) => bytes.capacity(),
            Value::Array(items) | Value::Struct(items) => items.capacity() * size_of::<Value>(),
            Value::Map(entries) => entries.capacity() * 2 * size_of::<Value>(),
            _ => 0,
        };
        let state = |state: &Vec<Value>| {
            state.capacity() * size_of::<Value>() + state.iter().map(item).sum::<usize>()
        };
        self.states.iter().map(state).sum::<usize>() + self.states.capacity() * size_of::<Vec<Value>>()
    }
}
