//! `cargo ops bench`: the mount beside the folder that holds its data and beside an empty FUSE file
//! system, in one run.
//!
//! Method: every job is a process of its own (so its core time is its own, and a hung mount cannot
//! hang the benchmark); a round runs it in all places, short rounds alternate, medians are printed.
//! Rates drift with the machine and the core that a client happens to run on; ratios within a run
//! and core time per operation hold still. Read next: `plan.rs` for the rows, `data_jobs.rs` and
//! `name_jobs.rs`.

mod data_jobs;
mod io;
mod meter;
mod name_jobs;
mod places;
mod plan;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::{command, mounts, procfs, steps, workspace};
use meter::{Meter, Sample};
use places::{Place, Places};
use plan::{JOBS, Job, Row};
use table::Results;

/// Time for a job beyond what it measures: preparing its file on a slow disk, cleaning up.
const JOB_SLACK: Duration = Duration::from_secs(120);

/// The promise of an idle mount.
const IDLE_KIB_MAX: u64 = 300 * 1024;

#[derive(Args)]
pub struct Options {
    /// Rows to measure, or the beginnings of their names: `create`, `rand-read-direct-16` (all if
    /// none); `net` alone measures links between processes beside plain sockets, and beside
    /// perftest where there is an RDMA device
    rows: Vec<String>,
    /// Seconds that each phase is measured for, per place and round
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Rounds; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Folder on the disk to measure; a folder of its own is made in it and removed [default:
    /// target]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The t3fs-node to measure [default: built now, with --release]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Measure only the folder and nullfs
    #[arg(long, conflicts_with = "binary")]
    without_t3fs: bool,
    /// Measure a mount in a process of its own, with meta and storage in another, over TCP
    #[arg(long, conflicts_with = "without_t3fs")]
    apart: bool,
    /// With `net`: in the VM of ops/rdma-vm, which has RDMA devices and an emulated processor
    #[arg(long)]
    vm: bool,
    /// Write the results to ops/bench/results/<date>.md too
    #[arg(long)]
    save: bool,
}

#[derive(Args)]
pub struct JobOptions {
    job: String,
    dir: PathBuf,
    #[arg(long)]
    seconds: f64,
    /// A process that serves `dir`
    #[arg(long)]
    server: Vec<u32>,
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// Something did not run; a target that is missed is only printed.
pub fn run(options: &Options) -> Result<(), String> {
    if options.rows == ["net"] {
        return steps::bench_net(options.rounds, options.vm);
    }
    let rows = chosen_rows(&options.rows)?;
    let (t3fs, nullfs) = build(options)?;
    let base = options.data.clone().unwrap_or_else(workspace::target_dir);
    let places = Places::set_up(&base, t3fs.as_deref(), &nullfs, options.apart)?;
    let measured = measure(options, &rows, &places);
    // Also after a failure: it unmounts, and frees the disk.
    let torn_down = places.tear_down();
    let Measured { table, all_reached, memory } = measured?;
    let report = format!("{}\n\n{table}{memory}", conditions(options, &base));
    println!("\n{report}");
    if !all_reached {
        println!("Some targets were MISSED.");
    }
    torn_down?;
    if options.save { save(&report) } else { Ok(()) }
}

struct Measured {
    table: String,
    all_reached: bool,
    /// One line, or empty without t3fs.
    memory: String,
}

fn measure(options: &Options, rows: &[Row], places: &Places) -> Result<Measured, String> {
    let memory = || places.t3fs.first().and_then(|node| procfs::memory(node.pid()));
    let idle = memory();
    let mut results = Results::default();
    let mut loaded_kib = 0;
    for job in JOBS {
        if !job.rows().iter().any(|row| rows.contains(row)) {
            continue;
        }
        for round in 0..options.rounds {
            eprintln!("{job}, round {} of {}", round + 1, options.rounds);
            for (number, place) in places.all().into_iter().enumerate() {
                let Some(place) = place else { continue };
                let samples = run_in_process(job, &place, options.seconds)
                    .map_err(|err| format!("{job} in {}: {err}", place.dir.display()))?;
                results.add(number, samples);
            }
            loaded_kib = loaded_kib.max(memory().map_or(0, |memory| memory.resident_kib));
        }
    }
    let (table, all_reached) = results.render(rows, !options.apart);
    let memory = match (idle, memory()) {
        (Some(idle), Some(end)) => memory_line(idle.resident_kib, loaded_kib, end.peak_kib),
        _ => String::new(),
    };
    Ok(Measured { table, all_reached, memory })
}

fn chosen_rows(words: &[String]) -> Result<Vec<Row>, String> {
    let rows: Vec<Row> = JOBS.iter().flat_map(Job::rows).collect();
    for word in words {
        if !rows.iter().any(|row| row.is_chosen_by(word)) {
            let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            return Err(format!("no row is called {word}; there are: {}", names.join(" ")));
        }
    }
    let chosen = |row: &Row| words.is_empty() || words.iter().any(|word| row.is_chosen_by(word));
    Ok(rows.into_iter().filter(chosen).collect())
}

/// The binaries to measure. Built with `release`, because that is what a user runs.
fn build(options: &Options) -> Result<(Option<PathBuf>, PathBuf), String> {
    steps::build_release("t3fs-nodes", "nullfs")?;
    let nullfs = workspace::binary("release", "nullfs");
    if options.without_t3fs {
        return Ok((None, nullfs));
    }
    if let Some(binary) = &options.binary {
        return Ok((Some(binary.clone()), nullfs));
    }
    steps::build_release("t3fs-nodes", "t3fs-node")?;
    Ok((Some(workspace::binary("release", "t3fs-node")), nullfs))
}

/// Runs one job in a process of its own. If it hangs, the mount that it hangs in is cut off.
fn run_in_process(job: Job, place: &Place<'_>, seconds: f64) -> Result<Vec<Sample>, String> {
    let program = std::env::current_exe().map_err(|err| err.to_string())?;
    let mut child = Command::new(program);
    child.arg("bench-job").arg(job.to_string()).arg(place.dir);
    child.args(["--seconds", &seconds.to_string()]);
    for server in &place.servers {
        child.args(["--server", &server.to_string()]);
    }
    let phases = job.rows().len() as f64;
    let limit = JOB_SLACK + Duration::from_secs_f64(seconds * phases * 2.0);
    let done =
        command::finish(&mut child, limit).map_err(|err| match mounts::abort(place.dir) {
            Ok(()) => err.to_string(),
            Err(abort) => format!("{err} (and could not be cut off: {abort})"),
        })?;
    if !done.success() {
        return Err(done.stderr.trim().to_owned());
    }
    serde_json::from_str(&done.stdout).map_err(|err| err.to_string())
}

/// The other side of `run_in_process`.
pub fn run_job(options: &JobOptions) -> Result<(), String> {
    let job = Job::by_name(&options.job).ok_or_else(|| format!("no job {}", options.job))?;
    let samples = samples(job, options).map_err(|err| err.to_string())?;
    let json = serde_json::to_string(&samples).map_err(|err| err.to_string())?;
    println!("{json}");
    Ok(())
}

fn samples(job: Job, options: &JobOptions) -> std::io::Result<Vec<Sample>> {
    let (dir, servers) = (options.dir.as_path(), &options.server[..]);
    let time = Duration::from_secs_f64(options.seconds);
    let meter = Meter::new(servers);
    let rows = job.rows();
    let row = &rows[0].name;
    match job {
        Job::SequentialWrite { direct } => {
            data_jobs::sequential_write(dir, direct, time, meter, row)
        }
        Job::SequentialRead { direct } => data_jobs::sequential_read(dir, direct, time, meter, row),
        Job::RandomRead { direct, threads } => {
            data_jobs::random_read(dir, direct, threads, time, meter, row)
        }
        Job::RandomWrite { direct, threads } => {
            data_jobs::random_write(dir, direct, threads, time, meter, row)
        }
        Job::Names { threads } => name_jobs::names(dir, threads, time, servers, &rows),
        Job::SmallFiles { threads } => name_jobs::small_files(dir, threads, time, servers, &rows),
    }
}

/// Runs `work` in several threads, numbered from 0, and returns all results.
fn in_threads<R: Send>(threads: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        started.into_iter().map(joined).collect()
    })
}

