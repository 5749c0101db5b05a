//! The rule `no-circles`: modules of one crate do not import one another in a circle.
//!
//! A module that needs another one, which needs the first, can be neither read nor tested without
//! it; the two are one module in two files. The rule reads tokens only:
//!
//! - *A module* is a file (`a.rs`, `a/mod.rs`); a `mod` with a body belongs to its file. *A crate*
//!   is a folder `src`, or one below `src/bin`, `tests` or `examples`.
//! - *An import* is any path, in `use` or in code, that begins with `crate`, `super`, `self`, a
//!   child module, or a name that the file imports. Methods are called without a path: they are not
//!   seen.
//! - An import counts for the file that *defines* what is named: `use` lines, private ones too, are
//!   followed to their end. A facade (`pub use child::Thing`) is therefore neither blamed nor of
//!   help.
//! - *A module and its descendants* are one to everybody else. Between them imports are free: a
//!   child sees its `super`, and a module is made of its children.
//! - Tests (`#[cfg(test)]`) may import what they like. What a macro names (`$crate`) is imported
//!   where the macro is used.
//!
//! Each finding is one shortest circle among siblings, with a place for each of its imports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use super::Finding;
use super::lex::{self, CodePath, Token};

const RULE: &str = "no-circles";
/// Longest chain of `use` lines that is followed; one with `*` counts for a quarter of it.
const STEPS_MAX: usize = 16;

/// Names from the root of the crate down; the root has none.
type ModulePath = Vec<String>;

/// Applies the rule to all files of the workspace: their paths, relative to its root, and texts.
pub fn check(files: &[(PathBuf, String)]) -> Vec<Finding> {
    let mut crates: BTreeMap<PathBuf, Crate> = BTreeMap::new();
    for (path, text) in files {
        if let Some((root, module)) = place(path) {
            let module = crates.entry(root).or_default().modules.entry(module).or_default();
            module.read(path, text);
        }
    }
    crates
        .values_mut()
        .flat_map(|one| {
            one.leave_out_tests();
            one.circles()
        })
        .collect()
}

/// The crate's folder and the module that a file is; none for a crate of a single file.
fn place(path: &Path) -> Option<(PathBuf, ModulePath)> {
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let top = names.iter().position(|name| ["src", "tests", "examples"].contains(name))?;
    let below_folder = names[top] != "src" || names.get(top + 1) == Some(&"bin");
    let root_len = match (names[top], below_folder) {
        ("src", false) => top + 1,
        ("src", true) => top + 3,
        _ => top + 2,
    };
    let (file, folders) = names.get(root_len..)?.split_last()?;
    let mut module: ModulePath = folders.iter().map(|name| name.to_string()).collect();
    let stem = file.strip_suffix(".rs")?;
    let is_root = module.is_empty() && ["lib", "main"].contains(&stem);
    if stem != "mod" && !is_root {
        module.push(stem.to_owned());
    }
    Some((names[..root_len].iter().collect(), module))
}

/// One file, as far as the rule looks at it.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Each with the inline modules that it stands in.
    paths: Vec<(ModulePath, CodePath)>,
    /// What `use` lines call something: name, inline modules, path.
    names: BTreeMap<String, (ModulePath, CodePath)>,
    /// `use a::*`.
    globs: Vec<(ModulePath, CodePath)>,
    /// Items that are defined here.
    items: BTreeSet<String>,
    /// Children that are for tests only.
    test_children: BTreeSet<String>,
}

impl Module {
    fn read(&mut self, file: &Path, text: &str) {
        self.file = file.to_path_buf();
        let tokens = self.without_tests(&lex::tokens(text));
        self.read_scope(&tokens, &[]);
    }

    /// Leaves out each item behind `#[cfg(test)]`.
    fn without_tests(&mut self, tokens: &[Token]) -> Vec<Token> {
        let mut kept = Vec::new();
        let mut at = 0;
        for item in lex::test_items(tokens) {
            kept.extend_from_slice(&tokens[at..item.start]);
            let texts = tokens[item.clone()].iter().map(|token| token.text.as_str());
            if let [.., "mod", name, ";"] = texts.collect::<Vec<_>>()[..] {
                self.test_children.insert(name.to_owned());
            }
            at = item.end;
        }
        kept.extend_from_slice(&tokens[at..]);
        kept
    }

