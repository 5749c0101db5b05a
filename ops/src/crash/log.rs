//! The log of a crash test: one JSON object per line, written by `crash-writer`, read by the check.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A file from its creation to its end, whatever it is called meanwhile.
pub type FileId = u64;

/// One operation. Paths are relative to the folder that the writer works in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Mkdir { path: String },
    Rmdir { path: String },
    Create { path: String, file: FileId },
    Unlink { path: String },
    Rename { from: String, to: String },
    Write { file: FileId, offset: u64, length: u64, seed: u64 },
    Fsync { file: FileId },
    FsyncDir { path: String },
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Begin { seq: usize, op: Op },
    End { seq: usize },
}

/// The writing side.
pub struct LogWriter {
    file: File,
    next: usize,
}

impl LogWriter {
    pub fn create(path: &Path) -> io::Result<LogWriter> {
        let file = File::options().write(true).create_new(true).open(path)?;
        Ok(LogWriter { file, next: 0 })
    }

    /// Logs `op`, runs it, logs that it ended. An acknowledged fsync is on disk before we go on.
    pub fn around(&mut self, op: &Op, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let seq = self.next;
        self.next += 1;
        self.append(&Line::Begin { seq, op: op.clone() })?;
        run()?;
        self.append(&Line::End { seq })?;
        if matches!(op, Op::Fsync { .. } | Op::FsyncDir { .. }) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }
}

/// What a log says: the operations in order. All but the last have ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct History {
    pub ops: Vec<Op>,
    /// How many of `ops` ended; the one after them, if any, was cut short.
    pub ended: usize,
}

impl History {
    /// # Errors
    /// The log cannot be read, or is not one that a `LogWriter` wrote.
    pub fn read(path: &Path) -> io::Result<History> {
        let mut history = History::default();
        for line in fs::read_to_string(path)?.lines() {
            let in_order = match serde_json::from_str(line)? {
                Line::Begin { seq, op } => {
                    history.ops.push(op);
                    seq == history.ops.len() - 1 && seq == history.ended
                }
                Line::End { seq } => {
                    history.ended += 1;
                    seq == history.ops.len() - 1
                }
            };
            if !in_order {
                let message = format!("{}: out of order: {line}", path.display());
                return Err(io::Error::other(message));
            }
        }
        Ok(history)
    }

    /// Number of operations that an acknowledged fsync made durable, itself included.
    pub fn durable(&self) -> usize {
        let is_sync = |op: &Op| matches!(op, Op::Fsync { .. } | Op::FsyncDir { .. });
        self.ops[..self.ended].iter().rposition(is_sync).map_or(0, |last| last + 1)
    }
}
