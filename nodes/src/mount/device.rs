//! The descriptor of a mount: a mount can have several, each with requests of its own.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// FUSE_DEV_IOC_CLONE: `_IOR(229, 0, uint32_t)`
const CLONE: Opcode = opcode::read::<u32>(229, 0);

/// `count` descriptors of the mount that `device` is one of, itself the first.
pub fn several(device: OwnedFd, count: usize) -> Result<Vec<OwnedFd>, Errno> {
    let mut all = vec![device];
    while all.len() < count {
        let another = super::open_device()?;
        let original = all[0].as_raw_fd() as u32;
        // SAFETY: the kernel reads a u32 at the pointer, whatever the direction in the opcode's
        // name says (Linux, fs/fuse/dev.c, `fuse_dev_ioctl_clone`), and a `Setter` gives it one.
        unsafe {
            let clone = Setter::<CLONE, u32>::new(original);
            ioctl(&another, clone)?;
        }
        all.push(another);
    }
    Ok(all)
}
