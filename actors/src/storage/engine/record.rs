//! Journal records.
//!
//! ```text
//! all integers little-endian; flags: 1 commit, 2 request, 4 new base, 8 that base has an extent
//!
//! write    u8 1 (5: overwriting), u8 flags, u64 inode, u32 index, u64 version, u32 chain_version,
//!          u32 len, u32 checksum, u32 cut,
//!          [flag 2: u64 session, u64 seq],
//!          u16 n, n * {u64 session, u64 seq, u64 version},
//!          [flag 4: base],
//!          u32 n, n * {u32 granule, u32 sum, [4096 bytes if sum != 0]}
//! remove   u8 2 (6: overwriting), u8 flags, u64 inode, u32 index, u64 version, u32 chain_version,
//!          [flag 2: u64 session, u64 seq]
//! commit   u8 3, u64 inode, u32 index, u64 version, u32 chain_version
//! applied  u8 4, u64 inode, u32 index, u8 class, u32 slot, u64 upto, u32 granules, u64 sides
//!
//! base     [flag 8: u8 class, u32 slot], u32 granules,
//!          class > 16: u64 sides; else: granules * u32 sum
//! ```
//! A `write` without a new base lies on the committed content: physical redo, whole granules, so
//! replaying it twice is the same as once. With a new base it replaces the content: a large update
//! (the base covers all, no granules follow) or a small one into an extent of its own (the base
//! covers nothing, the granules are the content).
//!
//! The overwriting kinds, which have a new base and are committed, take the place of all that was
//! known of the chunk: committed and pending versions, also higher ones, and its writers. They came
//! after kinds 1 to 4, so that a t3fs that does not know them refuses the journal.

use bytes::Bytes;

use super::codec::{Malformed, Put, Take};
use super::layout::{Class, Extent, GRANULE};
use super::row::{Base, Patch, Recent, StoredVersion, Sums};
use crate::proto::ids::{ChainVersion, ChunkId, ChunkVersion, RequestId, SessionId};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteRecord {
    pub chunk: ChunkId,
    pub state: StoredVersion,
    pub commit: bool,
    pub request: Option<RequestId>,
    pub recents: Vec<Recent>,
    /// `None`: on top of the committed content.
    pub base: Option<Base>,
    /// Granules of the committed content from here on become holes first.
    pub cut: u32,
    pub patches: Vec<Patch>,
    /// Takes the place of all there was.
    pub overwrite: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Write(WriteRecord),
    Remove {
        chunk: ChunkId,
        version: ChunkVersion,
        chain_version: ChainVersion,
        commit: bool,
        request: Option<RequestId>,
        /// Takes the place of all there was.
        overwrite: bool,
    },
    Commit {
        chunk: ChunkId,
        version: ChunkVersion,
        chain_version: ChainVersion,
    },
    /// The committed layer up to update `upto` was written in place.
    Applied {
        chunk: ChunkId,
        extent: Extent,
        upto: u64,
        granules: u32,
        sides: u64,
    },
}

const WRITE: u8 = 1;
const REMOVE: u8 = 2;
const COMMIT: u8 = 3;
const APPLIED: u8 = 4;
const OVERWRITE: u8 = 5;
const OVERREMOVE: u8 = 6;
const FLAG_COMMIT: u8 = 1;
const FLAG_REQUEST: u8 = 2;
const FLAG_BASE: u8 = 4;
const FLAG_EXTENT: u8 = 8;
/// More than a chunk remembers, so that a longer list is damage.
const RECENTS_MAX: u16 = 1024;
const _: () = assert!(RECENTS_MAX as usize > super::WRITERS_MAX);

fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

impl Record {
    pub fn chunk(&self) -> ChunkId {
        match self {
            Record::Write(w) => w.chunk,
            Record::Remove { chunk, .. }
            | Record::Commit { chunk, .. }
            | Record::Applied { chunk, .. } => *chunk,
        }
    }

    /// The chunk version it makes or commits; 0 for none.
    pub fn version(&self) -> ChunkVersion {
        match self {
            Record::Write(w) => w.state.version,
            Record::Remove { version, .. } | Record::Commit { version, .. } => *version,
            Record::Applied { .. } => ChunkVersion(0),
        }
    }

