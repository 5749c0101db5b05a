//! The rules about `.rs` files. Each is a function from a file to findings; `RULES` lists them all.

use std::path::Path;

use super::Finding;
use super::lex::{self, CodePath, Token};

pub const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 900;

/// Folders and file stems below which `unsafe` may stand: memory that hardware or C shares with us,
/// and the mount calls of libc. `nodes/src/mount` covers `mount.rs`, `mount_linux.rs` and `mount/`.
const UNSAFE_PLACES: [&str; 6] = [
    "runtime/src/buf",
    "runtime/src/glommio",
    "transport/src/rdma",
    "nodes/src/usrbio",
    "nodes/usrbio",
    "nodes/src/mount",
];

/// A file with what the rules look at.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    tokens: Vec<Token>,
    paths: Vec<CodePath>,
}

impl Source<'_> {
    fn is_below(&self, prefix: &str) -> bool {
        self.path.to_str().is_some_and(|path| path.starts_with(prefix))
    }

    fn finding(&self, rule: &'static str, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.to_path_buf(), line, rule, message: message.into() }
    }

    /// Lines of every call of the macro `name`.
    fn macro_calls<'b>(&'b self, name: &'b str) -> impl Iterator<Item = usize> + 'b {
        self.tokens
            .windows(2)
            .filter(move |pair| pair[0].text == name && pair[1].text == "!")
            .map(|pair| pair[0].line)
    }
}

