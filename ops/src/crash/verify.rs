//! Compares a folder, as it is after crash and restart, with what its log promises.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::content;
use super::log::{FileId, History, Op};
use super::model::{Entry, Namespace};

/// What was found right.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    /// Operations whose outcome is there; those behind it were lost with the process.
    pub prefix: usize,
    /// Operations that had to be there.
    pub durable: usize,
    pub files: usize,
    /// Bytes that an acknowledged fsync covered, all compared.
    pub synced_bytes: u64,
}

/// What is in the folder: `None` for a folder, content for a file.
type Found = BTreeMap<String, Option<Vec<u8>>>;

/// # Errors
/// What is wrong with the folder, for a person to read.
pub fn verify(dir: &Path, history: &History) -> Result<Verified, String> {
    let mut found = Found::new();
    read_tree(dir, "", &mut found).map_err(|err| format!("{}: {err}", dir.display()))?;
    let durable = history.durable();
    let mut names = Namespace::default();
    let mut complaints = Vec::new();
    for prefix in 0..=history.ops.len() {
        if prefix > 0 {
            names.apply(&history.ops[prefix - 1]);
        }
        if prefix < durable {
            continue;
        }
        // Several prefixes may lead to the same names; their files are told apart by content.
        let outcome = differences(&names, &found).and_then(|()| contents(&names, &found, history));
        match outcome {
            Ok(synced_bytes) => {
                let files = found.values().filter(|content| content.is_some()).count();
                return Ok(Verified { prefix, durable, files, synced_bytes });
            }
            Err(complaint) => complaints.push(format!("after {prefix} operations: {complaint}")),
        }
    }
    // The shortest prefix that would do, and the closest: a complaint about content beats all
    // others.
    complaints.sort_by_key(|complaint| !complaint.contains("content"));
    complaints.truncate(3);
    Err(format!(
        "{}: not the outcome of any prefix of {} to {} operations; for example, {}",
        dir.display(),
        durable,
        history.ops.len(),
        complaints.join("; "),
    ))
}

fn read_tree(dir: &Path, prefix: &str, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            found.insert(path.clone(), None);
            read_tree(&entry.path(), &format!("{path}/"), found)?;
        } else {
            found.insert(path, Some(fs::read(entry.path())?));
        }
    }
    Ok(())
}

/// Compares paths and kinds.
fn differences(names: &Namespace, found: &Found) -> Result<(), String> {
    for (path, entry) in &names.entries {
        match (entry, found.get(path)) {
            (Entry::Dir, Some(None)) | (Entry::File(_), Some(Some(_))) => {}
            (_, None) => return Err(format!("{path} is missing")),
            (_, Some(_)) => return Err(format!("{path} is of the wrong kind")),
        }
    }
    match found.keys().find(|path| !names.entries.contains_key(*path)) {
        Some(path) => Err(format!("{path} should not be there")),
        None => Ok(()),
    }
}

/// Compares every file's bytes; returns how many of them an fsync covers.
fn contents(names: &Namespace, found: &Found, history: &History) -> Result<u64, String> {
    let mut synced_bytes = 0;
    for (path, entry) in &names.entries {
        let (Entry::File(file), Some(Some(bytes))) = (entry, found.get(path)) else {
            continue;
        };
        let promise = Promise::of(*file, history);
        promise.check(bytes).map_err(|what| format!("content of {path}: {what}"))?;
        synced_bytes += promise.synced.len() as u64;
    }
    Ok(synced_bytes)
}

/// What a file may contain.
struct Promise<'a> {
    /// As of its last acknowledged fsync.
    synced: Vec<u8>,
    /// Writes after that: any byte of them may be there or not.
    later: Vec<&'a Op>,
}

impl<'a> Promise<'a> {
    fn of(file: FileId, history: &'a History) -> Promise<'a> {
        let is_sync = |op: &Op| *op == Op::Fsync { file };
        let synced_ops = history.ops[..history.ended].iter().rposition(is_sync).unwrap_or(0);
        let is_write = |op: &&Op| matches!(op, Op::Write { file: other, .. } if *other == file);
        let (before, after) = history.ops.split_at(synced_ops);
        let mut synced = Vec::new();
        for op in before.iter().filter(is_write) {
            let Op::Write { offset, length, seed, .. } = op else {
                continue;
            };
            let (start, end) = (*offset as usize, (offset + length) as usize);
            if synced.len() < end {
                synced.resize(end, 0);
            }
            content(*seed, *offset, &mut synced[start..end]);
        }
        Promise { synced, later: after.iter().filter(is_write).collect() }
    }

    fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let synced = self.synced.len();
        if bytes.len() < synced {
            return Err(format!("{} bytes, of which {synced} were synced", bytes.len()));
        }
        let ends = self.later.iter().map(|op| match op {
            Op::Write { offset, length, .. } => (offset + length) as usize,
            _ => 0,
        });
        let longest = ends.fold(synced, usize::max);
        if bytes.len() > longest {
            return Err(format!("{} bytes, but never more than {longest} written", bytes.len()));
        }
        for (offset, byte) in bytes.iter().enumerate() {
            // Beyond what was synced, lost data may leave a hole behind.
            let before = self.synced.get(offset).copied().unwrap_or(0);
            if *byte != before && !self.later.iter().any(|op| writes(op, offset, *byte)) {
                let covered = if offset < synced { "synced" } else { "unsynced" };
                return Err(format!("byte {offset} ({covered}) is {byte:#04x}, not {before:#04x}"));
            }
        }
        Ok(())
    }
}

