//! What this machine offers, found out at start rather than assumed; each lack gets a sentence.

use std::path::Path;

/// What the start-up probes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// One sentence for each thing that works less well than it could.
    pub remarks: Vec<String>,
}

/// Looks at io_uring, locked memory and O_DIRECT below each folder. `Err` is a sentence that says
/// what to do; without io_uring nothing runs.
pub fn probe(folders: &[impl AsRef<Path>]) -> Result<Probe, String> {
    let started = ::glommio::LocalExecutorBuilder::new(::glommio::Placement::Unbound)
        .io_memory(64 << 10)
        .make();
    if let Err(e) = started {
        return Err(explain(&e.to_string()));
    }
    let mut remarks = Vec::new();
    for f in folders {
        if !direct_io_works(f.as_ref()) {
            remarks.push(format!(
                "{} refuses O_DIRECT (a tmpfs or an old overlay?): using the page cache and \
                 fdatasync instead, which is slower",
                f.as_ref().display()
            ));
        }
    }
    Ok(Probe { remarks })
}

/// Turns glommio's start-up error into what the user can do about it.
pub(super) fn explain(error: &str) -> String {
    let low = error.to_lowercase();
    if low.contains("memlock") || low.contains("cannot allocate memory") {
        return format!(
            "io_uring could not lock its memory ({error}); raise the limit with `ulimit -l 65536` \
             or LimitMEMLOCK= in the service unit"
        );
    }
    format!(
        "io_uring is refused here ({error}); t3fs needs Linux 5.10 or newer with \
         kernel.io_uring_disabled=0 and, in containers, a seccomp profile that allows io_uring"
    )
}

fn direct_io_works(folder: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join(format!(".t3fs-probe-{}", std::process::id()));
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let works = opened.is_ok();
    if std::fs::remove_file(&path).is_err() && works {
        tracing::warn!("{} could not be removed; it is empty and harmless", path.display());
    }
    works
}
