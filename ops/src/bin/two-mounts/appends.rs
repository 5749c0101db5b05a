//! Appends: every line is there once, whole, whoever else appends or cuts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::case::{At, Count, Two, Wrong, appending, content, same};

/// Length of the long lines: more than one page, and more than a stream's buffer.
const LONG: usize = 70_000;

/// Every tenth is long.
fn line(writer: &str, number: u32) -> String {
    let length = if number % 10 == 9 { LONG } else { (number as usize * 37) % 150 };
    format!("{writer} {number} {} end\n", "x".repeat(length))
}

/// Adds to `count` one try for each wanted line: it is there once. What is there and not wanted is
/// wrong too.
fn lines_are_there(count: &mut Count, path: &Path, want: &[String]) {
    let found = match fs::read(path).at("read") {
        Ok(found) => String::from_utf8_lossy(&found).into_owned(),
        Err(why) => return count.expect("all", Err(why)),
    };
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for line in found.split_inclusive('\n') {
        *times.entry(line).or_default() += 1;
    }
    for line in want {
        let outcome = match times.remove(line.as_str()) {
            Some(1) => Ok(()),
            other => Err(format!("there {} times", other.unwrap_or(0))),
        };
        count.expect(line[..line.len().min(12)].trim(), outcome);
    }
    for strange in times.keys() {
        let nulls = strange.bytes().filter(|byte| *byte == 0).count();
        let start: String = strange.chars().take(30).collect();
        let why = format!("{} bytes, {nulls} zeros: {start:?}", strange.len());
        count.expect("a line that nobody wrote", Err(why));
    }
}

fn on_both(count: &mut Count, two: &Two, name: &str, want: &[String]) {
    for dir in [&two.a, &two.b] {
        lines_are_there(count, &dir.join(name), want);
    }
}

/// `echo line >>file` in turn on both mounts.
pub fn in_turn(two: &Two) -> Count {
    let mut count = Count::default();
    let mut want = Vec::new();
    for round in two.rounds() {
        let (dir, _) = two.in_turn(round);
        let text = line("turn", round);
        match appending(&dir.join("log"))
            .and_then(|mut f| f.write_all(text.as_bytes()).at("append"))
        {
            Ok(()) => want.push(text),
            Err(why) => count.expect(round, Err(why)),
        }
    }
    on_both(&mut count, two, "log", &want);
    // In turn, so in this order.
    let outcome = fs::read(two.a.join("log")).at("read");
    count.expect("order", outcome.and_then(|found| same(&found, want.concat().as_bytes())));
    count
}

/// Both keep their descriptors, and write in turn.
pub fn kept(two: &Two) -> Count {
    let mut count = Count::default();
    let files = appending(&two.a.join("log")).and_then(|a| Ok([a, appending(&two.b.join("log"))?]));
    let mut files = match files {
        Ok(files) => files,
        Err(why) => {
            count.expect("open", Err(why));
            return count;
        }
    };
    let mut want = Vec::new();
    for round in two.rounds() {
        let text = line("kept", round);
        match files[round as usize % 2].write_all(text.as_bytes()) {
            Ok(()) => want.push(text),
            Err(why) => count.expect(round, Err(why.to_string())),
        }
    }
    for file in &files {
        count.expect("fsync", file.sync_all().at("fsync"));
    }
    on_both(&mut count, two, "log", &want);
    drop(files);
    on_both(&mut count, two, "log", &want);
    count
}

/// Four writers on each mount, each with its own descriptor, as logging libraries do it.
pub fn loggers(two: &Two) -> Count {
    let mut files = Vec::new();
    for writer in 0..8 {
        let (dir, _) = two.in_turn(writer);
        match appending(&dir.join("log")) {
            Ok(file) => files.push(file),
            Err(why) => {
                let mut count = Count::default();
                count.expect("open", Err(why));
                return count;
            }
        }
    }
    all_at_once(two, |writer, text| (&files[writer]).write_all(text).at("append"))
}

