//! A folder that names cannot leave: `openat2` beneath the root, no links.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::connectors::SendError;
use crate::error::one_line;

/// An open folder.
pub(crate) struct Folder {
    fd: OwnedFd,
    name: String,
}

/// Whether `name` is a relative path without `..`, empty parts or control characters.
pub(crate) fn is_safe(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 1024
        && !name.chars().any(char::is_control)
        && name.split('/').all(|part| !part.is_empty() && part != ".." && part != "." && part.len() <= 255)
}

fn failed(what: &str, errno: Errno) -> SendError {
    let why = match errno {
        Errno::XDEV | Errno::LOOP => "the path leaves its folder or goes through a link: refused".to_owned(),
        Errno::NOSPC => "no space left: free some, the route goes on by itself".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    };
    let message = format!("file {}: {why}", one_line(what));
    match errno {
        Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR => SendError::poison(None, message),
        _ => SendError::retry(message),
    }
}

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Folder {
    /// Opens (and makes) `folder` beneath `root`. An absolute `folder` must lie in `root`.
    pub fn open(root: &Path, folder: &str) -> Result<Self, SendError> {
        let relative = match folder.strip_prefix('/') {
            None => folder.to_owned(),
            Some(_) => match Path::new(folder).strip_prefix(root) {
                Ok(inside) => inside.to_string_lossy().into_owned(),
                Err(_) => {
                    let reason =
                        format!("file {} lies outside the routes' root {}", one_line(folder), root.display());
                    return Err(SendError::retry(reason));
                }
            },
        };
        std::fs::create_dir_all(root)
            .map_err(|error| SendError::retry(format!("routes' root {}: {error}", root.display())))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|errno| failed(&root.display().to_string(), errno))?;
        for part in relative.split('/').filter(|part| !part.is_empty() && *part != ".") {
            fd = enter(&fd, part)?;
        }
        Ok(Self { fd, name: folder.to_owned() })
    }

    /// Opens the file `name`, making it and its folders.
    pub fn file(&self, name: &str, truncate: bool) -> Result<File, SendError> {
        let shown = format!("{}/{name}", self.name);
        if !is_safe(name) {
            return Err(SendError::poison(None, format!("file name {} leaves its folder", one_line(&shown))));
        }
        let (parent, base) = self.parent(name)?;
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        if truncate {
            flags |= OFlags::TRUNC;
        }
        let at = parent.as_ref().unwrap_or(&self.fd);
        let fd = rustix::fs::openat2(at, base, flags, Mode::from_raw_mode(0o600), RESOLVE)
            .map_err(|errno| failed(&shown, errno))?;
        let file = File::from(fd);
        let plain = file.metadata().is_ok_and(|data| data.is_file());
        if plain {
            Ok(file)
        } else {
            Err(SendError::poison(None, format!("file {} is not a plain file", one_line(&shown))))
        }
    }

    /// Gives the file `from` the name `to`, both beneath this folder, and syncs the folder.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), SendError> {
        let (parent, old) = self.parent(from)?;
        let new = to.rsplit('/').next().unwrap_or(to);
        let at = parent.as_ref().unwrap_or(&self.fd);
        rustix::fs::renameat(at, old, at, new).map_err(|errno| failed(to, errno))?;
        rustix::fs::fsync(at).map_err(|errno| failed(to, errno))
    }

    /// Whether `name` exists.
    pub fn exists(&self, name: &str) -> Result<bool, SendError> {
        let (parent, base) = self.parent(name)?;
        let at = parent.as_ref().unwrap_or(&self.fd);
        match rustix::fs::statat(at, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(name, errno)),
        }
    }

    fn parent<'a>(&self, name: &'a str) -> Result<(Option<OwnedFd>, &'a str), SendError> {
        let Some((folders, base)) = name.rsplit_once('/') else { return Ok((None, name)) };
        let mut fd: Option<OwnedFd> = None;
        for part in folders.split('/') {
            fd = Some(enter(fd.as_ref().unwrap_or(&self.fd), part)?);
        }
        Ok((fd, base))
    }
}

fn enter(fd: &OwnedFd, part: &str) -> Result<OwnedFd, SendError> {
    match rustix::fs::mkdirat(fd, part, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(part, errno)),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(fd, part, flags, Mode::empty(), RESOLVE).map_err(|errno| failed(part, errno))
}