/// True if `op` put `byte` at `offset`.
fn writes(op: &Op, offset: usize, byte: u8) -> bool {
    let Op::Write { offset: start, length, seed, .. } = op else {
        return false;
    };
    let offset = offset as u64;
    if offset < *start || offset >= start + length {
        return false;
    }
    let mut written = [0];
    content(*seed, offset, &mut written);
    written[0] == byte
}

#[cfg(test)]
mod tests {
    //! Goal: what a crash may leave is accepted, what it may not is refused. Method: folders made
    //! by the writer's own operations, as a crash with and without loss would leave them, then
    //! damaged.
    use super::super::writer::{Writer, execute};
    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        history: History,
    }

    /// A folder in which `done` of `ops` happened; all have ended.
    fn case(ops: &[Op], done: usize) -> Case {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut open = BTreeMap::new();
        for op in &ops[..done] {
            execute(dir.path(), &mut open, op).expect("an operation");
        }
        Case { dir, history: History { ops: ops.to_vec(), ended: ops.len() } }
    }

    fn sample() -> Vec<Op> {
        vec![
            Op::Mkdir { path: "d".into() },
            Op::Create { path: "d/a".into(), file: 1 },
            Op::Write { file: 1, offset: 10, length: 100, seed: 7 },
            Op::Fsync { file: 1 },
            Op::Rename { from: "d/a".into(), to: "b".into() },
            Op::Write { file: 1, offset: 50, length: 100, seed: 8 },
            Op::Create { path: "c".into(), file: 2 },
        ]
    }

    #[test]
    fn every_prefix_behind_the_last_fsync_is_accepted() {
        for done in 4..=7 {
            let case = case(&sample(), done);
            let verified = verify(case.dir.path(), &case.history).expect("a valid outcome");
            assert_eq!((verified.durable, verified.synced_bytes), (4, 110));
        }
    }

    #[test]
    fn a_prefix_before_the_last_fsync_is_refused() {
        for done in 0..2 {
            let case = case(&sample(), done);
            verify(case.dir.path(), &case.history).expect_err("a promise was broken");
        }
    }

    #[test]
    fn a_later_operation_without_an_earlier_one_is_refused() {
        let mut ops = sample();
        let mut reordered = case(&ops, 4);
        // The creation of `c` survived, the rename before it did not.
        fs::write(reordered.dir.path().join("c"), "").expect("a file");
        reordered.history.ops = std::mem::take(&mut ops);
        verify(reordered.dir.path(), &reordered.history).expect_err("not a prefix");
    }

    #[test]
    fn a_changed_synced_byte_is_refused() {
        let case = case(&sample(), 7);
        let path = case.dir.path().join("b");
        let mut bytes = fs::read(&path).expect("content");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("damage");
        let complaint = verify(case.dir.path(), &case.history).expect_err("damaged");
        assert!(complaint.contains("byte 20 (synced)"), "{complaint}");
    }

    #[test]
    fn an_unsynced_byte_may_be_lost_but_not_invented() {
        let case = case(&sample(), 7);
        let path = case.dir.path().join("b");
        let mut bytes = fs::read(&path).expect("content");
        bytes[140] = 0;
        fs::write(&path, &bytes).expect("a loss");
        verify(case.dir.path(), &case.history).expect("lost bytes read as zeros");
        bytes[140] = bytes[141] ^ 0x55;
        fs::write(&path, bytes).expect("damage");
        verify(case.dir.path(), &case.history).expect_err("an invented byte");
    }

    #[test]
    fn the_writers_log_describes_what_it_did() {
        let work = tempfile::tempdir().expect("a temporary folder");
        let (dir, log) = (work.path().join("dir"), work.path().join("log"));
        fs::create_dir(&dir).expect("a folder");
        let mut writer = Writer::new(&dir, &log, 42).expect("a writer");
        for _ in 0..400 {
            writer.step().expect("a step");
        }
        let history = History::read(&log).expect("a log");
        let verified = verify(&dir, &history).expect("nothing was lost");
        assert!(verified.files > 0 && verified.synced_bytes > 0, "{verified:?}");
    }
}
