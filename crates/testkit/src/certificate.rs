//! Certificates that vouch for themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes `NAME.pem` and `NAME.key` in `folder` by `openssl`, for `subject` (`/O=Hunt/CN=one`) and, if `names` is not empty, for these
/// (`IP:127.0.0.1`); they hold for two days.
///
/// # Panics
/// When `openssl` is missing or refuses.
#[must_use]
pub fn self_signed(folder: &Path, name: &str, subject: &str, names: &str) -> (PathBuf, PathBuf) {
    let (pem, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-nodes", "-days", "2", "-subj", subject]);
    if !names.is_empty() {
        openssl.args(["-addext", &format!("subjectAltName={names}")]);
    }
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&pem).output();
    let made = made.expect("openssl is installed (apt-get install openssl)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (pem, key)
}
