//! Faults planted on purpose between the log and its disk, to see that the simulation finds them.

use std::io;
use std::path::{Path, PathBuf};

use herdsman_host::{Disk, DiskFile, LockError, LockGuard, SimDisk};

/// A fault planted on purpose, to see that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    None,
    /// Syncs of segment and journal files do nothing: acknowledged before durable.
    SyncSkipped,
    /// Nothing is written to the journal: atomic appends are not.
    JournalSkipped,
    /// Torn tails are not cut.
    TailKept,
}

/// A simulated disk with a planted fault.
pub(crate) struct FaultyDisk(pub(crate) SimDisk, pub(crate) Planted);

struct FaultyFile(Box<dyn DiskFile>, Planted, PathBuf);

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.open(path, create)?;
        Ok(if self.1 == Planted::None { file } else { Box::new(FaultyFile(file, self.1, path.to_owned())) })
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn lock(&self, path: &Path, holder: &str) -> Result<LockGuard, LockError> {
        self.0.lock(path, holder)
    }
}

impl FaultyFile {
    fn is_segment(&self) -> bool {
        self.2.extension().is_some_and(|extension| extension == "log")
    }
    fn is_journal(&self) -> bool {
        self.2.file_stem().is_some_and(|stem| stem == "journal")
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        if self.1 == Planted::JournalSkipped && self.is_journal() {
            return Ok(());
        }
        self.0.write_at(position, bytes)
    }
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(position, buffer)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.1 == Planted::TailKept && self.is_segment() { Ok(()) } else { self.0.truncate(len) }
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.1 == Planted::SyncSkipped && (self.is_segment() || self.is_journal()) {
            return Ok(());
        }
        self.0.sync_data()
    }
}
