//! One partition in one share group: which records are taken, by whom, and how often they were delivered.
//!
//! The records between `start` and `end` lie in spans of equal standing, so a thousand records taken together cost one entry.
//! `start` follows the first record that is not done with; `end` is the next offset never delivered.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ShareError, ShareSettings};

/// Where records stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Anyone may take them.
    Available,
    /// Taken.
    Acquired {
        /// By this member.
        holder: Arc<str>,
        /// Until then, ms of the steady clock.
        until_ms: u64,
    },
    /// Accepted.
    Acknowledged,
    /// Rejected, delivered too often, or nothing to deliver.
    Archived,
}

impl Standing {
    fn is_done(&self) -> bool {
        matches!(self, Self::Acknowledged | Self::Archived)
    }
}

/// Neighbouring records that stand alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Offset of the last.
    pub last: i64,
    /// Where they stand.
    pub standing: Standing,
    /// How often they were delivered.
    pub deliveries: i16,
}

/// Records delivered to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Offset of the first.
    pub first: i64,
    /// Offset of the last.
    pub last: i64,
    /// How often they were delivered, this time included.
    pub deliveries: i16,
}

/// How many records those are.
pub(crate) fn records_of(told: &[Acquired]) -> i64 {
    told.iter().map(|one| one.last - one.first + 1).sum()
}

/// What a member says of records it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Offset of the first.
    pub first: i64,
    /// Offset of the last.
    pub last: i64,
    /// One for all, or one for each: 0 gap, 1 accept, 2 release, 3 reject, 4 renew.
    pub kinds: Vec<i8>,
}

/// Who takes records, and how many.
#[derive(Debug, Clone)]
pub struct Taking {
    /// The member.
    pub holder: Arc<str>,
    /// Records wanted.
    pub records_max: i64,
    /// Whether that is a hard limit rather than one that whole batches may pass.
    pub is_hard: bool,
    /// Largest range told at a time, records; a batch is told whole.
    pub range_max: i64,
    /// Now, ms of the steady clock.
    pub now_ms: u64,
}

/// The state of one partition in one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharePartition {
    start: i64,
    /// By first offset, without gaps from `start`.
    spans: BTreeMap<i64, Span>,
    /// Whether something was decided since the state was last written down.
    pub is_dirty: bool,
}

impl SharePartition {
    /// Nothing delivered, beginning at `start`.
    #[must_use]
    pub fn new(start: i64) -> Self {
        Self { start, spans: BTreeMap::new(), is_dirty: true }
    }

    /// As it was written down: spans that follow each other from `start`. `None`: they do not.
    #[must_use]
    pub fn restored(start: i64, spans: Vec<(i64, Span)>) -> Option<Self> {
        let mut next = start;
        for (first, span) in &spans {
            if *first != next || span.last < *first {
                return None;
            }
            next = span.last.checked_add(1)?;
        }
        let mut found = Self { start, spans: spans.into_iter().collect(), is_dirty: false };
        found.advance();
        Some(found)
    }

