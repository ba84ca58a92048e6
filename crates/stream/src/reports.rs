//! What a query tells people of rows it left out: at most once a minute, with how many and the first or the worst.

use std::sync::Arc;

use crate::operator::Late;

/// Each kind of report comes at most this often, ms of the wall clock.
const PERIOD_MS: i64 = 60_000;

/// What one thread's part of a query has to report.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    late: Late,
    late_told_ms: Option<i64>,
    inputs: Vec<Input>,
}

/// Rows of one topic since its failed rows were last reported.
#[derive(Debug)]
struct Input {
    topic: Arc<str>,
    rows: u64,
    failed: u64,
    first_failure: Option<String>,
    told_ms: Option<i64>,
}

impl Reports {
    /// Counts rows read from `topic`, those included that could not be.
    pub(crate) fn read(&mut self, topic: &Arc<str>, rows: usize) {
        self.input(topic).rows += rows as u64;
    }

    fn input(&mut self, topic: &Arc<str>) -> &mut Input {
        let known = self.inputs.iter().position(|input| input.topic == *topic);
        let at = known.unwrap_or_else(|| {
            let topic = Arc::clone(topic);
            self.inputs.push(Input { topic, rows: 0, failed: 0, first_failure: None, told_ms: None });
            self.inputs.len() - 1
        });
        &mut self.inputs[at]
    }

    /// Counts rows that came after their window's grace.
    pub(crate) fn late(&mut self, late: &Late) {
        self.late.count += late.count;
        self.late.worst_ms = self.late.worst_ms.max(late.worst_ms);
        self.late.grace_ms = late.grace_ms;
    }

    /// Counts rows of `topic` that could not be read or computed; `first` says why of the first.
    pub(crate) fn failed(&mut self, topic: &Arc<str>, rows: usize, first: impl FnOnce() -> String) {
        let input = self.input(topic);
        input.failed += rows as u64;
        input.first_failure.get_or_insert_with(first);
    }

    /// The report on late rows of query `id`, if one is due.
    pub(crate) fn take_late(&mut self, id: &str, now_ms: i64) -> Option<String> {
        if self.late.count == 0 || !due(self.late_told_ms, now_ms) {
            return None;
        }
        self.late_told_ms = Some(now_ms);
        let late = std::mem::take(&mut self.late);
        let (past, grace) = (late.worst_ms / 1_000 + 1, late.grace_ms / 1_000);
        let (events, them) = if late.count == 1 { ("event", "it") } else { ("events", "them") };
        Some(format!(
            "{id} dropped {} late {events} this minute, the latest {past} s past its {grace} s grace: GRACE PERIOD {} SECONDS keeps {them}",
            thousands(late.count),
            grace + past,
        ))
    }

    /// The report on failed rows of one topic, if one is due; `kept_in` is the topic that has them.
    pub(crate) fn take_failed(&mut self, kept_in: Option<&str>, now_ms: i64) -> Option<String> {
        let ripe = |input: &&mut Input| input.failed > 0 && due(input.told_ms, now_ms);
        let input = self.inputs.iter_mut().find(ripe)?;
        input.told_ms = Some(now_ms);
        let first = input.first_failure.take()?;
        let failed = std::mem::take(&mut input.failed);
        let rows = std::mem::take(&mut input.rows).max(failed);
        let kept = kept_in.map(|topic| format!(", kept in topic {topic}")).unwrap_or_default();
        Some(format!("{first} ({} of {} records{kept})", thousands(failed), thousands(rows)))
    }
}

fn due(told_ms: Option<i64>, now_ms: i64) -> bool {
    told_ms.is_none_or(|told| now_ms.saturating_sub(told) >= PERIOD_MS)
}

/// `1204` as `1,204`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_within_a_minute_of_a_report_waits_and_is_summed_up_in_the_next() {
        let mut reports = Reports::default();
        let late = |count, worst_ms| Late { count, worst_ms, grace_ms: 10_000 };
        reports.late(&late(1, 2_500));
        let first = "Q dropped 1 late event this minute, the latest 3 s past its 10 s grace: GRACE PERIOD 13 SECONDS keeps it";
        assert_eq!(reports.take_late("Q", 1_000).as_deref(), Some(first));
        reports.late(&late(4, 1_000));
        reports.late(&late(1_200, 37_900));
        assert_eq!(reports.take_late("Q", 60_999), None);
        let second = "Q dropped 1,204 late events this minute, the latest 38 s past its 10 s grace: GRACE PERIOD 48 SECONDS keeps them";
        assert_eq!(reports.take_late("Q", 61_000).as_deref(), Some(second));
        let finds = Arc::from("finds");
        reports.read(&Arc::from("players"), 3);
        reports.read(&finds, 1);
        reports.failed(&finds, 1, || "finds-2 offset 17 is not JSON".to_owned());
        let failed = "finds-2 offset 17 is not JSON (1 of 1 records, kept in topic Q-dead-letter)";
        assert_eq!(reports.take_failed(Some("Q-dead-letter"), 5_000).as_deref(), Some(failed));
        reports.read(&finds, 2_000);
        reports.failed(&finds, 2, || "finds-2 offset 18 is empty".to_owned());
        reports.failed(&finds, 3, || "finds-2 offset 19 is empty".to_owned());
        assert_eq!(reports.take_failed(None, 64_999), None);
        let failed = "finds-2 offset 18 is empty (5 of 2,000 records)";
        assert_eq!(reports.take_failed(None, 65_000).as_deref(), Some(failed));
    }
}
