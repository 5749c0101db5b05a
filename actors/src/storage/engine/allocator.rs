//! Which slots of the data files are free.
//!
//! A class grows and shrinks in groups of slots. A group is *present* (its slots are free or used),
//! a *hole* (punched out of the file) or behind the end of the file. While a group is being grown
//! or given back its slots are neither free nor used, so nobody can take them.

use std::collections::{BTreeMap, BTreeSet};

use super::bitmap::Bitmap;
use super::layout::{Class, Extent};

/// Groups of one class file, one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Groups {
    pub class: Class,
    /// Slots of one group.
    per: u32,
    pub first: u32,
    pub count: u32,
}

impl Groups {
    fn slots(self) -> std::ops::Range<u32> {
        self.first * self.per..(self.first + self.count) * self.per
    }

    pub fn offset(self) -> u64 {
        u64::from(self.slots().start) * self.class.stride()
    }

    pub fn bytes(self) -> u64 {
        u64::from(self.count) * u64::from(self.per) * self.class.stride()
    }
}

/// Space to give back to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trim {
    Punch(Groups),
    /// The groups at the end of the file.
    Truncate(Groups),
}

/// How much free space stays in the data files, in whole groups, besides one of each class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// What was in use in this window of time or the one before, and an eighth of what is. Whoever
    /// replaces files by new ones writes over blocks that the host has given before; new ones cost
    /// it a transaction for each sync.
    Recent,
    /// An eighth of what is in use.
    Share,
    Nothing,
}

struct Space {
    class: Class,
    /// Slots of one group.
    per: u32,
    free: Bitmap,
    /// Used slots of each group of the file.
    used: Vec<u32>,
    used_slots: u64,
    /// Most groups' worth of slots in use in this window of time, and in the one before.
    high: [u32; 2],
    holes: BTreeSet<u32>,
    /// Groups being given back.
    leaving: BTreeSet<u32>,
    growing: bool,
}

impl Space {
    fn new(class: Class, per: u32, groups: u32) -> Space {
        let mut space = Space {
            class,
            per,
            free: Bitmap::default(),
            used: vec![0; groups as usize],
            used_slots: 0,
            high: [0; 2],
            holes: BTreeSet::new(),
            leaving: BTreeSet::new(),
            growing: false,
        };
        for slot in 0..groups * per {
            space.free.insert(slot);
        }
        space
    }

    fn group(&self, slot: u32) -> u32 {
        slot / self.per
    }

    /// Groups that the slots in use would fill.
    fn used_groups(&self) -> u32 {
        self.used_slots.div_ceil(u64::from(self.per)) as u32
    }

    fn took(&mut self, slot: u32) {
        let group = self.group(slot);
        self.used[group as usize] += 1;
        self.used_slots += 1;
        self.high[0] = self.high[0].max(self.used_groups());
    }

    fn idle(&self, group: u32) -> bool {
        let here = || !self.holes.contains(&group) && !self.leaving.contains(&group);
        self.used[group as usize] == 0 && here()
    }

    fn set_free(&mut self, groups: Groups, free: bool) {
        for slot in groups.slots() {
            let changed = if free { self.free.insert(slot) } else { self.free.remove(slot) };
            assert!(changed, "slot {slot} of {:?} was in the wrong state", self.class);
        }
    }
}

pub struct Allocator {
    spaces: BTreeMap<Class, Space>,
    group_bytes: u64,
    /// Nothing has become free since there was nothing to give back.
    stripped: bool,
}

impl Allocator {
    pub fn new(group_bytes: u64) -> Allocator {
        Allocator { spaces: BTreeMap::new(), group_bytes, stripped: false }
    }

    /// Tells the length of a data file that is there; returns the length of its groups, which the
    /// file must be given when it is shorter.
    pub fn found(&mut self, class: Class, file_len: u64) -> u64 {
        let per = class.group_slots(self.group_bytes);
        let group = class.stride() * u64::from(per);
        let groups = file_len.div_ceil(group);
        self.spaces.insert(class, Space::new(class, per, groups as u32));
        groups * group
    }

    /// Marks an extent that a row refers to. `Err` says why that cannot be.
    pub fn claim(&mut self, e: Extent) -> Result<(), String> {
        let space = self.spaces.get_mut(&e.class).ok_or(format!("no data file for {e:?}"))?;
        if u64::from(e.slot) >= space.used.len() as u64 * u64::from(space.per) {
            return Err(format!("{e:?} lies behind the end of its data file"));
        }
        assert!(space.free.remove(e.slot), "{e:?} is referred to twice");
        space.took(e.slot);
        Ok(())
    }

    /// The lowest free slot; `None`: the class must grow.
    pub fn take(&mut self, class: Class) -> Option<Extent> {
        let space = self.spaces.get_mut(&class)?;
        let slot = space.free.first()?;
        space.free.remove(slot);
        space.took(slot);
        Some(Extent { class, slot })
    }

