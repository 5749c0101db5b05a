//! Goal: a listing gives every entry once, however it is cut into replies and whatever is removed
//! behind it, and a position stays where it was given. Method: the cursor against a sorted list of
//! names, without a kernel.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// One reply of at most `fits` names, as `list` makes it, out of pages of `page` names.
fn reply(
    c: &mut Cursor,
    names: &BTreeSet<String>,
    from: u64,
    fits: usize,
    page: usize,
) -> Vec<(u64, String)> {
    let Resume { after, mut skip } = c.resume(from);
    let mut after = String::from_utf8(after).unwrap();
    let mut at = from.max(DOTS);
    let mut out = Vec::new();
    'reply: loop {
        let rest = names.range(after.clone()..).filter(|n| **n != after);
        let found: Vec<String> = rest.take(page.max(skip.needs() as usize)).cloned().collect();
        let Some(last) = found.last() else { break };
        after.clone_from(last);
        let old = skip.take(found.iter().map(|n| n.as_bytes()));
        if old < found.len() || !skip.goes_on() {
            skip = Skip::Count(0);
        }
        for name in found.into_iter().skip(old) {
            if out.len() == fits {
                break 'reply;
            }
            let position = c.position(at, name.as_bytes());
            c.gave(at, position, name.as_bytes());
            at = position;
            out.push((position, name));
        }
    }
    if !out.is_empty() {
        c.last = out.iter().map(|(o, n)| (*o, n.clone().into_bytes())).collect();
    }
    out
}

fn names(n: usize) -> BTreeSet<String> {
    (0..n).map(|i| format!("f{i:05}")).collect()
}

/// All that is left from a position on.
fn rest(c: &mut Cursor, names: &BTreeSet<String>, mut from: u64, fits: usize) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let r = reply(c, names, from, fits, 50);
        let Some((last, _)) = r.last() else { return seen };
        from = *last;
        seen.extend(r.into_iter().map(|(_, n)| n));
    }
}

#[test]
fn every_entry_once_with_any_size_of_replies() {
    let names = names(1000);
    for fits in [1, 7, 100, 5000] {
        let seen = rest(&mut Cursor::default(), &names, 0, fits);
        assert!(seen.iter().eq(names.iter()), "replies of {fits}");
    }
}

/// rm -rf reads, removes what it read, and goes on; its buffer ends inside our reply.
#[test]
fn removal_behind_the_reader_skips_nothing() {
    let mut names = names(1000);
    let (mut c, mut from, mut seen) = (Cursor::default(), 0, 0);
    loop {
        let r = reply(&mut c, &names, from, 100, 128);
        let taken: Vec<_> = r.into_iter().take(60).collect();
        let Some((last, _)) = taken.last() else { break };
        from = *last;
        for (_, n) in taken {
            assert!(names.remove(&n), "{n} twice");
            seen += 1;
        }
    }
    assert_eq!((seen, names.len()), (1000, 0));
}

#[test]
fn seekdir_and_rewinddir() {
    let mut all = names(300);
    let mut c = Cursor::default();
    let first = reply(&mut c, &all, 0, 100, 128);
    let second = reply(&mut c, &all, first[99].0, 100, 128);
    let back = reply(&mut c, &all, first[10].0, 5, 128);
    assert_eq!(back[0], first[11], "unchanged, so that it has the position that it had");
    let again = reply(&mut c, &all, second[50].0, 5, 128);
    assert_eq!(again[0], second[51]);
    all.insert("a-new-one".into());
    assert_eq!(reply(&mut c, &all, 0, 1, 128)[0].1, "a-new-one");
    let unknown = reply(&mut Cursor::default(), &all, 52, 1, 128);
    assert_eq!(unknown[0].1, *all.iter().nth(50).unwrap());
}

