//! One stage of a query on one partition.

use crate::operator::{Context, NO_TIME, Operator, OperatorError, Scan};
use crate::rows::Rows;
use crate::topology::{Stage, StageEnv, Target};

/// Operators of a stage for one partition.
pub struct Task {
    /// Stage.
    pub stage: usize,
    /// Partition.
    pub partition: i32,
    operators: Vec<(Box<dyn Operator>, Target)>,
    sources: Vec<Target>,
    /// Stream times of the upstream partitions, per repartition source; see [`Upstreams`].
    pub upstreams: Vec<Option<Upstreams>>,
    /// Lowest stream time of all upstream partitions, as told to the operators.
    pub watermark: i64,
    /// Stream time last written into the repartition topic.
    pub sent_watermark: i64,
    /// Whether the repartition topic was told that this task is idle.
    pub idle_sent: bool,
    /// When rows last came in, ms of the wall clock.
    pub active_ms: i64,
}

/// Stream times that upstream partitions wrote into a repartition topic.
#[derive(Debug, Clone)]
pub struct Upstreams {
    times: Vec<Option<i64>>,
    idle: Vec<bool>,
    dirty: Vec<bool>,
}

impl Upstreams {
    /// `count` upstream partitions of which nothing is known.
    #[must_use]
    pub fn new(count: i32) -> Self {
        let count = usize::try_from(count).unwrap_or(0);
        Self { times: vec![None; count], idle: vec![false; count], dirty: vec![false; count] }
    }

    /// Partition `partition` has reached `time`; `idle`: it has had nothing to read for a while.
    pub fn advance(&mut self, partition: usize, time: i64, idle: bool) {
        if let Some(slot) = self.times.get_mut(partition) {
            *slot = Some(slot.map_or(time, |before| before.max(time)));
            self.idle[partition] = idle;
            self.dirty[partition] = true;
        }
    }

    /// The lowest stream time of the partitions that are not idle; `None` while one of them is unknown or all idle.
    #[must_use]
    pub fn low(&self) -> Option<i64> {
        let mut low = None;
        for (time, idle) in self.times.iter().zip(&self.idle) {
            if *idle {
                continue;
            }
            let time = (*time)?;
            low = Some(low.map_or(time, |before: i64| before.min(time)));
        }
        low.filter(|time| *time != NO_TIME)
    }

    /// Hands over what changed: key `[partition]`, value stream time and idleness.
    pub fn drain_changes(&mut self, sink: &mut crate::operator::ChangeSink<'_>) {
        for partition in 0..self.times.len() {
            if std::mem::take(&mut self.dirty[partition]) {
                let mut value = self.times[partition].unwrap_or(NO_TIME).to_be_bytes().to_vec();
                value.push(u8::from(self.idle[partition]));
                sink(&u32::try_from(partition).unwrap_or(0).to_be_bytes(), Some(&value));
            }
        }
    }

    /// Takes back one change.
    pub fn restore(&mut self, key: &[u8], value: Option<&[u8]>) {
        let partition = <[u8; 4]>::try_from(key).map(u32::from_be_bytes);
        if let (Ok(partition), Some((time, [idle]))) =
            (partition, value.and_then(|value| value.split_first_chunk::<8>()))
        {
            let partition = usize::try_from(partition).unwrap_or(usize::MAX);
            self.advance(partition, i64::from_be_bytes(*time), *idle != 0);
            if let Some(dirty) = self.dirty.get_mut(partition) {
                *dirty = false;
            }
        }
    }
}

impl Task {
    /// Makes the operators of `stage`.
    ///
    /// # Errors   types that cannot be encoded, key patterns that do not read.
    pub fn new(number: usize, stage: &Stage, partition: i32, env: StageEnv) -> Result<Self, OperatorError> {
        let operators = stage
            .operators
            .iter()
            .map(|spec| Ok(((spec.make)(env)?, spec.target)))
            .collect::<Result<Vec<_>, OperatorError>>()?;
        Ok(Self {
            stage: number,
            partition,
            operators,
            sources: stage.sources.iter().map(|source| source.target).collect(),
            upstreams: vec![None; stage.sources.len()],
            watermark: NO_TIME,
            sent_watermark: NO_TIME,
            idle_sent: false,
            active_ms: 0,
        })
    }