type Rule = fn(&Source<'_>) -> Vec<Finding>;

const RULES: [Rule; 13] = [
    actors_one_door,
    actors_no_locks,
    agents_ask_mgmtd,
    glommio_one_place,
    transport_no_messages,
    protocols_one_place,
    tests_no_parameter,
    unsafe_places,
    header,
    columns,
    no_random_order,
    no_stubs,
    file_length,
];

/// Applies every rule to one file; `path` is relative to the root of the work tree.
pub fn check(path: &Path, text: &str) -> Vec<Finding> {
    let tokens = lex::tokens(text);
    let paths = lex::paths(&tokens);
    let source = Source { path, text, tokens, paths };
    RULES.iter().flat_map(|rule| rule(&source)).collect()
}

/// An actor reaches the world through `Cx` only: then a seed replays it.
fn actors_one_door(source: &Source<'_>) -> Vec<Finding> {
    const RULE: &str = "actors-one-door";
    if !source.is_below("actors/") {
        return Vec::new();
    }
    let std_modules = ["time", "fs", "net", "thread"];
    let crates = ["glommio", "t3fs_transport", "tokio", "fjall"];
    let mut findings = Vec::new();
    for path in &source.paths {
        if let Some(module) = std_modules.iter().find(|m| path.begins(&["std", m])) {
            let hint = if *module == "time" { "; core::time::Duration is fine" } else { "" };
            let message = format!("actors do not name std::{module}, they ask `Cx`{hint}");
            findings.push(source.finding(RULE, path.line, message));
        }
        if let Some(name) = crates.iter().find(|name| path.names_crate(name)) {
            let message = format!("actors do not name {name}, they ask `Cx`");
            findings.push(source.finding(RULE, path.line, message));
        }
    }
    findings
}

/// State of an actor is touched by one task at a time; a lock in it hides a second one.
fn actors_no_locks(source: &Source<'_>) -> Vec<Finding> {
    let names = ["Mutex", "RwLock", "Condvar", "Barrier", "atomic"];
    if !source.is_below("actors/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for path in &source.paths {
        if let Some(name) = names.iter().find(|name| path.begins(&["std", "sync", name])) {
            let message = format!("actors use no locks or atomics (std::sync::{name})");
            findings.push(source.finding("actors-no-locks", path.line, message));
        }
    }
    findings
}

/// An agent finds the primary, and finds the next one; an actor that asked mgmtd itself would have
/// to do the same.
fn agents_ask_mgmtd(source: &Source<'_>) -> Vec<Finding> {
    let may = ["actors/src/agent", "actors/src/mgmtd"];
    if !source.is_below("actors/src") || may.iter().any(|place| source.is_below(place)) {
        return Vec::new();
    }
    let is_protocol = |path: &&CodePath| {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        matches!(segments.as_slice(), ["Mgmtd"] | [.., "mgmtd", "Mgmtd"])
    };
    let message = "only an agent asks mgmtd; every other actor asks the agent of its process";
    let named = source.paths.iter().filter(is_protocol);
    named.map(|path| source.finding("agents-ask-mgmtd", path.line, message)).collect()
}

/// The executor can be replaced as long as one folder knows it.
fn glommio_one_place(source: &Source<'_>) -> Vec<Finding> {
    if source.is_below("runtime/src/glommio") {
        return Vec::new();
    }
    let named = source.paths.iter().filter(|path| path.names_crate("glommio"));
    named
        .map(|path| {
            source.finding(
                "glommio-one-place",
                path.line,
                "only runtime/src/glommio names glommio; go through the runtime's backend",
            )
        })
        .collect()
}

/// The transport moves bytes; what they mean is the actors' business.
fn transport_no_messages(source: &Source<'_>) -> Vec<Finding> {
    if !source.is_below("transport/") {
        return Vec::new();
    }
    let named = source.paths.iter().filter(|path| path.names_crate("t3fs_actors"));
    named
        .map(|path| {
            let message = "transport names no message type; it moves frames";
            source.finding("transport-no-messages", path.line, message)
        })
        .collect()
}

/// Who sends and who serves a message know it alike. The simulator runs the product's protocols;
/// one of its own would test itself. Tests may have toys.
fn protocols_one_place(source: &Source<'_>) -> Vec<Finding> {
    if !["actors/src", "nodes/", "sim/src"].iter().any(|place| source.is_below(place)) {
        return Vec::new();
    }
    let message = "messages stand in actors/proto, apart from those who send and serve them";
    let calls = source.macro_calls("protocol");
    calls.map(|line| source.finding("protocols-one-place", line, message)).collect()
}

/// What only tests use is no part of what everybody else sees. A mistake that tests plant comes
/// through the hook of the world: `Cx::planted`.
fn tests_no_parameter(source: &Source<'_>) -> Vec<Finding> {
    let places = ["actors/src", "nodes/src", "runtime/src", "transport/src"];
    let is_hook = source.is_below("runtime/src/shard/");
    let is_test = source.path.iter().any(|part| part == "tests" || part == "tests.rs");
    if !places.iter().any(|place| source.is_below(place)) || is_hook || is_test {
        return Vec::new();
    }
    let for_tests = |name: &str| {
        let mut words = name.split('_');
        words.any(|word| ["bug", "mistake", "mutant", "planted"].contains(&word))
            || name.contains("for_test")
    };
    let tests = lex::test_items(&source.tokens);
    let text = |at: usize| source.tokens.get(at).map_or("", |token| token.text.as_str());
    let mut findings = Vec::new();
    for at in 0..source.tokens.len() {
        if text(at) != "pub" || text(at + 1) == "(" || tests.iter().any(|item| item.contains(&at)) {
            continue;
        }
        let words = ["async", "const", "fn", "mod", "unsafe"];
        let name = (at + 1..).find(|at| !words.contains(&text(*at))).expect("an endless range");
        let mut names = vec![name];
        if text(name - 1) == "fn" {
            let end = (name..source.tokens.len()).find(|at| ["{", ";"].contains(&text(*at)));
            let parameters = name + 1..end.unwrap_or(source.tokens.len());
            names.extend(parameters.filter(|at| text(at + 1) == ":"));
        }
        for at in names.into_iter().filter(|at| for_tests(text(*at))) {
            let message = format!("`{}` is public for tests; see `Cx::planted`", text(at));
            findings.push(source.finding("tests-no-parameter", source.tokens[at].line, message));
        }
    }
    findings
}

fn unsafe_places(source: &Source<'_>) -> Vec<Finding> {
    if UNSAFE_PLACES.iter().any(|place| source.is_below(place)) {
        return Vec::new();
    }
    let message = format!("`unsafe` stands only below {}", UNSAFE_PLACES.join(", "));
    let found = source.tokens.iter().filter(|token| token.text == "unsafe");
    found.map(|token| source.finding("unsafe-places", token.line, message.clone())).collect()
}

fn header(source: &Source<'_>) -> Vec<Finding> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    let message = "a file begins with `//!`: what it is, what it promises, where to read next";
    vec![source.finding("header", 1, message)]
}

fn columns(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let width = line.chars().count();
        if width > COLUMNS_MAX {
            let message = format!("{width} columns, at most {COLUMNS_MAX}");
            findings.push(source.finding("columns", index + 1, message));
        }
    }
    findings
}

