//! Random operations against a model of a POSIX tree.
//!
//! The model is a list of nodes with their entries, changed by the plainest code that says what
//! POSIX says. Every answer must be the model's, and so must the whole tree at the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Create { at: usize, name: usize },
    Mkdir { at: usize, name: usize },
    Symlink { at: usize, name: usize },
    Link { from: (usize, usize), to: (usize, usize) },
    Unlink { at: usize, name: usize },
    Rmdir { at: usize, name: usize },
    Rename { from: (usize, usize), to: (usize, usize), mode: RenameMode },
    Cut { at: usize, name: usize, length: u64 },
    FsckReport { at: usize, name: usize, length: u64, late: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0usize..6, 0usize..4);
    let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
    let mode = prop::sample::select(modes.to_vec());
    let step = prop_oneof![
        3 => place().prop_map(|(at, name)| Step::Create { at, name }),
        4 => place().prop_map(|(at, name)| Step::Mkdir { at, name }),
        1 => place().prop_map(|(at, name)| Step::Symlink { at, name }),
        2 => (place(), place()).prop_map(|(from, to)| Step::Link { from, to }),
        2 => place().prop_map(|(at, name)| Step::Unlink { at, name }),
        1 => place().prop_map(|(at, name)| Step::Rmdir { at, name }),
        6 => (place(), place(), mode).prop_map(|(from, to, mode)| Step::Rename { from, to, mode }),
        1 => (place(), 0u64..9)
            .prop_map(|((at, name), length)| Step::Cut { at, name, length }),
        1 => (place(), 0u64..9, any::<bool>())
            .prop_map(|((at, name), length, late)| Step::FsckReport { at, name, length, late }),
    ];
    prop::collection::vec(step, 1..80)
}

struct Node {
    inode: InodeId,
    kind: FileType,
    nlink: u32,
    parent: usize,
    entries: BTreeMap<String, usize>,
    length: u64,
    truncations: u64,
}

/// Nodes are never taken out of the list; a directory that was removed has no links.
struct Model(Vec<Node>);

type Told<T = ()> = Result<T, MetaError>;

fn loops() -> MetaError {
    MetaError::InvalidArgument("a directory cannot be moved into itself".into())
}

impl Model {
    fn new() -> Model {
        let mut model = Model(Vec::new());
        model.node(FileType::Directory, 0);
        model.0[0].inode = ROOT;
        model
    }

    fn node(&mut self, kind: FileType, parent: usize) -> usize {
        let nlink = if kind == FileType::Directory { 2 } else { 1 };
        let (inode, entries) = (InodeId(0), BTreeMap::new());
        self.0.push(Node { inode, kind, nlink, parent, entries, length: 0, truncations: 0 });
        self.0.len() - 1
    }

    fn is_dir(&self, node: usize) -> bool {
        self.0[node].kind == FileType::Directory
    }

    /// The `n`-th directory ever made, removed ones as well.
    fn dir(&self, n: usize) -> usize {
        let dirs: Vec<_> = (0..self.0.len()).filter(|node| self.is_dir(*node)).collect();
        dirs[n % dirs.len()]
    }

    fn open(&self, dir: usize) -> Told {
        if self.0[dir].nlink == 0 { Err(MetaError::Stale) } else { Ok(()) }
    }

    fn find(&self, dir: usize, name: &str) -> Told<usize> {
        self.open(dir)?;
        self.0[dir].entries.get(name).copied().ok_or(MetaError::NotFound)
    }

    fn add(&mut self, dir: usize, name: &str, node: usize) {
        self.0[dir].entries.insert(name.into(), node);
        if self.is_dir(node) {
            self.0[dir].nlink += 1;
            self.0[node].parent = dir;
        }
    }

    fn take(&mut self, dir: usize, name: &str) -> usize {
        let node = self.0[dir].entries.remove(name).unwrap();
        if self.is_dir(node) {
            self.0[dir].nlink -= 1;
        }
        node
    }

    fn drop(&mut self, node: usize) {
        self.0[node].nlink = if self.is_dir(node) { 0 } else { self.0[node].nlink - 1 };
    }

