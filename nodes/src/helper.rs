//! `mount.t3fs`: what mount(8) calls for `mount -t t3fs ADDR,ADDR DIR -o OPTIONS` and for lines of
//! fstab. It is this program under that name (a link in /sbin), and goes on as `t3fs-node mount`.
//! Under the name `mount.fuse.t3fs`, the type that a mount has once it is there, mount(8) calls it
//! for `mount -o remount,ro DIR`, which needs no process.
//!
//! ```text
//! TCP://10.0.0.1:8000 /mnt/t3fs t3fs _netdev,cluster_id=prod,secret_file=/etc/t3fs/secret 0 0
//! ```

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::config::definitions::{OPTION, find, key, taken_by};
use crate::config::setting::{Form, Setting};
use crate::failure::{Failure, failed, refused};
use crate::mount::{self, MountOptions, SUBTYPE, place};

/// Whether the program was called by one of these names.
pub fn is_called(program: Option<OsString>) -> bool {
    let name = program.as_deref().map(Path::new).and_then(Path::file_name).and_then(|n| n.to_str());
    let kind = name.and_then(|n| n.strip_prefix("mount."));
    kind.is_some_and(|kind| kind.strip_prefix("fuse.").unwrap_or(kind) == SUBTYPE)
}

/// A setting that may be an option of a mount.
fn setting(name: &str) -> Option<&'static Setting> {
    taken_by(OPTION).find(|setting| setting.name == name)
}

/// The flags that such an option becomes: `KEY=VALUE`, or the key of a switch alone. A list has one
/// value; several times for several, as commas part options.
fn flags(option: &str) -> Option<Vec<String>> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let setting = setting(name).filter(|s| (s.form == Form::Switch) == value.is_none())?;
    Some([setting.flag()].into_iter().chain(value.map(str::to_owned)).collect())
}

fn flag(key: &str) -> String {
    find(key).expect("it is defined").flag()
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// `t3fs-node mount` with these arguments.
    Mount(Vec<String>),
    Remount {
        dir: String,
        words: Vec<String>,
    },
}

/// Becomes `t3fs-node mount .. --detach`, or mounts anew.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let args = args.map(|a| {
        a.into_string().map_err(|a| refused(format!("{} is not UTF-8", a.to_string_lossy())))
    });
    let root = rustix::process::geteuid().is_root();
    let args = match translate(&args.collect::<Result<Vec<String>, _>>()?, root)? {
        Wish::Mount(args) => args,
        Wish::Remount { dir, words } => {
            let dir = place::resolve(Path::new(&dir))?;
            return mount::remount(&dir, words.iter().map(String::as_str));
        }
    };
    let program =
        std::env::current_exe().map_err(|e| failed(format!("this program is not found: {e}")))?;
    let error = Command::new(program).arg0("t3fs-node").args(args).exec();
    Err(failed(format!("cannot go on as t3fs-node mount: {error}")))
}

