//! Rot at rest: one thing of a data folder changed while nobody looked, then the folder is opened.
//!
//! The folder comes from a run of the script (topics, transactions, offsets, event ids, ACLs), stopped by a kill or cleanly.
//! What is done to it: a bit flipped, a file cut, a page of zeros, two files of one kind swapped. What must hold: the broker
//! opens or says which file it cannot use; every record that was acknowledged is read back as it was, or is named as lost;
//! nothing else is ever read; a flipped bit costs at most its batch.
//!
//! Not asked: segments of two partitions swapped. A batch does not say which partition it is of, in Kafka's format as in this.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herdsman_host::{Disk as _, Seed, SimClock, SimDisk};

use crate::house::House;
use crate::row::each_seed;
use crate::script::{EPOCH_MS, Promises, record};
use crate::tape::Tape;
use crate::{Failure, Order, Row, Tally};

/// The row.
pub const ROW: Row = Row {
    name: "rot",
    what: "a bit flipped, a file cut, a page zeroed or two files swapped anywhere in a data folder: found or harmless",
    unit: "folders",
    change: 500,
    long: 10_000,
    run: folders,
};

/// Operations of the script that makes the folder.
const OPERATIONS: usize = 600;
/// How many scripts there are; each leaves a folder by a kill and one by a clean stop.
const SCRIPTS: u64 = 4;
/// Bytes of a page.
const PAGE: usize = 4096;

struct Folder {
    tape: Tape,
    promises: Promises,
    /// Steps until the kill, and until the clean stop.
    ends: [usize; 2],
}

fn folder(number: u64) -> Result<Folder, String> {
    let (tape, promises, house) = record("rot", number, OPERATIONS)?;
    let killed = tape.steps();
    house.broker.sync().map_err(|error| error.to_string())?;
    let ends = [killed, tape.steps()];
    Ok(Folder { tape, promises, ends })
}

/// What was done to the folder.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "printed when something does not hold")]
enum Rot {
    Bit(PathBuf, usize),
    Cut(PathBuf, usize),
    Zeros(PathBuf, usize),
    Swap(PathBuf, PathBuf),
}

fn folders(order: &Order) -> Result<Tally, Failure> {
    let made: Result<Vec<Folder>, String> = (0..SCRIPTS).map(folder).collect();
    let made = made.map_err(|what| Failure { seed: order.from, what })?;
    each_seed(order, |number| {
        let mut seed = Seed::new(number).stream("rot");
        let folder = &made[seed.index(made.len())];
        let steps = folder.ends[seed.index(2)];
        // nothing was cut: everything written is there
        let disk = folder.tape.whole(steps, &mut seed).map_err(|error| error.to_string())?;
        let rot = damage(&disk, &mut seed)?;
        let checked = catch_unwind(AssertUnwindSafe(|| check(folder, &disk, &rot, &seed)));
        checked.unwrap_or_else(|_| Err("a panic".to_owned())).map_err(|what| format!("{rot:?}: {what}"))
    })
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

fn damage(disk: &SimDisk, seed: &mut Seed) -> Result<Rot, String> {
    let fail = |error: std::io::Error| error.to_string();
    let all = disk.files();
    let files: Vec<&PathBuf> =
        all.iter().filter(|path| disk.len_of(path) > 0 && !path.ends_with("lock")).collect();
    let path = files[seed.index(files.len())].clone();
    let len = usize::try_from(disk.len_of(&path)).unwrap_or(0);
    let at = seed.index(len);
    Ok(match seed.index(4) {
        0 => {
            disk.flip(&path, at, 1 << seed.index(8));
            Rot::Bit(path, at)
        }
        1 => {
            disk.open(&path, false).and_then(|file| file.truncate(at as u64)).map_err(fail)?;
            Rot::Cut(path, at)
        }
        2 => {
            let page = at / PAGE * PAGE;
            let zeros = vec![0; PAGE.min(len - page)];
            disk.open(&path, false).and_then(|file| file.write_at(page as u64, &zeros)).map_err(fail)?;
            Rot::Zeros(path, page)
        }
        _ => {
            let same_folder = |other: &PathBuf| !is_segment(&path) || other.parent() == path.parent();
            let alike: Vec<&&PathBuf> = files
                .iter()
                .filter(|other| {
                    other.extension() == path.extension() && ***other != path && same_folder(other)
                })
                .collect();
            if alike.is_empty() {
                disk.flip(&path, at, 1);
                return Ok(Rot::Bit(path, at));
            }
            let other = (**alike[seed.index(alike.len())]).clone();
            let beside = path.with_extension("swap");
            disk.rename(&path, &beside).map_err(fail)?;
            disk.rename(&other, &path).map_err(fail)?;
            disk.rename(&beside, &other).map_err(fail)?;
            Rot::Swap(path, other)
        }
    })
}

fn check(folder: &Folder, disk: &SimDisk, rot: &Rot, seed: &Seed) -> Result<Tally, String> {
    let mut tally = Tally::of(1);
    let clock = Arc::new(SimClock::new(EPOCH_MS + 3_600_000));
    let house = match House::open(Arc::new(disk.clone()), clock, seed) {
        Ok(house) => house,
        // refused with a sentence that names the file
        Err(sentence) => {
            let named = rot.paths().iter().any(|path| sentence.contains(&path.display().to_string()));
            tally.count("refused by name", 1);
            return if named {
                Ok(tally)
            } else {
                Err(format!("does not open, and names no file: {sentence}"))
            };
        }
    };
    let lost = folder.promises.lost(&house)?;
    let told = house.recovery.notes.join("\n");
    tally.count("records lost and named", lost.named as u64);
    tally.count(if lost.named > 0 || !told.is_empty() { "told" } else { "harmless" }, 1);
    if let Some(silent) = lost.silent {
        return Err(format!("{silent} is gone and nothing says so ({told})"));
    }
    match rot {
        Rot::Bit(..) if lost.batches > 1 => Err(format!("one bit cost {} batches", lost.batches)),
        _ => Ok(tally),
    }
}

impl Rot {
    fn paths(&self) -> Vec<&PathBuf> {
        match self {
            Self::Bit(path, _) | Self::Cut(path, _) | Self::Zeros(path, _) => vec![path],
            Self::Swap(one, other) => vec![one, other],
        }
    }
}
