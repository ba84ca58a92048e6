//! A disk that remembers every step, and the disks that a power cut after any of them may leave.
//!
//! ```text
//! write, truncate ─► unsynced, per file ─ sync_data ─► kept
//! make, rename, remove a name ─► unsynced, per folder ─ sync_dir ─► kept
//! ```
//! The order of names within one folder holds, as in file systems with a journal; folders themselves are kept at once.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herdsman_host::{Disk, DiskFile, LockError, LockGuard, Seed, SimDisk};

/// The unit in which a torn write survives, bytes.
const SECTOR: usize = 512;

/// What a power cut does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of it is lost.
    DropUnsynced,
    /// Any part of it is kept: writes of a file in any choice, names of a folder up to some point.
    KeepPart,
    /// Writes of a file are kept up to some point, and the next up to a sector boundary.
    Tear,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::DropUnsynced, Self::KeepPart, Self::Tear];
}

#[derive(Debug, Clone)]
enum Step {
    Folder(PathBuf),
    Name(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveFolder(PathBuf),
    SyncFolder(PathBuf),
    Change(usize, Change),
    Sync(usize),
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Default)]
struct Recorded {
    steps: Vec<Step>,
    names: BTreeMap<PathBuf, usize>,
    files: usize,
}

/// A simulated disk whose steps are kept.
#[derive(Clone)]
pub struct Tape {
    disk: SimDisk,
    recorded: Arc<Mutex<Recorded>>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tape {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        Self { disk: SimDisk::new(seed), recorded: Arc::default() }
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> usize {
        hold(&self.recorded).steps.len()
    }

    /// Writes the disk that a power cut after `steps` steps leaves into `image`, an empty one.
    ///
    /// # Errors
    /// What the simulated disk says.
    pub fn image(&self, steps: usize, cut: Cut, seed: &mut Seed) -> io::Result<SimDisk> {
        let mut platter = Platter::default();
        for step in hold(&self.recorded).steps.iter().take(steps) {
            platter.take(step);
        }
        platter.cut(cut, seed)
    }

    /// The disk after `steps` steps, with everything on it, synced or not.
    ///
    /// # Errors
    /// What the simulated disk says.
    pub fn whole(&self, steps: usize, seed: &mut Seed) -> io::Result<SimDisk> {
        let mut platter = Platter::default();
        for step in hold(&self.recorded).steps.iter().take(steps) {
            platter.take(step);
        }
        for step in std::mem::take(&mut platter.unsynced).into_values().flatten() {
            platter.name(&step);
        }
        for file in platter.files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                change.apply(&mut file.kept);
            }
        }
        platter.cut(Cut::DropUnsynced, seed)
    }

    fn keep(&self, step: Step) {
        hold(&self.recorded).steps.push(step);
    }
}

impl Disk for Tape {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if !self.disk.exists(path) {
            self.keep(Step::Folder(path.to_owned()));
        }
        self.disk.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(path, create)?;
        let mut recorded = hold(&self.recorded);
        let known = recorded.names.get(path).copied();
        let id = known.unwrap_or_else(|| {
            let id = recorded.files;
            recorded.files += 1;
            recorded.names.insert(path.to_owned(), id);
            recorded.steps.push(Step::Name(path.to_owned(), id));
            id
        });
        Ok(Box::new(TapeFile { file, id, tape: self.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut recorded = hold(&self.recorded);
        if let Some(id) = recorded.names.remove(from) {
            recorded.names.insert(to.to_owned(), id);
        }
        recorded.steps.push(Step::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)?;
        hold(&self.recorded).names.remove(path);
        self.keep(Step::Remove(path.to_owned()));
        Ok(())
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)?;
        self.keep(Step::RemoveFolder(path.to_owned()));
        Ok(())
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)?;
        self.keep(Step::SyncFolder(path.to_owned()));
        Ok(())
    }
    fn lock(&self, path: &Path, holder: &str) -> Result<LockGuard, LockError> {
        self.disk.lock(path, holder)
    }
}

struct TapeFile {
    file: Box<dyn DiskFile>,
    id: usize,
    tape: Tape,
}

impl DiskFile for TapeFile {
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(position, bytes)?;
        let at = usize::try_from(position).map_err(io::Error::other)?;
        self.tape.keep(Step::Change(self.id, Change::Write(at, bytes.to_vec())));
        Ok(())
    }
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, buffer)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.tape.keep(Step::Change(self.id, Change::Truncate(len)));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.tape.keep(Step::Sync(self.id));
        Ok(())
    }
}

