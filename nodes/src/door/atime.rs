//! Times of access: when reading a file moves them. The kernel leaves that to us.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use t3fs_actors::client::Attr;

/// When reading moves a file's time of access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// `noatime`, or a mount that changes nothing.
    Never,
    /// `relatime`, what every mount of Linux does unless told otherwise.
    #[default]
    Relative,
    /// `strictatime`.
    Always,
}

/// A time of access older than this is moved by any read.
const RELATIME_AGE: Duration = Duration::from_secs(24 * 60 * 60);

impl Atime {
    /// Whether a read that happens `now` must move the time of access, by the rule of `relatime` in
    /// mount(8): the old one is not after the last change of content or attributes, or a day old.
    pub fn wants_move(self, attr: &Attr, now: SystemTime) -> bool {
        match self {
            Atime::Never => false,
            Atime::Always => true,
            Atime::Relative => {
                let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
                let age = i128::try_from(now).unwrap_or(i128::MAX) - i128::from(attr.atime_ns);
                let is_old = age >= RELATIME_AGE.as_nanos() as i128;
                attr.atime_ns <= attr.mtime_ns.max(attr.ctime_ns) || is_old
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: times of access move when that says something.
    use super::*;
    use t3fs_actors::client::FileType;
    use t3fs_actors::proto::ids::InodeId;
    use t3fs_actors::proto::meta::Stamp;

    /// Method: one file whose time of access is before, at and after its changes, and old.
    #[test]
    fn reading_moves_the_time_of_access_when_it_says_something() {
        let at = |atime_ns, mtime_ns, ctime_ns| Attr { atime_ns, mtime_ns, ctime_ns, ..file() };
        let now = UNIX_EPOCH + Duration::from_nanos(1000);
        let relative = |a: &Attr, now| Atime::Relative.wants_move(a, now);
        assert!(relative(&at(10, 20, 5), now), "read before it was written");
        assert!(relative(&at(20, 20, 20), now), "a new file");
        assert!(relative(&at(20, 10, 30), now), "its attributes have changed");
        assert!(!relative(&at(30, 20, 20), now), "read since, and lately");
        assert!(relative(&at(30, 20, 20), now + RELATIME_AGE), "read long ago");
        assert!(!relative(&at(5000, 20, 20), now), "set into the future");
        assert!(!Atime::Never.wants_move(&at(10, 20, 5), now));
        assert!(Atime::Always.wants_move(&at(30, 20, 20), now));
    }

    fn file() -> Attr {
        Attr {
            inode: InodeId(1),
            kind: FileType::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            length: 0,
            truncations: 0,
            times_set: 0,
            changes: 0,
            sparse: false,
            birth_ns: 0,
            layout: None,
            as_of: Stamp::default(),
        }
    }
}