    /// Bytes it takes at most.
    pub fn size_bound(&self) -> usize {
        match self {
            Record::Write(w) => {
                let sums = match &w.base {
                    Some(Base { sums: Sums::Inline(s), .. }) => 4 * s.len(),
                    _ => 8,
                };
                let data: usize = w.patches.iter().map(|p| 8 + p.data.len()).sum();
                96 + 24 * w.recents.len() + sums + data
            }
            _ => 64,
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut o = Put(out);
        match self {
            Record::Write(w) => encode_write(w, &mut o),
            Record::Remove { chunk, version, chain_version, commit, request, overwrite } => {
                o.u8(if *overwrite { OVERREMOVE } else { REMOVE });
                o.u8(flag(*commit, FLAG_COMMIT) | flag(request.is_some(), FLAG_REQUEST));
                o.chunk(*chunk);
                o.u64(version.0);
                o.u32(chain_version.0);
                put_request(*request, &mut o);
            }
            Record::Commit { chunk, version, chain_version } => {
                o.u8(COMMIT);
                o.chunk(*chunk);
                o.u64(version.0);
                o.u32(chain_version.0);
            }
            Record::Applied { chunk, extent, upto, granules, sides } => {
                o.u8(APPLIED);
                o.chunk(*chunk);
                put_extent(*extent, &mut o);
                o.u64(*upto);
                o.u32(*granules);
                o.u64(*sides);
            }
        }
    }

    pub fn decode(t: &mut Take<'_>) -> Result<Record, Malformed> {
        match t.u8()? {
            kind @ (WRITE | OVERWRITE) => decode_write(kind, t).map(Record::Write),
            kind @ (REMOVE | OVERREMOVE) => {
                let flags = t.u8()?;
                Ok(Record::Remove {
                    chunk: t.chunk()?,
                    version: ChunkVersion(t.u64()?),
                    chain_version: ChainVersion(t.u32()?),
                    commit: flags & FLAG_COMMIT != 0,
                    request: take_request_if(flags & FLAG_REQUEST != 0, t)?,
                    overwrite: kind == OVERREMOVE,
                })
            }
            COMMIT => Ok(Record::Commit {
                chunk: t.chunk()?,
                version: ChunkVersion(t.u64()?),
                chain_version: ChainVersion(t.u32()?),
            }),
            APPLIED => Ok(Record::Applied {
                chunk: t.chunk()?,
                extent: take_extent(t)?,
                upto: t.u64()?,
                granules: t.u32()?,
                sides: t.u64()?,
            }),
            _ => Err(Malformed("unknown kind of record")),
        }
    }
}

fn encode_write(w: &WriteRecord, o: &mut Put<'_>) {
    o.u8(if w.overwrite { OVERWRITE } else { WRITE });
    let extent = w.base.as_ref().is_some_and(|b| b.extent.is_some());
    o.u8(flag(w.commit, FLAG_COMMIT)
        | flag(w.request.is_some(), FLAG_REQUEST)
        | flag(w.base.is_some(), FLAG_BASE)
        | flag(extent, FLAG_EXTENT));
    o.chunk(w.chunk);
    o.u64(w.state.version.0);
    o.u32(w.state.chain_version.0);
    o.u32(w.state.len);
    o.u32(w.state.checksum);
    o.u32(w.cut);
    put_request(w.request, o);
    put_recents(&w.recents, o);
    if let Some(b) = &w.base {
        put_base(b, o);
    }
    o.u32(w.patches.len() as u32);
    for p in &w.patches {
        put_patch(p.granule, p.sum, &p.data, o);
    }
}

fn decode_write(kind: u8, t: &mut Take<'_>) -> Result<WriteRecord, Malformed> {
    let flags = t.u8()?;
    let chunk = t.chunk()?;
    let state = StoredVersion {
        version: ChunkVersion(t.u64()?),
        chain_version: ChainVersion(t.u32()?),
        len: t.u32()?,
        checksum: t.u32()?,
    };
    let cut = t.u32()?;
    let request = take_request_if(flags & FLAG_REQUEST != 0, t)?;
    let recents = take_recents(t)?;
    let has_base = flags & FLAG_BASE != 0;
    let base = if has_base { Some(take_base(flags & FLAG_EXTENT != 0, t)?) } else { None };
    let n = t.u32()?;
    let mut patches = Vec::new();
    for _ in 0..n {
        let (granule, sum, data) = take_patch(t)?;
        patches.push(Patch { granule, sum, data });
    }
    let (commit, overwrite) = (flags & FLAG_COMMIT != 0, kind == OVERWRITE);
    if overwrite && !(commit && has_base) {
        return Err(Malformed("an overwriting record without a whole content"));
    }
    Ok(WriteRecord { chunk, state, commit, request, recents, base, cut, patches, overwrite })
}

pub fn put_request(r: Option<RequestId>, o: &mut Put<'_>) {
    if let Some(r) = r {
        o.u64(r.session.0);
        o.u64(r.seq);
    }
}

pub fn take_request_if(there: bool, t: &mut Take<'_>) -> Result<Option<RequestId>, Malformed> {
    if !there {
        return Ok(None);
    }
    Ok(Some(RequestId { session: SessionId(t.u64()?), seq: t.u64()? }))
}

pub fn put_recents(recents: &[Recent], o: &mut Put<'_>) {
    o.u16(recents.len() as u16);
    for r in recents {
        o.u64(r.session.0);
        o.u64(r.seq);
        o.u64(r.version.0);
    }
}

pub fn take_recents(t: &mut Take<'_>) -> Result<Vec<Recent>, Malformed> {
    let n = t.u16()?;
    if n > RECENTS_MAX {
        return Err(Malformed("too many recent writers"));
    }
    let one = |t: &mut Take<'_>| {
        let (session, seq) = (SessionId(t.u64()?), t.u64()?);
        Ok(Recent { session, seq, version: ChunkVersion(t.u64()?) })
    };
    (0..n).map(|_| one(t)).collect()
}