/// Entries before a position were removed, and the position stood for another place: it was a count
/// from the last reply before it.
#[test]
fn a_position_stays_where_it_was_given() {
    let mut all = names(1000);
    let mut c = Cursor::default();
    let mut given = Vec::new();
    while given.len() < 1000 {
        let from = given.last().map_or(0, |(o, _): &(u64, String)| *o);
        given.extend(reply(&mut c, &all, from, 90, 128));
    }
    for i in (0..700).filter(|i| i % 3 != 0) {
        all.remove(&given[i].1);
    }
    all.insert("f00123-between".into());
    for (position, name) in given.iter().take(999) {
        let new = |n: &&String| n.ends_with("between") && !all.contains(name);
        let next = all.range(name.clone()..).find(|n| *n != name && !new(n)).unwrap();
        let told = reply(&mut c, &all, *position, 3, 128);
        let told: Vec<&String> = told.iter().map(|(_, n)| n).collect();
        // A new one may be told or not where its neighbours are gone.
        let old = told.iter().find(|n| all.contains(name) || !n.ends_with("between"));
        assert_eq!(old, Some(&next), "behind {name}");
    }
}

/// Any mix of reading, seeking to any position that was ever given, removing and making. Of what is
/// there all the time, the rest of a listing holds just what is behind the position's entry.
#[test]
fn positions_hold_under_any_changes() {
    for seed in 1..200_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let mut all = names(400);
        let mut c = Cursor::default();
        let mut known: BTreeMap<u64, String> = BTreeMap::new();
        let (mut from, mut made) = (0, BTreeSet::new());
        for _ in 0..60 {
            match random(4) {
                0 | 1 => {
                    let fits = random(60) as usize + 1;
                    let told = reply(&mut c, &all, from, fits, random(90) as usize + 10);
                    let taken = random(told.len() as u64 + 1) as usize;
                    for (position, name) in told.into_iter().take(taken) {
                        let before = known.insert(position, name.clone());
                        assert!(before.is_none_or(|b| b == name), "seed {seed}: {position} moved");
                        from = position;
                    }
                }
                2 => {
                    let start = format!("f{:05}", random(400));
                    let some: Vec<String> =
                        all.range(start..).take(random(40) as usize).cloned().collect();
                    some.iter().for_each(|n| _ = all.remove(n));
                    let new = format!("f{:05}-{}", random(400), random(1 << 40));
                    made.insert(new.clone());
                    all.insert(new);
                }
                _ => {
                    let to = known.len() as u64;
                    let to = known.iter().nth(random(to.max(1)) as usize);
                    from = to.map_or(from, |(position, _)| *position);
                }
            }
        }
        let Some(name) = known.get(&from) else { continue };
        let old = |n: &&String| !made.contains(*n);
        let told = rest(&mut c, &all, from, 37);
        let want = all.iter().filter(|n| *n > name);
        assert!(told.iter().filter(old).eq(want.clone().filter(old)), "seed {seed}");
        let told: BTreeSet<&String> = told.iter().collect();
        assert!(want.into_iter().all(|n| told.contains(n)), "seed {seed}: a new one is missing");
    }
}

#[test]
fn memory_has_a_limit() {
    let mut c = Cursor::default();
    for at in DOTS..DOTS + 2 * PRINTS_MAX as u64 + 70_000 {
        c.gave(at, at + 1, format!("f{at:08}").as_bytes());
    }
    assert!(c.prints.len() <= PRINTS_MAX && c.marks.len() <= MARKS_MAX);
    let Resume { skip, .. } = c.resume(c.end - 1000);
    assert!(matches!(skip, Skip::Known(_)), "late positions stay exact");
    for at in 0..3 * MARKS_MAX as u64 {
        // Each begins anew somewhere else.
        c.gave(at, c.end, b"x");
    }
    assert!(c.marks.len() <= MARKS_MAX);
}

#[test]
fn fetches_follow_what_fits() {
    let mut c = Cursor::default();
    assert_eq!(c.fetch(), FIRST_FETCH);
    c.last = (0..700).map(|i| (i, Vec::new())).collect();
    assert_eq!(c.fetch(), 701);
    c.last = (0..9000).map(|i| (i, Vec::new())).collect();
    assert_eq!(c.fetch(), FETCH_MAX);
}