    /// Offset of the first record that is not done with.
    #[must_use]
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Next offset never delivered.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.spans.last_key_value().map_or(self.start, |(_, span)| span.last + 1)
    }

    /// The spans, in order, by first offset.
    pub fn spans(&self) -> impl Iterator<Item = (i64, &Span)> {
        self.spans.iter().map(|(first, span)| (*first, span))
    }

    /// Where to read next: the first record that anyone may take. `None`: too many are taken.
    #[must_use]
    pub fn next_fetch(&self, settings: &ShareSettings) -> Option<i64> {
        let available = self.spans.iter().find(|(_, span)| span.standing == Standing::Available);
        match available {
            Some((first, _)) => Some(*first),
            None if self.end() - self.start < settings.record_locks_max => Some(self.end()),
            None => None,
        }
    }

    /// The log begins later now: what lies below is done with.
    pub fn trim(&mut self, log_start: i64) {
        if log_start <= self.start {
            return;
        }
        if log_start < self.end() {
            self.split(log_start);
        }
        self.spans = self.spans.split_off(&log_start);
        self.start = log_start;
        self.advance();
        self.is_dirty = true;
    }

    /// Takes what is free of one batch, `first ..= last`, while `told` has fewer records than wanted; false: enough.
    pub fn acquire(
        &mut self,
        (first, last): (i64, i64),
        taking: &Taking,
        settings: &ShareSettings,
        told: &mut Vec<Acquired>,
    ) -> bool {
        let first = first.max(self.start);
        let end = self.end();
        let known: Vec<(i64, i64)> = self
            .spans
            .range(..=last)
            .filter(|(_, span)| span.standing == Standing::Available && span.last >= first)
            .map(|(begin, span)| ((*begin).max(first), span.last.min(last)))
            .collect();
        let fresh = (last >= end && end - self.start < settings.record_locks_max).then(|| {
            // nothing is there between what was delivered and this batch
            self.archive(end, first - 1);
            (first.max(end), last)
        });
        for (begin, until) in known.into_iter().chain(fresh) {
            let room = taking.records_max - records_of(told);
            if room <= 0 && (taking.is_hard || told.last().is_none_or(|one| one.last < first)) {
                return false;
            }
            let until = if taking.is_hard { until.min(begin + room - 1) } else { until };
            self.take(begin, until, taking, settings, told);
        }
        records_of(told) < taking.records_max
    }

    fn take(
        &mut self,
        first: i64,
        last: i64,
        taking: &Taking,
        settings: &ShareSettings,
        told: &mut Vec<Acquired>,
    ) {
        let until_ms = taking.now_ms + settings.record_lock_ms;
        let standing = Standing::Acquired { holder: Arc::clone(&taking.holder), until_ms };
        let mut deliveries = 1;
        if first >= self.end() {
            self.spans.insert(first, Span { last, standing, deliveries });
        } else {
            self.split(first);
            self.split(last + 1);
            let Some(span) = self.spans.get_mut(&first) else { return };
            span.deliveries = span.deliveries.saturating_add(1);
            (span.standing, deliveries) = (standing, span.deliveries);
        }
        self.join(first, last);
        match told.last_mut() {
            Some(before)
                if before.last + 1 == first
                    && before.deliveries == deliveries
                    && last - before.first < taking.range_max =>
            {
                before.last = last;
            }
            _ => told.push(Acquired { first, last, deliveries }),
        }
    }

    /// Marks `first ..= last` as nothing to deliver, where no one holds it: markers, aborted records, compacted gaps.
    pub fn archive(&mut self, first: i64, last: i64) {
        let (first, end) = (first.max(self.start), self.end());
        if last < first {
            return;
        }
        if first < end {
            self.change(first, last.min(end - 1), |span| {
                if span.standing == Standing::Available {
                    span.standing = Standing::Archived;
                }
            });
        }
        if last >= end {
            let begin = first.max(end);
            if begin > end {
                self.spans.insert(end, Span { last: begin - 1, standing: Standing::Archived, deliveries: 0 });
            }
            self.spans.insert(begin, Span { last, standing: Standing::Archived, deliveries: 0 });
            self.join(end, last);
        }
        self.advance();
        self.is_dirty = true;
    }

    /// A member says what became of records; all of it, or nothing with the reason.
    ///
    /// # Errors
    /// [`ShareError::InvalidRecordState`] if it does not hold one of them, [`ShareError::InvalidAcknowledgement`].
    pub fn acknowledge(
        &mut self,
        holder: &str,
        all: &[Acknowledgement],
        settings: &ShareSettings,
        now_ms: u64,
    ) -> Result<(), ShareError> {
        self.expire(settings, now_ms);
        let mut next = i64::MIN;
        for one in all {
            check(one, next)?;
            next = one.last + 1;
            self.check_holder(holder, one)?;
        }
        for one in all {
            for (first, last, kind) in runs(one) {
                let first = first.max(self.start);
                if first <= last {
                    self.change(first, last, |span| settle(span, kind, settings, now_ms));
                }
            }
        }
        self.advance();
        self.is_dirty = true;
        Ok(())
    }

    /// Whether `holder` holds every record of `one` that is not done with yet.
    fn check_holder(&self, holder: &str, one: &Acknowledgement) -> Result<(), ShareError> {
        if one.last < self.start {
            return Ok(());
        }
        if one.last >= self.end() {
            return Err(ShareError::InvalidRecordState);
        }
        let mut touched = self.spans.range(..=one.last).filter(|(_, span)| span.last >= one.first);
        let holds = touched.all(|(_, span)| match &span.standing {
            Standing::Acquired { holder: by, .. } => by.as_ref() == holder,
            _ => false,
        });
        if holds { Ok(()) } else { Err(ShareError::InvalidRecordState) }
    }

    /// Gives back what `holder` holds and has not looked at: such a delivery does not count. Whether there was some.
    pub fn release(&mut self, holder: &str) -> bool {
        let mut changed = false;
        for span in self.spans.values_mut() {
            if matches!(&span.standing, Standing::Acquired { holder: by, .. } if by.as_ref() == holder) {
                span.standing = Standing::Available;
                span.deliveries -= 1;
                changed = true;
            }
        }
        self.settle_all(changed)
    }

    /// Gives back what was held for too long; what was delivered too often is given up. Whether there was some.
    pub fn expire(&mut self, settings: &ShareSettings, now_ms: u64) -> bool {
        let mut changed = false;
        for span in self.spans.values_mut() {
            if matches!(span.standing, Standing::Acquired { until_ms, .. } if until_ms <= now_ms) {
                give_back(span, settings);
                changed = true;
            }
        }
        self.settle_all(changed)
    }

    fn settle_all(&mut self, changed: bool) -> bool {
        if changed {
            self.join(self.start, self.end());
            self.advance();
            self.is_dirty = true;
        }
        changed
    }

    /// Lets a span begin at `offset`, if it lies inside one.
    fn split(&mut self, offset: i64) {
        let Some((_, span)) = self.spans.range_mut(..offset).next_back() else { return };
        if span.last < offset {
            return;
        }
        let back = span.clone();
        span.last = offset - 1;
        self.spans.insert(offset, back);
    }

    fn change(&mut self, first: i64, last: i64, mut change: impl FnMut(&mut Span)) {
        self.split(first);
        self.split(last + 1);
        for (_, span) in self.spans.range_mut(first..=last) {
            change(span);
        }
        self.join(first, last);
    }

    /// Joins neighbours that stand alike, from the span before `first` to the one behind `last`.
    fn join(&mut self, first: i64, last: i64) {
        let begin = self.spans.range(..first).next_back().map_or(first, |(begin, _)| *begin);
        let firsts: Vec<i64> =
            self.spans.range(begin..=last.saturating_add(1)).map(|(first, _)| *first).collect();
        let mut before: Option<i64> = None;
        for first in firsts {
            let alike = before.and_then(|at| self.spans.get(&at)).zip(self.spans.get(&first)).is_some_and(
                |(left, right)| left.standing == right.standing && left.deliveries == right.deliveries,
            );
            match (alike, before) {
                (true, Some(at)) => {
                    let Some(gone) = self.spans.remove(&first) else { continue };
                    if let Some(left) = self.spans.get_mut(&at) {
                        left.last = gone.last;
                    }
                }
                _ => before = Some(first),
            }
        }
    }

    /// Moves `start` behind what is done with.
    fn advance(&mut self) {
        while let Some(entry) = self.spans.first_entry() {
            if !entry.get().standing.is_done() {
                break;
            }
            self.start = entry.remove().last + 1;
        }
    }
}

