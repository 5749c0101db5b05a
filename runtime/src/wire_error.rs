//! [`WireError`]: what stored or sent bytes (`wire.rs`) are refused for.

use std::fmt;

/// What bytes from outside can be wrong in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    Short {
        have: usize,
        need: usize,
    },
    Type {
        want: u16,
        found: u16,
    },
    Version {
        kind: u16,
        newest: u16,
        found: u16,
    },
    /// Of this protocol, and not known.
    Message {
        found: u16,
    },
    Corrupt(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Short { have, need } => write!(f, "{have} bytes where {need} are needed"),
            WireError::Type { want, found } => write!(f, "type {found}, expected {want}"),
            WireError::Version { kind, newest, found } => write!(
                f,
                "type {kind} has version {found}, this build knows up to {newest}; use a newer one"
            ),
            WireError::Message { found } => {
                write!(f, "message {found} is of a later build; update this one")
            }
            WireError::Corrupt(what) => write!(f, "corrupt bytes: {what}"),
        }
    }
}

impl std::error::Error for WireError {}
