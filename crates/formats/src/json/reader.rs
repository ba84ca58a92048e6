//! Objects into rows: the speculative reader that has learned a field order, and the full one behind it.

use hashbrown::HashMap;

use super::DEPTH_MAX;
use super::scan::{Cursor, RawString, Stop, unescape};
use super::value::{match_name, push_value};
use crate::column::ColumnBuilder;

/// Field orders remembered; topics that carry a few kinds of events have one each.
const SHAPES_MAX: usize = 4;
/// Fields of one remembered order.
const FIELDS_MAX: usize = 256;
/// Names whose column is remembered.
const NAMES_MAX: usize = 1024;
/// Rows in a row without a known order before speculation pauses, and how long it pauses.
const SURPRISES_MAX: u32 = 64;
const PAUSE_ROWS: u32 = 4096;

/// What to do with a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Column(usize),
    Skip,
}

/// One field of a learned order: the bytes from the last value's end to this value's start, and what to do then.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    prefix: Literal,
    target: Target,
}

/// Bytes to compare with, the first 16 of them ready as masked words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Literal {
    bytes: Box<[u8]>,
    words: [u64; 2],
    masks: [u64; 2],
}

impl Literal {
    fn new(bytes: &[u8]) -> Self {
        let (mut words, mut masks) = ([0; 2], [0; 2]);
        for (at, byte) in bytes.iter().take(16).enumerate() {
            words[at / 8] |= u64::from(*byte) << (at % 8 * 8);
            masks[at / 8] |= 0xff << (at % 8 * 8);
        }
        Self { bytes: bytes.into(), words, masks }
    }

    /// Moves the cursor past these bytes if they stand there.
    #[inline]
    fn eat(&self, cursor: &mut Cursor<'_>) -> bool {
        let rest = cursor.rest();
        let Some(first) = rest.first_chunk::<16>() else { return cursor.eat(&self.bytes) };
        let [a, b] = halves(*first);
        let differs = ((a ^ self.words[0]) & self.masks[0]) | ((b ^ self.words[1]) & self.masks[1]);
        if differs != 0 || (self.bytes.len() > 16 && !rest.starts_with(&self.bytes)) {
            return false;
        }
        cursor.at += self.bytes.len();
        true
    }
}

#[inline]
fn halves(chunk: [u8; 16]) -> [u64; 2] {
    let all = u128::from_le_bytes(chunk);
    [u64::try_from(all & u128::from(u64::MAX)).unwrap_or(0), u64::try_from(all >> 64).unwrap_or(0)]
}

/// A learned field order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    slots: Vec<Slot>,
    tail: Box<[u8]>,
    /// Columns that no slot fills.
    missing: Vec<usize>,
}

/// Why a row failed, and at which column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stop: Stop,
    /// Index among the reader's columns.
    pub(crate) column: Option<usize>,
    /// Where the offending value begins.
    pub(crate) at: usize,
}

impl Failure {
    fn syntax(stop: Stop, at: usize) -> Self {
        Self { stop, column: None, at }
    }
}

/// Reads JSON objects, or bare values, into columns.
#[derive(Debug)]
pub(crate) struct JsonReader {
    names: Vec<String>,
    needed: Vec<bool>,
    unwrapped: bool,
    shapes: Vec<Shape>,
    /// The shape of the last row.
    current: usize,
    known: HashMap<Box<[u8]>, Option<(usize, bool)>>,
    /// Slots seen by the full reader in the current row.
    learning: Vec<(usize, usize, Target)>,
    exact: Vec<bool>,
    surprises: u32,
    pause: u32,
}

impl JsonReader {
    /// Columns called `names`; those not `needed` are skipped and never pushed.
    pub(crate) fn new(names: Vec<String>, needed: Vec<bool>, unwrapped: bool) -> Self {
        let exact = vec![false; names.len()];
        Self {
            names,
            needed,
            unwrapped,
            shapes: Vec::new(),
            current: 0,
            known: HashMap::new(),
            learning: Vec::new(),
            exact,
            surprises: 0,
            pause: 0,
        }
    }

