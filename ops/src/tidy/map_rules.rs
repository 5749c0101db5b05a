//! The rule `map-of-the-tree`: what ARCHITECTURE.md names stands in the tree.
//!
//! - A path in backquotes (`ops/landed`, `meta/holds.rs`) is the end, or the middle, of a path of
//!   the tree. A file named without its folder is, in a row of a table, one below the place of the
//!   row; elsewhere no other file has its name, so that readers need not guess.
//! - `Type::name` and `module::name` are defined: a function or constant in a file that names the
//!   type or is the module, or a part of the type itself.

use std::path::{Path, PathBuf};

use super::Finding;
use super::lex::{self, Token};

const RULE: &str = "map-of-the-tree";
pub const MAP: &str = "ARCHITECTURE.md";

/// Applies the rule to the text of the map. `tree`: all files; `sources`: those of Rust, with their
/// texts.
pub fn check(text: &str, tree: &[PathBuf], sources: &[(PathBuf, String)]) -> Vec<Finding> {
    let tree: Vec<String> = tree.iter().map(|path| format!("/{}", path.display())).collect();
    let sources: Vec<Source> = sources.iter().map(|(path, text)| Source::new(path, text)).collect();
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let row = line.starts_with('|').then(|| quoted(line).next()).flatten();
        for word in quoted(line) {
            let wrong = match word.split_once("::") {
                Some((of, name)) if is_name(of) && is_name(name) => {
                    let defined = sources.iter().any(|source| source.defines(of, name));
                    (!defined).then(|| format!("`{word}` is defined nowhere"))
                }
                _ => path_is_wrong(word, row, &tree),
            };
            let finding = |message| Finding { path: MAP.into(), line: at + 1, rule: RULE, message };
            findings.extend(wrong.map(finding));
        }
    }
    findings
}

/// What stands in backquotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Why a word, if it is a path, is a wrong one. `row`: the place that its row of a table is about.
fn path_is_wrong(word: &str, row: Option<&str>, tree: &[String]) -> Option<String> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
    let (folder, file) = (word.contains('/'), word.ends_with(".rs"));
    if !word.chars().all(is_of_path) || !(folder || file) {
        return None;
    }
    if folder {
        // `nodes/src/data*` is whatever begins so.
        let (inner, open) = match word.strip_suffix('*') {
            Some(begin) => (format!("/{begin}"), true),
            None => (format!("/{}", word.trim_end_matches('/')), false),
        };
        let below = format!("{inner}/");
        let is_there = |path: &String| {
            path.ends_with(&inner) || path.contains(&below) || open && path.contains(&inner)
        };
        return (!tree.iter().any(is_there)).then(|| format!("`{word}` is not in the tree"));
    }
    let end = format!("/{word}");
    let named: Vec<&str> = tree.iter().filter(|p| p.ends_with(&end)).map(|p| &p[1..]).collect();
    match row {
        Some(place) if named.iter().any(|path| path.starts_with(place)) => None,
        Some(place) => Some(format!("`{word}` is not below `{place}`")),
        None if named.len() == 1 => None,
        None if named.is_empty() => Some(format!("`{word}` is not in the tree")),
        None => {
            let all = named.join(", ");
            Some(format!("`{word}` may be any of {all}; name its folder too"))
        }
    }
}

struct Source<'a> {
    path: &'a Path,
    tokens: Vec<Token>,
}

impl<'a> Source<'a> {
    fn new(path: &'a Path, text: &str) -> Source<'a> {
        Source { path, tokens: lex::tokens(text) }
    }

    fn defines(&self, of: &str, name: &str) -> bool {
        let has = |before: &[&str], word: &str| {
            self.tokens
                .windows(2)
                .any(|two| before.contains(&two[0].text.as_str()) && two[1].text == word)
        };
        let names = |word: &str| self.tokens.iter().any(|token| token.text == word);
        let is_module = || {
            let mut parts = self.path.iter().filter_map(|part| part.to_str());
            parts.any(|part| part.strip_suffix(".rs").unwrap_or(part) == of)
        };
        let item = has(&["fn", "const", "static"], name) && (names(of) || is_module());
        item || names(name) && has(&["struct", "enum", "trait"], of)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a name that is gone is found, and one that two files have outside of the table.
    use super::*;

    fn found(map: &str) -> Vec<(usize, String)> {
        let sources = [
            ("a/src/client/opens.rs", "impl Client { fn open(&self) {} }"),
            ("a/src/client/mod.rs", "pub struct Client { room: u8 } // fn gone"),
            ("a/src/meta/opens.rs", "const OPENS_MAX: u8 = 1;"),
            ("a/src/meta/news.rs", "enum Reported { Stale } fn of() { Client::call() }"),
        ];
        let sources = sources.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
        let mut tree: Vec<PathBuf> = sources.iter().map(|(path, _)| path.clone()).collect();
        tree.push("ops/cluster/start".into());
        let findings = check(map, &tree, &sources);
        assert!(findings.iter().all(|f| f.rule == RULE && f.path == Path::new(MAP)));
        findings.into_iter().map(|f| (f.line, f.message)).collect()
    }

    #[test]
    fn what_is_there_is_not_found() {
        for map in [
            "`meta/opens.rs`, `a/src/client/opens.rs` and `news.rs`",
            "`a/`, `src/meta`, `ops/cluster`, `client/`, `a/src/cl*`, `start`",
            "| `a/src/client/` | `opens.rs` is one | `mod.rs` |",
            "`Client::open`, `Client::room`, `Reported::Stale`, `opens::OPENS_MAX`, `meta::of`",
            "words, `Client`, `protocol!`, `std::{fs,net}`, `{type, version}` and `t3fs stats`",
        ] {
            assert_eq!(found(map), [], "{map}");
        }
    }

    /// Regression (a newcomer): the map named `Door::origin`, which had become another name.
    #[test]
    fn what_is_gone_is_found() {
        for (map, says) in [
            ("\n`Client::gone`", "`Client::gone` is defined nowhere"),
            ("\n`Client::call`", "defined nowhere"),
            ("\n`Session::open`", "defined nowhere"),
            ("\n`meta/mod.rs`", "`meta/mod.rs` is not in the tree"),
            ("\n`a/src/store/`", "not in the tree"),
            ("\n`gone.rs`", "not in the tree"),
            ("\n`opens.rs`", "a/src/client/opens.rs, a/src/meta/opens.rs; name its folder"),
            ("\n| `a/src/meta/` | `mod.rs` |", "`mod.rs` is not below `a/src/meta/`"),
        ] {
            let found = found(map);
            assert!(found.len() == 1 && found[0].0 == 2, "{map}: {found:?}");
            assert!(found[0].1.contains(says), "{map}: {found:?}");
        }
    }
}
