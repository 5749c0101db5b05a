//! The rule that what is stored and what is sent is pinned: every frozen type (`*V1`, `*V2`, ...)
//! and every type of `actors/proto` that rkyv archives has a line in a golden file, every variant
//! of an enum one of its own.
//!
//! Golden files are the `.txt` files that `t3fs_runtime::golden` compares; this rule compares names
//! only.

use std::collections::BTreeSet;
use std::path::Path;

use super::Finding;
use super::lex::{self, Token};

/// Where messages are.
const MESSAGES_CRATE: &str = "actors/proto";
const MESSAGES: &str = "actors/proto/src";

/// A type that is archived.
#[derive(Debug, PartialEq, Eq)]
struct Archived {
    name: String,
    line: usize,
    /// Of an enum; empty for a struct.
    variants: Vec<String>,
}

/// A name in a golden file, and the crate that the file is in.
pub type Golden = (String, String);

/// The crate that a file is in: two may have types of one name.
fn crate_of(path: &Path) -> String {
    let folder = if path.starts_with(MESSAGES_CRATE) { Some(MESSAGES_CRATE) } else { None };
    let first = path.iter().next().and_then(|first| first.to_str());
    folder.or(first).unwrap_or_default().to_owned()
}

/// The names that a golden file has: the first word of each line.
pub fn names(path: &Path, text: &str) -> impl Iterator<Item = Golden> {
    let of = crate_of(path);
    let names = text.lines().filter_map(|line| line.split_once(' '));
    names.map(move |(name, _)| (of.clone(), name.to_owned()))
}

/// Checks one file against the names in all golden files.
pub fn check(path: &Path, text: &str, goldens: &BTreeSet<Golden>) -> Vec<Finding> {
    let (is_message, of) = (path.starts_with(MESSAGES), crate_of(path));
    let mut findings = Vec::new();
    for archived in archived(&lex::tokens(text)) {
        let Archived { name, line, variants } = archived;
        if !is_message && !is_frozen(&name) {
            continue;
        }
        let wanted = match variants.is_empty() {
            true => vec![name],
            false => variants.iter().map(|variant| format!("{name}::{variant}")).collect(),
        };
        let pinned = |name: &String| goldens.contains(&(of.clone(), name.clone()));
        for name in wanted.into_iter().filter(|name| !pinned(name)) {
            let message = format!(
                "no golden file pins {name}: list it in `samples!`, and run its test with \
                 T3FS_BLESS=1"
            );
            let path = path.to_path_buf();
            findings.push(Finding { path, line, rule: "golden-for-every-type", message });
        }
    }
    findings
}

/// Whether a name ends with `V` and a number.
fn is_frozen(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    stem.len() < name.len() && stem.len() > 1 && stem.ends_with('V')
}

/// All structs and enums that derive `Archive`, but for those whose name a macro fills in.
fn archived(tokens: &[Token]) -> Vec<Archived> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if text(at) != "derive" || text(at + 1) != "(" {
            continue;
        }
        let end = closing(tokens, at + 1);
        if !tokens[at..end].iter().any(|token| token.text == "Archive") {
            continue;
        }
        // Behind this attribute: others, the visibility, and the item.
        let is_item = |token: &Token| matches!(token.text.as_str(), "struct" | "enum");
        let Some(item) = tokens[end..].iter().position(is_item).map(|i| end + i) else { continue };
        let name = text(item + 1);
        if name == "$" {
            continue;
        }
        let is_enum = text(item) == "enum";
        let variants = if is_enum { variants(tokens, item + 2) } else { Vec::new() };
        found.push(Archived { name: name.to_owned(), line: tokens[item].line, variants });
    }
    found
}

/// The variants of an enum whose body opens at this token.
fn variants(tokens: &[Token], open: usize) -> Vec<String> {
    let end = closing(tokens, open);
    let mut names = Vec::new();
    let mut at = open + 1;
    while at < end {
        match tokens[at].text.as_str() {
            "#" => at = closing(tokens, at + 1) + 1,
            "{" | "(" => at = closing(tokens, at) + 1,
            "," => at += 1,
            name => {
                names.push(name.to_owned());
                at += 1;
            }
        }
    }
    names
}

/// Where the bracket that opens at this token closes.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        #[derive(Clone, Archive, Serialize)]
        #[rkyv(attr = 1)]
        pub(super) struct NodeV12 { enum_like: u32 }
        #[derive(rkyv::Archive)]
        pub enum Sent {
            /// A comment.
            Plain,
            #[rkyv(omit)] Tuple(Vec<u8>, u32),
            Fields { a: u32, b: Option<(u8, u8)> },
        }
        #[derive(Clone, Debug)]
        struct OtherV1;
        id!( #[derive(Archive)] pub struct $name(pub $t) );
    ";

    fn wanted(path: &str, goldens: &[&str]) -> Vec<String> {
        let path = Path::new(path);
        let text: String = goldens.iter().map(|name| format!("{name} 00\n")).collect();
        let goldens = names(&path.with_file_name("golden.txt"), &text).collect();
        let found = check(path, SOURCE, &goldens);
        let name = |finding: Finding| {
            let rest = finding.message.strip_prefix("no golden file pins ").expect("it says so");
            rest.split_once(": ").expect("and why").0.to_owned()
        };
        found.into_iter().map(name).collect()
    }

    /// GOOD: each frozen type, and of messages each type, has a golden; of an enum each variant.
    /// BAD: one that has none.
    #[test]
    fn golden_for_every_type() {
        let all = ["NodeV12", "Sent::Plain", "Sent::Tuple", "Sent::Fields"];
        assert_eq!(wanted("actors/proto/src/x.rs", &[]), all);
        assert_eq!(wanted("actors/proto/src/x.rs", &all), [""; 0]);
        assert_eq!(wanted("actors/proto/src/x.rs", &all[..2]), all[2..]);
        assert_eq!(wanted("actors/src/x.rs", &["Sent::Plain"]), ["NodeV12"]);
        assert_eq!(wanted("nodes/src/x.rs", &["NodeV12"]), [""; 0]);
    }

    /// Goal: a name pins a type of the same crate only.
    #[test]
    fn golden_files_name_types_of_their_crate() {
        let text = "NodeV1 00ff\nSent::Plain -\n\nnoise\n";
        let found = |path: &str| names(Path::new(path), text).collect::<Vec<_>>();
        let of = |of: &str| {
            ["NodeV1", "Sent::Plain"].map(|name| (of.to_owned(), name.to_owned())).to_vec()
        };
        assert_eq!(found("actors/src/meta/golden/types.txt"), of("actors"));
        assert_eq!(found("actors/proto/golden.txt"), of("actors/proto"));
    }
}
