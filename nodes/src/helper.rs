//! `mount.t3fs`: what mount(8) calls for `mount -t t3fs ADDR,ADDR DIR -o OPTIONS` and for lines of
//! fstab. It is this program under that name (a link in /sbin), and goes on as `t3fs-node mount`.
//!
//! ```text
//! TCP://10.0.0.1:8000 /mnt/t3fs t3fs _netdev,cluster_id=prod,secret_file=/etc/t3fs/secret 0 0
//! ```

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, failed, refused};

/// Whether the program was called by this name.
pub fn is_called(program: Option<OsString>) -> bool {
    program.as_deref().map(Path::new).and_then(Path::file_name).is_some_and(|n| n == "mount.t3fs")
}

/// Settings that may be options of a mount.
const SETTINGS: [&str; 9] = [
    "cluster_id",
    "secret_file",
    "config",
    "shards",
    "log",
    "state",
    "fabric",
    // One device; several times for several, as commas part options.
    "device_filter",
    "rdma_memory",
];
/// Options that mount(8) and fstab give their own meaning, or that are so anyway.
const OTHERS: [&str; 16] = [
    "defaults",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "nosuid",
    "nodev",
    "suid",
    "dev",
    "exec",
    "relatime",
    "noatime",
    "nodiratime",
    "async",
    "nouser",
];

/// Becomes `t3fs-node mount .. --detach`.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let args = args.map(|a| {
        a.into_string().map_err(|a| refused(format!("{} is not UTF-8", a.to_string_lossy())))
    });
    let args = translate(&args.collect::<Result<Vec<String>, _>>()?)?;
    let program =
        std::env::current_exe().map_err(|e| failed(format!("this program is not found: {e}")))?;
    let error = Command::new(program).arg0("t3fs-node").args(args).exec();
    Err(failed(format!("cannot go on as t3fs-node mount: {error}")))
}

/// `SPEC DIR [-sfnv] [-t TYPE] [-N NAMESPACE] [-o OPTIONS]`, as mount(8) documents for helpers.
fn translate(args: &[String]) -> Result<Vec<String>, Failure> {
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-o" => options.extend(args.next().map(|o| o.split(',')).into_iter().flatten()),
            "-t" | "-N" => drop(args.next()),
            "-f" | "-s" | "-n" | "-v" => {}
            flag if flag.starts_with('-') => {
                return Err(refused(format!("mount.t3fs does not know {flag}")));
            }
            place => places.push(place),
        }
    }
    let [cluster, dir] = places[..] else {
        return Err(refused("usage: mount.t3fs TCP://IP:PORT[,TCP://IP:PORT] DIR [-o OPTIONS]"));
    };
    let mut out: Vec<String> =
        ["mount", dir, "--cluster", cluster, "--detach"].map(Into::into).into();
    for option in options {
        match option.split_once('=') {
            Some((key, value)) if SETTINGS.contains(&key) => {
                out.extend([format!("--{}", key.replace('_', "-")), value.to_owned()]);
            }
            _ if OTHERS.contains(&option) || option.starts_with("x-") => {}
            _ => {
                return Err(refused(format!(
                    "mount option {option} is not known; settings that may stand there are {}",
                    SETTINGS.join(", ")
                )));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> Result<String, Failure> {
        let args: Vec<String> = line.split(' ').map(Into::into).collect();
        translate(&args).map(|out| out.join(" "))
    }

    #[test]
    fn lines_of_fstab_become_mounts() {
        let line = "TCP://1.2.3.4:5 /m -o rw,_netdev,cluster_id=c,secret_file=/s,x-systemd.after=n";
        let want = "mount /m --cluster TCP://1.2.3.4:5 --detach --cluster-id c --secret-file /s";
        assert_eq!(translated(line).unwrap(), want);
        let line = "RDMA://1.2.3.4:5 /m -o fabric=rdma,device_filter=a,device_filter=b";
        let want = "--detach --fabric rdma --device-filter a --device-filter b";
        assert!(translated(line).unwrap().ends_with(want));
        assert!(translated("a /m -o ro").unwrap_err().line.contains("option ro"));
        assert!(translated("/m").unwrap_err().line.contains("usage"));
        assert!(is_called(Some("/sbin/mount.t3fs".into())) && !is_called(Some("t3fs-node".into())));
    }
}
