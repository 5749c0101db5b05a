//! What people do to the disks of a machine that is off: empty them, copy them, put them elsewhere.
//! What they do is durable.

use super::names::Folder;
use super::{File, Inode, Node, ROOT, SimDisk};

impl SimDisk {
    /// Puts what another disk has in the place of all that is here.
    pub fn take_content(&mut self, from: &SimDisk) {
        assert!(self.open.is_empty() && self.doing.is_empty(), "the machine is off");
        self.nodes = from.nodes.clone();
        self.next_node = self.next_node.max(from.next_node);
        self.clock = self.clock.max(from.clock);
    }

    /// Empties it.
    pub fn wipe(&mut self) {
        assert!(self.open.is_empty() && self.doing.is_empty(), "the machine is off");
        self.nodes = [(ROOT, Node::Folder(Folder::default()))].into();
    }

    pub fn has_file(&self, path: &str) -> bool {
        self.find(path).is_some_and(|node| matches!(self.nodes[&node], Node::File(_)))
    }

    /// Copies a folder of files from another disk to the same place here.
    pub fn copy_folder(&mut self, from: &SimDisk, path: &str) {
        self.remove_files(path);
        self.make_dir(path).expect("no file is where a folder is to be");
        self.settle_all();
        let (Some(there), Some(here)) = (from.find(path), self.find(path)) else { return };
        for (name, node) in &from.folder(there).view {
            let Node::File(file) = &from.nodes[node] else { continue };
            let (view, durable) = (file.view.clone(), file.view.clone());
            let copy = self.new_node(Node::File(File { view, durable, pending: Vec::new() }));
            self.link(here, name, copy);
        }
    }

    /// Removes the files of a folder, if that is there.
    pub fn remove_files(&mut self, path: &str) {
        let Some(folder) = self.find(path) else { return };
        let names: Vec<String> = self.folder(folder).view.keys().cloned().collect();
        for name in names {
            self.remove(&format!("{path}/{name}")).expect("it is a file");
        }
        self.settle_all();
    }

    fn settle_all(&mut self) {
        let all: Vec<Inode> = self.folders().collect();
        all.into_iter().for_each(|folder| self.settle_names(folder, u64::MAX));
    }
}
