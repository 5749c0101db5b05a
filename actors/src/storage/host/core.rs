//! What a host decides about its targets, without awaiting.
//!
//! Three things come in: the *view* of the cluster (which targets a chain names here, and what they
//! are to it), the *book* (which targets this host has, where, and what a human wants of them;
//! durable, apart from the disks), and the *inventory* (what is in the folders of targets on the
//! disks). [`HostCore::plan`] says what is to be done next; whoever does it says what came of it.
//!
//! The rules:
//! 1. Only a target that a chain names on this host begins. Any other has been replaced, or is
//!    another host's: its data stays, and it is not opened.
//! 2. What there is of a target is opened, on whatever disk it is: the book follows the disks. Two
//!    copies of one target, or another target in its folder, need a human.
//! 3. A target whose disk is not there is not made elsewhere: the book has its place before it is
//!    made.
//! 4. A target without data, or with an old copy of it, begins as [`birth`] says.
//! 5. A target that a human has stopped or removed stays so.

use std::collections::{BTreeMap, BTreeSet};

use t3fs_runtime::{DiskId, NodeId};

use super::birth::{Birth, birth};
use crate::planted::PlantedBug;
use crate::proto::host::{HostError, HostTarget, HostTargetState, MakeTarget};
use crate::proto::ids::{ChainId, TargetId};
use crate::proto::mgmtd::{Chain, ChainTarget, ClusterView, Opening, TargetClaim, TargetState};
use crate::storage::engine::TargetIdentity;

/// What a human wants of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    Run,
    Stopped,
    Removed,
}

/// A target in the book.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub chain: ChainId,
    pub disk: DiskId,
    pub wish: Wish,
}

/// Every target that this host has, or had and was not told to forget.
pub type Book = BTreeMap<TargetId, Entry>;

/// A target and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub target: TargetId,
    pub chain: ChainId,
    pub disk: DiskId,
}

/// What is in a target's folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    Target(TargetIdentity),
    /// Its making, or its removal, did not get to its end.
    Unfinished,
    /// A sentence says why.
    Unreadable(String),
}

/// A folder of a target on a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    pub target: TargetId,
    pub disk: DiskId,
    pub content: Content,
}

/// What the disks have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    /// Disks that are there, and answer.
    pub disks: BTreeSet<DiskId>,
    pub folders: Vec<Folder>,
}

/// How a target begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// With the data that is there.
    Open,
    /// Made empty. `again`: it was there before.
    Make { again: bool },
    /// With an old copy of the data that was opened so last: as good as empty.
    Again { latest: Opening },
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Begin(Place, How),
    /// It runs, and shall not.
    Stop(TargetId),
    /// Its data goes; the book says so already.
    Clear(Place),
}

impl Step {
    pub fn target(&self) -> TargetId {
        match self {
            Step::Begin(place, _) | Step::Clear(place) => place.target,
            Step::Stop(target) => *target,
        }
    }
}

/// What this run of the host knows of a target.
#[derive(Default)]
struct Mark {
    runs: bool,
    /// This is the latest opening of it, and the data here is of an earlier one. Number 0: mgmtd
    /// knows of none, and the data is of another store.
    old: Option<Opening>,
    /// It could not be opened. Tried again when a human asks, or in the next run.
    failed: Option<String>,
    /// It was made empty in this run: what mgmtd knows of it is of data that is gone.
    made: bool,
    /// The opening that is under way.
    opening: Option<TargetClaim>,
}

/// What a look at the folders found of a target.
enum Found {
    Here(DiskId),
    Nothing,
    DiskMissing,
    Wrong(String),
}

/// What is to become of a target.
enum Verdict {
    Do(Step),
    Is(HostTargetState),
}

/// What is said of a target, and how loud.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    Bad(String),
    Odd(String),
}

