//! What the index knows of one chunk, and how a journal record changes it.
//!
//! A chunk's content is a *base* (an extent with the sums of its granules) below up to two *layers*
//! of granules that small updates left in the journal and that are not applied in place yet. The
//! committed content is base + layer; the pending one is either another layer on top of that, or a
//! new base with a layer of its own, or the chunk's removal.
//!
//! A granule is looked up top down: in a layer's patches; at or behind the layer's `cut` it is a
//! hole; in the base if the base covers it; else a hole. What the base holds for a granule that a
//! layer masks may be out of date; it is set right when that layer is applied.
//!
//! A row changes only by [`super::index::Index::install`], in the order of the journal and when the
//! record is durable, so memory is always a prefix of the log. The one exception, `committing`, is
//! what makes a commit visible at once; it is never stored.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::layout::{Extent, GRANULE};
use crate::proto::ids::{ChainVersion, ChunkVersion, RequestId, SessionId};

/// One version of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoredVersion {
    pub version: ChunkVersion,
    pub chain_version: ChainVersion,
    pub len: u32,
    /// See `sums.rs`: a function of the content alone, equal on all replicas.
    pub checksum: u32,
}

/// The last update of one client to a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recent {
    pub session: SessionId,
    pub seq: u64,
    pub version: ChunkVersion,
}

impl Recent {
    pub fn of(request: RequestId, version: ChunkVersion) -> Recent {
        Recent { session: request.session, seq: request.seq, version }
    }
}

/// Where the sums of a base are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sums {
    /// Here, for all granules of the base.
    Inline(Box<[u32]>),
    /// In checksum pages; bit p is the valid side of page p.
    Pages(u64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    pub extent: Option<Extent>,
    /// Granules it covers; those behind are holes.
    pub granules: u32,
    pub sums: Sums,
}

impl Base {
    /// A base that covers nothing yet.
    pub fn fresh(extent: Option<Extent>) -> Base {
        let paged = extent.is_some_and(|e| !e.class.inline());
        let sums = if paged { Sums::Pages(0) } else { Sums::Inline([].into()) };
        Base { extent, granules: 0, sums }
    }
}

/// One granule changed by a small update.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    pub granule: u32,
    pub sum: u32,
    /// 4 KiB, or empty when the sum is 0.
    pub data: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Laid {
    /// The update that wrote it.
    pub usn: u64,
    pub sum: u32,
    pub data: Bytes,
}

/// Granules over a base.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layer {
    /// `(granule, usn)`: below this layer, granules from there on are holes until the update `usn`
    /// is applied. Both numbers ascend, so the first cut is the deepest.
    pub cuts: Vec<(u32, u64)>,
    pub patches: BTreeMap<u32, Laid>,
}

/// No cut.
pub const UNCUT: u32 = u32::MAX;

/// Memory that one patch is counted with.
pub const PATCH_COST: usize = GRANULE + 128;

impl Layer {
    pub fn of(usn: u64, cut: u32, patches: Vec<Patch>) -> Layer {
        let laid = |p: Patch| (p.granule, Laid { usn, sum: p.sum, data: p.data });
        let cuts = if cut == UNCUT { Vec::new() } else { vec![(cut, usn)] };
        Layer { cuts, patches: patches.into_iter().map(laid).collect() }
    }

    pub fn cut(&self) -> u32 {
        self.cuts.first().map_or(UNCUT, |c| c.0)
    }

    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty() && self.patches.is_empty()
    }

    pub fn cost(&self) -> usize {
        self.patches.len() * PATCH_COST
    }

    /// Puts a newer layer on top of this one.
    pub fn cover(&mut self, top: Layer) {
        for (cut, usn) in top.cuts {
            self.patches.split_off(&cut);
            // A shallower older cut would go before this one does, and change nothing until then.
            self.cuts.retain(|c| c.0 < cut);
            self.cuts.push((cut, usn));
        }
        self.patches.extend(top.patches);
    }

    /// Forgets what updates up to `usn` wrote: it is in the base now.
    pub fn applied(&mut self, usn: u64) {
        self.patches.retain(|_, l| l.usn > usn);
        self.cuts.retain(|c| c.1 > usn);
    }

    /// The latest update in it; 0 for none.
    pub fn newest(&self) -> u64 {
        let patched = self.patches.values().map(|l| l.usn).max().unwrap_or(0);
        self.cuts.last().map_or(0, |c| c.1).max(patched)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// On top of the committed content.
    Patched(Layer),
    /// Instead of it.
    Fresh(Base, Layer),
    Removed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    pub state: StoredVersion,
    pub change: Change,
    pub request: Option<RequestId>,
    /// Writers known to the sender of a whole replacement.
    pub recents: Vec<Recent>,
    /// Readers see it already; the commit record is on its way.
    pub committing: bool,
}

