//! Options of mount(8) and fstab that say how a mount behaves: words become flags of mount(2).
//!
//! Words apply in their order, as mount(8) documents it: `user,exec` allows programs, `exec,user`
//! does not. What is not a flag and not known to be harmless is refused, so that nobody believes in
//! an option that nothing heeds.

use rustix::mount::MountFlags;

use crate::door::atime::Atime;

/// How the next mount is made. The default is that of every mount of t3fs: no set-user-ID programs
/// and no devices, until `suid` or `dev` say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOptions(MountFlags);

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions(MountFlags::NOSUID | MountFlags::NODEV)
    }
}

/// A word, what it sets and what it clears.
type Word = (&'static str, MountFlags, MountFlags);

const NONE: MountFlags = MountFlags::empty();
const ATIME: MountFlags =
    MountFlags::NOATIME.union(MountFlags::RELATIME).union(MountFlags::STRICTATIME);
const NO_SUID_DEV: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const WORDS: [Word; 26] = [
    ("ro", MountFlags::RDONLY, NONE),
    ("rw", NONE, MountFlags::RDONLY),
    ("noexec", MountFlags::NOEXEC, NONE),
    ("exec", NONE, MountFlags::NOEXEC),
    ("nodev", MountFlags::NODEV, NONE),
    ("dev", NONE, MountFlags::NODEV),
    ("nosuid", MountFlags::NOSUID, NONE),
    ("suid", NONE, MountFlags::NOSUID),
    ("noatime", MountFlags::NOATIME, ATIME),
    ("atime", NONE, MountFlags::NOATIME),
    ("relatime", MountFlags::RELATIME, ATIME),
    ("norelatime", NONE, MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME, ATIME),
    ("nostrictatime", NONE, MountFlags::STRICTATIME),
    ("nodiratime", MountFlags::NODIRATIME, NONE),
    ("diratime", NONE, MountFlags::NODIRATIME),
    ("sync", MountFlags::SYNCHRONOUS, NONE),
    ("async", NONE, MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC, NONE),
    ("defaults", NONE, MountFlags::RDONLY.union(MountFlags::NOEXEC).union(MountFlags::SYNCHRONOUS)),
    // Which users may mount is mount(8)'s matter; what such a mount allows is told here.
    ("user", NO_SUID_DEV.union(MountFlags::NOEXEC), NONE),
    ("users", NO_SUID_DEV.union(MountFlags::NOEXEC), NONE),
    ("owner", NO_SUID_DEV, NONE),
    ("group", NO_SUID_DEV, NONE),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, NONE),
    ("symfollow", NONE, MountFlags::NOSYMFOLLOW),
];

/// Words that are for mount(8) and systemd, or that are so anyway.
const NO_MATTER: [&str; 14] = [
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "nouser",
    "noowner",
    "nogroup",
    "silent",
    "loud",
    "nomand",
    "nolazytime",
    "default_permissions",
    "allow_other",
    "fuse",
];

/// Words with a value that say nothing to us: the kernel's own, which mount(8) reads back from the
/// mount when it mounts anew, and remarks.
const NO_MATTER_VALUES: [&str; 9] = [
    "user", "user_id", "group_id", "rootmode", "max_read", "blksize", "comment", "subtype",
    "fsname",
];

