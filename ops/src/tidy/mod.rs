//! `cargo ops tidy`: source checks that the compiler does not make.
//!
//! Each rule has a name, a reason, and one test with a GOOD and a BAD sample. Rules about text look
//! at tokens (`lex`), so comments never trigger them, and strings only that about settings. Rules
//! about layers read the manifests, the one about circles (`circles`) reads all files of a crate
//! together, the one about settings where they are defined, the one about goldens the golden files,
//! and the one about the map (`map_rules`) ARCHITECTURE.md. `check` never writes. Next:
//! `source_rules.rs`, `manifest_rules.rs`, `golden_rules.rs`, `setting_rules.rs` and
//! `map_rules.rs`, the rules themselves.

mod circles;
mod golden_rules;
pub mod lex;
mod manifest_rules;
mod map_rules;
mod reflow;
mod setting_rules;
mod source_rules;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::workspace;

/// One place that breaks one rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    /// Counted from 1.
    pub line: usize,
    pub rule: &'static str,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { path, line, rule, message } = self;
        write!(f, "{}:{line}: {rule}: {message}", path.display())
    }
}

/// Checks every member of the workspace at `root`; an empty answer means tidy.
pub fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut goldens = BTreeSet::new();
    for path in workspace::golden_files(root)? {
        let text = fs::read_to_string(root.join(&path))?;
        goldens.extend(golden_rules::names(&path, &text));
    }
    let mut files = Vec::new();
    for path in workspace::rust_files(root)? {
        let text = fs::read_to_string(root.join(&path))?;
        findings.extend(source_rules::check(&path, &text));
        findings.extend(golden_rules::check(&path, &text, &goldens));
        files.push((path, text));
    }
    findings.extend(circles::check(&files));
    findings.extend(setting_rules::check(&files));
    let map = fs::read_to_string(root.join(map_rules::MAP))?;
    findings.extend(map_rules::check(&map, &workspace::files(root)?, &files));
    for member in workspace::MEMBERS {
        let path = Path::new(member).join("Cargo.toml");
        let text = fs::read_to_string(root.join(&path))?;
        findings.extend(manifest_rules::check(member, &path, &text));
    }
    Ok(findings)
}

/// Breaks comment lines that are too wide; the one thing that is mended without a person.
pub fn fix(root: &Path) -> io::Result<()> {
    for path in workspace::rust_files(root)? {
        let path = root.join(path);
        if let Some(text) = reflow::reflow(&fs::read_to_string(&path)?) {
            fs::write(&path, text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Goal: the tree that these tests were built from is tidy. Method: run the real check on it.

    #[test]
    fn this_work_tree_is_tidy() {
        let findings = super::check(&crate::workspace::root()).expect("the sources are readable");
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}
