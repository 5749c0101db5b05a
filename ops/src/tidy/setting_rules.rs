//! The rule `one-setting-definition`: a setting of `t3fs-node` is defined in one file, and no other
//! names it again as a list, a flag, a variable or a field of what is read would.
//!
//! The names are those of the macro `settings!` in [`DEFINITIONS`]. Outside of that file, and of
//! tests, none of these may stand in the product:
//!
//! - a string with the variable of a setting in it (`T3FS_NODE_ID`);
//! - a string that is a key of several words (`node_id`) or a flag (`node-id`, `--node-id`) and
//!   nothing else: `key::node_id` and `Setting::flag` say the same;
//! - [`LIST`] different keys of one word as strings: a second list. Fewer mean something else, such
//!   as the folder `log`;
//! - a field of a name that is a setting's and has `#[arg(long)]`: a flag that clap makes;
//! - a struct that derives `Deserialize` with [`LIST`] fields of such names.
//!
//! Sentences for people may name a flag.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Finding;
use super::lex::{self, Token};

const RULE: &str = "one-setting-definition";
/// Where settings are defined.
const DEFINITIONS: &str = "nodes/src/config/definitions.rs";
/// The product; ops, tests and the simulator start nodes and tell them what they shall be.
const PRODUCT: [&str; 5] =
    ["runtime/src", "actors/src", "actors/proto/src", "transport/src", "nodes/src"];
/// So many keys in one place are a list of settings.
const LIST: usize = 4;

/// Applies the rule to all files of the workspace: their paths, relative to its root, and texts.
pub fn check(files: &[(PathBuf, String)]) -> Vec<Finding> {
    let defined = files.iter().find(|(path, _)| path == Path::new(DEFINITIONS));
    let names = defined.map(|(_, text)| names(&lex::tokens(text))).unwrap_or_default();
    if names.is_empty() {
        let message = "no settings are found here; the rule has to look where they are".to_owned();
        return vec![Finding { path: DEFINITIONS.into(), line: 1, rule: RULE, message }];
    }
    let is_product = |path: &Path| PRODUCT.iter().any(|place| path.starts_with(place));
    let others = files.iter().filter(|(path, _)| {
        is_product(path) && path != Path::new(DEFINITIONS) && !path.ends_with("tests.rs")
    });
    others.flat_map(|(path, text)| Source::new(path, text, &names).check()).collect()
}