/// The result of a thread; its panic becomes ours.
fn joined<R>(thread: thread::ScopedJoinHandle<'_, R>) -> R {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What a reader needs to know to compare this run with another.
fn conditions(options: &Options, base: &Path) -> String {
    let kernel = rustix::system::uname();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, Linux {}, data below {}; {}; medians of {} rounds of {} s per place.\n\
         Rates are MB/s (10^6 bytes) or operations per second (readdir: entries); in parentheses \
         the core\ntime per operation of client and server together (1 MiB is one operation in \
         seq rows; the kernel's own\nthreads are not counted). Writes include a final fsync, \
         except small-write, which ends with close.\n\
         ext4 passes over inodes freed within the last minutes: its create slows down after the \
         first round.",
        kernel.release().to_string_lossy(),
        base.display(),
        if options.apart { "the mount apart from meta and storage" } else { "one process" },
        options.rounds,
        options.seconds,
    )
}

fn memory_line(idle_kib: u64, loaded_kib: u64, peak_kib: u64) -> String {
    let verdict = if idle_kib < IDLE_KIB_MAX { "ok" } else { "MISS" };
    let mib = |kib: u64| kib / 1024;
    format!(
        "\nMemory of t3fs-node: {} MiB idle (< {} MiB: {verdict}), {} MiB at most between jobs, \
         {} MiB peak.\n",
        mib(idle_kib),
        mib(IDLE_KIB_MAX),
        mib(loaded_kib),
        mib(peak_kib),
    )
}

fn save(report: &str) -> Result<(), String> {
    let date = command::finish(Command::new("date").arg("+%Y-%m-%d"), Duration::from_secs(10));
    let date = date.map_err(|err| err.to_string())?.stdout;
    let dir = workspace::root().join("ops/bench/results");
    let path = dir.join(format!("{}.md", date.trim()));
    let describe = |err| format!("{}: {err}", path.display());
    fs::create_dir_all(&dir).map_err(describe)?;
    fs::write(&path, report).map_err(describe)?;
    println!("written to {}", path.display());
    Ok(())
}
