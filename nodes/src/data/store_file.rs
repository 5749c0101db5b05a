//! Which metadata store a mgmtd or meta has used: `t3fs-store.toml` in its state folder, or in the
//! first data folder of a cluster in one process.
//!
//! ```text
//! # The metadata store that this t3fs process has used. ...
//! format = 1
//! store = "0123456789abcdef0123456789abcdef"
//! ```
//! Written once, when the store is used first. To give that store up, a human removes the file.

use std::path::{Path, PathBuf};

use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use serde::Deserialize;
use t3fs_actors::meta::kv::known::{StoreIdentityV1, StoreMemory};

use super::folder;
use super::identity::{self, IdentityError};
use crate::failure::{Failure, refused};

const NAME: &str = "t3fs-store.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreV1 {
    #[serde(rename = "format")]
    _format: u32,
    store: String,
}

/// The file in this folder.
pub struct StoreFile {
    folder: PathBuf,
}

impl StoreFile {
    pub fn new(folder: &Path) -> StoreFile {
        StoreFile { folder: folder.to_owned() }
    }

    /// Which store was used, if one was.
    pub fn read(&self) -> Result<Option<StoreIdentityV1>, Failure> {
        folder::identity(&self.folder.join(NAME), parse)
    }

    /// Only what is not there is written.
    fn keep(&self, identity: StoreIdentityV1) -> Result<(), Failure> {
        match self.read()? {
            Some(kept) if kept == identity => Ok(()),
            Some(kept) => Err(refused(format!("it has store {kept} already, not {identity}"))),
            None => folder::replace(&self.folder, NAME, &render(identity)),
        }
    }
}

impl StoreMemory for StoreFile {
    /// On a thread of its own: no shard waits for a file system.
    fn remember(&self, identity: StoreIdentityV1) -> LocalBoxFuture<'static, Result<(), String>> {
        let (tell, told) = oneshot::channel();
        let file = StoreFile::new(&self.folder);
        let keep = move || {
            // The asker may have waited long enough.
            _ = tell.send(file.keep(identity).map_err(|why| why.to_string()));
        };
        let thread = std::thread::Builder::new().name("t3fs-store".into()).spawn(keep);
        Box::pin(async move {
            thread.map_err(|e| format!("no thread can be started: {e}"))?;
            told.await.unwrap_or_else(|_| Err("its thread has ended".into()))
        })
    }

    fn place(&self) -> String {
        self.folder.join(NAME).display().to_string()
    }
}

fn render(identity: StoreIdentityV1) -> String {
    format!(
        "# The metadata store that this t3fs process has used; it takes no other. Written by\n\
         # t3fs-node. To give that store up for good, remove this file on each mgmtd and meta.\n\
         format = {}\nstore = \"{identity}\"\n",
        identity::FORMAT
    )
}

fn parse(text: &str) -> Result<StoreIdentityV1, IdentityError> {
    let v: StoreV1 = identity::parse(text)?;
    let damaged = || IdentityError::Damaged(format!("{:?} is no identity", v.store));
    StoreIdentityV1::parse(&v.store).ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    //! Goal: the first store that is used is remembered for good, by every later build.
    use t3fs_runtime::glommio::run_alone;

    use super::*;

    const ONE: StoreIdentityV1 = StoreIdentityV1 { high: 0x0123, low: 7 };

    #[test]
    fn the_first_store_stays_the_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = StoreFile::new(dir.path());
        assert_eq!(file.read(), Ok(None));
        run_alone(vec![], async move |_| {
            for _ in 0..2 {
                assert_eq!(file.remember(ONE).await, Ok(()));
                assert_eq!(file.read(), Ok(Some(ONE)));
            }
            let other = StoreIdentityV1 { low: 8, ..ONE };
            let refused = file.remember(other).await.unwrap_err();
            assert!(refused.contains(&ONE.to_string()), "{refused}");
        })
        .unwrap();
        assert_eq!(StoreFile::new(dir.path()).read(), Ok(Some(ONE)));
        assert_eq!(folder::look(dir.path()).unwrap().foreign, None, "it is ours");
    }

    #[test]
    fn the_stored_form_is_fixed() {
        let text = "# The metadata store that this t3fs process has used; it takes no other. \
                    Written by\n# t3fs-node. To give that store up for good, remove this file on \
                    each mgmtd and meta.\nformat = 1\nstore = \
                    \"00000000000001230000000000000007\"\n";
        assert_eq!(render(ONE), text);
        assert_eq!(parse(text), Ok(ONE));
        let short = "format = 1\nstore = \"0123\"\n";
        assert!(matches!(parse(short), Err(IdentityError::Damaged(_))));
        let later = text.replace("format = 1", "format = 2");
        assert!(matches!(parse(&later), Err(IdentityError::Newer(2))));
    }
}
