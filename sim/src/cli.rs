//! The command line: seeds over threads, failures with the command that replays them, rates.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use t3fs_sim::checks::{Check, Outcome, run_part};
use t3fs_sim::trace::Sink;

/// Deterministic simulation of t3fs clusters: one seed is one run, the same every time.
#[derive(Parser)]
#[command(name = "t3fs-sim")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the checks and their deliberate bugs
    List,
    /// Runs many seeds of a check; exits 1 at the first that fails
    Run(RunArgs),
    /// Runs one seed again, with its log
    Replay(ReplayArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Which check; without it, all of them
    #[arg(long)]
    check: Option<String>,
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads, each with worlds of its own
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Runs every n-th seed twice and compares the logs; 0 never does
    #[arg(long, default_value_t = 10)]
    twice_every: u64,
    /// Runs with a deliberate bug, which is to be found
    #[arg(long)]
    mutant: Option<String>,
    /// Leaves out faults or operations of the check, by name, to look at the rest alone
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Goes on after a seed that failed, and lists all of them at the end
    #[arg(long)]
    keep_going: bool,
    /// Writes one line per seed (hash and size of its log) to this file
    #[arg(long)]
    log: Option<String>,
    /// Prints how often each kind of fault happened
    #[arg(long)]
    coverage: bool,
}

#[derive(Args)]
struct ReplayArgs {
    #[arg(long)]
    check: String,
    #[arg(long)]
    seed: u64,
    /// Where the log goes; `-` is standard output
    #[arg(long, default_value = "-")]
    log: String,
    #[arg(long)]
    mutant: Option<String>,
    /// As in the run that failed
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
}

/// What a check runs with.
#[derive(Clone, Copy)]
struct With<'a> {
    mutant: Option<&'a str>,
    without: &'a [String],
}

impl<'a> With<'a> {
    fn of(check: &Check, mutant: Option<&'a str>, without: &'a [String]) -> With<'a> {
        let refuse = |kind: &str, what: &str, known: &[&str]| -> ! {
            fail(&format!("{} has no {kind} {what}; it has: {}", check.name, known.join(", ")))
        };
        if let Some(m) = mutant.filter(|m| !check.mutants.contains(m)) {
            refuse("mutant", m, check.mutants);
        }
        if let Some(p) = without.iter().find(|p| !check.parts().contains(&p.as_str())) {
            refuse("part", p, check.parts());
        }
        With { mutant, without }
    }

    fn one(self, check: &Check, seed: u64, log: Option<Sink>) -> Outcome {
        let now = (replay_command(check.name, seed, self), check.name.to_owned(), seed);
        RUNNING.with(|r| *r.borrow_mut() = Some(now));
        let outcome = run_part(check, seed, self.mutant, self.without, log);
        RUNNING.with(|r| r.take());
        outcome
    }
}

fn fail(why: &str) -> ! {
    eprintln!("t3fs-sim: {why}");
    std::process::exit(2)
}

fn find(checks: &[Check], name: &str) -> Check {
    let found = checks.iter().find(|c| c.name == name).copied();
    found.unwrap_or_else(|| {
        let names: Vec<&str> = checks.iter().map(|c| c.name).collect();
        fail(&format!("no check is called {name}; there are: {}", names.join(", ")))
    })
}

/// How to see a failure again.
fn replay_command(check: &str, seed: u64, with: With<'_>) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "t3fs-sim".into());
    let mutant = with.mutant.map_or(String::new(), |m| format!(" --mutant {m}"));
    let without = match with.without {
        [] => String::new(),
        parts => format!(" --without {}", parts.join(",")),
    };
    format!("{program} replay --check {check} --seed {seed}{mutant}{without} --log -")
}

/// Says what failed and how to see it again, and ends the process.
fn report(check: &str, seed: u64, replay: &str, what: &str) -> ! {
    // One report, whole, also when several threads fail at once.
    static ONE: Mutex<()> = Mutex::new(());
    let _only = ONE.lock();
    println!("FAILED  check {check}, seed {seed}\n{what}");
    println!("replay: {replay}");
    let _ = std::io::stdout().flush(); // there is nobody left to tell
    std::process::exit(1)
}

thread_local! {
    /// The command that replays the seed under way, its check and the seed.
    static RUNNING: std::cell::RefCell<Option<(String, String, u64)>> =
        const { std::cell::RefCell::new(None) };
}

/// A broken assertion in an actor or an oracle is a failed seed like any other.
fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let running = RUNNING.with(|r| r.take());
        match running {
            Some((replay, check, seed)) => {
                let trace = std::backtrace::Backtrace::capture();
                report(&check, seed, &replay, &format!("{info}\n{trace}"));
            }
            None => eprintln!("{info}"),
        }
    }));
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    events: u64,
    polls: u64,
    virtual_us: u64,
    coverage: Vec<(&'static str, u64)>,
    lines: Vec<(u64, String)>,
}