/// The order of a map with a random seed differs per run; then a simulation's seed does not replay.
fn no_random_order(source: &Source<'_>) -> Vec<Finding> {
    if !source.is_below("actors/src") && !source.is_below("sim/") {
        return Vec::new();
    }
    let constructors = ["new", "with_capacity", "default", "from", "from_iter"];
    let is_random = |path: &&CodePath| {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [.., "RandomState"] | [.., "RandomState", _] => true,
            [.., "HashMap" | "HashSet", last] => constructors.contains(last),
            _ => false,
        }
    };
    let found = source.paths.iter().filter(is_random);
    found
        .map(|path| {
            let message = "a hash map with RandomState; use BTreeMap, a sorted Vec or a slab";
            source.finding("no-random-order", path.line, message)
        })
        .collect()
}

fn no_stubs(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["todo", "unimplemented"] {
        for line in source.macro_calls(name) {
            let message = format!("{name}!: finish it or leave it out");
            findings.push(source.finding("no-stubs", line, message));
        }
    }
    findings
}

fn file_length(source: &Source<'_>) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    let message = format!("{lines} lines, at most {LINES_MAX}; split it by concept");
    vec![source.finding("file-length", LINES_MAX + 1, message)]
}

#[cfg(test)]
mod tests {
    //! Goal: each rule reports what it is for and nothing else. Method: a GOOD and a BAD sample per
    //! rule, checked through `check`, so that the samples also pass every other rule.
    use super::*;

    /// Rule names and lines found in `body` under a header line, if it were the file `path`.
    fn found(path: &str, body: &str) -> Vec<(&'static str, usize)> {
        let text = format!("//! Sample.\n{body}");
        check(Path::new(path), &text).iter().map(|f| (f.rule, f.line)).collect()
    }

    #[track_caller]
    fn good(path: &str, body: &str) {
        assert_eq!(found(path, body), [], "{body}");
    }

    #[track_caller]
    fn bad(path: &str, body: &str, rule: &'static str, line: usize) {
        assert_eq!(found(path, body), [(rule, line)], "{body}");
    }

    #[test]
    fn actors_one_door() {
        let path = "actors/src/meta/ops.rs";
        good(path, "use core::time::Duration;\nuse std::collections::BTreeMap; // not std::fs\n");
        good("nodes/src/main.rs", "use std::fs;\n");
        bad(path, "use std::{collections::BTreeMap, fs::File};\n", "actors-one-door", 2);
        bad(path, "\nlet t = std::time::Instant::now();\n", "actors-one-door", 3);
        bad(path, "use t3fs_transport::Link;\n", "actors-one-door", 2);
        bad(path, "fn f() { tokio::spawn(g()) }\n", "actors-one-door", 2);
    }

    #[test]
    fn actors_no_locks() {
        good("actors/src/a.rs", "use std::sync::Arc;\n");
        bad("actors/src/a.rs", "use std::sync::{Arc, Mutex};\n", "actors-no-locks", 2);
    }

    #[test]
    fn agents_ask_mgmtd() {
        good("actors/src/agent/mod.rs", "use crate::proto::mgmtd::Mgmtd;\n");
        good(
            "actors/src/client/a.rs",
            "use crate::proto::mgmtd::Role;\nconst R: Role = Role::Mgmtd;\n",
        );
        let path = "actors/src/client/a.rs";
        bad(path, "use crate::proto::mgmtd::{Mgmtd, Role};\n", "agents-ask-mgmtd", 2);
        bad(path, "use crate::proto::mgmtd::*;\nfn f(a: Addr<Mgmtd>) {}\n", "agents-ask-mgmtd", 3);
    }