    pub fn release(&mut self, e: Extent) {
        let space = self.spaces.get_mut(&e.class).expect("what was taken has a space");
        let group = space.group(e.slot);
        assert!(space.used[group as usize] > 0 && space.free.insert(e.slot), "{e:?} freed twice");
        space.used[group as usize] -= 1;
        space.used_slots -= 1;
        self.stripped = false;
    }

    /// Whether few enough slots are left that growing should begin.
    pub fn low(&self, class: Class) -> bool {
        let Some(space) = self.spaces.get(&class) else { return true };
        !space.growing && space.free.len() < u64::from(space.per / 4)
    }

    /// Whether a class is being grown or given back, so that growing it has to wait.
    pub fn resizing(&self, class: Class) -> bool {
        self.spaces.get(&class).is_some_and(|s| s.growing || !s.leaving.is_empty())
    }

    /// What to grow next: holes first, else an eighth of the file behind its end, and no more than
    /// `most` groups. Ends with [`Allocator::grown`].
    pub fn grow(&mut self, class: Class, most: u32) -> Groups {
        let per = class.group_slots(self.group_bytes);
        let space = self.spaces.entry(class).or_insert_with(|| Space::new(class, per, 0));
        assert!(!space.growing && space.leaving.is_empty());
        space.growing = true;
        if let Some(&first) = space.holes.first() {
            return Groups { class, per, first, count: 1 };
        }
        let have = space.used.len() as u32;
        let count = (have / 8).clamp(1, class.grow_groups_max(self.group_bytes).min(most));
        Groups { class, per, first: have, count }
    }

    /// The groups are on disk, or could not be had.
    pub fn grown(&mut self, groups: Groups, there: bool) {
        let space = self.spaces.get_mut(&groups.class).expect("it was growing");
        space.growing = false;
        if !there {
            return;
        }
        if !space.holes.remove(&groups.first) {
            assert_eq!(space.used.len() as u32, groups.first);
            space.used.resize((groups.first + groups.count) as usize, 0);
        }
        space.set_free(groups, true);
        self.stripped = false;
    }

    /// Wholly free groups beyond what is worth keeping, out of use until [`Allocator::trimmed`]:
    /// what lies at the end of the files, and of what lies within them no more than is needed to
    /// make `need` bytes. After recovery holes are not known, so every inner free group is punched
    /// again.
    pub fn trim(&mut self, keep: Keep, need: u64) -> Vec<Trim> {
        let mut out = Vec::new();
        if keep == Keep::Nothing && self.stripped {
            return out;
        }
        let mut given = 0;
        for (&class, space) in &mut self.spaces {
            if space.growing || !space.leaving.is_empty() {
                continue;
            }
            let (per, used) = (space.per, space.used_groups());
            let mut kept = u32::from(class.block() <= self.group_bytes)
                + match keep {
                    Keep::Recent => used / 8 + space.high[0].max(space.high[1]) - used,
                    Keep::Share => used / 8,
                    Keep::Nothing => 0,
                };
            let end = space.used.len() as u32;
            let mut tail = end;
            while tail > 0 && (space.idle(tail - 1) || space.holes.contains(&(tail - 1))) {
                tail -= 1;
            }
            let mut inner: Vec<u32> = (0..tail).filter(|g| space.idle(*g)).collect();
            let stay = inner.len().min(kept as usize);
            kept -= stay as u32;
            while kept > 0 && tail < end {
                kept -= u32::from(!space.holes.contains(&tail));
                tail += 1;
            }
            if tail < end {
                for g in tail..end {
                    if !space.holes.contains(&g) {
                        space.set_free(Groups { class, per, first: g, count: 1 }, false);
                    }
                    space.leaving.insert(g);
                }
                let groups = Groups { class, per, first: tail, count: end - tail };
                given += groups.bytes();
                out.push(Trim::Truncate(groups));
            }
            for g in inner.drain(stay..) {
                if given >= need {
                    break;
                }
                let groups = Groups { class, per, first: g, count: 1 };
                space.leaving.insert(g);
                space.set_free(groups, false);
                given += groups.bytes();
                out.push(Trim::Punch(groups));
            }
        }
        self.stripped = keep == Keep::Nothing && out.is_empty();
        out
    }

    /// Whether a class has a free slot.
    pub fn has_free(&self, class: Class) -> bool {
        self.spaces.get(&class).is_some_and(|s| s.free.first().is_some())
    }

    /// Whether a data file is being made longer.
    pub fn growing(&self) -> bool {
        self.spaces.values().any(|s| s.growing)
    }

    /// Whether less is in use than lately, so that [`Keep::Recent`] keeps more than a share.
    pub fn keeps_recent(&self) -> bool {
        self.spaces.values().any(|s| s.high[0].max(s.high[1]) > s.used_groups())
    }

    /// A window of time has passed.
    pub fn next_window(&mut self) {
        for space in self.spaces.values_mut() {
            space.high = [space.used_groups(), space.high[0]];
        }
    }