#[derive(Default)]
struct Platter {
    files: BTreeMap<usize, File>,
    folders: Vec<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    /// By folder, in order.
    unsynced: BTreeMap<PathBuf, Vec<Step>>,
}

#[derive(Default)]
struct File {
    kept: Vec<u8>,
    unsynced: Vec<Change>,
}

fn write(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    let end = at + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(written);
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, written) => write(bytes, *at, written),
            Self::Truncate(len) => bytes.resize(*len, 0),
        }
    }
}

impl Platter {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Folder(path) => self.folders.push(path.clone()),
            Step::RemoveFolder(path) => {
                self.folders.retain(|folder| folder != path);
                self.names.retain(|name, _| name.parent() != Some(path));
                self.unsynced.remove(path);
            }
            Step::Name(path, _) | Step::Rename(_, path) | Step::Remove(path) => {
                let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
                self.unsynced.entry(folder).or_default().push(step.clone());
            }
            Step::SyncFolder(path) => {
                for step in self.unsynced.remove(path).unwrap_or_default() {
                    self.name(&step);
                }
            }
            Step::Change(id, change) => self.files.entry(*id).or_default().unsynced.push(change.clone()),
            Step::Sync(id) => {
                let file = self.files.entry(*id).or_default();
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.kept);
                }
            }
        }
    }

    fn name(&mut self, step: &Step) {
        match step {
            Step::Name(path, id) => drop(self.names.insert(path.clone(), *id)),
            Step::Rename(from, to) => {
                if let Some(id) = self.names.remove(from) {
                    self.names.insert(to.clone(), id);
                }
            }
            Step::Remove(path) => drop(self.names.remove(path)),
            _ => {}
        }
    }

    fn cut(mut self, cut: Cut, seed: &mut Seed) -> io::Result<SimDisk> {
        for steps in std::mem::take(&mut self.unsynced).into_values() {
            let keep = if cut == Cut::DropUnsynced { 0 } else { seed.index(steps.len() + 1) };
            steps.iter().take(keep).for_each(|step| self.name(step));
        }
        let disk = SimDisk::new(seed);
        for folder in &self.folders {
            disk.create_dir(folder)?;
        }
        for (path, id) in &self.names {
            let bytes = self.files.remove(id).unwrap_or_default().after(cut, seed);
            let file = disk.open(path, true)?;
            file.write_at(0, &bytes)?;
            file.sync_data()?;
        }
        for folder in &self.folders {
            disk.sync_dir(folder)?;
        }
        Ok(disk)
    }
}

impl File {
    fn after(self, cut: Cut, seed: &mut Seed) -> Vec<u8> {
        let Self { mut kept, unsynced } = self;
        match cut {
            Cut::DropUnsynced => {}
            Cut::KeepPart => {
                unsynced.iter().filter(|_| seed.one_in(2)).for_each(|change| change.apply(&mut kept));
            }
            Cut::Tear => {
                let whole = seed.index(unsynced.len() + 1);
                unsynced.iter().take(whole).for_each(|change| change.apply(&mut kept));
                if let Some(Change::Write(at, bytes)) = unsynced.get(whole) {
                    // a sector boundary of the disk, not of the write
                    let sectors = seed.index(bytes.len() / SECTOR + 2);
                    let end = ((at / SECTOR + sectors) * SECTOR).clamp(*at, at + bytes.len());
                    write(&mut kept, *at, bytes.get(..end - at).unwrap_or_default());
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_what_was_synced_and_names_only_what_was_told_to_keep() {
        let tape = Tape::new(&Seed::new(1));
        let (folder, path) = (Path::new("/d"), Path::new("/d/f"));
        tape.create_dir(folder).unwrap();
        let file = tape.open(path, true).unwrap();
        file.append(b"one").unwrap();
        file.sync_data().unwrap();
        let unnamed = tape.steps();
        tape.sync_dir(folder).unwrap();
        file.append(b"two").unwrap();
        let seed = &mut Seed::new(1);
        assert!(!tape.image(unnamed, Cut::DropUnsynced, seed).unwrap().exists(path));
        let cut = tape.image(tape.steps(), Cut::DropUnsynced, seed).unwrap();
        assert_eq!(cut.read_all(path).unwrap(), b"one");
        let kept = (0..20).filter(|_| {
            let image = tape.image(tape.steps(), Cut::KeepPart, seed).unwrap();
            image.read_all(path).unwrap() == b"onetwo"
        });
        assert!((1..20).contains(&kept.count()));
    }
}
