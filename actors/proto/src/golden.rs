//! A sample of every message and of all that messages hold, for `golden.txt`.

use t3fs_runtime::samples;

use crate::agent::*;
use crate::host::*;
use crate::ids::*;
use crate::kv::*;
use crate::meta::*;
use crate::mgmtd::*;
use crate::storage::*;

samples! { "/golden.txt":
    struct ChunkId { inode, index }
    struct RequestId { session, seq }
    enum FileType { File, Directory, Symlink, Special { mode_type, rdev } }
    struct Layout { chunk_size, stripes }
    enum Stripes { Range { table, table_version, base, count, seed }, List { chains } }
    struct Attr {
        inode, kind, mode, uid, gid, nlink, atime_ns, mtime_ns, ctime_ns, length, truncations,
        times_set, changes, sparse, birth_ns, layout, as_of,
    }
    struct Lookup { parent, name }
    struct GetAttr { inode }
    enum SetTime { Now, At { ns } }
    struct Stamp(a)
    struct Changed { attr, stamp }
    struct SetLength { length, seen, turn }
    struct SeenContent { length, truncations, changes }
    struct SetAttr { inode, mode, uid, gid, atime, mtime, ctime, length, op }
    struct ReportWrite {
        inode, end, truncations, times_set, mtime_ns, atime_ns, clear_suid, sparse, turn, durable,
    }
    struct EndTurn { op, end }
    enum Reported { Taken(a), Waits, Passed(a), Stale(a) }
    struct Append { inode, len, end, truncations, holder, op, instead_of }
    enum Appended { At { offset, stamp }, Waits, Stale(a) }
    struct BeginCut { inode, op }
    struct OpenFile { inode, hold, write, op }
    struct DropHolds { session, inodes, op }
    struct ShareOpens { session, holds, all, op }
    struct KeepOpens { session }
    struct ListKeepers
    struct WritersLeft
    struct NoteReads { reads }
    struct NewEntry { parent, name, mode, uid, gid, op }
    struct CreateFile { entry, kind, hold }
    struct MakeDir { entry }
    struct MakeSymlink { entry, target }
    struct ReadLink { inode }
    struct MakeLink { inode, parent, name, op }
    struct Unlink { parent, name, hold, op }
    struct RemoveDir { parent, name, op }
    enum RenameMode { Replace, NoReplace, Exchange }
    struct Rename { parent, name, new_parent, new_name, mode, hold, op }
    struct Gone { removed, moved, stamp }
    struct ReadDir { inode, after, limit }
    struct DirEntry { name, attr }
    struct DirPage { entries, more, parent }
    struct SyncMeta { stamp }
    struct CountInodes
    struct CollectGarbage
    enum MetaError {
        NotFound, Exists, NotDirectory, IsDirectory, NotEmpty, NameTooLong, TooManyLinks,
        InvalidArgument(a), FileTooLarge, NoSpace, Unavailable(a), Damaged(a), Stale, Changed, Lost,
    }
    enum TargetState { Serving, Syncing, Waiting, LastServing, Offline }
    struct ChainTarget { target, node, addr, state, made }
    struct Chain { id, version, targets }
    struct ChainTable { id, version, chains }
    enum Role { Mgmtd, Kv, Meta, Storage }
    enum NodeStatus { Alive, Dead }
    struct NodeInfo { node, incarnation, identity, status, roles, addresses, tags, metas, targets }
    struct Routing { cluster, nodes, chains, tables, metas }
    struct Sessions { alive, max }
    struct ClusterView { version, routing, sessions }
    struct ViewDelta { from, version, routing, sessions }
    struct RoutingChange { nodes, chains, tables, metas }
    struct SessionsChange { opened, ended, max }
    enum ViewUpdate { Delta(a), Full(a) }
    enum LocalState { UpToDate, Online, Offline }
    struct TargetReport { target, addr, local, chain_version, used_bytes }
    struct TargetFill { target, space }
    struct NodeSpaces { node, targets }
    struct GetSpaces
    struct Actors { metas, targets }
    struct NodeReport { identity, roles, addresses, tags, mgmtd, spaces, actors }
    struct Heartbeat { cluster, term, agent, number, have, node, sessions }
    struct HeartbeatReply { term, lease_us, news, ended }
    struct FetchView { have }
    struct ListNodes
    struct NodeLine { info, silent_us, targets }
    struct CreateChains { chains }
    struct OpenSession { label, nonce }
    struct OpenSessionFor { agent, open }
    struct CloseSession { session }
    struct ExtendSession { session }
    struct Refrain { holder, incarnation, term, for_us, blind }
    enum MgmtdError { NotPrimary { hint }, OtherTerm { term }, Unavailable(a), Refused(a) }
    enum HostTargetState {
        Runs, Waits(a), StaysAway(a), DiskMissing, Retired(a), Stopped, Removed,
    }
    struct HostTarget { target, chain, disk, state }
    struct ListHostTargets
    struct MakeTarget { target, chain, disk }
    struct StopTarget { target }
    struct RemoveTarget { target }
    enum HostError {
        NoSuchTarget, OtherChain(a), NoSuchDisk(a), Elsewhere(a), Runs, Needed(a), Unavailable(a),
    }
    struct Opening { number, nonce }
    struct TargetClaim { target, opening, confirmed, tried }
    struct ClaimTargets { claims }
    enum Claimed { Latest, OldCopy { latest } }
    enum UpdateKind { Write { offset }, Truncate { len }, Remove, Replace }
    struct UpdateChunk { chunk, chain_version, kind, data, request, version, born, hops }
    struct Updated { version, len, checksum }
    struct ReadChunk { chunk, chain_version, offset, len }
    struct ReadAhead { chunk, chain_version, offset, len }
    struct Retire
    struct ChunkData { version, chunk_len, data }
    struct RemoveChunks { inodes, chain_version, from, limit, request }
    struct Removed { count, left }
    struct ListChunks { from, limit }
    struct ChunkSummary { chunk, version, chain_version, len, checksum, pending }
    struct FileExtents { inode, chain_version, from, limit }
    struct Extents { chunks, more, last, stored }
    struct ListInodes { from, limit }
    struct ScrubChunks { chunks }
    struct TargetSpace { disk_capacity, disk_free, reusable, used, chunks, disk, file_system }
    struct GetSpace
    struct RecentWriter { session, seq, version }
    struct SyncStart { chain_version, session }
    struct SyncChunk { chunk, chain_version, session, number, floor, content, data }
    struct SyncContent { version, born, recents }
    struct SyncDone { chain_version, session }
    struct NewView { view }
    struct GetResync
    struct ResyncStats { begun, done, compared, sent, sent_bytes, removed }
    struct LeaseHeld { until_us, view }
    enum StorageError {
        StaleChain { mine }, BehindChain { mine }, WrongTarget, NotReady, VersionGap { have, sent },
        Superseded, SessionEnded, NoSpace, TooManyWriters, InvalidArgument(a), Corrupt(a),
        Failed(a),
    }
    struct GetView { have, fresh }
    struct WatchView { have, own_number }
    struct ViewNews { view, own, own_number }
    struct ReportTarget { report }
    struct Announce { metas, targets }
    struct SetMgmtds { mgmtds }
    struct ViewChanged { term, update }
    struct Version(a)
    struct Versionstamp(a)
    struct KeyRange { begin, end }
    enum KvError {
        Conflict, TooOld, FutureVersion, Throttled, Unknown, TooLarge { what, size, max },
        Invalid(a), Store(a), Lost,
    }
    struct GetKeys { at, keys }
    struct Values { version, values }
    struct GetRange { at, range, limit, reverse }
    struct Page { version, page }
    enum Durability { Soon, Now }
    struct Commit { request, durability }
    struct Barrier { version }
    struct RangePage { rows, more }
    struct Committed { version, versionstamp }
    enum Mutation {
        Set { key, value }, Clear { key }, ClearRange { begin, end },
        SetVersionstampedKey { key, offset, value }, SetVersionstampedValue { key, value, offset },
        Add { key, operand },
    }
    struct CommitRequest { read_version, read_keys, read_ranges, write_conflicts, mutations }
}