impl Pending {
    pub fn extent(&self) -> Option<Extent> {
        self.base()?.extent
    }

    /// The base that this version brings with it.
    pub fn base(&self) -> Option<&Base> {
        match &self.change {
            Change::Fresh(base, _) => Some(base),
            _ => None,
        }
    }

    fn cost(&self) -> usize {
        match &self.change {
            Change::Patched(l) | Change::Fresh(_, l) => l.cost(),
            Change::Removed => 0,
        }
    }
}

/// What few chunks have at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extra {
    pub recent: Vec<Recent>,
    pub layer: Layer,
    pub pending: Option<Pending>,
}

/// One chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The last record in it.
    pub usn: u64,
    /// Version 0: nothing committed yet.
    pub state: StoredVersion,
    pub base: Base,
    pub extra: Option<Box<Extra>>,
}

/// One version of a content, to read from.
#[derive(Clone, Copy)]
pub struct RowView<'a> {
    pub state: StoredVersion,
    pub base: &'a Base,
    /// Topmost first.
    pub layers: [Option<&'a Layer>; 2],
}

/// Where a granule's bytes are.
pub enum Source<'a> {
    Hole,
    Memory(&'a Laid),
    Base,
}

impl<'a> RowView<'a> {
    pub fn source(&self, granule: u32) -> Source<'a> {
        for layer in self.layers.iter().flatten() {
            if let Some(l) = layer.patches.get(&granule) {
                return if l.sum == 0 { Source::Hole } else { Source::Memory(l) };
            }
            if granule >= layer.cut() {
                return Source::Hole;
            }
        }
        if granule >= self.base.granules { Source::Hole } else { Source::Base }
    }

    /// Granules of the base that may be seen: those before every cut.
    pub fn base_granules(&self) -> u32 {
        let cut = self.layers.iter().flatten().map(|l| l.cut()).min().unwrap_or(UNCUT);
        self.base.granules.min(cut)
    }
}

impl Row {
    /// A chunk that has no committed content.
    pub fn new() -> Row {
        Row { usn: 0, state: StoredVersion::default(), base: Base::fresh(None), extra: None }
    }

    pub fn pending(&self) -> Option<&Pending> {
        self.extra.as_ref()?.pending.as_ref()
    }

    pub fn recent(&self) -> &[Recent] {
        self.extra.as_ref().map_or(&[], |x| &x.recent)
    }

    /// The writers that are known once a commit that is on its way is durable.
    pub fn writers(&self) -> Vec<Recent> {
        let mut known = self.recent().to_vec();
        if let Some(p) = self.pending().filter(|p| p.committing) {
            p.recents.iter().for_each(|r| remember(&mut known, *r));
            if let Some(r) = p.request {
                remember(&mut known, Recent::of(r, p.state.version));
            }
        }
        known
    }

    /// No fewer than those; costs nothing.
    pub fn writers_at_most(&self) -> usize {
        let soon = self.pending().map_or(0, |p| p.recents.len() + 1);
        self.recent().len() + soon
    }

    pub fn layer(&self) -> Option<&Layer> {
        self.extra.as_ref().map(|x| &x.layer)
    }