    fn make(&mut self, dir: usize, name: &str, kind: FileType) -> Told<usize> {
        self.open(dir)?;
        if self.0[dir].entries.contains_key(name) {
            return Err(MetaError::Exists);
        }
        let node = self.node(kind, dir);
        self.add(dir, name, node);
        Ok(node)
    }

    fn link(&mut self, node: usize, dir: usize, name: &str) -> Told {
        self.open(dir)?;
        if self.is_dir(node) {
            return Err(MetaError::IsDirectory);
        }
        if self.0[dir].entries.contains_key(name) {
            return Err(MetaError::Exists);
        }
        self.add(dir, name, node);
        self.0[node].nlink += 1;
        Ok(())
    }

    fn remove(&mut self, dir: usize, name: &str, directory: bool) -> Told {
        let node = self.find(dir, name)?;
        match (self.is_dir(node), directory) {
            (true, false) => return Err(MetaError::IsDirectory),
            (false, true) => return Err(MetaError::NotDirectory),
            _ => {}
        }
        if !self.0[node].entries.is_empty() {
            return Err(MetaError::NotEmpty);
        }
        self.take(dir, name);
        self.drop(node);
        Ok(())
    }

    fn inside(&self, node: usize, mut dir: usize) -> bool {
        while dir != node && dir != 0 {
            dir = self.0[dir].parent;
        }
        dir == node
    }

    fn rename(&mut self, (a, x): (usize, &str), (b, y): (usize, &str), mode: RenameMode) -> Told {
        self.open(a)?;
        self.open(b)?;
        let from = self.find(a, x)?;
        let to = self.0[b].entries.get(y).copied();
        match (to, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(MetaError::Exists),
            (None, RenameMode::Exchange) => return Err(MetaError::NotFound),
            _ => {}
        }
        if to == Some(from) {
            return Ok(());
        }
        if self.is_dir(from) && self.inside(from, b) {
            return Err(loops());
        }
        let Some(to) = to else {
            self.take(a, x);
            self.add(b, y, from);
            return Ok(());
        };
        if mode == RenameMode::Exchange {
            if self.is_dir(to) && self.inside(to, a) {
                return Err(loops());
            }
            self.take(a, x);
            self.take(b, y);
            self.add(a, x, to);
            self.add(b, y, from);
            return Ok(());
        }
        match (self.is_dir(from), self.is_dir(to)) {
            (true, false) => return Err(MetaError::NotDirectory),
            (false, true) => return Err(MetaError::IsDirectory),
            _ => {}
        }
        if !self.0[to].entries.is_empty() {
            return Err(MetaError::NotEmpty);
        }
        self.take(b, y);
        self.drop(to);
        self.take(a, x);
        self.add(b, y, from);
        Ok(())
    }
}

