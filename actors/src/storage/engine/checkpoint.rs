//! Checkpoints: the index in one file, written in slices while updates go on.
//!
//! `checkpoint-%08x` goes with the journal segment of the same number: each row in it is as the log
//! left it at some moment after that segment was begun, and says which update (`usn`) is its last;
//! replaying the journal from that segment, skipping what a row holds already, gives the present.
//! Rows carry their unapplied granules, so a checkpoint holds no older segment back.
//!
//! ```text
//! blocks (`block.rs`, magic "t3cb", sequence 0, 1, ..), back to back
//! first block   u64 sequence of the segment's first block, u64 a lower bound of its usns,
//!               u64 the highest chunk version used until then
//! others        items, in the order of chunk ids apart from `gone`
//! last block    no payload
//!
//! row     u8 1, u8 flags, u64 inode, u32 index, u64 usn, state, base,
//!         u16 n, n * {u64 session, u64 seq, u64 version}, [flag 4: layer], [flag 8: pending]
//! gone    u8 2, u64 inode, u32 index, u64 usn of the removal
//! state   u64 version, u32 chain_version, u32 len, u32 checksum
//! base    see `record.rs`; flags: 1 its extent
//! layer   u16 n, n * {u32 granule, u64 usn}, u32 n, n * {u64 usn, u32 granule, u32 sum, [4096 B]}
//! pending u8 0 patched | 1 fresh | 2 removed, u8 flags: 1 base has an extent, 2 request, state,
//!         [flag 2: u64 session, u64 seq], u16 n, recents as above,
//!         fresh: base; patched and fresh: layer
//! ```

use super::codec::{Malformed, Put, Take};
use super::record::{
    put_base, put_patch, put_recents, put_request, take_base, take_patch, take_recents,
    take_request_if,
};
use super::row::{Change, Extra, Laid, Layer, Pending, Row, StoredVersion, sound};
use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion};

const ROW: u8 = 1;
const GONE: u8 = 2;
const FLAG_EXTENT: u8 = 1;
const FLAG_REQUEST: u8 = 2;
const FLAG_LAYER: u8 = 4;
const FLAG_PENDING: u8 = 8;

/// What the first block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    pub seq: u64,
    pub usn: u64,
    pub version: u64,
}