impl MountOptions {
    /// Applies words in their order. `Err` is the first that is not known.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<MountOptions, String> {
        MountOptions::default().with(words)
    }

    /// The same, on top of what is there.
    pub fn with<'a>(
        mut self,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<MountOptions, String> {
        for word in words.into_iter().filter(|w| !w.is_empty()) {
            if !self.apply(word) {
                return Err(word.to_owned());
            }
        }
        Ok(self)
    }

    /// Where mount(8) begins: it passes all that a mount shall have, and leaves out `suid` and
    /// `dev`, which go without saying there.
    pub fn of_mount8() -> MountOptions {
        MountOptions(NONE)
    }

    fn apply(&mut self, word: &str) -> bool {
        if let Some((_, set, clear)) = WORDS.iter().find(|(known, ..)| *known == word) {
            self.0 = self.0.difference(*clear).union(*set);
            return true;
        }
        is_no_matter(word)
    }

    pub fn flags(self) -> MountFlags {
        self.0
    }

    pub fn is_read_only(self) -> bool {
        self.0.contains(MountFlags::RDONLY)
    }

    /// Whether reading a file moves its time of access, and when.
    pub fn atime(self) -> Atime {
        if self.0.intersects(MountFlags::NOATIME | MountFlags::RDONLY) {
            Atime::Never
        } else if self.0.contains(MountFlags::STRICTATIME) {
            Atime::Always
        } else {
            Atime::Relative
        }
    }

    /// The first word that only root may use.
    pub fn needs_root(self) -> Option<&'static str> {
        let suid = (!self.0.contains(MountFlags::NOSUID)).then_some("suid");
        suid.or_else(|| (!self.0.contains(MountFlags::NODEV)).then_some("dev"))
    }

    /// The words of fusermount3 for the same.
    pub fn words(self) -> Vec<&'static str> {
        let has = |f| self.0.contains(f);
        let read_only = has(MountFlags::RDONLY);
        let all = [
            ("ro", read_only),
            ("rw", !read_only),
            ("noexec", has(MountFlags::NOEXEC)),
            ("nodev", has(MountFlags::NODEV)),
            ("nosuid", has(MountFlags::NOSUID)),
            ("noatime", has(MountFlags::NOATIME)),
            ("nodiratime", has(MountFlags::NODIRATIME)),
            ("sync", has(MountFlags::SYNCHRONOUS)),
            ("dirsync", has(MountFlags::DIRSYNC)),
        ];
        all.into_iter().filter(|(_, on)| *on).map(|(word, _)| word).collect()
    }
}

fn is_no_matter(word: &str) -> bool {
    let with_value = word.split_once('=').is_some_and(|(key, _)| NO_MATTER_VALUES.contains(&key));
    with_value || NO_MATTER.contains(&word) || word.starts_with("x-") || word.starts_with("X-")
}

#[cfg(test)]
mod tests {
    //! Goal: words mean what mount(8) says, in their order, and unknown ones are named.
    use super::*;

    fn flags(words: &str) -> MountFlags {
        MountOptions::of_words(words.split(',')).unwrap().flags()
    }

    #[test]
    fn words_apply_in_their_order() {
        assert_eq!(flags(""), NO_SUID_DEV, "as every mount of t3fs");
        assert_eq!(flags("rw,suid,dev"), NONE);
        assert_eq!(flags("ro,noexec"), NO_SUID_DEV | MountFlags::RDONLY | MountFlags::NOEXEC);
        assert_eq!(flags("user,exec,suid,dev"), NONE);
        assert_eq!(flags("suid,dev,exec,user"), NO_SUID_DEV | MountFlags::NOEXEC);
        assert_eq!(flags("noatime,relatime"), NO_SUID_DEV | MountFlags::RELATIME);
        assert_eq!(flags("ro,defaults"), NO_SUID_DEV);
        assert_eq!(flags("_netdev,nofail,x-systemd.after=a,user=b,noauto"), NO_SUID_DEV);
    }

    #[test]
    fn an_unknown_word_is_named() {
        let wrong = MountOptions::of_words(["ro", "data=journal", "rw"]);
        assert_eq!(wrong, Err("data=journal".to_owned()));
        assert_eq!(MountOptions::of_words(["Ro"]), Err("Ro".to_owned()));
    }

    #[test]
    fn words_for_others_and_for_root_alone() {
        let all = MountOptions::of_mount8().with(["ro", "nodev", "user_id=0"]).unwrap();
        assert_eq!(all.flags(), MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!((all.needs_root(), all.is_read_only()), (Some("suid"), true));
        assert_eq!(all.words(), ["ro", "nodev"]);
        assert_eq!(MountOptions::default().needs_root(), None);
    }

    #[test]
    fn reading_moves_times_of_access_unless_told_otherwise() {
        let atime = |words: &str| MountOptions::of_words(words.split(',')).unwrap().atime();
        assert_eq!((atime(""), atime("relatime")), (Atime::Relative, Atime::Relative));
        assert_eq!((atime("noatime"), atime("ro")), (Atime::Never, Atime::Never));
        assert_eq!(
            (atime("strictatime"), atime("noatime,relatime")),
            (Atime::Always, Atime::Relative)
        );
    }
}