/// Runs one step on both and compares what they say.
async fn step(w: &World, model: &mut Model, step: &Step) {
    let name = |n: usize| format!("n{n}");
    match *step {
        Step::Create { at, name: n } => {
            let (dir, name) = (model.dir(at), name(n));
            let told = w.file(model.0[dir].inode, &name).await;
            made(model, dir, &name, FileType::File, told);
        }
        Step::Mkdir { at, name: n } => {
            let (dir, name) = (model.dir(at), name(n));
            let told = w.dir(model.0[dir].inode, &name).await;
            made(model, dir, &name, FileType::Directory, told);
        }
        Step::Symlink { at, name: n } => {
            let (dir, name) = (model.dir(at), name(n));
            let entry = w.entry(model.0[dir].inode, &name);
            let told = w.ask(MakeSymlink { entry, target: b"t".to_vec() }).await.map(attr);
            made(model, dir, &name, FileType::Symlink, told);
        }
        Step::Link { from: (a, x), to: (b, y) } => {
            let (a, b) = (model.dir(a), model.dir(b));
            let Ok(node) = model.find(a, &name(x)) else { return };
            let told = w.link(model.0[node].inode, model.0[b].inode, &name(y)).await;
            assert_eq!(told.map(drop), model.link(node, b, &name(y)));
        }
        Step::Unlink { at, name: n } => {
            let dir = model.dir(at);
            let told = w.unlink(model.0[dir].inode, &name(n)).await;
            assert_eq!(told.map(drop), model.remove(dir, &name(n), false));
        }
        Step::Rmdir { at, name: n } => {
            let dir = model.dir(at);
            let told = w.rmdir(model.0[dir].inode, &name(n)).await;
            assert_eq!(told.map(drop), model.remove(dir, &name(n), true));
        }
        Step::Rename { from: (a, x), to: (b, y), mode } => {
            let (a, b) = (model.dir(a), model.dir(b));
            let (x, y) = (name(x), name(y));
            let (from, to) = ((model.0[a].inode, x.as_str()), (model.0[b].inode, y.as_str()));
            let told = w.rename(from, to, mode).await;
            assert_eq!(told.map(drop), model.rename((a, &x), (b, &y), mode));
        }
        Step::Cut { at, name: n, length } => {
            let Ok(node) = model.find(model.dir(at), &name(n)) else { return };
            let node = &mut model.0[node];
            if node.kind != FileType::File {
                return;
            }
            node.truncations += 1;
            node.length = length;
            let seen = SeenContent::of(&w.attr(node.inode).await.unwrap());
            let m = super::posix::set_length(node.inode, length, seen, w.op());
            let told = w.ask(m).await.unwrap().attr;
            assert_eq!((told.length, told.truncations), (node.length, node.truncations));
        }
        Step::FsckReport { at, name: n, length, late } => {
            let Ok(node) = model.find(model.dir(at), &name(n)) else { return };
            let node = &mut model.0[node];
            if node.kind != FileType::File {
                return;
            }
            let truncations = if late { 0 } else { node.truncations };
            if truncations == node.truncations {
                node.length = node.length.max(length);
            }
            let told = w.ask(super::posix::report(node.inode, length, truncations)).await.unwrap();
            let told = match told {
                Reported::Taken(taken) if truncations == node.truncations => taken.attr,
                Reported::Stale(attr) if truncations < node.truncations => attr,
                told => panic!("{told:?}"),
            };
            assert_eq!((told.length, told.truncations), (node.length, node.truncations));
        }
    }
}

fn made(model: &mut Model, dir: usize, name: &str, kind: FileType, told: Told<Attr>) {
    match (told, model.make(dir, name, kind)) {
        (Ok(attr), Ok(node)) => model.0[node].inode = attr.inode,
        (told, expected) => assert_eq!(told.map(drop), expected.map(drop)),
    }
}

/// The tree below the root is the model's, attributes that the model has included.
async fn compare(w: &World, model: &Model) {
    let mut left = vec![0];
    while let Some(dir) = left.pop() {
        let inode = model.0[dir].inode;
        assert_eq!(w.attr(inode).await.unwrap().nlink, model.0[dir].nlink);
        let page = w.ask(ReadDir { inode, after: Vec::new(), limit: 0 }).await.unwrap();
        assert_eq!(page.parent, model.0[model.0[dir].parent].inode);
        let listed = page.entries.iter().map(|e| String::from_utf8(e.name.clone()).unwrap());
        assert!(listed.eq(model.0[dir].entries.keys().cloned()));
        for (entry, node) in page.entries.iter().zip(model.0[dir].entries.values()) {
            let Node { inode, kind, nlink, .. } = model.0[*node];
            let attr = &entry.attr;
            assert_eq!((attr.inode, attr.kind, attr.nlink), (inode, kind, nlink));
            match kind {
                FileType::Directory => left.push(*node),
                FileType::File => assert_eq!(attr.length, model.0[*node].length),
                _ => {}
            }
        }
    }
    w.check().await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_does_what_posix_says(steps in steps()) {
        in_world(async move |w| {
            let mut model = Model::new();
            for s in &steps {
                step(&w, &mut model, s).await;
            }
            compare(&w, &model).await;
        });
    }
}
