//! A simulated disk with a fault planted between it and who uses it, to see that a simulation finds what it is to find.

use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, LockError, LockGuard, SimDisk};

/// A call that changes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::truncate`].
    Truncate,
    /// [`DiskFile::sync_data`].
    Sync,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is said to be done.
    Skipped,
    /// When it fails it is done once more, and that is believed.
    Retried,
}

/// A simulated disk; the fault, if there is one, decides about each call on each file.
pub struct PlantedDisk<F> {
    disk: SimDisk,
    fault: Option<F>,
}

impl<F> PlantedDisk<F> {
    /// `disk` with `fault`, or as it is.
    pub fn new(disk: SimDisk, fault: Option<F>) -> Self {
        Self { disk, fault }
    }
}

struct PlantedFile<F> {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    fault: F,
}

impl<F: Fn(&Path, Call) -> Fate + Clone + Send + Sync + 'static> Disk for PlantedDisk<F> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
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
        Ok(match &self.fault {
            None => file,
            Some(fault) => Box::new(PlantedFile { file, path: path.to_owned(), fault: fault.clone() }),
        })
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn lock(&self, path: &Path, holder: &str) -> Result<LockGuard, LockError> {
        self.disk.lock(path, holder)
    }
}

impl<F: Fn(&Path, Call) -> Fate> PlantedFile<F> {
    fn change(&self, call: Call, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match (self.fault)(&self.path, call) {
            Fate::Done => change(),
            Fate::Skipped => Ok(()),
            Fate::Retried => change().or_else(|_| change()),
        }
    }
}

impl<F: Fn(&Path, Call) -> Fate + Send + Sync + 'static> DiskFile for PlantedFile<F> {
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Call::Write, || self.file.write_at(position, bytes))
    }
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, buffer)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Call::Truncate, || self.file.truncate(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.change(Call::Sync, || self.file.sync_data())
    }
}
