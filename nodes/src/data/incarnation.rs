//! The incarnation of a process: larger at every start of the same node, also when its state folder
//! is lost or its clock goes back, as long as not both happen.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::folder;
use crate::failure::{Failure, failed};

/// The file that remembers the last one.
pub const NAME: &str = "starts";
/// 2025-01-01 00:00 UTC, seconds since the Unix epoch.
const BEGINNING: u64 = 1_735_689_600;

/// Tenths of a second since 2025, by this machine's clock; 32 bits last until 2038. Never 0, which
/// means any incarnation.
pub fn by_clock() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let tenths = (now.as_millis() / 100).saturating_sub(u128::from(BEGINNING) * 10);
    u32::try_from(tenths).unwrap_or(u32::MAX).max(1)
}

/// The next one of the node with this state folder; remembered there before it is used.
pub fn next(state: &Path) -> Result<u32, Failure> {
    let path = state.join(NAME);
    let before: u32 = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            failed(format!(
                "{} holds no number; write one into it that is larger than any before",
                path.display()
            ))
        })?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        Err(e) => return Err(failed(format!("cannot read {}: {e}", path.display()))),
    };
    let above = before.checked_add(1).ok_or_else(|| failed("4 billion starts are enough"))?;
    let now = above.max(by_clock());
    folder::replace(state, NAME, &format!("{now}\n"))?;
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let first = next(dir.path()).unwrap();
        assert!(first >= by_clock() - 1);
        let second = next(dir.path()).unwrap();
        assert!(second > first);
        // A clock that was set back.
        std::fs::write(dir.path().join(NAME), format!("{}\n", u32::MAX - 1)).unwrap();
        assert_eq!(next(dir.path()).unwrap(), u32::MAX);
        assert!(next(dir.path()).is_err());
    }
}