/// The same, opening the file for each line.
pub fn loggers_anew(two: &Two) -> Count {
    all_at_once(two, |writer, text| {
        let (dir, _) = two.in_turn(writer as u32);
        appending(&dir.join("log"))?.write_all(text).at("append")
    })
}

/// Eight writers at a time; what they were told is written is there.
fn all_at_once(two: &Two, write: impl Fn(usize, &[u8]) -> Result<(), Wrong> + Sync) -> Count {
    let write = &write;
    let outcomes: Vec<(Count, Vec<String>)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                scope.spawn(move || {
                    let (mut count, mut want) = (Count::default(), Vec::new());
                    for round in two.rounds() {
                        let text = line(&format!("writer-{writer}"), round);
                        match write(writer, text.as_bytes()) {
                            Ok(()) => want.push(text),
                            Err(why) => count.expect(writer, Err(why)),
                        }
                    }
                    (count, want)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    });
    let (mut count, mut want) = (Count::default(), Vec::new());
    for (errors, lines) in outcomes {
        count.add(errors);
        want.extend(lines);
    }
    // The descriptors of `loggers` are still open here.
    for dir in [&two.a, &two.b] {
        count.expect("fsync", appending(&dir.join("log")).and_then(|f| f.sync_all().at("fsync")));
    }
    on_both(&mut count, two, "log", &want);
    count
}

/// A rewrites a file to which B appends: B's next line is right behind A's text.
pub fn after_rewrite(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        let kind = ["opened anew", "descriptor kept"][round as usize % 2];
        count.expect(format!("round {round}, {kind}"), after_rewrite_once(two, round));
    }
    count
}

fn after_rewrite_once(two: &Two, round: u32) -> Result<(), Wrong> {
    let (a, b) = two.in_turn(round / 2);
    let name = format!("log{round}");
    let anew = round.is_multiple_of(2);
    let mut file = appending(&b.join(&name))?;
    file.write_all(&content(1, 5_000)).and_then(|()| file.sync_all()).at("first append")?;
    let mut text = content(u64::from(round), 1_000 + round as usize);
    fs::write(a.join(&name), &text).at("rewrite")?;
    if anew {
        file = appending(&b.join(&name))?;
    }
    file.write_all(b"behind\n").and_then(|()| file.sync_all()).at("append")?;
    text.extend_from_slice(b"behind\n");
    two.both_hold(&name, &text)?;
    file.write_all(b"again\n").at("second append")?;
    drop(file);
    text.extend_from_slice(b"again\n");
    two.both_hold(&name, &text)
}

/// A copies and empties the log that B writes to, between two of B's lines: none is lost.
pub fn copytruncate(two: &Two) -> Count {
    let mut count = Count::default();
    let (mut want, mut number) = (Vec::new(), 0);
    let outcome = appending(&two.b.join("log")).and_then(|mut log| {
        for round in two.rounds() {
            for _ in 0..10 {
                let text = line("copied", number);
                log.write_all(text.as_bytes()).at("append")?;
                want.push(text);
                number += 1;
            }
            log.sync_all().at("fsync")?;
            copy_and_cut(&two.a, round)?;
        }
        Ok(())
    });
    count.expect("steps", outcome);
    match all_copies(two) {
        Ok(()) => lines_are_there(&mut count, &two.a.join("all"), &want),
        Err(why) => count.expect("copies", Err(why)),
    }
    count
}

/// `logrotate` with `copytruncate`.
fn copy_and_cut(dir: &Path, number: u32) -> Result<(), Wrong> {
    let copied = fs::read(dir.join("log")).at("copy")?;
    fs::write(dir.join(format!("log.{number}")), copied).at("copy")?;
    File::options().write(true).open(dir.join("log")).and_then(|f| f.set_len(0)).at("truncate")
}