fn check(one: &Acknowledgement, next: i64) -> Result<(), ShareError> {
    let refuse = |why| Err(ShareError::InvalidAcknowledgement(why));
    if one.first < next {
        return refuse("acknowledged ranges must follow each other");
    }
    if one.last < one.first || one.last == i64::MAX {
        return refuse("an acknowledged range ends before it begins");
    }
    let records = one.last.checked_sub(one.first).map(|more| more + 1);
    let fits =
        one.kinds.len() == 1 || i64::try_from(one.kinds.len()).is_ok_and(|kinds| Some(kinds) == records);
    if !fits {
        return refuse("a range takes one acknowledge type, or one for each of its records");
    }
    if one.kinds.iter().any(|kind| !(0..=4).contains(kind)) {
        return refuse("acknowledge types are 0 gap, 1 accept, 2 release, 3 reject, 4 renew");
    }
    Ok(())
}

/// Neighbouring records of the same kind.
fn runs(one: &Acknowledgement) -> Vec<(i64, i64, i8)> {
    if let [kind] = one.kinds.as_slice() {
        return vec![(one.first, one.last, *kind)];
    }
    let mut found: Vec<(i64, i64, i8)> = Vec::new();
    for (offset, kind) in (one.first..).zip(&one.kinds) {
        match found.last_mut() {
            Some((_, last, before)) if before == kind => *last = offset,
            _ => found.push((offset, offset, *kind)),
        }
    }
    found
}

fn settle(span: &mut Span, kind: i8, settings: &ShareSettings, now_ms: u64) {
    match kind {
        1 => span.standing = Standing::Acknowledged,
        2 => give_back(span, settings),
        4 => {
            if let Standing::Acquired { until_ms, .. } = &mut span.standing {
                *until_ms = now_ms + settings.record_lock_ms;
            }
        }
        _ => span.standing = Standing::Archived,
    }
}

fn give_back(span: &mut Span, settings: &ShareSettings) {
    let again = span.deliveries < settings.delivery_count_limit;
    span.standing = if again { Standing::Available } else { Standing::Archived };
}
