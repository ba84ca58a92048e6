//! The nearest known name to one that is not known, for "did you mean …?".

use std::io;
use std::path::Path;

/// Why `file` cannot be read: `no file flights.csv in /home/ana/hunt: did you mean flights.parquet?`
#[must_use]
pub fn unreadable(file: &Path, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::NotFound {
        return format!("cannot read {}: {error}", file.display());
    }
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => std::env::current_dir().unwrap_or_default(),
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let near = nearest(&name, names.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let hint = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
    format!("no file {name} in {}{hint}", folder.display())
}

/// The candidate closest to `wanted`, unless even that one is far off (more than half of its letters differ).
pub fn nearest(wanted: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= wanted.chars().count().max(4) / 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance of two short words.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&right) {
            let changed = diagonal + usize::from(from != *to);
            diagonal = *cell;
            before = changed.min(before + 1).min(*cell + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let names = || ["flights.parquet".to_owned(), "planes.parquet".to_owned()];
        assert_eq!(nearest("weather", names()), None);
        assert_eq!(nearest("flihgts.parquet", names()).as_deref(), Some("flights.parquet"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
