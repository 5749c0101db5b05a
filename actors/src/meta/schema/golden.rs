//! A sample of every frozen value. Values as they are made are in `tests`.

use super::*;

t3fs_runtime::samples! { "/src/meta/golden/types.txt":
    enum KindV1 { File, Directory, Symlink, Special { mode_type, rdev } }
    enum StripesV1 { Range { table, table_version, base, count, seed }, List { chains } }
    struct LayoutV1 { chunk_size, stripes }
    struct AttrV1 {
        kind, mode, uid, gid, nlink, atime_ns, mtime_ns, ctime_ns, length, truncations, layout,
    }
    struct AttrV2 {
        kind, mode, uid, gid, nlink, atime_ns, mtime_ns, ctime_ns, length, truncations, times_set,
        changes, birth_ns, flags, layout,
    }
    struct InodeV1 { attr, parent, target }
    struct InodeV2 { attr, parent, target, project }
    struct DirentV1 { inode, kind }
    struct TimesV1 { mtime_ns, ctime_ns }
    struct RedundancyV1 { kind, data, parity }
    struct LayoutV2 { chunk_size, stripes, redundancy }
    struct InodeV3 { attr, parent, target, project, layout, for_children, spare }
    struct GarbageV1 { since_ns }
    struct DueV1 { bucket, due_ns }
    struct GarbageV3 { since_ns, condemned, kind, uid, gid, project, length, due }
    struct GarbageV2 { since_ns, condemned }
    struct HoldV1 { write, since_ns }
    struct SharesV1 { since_ns }
    struct TurnV1 { session, seq, at }
    enum AtEndV1 { Cut, Append { from, to, stored } }
    struct TurnsV1 { turns }
    struct NumberedV1 { inode, attr }
    enum AnswerV1 { Attr { of }, Gone { removed, moved } }
    struct RecentV1 { seq, answer }
    struct NumberedV2 { inode, attr }
    enum AnswerV3 { Attr { of }, Gone { removed, moved } }
    struct RecentV3 { seq, answer }
    struct RefusedV2 { seq, why }
    struct AllocV1 { next }
}