/// `SPEC DIR [-sfnv] [-t TYPE] [-N NAMESPACE] [-o OPTIONS]`, as mount(8) documents for helpers.
fn translate(args: &[String], root: bool) -> Result<Wish, Failure> {
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-o" => options.extend(args.next().map(|o| o.split(',')).into_iter().flatten()),
            "-t" | "-N" => drop(args.next()),
            "-r" => options.push("ro"),
            "-w" => options.push("rw"),
            "-f" | "-s" | "-n" | "-v" => {}
            flag if flag.starts_with('-') => {
                return Err(refused(format!("mount.{SUBTYPE} does not know {flag}")));
            }
            place => places.push(place),
        }
    }
    let [cluster, dir] = places[..] else {
        return Err(refused(format!(
            "usage: mount.{SUBTYPE} TCP://HOST:PORT[,TCP://HOST:PORT] DIR [-o OPTIONS]"
        )));
    };
    let (mut settings, mut words, mut remount) = (Vec::new(), Vec::new(), false);
    for option in options.into_iter().filter(|o| !o.is_empty()) {
        match flags(option) {
            Some(flags) => settings.extend(flags),
            None if option == "remount" => remount = true,
            None if MountOptions::of_words([option]).is_ok() => words.push(option.to_owned()),
            None => {
                let known = mount::unknown_option(option.to_owned()).line;
                let settings: Vec<&str> = taken_by(OPTION).map(|setting| setting.name).collect();
                let settings = settings.join(", ");
                return Err(refused(format!("{known}, and the settings {settings}")));
            }
        }
    }
    if remount {
        // Settings are those of the process that serves it.
        return Ok(Wish::Remount { dir: dir.to_owned(), words });
    }
    let mut out: Vec<String> = vec!["mount".into(), dir.into()];
    out.extend([flag(key::cluster), cluster.into(), "--detach".into()]);
    out.append(&mut settings);
    if root {
        // mount(8) passes `nosuid` and `nodev` where they shall be, and never their opposites.
        words.splice(0..0, ["suid".to_owned(), "dev".to_owned()]);
    }
    if !words.is_empty() {
        out.extend([flag(key::mount_options), words.join(",")]);
    }
    Ok(Wish::Mount(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> Result<String, Failure> {
        let args: Vec<String> = line.split(' ').map(Into::into).collect();
        translate(&args, false).map(|wish| match wish {
            Wish::Mount(args) => args.join(" "),
            Wish::Remount { dir, words } => format!("remount {dir} {}", words.join(" ")),
        })
    }

    #[test]
    fn lines_of_fstab_become_mounts() {
        let line = "TCP://1.2.3.4:5 /m -o rw,_netdev,cluster_id=c,secret_file=/s,x-systemd.after=n";
        let want = "mount /m --cluster TCP://1.2.3.4:5 --detach --cluster-id c --secret-file /s \
                    --mount-options rw,_netdev,x-systemd.after=n";
        assert_eq!(translated(line).unwrap(), want);
        let line = "RDMA://1.2.3.4:5 /m -o fabric=rdma,device_filter=a,device_filter=b";
        let want = "--detach --fabric rdma --device-filter a --device-filter b";
        assert!(translated(line).unwrap().ends_with(want));
        let line = "host:5 /m -o ro,noexec,suid,hard,io_timeout=5";
        let want = "--detach --hard --io-timeout 5 --mount-options ro,noexec,suid";
        assert!(translated(line).unwrap().ends_with(want));
        for wrong in ["io_timeout", "hard=true", "replicas=2"] {
            let why = translated(&format!("a /m -o {wrong}")).unwrap_err().line;
            assert!(why.contains(wrong) && why.contains("and the settings"), "{why}");
        }
        let by_root = ["a", "/m", "-o", "ro,nodev"].map(str::to_owned);
        let Wish::Mount(args) = translate(&by_root, true).unwrap() else { panic!("a mount") };
        assert_eq!(args.last().unwrap(), "suid,dev,ro,nodev", "as any file system by mount(8)");
        let why = translated("a /m -o data=journal").unwrap_err().line;
        assert!(why.contains("\"data=journal\"") && why.contains("cluster_id"), "{why}");
        assert!(translated("/m").unwrap_err().line.contains("usage"));
    }

    /// What mount(8) passes for `mount -o remount,ro /m` of a line in fstab, and of none.
    #[test]
    fn mounting_anew_starts_nothing() {
        let line = "hf3fs.c /m -o rw,nosuid,relatime,user_id=0,group_id=0,allow_other,remount,ro";
        let want = "remount /m rw nosuid relatime user_id=0 group_id=0 allow_other ro";
        assert_eq!(translated(line).unwrap(), want);
        let line = "TCP://1.2.3.4:5 /m -t fuse.t3fs -o cluster_id=c,secret_file=/s,remount,rw";
        assert_eq!(translated(line).unwrap(), "remount /m rw");
    }

    #[test]
    fn the_names_under_which_it_mounts() {
        for (name, is) in [
            ("/sbin/mount.t3fs", true),
            ("mount.fuse.t3fs", true),
            ("t3fs-node", false),
            ("mount.fuse", false),
        ] {
            assert_eq!(is_called(Some(name.into())), is, "{name}");
        }
    }
}
