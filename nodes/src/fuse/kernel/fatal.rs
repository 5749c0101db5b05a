//! Whether a thread that waits for an answer is about to die, from /proc/TID/status.
//!
//! Linux (kernel/signal.c, `complete_signal`) turns a signal that will end a process into SIGKILL
//! in the set of pending signals of each of its threads, at the moment at which it is sent. So:
//!
//! | pending | what becomes of the call |
//! |---|---|
//! | SIGKILL | ends at once |
//! | another that ends a process, and is not blocked, ignored or handled (1) | ends at once |
//! | SIGINT, SIGTERM, SIGHUP, SIGQUIT with a handler (2) | ends after [`ASKED_MAX`] |
//! | any other: timers, children, windows, profilers | goes on |
//!
//! 1. SIGQUIT, which dumps core, is not turned into SIGKILL; and a process that exits already has
//!    only the signal that ended it.
//! 2. Somebody wants the program to end, and it would if its call returned: `dd`, `ls` on a
//!    terminal.
//!
//! A debugger may take a signal away from its process: of a traced one only SIGKILL counts.

use std::time::Duration;

/// For how long a call goes on whose program was asked to end and handles that itself. Calls that
/// the cluster answers in its usual time are never broken by a signal with a handler.
pub const ASKED_MAX: Duration = Duration::from_millis(300);

/// What is to become of a thread's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The call goes on.
    Lives,
    /// The thread has been asked to end, and will handle that itself.
    Asked,
    /// The thread is about to die.
    Dies,
    /// The thread cannot be looked at.
    Unseen,
}

/// What is to become of the call of this thread.
pub fn fate(thread: u32) -> Fate {
    if thread == 0 {
        return Fate::Unseen;
    }
    // Gone, or of another pid namespace. A thread that waits for us does not go by itself.
    match std::fs::read(format!("/proc/{thread}/status")) {
        Ok(status) => of_status(&status),
        Err(_) => Fate::Unseen,
    }
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

const KILL: u64 = bit(libc::SIGKILL);
/// Somebody asks the program to end.
const ASKS: u64 = bit(libc::SIGHUP) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGTERM);
/// By default these end no process.
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGCONT)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);

fn of_status(status: &[u8]) -> Fate {
    let [mut pending, mut blocked, mut ignored, mut handled, mut tracer] = [0u64; 5];
    for line in String::from_utf8_lossy(status).lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let hex = || u64::from_str_radix(value.trim(), 16).unwrap_or(0);
        match key {
            "SigPnd" | "ShdPnd" => pending |= hex(),
            "SigBlk" => blocked = hex(),
            "SigIgn" => ignored = hex(),
            "SigCgt" => handled = hex(),
            "TracerPid" => tracer = value.trim().parse().unwrap_or(1),
            _ => {}
        }
    }
    if pending & KILL != 0 {
        return Fate::Dies;
    }
    let counts = pending & !blocked & !ignored;
    if tracer != 0 {
        Fate::Lives
    } else if counts & !handled & !HARMLESS != 0 {
        Fate::Dies
    } else if counts & ASKS != 0 {
        Fate::Asked
    } else {
        Fate::Lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64, handled: u64) -> Fate {
        let text = format!(
            "Name:\tstat\nTracerPid:\t0\nSigQ:\t1/2\nSigPnd:\t{pending:016x}\n\
             ShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t{ignored:016x}\nSigCgt:\t{handled:016x}\n"
        );
        of_status(text.as_bytes())
    }

    /// Goal: only a thread that dies, or is asked to end, has its call broken.
    #[test]
    fn what_pending_signals_mean() {
        let [int, quit, alarm] = [libc::SIGINT, libc::SIGQUIT, libc::SIGALRM].map(bit);
        assert_eq!(status(0, 0, 0, 0, 0), Fate::Lives);
        assert_eq!(status(KILL, int, 0, 0, 0), Fate::Dies);
        assert_eq!(status(0, KILL, !0, !0, !0), Fate::Dies);
        assert_eq!(status(0, alarm, 0, 0, alarm), Fate::Lives, "handled");
        assert_eq!(status(alarm, 0, 0, alarm, 0), Fate::Lives, "ignored");
        assert_eq!(status(alarm, 0, alarm, 0, 0), Fate::Lives, "blocked");
        assert_eq!(status(0, quit, 0, 0, 0), Fate::Dies, "dumps core");
        assert_eq!(status(0, int, 0, 0, int), Fate::Asked);
        assert_eq!(status(0, int, int, 0, int), Fate::Lives, "asked later");
        assert_eq!(status(0, bit(libc::SIGCHLD) | bit(libc::SIGWINCH), 0, 0, 0), Fate::Lives);
        assert_eq!(of_status(b"TracerPid:\t7\nShdPnd:\t0000000000000004\n"), Fate::Lives);
        assert_eq!(of_status(&[0xff, b'\n', b':']), Fate::Lives);
    }

    /// Goal: the file is found and read. Method: this thread, and one that cannot be.
    #[test]
    fn the_status_of_a_thread_is_found() {
        assert_eq!(fate(rustix::thread::gettid().as_raw_pid() as u32), Fate::Lives);
        assert_eq!(fate(u32::MAX), Fate::Unseen);
        assert_eq!(fate(0), Fate::Unseen);
    }
}
