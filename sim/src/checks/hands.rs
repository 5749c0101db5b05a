//! What people do to the disks of storage nodes while those are off: they lose them, put them into
//! the wrong slots, leave one out, and restore what they had copied aside, not always the latest.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use t3fs_actors::proto::ids::TargetId;
use t3fs_actors::storage::host::{Book, target_dir};
use t3fs_runtime::{DiskId, NodeId};

use crate::disk::SimDisk;
use crate::rng::Rng;
use crate::world::Sim;

/// Disks of each node.
pub(super) const DISKS: u16 = 2;

/// All of a run; a clone is the same.
#[derive(Clone, Default)]
pub(super) struct Hands(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    /// What each node keeps apart from its disks.
    books: BTreeMap<NodeId, Book>,
    /// Disks that are left out.
    out: BTreeSet<(NodeId, DiskId)>,
    /// What each target had when its node was off, in order, on the disk that had it. Which of it
    /// is the latest nobody remembers.
    copies: BTreeMap<TargetId, Vec<SimDisk>>,
    /// All is to be well again: hands only restore.
    calm: bool,
    /// How often something was restored that was not the latest.
    tries: BTreeMap<TargetId, usize>,
}

fn superblock(target: TargetId) -> String {
    format!("{}/superblock", target_dir(target))
}

/// The disks of a node, whether they are in it or not.
pub(super) fn disks() -> impl Iterator<Item = DiskId> {
    (0..DISKS).map(DiskId)
}

fn disk_of(sim: &Sim, node: NodeId, target: TargetId) -> Option<DiskId> {
    disks().find(|disk| sim.disk(node, *disk).has_file(&superblock(target)))
}

impl Hands {
    pub(super) fn book(&self, node: NodeId) -> Book {
        self.0.borrow().books.get(&node).cloned().unwrap_or_default()
    }

    pub(super) fn store(&self, node: NodeId, book: Book) {
        self.0.borrow_mut().books.insert(node, book);
    }

    /// The disks that a node has now.
    pub(super) fn present(&self, node: NodeId) -> Vec<DiskId> {
        disks().filter(|disk| !self.0.borrow().out.contains(&(node, *disk))).collect()
    }

    /// Copies aside what the targets of a node have, which is off.
    pub(super) fn copy(&self, sim: &Sim, node: NodeId, targets: &[TargetId]) {
        for target in targets {
            let Some(disk) = disk_of(sim, node, *target) else { continue };
            let s = &mut *self.0.borrow_mut();
            s.copies.entry(*target).or_default().push(sim.disk(node, disk));
        }
    }

    /// Does something to the disks of a node that is off. What they had was copied aside.
    pub(super) fn meddle(&self, sim: &Sim, rng: &Rng, node: NodeId, targets: &[TargetId]) {
        if self.0.borrow().calm {
            return;
        }
        let what = rng.below(7);
        sim.note(&[20, node.0.into(), what], format_args!("n{} disks changed: {what}", node.0));
        let s = &mut *self.0.borrow_mut();
        s.out.retain(|(of, _)| *of != node);
        match what {
            0 | 1 => {
                disks().for_each(|disk| sim.with_disk(node, disk, SimDisk::wipe));
                if what == 1 {
                    s.books.remove(&node);
                }
            }
            2 => {
                let disk = DiskId(rng.below(u64::from(DISKS)) as u16);
                sim.with_disk(node, disk, SimDisk::wipe);
            }
            3 => {
                let (a, b) = (sim.disk(node, DiskId(0)), sim.disk(node, DiskId(1)));
                sim.with_disk(node, DiskId(0), |disk| disk.take_content(&b));
                sim.with_disk(node, DiskId(1), |disk| disk.take_content(&a));
            }
            4 => {
                let disk = DiskId(rng.below(u64::from(DISKS)) as u16);
                // Nobody can know that a target is on a disk that was out before its host saw it.
                let book = s.books.get(&node);
                let listed = |t: &TargetId| book.and_then(|b| b.get(t)).map(|e| e.disk);
                let mut there = targets.iter().filter(|t| disk_of(sim, node, **t) == Some(disk));
                if there.all(|t| listed(t) == Some(disk)) {
                    s.out.insert((node, disk));
                }
            }
            _ => {
                for target in targets {
                    let Some(copies) = s.copies.get(target) else { continue };
                    let copy = rng.pick(copies).clone();
                    s.put(sim, node, *target, &copy);
                }
            }
        }
    }

    /// All disks are in their nodes again, which are off, and are left alone from here on.
    pub(super) fn put_all_in(&self) {
        let s = &mut *self.0.borrow_mut();
        s.out.clear();
        s.calm = true;
    }

    /// Restores the data of a target on its node, which is off: the newest copy, and the next older
    /// one each time that was not the latest.
    pub(super) fn restore(&self, sim: &Sim, node: NodeId, target: TargetId) {
        let s = &mut *self.0.borrow_mut();
        let tries = s.tries.entry(target).or_default();
        *tries += 1;
        let copies = s.copies.get(&target).filter(|c| !c.is_empty()).expect("it was there once");
        let copy = copies[copies.len() - 1 - (*tries - 1) % copies.len()].clone();
        s.put(sim, node, target, &copy);
    }
}

impl State {
    fn put(&self, sim: &Sim, node: NodeId, target: TargetId, copy: &SimDisk) {
        let (there, dir) = (disk_of(sim, node, target), target_dir(target));
        disks().for_each(|disk| sim.with_disk(node, disk, |d| d.remove_files(&dir)));
        let listed = self.books.get(&node).and_then(|book| book.get(&target)).map(|e| e.disk);
        let disk = there.or(listed).unwrap_or(DiskId(0));
        sim.with_disk(node, disk, |d| d.copy_folder(copy, &dir));
    }
}
