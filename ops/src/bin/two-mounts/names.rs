//! Names: what one mount does with them, the other goes by at once.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use crate::case::{At, Count, Two, Wrong, appending, holds, refused};

/// B has just used a name. A gives the name to another file. What B then writes by the name is in
/// that file, and not in the one that had the name.
pub fn stale_name(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        let kind = ["rewrite", "append", "rewrite of a made one", "append to a replaced one"];
        let kind = kind[round as usize % 4];
        count.expect(format!("round {round}, {kind}"), stale_name_once(two, round));
    }
    count
}

fn stale_name_once(two: &Two, round: u32) -> Result<(), Wrong> {
    let (a, b) = two.in_turn(round / 4);
    let (name, old) = (format!("t{round}"), format!("t{round}-1"));
    fs::write(a.join(&name), "precious\n").at("first write")?;
    holds(&b.join(&name), b"precious\n")?;
    let mut new: &[u8] = b"next\n";
    match round % 4 {
        0 => {
            fs::rename(a.join(&name), a.join(&old)).at("rename")?;
            fs::write(b.join(&name), "next\n").at("write by the name")?;
        }
        1 => {
            fs::rename(a.join(&name), a.join(&old)).at("rename")?;
            appending(&b.join(&name))?.write_all(b"next\n").at("append by the name")?;
        }
        2 => {
            fs::rename(a.join(&name), a.join(&old)).at("rename")?;
            fs::write(a.join(&name), "made anew\n").at("second write")?;
            fs::write(b.join(&name), "next\n").at("write by the name")?;
        }
        _ => {
            fs::hard_link(a.join(&name), a.join(&old)).at("link")?;
            fs::write(a.join("new"), "made anew\n").at("second write")?;
            fs::rename(a.join("new"), a.join(&name)).at("replace")?;
            appending(&b.join(&name))?.write_all(b"next\n").at("append by the name")?;
            new = b"made anew\nnext\n";
        }
    }
    two.both_hold(&old, b"precious\n")?;
    two.both_hold(&name, new)
}

/// The same with a folder that is renamed and made anew.
pub fn stale_folder(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        count.expect(format!("round {round}"), stale_folder_once(two, round));
    }
    count
}

fn stale_folder_once(two: &Two, round: u32) -> Result<(), Wrong> {
    let (a, b) = two.in_turn(round);
    let (name, old) = (format!("d{round}"), format!("d{round}-1"));
    fs::create_dir(a.join(&name)).at("mkdir")?;
    fs::write(a.join(&name).join("f"), "precious\n").at("first write")?;
    holds(&b.join(&name).join("f"), b"precious\n")?;
    fs::rename(a.join(&name), a.join(&old)).at("rename")?;
    fs::create_dir(a.join(&name)).at("mkdir again")?;
    fs::write(b.join(&name).join("f"), "x\n").at("write by the name")?;
    fs::write(b.join(&name).join("g"), "y\n").at("write of another name")?;
    two.both_hold(&format!("{old}/f"), b"precious\n")?;
    two.both_hold(&format!("{name}/f"), b"x\n")?;
    two.both_hold(&format!("{name}/g"), b"y\n")?;
    refused(fs::metadata(a.join(&old).join("g")), ErrorKind::NotFound)
}