    #[test]
    fn glommio_one_place() {
        good("runtime/src/glommio/exec.rs", "use glommio::Task;\n");
        good("nodes/src/up.rs", "use t3fs_runtime::glommio::Shards;\n");
        good("nodes/src/up.rs", "use t3fs_runtime::{glommio::Shards, Cx};\n");
        good("runtime/src/lib.rs", "pub mod glommio;\n");
        bad("nodes/src/up.rs", "use glommio::Task;\n", "glommio-one-place", 2);
        bad("runtime/src/disk.rs", "fn f() { glommio::yield_now() }\n", "glommio-one-place", 2);
    }

    #[test]
    fn transport_no_messages() {
        good("transport/src/link.rs", "use t3fs_runtime::Buf;\n");
        bad("transport/src/link.rs", "use t3fs_actors::proto;\n", "transport-no-messages", 2);
    }

    #[test]
    fn protocols_one_place() {
        good("sim/src/world.rs", "let protocol = 1;\n");
        good("actors/proto/src/meta.rs", "protocol! { Meta }\n");
        bad("sim/src/world.rs", "protocol! { Meta }\n", "protocols-one-place", 2);
        bad("actors/src/meta/mod.rs", "protocol! { Meta }\n", "protocols-one-place", 2);
    }

    #[test]
    fn tests_no_parameter() {
        let (path, rule) = ("actors/src/storage/a.rs", "tests-no-parameter");
        good(path, "struct A {\n    planted: bool,\n    pub debug: bool,\n}\n");
        good(path, "pub(super) fn new(planted: bool) -> A {}\npub fn a() { f(bug) }\n");
        good(path, "#[cfg(test)]\nmod a {\n    pub fn planted() {}\n}\n");
        good("actors/src/a/tests.rs", "pub fn planted() {}\n");
        good("runtime/src/shard/cx.rs", "pub fn planted(&self) -> Option<&'static str> {}\n");
        bad(path, "pub struct A {\n    pub planted_bug: Option<PlantedBug>,\n}\n", rule, 3);
        bad(path, "pub async fn a(\n    cx: &Cx,\n    bug: Option<u8>,\n) {}\n", rule, 4);
        bad(path, "pub fn start_planted(cx: &Cx) {}\n", rule, 2);
        bad(path, "pub const fn clock_for_tests() {}\n", rule, 2);
        bad("actors/src/lib.rs", "pub mod planted;\n", rule, 2);
    }

    #[test]
    fn unsafe_places() {
        good("runtime/src/buf/pool.rs", "unsafe { f() }\n");
        good("nodes/src/mount.rs", "unsafe { f() }\n");
        good("sim/src/lib.rs", "#![forbid(unsafe_code)] // no unsafe\n");
        bad("sim/src/lib.rs", "fn f() { unsafe { g() } }\n", "unsafe-places", 2);
    }

    #[test]
    fn header() {
        assert_eq!(check(Path::new("sim/src/lib.rs"), "//! Sample.\n"), []);
        let findings = check(Path::new("sim/src/lib.rs"), "use core::fmt;\n");
        assert_eq!(findings[0].rule, "header");
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn columns() {
        good("sim/src/lib.rs", &format!("// {}\n", "é".repeat(97)));
        bad("sim/src/lib.rs", &format!("// {}\n", "é".repeat(98)), "columns", 2);
    }

    #[test]
    fn no_random_order() {
        good("sim/src/net.rs", "use std::collections::HashMap;\nlet a = BTreeMap::new();\n");
        good("nodes/src/up.rs", "let a = HashMap::new();\n");
        bad("sim/src/net.rs", "let a: HashMap<u8, u8> = HashMap::new();\n", "no-random-order", 2);
        bad("actors/src/a.rs", "let a = std::collections::HashSet::new();\n", "no-random-order", 2);
        bad("actors/src/a.rs", "use std::hash::RandomState;\n", "no-random-order", 2);
    }

    #[test]
    fn no_stubs() {
        good("nodes/src/up.rs", "fn todo() {} // todo!()\n");
        bad("nodes/src/up.rs", "fn f() { todo!() }\n", "no-stubs", 2);
        bad("nodes/src/up.rs", "fn f() { unimplemented!(\"x\") }\n", "no-stubs", 2);
    }

    #[test]
    fn file_length() {
        good("nodes/src/up.rs", &"// line\n".repeat(LINES_MAX - 1));
        bad("nodes/src/up.rs", &"// line\n".repeat(LINES_MAX), "file-length", LINES_MAX + 1);
    }
}
