//! What the end of a process, or of the power, leaves on a disk.

use t3fs_runtime::disk::ALIGN;

use super::{Doing, Inode, Node, SimDisk};
use crate::rng::Rng;

impl SimDisk {
    /// The process ends and the machine stays up: what was written stays written; operations under
    /// way happen or do not.
    pub fn kill(&mut self, rng: &Rng) {
        self.end_operations(rng);
        self.open.clear();
        self.collect();
    }

    /// The machine loses power: what was not synced is kept, lost or torn.
    pub fn crash(&mut self, rng: &Rng) {
        self.end_operations(rng);
        self.open.clear();
        self.stats.crashes += 1;
        // All of it, none of it, or each on its own with one chance for the whole crash.
        let keep_ppm = [0, 1_000_000, 500_000, 850_000, 150_000][rng.below(5) as usize];
        let tear_ppm = [0, 300_000][rng.below(2) as usize];
        let files: Vec<Inode> = self.nodes.keys().copied().collect();
        for id in files {
            let Some(Node::File(f)) = self.nodes.get_mut(&id) else { continue };
            if f.pending.is_empty() {
                continue;
            }
            for (_, change) in std::mem::take(&mut f.pending) {
                if rng.chance(tear_ppm) {
                    f.durable.apply_torn(&change, rng);
                    self.stats.torn += 1;
                } else if rng.chance(keep_ppm) {
                    f.durable.apply(&change);
                    self.stats.kept += 1;
                } else {
                    self.stats.lost += 1;
                }
            }
            f.durable.trim();
            f.view = f.durable.clone();
        }
        let lost = std::cell::Cell::new(0);
        let keep = |rng: &Rng| {
            let kept = rng.chance(keep_ppm);
            lost.set(lost.get() + u64::from(!kept));
            kept
        };
        self.tear_names(&keep, rng);
        self.stats.names_lost += lost.get();
        self.collect();
    }

    /// Operations under way at the end of a process: in any order, each happens or does not, and a
    /// write may happen in part.
    fn end_operations(&mut self, rng: &Rng) {
        let mut left: Vec<Doing> = std::mem::take(&mut self.doing).into_values().collect();
        rng.shuffle(&mut left);
        for doing in left {
            match doing {
                Doing::Change { node, change } if self.nodes.contains_key(&node) && rng.coin() => {
                    let fits = self.used() + self.file(node).view.cost(&change) * ALIGN as u64;
                    if fits > self.capacity {
                        continue;
                    }
                    if rng.coin() {
                        self.write_part(node, &change, rng);
                        continue;
                    }
                    let stamp = self.stamp();
                    let file = self.file_mut(node);
                    file.view.apply(&change);
                    file.pending.push((stamp, change));
                }
                // Nobody hears of these any more, so a refusal changes nothing.
                Doing::Open { path, mode, shard } if rng.coin() => {
                    let _ = self.open(&path, mode, shard);
                }
                Doing::MakeDir { path } if rng.coin() => drop(self.make_dir(&path)),
                Doing::Rename { from, to } if rng.coin() => drop(self.rename(&from, &to)),
                Doing::Remove { path } if rng.coin() => drop(self.remove(&path)),
                _ => {}
            }
        }
    }
}