    /// Reads the tokens of this file's module, or of the inline module `inside`.
    fn read_scope(&mut self, tokens: &[Token], inside: &[String]) {
        let mut own = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while at < tokens.len() {
            let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
            if text(at) == "mod" && text(at + 2) == "{" {
                let end = lex::end_of_item(tokens, at);
                let inner = [inside, &[text(at + 1).to_owned()]].concat();
                self.read_scope(&tokens[at + 3..end - 1], &inner);
                at = end;
                continue;
            }
            match text(at) {
                "{" => depth += 1,
                "}" => depth -= 1,
                "struct" | "enum" | "trait" | "fn" | "type" | "const" | "static" | "union"
                    if depth == 0 && inside.is_empty() =>
                {
                    self.items.insert(text(at + 1).to_owned());
                }
                "macro_rules" => {
                    self.items.insert(text(at + 2).to_owned());
                }
                _ => {}
            }
            if text(at) == "$" && text(at + 1) == "crate" {
                at += 2;
                continue;
            }
            own.push(tokens[at].clone());
            at += 1;
        }
        for mut path in lex::paths(&own) {
            if path.segments.len() > 1 && path.segments.last().is_some_and(|name| name == "self") {
                path.segments.pop();
            }
            if path.glob {
                self.globs.push((inside.to_vec(), path.clone()));
            } else if path.in_use
                && let Some(last) = path.segments.last()
            {
                let name = path.alias.as_ref().unwrap_or(last).clone();
                self.names.insert(name, (inside.to_vec(), path.clone()));
            }
            self.paths.push((inside.to_vec(), path));
        }
    }
}

/// Where one module names another.
#[derive(Clone)]
struct Import {
    from: ModulePath,
    to: ModulePath,
    line: usize,
}

/// Where something is defined.
enum Place {
    In(ModulePath),
    /// In another crate.
    Outside,
    /// Nothing here knows the name: the prelude's, another crate's, a variable's.
    Unknown,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

impl Crate {
    fn leave_out_tests(&mut self) {
        let mut tests = Vec::new();
        for (path, module) in &self.modules {
            for child in &module.test_children {
                tests.push(self::child(path, child));
            }
        }
        self.modules.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
    }

    /// Where that stands which `path` names, written in the file `from` and there within the inline
    /// modules `inside`.
    fn resolve(&self, from: &[String], inside: &[String], path: &CodePath, steps: usize) -> Place {
        let Some(steps) = steps.checked_sub(1) else { return Place::Outside };
        let here = || [from, inside].concat();
        let (at, rest) = match path.segments[0].as_str() {
            "crate" => (Vec::new(), &path.segments[1..]),
            "self" => (here(), &path.segments[1..]),
            "super" => {
                let up = path.segments.iter().take_while(|name| *name == "super").count();
                let at = here();
                (at[..at.len().saturating_sub(up)].to_vec(), &path.segments[up..])
            }
            _ => return self.look_up(&here(), path, &path.segments, steps),
        };
        match self.look_up(&at, path, rest, steps) {
            Place::Unknown => Place::In(self.file_of(&at).to_vec()),
            found => found,
        }
    }

    /// The same for the names `rest`, which the module `at` may know.
    fn look_up(&self, at: &[String], path: &CodePath, rest: &[String], steps: usize) -> Place {
        let file = self.file_of(at);
        let Some((name, behind)) = rest.split_first() else { return Place::In(file.to_vec()) };
        let below = child(at, name);
        // The name of a module alone is that of a variable.
        if self.modules.contains_key(&below) && (path.in_use || path.segments.len() > 1) {
            return match self.look_up(&below, path, behind, steps) {
                Place::Unknown => Place::In(below),
                found => found,
            };
        }
        let Some(module) = self.modules.get(file) else { return Place::Unknown };
        if module.items.contains(name) {
            return Place::In(file.to_vec());
        }
        if let Some((inside, renamed)) = module.names.get(name)
            && renamed != path
        {
            let mut whole = renamed.clone();
            whole.in_use = path.in_use || path.segments.len() > 1;
            whole.segments.extend(behind.iter().cloned());
            return self.resolve(file, inside, &whole, steps);
        }
        if path.glob {
            return Place::Unknown;
        }
        for (inside, glob) in &module.globs {
            let steps = steps.saturating_sub(STEPS_MAX / 4);
            if let Place::In(source) = self.resolve(file, inside, glob, steps)
                && let found @ (Place::In(_) | Place::Outside) =
                    self.look_up(&source, path, rest, steps)
            {
                return found;
            }
        }
        Place::Unknown
    }

