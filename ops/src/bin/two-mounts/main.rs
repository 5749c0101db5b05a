//! `two-mounts A B [--rounds N | --times N] [CASE..]`: what programs on two mounts of one cluster
//! may rely on, tried case by case. A and B are folders on two mounts that show the same.
//!
//! Prints one line a case, `CASE: N tried, M wrong`, below it the first few that were wrong, and
//! ends with status 1 if any was. A case ends by itself after [`CASE_MAX`], unless a call to a
//! mount does not return: who starts this program sets a limit, and runs case by case to know
//! which one.
//!
//! What is asked of the mounts: POSIX between the processes of one mount; between mounts what close
//! to open promises (an open after a close or fsync elsewhere sees what was written), names at
//! once, O_APPEND and O_EXCL whoever else does the same, and an open file until it is closed.

mod appends;
mod case;
mod cuts;
mod fresh;
mod names;
mod removed;
mod rights;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use case::{Count, Two};

/// After this a case begins no further round.
const CASE_MAX: Duration = Duration::from_secs(20);

/// Name, rounds, what is done.
type Case = (&'static str, u32, fn(&Two) -> Count);

const CASES: [Case; 30] = [
    ("stale-name", 40, names::stale_name),
    ("stale-folder", 20, names::stale_folder),
    ("names-at-once", 60, names::names_at_once),
    ("exclusive", 90, names::exclusive),
    ("created-together", 60, names::created_together),
    ("append-in-turn", 120, appends::in_turn),
    ("append-kept", 120, appends::kept),
    ("append-loggers", 60, appends::loggers),
    ("append-loggers-anew", 25, appends::loggers_anew),
    ("append-after-rewrite", 40, appends::after_rewrite),
    ("copytruncate", 20, appends::copytruncate),
    ("copytruncate-under-way", 20, appends::copytruncate_under_way),
    ("cut-there-while-appending", 40, appends::cut_there),
    ("truncated-there", 1, cuts::there),
    ("truncated-here-by-handle", 1, cuts::here_by_handle),
    ("truncated-here-by-path", 1, cuts::here_by_path),
    ("truncated-there-at-once", 80, cuts::there_at_once),
    ("truncated-here-at-once", 80, cuts::here_at_once),
    ("removed-there-is-kept", 24, removed::kept_there),
    ("removed-here-is-kept", 24, removed::kept_here),
    ("removed-there-while-opened", 960, removed::while_opened_there),
    ("removed-here-while-opened", 960, removed::while_opened_here),
    ("replaced-there-while-opened", 960, removed::replaced_while_opened_there),
    ("replaced-here-while-opened", 960, removed::replaced_while_opened_here),
    ("polled-there", 150, fresh::polled_there),
    ("polled-here", 150, fresh::polled_here),
    ("close-to-open", 500, fresh::close_to_open),
    ("direct-growth", 40, fresh::direct_growth),
    ("set-user-id", 5, rights::set_user_id),
    ("create-past-permissions", 300, rights::create_past_permissions),
];

#[derive(Parser)]
#[command(about = "Tries what programs on two mounts of one cluster may rely on")]
struct Args {
    /// Prints the names of all cases.
    #[arg(long)]
    list: bool,
    /// Instead of what each case has.
    #[arg(long)]
    rounds: Option<u32>,
    /// So many times what each case has.
    #[arg(long, default_value_t = 1)]
    times: u32,
    #[arg(required_unless_present = "list")]
    a: Option<PathBuf>,
    #[arg(required_unless_present = "list")]
    b: Option<PathBuf>,
    /// All, if none is named.
    cases: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (Some(a), Some(b)) = (args.a, args.b) else {
        CASES.iter().for_each(|(name, ..)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    if let Some(unknown) = args.cases.iter().find(|c| CASES.iter().all(|(name, ..)| name != c)) {
        eprintln!("two-mounts: there is no case {unknown}; see --list");
        return ExitCode::from(2);
    }
    let mut wrong = 0;
    for (name, rounds, run) in CASES {
        if !args.cases.is_empty() && !args.cases.iter().any(|c| c == name) {
            continue;
        }
        let two = Two {
            a: a.join(name),
            b: b.join(name),
            rounds: args.rounds.unwrap_or(rounds * args.times),
            until: Instant::now() + CASE_MAX,
        };
        if let Err(err) = fs::create_dir(&two.a) {
            eprintln!("two-mounts: {}: {err}", two.a.display());
            return ExitCode::from(2);
        }
        let mut count = run(&two);
        if let Err(err) = fs::remove_dir_all(&two.a) {
            count.expect("cleaning up", Err(err.to_string()));
        }
        println!("{name}: {} tried, {} wrong", count.tried, count.wrong);
        for example in &count.examples {
            println!("    {example}");
        }
        wrong += count.wrong;
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
