//! Where log lines go: standard error in the foreground, files below the data folder when detached.
//! What is logged may change while the process runs ([`follow`]).

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::reload::Handle;

use crate::failure::{Failure, failed, refused};
use crate::nearest::nearest;

/// A line for the user. A terminal or pipe that has gone is no reason to end a mount.
pub fn tell(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Set once log lines go to files.
static IN_FILES: AtomicBool = AtomicBool::new(false);

/// A line for the user, and for the log where that goes elsewhere.
pub fn say(line: &str) {
    tell(line);
    if IN_FILES.load(Ordering::Relaxed) {
        tracing::info!("{line}");
    }
}

/// A warning for the log, and for the user who waits for a start in the background.
pub fn warn(line: &str) {
    tracing::warn!("{line}");
    if IN_FILES.load(Ordering::Relaxed) {
        tell(line);
    }
}

/// Log files that are kept, one per day.
const FILES_MAX: usize = 14;

fn filter(wanted: Option<&str>, default: &str) -> Result<EnvFilter, Failure> {
    let text = wanted.unwrap_or(default);
    EnvFilter::try_new(text).map_err(|e| {
        refused(format!("log is {text:?}, which is no filter ({e}); try `info` or `debug`"))
    })
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Refuses what is no level where one is due. The library takes a bare word for a target of which
/// all is logged, and would log nothing else, not even errors.
fn check_levels(text: &str) -> Result<(), Failure> {
    if text.contains('[') {
        return Ok(()); // names a span, whose fields may hold anything
    }
    for directive in text.split(',').filter(|directive| !directive.is_empty()) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            let (meant, _) = nearest(level, LEVELS.into_iter());
            return Err(refused(format!(
                "log is {text:?}, and {level:?} is no level; did you mean {meant}? Levels are {}; \
                 a part of t3fs has one too, as in warn,t3fs_actors=debug",
                LEVELS.join(", ")
            )));
        }
    }
    Ok(())
}

/// Refuses a filter that cannot be understood.
pub fn check(wanted: &str) -> Result<(), Failure> {
    check_levels(wanted)?;
    filter(Some(wanted), "").map(drop)
}

/// Gives the log that was begun another filter.
type Refilter = Box<dyn Fn(Option<&str>) -> Result<(), Failure> + Send + Sync>;
static REFILTER: OnceLock<Refilter> = OnceLock::new();

/// Logs by another filter from now on. A process that does not log goes on so.
pub fn follow(wanted: Option<&str>) -> Result<(), Failure> {
    REFILTER.get().map_or(Ok(()), |refilter| refilter(wanted))
}

fn keep<S: 'static>(handle: Handle<EnvFilter, S>, default: &'static str) {
    let refilter = move |wanted: Option<&str>| {
        let cannot = |e| failed(format!("the log cannot change: {e}"));
        handle.reload(filter(wanted, default)?).map_err(cannot)
    };
    // A process begins one log.
    let _ = REFILTER.set(Box::new(refilter));
}

/// Log lines to standard error.
pub fn to_stderr(wanted: Option<&str>, default: &'static str) -> Result<(), Failure> {
    let terminal = io::IsTerminal::is_terminal(&io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(wanted, default)?)
        .with_writer(io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .with_filter_reloading();
    keep(log.reload_handle(), default);
    log.try_init().map_err(|e| failed(format!("logging cannot start: {e}")))
}

/// Log lines to `folder/t3fs-node.<day>.log`. Written at once: a crash loses none.
pub fn to_files(folder: &Path, wanted: Option<&str>) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|e| failed(format!("cannot make the log folder {}: {e}", folder.display())))?;
    let files = tracing_appender::rolling::Builder::new()
        .rotation(tracing_appender::rolling::Rotation::DAILY)
        .filename_prefix("t3fs-node")
        .filename_suffix("log")
        .max_log_files(FILES_MAX)
        .build(folder)
        .map_err(|e| failed(format!("cannot log below {}: {e}", folder.display())))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(wanted, "info")?)
        .with_writer(std::sync::Mutex::new(files))
        .with_ansi(false)
        .with_target(false)
        .with_filter_reloading();
    keep(log.reload_handle(), "info");
    log.try_init().map_err(|e| failed(format!("logging cannot start: {e}")))?;
    IN_FILES.store(true, Ordering::Relaxed);
    Ok(())
}

/// A broken assertion ends the process: it is logged with its place, then the process aborts.
/// Recovery is the normal start path.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!("broken assertion in thread {name}: {info}\n{trace}");
        let mut to = io::stderr();
        // The log has it as well.
        let _ =
            writeln!(to, "t3fs-node: broken assertion in thread {name}: {info}; start it again");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression (a newcomer): `--log inf` silenced the whole log, errors included.
    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for right in
            ["info", "off", "WARN,", "t3fs_actors=debug", "warn,t3fs_runtime::shard=trace", "a[b]"]
        {
            check(right).unwrap_or_else(|why| panic!("{right}: {why}"));
        }
        for (wrong, says) in [
            ("inf", "\"inf\" is no level; did you mean info?"),
            ("debg", "did you mean debug?"),
            ("info,t3fs_actors=trce", "\"trce\" is no level; did you mean trace?"),
            ("t3fs_actors", "t3fs_actors=debug"),
            ("warn,t3fs_actors=", "\"\" is no level"),
            ("x=y=z", "\"z\" is no level"),
        ] {
            let why = check(wrong).unwrap_err();
            assert!(why.is_refusal() && why.line.contains(says), "{why}");
            assert!(why.line.starts_with(&format!("log is {wrong:?}")), "{why}");
        }
    }
}
