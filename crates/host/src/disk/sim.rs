//! A file system in memory that forgets, tears, refuses and dies as its seed says.
//!
//! ```text
//! write ─► page cache (what reads see) ─ sync_data ─► durable
//!            kill: kept                                kept
//!            crash: all, a prefix or a torn prefix     kept
//!            of the unsynced writes of each file
//! ```
//! A new file's name is durable only after `sync_dir` of its folder; before, a crash may take the file away.
//! Renames and removals are durable at once (the simplification of this model).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, LockError, LockGuard};
use crate::Seed;

/// Unit in which a torn write survives.
const SECTOR: usize = 512;

/// What a power cut does to writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All of them are lost.
    LoseAll,
    /// A random number of them, in order, is kept per file.
    KeepPrefix,
    /// The same, and the first one lost is kept up to a sector boundary.
    Torn,
}

/// A simulated disk. Clones share it; it outlives the processes (logs) that use it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    generation: u64,
}

struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<FileData>>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeMap<PathBuf, String>,
    seed: Seed,
    generation: u64,
    operations: u64,
    die_at: Option<u64>,
    died_in_this_call: bool,
    capacity: Option<u64>,
    fail_write_in: Option<u64>,
    fail_sync_in: Option<u64>,
}

#[derive(Default)]
struct FileData {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    named: bool,
    forgotten: Vec<Range<u64>>,
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, written) => put(bytes, *at, written),
        Change::Truncate(len) => bytes.resize(*len, 0),
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    let end = at + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(written);
    }
}

fn killed() -> io::Error {
    io::Error::other("this simulated process was killed")
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        let state = State {
            files: BTreeMap::new(),
            dirs: BTreeSet::new(),
            locks: BTreeMap::new(),
            seed: seed.stream("disk"),
            generation: 0,
            operations: 0,
            die_at: None,
            died_in_this_call: false,
            capacity: None,
            fail_write_in: None,
            fail_sync_in: None,
        };
        Self { state: Arc::new(Mutex::new(state)), generation: 0 }
    }

    /// Ends the process that uses this handle: its handles fail from now on, its locks are free, the page cache
    /// stays. Returns the handle for the next process.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = hold(&self.state);
        state.generation += 1;
        state.locks.clear();
        state.die_at = None;
        state.fail_write_in = None;
        state.fail_sync_in = None;
        let generation = state.generation;
        drop(state);
        Self { state: Arc::clone(&self.state), generation }
    }

    /// A power cut: [`SimDisk::kill`], and unsynced writes fare as `how` says.
    #[must_use]
    pub fn crash(&self, how: Crash) -> Self {
        let next = self.kill();
        let mut guard = hold(&self.state);
        let state = &mut *guard;
        let seed = &mut state.seed;
        state.files.retain(|_, file| hold(file).named || !seed.one_in(2));
        for file in state.files.values() {
            let mut file = hold(file);
            let changes = std::mem::take(&mut file.unsynced);
            let keep = if how == Crash::LoseAll { 0 } else { seed.index(changes.len() + 1) };
            for change in changes.iter().take(keep) {
                apply(&mut file.durable, change);
            }
            if let (Crash::Torn, Some(Change::Write(at, written))) = (how, changes.get(keep)) {
                let sectors = seed.index(written.len() / SECTOR + 2);
                // a sector boundary of the disk, not of the write
                let end = ((at / SECTOR + sectors) * SECTOR).clamp(*at, at + written.len());
                put(&mut file.durable, *at, written.get(..end - at).unwrap_or_default());
            }
            file.cached = file.durable.clone();
            file.named = true;
        }
        drop(guard);
        next
    }

    /// Kills the process at its `n`-th operation from now; a write then under way is left half done.
    pub fn die_in(&self, n: u64) {
        let mut state = hold(&self.state);
        state.die_at = Some(state.operations + n);
    }

    /// Whether the process of this handle is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        hold(&self.state).generation != self.generation
    }

    /// Bytes that fit on the disk in all; a write beyond fails with "no space" after writing what fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        hold(&self.state).capacity = bytes;
    }

    /// Fails the `n`-th write from now with an I/O error, once.
    pub fn fail_write_in(&self, n: u64) {
        hold(&self.state).fail_write_in = Some(n);
    }

    /// Fails the `n`-th sync from now, once; as on Linux, what it should have synced is never durable.
    pub fn fail_sync_in(&self, n: u64) {
        hold(&self.state).fail_sync_in = Some(n);
    }

    /// Operations so far: every call that would be a system call.
    #[must_use]
    pub fn operations(&self) -> u64 {
        hold(&self.state).operations
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        hold(&self.state).used()
    }

    /// Paths of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        hold(&self.state).files.keys().cloned().collect()
    }

    /// Length of a file, bytes; 0 if it is not there.
    #[must_use]
    pub fn len_of(&self, path: &Path) -> u64 {
        hold(&self.state).files.get(path).map_or(0, |data| hold(data).cached.len() as u64)
    }

    /// Byte ranges of a file that the page cache was told to forget, in the order it was told.
    #[must_use]
    pub fn forgotten(&self, path: &Path) -> Vec<Range<u64>> {
        hold(&self.state).files.get(path).map_or_else(Vec::new, |data| hold(data).forgotten.clone())
    }

    /// Flips bits of the stored byte at `position` of a file, in the page cache and on the platter.
    pub fn flip(&self, path: &Path, position: usize, mask: u8) {
        if let Some(file) = hold(&self.state).files.get(path) {
            let mut file = hold(file);
            let FileData { cached, durable, .. } = &mut *file;
            for byte in [cached.get_mut(position), durable.get_mut(position)].into_iter().flatten() {
                *byte ^= mask;
            }
        }
    }

    /// Counts an operation; fails if the process is dead or dies here.
    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = hold(&self.state);
        if state.generation != self.generation {
            state.died_in_this_call = false;
            return Err(killed());
        }
        state.operations += 1;
        if state.die_at.is_some_and(|at| state.operations >= at) {
            state.generation += 1;
            state.locks.clear();
            state.die_at = None;
            state.died_in_this_call = true;
            return Err(killed());
        }
        Ok(state)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|file| hold(file).cached.len() as u64).sum()
    }

    /// How many of `grow` more bytes fit.
    fn room(&self, grow: u64) -> u64 {
        self.capacity.map_or(grow, |capacity| capacity.saturating_sub(self.used()).min(grow))
    }
}