    /// Pushes one row. `Ok(false)`: the text is `null`, nothing was pushed. On failure columns may be half filled.
    #[inline]
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        columns: &mut [ColumnBuilder],
        row: usize,
    ) -> Result<bool, Failure> {
        if self.unwrapped {
            return self.read_bare(bytes, columns);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return self.read_full(bytes, columns, row);
        }
        if self.speculate(bytes, columns) {
            self.surprises = 0;
            return Ok(true);
        }
        for (column, needed) in columns.iter_mut().zip(&self.needed) {
            if *needed {
                column.truncate(row);
            }
        }
        self.surprises += 1;
        if self.surprises > SURPRISES_MAX {
            self.surprises = 0;
            self.pause = PAUSE_ROWS;
        }
        self.read_full(bytes, columns, row)
    }

    /// Follows the shape of the last row; where the row leaves it, another shape with the same beginning goes on.
    #[inline]
    fn speculate(&mut self, bytes: &[u8], columns: &mut [ColumnBuilder]) -> bool {
        let Some(shape) = self.shapes.get(self.current) else { return false };
        let mut cursor = Cursor::new(bytes);
        match follow(shape, &mut cursor, columns, 0) {
            Outcome::Done => true,
            Outcome::Broken => false,
            Outcome::Diverged(slot) => self.switch(cursor, columns, slot),
        }
    }

    fn switch(&mut self, mut cursor: Cursor<'_>, columns: &mut [ColumnBuilder], mut slot: usize) -> bool {
        let mut followed = self.current;
        for (index, shape) in self.shapes.iter().enumerate() {
            let beginning = self.shapes.get(followed).and_then(|shape| shape.slots.get(..slot));
            if index == self.current || index == followed || shape.slots.get(..slot) != beginning {
                continue;
            }
            match follow(shape, &mut cursor, columns, slot) {
                Outcome::Done => {
                    self.current = index;
                    return true;
                }
                Outcome::Broken => return false,
                Outcome::Diverged(at) => {
                    followed = index;
                    slot = at;
                }
            }
        }
        false
    }

    fn read_bare(&mut self, bytes: &[u8], columns: &mut [ColumnBuilder]) -> Result<bool, Failure> {
        let mut cursor = Cursor::new(bytes);
        cursor.skip_space();
        let start = cursor.at;
        if cursor.peek() == b'n' {
            cursor.word(b"null").map_err(|stop| Failure::syntax(stop, start))?;
            end(&mut cursor)?;
            return Ok(false);
        }
        match columns.first_mut() {
            Some(column) if self.needed.first() == Some(&true) => push_value(&mut cursor, column, 0)
                .map_err(|stop| Failure { stop, column: Some(0), at: start })?,
            _ => cursor.skip_value(0).map_err(|stop| Failure::syntax(stop, cursor.at))?,
        }
        end(&mut cursor)?;
        Ok(true)
    }

    /// Reads any object, and remembers its field order.
    fn read_full(
        &mut self,
        bytes: &[u8],
        columns: &mut [ColumnBuilder],
        row: usize,
    ) -> Result<bool, Failure> {
        let mut cursor = Cursor::new(bytes);
        cursor.skip_space();
        let start = cursor.at;
        if cursor.peek() == b'n' {
            cursor.word(b"null").map_err(|stop| Failure::syntax(stop, start))?;
            end(&mut cursor)?;
            return Ok(false);
        }
        if cursor.peek() != b'{' {
            let stop = cursor.skip_value(0).err().unwrap_or(Stop::Mismatch);
            return Err(Failure::syntax(stop, start));
        }
        self.learning.clear();
        self.exact.fill(false);
        let mut learnable = true;
        let mut more = cursor.enter(b'}').map_err(|stop| Failure::syntax(stop, start))?;
        while more {
            more = self.read_field(&mut cursor, columns, row, &mut learnable)?;
        }
        let tail = self.learning.last().map_or(0, |(_, end, _)| *end);
        end(&mut cursor)?;
        let mut missing = Vec::new();
        for (index, column) in columns.iter_mut().enumerate() {
            if self.needed.get(index) == Some(&true) && column.len() == row {
                column.push_null();
                missing.push(index);
            }
        }
        if learnable && self.pause == 0 && !self.learning.is_empty() && self.learning.len() <= FIELDS_MAX {
            self.learn(bytes, tail, missing);
        }
        Ok(true)
    }

    fn read_field(
        &mut self,
        cursor: &mut Cursor<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
        learnable: &mut bool,
    ) -> Result<bool, Failure> {
        let at = cursor.at;
        let name = cursor.string().map_err(|stop| Failure::syntax(stop, at))?;
        cursor.colon().map_err(|stop| Failure::syntax(stop, at))?;
        let start = cursor.at;
        let (found, is_exact) = match self.lookup(name) {
            Some((index, is_exact)) => (Some(index), is_exact),
            None => (None, false),
        };
        let taken = found.and_then(|index| self.exact.get(index)).copied().unwrap_or(false);
        let target = match found {
            Some(index) if self.needed.get(index) == Some(&true) && (is_exact || !taken) => {
                Target::Column(index)
            }
            _ => Target::Skip,
        };
        *learnable &= !taken;
        match target {
            Target::Column(index) => {
                if is_exact && let Some(place) = self.exact.get_mut(index) {
                    *place = true;
                }
                let column = columns.get_mut(index).ok_or_else(|| Failure::syntax(Stop::Syntax, start))?;
                if column.len() > row {
                    column.truncate(row);
                    *learnable = false;
                }
                push_value(cursor, column, 1).map_err(|stop| Failure {
                    stop,
                    column: Some(index),
                    at: start,
                })?;
            }
            Target::Skip => cursor.skip_value(1).map_err(|stop| Failure::syntax(stop, start))?,
        }
        if self.learning.len() <= FIELDS_MAX {
            self.learning.push((start, cursor.at, target));
        }
        cursor.next_member(b'}').map_err(|stop| Failure::syntax(stop, cursor.at))
    }

    fn lookup(&mut self, name: RawString<'_>) -> Option<(usize, bool)> {
        if let Some(found) = self.known.get(name.bytes) {
            return *found;
        }
        let names = self.names.iter().map(String::as_str);
        let found = if name.escaped {
            let mut text = Vec::new();
            unescape(name.bytes, &mut text);
            match_name(&text, names)
        } else {
            match_name(name.bytes, names)
        };
        if self.known.len() < NAMES_MAX {
            self.known.insert(name.bytes.into(), found);
        }
        found
    }

    fn learn(&mut self, bytes: &[u8], tail: usize, missing: Vec<usize>) {
        let mut from = 0;
        let slots = self
            .learning
            .iter()
            .map(|(start, end, target)| {
                let prefix = Literal::new(bytes.get(from..*start).unwrap_or_default());
                from = *end;
                Slot { prefix, target: *target }
            })
            .collect();
        let shape = Shape { slots, tail: bytes.get(tail..).unwrap_or_default().into(), missing };
        if self.shapes.contains(&shape) {
            return;
        }
        self.shapes.insert(0, shape);
        self.shapes.truncate(SHAPES_MAX);
        self.current = 0;
    }
}

