//! Files: the few operations the log needs, so that a simulation can lose, tear and refuse every one of them.
//!
//! Folders are made with mode 0700, files with 0600. No file is ever mapped into memory: a second process or a full
//! disk would turn a mapped page into a signal that kills.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

mod planted;
mod real;
mod sim;

pub use planted::{Call, Fate, PlantedDisk};
pub use real::RealDisk;
pub use sim::{Crash, SimDisk};

/// A file system, or a simulation of one. All calls block.
pub trait Disk: Send + Sync + 'static {
    /// Makes a folder and its parents, mode 0700. Not an error if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether a file or folder is there.
    fn exists(&self, path: &Path) -> bool;
    /// Opens a file for reading and writing, making it (mode 0600) if `create` is set.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file or folder, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable (new, renamed and removed files).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock file `path`, without waiting, and writes `holder` into it.
    ///
    /// # Errors
    /// [`LockError::Held`] with what the present holder wrote; [`LockError::Io`].
    fn lock(&self, path: &Path, holder: &str) -> Result<LockGuard, LockError>;

    /// The whole of a small file.
    fn read_all(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, false)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Replaces a small file whole or not at all, durably: write beside it, sync, rename, sync the folder.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        let file = self.open(&beside, true)?;
        file.truncate(0)?;
        file.write_at(0, bytes)?;
        file.sync_data()?;
        drop(file);
        self.rename(&beside, path)?;
        path.parent().map_or(Ok(()), |parent| self.sync_dir(parent))
    }
}

/// An open file. Shared between threads; positions are explicit.
#[expect(clippy::len_without_is_empty, reason = "reading a file's length may fail")]
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all of `bytes` at byte `position`. After an error any prefix of them may have been written.
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes `bytes` at the end and returns the position where they begin.
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let position = self.len()?;
        self.write_at(position, bytes)?;
        Ok(position)
    }
    /// Reads at byte `position` until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file at `len` bytes, or extends it with zeros.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes the contents durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Tells the system that nobody will read these bytes soon, so that its page cache need not hold them. A hint:
    /// contents stay, and so do pages that are not synced yet.
    fn forget(&self, _bytes: Range<u64>) {}
}

/// Holds a folder's lock until dropped.
pub struct LockGuard {
    _held: Box<dyn Send + Sync>,
}

impl LockGuard {
    /// Wraps whatever releases the lock when dropped.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

/// Why a lock file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process (or another part of this one) holds it.
    #[error("in use by {holder}")]
    Held {
        /// What the holder wrote into the lock file.
        holder: String,
    },
    /// The lock file itself cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}
