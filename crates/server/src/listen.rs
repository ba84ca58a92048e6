//! Binding listeners, and saying who holds a port that is taken.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use crate::error::ServerError;

/// Binds `address`. Errors: [`ServerError::PortInUse`] with the holder's name and pid where the system tells them.
pub fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServerError> {
    match TcpListener::bind(address) {
        Ok(listener) => {
            listener.set_nonblocking(true).map_err(|source| ServerError::Listen { address, source })?;
            Ok(listener)
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let holder = holder(address.port()).map_or_else(
                || "another process holds it".to_owned(),
                |(name, pid)| format!("{name} (pid {pid}) holds it"),
            );
            Err(ServerError::PortInUse { address, holder, flag, other: free_near(address) })
        }
        Err(source) => Err(ServerError::Listen { address, source }),
    }
}

fn free_near(address: SocketAddr) -> SocketAddr {
    let candidates = (1..=20_u16).filter_map(|step| address.port().checked_add(step.saturating_mul(100)));
    candidates
        .map(|port| SocketAddr::new(address.ip(), port))
        .find(|candidate| TcpListener::bind(candidate).is_ok())
        .unwrap_or_else(|| SocketAddr::new(address.ip(), 0))
}

/// Name and pid of the process that listens on `port`, from `/proc` (Linux).
#[must_use]
pub fn holder(port: u16) -> Option<(String, u32)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| listening_inode(line, port))
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link.to_str() == Some(&wanted)));
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((name.trim().to_owned(), pid));
        }
    }
    None
}

/// Inode of a `/proc/net/tcp` line in state LISTEN on `port`.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, found) = fields.get(1)?.rsplit_once(':')?;
    let here = u16::from_str_radix(found, 16).ok()? == port && *fields.get(3)? == LISTEN;
    here.then(|| fields.get(9)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_and_offers_another() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let message = bind(address, "--kafka").unwrap_err().to_string();
        assert!(message.contains(&format!("(pid {}) holds it", std::process::id())), "{message}");
        assert!(message.contains("pass --kafka 127.0.0.1:"), "{message}");
    }
}