/// What A makes, renames and removes shows on B in stat, in a listing and in an open, though B has
/// asked for the name before.
pub fn names_at_once(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        let (a, b) = two.in_turn(round);
        let (name, later) = (format!("n{round}"), format!("m{round}"));
        let is_dir = round % 4 > 1;
        let seen = |count: &mut Count, step: &str, name: &str, want: bool| {
            let order: [Look; 3] = match round % 3 {
                0 => [by_stat, by_listing, by_open],
                1 => [by_listing, by_open, by_stat],
                _ => [by_open, by_stat, by_listing],
            };
            for look in order {
                count.expect(format!("{step} {name}"), look(b, name, want));
            }
        };
        seen(&mut count, "before", &name, false);
        seen(&mut count, "before", &later, false);
        let made = if is_dir {
            fs::create_dir(a.join(&name))
        } else {
            fs::write(a.join(&name), "content")
        };
        count.expect("make", made.at(&name));
        seen(&mut count, "made", &name, true);
        count.expect("rename", fs::rename(a.join(&name), a.join(&later)).at(&name));
        seen(&mut count, "renamed from", &name, false);
        seen(&mut count, "renamed to", &later, true);
        let gone =
            if is_dir { fs::remove_dir(a.join(&later)) } else { fs::remove_file(a.join(&later)) };
        count.expect("remove", gone.at(&later));
        seen(&mut count, "removed", &later, false);
    }
    count
}

/// Whether a name is there, in one of the ways that programs ask.
type Look = fn(&Path, &str, bool) -> Result<(), Wrong>;

fn by_stat(dir: &Path, name: &str, want: bool) -> Result<(), Wrong> {
    answers("stat", fs::metadata(dir.join(name)), want)
}

fn by_open(dir: &Path, name: &str, want: bool) -> Result<(), Wrong> {
    answers("open", fs::File::open(dir.join(name)), want)
}

fn answers<T>(what: &str, answer: io::Result<T>, want: bool) -> Result<(), Wrong> {
    let outcome = if want { answer.map(drop).at("") } else { refused(answer, ErrorKind::NotFound) };
    outcome.map_err(|why| format!("{what}: {why}"))
}

fn by_listing(dir: &Path, name: &str, want: bool) -> Result<(), Wrong> {
    let mut times = 0;
    for entry in fs::read_dir(dir).at("listing")? {
        times += u32::from(entry.at("listing")?.file_name() == name);
    }
    if times == u32::from(want) { Ok(()) } else { Err(format!("listed {times} times")) }
}

/// Of two who make the same name at the same time one has made it.
pub fn exclusive(two: &Two) -> Count {
    let mut count = Count::default();
    fs::write(two.a.join("other"), "").expect("a file");
    for round in two.rounds() {
        let name = format!("x{round}");
        let make = |dir: &Path| match round % 3 {
            0 => OpenOptions::new().write(true).create_new(true).open(dir.join(&name)).map(drop),
            1 => fs::create_dir(dir.join(&name)),
            _ => fs::hard_link(dir.join("other"), dir.join(&name)),
        };
        let outcome = match at_once(|| make(&two.a), || make(&two.b)) {
            (Ok(()), lost) | (lost, Ok(())) => refused(lost, ErrorKind::AlreadyExists),
            (Err(a), Err(b)) => Err(format!("nobody: {a}, {b}")),
        };
        let kind = ["create", "mkdir", "link"][round as usize % 3];
        count.expect(format!("round {round}, {kind}"), outcome);
    }
    count
}

/// Two who open the same new name to append, with O_CREAT alone, have the same file.
pub fn created_together(two: &Two) -> Count {
    let mut count = Count::default();
    for round in two.rounds() {
        let name = format!("c{round}");
        let append =
            |dir: &Path, line: &[u8]| appending(&dir.join(&name))?.write_all(line).at("append");
        let (a, b) = at_once(|| append(&two.a, b"line of a\n"), || append(&two.b, b"line of b\n"));
        let outcome = a.and(b).and_then(|()| {
            let either = two.both_hold(&name, b"line of a\nline of b\n");
            either.or_else(|_| two.both_hold(&name, b"line of b\nline of a\n"))
        });
        count.expect(format!("round {round}"), outcome);
    }
    count
}

/// Runs both, as nearly at the same time as can be.
pub fn at_once<T: Send, U: Send>(
    one: impl FnOnce() -> T + Send,
    other: impl FnOnce() -> U + Send,
) -> (T, U) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            start.wait();
            one()
        });
        start.wait();
        let other = other();
        (one.join().expect("no panic"), other)
    })
}