    /// The space was given back, or (`done` false) stays.
    pub fn trimmed(&mut self, trim: Trim, done: bool) {
        let (Trim::Punch(groups) | Trim::Truncate(groups)) = trim;
        let space = self.spaces.get_mut(&groups.class).expect("it was trimmed");
        for g in groups.first..groups.first + groups.count {
            assert!(space.leaving.remove(&g));
            if !done && !space.holes.contains(&g) {
                self.stripped = false;
                space.set_free(Groups { first: g, count: 1, ..groups }, true);
            }
        }
        match trim {
            Trim::Punch(g) if done => drop(space.holes.insert(g.first)),
            Trim::Truncate(g) if done => {
                space.used.truncate(g.first as usize);
                space.holes.split_off(&g.first);
            }
            _ => {}
        }
    }

    /// Bytes of used slots.
    pub fn used(&self) -> u64 {
        self.spaces.iter().map(|(c, s)| s.used_slots * c.stride()).sum()
    }

    pub fn used_slots(&self) -> u64 {
        self.spaces.values().map(|s| s.used_slots).sum()
    }

    /// Bytes of groups that are on disk.
    pub fn present(&self) -> u64 {
        let of = |(c, s): (&Class, &Space)| {
            let groups = s.used.len() - s.holes.len();
            groups as u64 * u64::from(s.per) * c.stride()
        };
        self.spaces.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no slot is given out twice, none is lost, groups come and go. Method: random steps
    /// beside a set of the slots in use.
    #[test]
    fn gives_each_slot_to_one_owner() {
        let mut seed = 7u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        for len in [4096, 1 << 20, 64 << 20] {
            let class = Class::of(len);
            let (mut a, mut owned) = (Allocator::new(4 << 20), BTreeSet::new());
            for step in 0..20_000 {
                let filling = step / 5000 % 2 == 0;
                if next() % 10 < if filling { 7 } else { 3 } {
                    let e = a.take(class).unwrap_or_else(|| {
                        let g = a.grow(class, u32::MAX);
                        a.grown(g, true);
                        a.take(class).expect("just grown")
                    });
                    assert!(owned.insert(e.slot), "slot {} given out twice", e.slot);
                } else if let Some(&slot) = owned.iter().nth(next() % owned.len().max(1)) {
                    owned.remove(&slot);
                    a.release(Extent { class, slot });
                }
                if next() % 500 == 0 {
                    if next() % 2 == 0 {
                        a.next_window();
                    }
                    let need = if next() % 2 == 0 { u64::MAX } else { 8 << 20 };
                    for t in a.trim([Keep::Recent, Keep::Share, Keep::Nothing][next() % 3], need) {
                        a.trimmed(t, next() % 4 != 0);
                    }
                }
                assert_eq!(a.used(), owned.len() as u64 * class.stride());
                assert!(a.present() >= a.used());
            }
            for slot in owned {
                a.release(Extent { class, slot });
            }
            for t in a.trim(Keep::Nothing, u64::MAX) {
                a.trimmed(t, true);
            }
            let kept = if class.block() <= 4 << 20 { 4 << 20 } else { 0 };
            assert!(a.present() <= kept / class.block() * class.stride(), "{}", a.present());
        }
    }

    /// Goal: who removes and writes as much again finds the space; who only removes gets it back.
    /// Method: eight groups taken and released, then two windows of time.
    #[test]
    fn space_of_late_stays_for_two_windows() {
        let class = Class::of(512 << 10);
        let mut a = Allocator::new(4 << 20);
        let slots = 8 * class.group_slots(4 << 20);
        let mut taken = Vec::new();
        for _ in 0..slots {
            let e = a.take(class).unwrap_or_else(|| {
                let g = a.grow(class, u32::MAX);
                a.grown(g, true);
                a.take(class).expect("just grown")
            });
            taken.push(e);
        }
        let full = a.present();
        assert!(!a.keeps_recent());
        taken.drain(..).for_each(|e| a.release(e));
        assert!(a.keeps_recent());
        for _ in 0..2 {
            assert_eq!(a.trim(Keep::Recent, u64::MAX), []);
            assert_eq!(a.present(), full);
            a.next_window();
        }
        assert!(!a.keeps_recent());
        a.trim(Keep::Recent, u64::MAX).into_iter().for_each(|t| a.trimmed(t, true));
        assert_eq!(a.present(), full / 8);
    }

    #[test]
    #[should_panic(expected = "referred to twice")]
    fn a_second_owner_is_a_bug() {
        let class = Class::of(1);
        let mut a = Allocator::new(4 << 20);
        a.found(class, 8 << 20);
        assert!(a.claim(Extent { class, slot: 5000 }).is_err(), "behind the end");
        a.claim(Extent { class, slot: 7 }).expect("free");
        let _ = a.claim(Extent { class, slot: 7 });
    }
}