/// Nothing but white space may follow.
fn end(cursor: &mut Cursor<'_>) -> Result<(), Failure> {
    cursor.skip_space();
    if cursor.at == cursor.bytes.len() { Ok(()) } else { Err(Failure::syntax(Stop::Syntax, cursor.at)) }
}

/// How far a row followed a shape.
enum Outcome {
    /// To its end.
    Done,
    /// Up to this slot, whose literal differs; the cursor stands before it and no value is half read.
    Diverged(usize),
    /// A value is not what its column takes.
    Broken,
}

/// Reads a row that is expected to look like `shape` from slot `from` on.
#[inline]
fn follow(shape: &Shape, cursor: &mut Cursor<'_>, columns: &mut [ColumnBuilder], from: usize) -> Outcome {
    for (index, slot) in shape.slots.iter().enumerate().skip(from) {
        if !slot.prefix.eat(cursor) {
            return Outcome::Diverged(index);
        }
        let read = match slot.target {
            Target::Column(index) => match columns.get_mut(index) {
                Some(column) => push_value(cursor, column, 1),
                None => return Outcome::Broken,
            },
            Target::Skip => cursor.skip_value(1),
        };
        if read.is_err() {
            return Outcome::Broken;
        }
    }
    if cursor.rest() != &*shape.tail {
        return Outcome::Diverged(shape.slots.len());
    }
    for index in &shape.missing {
        if let Some(column) = columns.get_mut(*index) {
            column.push_null();
        }
    }
    Outcome::Done
}

/// A piece of the text at `at`, for messages.
pub(crate) fn excerpt(bytes: &[u8], at: usize) -> String {
    let mut cursor = Cursor { bytes, at };
    let _ = cursor.skip_value(DEPTH_MAX / 2);
    let piece = bytes.get(at..cursor.at.max(at + 1).min(bytes.len())).unwrap_or_default();
    crate::error::quote(&String::from_utf8_lossy(piece))
}