impl Totals {
    fn add(&mut self, o: &Outcome, keep_line: bool) {
        self.seeds += 1;
        self.events += o.events;
        self.polls += o.polls;
        self.virtual_us += o.virtual_us;
        if self.coverage.is_empty() {
            self.coverage = o.coverage.clone();
        } else {
            for (sum, new) in self.coverage.iter_mut().zip(&o.coverage) {
                sum.1 += new.1;
            }
        }
        if keep_line {
            let line = format!("{} {:016x} events {} polls {}", o.seed, o.hash, o.events, o.polls);
            self.lines.push((o.seed, line));
        }
    }
}

fn run_check(check: &Check, args: &RunArgs) -> Totals {
    let with = With::of(check, args.mutant.as_deref(), &args.without);
    let next = AtomicU64::new(args.from);
    let end = args.from.saturating_add(args.seeds);
    let totals = Mutex::new(Totals::default());
    let failed = AtomicU64::new(0);
    let begin = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let outcome = with.one(check, seed, None);
            if let Err(what) = &outcome.result {
                if !args.keep_going {
                    report(check.name, seed, &replay_command(check.name, seed, with), what);
                }
                let short = what.lines().take(3).collect::<Vec<_>>().join("\n");
                println!("failed  check {}, seed {seed}\n{short}", check.name);
                failed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if args.twice_every > 0 && seed.is_multiple_of(args.twice_every) {
                let again = with.one(check, seed, None);
                if (again.hash, again.events) != (outcome.hash, outcome.events) {
                    let what = "the same seed gave two different logs: something is not seeded";
                    report(check.name, seed, &replay_command(check.name, seed, with), what);
                }
            }
            totals.lock().expect("reports end the process").add(&outcome, args.log.is_some());
        }
    };
    std::thread::scope(|s| {
        for _ in 0..args.jobs.max(1) {
            s.spawn(work);
        }
    });
    let t = totals.into_inner().expect("reports end the process");
    let wall = begin.elapsed().as_secs_f64().max(1e-9);
    println!(
        "ok      check {}: {} seeds in {wall:.1} s; {:.1} seeds/s, {:.0} events/s, {:.0} polls/s, \
         {:.0} virtual seconds per second",
        check.name,
        t.seeds,
        t.seeds as f64 / wall,
        t.events as f64 / wall,
        t.polls as f64 / wall,
        t.virtual_us as f64 / 1e6 / wall,
    );
    let failed = failed.into_inner();
    if failed > 0 {
        println!("FAILED  check {}: {failed} seeds", check.name);
        std::process::exit(1);
    }
    t
}

fn run(checks: &[Check], args: &RunArgs) {
    let chosen: Vec<Check> = match &args.check {
        Some(name) => vec![find(checks, name)],
        None => checks.to_vec(),
    };
    let mut log = args.log.as_ref().map(|path| {
        std::fs::File::create(path).unwrap_or_else(|e| fail(&format!("cannot write {path}: {e}")))
    });
    for check in &chosen {
        let mut t = run_check(check, args);
        if args.coverage {
            t.coverage.iter().for_each(|(name, n)| println!("        {name:24} {n}"));
        }
        if let Some(file) = &mut log {
            t.lines.sort();
            for (_, line) in &t.lines {
                if let Err(e) = writeln!(file, "{} {line}", check.name) {
                    fail(&format!("cannot write the log: {e}"));
                }
            }
        }
    }
}

fn replay(checks: &[Check], args: &ReplayArgs) {
    let check = find(checks, &args.check);
    let with = With::of(&check, args.mutant.as_deref(), &args.without);
    let mut out: Box<dyn Write> = match args.log.as_str() {
        "-" => Box::new(std::io::stdout()),
        path => match std::fs::File::create(path) {
            Ok(f) => Box::new(std::io::LineWriter::new(f)),
            Err(e) => fail(&format!("cannot write {path}: {e}")),
        },
    };
    let sink: Sink = Box::new(move |line| {
        if writeln!(out, "{line}").is_err() {
            std::process::exit(2); // the reader went away
        }
    });
    let o = with.one(&check, args.seed, Some(sink));
    println!("hash {:016x}, {} events, {} polls, {} us", o.hash, o.events, o.polls, o.virtual_us);
    match o.result {
        Ok(()) => println!("ok      check {}, seed {}", check.name, args.seed),
        Err(what) => {
            report(check.name, args.seed, &replay_command(check.name, args.seed, with), &what)
        }
    }
}

/// The whole program, over the given checks.
pub fn main(checks: &[Check]) {
    let cli = Cli::parse();
    catch_panics();
    match cli.command {
        Command::List => {
            for c in checks {
                println!("{:12} {}", c.name, c.about);
                c.mutants.iter().for_each(|m| println!("{:12}   --mutant {m}", ""));
                c.parts().iter().for_each(|p| println!("{:12}   --without {p}", ""));
            }
        }
        Command::Run(args) => run(checks, &args),
        Command::Replay(args) => replay(checks, &args),
    }
}