impl Start {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Put(&mut out).u64(self.seq);
        Put(&mut out).u64(self.usn);
        Put(&mut out).u64(self.version);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Start, Malformed> {
        let mut t = Take(bytes);
        Ok(Start { seq: t.u64()?, usn: t.u64()?, version: t.u64()? })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointItem {
    Row(ChunkId, Row),
    Gone(ChunkId, u64),
}

pub fn encode_row(chunk: ChunkId, row: &Row, out: &mut Vec<u8>) {
    let mut o = Put(out);
    let layer = row.layer().filter(|l| !l.is_empty());
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    o.u8(ROW);
    o.u8(flag(row.base.extent.is_some(), FLAG_EXTENT)
        | flag(layer.is_some(), FLAG_LAYER)
        | flag(row.pending().is_some(), FLAG_PENDING));
    o.chunk(chunk);
    o.u64(row.usn);
    put_state(&row.state, &mut o);
    put_base(&row.base, &mut o);
    put_recents(row.recent(), &mut o);
    if let Some(l) = layer {
        put_layer(l, &mut o);
    }
    if let Some(p) = row.pending() {
        put_pending(p, &mut o);
    }
}

pub fn encode_gone(chunk: ChunkId, usn: u64, out: &mut Vec<u8>) {
    let mut o = Put(out);
    o.u8(GONE);
    o.chunk(chunk);
    o.u64(usn);
}

pub fn decode_item(t: &mut Take<'_>) -> Result<CheckpointItem, Malformed> {
    match t.u8()? {
        ROW => take_row(t),
        GONE => Ok(CheckpointItem::Gone(t.chunk()?, t.u64()?)),
        _ => Err(Malformed("unknown kind of item")),
    }
}

fn take_row(t: &mut Take<'_>) -> Result<CheckpointItem, Malformed> {
    let flags = t.u8()?;
    let chunk = t.chunk()?;
    let usn = t.u64()?;
    let state = take_state(t)?;
    let base = take_base(flags & FLAG_EXTENT != 0, t)?;
    let recent = take_recents(t)?;
    let layer = if flags & FLAG_LAYER != 0 { take_layer(t)? } else { Layer::default() };
    let pending = if flags & FLAG_PENDING != 0 { Some(take_pending(t)?) } else { None };
    if !sound(&base) || pending.as_ref().is_some_and(|p| p.base().is_some_and(|b| !sound(b))) {
        return Err(Malformed("a base that does not fit its block"));
    }
    let mut row = Row { usn, state, base, extra: None };
    let extra = Extra { recent, layer, pending };
    if extra != Extra::default() {
        row.extra = Some(Box::new(extra));
    }
    Ok(CheckpointItem::Row(chunk, row))
}

fn put_state(s: &StoredVersion, o: &mut Put<'_>) {
    o.u64(s.version.0);
    o.u32(s.chain_version.0);
    o.u32(s.len);
    o.u32(s.checksum);
}

fn take_state(t: &mut Take<'_>) -> Result<StoredVersion, Malformed> {
    Ok(StoredVersion {
        version: ChunkVersion(t.u64()?),
        chain_version: ChainVersion(t.u32()?),
        len: t.u32()?,
        checksum: t.u32()?,
    })
}

fn put_layer(l: &Layer, o: &mut Put<'_>) {
    o.u16(l.cuts.len() as u16);
    for (granule, usn) in &l.cuts {
        o.u32(*granule);
        o.u64(*usn);
    }
    o.u32(l.patches.len() as u32);
    for (granule, laid) in &l.patches {
        o.u64(laid.usn);
        put_patch(*granule, laid.sum, &laid.data, o);
    }
}

fn take_layer(t: &mut Take<'_>) -> Result<Layer, Malformed> {
    let mut layer = Layer::default();
    for _ in 0..t.u16()? {
        layer.cuts.push((t.u32()?, t.u64()?));
    }
    for _ in 0..t.u32()? {
        let usn = t.u64()?;
        let (granule, sum, data) = take_patch(t)?;
        layer.patches.insert(granule, Laid { usn, sum, data });
    }
    Ok(layer)
}

fn put_pending(p: &Pending, o: &mut Put<'_>) {
    let (kind, extent) = match &p.change {
        Change::Patched(_) => (0, false),
        Change::Fresh(b, _) => (1, b.extent.is_some()),
        Change::Removed => (2, false),
    };
    o.u8(kind);
    o.u8(u8::from(extent) * FLAG_EXTENT + u8::from(p.request.is_some()) * FLAG_REQUEST);
    put_state(&p.state, o);
    put_request(p.request, o);
    put_recents(&p.recents, o);
    match &p.change {
        Change::Patched(l) => put_layer(l, o),
        Change::Fresh(b, l) => {
            put_base(b, o);
            put_layer(l, o);
        }
        Change::Removed => {}
    }
}

fn take_pending(t: &mut Take<'_>) -> Result<Pending, Malformed> {
    let (kind, flags) = (t.u8()?, t.u8()?);
    let state = take_state(t)?;
    let request = take_request_if(flags & FLAG_REQUEST != 0, t)?;
    let recents = take_recents(t)?;
    let change = match kind {
        0 => Change::Patched(take_layer(t)?),
        1 => Change::Fresh(take_base(flags & FLAG_EXTENT != 0, t)?, take_layer(t)?),
        2 => Change::Removed,
        _ => return Err(Malformed("unknown kind of pending version")),
    };
    Ok(Pending { state, change, request, recents, committing: false })
}