    /// The file that holds a module: its own, or the one that it stands in.
    fn file_of<'a>(&self, path: &'a [String]) -> &'a [String] {
        let mut end = path.len();
        while end > 0 && !self.modules.contains_key(&path[..end]) {
            end -= 1;
        }
        &path[..end]
    }

    /// Imports between modules neither of which holds the other.
    fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (from, module) in &self.modules {
            for (inside, path) in &module.paths {
                // A name alone was brought here by a `use` that counts itself, unless by a glob.
                let known = path.in_use || path.segments.len() > 1 || !module.globs.is_empty();
                if known
                    && let Place::In(to) = self.resolve(from, inside, path, STEPS_MAX)
                    && !to.starts_with(from)
                    && !from.starts_with(&to)
                {
                    imports.push(Import { from: from.clone(), to, line: path.line });
                }
            }
        }
        imports
    }

    fn circles(&self) -> Vec<Finding> {
        // Parent, and which of its children import which, with the first place of each.
        let mut families: BTreeMap<ModulePath, Edges> = BTreeMap::new();
        for import in self.imports() {
            let shared = import.from.iter().zip(&import.to).take_while(|(a, b)| a == b).count();
            let edge = (import.from[shared].clone(), import.to[shared].clone());
            let family = families.entry(import.from[..shared].to_vec()).or_default();
            family.entry(edge).or_insert(import);
        }
        families.values().flat_map(|edges| self.circles_among(edges)).collect()
    }

    /// One finding per import that closes a shortest circle which no earlier finding has shown.
    fn circles_among(&self, edges: &Edges) -> Vec<Finding> {
        let mut shown: BTreeSet<(String, String)> = BTreeSet::new();
        let mut findings = Vec::new();
        for (from, to) in edges.keys() {
            if shown.contains(&(from.clone(), to.clone())) {
                continue;
            }
            let Some(mut circle) = way(edges, to, from) else {
                continue;
            };
            circle.insert(0, from.clone());
            let pairs = circle.windows(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            let steps: Vec<&Import> = pairs.clone().map(|pair| &edges[&pair]).collect();
            shown.extend(pairs);
            let places: Vec<String> = steps.iter().map(|step| self.place_of(step)).collect();
            findings.push(Finding {
                path: self.modules[&steps[0].from].file.clone(),
                line: steps[0].line,
                rule: RULE,
                message: format!("{} ({})", circle.join(" -> "), places.join(", ")),
            });
        }
        findings
    }

    fn place_of(&self, import: &Import) -> String {
        format!("{}:{}", self.modules[&import.from].file.display(), import.line)
    }
}

/// Which sibling imports which, and one place of it.
type Edges = BTreeMap<(String, String), Import>;

