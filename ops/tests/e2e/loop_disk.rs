//! A disk of a test's own: ext4 on a loop device, which can lose its power.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::run;

/// An ext4 file system on a loop device, mounted. Needs root.
pub struct LoopDisk {
    image: PathBuf,
    pub dir: PathBuf,
}

impl LoopDisk {
    /// Below `place`, which exists.
    pub fn new(place: &Path, mib: u64) -> LoopDisk {
        let disk = LoopDisk { image: place.join("image"), dir: place.join("disk") };
        fs::File::create(&disk.image).and_then(|f| f.set_len(mib << 20)).expect("an image");
        fs::create_dir(&disk.dir).expect("a folder");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image));
        disk.mount();
        disk
    }

    /// Writes by itself as rarely as can be: what is not synced shall not be there by luck.
    fn mount(&self) {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop,commit=300"]).arg(&self.image).arg(&self.dir));
    }

    /// What the machine's power loss does to it: everything is gone that was not synced. Nothing is
    /// written any more from here on; mount it again with `power_on`.
    ///
    /// This is EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH of the kernel's fs/ext4/ext4.h,
    /// as xfstests use it. perl, since a call of ioctl is `unsafe`; each Debian has it.
    pub fn power_off(&self) {
        let script = "open my $f, '<', $ARGV[0] or die $!; my $how = pack('L', 2); \
                      ioctl($f, 0x8004587d, $how) or die $!";
        run(Command::new("perl").args(["-e", script]).arg(&self.dir));
    }

    /// Nobody may have anything open there.
    pub fn power_on(&self) {
        run(Command::new("umount").arg(&self.dir));
        self.mount();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Something may still use it; then it goes with that.
        let mut umount = Command::new("umount");
        let _ = umount.arg("--lazy").arg(&self.dir).stderr(Stdio::null()).status();
    }
}