    /// All extents it refers to.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + use<> {
        let pending = self.pending().and_then(Pending::extent);
        [self.base.extent, pending].into_iter().flatten()
    }

    /// Bytes of overlay it holds.
    pub fn cost(&self) -> usize {
        let Some(x) = &self.extra else { return 0 };
        x.layer.cost() + x.pending.as_ref().map_or(0, Pending::cost)
    }

    /// The version that is committed, whether or not its record is durable yet. 0 for none.
    pub fn committed(&self) -> ChunkVersion {
        match self.pending() {
            Some(p) if p.committing => p.state.version,
            _ => self.state.version,
        }
    }

    /// The committed content as readers see it; `None` when there is none.
    pub fn view(&self) -> Option<RowView<'_>> {
        match self.pending() {
            Some(p) if p.committing => self.pending_view(),
            _ => self.settled_view(),
        }
    }

    /// The committed content without a commit that is on its way.
    fn settled_view(&self) -> Option<RowView<'_>> {
        let view = RowView { state: self.state, base: &self.base, layers: [self.layer(), None] };
        (self.state.version.0 > 0).then_some(view)
    }

    /// The content of the pending version; `None` without one and for a removal.
    pub fn pending_view(&self) -> Option<RowView<'_>> {
        let p = self.pending()?;
        let (base, layers) = match &p.change {
            Change::Removed => return None,
            Change::Fresh(base, layer) => (base, [Some(layer), None]),
            Change::Patched(layer) => (&self.base, [Some(layer), self.layer()]),
        };
        Some(RowView { state: p.state, base, layers })
    }

    /// Drops the box when nothing is in it.
    pub fn slim(&mut self) {
        let idle = |x: &Extra| x.recent.is_empty() && x.layer.is_empty() && x.pending.is_none();
        if self.extra.as_ref().is_some_and(|x| idle(x)) {
            self.extra = None;
        }
    }

    /// Makes the pending version the committed one. `None`: the chunk is gone. Otherwise the
    /// extent that nothing refers to any more.
    pub fn commit(&mut self, chain_version: ChainVersion) -> Option<Option<Extent>> {
        let x = self.extra.as_mut().expect("a pending version");
        let p = x.pending.take().expect("a pending version");
        let freed = match p.change {
            Change::Removed => return None,
            Change::Patched(top) => {
                x.layer.cover(top);
                None
            }
            Change::Fresh(base, layer) => {
                x.layer = layer;
                std::mem::replace(&mut self.base, base).extent
            }
        };
        for r in p.recents {
            remember(&mut x.recent, r);
        }
        if let Some(r) = p.request {
            remember(&mut x.recent, Recent::of(r, p.state.version));
        }
        self.state = StoredVersion { chain_version, ..p.state };
        self.slim();
        Some(freed)
    }

    /// The committed layer up to update `upto` is in the base now.
    pub fn applied(&mut self, upto: u64, covered: u32, sides: u64) {
        let x = self.extra.as_mut().expect("a layer");
        if let Sums::Inline(old) = &self.base.sums {
            let cut = x.layer.cuts.iter().find(|c| c.1 <= upto).map_or(UNCUT, |c| c.0);
            let kept = self.base.granules.min(cut).min(covered) as usize;
            let mut sums = old[..kept].to_vec();
            sums.resize(covered as usize, 0);
            for (g, l) in x.layer.patches.range(..covered) {
                if l.usn <= upto {
                    sums[*g as usize] = l.sum;
                }
            }
            self.base.sums = Sums::Inline(sums.into());
        } else {
            self.base.sums = Sums::Pages(sides);
        }
        self.base.granules = covered;
        x.layer.applied(upto);
        self.slim();
    }
}

/// Keeps the last update of each session.
pub fn remember(recent: &mut Vec<Recent>, r: Recent) {
    match recent.iter_mut().find(|x| x.session == r.session) {
        Some(x) if x.seq <= r.seq => *x = r,
        Some(_) => {}
        None => recent.push(r),
    }
}

/// Whether a base agrees with itself; what is read from disk is refused otherwise.
pub fn sound(base: &Base) -> bool {
    match (&base.sums, base.extent) {
        (Sums::Inline(s), Some(e)) => e.class.inline() && s.len() == base.granules as usize,
        (Sums::Inline(s), None) => s.is_empty() && base.granules == 0,
        (Sums::Pages(_), e) => e.is_some_and(|e| !e.class.inline()),
    }
}