/// Puts everything that was copied, and what is in the log, into `all`.
fn all_copies(two: &Two) -> Result<(), Wrong> {
    let mut all = Vec::new();
    for number in 0..two.rounds {
        // The last rounds may not have been: there was no time.
        all.extend(fs::read(two.a.join(format!("log.{number}"))).unwrap_or_default());
    }
    all.extend(fs::read(two.a.join("log")).at("read")?);
    fs::write(two.a.join("all"), all).at("write")
}

fn zeros(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == 0).count()
}

const LAST: &[u8] = b"the last line\n";

/// The same while B writes. A line between copy and truncation is lost, as on any file system, but
/// nothing comes twice, and there are no zeros. Regression: a copy had them in place of lines that
/// were being written under it.
pub fn copytruncate_under_way(two: &Two) -> Count {
    let mut count = Count::default();
    let end = AtomicBool::new(false);
    let cut = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut log = appending(&two.b.join("log"))?;
            for number in 0.. {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                log.write_all(format!("under way {number} end\n").as_bytes()).at("append")?;
                if number % 50 == 0 {
                    log.sync_all().at("fsync")?;
                }
            }
            // Nobody cuts any more.
            log.write_all(LAST).at("append")
        });
        // It exists once the writer has opened it.
        let mut outcome = appending(&two.a.join("log")).map(drop);
        for round in two.rounds() {
            outcome = outcome.and_then(|()| copy_and_cut(&two.a, round));
            thread::sleep(std::time::Duration::from_millis(20));
        }
        end.store(true, Ordering::Relaxed);
        outcome.and(writer.join().expect("no panic"))
    });
    count.expect("steps", cut.and_then(|()| all_copies(two)));
    let all = fs::read(two.a.join("all")).unwrap_or_default();
    let log = fs::read(two.a.join("log")).unwrap_or_default();
    for (what, text) in [("all that was copied", &all), ("the log", &log)] {
        let zeros = zeros(text);
        count.expect(what, if zeros == 0 { Ok(()) } else { Err(format!("{zeros} zeros")) });
    }
    let last = if all.ends_with(LAST) { Ok(()) } else { Err("it is not there".into()) };
    count.expect("the last line", last);
    let mut times: BTreeMap<&[u8], u32> = BTreeMap::new();
    for text in all.split_inclusive(|byte| *byte == b'\n') {
        *times.entry(text).or_default() += 1;
    }
    for (text, times) in times {
        let twice = if times == 1 { Ok(()) } else { Err(format!("there {times} times")) };
        count.expect(String::from_utf8_lossy(&text[..text.len().min(30)]), twice);
    }
    count
}

/// B empties the log that A appends to, and A reads it anew: whole lines, and no zeros. Regression
/// (breaker, issue 10): each append moved what A's kernel took for the end from where it had been,
/// and what lay before it was read as zeros in 25 of 25 rounds.
pub fn cut_there(two: &Two) -> Count {
    let mut count = Count::default();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut log = appending(&two.a.join("log"))?;
            while !end.load(Ordering::Relaxed) {
                log.write_all(b"under way\n").at("append")?;
            }
            Ok(())
        });
        for _ in two.rounds() {
            thread::sleep(std::time::Duration::from_millis(50));
            let log =
                File::options().write(true).create(true).truncate(false).open(two.b.join("log"));
            let cut = log.and_then(|log| log.set_len(0)).at("truncate");
            let read = cut.and_then(|()| fs::read(two.a.join("log")).at("read"));
            let whole = |text: Vec<u8>| match text.chunks(10).all(|line| line == b"under way\n") {
                true => Ok(()),
                false => Err(format!("{} of {} bytes are zeros", zeros(&text), text.len())),
            };
            count.expect("what A reads", read.and_then(whole));
        }
        end.store(true, Ordering::Relaxed);
        count.expect("appends", writer.join().expect("no panic"));
    });
    count
}