/// The keys that `settings! { section { key: .., } section { .. } }` defines.
fn names(tokens: &[Token]) -> BTreeSet<String> {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let Some(begin) = texts.windows(3).position(|three| three == ["settings", "!", "{"]) else {
        return BTreeSet::new();
    };
    let mut names = BTreeSet::new();
    let mut depth = 1;
    for at in begin + 3..texts.len() {
        match texts[at] {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            ":" if depth == 2 => drop(names.insert(texts[at - 1].to_owned())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// A file that defines no settings.
struct Source<'a> {
    path: &'a Path,
    tokens: Vec<Token>,
    strings: Vec<Token>,
    names: &'a BTreeSet<String>,
}

impl<'a> Source<'a> {
    fn new(path: &'a Path, text: &str, names: &'a BTreeSet<String>) -> Source<'a> {
        let all = lex::tokens(text);
        let tests = lex::test_items(&all);
        let lines = |item: &Range<usize>| all[item.start].line..=all[item.end - 1].line;
        let mut strings = lex::strings(text);
        strings.retain(|string| !tests.iter().any(|item| lines(item).contains(&string.line)));
        let is_test = |at: usize| tests.iter().any(|item| item.contains(&at));
        let tokens = all.iter().enumerate().filter(|(at, _)| !is_test(*at));
        let tokens = tokens.map(|(_, token)| token.clone()).collect();
        Source { path, tokens, strings, names }
    }

    fn check(&self) -> Vec<Finding> {
        let mut findings = self.strings();
        findings.extend(self.flags());
        findings.extend(self.records());
        findings
    }

    fn finding(&self, line: usize, what: &str) -> Finding {
        let message = format!("{what}; a setting is defined in {DEFINITIONS} and nowhere else");
        Finding { path: self.path.to_path_buf(), line, rule: RULE, message }
    }

    /// Variables, keys and flags.
    fn strings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut words: BTreeSet<&str> = BTreeSet::new();
        for Token { text, line } in &self.strings {
            if let Some(variable) = self.variable_in(text) {
                findings.push(self.finding(*line, &format!("the variable {variable}")));
            }
            let bare = text.strip_prefix("--");
            let Some(name) = self.names.get(&bare.unwrap_or(text).replace('-', "_")) else {
                continue;
            };
            if bare.is_some() || name.contains('_') {
                findings.push(self.finding(*line, &format!("{text:?}")));
            } else if words.insert(name) && words.len() == LIST {
                let listed = words.iter().copied().collect::<Vec<_>>().join(", ");
                findings.push(self.finding(*line, &format!("a list of settings ({listed})")));
            }
        }
        findings
    }

    /// The first variable of a setting that a text names.
    fn variable_in<'t>(&self, text: &'t str) -> Option<&'t str> {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        text.split(|c: char| !is_of_name(c)).find(|word| {
            let name = word.strip_prefix("T3FS_").map(str::to_ascii_lowercase);
            name.is_some_and(|name| self.names.contains(&name))
        })
    }

    /// Fields that clap makes flags of.
    fn flags(&self) -> Vec<Finding> {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let mut findings = Vec::new();
        for at in 0..self.tokens.len() {
            if text(at) != "#" || text(at + 2) != "arg" {
                continue;
            }
            let end = closing(&self.tokens, at + 1);
            if !self.tokens[at..end].iter().any(|token| token.text == "long") {
                continue;
            }
            // Behind the attribute: others, the visibility, and the field.
            let Some(colon) = (end..self.tokens.len()).find(|at| text(*at) == ":") else {
                continue;
            };
            if self.names.contains(text(colon - 1)) {
                let what = format!("the flag --{}", text(colon - 1).replace('_', "-"));
                findings.push(self.finding(self.tokens[colon].line, &what));
            }
        }
        findings
    }

    /// Structs that a file or the environment is read into.
    fn records(&self) -> Vec<Finding> {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let mut findings = Vec::new();
        for at in 0..self.tokens.len() {
            if text(at) != "derive" {
                continue;
            }
            let end = closing(&self.tokens, at + 1);
            if !self.tokens[at..end].iter().any(|token| token.text == "Deserialize") {
                continue;
            }
            let is_item = |at: &usize| matches!(text(*at), "struct" | "enum");
            let Some(item) = (end..self.tokens.len()).find(is_item) else { continue };
            if text(item) == "enum" || text(item + 2) != "{" {
                continue;
            }
            let fields = item + 3..closing(&self.tokens, item + 2);
            let named = fields.filter(|at| text(*at + 1) == ":" && self.names.contains(text(*at)));
            if named.count() >= LIST {
                let what = format!("{} is read as settings are", text(item + 1));
                findings.push(self.finding(self.tokens[item].line, &what));
            }
        }
        findings
    }
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
    //! Goal: each of the places that a setting once had is found, and what only looks like one is
    //! not. Method: samples after those places, beside a file of definitions.
    use super::*;

    const DEFINED: &str = "
        fn find(other: &str) {}
        settings! {
            fixed at start {
                /// Number.
                node_id: Option<u64> => Option<u32>, opt(number), { .limits(1, MAX).on(\"N\", RUN) }
                secret_file: Option<PathBuf> => Option<Secret>, opt(Secret::of), {}
                kv: Option<String> => Option<Host>, opt(kv), {}
                shards: u64 => usize, number, {}
                state: Option<PathBuf> => Option<PathBuf>, as_is, {}
            }
            may change while running { log: String => String, as_is, { .on(\"F\", RUN) } }
        }
        static CONFIG: Setting = Setting::new(\"config\");
    ";

    /// Lines of what is found in `text`, if it were the file `path`.
    fn found_in(path: &str, text: &str) -> Vec<usize> {
        let files = [(DEFINITIONS.into(), DEFINED.to_owned()), (path.into(), text.to_owned())];
        let findings = check(&files);
        assert!(findings.iter().all(|f| f.path == Path::new(path) && f.rule == RULE));
        findings.iter().map(|f| f.line).collect()
    }

    fn found(text: &str) -> Vec<usize> {
        found_in("nodes/src/a.rs", text)
    }

    #[test]
    fn names_are_those_of_the_macro() {
        let names = names(&lex::tokens(DEFINED));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["kv", "log", "node_id", "secret_file", "shards", "state"]);
    }

    #[test]
    fn a_rule_that_finds_no_definitions_says_so() {
        for text in ["", "settings! {}", "fn settings() {}"] {
            let findings = check(&[(DEFINITIONS.into(), text.to_owned())]);
            assert_eq!(findings.len(), 1, "{text}");
        }
        assert_eq!(check(&[]).len(), 1);
    }

    /// As `KEYS` of keys.rs, `SETTINGS` of helper.rs and the setters of cli.rs were.
    #[test]
    fn a_second_list_is_found() {
        assert_eq!(found("[\nkey(\"node_id\", Text),\nkey(\"secret_file\", Text)]"), [2, 3]);
        assert_eq!(found("let a = [\"log\", \"state\",\n\"kv\",\n\"shards\"];"), [3]);
        assert_eq!(found("flags.set(\"node_id\", n).set(\"log\", l)"), [1]);
        // A folder, a file and a role.
        assert_eq!(found("[\"log\", \"state\", \"kv\", \"log\"]"), [0; 0]);
    }

    /// As the checks of settings.rs did.
    #[test]
    fn a_key_and_a_flag_alone_are_found() {
        assert_eq!(found("within(\"node_id\", n, 1, MAX)"), [1]);
        assert_eq!(found("out.extend([\"--secret-file\", \"--log\", \"node-id\"])"), [1, 1, 1]);
        assert_eq!(found("refused(\"node_id is not set; say --node-id N\")"), [0; 0]);
        assert_eq!(found("given(key::node_id) // \"node_id\""), [0; 0]);
    }

    #[test]
    fn a_variable_is_found_in_any_text_of_the_product() {
        assert_eq!(found("refused(\"no id;\\\n set T3FS_NODE_ID\")"), [1]);
        assert_eq!(found("env(\"T3FS_LOG\"); env(\"T3FS_NIGHTLY\"); env(\"XT3FS_LOG\")"), [1]);
        assert_eq!(found_in("ops/tests/e2e/a.rs", "env(\"T3FS_LOG\", \"debug\")"), [0; 0]);
        assert_eq!(found_in("transport/src/a.rs", "env(\"T3FS_LOG\")"), [1]);
    }

    /// As cli.rs had them.
    #[test]
    fn a_flag_that_clap_makes_is_found() {
        let field = |attribute: &str, name: &str| {
            format!("struct A {{\n{attribute}\n/// Text: x\n#[other] pub {name}: Option<u32>,\n}}")
        };
        assert_eq!(found(&field("#[arg(long, value_name = \"N\")]", "node_id")), [4]);
        assert_eq!(found(&field("#[arg(short = 'l', long)]", "log")), [4]);
        assert_eq!(found(&field("#[arg(long)]", "json")), [0; 0]);
        assert_eq!(found(&field("#[arg(value_name = \"N\")]", "state")), [0; 0]);
    }

    /// As `Raw` of settings.rs was.
    #[test]
    fn what_settings_are_read_into_is_found() {
        let fields = "node_id: u32, kv: Option<String>, shards: u16,";
        let found = |derived: &str, more: &str| {
            found(&format!("#[derive({derived})]\nstruct Raw {{ {fields} {more} }}"))
        };
        assert_eq!(found("Clone, serde::Deserialize", "pub log: String"), [2]);
        assert_eq!(found("Clone", "log: String"), [0; 0]);
        // What a folder remembers of its server.
        assert_eq!(found("Deserialize", "disks: Vec<Disk>"), [0; 0]);
    }

    #[test]
    fn tests_may_name_what_they_test() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\nconst A: &str = \"node_id\";\n}\n";
        assert_eq!(found(text), [0; 0]);
        assert_eq!(found_in("nodes/src/fuse/tests.rs", "set(\"node_id\")"), [0; 0]);
        assert_eq!(found(&format!("{text}const B: &str = \"node_id\";")), [6]);
    }
}