    /// Number of changelogs: operators first, then sources with upstream partitions.
    #[must_use]
    pub fn stores(&self) -> Vec<usize> {
        let operators = self.operators.iter().enumerate().filter(|(_, (operator, _))| operator.is_stateful());
        let upstreams = self.upstreams.iter().enumerate().filter(|(_, upstream)| upstream.is_some());
        operators.map(|(at, _)| at).chain(upstreams.map(|(at, _)| self.operators.len() + at)).collect()
    }

    /// Hands over the changes of store `store`.
    pub fn drain_changes(&mut self, store: usize, sink: &mut crate::operator::ChangeSink<'_>) {
        let operators = self.operators.len();
        if let Some((operator, _)) = self.operators.get_mut(store) {
            operator.drain_changes(sink);
        } else if let Some(Some(upstreams)) = self.upstreams.get_mut(store - operators) {
            upstreams.drain_changes(sink);
        }
    }

    /// Takes back one change of store `store`.
    ///
    /// # Errors   damaged state.
    pub fn restore(&mut self, store: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        let operators = self.operators.len();
        if let Some((operator, _)) = self.operators.get_mut(store) {
            operator.restore(key, value)?;
        } else if let Some(Some(upstreams)) = self.upstreams.get_mut(store - operators) {
            upstreams.restore(key, value);
        }
        Ok(())
    }

    /// Stream time of the operator before the output, where it is written down.
    #[must_use]
    pub fn stream_time(&self) -> Option<i64> {
        self.operators.first().and_then(|(operator, _)| operator.stream_time())
    }

    /// Runs `rows` of source `source` through the operators; results go to `out`.
    ///
    /// # Errors   [`OperatorError`] stops the query.
    pub fn push(
        &mut self,
        source: usize,
        mut rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        if self.sources.len() == 1 {
            self.observe(&mut rows);
        }
        self.run(self.sources[source], rows, ctx, out)
    }

    /// Where stream time is written down for a task behind several upstream partitions, it is what came in: rows that
    /// a filter drops move it too, so that windows close although nothing passes.
    fn observe(&mut self, rows: &mut Rows) {
        let Some((operator, _)) = self.operators.first_mut() else { return };
        let Some(mut now) = operator.stream_time().filter(|_| rows.observed.is_none()) else { return };
        let mut observed = Vec::with_capacity(rows.len());
        for time in rows.times.iter() {
            now = now.max(*time);
            observed.push(now);
        }
        operator.observe_time(now);
        rows.observed = Some(observed.into());
    }

    fn run(
        &mut self,
        target: Target,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let mut work = vec![(target, rows)];
        while let Some((target, rows)) = work.pop() {
            let Some((at, side)) = target else {
                out.push(rows);
                continue;
            };
            let (operator, next) = &mut self.operators[at];
            let mut produced = Vec::new();
            operator.on_rows(side, rows, ctx, &mut produced)?;
            let next = *next;
            work.extend(produced.into_iter().rev().map(|rows| (next, rows)));
        }
        Ok(())
    }

    /// Tells the operators when the lowest upstream stream time has advanced.
    ///
    /// # Errors   [`OperatorError`] stops the query.
    pub fn advance(&mut self, ctx: &mut Context<'_>, out: &mut Vec<Rows>) -> Result<(), OperatorError> {
        let lows = self.upstreams.iter().flatten().map(Upstreams::low).collect::<Option<Vec<i64>>>();
        let Some(low) = lows.and_then(|lows| lows.into_iter().min()).filter(|low| *low > self.watermark)
        else {
            return Ok(());
        };
        self.watermark = low;
        for at in (0..self.operators.len()).rev() {
            let (operator, next) = &mut self.operators[at];
            let mut produced = Vec::new();
            operator.on_watermark(low, ctx, &mut produced)?;
            let next = *next;
            for rows in produced {
                self.run(next, rows, ctx, out)?;
            }
        }
        Ok(())
    }

    /// Reads the state of operator `at` and runs it through the operators behind it.
    ///
    /// # Errors   [`OperatorError`] as for rows.
    pub fn pull(
        &mut self,
        at: usize,
        scan: &Scan,
        ctx: &mut Context<'_>,
    ) -> Result<Vec<Rows>, OperatorError> {
        let (operator, next) = &self.operators[at];
        let next = *next;
        let Some(rows) = operator.scan(scan)? else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        if !rows.is_empty() {
            self.run(next, rows, ctx, &mut out)?;
        }
        let mut live = Vec::new();
        for rows in out {
            match &rows.tombstones {
                Some(gone) => live.push(rows.filter(&arrow::array::BooleanArray::new(!gone, None))?),
                None => live.push(rows),
            }
        }
        Ok(live)
    }
}
