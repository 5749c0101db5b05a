//! What all processes of a cluster know and nobody else: who merely reaches a port may do nothing.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, failed, refused};

/// Name of the file in a data folder that `up` keeps its own secret in.
pub const NAME: &str = "secret";
/// Shorter ones can be tried one by one.
const LENGTH_MIN: usize = 16;
const LENGTH_MAX: usize = 1024;
/// Of a secret that we make.
const RANDOM_BYTES: usize = 32;

/// Never shown, not even in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Of the setting `secret`.
    pub(super) fn of_text(text: String) -> Result<Secret, Failure> {
        Secret::new(&text, NAME)
    }

    /// Of the setting `secret_file`.
    pub(super) fn of_file(path: PathBuf) -> Result<Secret, Failure> {
        Secret::read(&path)
    }

    fn new(text: &str, from: &str) -> Result<Secret, Failure> {
        let text = text.trim();
        if (LENGTH_MIN..=LENGTH_MAX).contains(&text.len()) {
            return Ok(Secret(text.into()));
        }
        Err(refused(format!(
            "{from} holds {} bytes; a secret has {LENGTH_MIN} to {LENGTH_MAX}, as from `openssl \
             rand -hex 32`",
            text.len()
        )))
    }

    fn read(path: &Path) -> Result<Secret, Failure> {
        let shown = path.display();
        let cannot = |e| refused(format!("the secret in {shown} cannot be read: {e}"));
        let mut file = fs::File::open(path).map_err(cannot)?;
        let mode = file.metadata().map_err(cannot)?.mode();
        if mode & 0o077 != 0 {
            return Err(refused(format!(
                "others may read the secret in {shown} (mode {:o}); `chmod 600 {shown}`",
                mode & 0o777
            )));
        }
        let mut text = String::new();
        let limit = LENGTH_MAX as u64 + 2;
        Read::by_ref(&mut file).take(limit).read_to_string(&mut text).map_err(cannot)?;
        Secret::new(&text, &shown.to_string())
    }

    /// The secret kept in `folder`, made at the first call.
    pub fn of_folder(folder: &Path) -> Result<Secret, Failure> {
        let path = folder.join(NAME);
        if path.exists() {
            return Secret::read(&path);
        }
        let mut bytes = [0; RANDOM_BYTES];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| failed(format!("the kernel gives no random numbers: {e}")))?;
        assert_eq!(got, RANDOM_BYTES, "so few come whole");
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let cannot = |e| failed(format!("cannot write {}: {e}", path.display()));
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&path).map_err(cannot)?;
        file.write_all(format!("{text}\n").as_bytes()).map_err(cannot)?;
        file.sync_all().map_err(cannot)?;
        Ok(Secret(text))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_kept_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let made = Secret::of_folder(dir.path()).unwrap();
        assert_eq!(Secret::of_folder(dir.path()).unwrap(), made);
        assert_eq!((made.bytes().len(), format!("{made:?}").as_str()), (64, "Secret"));
        let path = dir.path().join(NAME);
        assert_eq!(Secret::of_file(path.clone()).unwrap(), made);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Secret::read(&path).unwrap_err().line.contains("chmod 600"));
        let short = Secret::of_text("short".into()).unwrap_err().line;
        assert!(short.contains("16") && short.contains("secret holds"), "{short}");
    }
}
