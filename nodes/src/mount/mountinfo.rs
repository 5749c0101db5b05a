//! /proc/PID/mountinfo (proc_pid_mountinfo(5)): what is mounted where, without touching it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A device number, as mounts and memory maps show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    pub parent: u64,
    pub device: Device,
    pub point: PathBuf,
    /// `fuse` or `fuse.<subtype>` for FUSE.
    pub kind: String,
    pub source: String,
}

impl Mount {
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }

    /// Whether t3fs made it, of this version or an older one, whose mounts had no type of their own.
    pub fn is_ours(&self) -> bool {
        self.is_fuse() && self.source.starts_with(super::SOURCE_PREFIX)
    }
}

/// All mounts that this process sees, in the order they were made.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount on top at exactly this path (absolute, without links).
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rfind(|m| m.point == point))
}

/// Lines that cannot be read are left out: the kernel may add forms.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = || fields.next();
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let device = device(next()?)?;
    let _root = next()?;
    let point = PathBuf::from(OsString::from_vec(unescape(next()?)));
    let _options = next()?;
    // Optional fields, ended by a single dash.
    while next()? != b"-" {}
    let kind = String::from_utf8_lossy(next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(next()?)).into_owned();
    Some(Mount { id, parent, device, point, kind, source })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<Device> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Space, tab, newline, backslash and hash come as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, more @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) =
            (first, more)
        {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = behind;
        } else {
            out.push(*first);
            rest = more;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    //! Goal: lines as the kernel prints them are understood, odd ones are left out.
    use super::*;

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
36 22 0:57 / /mnt/a\\040b\\134c rw,nosuid shared:7 master:1 - fuse hf3fs.t3fs rw,user_id=0
nonsense
37 36 0:58 / /mnt/a\\040b\\134c rw - fuse.other what\\040ever rw
38 22 0:59 / /short rw -";

    #[test]
    fn lines_are_understood() {
        let m = parse(TEXT);
        assert_eq!(m.len(), 3);
        assert_eq!(m[1].point, Path::new("/mnt/a b\\c"));
        assert_eq!((m[1].id, m[1].parent), (36, 22));
        assert_eq!(m[1].device, Device { major: 0, minor: 57 });
        assert_eq!((m[1].kind.as_str(), m[1].source.as_str()), ("fuse", "hf3fs.t3fs"));
        assert_eq!(m[2].source, "what ever");
        assert!(m[1].is_fuse() && m[2].is_fuse() && !m[0].is_fuse());
    }

    #[test]
    fn an_escape_needs_three_octal_digits() {
        assert_eq!(unescape(b"a\\0401\\09\\"), b"a 1\\09\\");
        assert_eq!(unescape(b"\\377\\400"), b"\xff\\400");
    }

    #[test]
    fn the_root_of_this_machine_is_found() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }
}