pub struct HostCore {
    node: NodeId,
    cluster: String,
    /// See [`Cx::planted`](t3fs_runtime::Cx::planted).
    planted: Option<&'static str>,
    view: ClusterView,
    book: Book,
    /// What is stored of it.
    stored: Book,
    inventory: Inventory,
    marks: BTreeMap<TargetId, Mark>,
    /// The last line about each target, so that it is said once.
    said: BTreeMap<TargetId, Line>,
}

impl HostCore {
    pub(super) fn new(
        node: NodeId,
        cluster: &str,
        book: Book,
        planted: Option<&'static str>,
    ) -> HostCore {
        HostCore {
            node,
            cluster: cluster.into(),
            planted,
            view: ClusterView::default(),
            stored: book.clone(),
            book,
            inventory: Inventory::default(),
            marks: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    fn has(&self, bug: PlantedBug) -> bool {
        bug.is(self.planted)
    }

    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// `false`: it is not newer.
    pub fn adopt(&mut self, view: ClusterView) -> bool {
        let newer = view.version > self.view.version;
        if newer {
            self.view = view;
        }
        newer
    }

    pub fn found(&mut self, inventory: Inventory) {
        self.inventory = inventory;
    }

    /// The book, if it is not stored as it is.
    pub fn unstored(&self) -> Option<Book> {
        (self.book != self.stored).then(|| self.book.clone())
    }

    pub fn stored(&mut self, book: Book) {
        self.stored = book;
    }

    /// Whether what the book says of a target is stored.
    pub fn is_stored(&self, target: TargetId) -> bool {
        self.book.get(&target) == self.stored.get(&target)
    }

    fn mark(&mut self, target: TargetId) -> &mut Mark {
        self.marks.entry(target).or_default()
    }

    /// A target has begun.
    pub fn began(&mut self, target: TargetId) {
        *self.mark(target) = Mark { runs: true, ..Mark::default() };
        self.said.remove(&target);
    }

    /// A target is made, empty.
    pub fn is_made(&mut self, target: TargetId) {
        self.mark(target).made = true;
    }

    /// Whether the data of a target here is not what this run has made.
    pub fn is_filled(&self, target: TargetId) -> bool {
        !self.marks.get(&target).is_some_and(|m| m.made)
    }

    /// A target is being opened, and its data says so: mgmtd is asked about this opening until it
    /// has answered.
    pub fn opened(&mut self, claim: TargetClaim) {
        let target = claim.target;
        self.mark(target).opening = Some(claim);
    }

    pub fn opening(&self, target: TargetId) -> Option<TargetClaim> {
        self.marks.get(&target)?.opening.clone()
    }

    /// mgmtd knows a later opening of a target than that of the data here, or of none (number 0).
    pub fn is_old(&mut self, target: TargetId, latest: Opening) {
        let mark = self.mark(target);
        (mark.old, mark.opening) = (Some(latest), None);
    }

    pub fn failed(&mut self, target: TargetId, why: String) {
        self.mark(target).failed = Some(why);
    }

    pub fn ended(&mut self, target: TargetId) {
        self.mark(target).runs = false;
    }

    /// The chain that names a target, and what the target is to it.
    fn named(&self, target: TargetId) -> Option<(&Chain, &ChainTarget)> {
        let of = |chain: &&Chain| chain.targets.iter().any(|t| t.target == target);
        let chain = self.view.routing.chains.iter().find(of)?;
        Some((chain, chain.targets.iter().find(|t| t.target == target)?))
    }

    /// Every target that this host has to do with.
    fn all(&self) -> BTreeSet<TargetId> {
        let chains = self.view.routing.chains.iter();
        let mine = chains.flat_map(|c| &c.targets).filter(|t| t.node == self.node);
        let folders = self.inventory.folders.iter();
        let there = folders.filter(|f| f.content != Content::Unfinished).map(|f| f.target);
        mine.map(|t| t.target).chain(there).chain(self.book.keys().copied()).collect()
    }

    /// Folders of a target that hold one.
    fn finished(&self, target: TargetId) -> impl Iterator<Item = &Folder> {
        let of = move |f: &&Folder| f.target == target && f.content != Content::Unfinished;
        self.inventory.folders.iter().filter(of)
    }

    fn look(&self, target: TargetId, chain: ChainId) -> Found {
        let entry = self.book.get(&target);
        let swaps = !self.has(PlantedBug::SwappedDiskForgotten);
        let looked_at = |f: &&Folder| swaps || entry.is_none_or(|e| e.disk == f.disk);
        let there: Vec<&Folder> = self.finished(target).filter(looked_at).collect();
        let is_there = |e: &Entry| {
            self.inventory.disks.contains(&e.disk) || self.has(PlantedBug::MissingDiskForgotten)
        };
        match &there[..] {
            [] if entry.is_some_and(|e| !is_there(e)) => Found::DiskMissing,
            [] => Found::Nothing,
            [folder] => match &folder.content {
                Content::Unfinished => unreachable!("left out above"),
                Content::Unreadable(why) => Found::Wrong(why.clone()),
                Content::Target(id) => match self.misfit(id, target, chain) {
                    None => Found::Here(folder.disk),
                    Some(why) => Found::Wrong(format!("disk {}: {why}", folder.disk.0)),
                },
            },
            [one, two, ..] => Found::Wrong(format!(
                "it is on disk {} and on disk {}; take the one away that is a copy",
                one.disk.0, two.disk.0
            )),
        }
    }

    fn misfit(&self, id: &TargetIdentity, target: TargetId, chain: ChainId) -> Option<String> {
        if id.cluster != self.cluster {
            return Some(format!("its folder belongs to cluster {:?}", id.cluster));
        }
        let fits = (id.target, id.chain) == (target, chain);
        (!fits).then(|| format!("its folder holds target {} of chain {}", id.target, id.chain))
    }

    fn birth(&self, chain: &Chain, t: &ChainTarget) -> Birth {
        if self.has(PlantedBug::BornEmpty) { Birth::New } else { birth(chain, t) }
    }

    fn judge(&self, target: TargetId) -> Verdict {
        use HostTargetState::*;
        if self.view.version.0 == 0 {
            return Verdict::Is(Waits("nothing is known of the cluster yet".into()));
        }
        let mark = self.marks.get(&target);
        let runs = mark.is_some_and(|m| m.runs);
        let end = |otherwise| match runs {
            true => Verdict::Do(Step::Stop(target)),
            false => Verdict::Is(otherwise),
        };
        let entry = self.book.get(&target);
        match entry.map(|e| e.wish) {
            Some(Wish::Stopped) if !self.has(PlantedBug::StoppedBegins) => return end(Stopped),
            Some(Wish::Removed) if runs => return end(Removed),
            Some(Wish::Removed) => return self.removed(target),
            _ => {}
        }
        let named = self.named(target);
        let mine = |t: &ChainTarget| t.node == self.node || self.has(PlantedBug::ReplacedBegins);
        let (chain, t) = match named.filter(|(_, t)| mine(t)) {
            Some(named) => named,
            None => return end(self.without_chain(target, named.map(|(_, t)| t))),
        };
        if runs {
            return Verdict::Is(Runs);
        }
        if let Some(why) = mark.and_then(|m| m.failed.as_ref()) {
            return Verdict::Is(StaysAway(why.clone()));
        }
        let disk = match self.look(target, chain.id) {
            Found::Here(disk) => disk,
            Found::DiskMissing => return Verdict::Is(DiskMissing),
            Found::Wrong(why) => return Verdict::Is(StaysAway(why)),
            Found::Nothing => return self.without_data(chain, t),
        };
        let place = Place { target, chain: chain.id, disk };
        match mark.and_then(|m| m.old) {
            None => Verdict::Do(Step::Begin(place, How::Open)),
            Some(Opening { number: 0, .. }) => match t.made {
                // The store that knows this data is back.
                true => Verdict::Do(Step::Begin(place, How::Open)),
                false => Verdict::Is(StaysAway(OTHER_STORE.into())),
            },
            Some(latest) => match self.birth(chain, t) {
                Birth::New | Birth::Again => Verdict::Do(Step::Begin(place, How::Again { latest })),
                Birth::NotYet => Verdict::Is(Waits(OLD_WAITS.into())),
                Birth::Never => Verdict::Is(StaysAway(OLD_STAYS.into())),
            },
        }
    }

    /// No chain names the target here; `elsewhere`: one does on another host.
    fn without_chain(&self, target: TargetId, elsewhere: Option<&ChainTarget>) -> HostTargetState {
        let has_data = self.finished(target).next().is_some();
        match (elsewhere, self.book.contains_key(&target)) {
            (Some(t), true) => HostTargetState::Retired(format!("node {} has it now", t.node.0)),
            (Some(t), false) => HostTargetState::StaysAway(format!(
                "it belongs to node {}; its disk is to go back there",
                t.node.0
            )),
            (None, _) if has_data => HostTargetState::Retired("no chain names it".into()),
            (None, _) => HostTargetState::Waits("no chain names it yet".into()),
        }
    }

    fn without_data(&self, chain: &Chain, t: &ChainTarget) -> Verdict {
        use HostTargetState::*;
        let again = match self.birth(chain, t) {
            Birth::New => false,
            Birth::Again => true,
            Birth::NotYet => return Verdict::Is(Waits(GONE_WAITS.into())),
            Birth::Never => return Verdict::Is(StaysAway(GONE_STAYS.into())),
        };
        let Some(disk) = self.disk_for(t.target) else {
            return Verdict::Is(StaysAway("this server has no disk for it".into()));
        };
        let place = Place { target: t.target, chain: chain.id, disk };
        Verdict::Do(Step::Begin(place, How::Make { again }))
    }

    /// Where a target without data is made: where the book has it or an unfinished making has left
    /// it, else the disk with the fewest.
    fn disk_for(&self, target: TargetId) -> Option<DiskId> {
        let there = |disk: &DiskId| self.inventory.disks.contains(disk);
        let before = self.book.get(&target).map(|e| e.disk);
        let left = self.inventory.folders.iter().find(|f| f.target == target).map(|f| f.disk);
        if let Some(disk) = before.or(left).filter(there) {
            return Some(disk);
        }
        let load = |disk: DiskId| self.book.values().filter(|e| e.disk == disk).count();
        self.inventory.disks.iter().copied().min_by_key(|disk| (load(*disk), *disk))
    }

    fn removed(&self, target: TargetId) -> Verdict {
        let folder = self.inventory.folders.iter().find(|f| f.target == target);
        match (folder, self.book.get(&target)) {
            (Some(folder), Some(entry)) => {
                let (chain, disk) = (entry.chain, folder.disk);
                Verdict::Do(Step::Clear(Place { target, chain, disk }))
            }
            (None, Some(entry)) if !self.inventory.disks.contains(&entry.disk) => {
                Verdict::Is(HostTargetState::DiskMissing)
            }
            _ => Verdict::Is(HostTargetState::Removed),
        }
    }

    /// What is to be done now; nothing before there is a view.
    pub fn plan(&mut self) -> Vec<Step> {
        if self.view.version.0 == 0 {
            return Vec::new();
        }
        let mut steps = Vec::new();
        for target in self.all() {
            match self.judge(target) {
                Verdict::Do(step) => steps.push(step),
                Verdict::Is(_) => self.forget(target),
            }
        }
        // Two that are made at a time do not both go to the emptiest disk.
        let makes = |s: &Step| matches!(s, Step::Begin(_, How::Make { .. }));
        let first = steps.iter().position(makes);
        let mut at = 0..;
        steps.retain(|s| {
            let i = at.next().expect("there is always a next number");
            !makes(s) || Some(i) == first
        });
        // Listed before it is there: if its disk is out the next time, it is not made elsewhere.
        for step in &steps {
            if let Step::Begin(Place { target, chain, disk }, _) = *step {
                let wish = self.book.get(&target).map_or(Wish::Run, |e| e.wish);
                self.book.insert(target, Entry { chain, disk, wish });
            }
        }
        steps
    }

    /// Of a target that was removed and that no chain names here nothing is remembered.
    fn forget(&mut self, target: TargetId) {
        let there = |e: &Entry| self.inventory.disks.contains(&e.disk);
        let removed = self.book.get(&target).is_some_and(|e| e.wish == Wish::Removed && there(e));
        if removed && self.named(target).is_none_or(|(_, t)| t.node != self.node) {
            self.book.remove(&target);
            self.marks.remove(&target);
        }
    }

    /// What has to be said now.
    pub fn lines(&mut self) -> Vec<Line> {
        use HostTargetState::*;
        let mut lines = Vec::new();
        if self.view.version.0 == 0 {
            return lines;
        }
        for t in self.list() {
            let (target, chain) = (t.target, t.chain);
            if matches!(self.judge(target), Verdict::Do(_)) {
                continue;
            }
            let about = format!("target {target} of chain {chain}");
            let line = match t.state {
                StaysAway(why) => Line::Bad(format!("{about} stays away: {why}")),
                DiskMissing => Line::Bad(format!("{about}: its disk is not there")),
                Retired(why) => Line::Odd(format!(
                    "{about} is retired: {why}; its data stays until it is removed"
                )),
                Waits(why) => Line::Odd(format!("{about} waits: {why}")),
                Runs | Stopped | Removed => {
                    self.said.remove(&target);
                    continue;
                }
            };
            if self.said.insert(target, line.clone()).as_ref() != Some(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// Every target, as it is.
    pub fn list(&self) -> Vec<HostTarget> {
        let one = |target: TargetId| {
            let state = match self.judge(target) {
                Verdict::Is(state) => state,
                Verdict::Do(Step::Stop(_)) => HostTargetState::Runs,
                Verdict::Do(Step::Begin(..)) => HostTargetState::Waits("it begins".into()),
                Verdict::Do(Step::Clear(_)) => HostTargetState::Waits("it is removed".into()),
            };
            let there = self.finished(target).next();
            let entry = self.book.get(&target);
            let disk = there.map(|f| f.disk).or(entry.map(|e| e.disk));
            let id = there.and_then(|f| match &f.content {
                Content::Target(id) => Some(id.chain),
                Content::Unfinished | Content::Unreadable(_) => None,
            });
            let named = self.named(target).map(|(chain, _)| chain.id);
            let chain = named.or(entry.map(|e| e.chain)).or(id);
            let (chain, disk) = (chain.unwrap_or_default(), disk.map(|d| d.0));
            HostTarget { target, chain, disk, state }
        };
        self.all().into_iter().map(one).collect()
    }
}

const GONE_WAITS: &str = "its data is gone; its chain has not settled yet";
const GONE_STAYS: &str = "its data is gone, and its chain waits for it as the last that served; \
                          restore its folder, or give its chain up";
const OTHER_STORE: &str = "its data was written under another metadata store, in which this chain \
                           was made before; start the kv with the --state (or disk) of that store. \
                           To begin anew, take this folder away";
const OLD_WAITS: &str = "its data is an old copy; its chain has not settled yet";
const OLD_STAYS: &str = "its data is an old copy, and its chain waits for the latest as the last \
                         that served; restore that, or give its chain up";

/// What humans want.
impl HostCore {
    /// Whether the host has to do with a target, and of which chain.
    fn known(&self, target: TargetId) -> Option<HostTarget> {
        self.list().into_iter().find(|t| t.target == target)
    }

    /// A host that has just started knows neither its chains nor, before its first look, its disks:
    /// what it cannot judge it neither promises nor refuses for good.
    fn is_informed(&self) -> Result<(), HostError> {
        match self.view.version.0 {
            0 => Err(HostError::Unavailable("nothing is known of the cluster yet".into())),
            _ => Ok(()),
        }
    }

    pub fn want_made(&mut self, m: &MakeTarget) -> Result<(), HostError> {
        self.is_informed()?;
        let MakeTarget { target, chain, disk } = *m;
        let disk = disk.map(DiskId);
        if let Some(disk) = disk.filter(|d| !self.inventory.disks.contains(d)) {
            return Err(HostError::NoSuchDisk(disk.0));
        }
        let known = self.known(target);
        if let Some(other) = known.as_ref().map(|k| k.chain).filter(|c| *c != chain) {
            return Err(HostError::OtherChain(other));
        }
        let there = self.finished(target).next().map(|f| f.disk);
        if let (Some(is), Some(wanted)) = (there, disk)
            && is != wanted
        {
            return Err(HostError::Elsewhere(is.0));
        }
        // What is on a disk that is out is not made elsewhere, whoever asks.
        let listed = self.book.get(&target).map(|e| e.disk);
        let out = listed.filter(|d| there.is_none() && !self.inventory.disks.contains(d));
        if let (Some(is), Some(_)) = (out, disk) {
            return Err(HostError::Elsewhere(is.0));
        }
        let place = disk.or(there).or(out).or_else(|| self.disk_for(target));
        let Some(place) = place else { return Err(HostError::NoSuchDisk(0)) };
        self.book.insert(target, Entry { chain, disk: place, wish: Wish::Run });
        let mark = self.mark(target);
        (mark.failed, mark.old) = (None, None);
        Ok(())
    }

    pub fn want_stopped(&mut self, target: TargetId) -> Result<(), HostError> {
        let entry = self.book.get_mut(&target).ok_or(HostError::NoSuchTarget)?;
        if entry.wish == Wish::Run {
            entry.wish = Wish::Stopped;
        }
        Ok(())
    }

    /// There must be a view, which need not be the newest: a target that is out of its chain and
    /// does not run here comes to nothing of which this host had not heard.
    pub fn want_removed(&mut self, target: TargetId) -> Result<(), HostError> {
        self.is_informed()?;
        let known = self.known(target).ok_or(HostError::NoSuchTarget)?;
        // One that begins may have come to serve before it is ended again.
        let begins = matches!(self.judge(target), Verdict::Do(Step::Begin(..)));
        if begins || self.marks.get(&target).is_some_and(|m| m.runs) {
            return Err(HostError::Runs);
        }
        if let Some((chain, t)) = self.named(target)
            && !self.has(PlantedBug::NeededIsRemoved)
        {
            let is_mine = |o: &ChainTarget| (o.target, o.node) == (target, self.node);
            let serves = |o: &ChainTarget| o.state == TargetState::Serving && !is_mine(o);
            // What is `Waiting` or `Syncing` runs, as far as mgmtd knows.
            let out = !is_mine(t) || t.state == TargetState::Offline;
            let ours = is_mine(t) || self.book.contains_key(&target);
            if !out || !ours || !chain.targets.iter().any(serves) {
                return Err(HostError::Needed(chain.id));
            }
        }
        let Some(disk) = known.disk else { return Err(HostError::NoSuchTarget) };
        let (chain, disk) = (known.chain, DiskId(disk));
        self.book.insert(target, Entry { chain, disk, wish: Wish::Removed });
        Ok(())
    }

    /// Whether nothing is left to be done for a target.
    pub fn is_done(&self, target: TargetId) -> bool {
        self.is_stored(target) && matches!(self.judge(target), Verdict::Is(_))
    }
}

#[cfg(test)]
mod tests;
