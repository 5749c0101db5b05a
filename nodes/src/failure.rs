//! How a command ends when not well: one line for the user, and an exit status.

/// The exit status of something that was refused before anything was touched.
pub const REFUSED: u8 = 2;
/// The exit status of something that was tried and failed.
pub const FAILED: u8 = 1;

/// `line` says what is wrong and what to do; empty when that was said already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: u8,
    pub line: String,
}

impl Failure {
    pub fn is_refusal(&self) -> bool {
        self.status == REFUSED
    }
}

pub fn refused(line: impl Into<String>) -> Failure {
    Failure { status: REFUSED, line: line.into() }
}

pub fn failed(line: impl Into<String>) -> Failure {
    Failure { status: FAILED, line: line.into() }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line)
    }
}