/// A shortest way from `from` to `to`, both ends included.
fn way(edges: &Edges, from: &str, to: &str) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut way = vec![to.to_owned()];
            while way[0] != from {
                way.insert(0, came_from[way[0].as_str()].to_owned());
            }
            return Some(way);
        }
        for (_, next) in edges.keys().filter(|(start, _)| start == at) {
            if next != from && !came_from.contains_key(next.as_str()) {
                came_from.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}

fn child(module: &[String], name: &str) -> ModulePath {
    [module, &[name.to_owned()]].concat()
}

#[cfg(test)]
mod tests {
    //! Goal: a circle is found however it is imported, and nothing else is. Method: crates of a few
    //! lines each.
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        check(&files).iter().map(|finding| finding.message.clone()).collect()
    }

    #[track_caller]
    fn bad(files: &[(&str, &str)], circle: &str) {
        let found = found(files);
        assert!(found.iter().any(|message| message.starts_with(circle)), "{found:?}");
    }

    #[track_caller]
    fn good(files: &[(&str, &str)]) {
        assert_eq!(found(files), <[String; 0]>::default());
    }

    #[test]
    fn a_circle_is_spelled_out_with_its_places() {
        let a = ("x/src/a.rs", "//! A.\nuse crate::b::B;\npub struct A;\n");
        let b = ("x/src/b.rs", "//! B.\n\nuse crate::c::C;\npub struct B;\n");
        let c = ("x/src/c.rs", "//! C.\npub struct C(crate::a::A);\n");
        let all = [("x/src/lib.rs", "mod a;\nmod b;\nmod c;\n"), a, b, c];
        let circle = "a -> b -> c -> a (x/src/a.rs:2, x/src/b.rs:3, x/src/c.rs:2)";
        assert_eq!(found(&all), [circle]);
        good(&all[..3]);
    }

    #[test]
    fn of_several_circles_each_import_is_in_one() {
        let a = ("x/src/a.rs", "use crate::{b::B, c::C};\npub struct A;\n");
        let b = ("x/src/b.rs", "use crate::a::A;\npub struct B;\n");
        let c = ("x/src/c.rs", "use crate::a::A;\npub struct C;\n");
        let found = found(&[a, b, c]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a -> b -> a ") && found[1].starts_with("a -> c -> a "));
    }

    #[test]
    fn a_module_and_its_children_are_no_circle() {
        let parent = ("x/src/a/mod.rs", "mod b;\nuse b::B;\npub struct A;\n");
        good(&[parent, ("x/src/a/b.rs", "use super::A;\npub struct B;\n")]);
        good(&[parent, ("x/src/a/b.rs", "pub struct B(crate::a::A);\n")]);
    }

    /// Folders are one module to each other, whichever of their files it is.
    #[test]
    fn folders_are_no_circle_either() {
        let (root_a, root_b) = (("x/src/a/mod.rs", ""), ("x/src/b/mod.rs", ""));
        let a = ("x/src/a/one.rs", "use crate::b::two::Two;\n");
        let other = ("x/src/a/other.rs", "pub struct Other;\n");
        let two = ("x/src/b/two.rs", "pub struct Two;\n");
        let three = ("x/src/b/three.rs", "use crate::a::other::Other;\n");
        good(&[root_a, root_b, a, other, two]);
        let all = [root_a, root_b, a, other, two, three];
        bad(&all, "a -> b -> a (x/src/a/one.rs:1, x/src/b/three.rs:1)");
    }

    /// A facade is neither blamed nor of help: named is the file behind it.
    #[test]
    fn imports_are_followed_to_the_definition() {
        let root = ("x/src/lib.rs", "mod a;\nmod b;\npub use a::A;\npub use b::*;\n");
        let a = ("x/src/a.rs", "use crate::B;\npub struct A;\n");
        bad(&[root, a, ("x/src/b.rs", "use crate::A;\npub struct B;\n")], "a -> b -> a ");
        bad(&[root, a, ("x/src/b.rs", "use super::A as Renamed;\npub enum B {}\n")], "a -> b -> a");
        good(&[root, a, ("x/src/b.rs", "use std::fmt;\npub fn B(_: fmt::Error) {}\n")]);
        let outside = ("x/src/lib.rs", "mod a;\nmod b;\npub use other as a2;\npub use a2::A;\n");
        good(&[outside, a, ("x/src/b.rs", "use crate::A;\npub struct B;\n")]);
    }

    #[test]
    fn names_that_a_glob_brings_are_imports() {
        let parent = ("x/src/p/mod.rs", "mod a;\nmod b;\nuse a::A;\n");
        let a = ("x/src/p/a.rs", "use super::*;\npub struct A(b::B);\n");
        bad(&[parent, a, ("x/src/p/b.rs", "use super::*;\npub struct B(A);\n")], "a -> b -> a ");
        good(&[parent, a, ("x/src/p/b.rs", "use super::*;\nfn f(a: u8) -> u8 { a }\n")]);
    }

    #[test]
    fn inline_modules_belong_to_their_file() {
        let a = ("x/src/a.rs", "mod inner { use super::super::b::B; }\npub struct A;\n");
        bad(&[a, ("x/src/b.rs", "use crate::a::A;\npub struct B;\n")], "a -> b -> a ");
        good(&[a, ("x/src/b.rs", "pub struct B;\nmod c { use super::B; }\n")]);
    }

    #[test]
    fn tests_and_macros_import_for_themselves() {
        let a = ("x/src/a.rs", "use crate::b::B;\npub struct A;\n");
        for b in [
            "pub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }\n",
            "pub struct B;\n#[cfg(test)]\nuse crate::a::{self, A};\n",
            "pub struct B;\nmacro_rules! m { () => { $crate::a::A } }\n",
        ] {
            good(&[a, ("x/src/b.rs", b)]);
        }
        let b = ("x/src/b/mod.rs", "pub struct B;\n#[cfg(test)]\nmod tests;\n");
        good(&[a, b, ("x/src/b/tests.rs", "use crate::a::A;\n")]);
    }

    #[test]
    fn crates_are_told_apart() {
        let a = "use crate::b::B;\npub struct A;\n";
        good(&[("x/src/a.rs", a), ("y/src/b.rs", "use crate::a::A;\npub struct B;\n")]);
        let files =
            [("x/tests/t/a.rs", a), ("x/tests/t/b.rs", "use crate::a::A;\npub struct B;\n")];
        bad(&files, "a -> b -> a (x/tests/t/a.rs:1, x/tests/t/b.rs:1)");
        let files = [("x/src/bin/p/a.rs", a), ("x/src/b.rs", "use crate::a::A;\n")];
        good(&files);
    }
}
