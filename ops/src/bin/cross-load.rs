//! `cross-load WRITER READER`: writes files in the folder WRITER and reads each back in READER,
//! where another mount shows the same folder, until standard input ends. Then prints an `Outcome`
//! as JSON.
//!
//! A program, not a thread of the test that starts it: a process that has a file of a mount open
//! must not fork while the mount hangs. In the child that copy is closed, which flushes the file,
//! which waits for the mount; and the child may be what was to mend it.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use t3fs_ops::cross_load::Outcome;

const ERRORS_MAX: usize = 20;
const FILE_LEN: u64 = 200_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [writer, reader] = args.as_slice() else {
        eprintln!("usage: cross-load WRITER READER");
        return ExitCode::from(2);
    };
    let outcome = run(Path::new(writer), Path::new(reader), &stopped_by_standard_input());
    match serde_json::to_writer(io::stdout(), &outcome) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("cross-load: {err}");
            ExitCode::FAILURE
        }
    }
}

/// True once standard input has ended, with whoever held its other end.
fn stopped_by_standard_input() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    thread::spawn(move || {
        // An error ends it as well.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stopped.store(true, Ordering::Relaxed);
    });
    stop
}

fn run(writer: &Path, reader: &Path, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome { files: 0, longest: Duration::ZERO, errors: Vec::new() };
    while !stop.load(Ordering::Relaxed) && outcome.errors.len() < ERRORS_MAX {
        let began = Instant::now();
        if let Err(err) = write_and_verify(writer, reader, outcome.files) {
            outcome.errors.push(format!("file {}: {err}", outcome.files));
        }
        outcome.files += 1;
        outcome.longest = outcome.longest.max(began.elapsed());
    }
    outcome
}

/// One file: written and fsynced here, found and read there, then removed there.
fn write_and_verify(writer: &Path, reader: &Path, number: u64) -> Result<(), String> {
    let name = format!("load-{number}");
    let content: Vec<u8> = (0..FILE_LEN).map(|i| (i.wrapping_mul(number + 7) >> 3) as u8).collect();
    let (mine, theirs) = (writer.join(&name), reader.join(&name));
    let step = |what: &'static str| move |err: io::Error| format!("{what}: {err}");
    let mut file = fs::File::create(&mine).map_err(step("create"))?;
    file.write_all(&content).map_err(step("write"))?;
    file.sync_all().map_err(step("fsync"))?;
    drop(file);
    let mut read = Vec::new();
    let mut file = fs::File::open(&theirs).map_err(step("open"))?;
    file.read_to_end(&mut read).map_err(step("read"))?;
    if read != content {
        let at = read.iter().zip(&content).position(|(a, b)| a != b);
        return Err(format!("WRONG: {} of {} bytes, at {at:?}", read.len(), content.len()));
    }
    fs::remove_file(&theirs).map_err(step("remove"))
}
