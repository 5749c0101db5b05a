//! Folders: names that a crash may lose or bring back until their folder was synced.

use std::collections::BTreeMap;

use t3fs_runtime::disk::DiskError;

use super::{Inode, Node, SimDisk, io};
use crate::rng::Rng;

#[derive(Clone, Default)]
pub(super) struct Folder {
    pub(super) view: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    pending: Vec<(u64, NameChange)>,
}

/// One change of names. A rename between folders waits in the folder it leads to and is one change:
/// it happened in both or in neither.
#[derive(Clone)]
enum NameChange {
    Link { name: String, node: Inode },
    Unlink { name: String },
    Rename { from: (Inode, String), to: String, node: Inode },
}

pub(super) const ROOT: Inode = 1;

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl SimDisk {
    pub(super) fn folder(&self, id: Inode) -> &Folder {
        match &self.nodes[&id] {
            Node::Folder(f) => f,
            Node::File(_) => unreachable!("looked up as a folder"),
        }
    }

    fn folder_mut(&mut self, id: Inode) -> &mut Folder {
        match self.nodes.get_mut(&id) {
            Some(Node::Folder(f)) => f,
            _ => unreachable!("looked up as a folder"),
        }
    }

    /// Resolves a path of folders and at most one file at its end.
    pub(super) fn find(&self, path: &str) -> Option<Inode> {
        let mut at = ROOT;
        for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
            match &self.nodes[&at] {
                Node::Folder(f) => at = *f.view.get(part)?,
                Node::File(_) => return None,
            }
        }
        Some(at)
    }

    pub(super) fn find_folder(&self, path: &str) -> Result<Inode, DiskError> {
        let id = self.find(path).ok_or(DiskError::NotFound)?;
        match self.nodes[&id] {
            Node::Folder(_) => Ok(id),
            Node::File(_) => Err(io("open", path, "not a folder")),
        }
    }

    fn change(&mut self, folder: Inode, change: NameChange) {
        let stamp = self.stamp();
        self.apply_name(folder, &change, false);
        self.folder_mut(folder).pending.push((stamp, change));
    }

    fn apply_name(&mut self, folder: Inode, change: &NameChange, durable: bool) {
        let put = |disk: &mut SimDisk, dir: Inode, name: &str, node: Option<Inode>| {
            let Some(Node::Folder(f)) = disk.nodes.get_mut(&dir) else { return };
            let names = if durable { &mut f.durable } else { &mut f.view };
            match node {
                Some(n) => drop(names.insert(name.to_owned(), n)),
                None => drop(names.remove(name)),
            }
        };
        match change {
            NameChange::Link { name, node } => put(self, folder, name, Some(*node)),
            NameChange::Unlink { name } => put(self, folder, name, None),
            NameChange::Rename { from, to, node } => {
                put(self, from.0, &from.1, None);
                put(self, folder, to, Some(*node));
            }
        }
    }

    /// Gives a file a durable name.
    pub(super) fn link(&mut self, folder: Inode, name: &str, node: Inode) {
        let change = NameChange::Link { name: name.into(), node };
        self.apply_name(folder, &change, false);
        self.apply_name(folder, &change, true);
    }

    pub(super) fn create(&mut self, path: &str) -> Result<Inode, DiskError> {
        let (dir, name) = split(path);
        let dir = self.find_folder(dir)?;
        let node = self.new_node(Node::File(Default::default()));
        self.change(dir, NameChange::Link { name: name.into(), node });
        Ok(node)
    }

    pub(super) fn make_dir(&mut self, path: &str) -> Result<(), DiskError> {
        let mut at = ROOT;
        for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
            at = match self.folder(at).view.get(part).copied() {
                Some(id) => match self.nodes[&id] {
                    Node::Folder(_) => id,
                    Node::File(_) => return Err(DiskError::Exists),
                },
                None => {
                    let node = self.new_node(Node::Folder(Folder::default()));
                    self.change(at, NameChange::Link { name: part.into(), node });
                    node
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let node = self.find(from).ok_or(DiskError::NotFound)?;
        let (from_dir, from_name) = split(from);
        let (to_dir, to_name) = split(to);
        let (from_dir, to_dir) = (self.find_folder(from_dir)?, self.find_folder(to_dir)?);
        let replaced = self.folder(to_dir).view.get(to_name).copied();
        if replaced == Some(node) {
            return Ok(());
        }
        if replaced.is_some_and(|r| matches!(self.nodes[&r], Node::Folder(_))) {
            return Err(io("rename", to, "a folder is there"));
        }
        let from = (from_dir, from_name.to_owned());
        self.change(to_dir, NameChange::Rename { from, to: to_name.into(), node });
        self.collect();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) -> Result<(), DiskError> {
        let node = self.find(path).ok_or(DiskError::NotFound)?;
        if matches!(self.nodes[&node], Node::Folder(_)) {
            return Err(io("remove", path, "is a folder"));
        }
        let (dir, name) = split(path);
        let dir = self.find_folder(dir)?;
        self.change(dir, NameChange::Unlink { name: name.into() });
        self.collect();
        Ok(())
    }

    /// Makes the changes of a folder that completed before `upto` durable.
    pub(super) fn settle_names(&mut self, folder: Inode, upto: u64) {
        if !self.nodes.contains_key(&folder) {
            return;
        }
        let pending = std::mem::take(&mut self.folder_mut(folder).pending);
        let (done, rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(s, _)| *s < upto);
        for (_, change) in &done {
            self.apply_name(folder, change, true);
        }
        self.folder_mut(folder).pending = rest;
        self.collect();
    }

    /// What a power loss leaves: any subset of the changes that were not synced.
    pub(super) fn tear_names(&mut self, keep: &dyn Fn(&Rng) -> bool, rng: &Rng) {
        let folders: Vec<Inode> = self.folders().collect();
        let mut changes = Vec::new();
        for id in &folders {
            for (stamp, c) in std::mem::take(&mut self.folder_mut(*id).pending) {
                changes.push((stamp, *id, c));
            }
        }
        changes.sort_by_key(|(stamp, id, _)| (*stamp, *id));
        for (_, id, change) in changes {
            if keep(rng) {
                self.apply_name(id, &change, true);
            }
        }
        for id in folders {
            let f = self.folder_mut(id);
            f.view = f.durable.clone();
        }
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = Inode> + '_ {
        self.nodes.iter().filter(|(_, n)| matches!(n, Node::Folder(_))).map(|(id, _)| *id)
    }

    /// Drops nodes that no name leads to, now or after any crash, and that nobody has open.
    pub(super) fn collect(&mut self) {
        let mut reached = std::collections::BTreeSet::from([ROOT]);
        let mut stack = vec![ROOT];
        stack.extend(self.open_nodes());
        while let Some(id) = stack.pop() {
            reached.insert(id);
            let Some(Node::Folder(f)) = self.nodes.get(&id) else { continue };
            let pending = f.pending.iter().filter_map(|(_, c)| match c {
                NameChange::Link { node, .. } | NameChange::Rename { node, .. } => Some(*node),
                NameChange::Unlink { .. } => None,
            });
            for child in f.view.values().chain(f.durable.values()).copied().chain(pending) {
                if !reached.contains(&child) {
                    stack.push(child);
                }
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
    }
}