fn put_extent(e: Extent, o: &mut Put<'_>) {
    o.u8(e.class.log2());
    o.u32(e.slot);
}

fn take_extent(t: &mut Take<'_>) -> Result<Extent, Malformed> {
    let class = Class::from_log2(t.u8()?).ok_or(Malformed("unknown block class"))?;
    Ok(Extent { class, slot: t.u32()? })
}

pub fn put_base(b: &Base, o: &mut Put<'_>) {
    if let Some(e) = b.extent {
        put_extent(e, o);
    }
    o.u32(b.granules);
    match &b.sums {
        Sums::Pages(sides) => o.u64(*sides),
        Sums::Inline(sums) => {
            assert_eq!(sums.len(), b.granules as usize);
            for s in sums {
                o.u32(*s);
            }
        }
    }
}

pub fn take_base(has_extent: bool, t: &mut Take<'_>) -> Result<Base, Malformed> {
    let extent = if has_extent { Some(take_extent(t)?) } else { None };
    let granules = t.u32()?;
    let fits = extent.map_or(0, |e| e.class.block() / GRANULE as u64);
    if u64::from(granules) > fits {
        return Err(Malformed("a base larger than its block"));
    }
    let sums = if extent.is_some_and(|e| !e.class.inline()) {
        Sums::Pages(t.u64()?)
    } else {
        Sums::Inline((0..granules).map(|_| t.u32()).collect::<Result<_, _>>()?)
    };
    Ok(Base { extent, granules, sums })
}

pub fn put_patch(granule: u32, sum: u32, data: &[u8], o: &mut Put<'_>) {
    assert_eq!(data.len(), if sum == 0 { 0 } else { GRANULE });
    o.u32(granule);
    o.u32(sum);
    o.bytes(data);
}

pub fn take_patch(t: &mut Take<'_>) -> Result<(u32, u32, Bytes), Malformed> {
    let (granule, sum) = (t.u32()?, t.u32()?);
    let data = if sum == 0 { Bytes::new() } else { Bytes::copy_from_slice(t.bytes(GRANULE)?) };
    Ok((granule, sum, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::InodeId;

    fn every_kind() -> Vec<(&'static str, Record)> {
        let chunk = ChunkId { inode: InodeId(0x0102), index: 3 };
        let (version, chain_version) = (ChunkVersion(7), ChainVersion(2));
        let request = Some(RequestId { session: SessionId(4), seq: 5 });
        let recents = vec![Recent { session: SessionId(6), seq: 8, version: ChunkVersion(5) }];
        let extent = Extent { class: Class::from_log2(12).expect("4 KiB"), slot: 9 };
        let state = StoredVersion { version, chain_version, len: 6, checksum: 0xabcd };
        let base = Base { extent: Some(extent), granules: 1, sums: Sums::Inline([0x55].into()) };
        let write = WriteRecord {
            chunk,
            state,
            commit: true,
            request,
            recents,
            base: Some(base),
            cut: u32::MAX,
            patches: vec![Patch { granule: 1, sum: 0, data: Bytes::new() }],
            overwrite: false,
        };
        let over = WriteRecord { overwrite: true, request: None, ..write.clone() };
        let remove = |overwrite: bool| {
            let request = request.filter(|_| !overwrite);
            Record::Remove { chunk, version, chain_version, commit: true, request, overwrite }
        };
        vec![
            ("write", Record::Write(write)),
            ("remove", remove(false)),
            ("commit", Record::Commit { chunk, version, chain_version }),
            ("applied", Record::Applied { chunk, extent, upto: 11, granules: 2, sides: 1 }),
            ("overwriting write", Record::Write(over)),
            ("overwriting remove", remove(true)),
        ]
    }

    /// Goal: the stored form never changes unnoticed, and each kind reads back as it was.
    /// Method: one record of each kind against its bytes in `golden/`.
    #[test]
    fn golden() {
        let golden: Vec<_> = include_str!("golden/records.txt").lines().collect();
        let mut now = Vec::new();
        for (name, record) in every_kind() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert!(bytes.len() <= record.size_bound());
            let mut t = Take(&bytes);
            assert_eq!(Record::decode(&mut t).map_err(|e| e.0), Ok(record), "{name}");
            assert!(t.0.is_empty());
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            now.push(format!("{name}: {hex}"));
        }
        assert_eq!(now, golden, "\n{}", now.join("\n"));
    }
}