/// Counts down to a planned fault; true when it is due.
fn due(plan: &mut Option<u64>) -> bool {
    match plan {
        Some(left) if *left > 1 => *left -= 1,
        Some(_) => {
            *plan = None;
            return true;
        }
        None => {}
    }
    false
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        for dir in path.ancestors() {
            state.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.step()?;
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.files.keys().chain(&state.dirs).filter(|entry| entry.parent() == Some(path));
        let names: BTreeSet<String> =
            inside.filter_map(|entry| entry.file_name()?.to_str().map(str::to_owned)).collect();
        Ok(names.into_iter().collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = hold(&self.state);
        state.files.contains_key(path) || state.dirs.contains(path)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.step()?;
        let data = match state.files.get(path) {
            Some(data) => Arc::clone(data),
            None if !create || !path.parent().is_none_or(|parent| state.dirs.contains(parent)) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            None => {
                let data = Arc::new(Mutex::new(FileData::default()));
                state.files.insert(path.to_owned(), Arc::clone(&data));
                data
            }
        };
        Ok(Box::new(SimFile { disk: self.clone(), data }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if let Some(file) = state.files.remove(from) {
            hold(&file).named = true;
            state.files.insert(to.to_owned(), file);
            return Ok(());
        }
        if !state.dirs.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let moved = |path: &PathBuf| path.strip_prefix(from).ok().map(|rest| to.join(rest));
        state.dirs = state.dirs.iter().map(|dir| moved(dir).unwrap_or_else(|| dir.clone())).collect();
        state.files = std::mem::take(&mut state.files)
            .into_iter()
            .map(|(path, file)| (moved(&path).unwrap_or(path), file))
            .collect();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?.files.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if state.files.keys().any(|file| file.starts_with(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.dirs.remove(path);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let state = self.step()?;
        for (_, file) in state.files.iter().filter(|(file, _)| file.parent() == Some(path)) {
            hold(file).named = true;
        }
        Ok(())
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<LockGuard, LockError> {
        let mut state = self.step()?;
        if let Some(holder) = state.locks.get(path) {
            return Err(LockError::Held { holder: holder.clone() });
        }
        state.locks.insert(path.to_owned(), holder.to_owned());
        drop(state);
        Ok(LockGuard::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = hold(&self.disk.state);
        if state.generation == self.disk.generation {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    data: Arc<Mutex<FileData>>,
}

impl SimFile {
    fn write(&self, at: usize, bytes: &[u8]) {
        let mut data = hold(&self.data);
        put(&mut data.cached, at, bytes);
        data.unsynced.push(Change::Write(at, bytes.to_vec()));
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(position).map_err(io::Error::other)?;
        let mut state = match self.disk.step() {
            Ok(state) => state,
            Err(error) => {
                let mut state = hold(&self.disk.state);
                if std::mem::take(&mut state.died_in_this_call) {
                    let part = state.seed.index(bytes.len() + 1);
                    self.write(at, bytes.get(..part).unwrap_or_default());
                }
                return Err(error);
            }
        };
        if due(&mut state.fail_write_in) {
            let part = state.seed.index(bytes.len() + 1);
            self.write(at, bytes.get(..part).unwrap_or_default());
            return Err(io::Error::from_raw_os_error(5));
        }
        if state.capacity.is_some() {
            let grow = (at + bytes.len()).saturating_sub(hold(&self.data).cached.len()) as u64;
            let room = state.room(grow);
            if room < grow {
                let fits = bytes.len().saturating_sub(usize::try_from(grow - room).unwrap_or(usize::MAX));
                self.write(at, bytes.get(..fits).unwrap_or_default());
                return Err(io::Error::from_raw_os_error(28));
            }
        }
        self.write(at, bytes);
        Ok(())
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        drop(self.disk.step()?);
        let data = hold(&self.data);
        let at = usize::try_from(position).map_err(io::Error::other)?;
        let present = data.cached.get(at..).unwrap_or_default();
        let len = present.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), present.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        drop(self.disk.step()?);
        Ok(hold(&self.data).cached.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        drop(self.disk.step()?);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let mut data = hold(&self.data);
        data.cached.resize(len, 0);
        data.unsynced.push(Change::Truncate(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.step()?;
        let mut data = hold(&self.data);
        let changes = std::mem::take(&mut data.unsynced);
        if due(&mut state.fail_sync_in) {
            return Err(io::Error::from_raw_os_error(5));
        }
        for change in &changes {
            apply(&mut data.durable, change);
        }
        Ok(())
    }

    fn forget(&self, bytes: Range<u64>) {
        hold(&self.data).forgotten.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with_file() -> (SimDisk, Box<dyn DiskFile>) {
        let disk = SimDisk::new(&Seed::new(1));
        disk.create_dir(Path::new("/d")).unwrap();
        let file = disk.open(Path::new("/d/f"), true).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        (disk, file)
    }

    #[test]
    fn a_kill_keeps_the_page_cache_and_a_crash_keeps_only_what_was_synced() {
        let (disk, file) = disk_with_file();
        file.append(b"synced").unwrap();
        file.sync_data().unwrap();
        file.append(b" cached").unwrap();
        let after_kill = disk.kill();
        assert!(file.append(b"x").is_err(), "the old process is dead");
        assert_eq!(after_kill.read_all(Path::new("/d/f")).unwrap(), b"synced cached");
        let after_crash = after_kill.crash(Crash::LoseAll);
        assert_eq!(after_crash.read_all(Path::new("/d/f")).unwrap(), b"synced");
    }

    #[test]
    fn a_torn_write_ends_at_a_sector_and_a_failed_sync_is_never_durable() {
        for seed in 0..50 {
            let disk = SimDisk::new(&Seed::new(seed));
            let file = disk.open(Path::new("/f"), true);
            assert!(file.is_err(), "its folder is missing");
            disk.create_dir(Path::new("/d")).unwrap();
            let file = disk.open(Path::new("/d/f"), true).unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            file.write_at(0, &[1; 2_000]).unwrap();
            let len = disk.crash(Crash::Torn).read_all(Path::new("/d/f")).unwrap().len();
            assert!(len == 2_000 || len.is_multiple_of(SECTOR), "{len}");
        }
        let (disk, file) = disk_with_file();
        disk.fail_sync_in(1);
        file.append(b"lost").unwrap();
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert!(disk.crash(Crash::LoseAll).read_all(Path::new("/d/f")).unwrap().is_empty());
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_recovers() {
        let (disk, file) = disk_with_file();
        disk.set_capacity(Some(10));
        let error = file.append(&[1; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 10);
        disk.set_capacity(None);
        file.write_at(0, &[1; 16]).unwrap();
    }

    #[test]
    fn both_disks_hold_one_lock_and_name_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let sim = SimDisk::new(&Seed::new(1));
        for disk in [&crate::RealDisk as &dyn Disk, &sim] {
            let path = folder.path().join("lock");
            let held = disk.lock(&path, "herdsman pid 311 since 10:02").unwrap();
            let refused = disk.lock(&path, "second").unwrap_err().to_string();
            assert_eq!(refused, "in use by herdsman pid 311 since 10:02");
            drop(held);
            disk.lock(&path, "third").unwrap();
        }
    }
}
