//! Several hosts on one machine: network namespaces, each with an address of its own, all on one
//! switch. Needs root, iproute2, nftables and nsenter.
//!
//! ```text
//!   host a: eth0 10.99.0.1 --- pa -+
//!   host b: eth0 10.99.0.2 --- pb -+ br0      each box is a namespace; the switch is one too, so
//!   host c: eth0 10.99.0.3 --- pc -+ switch   nothing of this is seen outside, and every test
//! ```                                         can use the same addresses
//! Promises: nothing leaves the machine; dropping [`Hosts`] ends every process in them and removes
//! all; what a killed run left goes with the next [`Hosts::new`]. Faults ([`Hosts::cut`], `loss`,
//! `slow`) happen at the switch, so the hosts cannot see them other than by their effect. Only the
//! network is separate: files, mounts and process ids are the machine's.

mod faults;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command;

pub use faults::Cut;

/// Where iproute2 keeps the names of namespaces.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "t3fs-";
/// The switch and every host must fit into an address of 10.99.0.0/24.
const HOSTS_MAX: usize = 200;
/// For one call of ip, nft or tc.
const TOOL_LIMIT: Duration = Duration::from_secs(20);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Why hosts cannot be made here, if so.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    let tools = ["ip", "tc", "nft", "nsenter"];
    let missing: Vec<&str> = tools.into_iter().filter(|t| !command::is_installed(t)).collect();
    (!missing.is_empty()).then(|| format!("no {}", missing.join(", ")))
}

/// The hosts of one test.
#[derive(Debug)]
pub struct Hosts {
    /// Begins the names of all namespaces of this test: `t3fs-PID-N-`.
    tag: String,
    hosts: Vec<Host>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub ip: Ipv4Addr,
    namespace: String,
    /// Its end at the switch.
    port: String,
    faults: faults::Faults,
}

impl Hosts {
    /// Makes a host for each name, and the switch between them.
    ///
    /// # Errors
    /// What could not be made, and what the tool said. Nothing of it is left.
    pub fn new(names: &[&str]) -> Result<Hosts, String> {
        assert!(names.len() <= HOSTS_MAX, "{} hosts", names.len());
        sweep();
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{PREFIX}{}-{number}-", std::process::id());
        // From here on dropping it removes what was made.
        let mut hosts = Hosts { tag, hosts: Vec::new() };
        let switch = hosts.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "set", "lo", "up"])?;
        // No spanning tree: it would keep every port closed for half a minute.
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "stp_state", "0"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for (index, name) in names.iter().enumerate() {
            hosts.add(name, index)?;
        }
        hosts.introduce()?;
        Ok(hosts)
    }

    /// Tells every host the hardware address of every other. If they had to ask (ARP), a cut in one
    /// direction would soon be one in both.
    fn introduce(&self) -> Result<(), String> {
        for host in &self.hosts {
            let others = self.hosts.iter().filter(|h| *h != host);
            let lines: String = others
                .map(|h| format!("neigh add {} lladdr {} dev eth0 nud permanent\n", h.ip, h.mac()))
                .collect();
            let mut file = tempfile::NamedTempFile::new().map_err(|e| format!("ip lines: {e}"))?;
            file.write_all(lines.as_bytes()).map_err(|e| format!("ip lines: {e}"))?;
            let path = file.path().to_string_lossy();
            ip(&["-n", &host.namespace, "-batch", &path])?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, index: usize) -> Result<(), String> {
        let last = u8::try_from(index + 1).expect("checked by new");
        let host = Host {
            name: name.to_owned(),
            ip: Ipv4Addr::new(10, 99, 0, last),
            namespace: format!("{}{name}", self.tag),
            port: format!("p{last}"),
            faults: faults::Faults::default(),
        };
        let (space, port, switch) = (&host.namespace, &host.port, self.switch());
        ip(&["netns", "add", space])?;
        ip(&["-n", space, "link", "set", "lo", "up"])?;
        let mac = host.mac();
        let ends = ["type", "veth", "peer", "name", "eth0", "address", &mac, "netns", space];
        ip(&[&["-n", &switch, "link", "add", port], &ends[..]].concat())?;
        ip(&["-n", &switch, "link", "set", port, "master", "br0", "up"])?;
        ip(&["-n", space, "addr", "add", &format!("{}/24", host.ip), "dev", "eth0"])?;
        ip(&["-n", space, "link", "set", "eth0", "up"])?;
        self.hosts.push(host);
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}switch", self.tag)
    }

    /// The host of this name.
    ///
    /// # Panics
    /// There is none.
    pub fn get(&self, name: &str) -> &Host {
        let host = self.hosts.iter().find(|h| h.name == name);
        host.unwrap_or_else(|| panic!("there is no host {name}"))
    }

    pub fn all(&self) -> &[Host] {
        &self.hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        remove(&namespaces(|name| name.starts_with(&self.tag)));
    }
}

impl Host {
    /// A program that will run on this host. Arguments and environment are the caller's to add; its
    /// process id is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file().display())).arg("--").arg(program);
        command
    }

    /// Runs something on a thread that is on this host; sockets made there stay on it.
    ///
    /// # Panics
    /// The thread cannot enter the namespace, or panicked.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.file()).expect("the host's namespace");
        std::thread::scope(|scope| {
            let on_host = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).expect("root may enter it");
                what()
            });
            on_host.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip:port` as configurations write it.
    pub fn at(&self, port: u16) -> std::net::SocketAddr {
        (IpAddr::V4(self.ip), port).into()
    }

    /// `ip@namespace`, as the transport's tests want to be told where to live.
    pub fn place(&self) -> String {
        format!("{}@{}", self.ip, self.file().display())
    }

    /// Locally administered, made of the address.
    fn mac(&self) -> String {
        let [a, b, c, d] = self.ip.octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    fn file(&self) -> PathBuf {
        Path::new(NAMES).join(&self.namespace)
    }
}

/// Removes what runs left whose process is gone.
fn sweep() {
    let left = namespaces(|name| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    if !left.is_empty() {
        eprintln!("removing {} namespaces that a killed run left", left.len());
        remove(&left);
    }
}

fn namespaces(which: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| which(name)).collect();
    names.sort();
    names
}

/// Ends the processes in these namespaces and takes their names away; the kernel removes a
/// namespace with its devices once nothing is in it.
fn remove(names: &[String]) {
    for name in names {
        let emptied = command::poll_until(KILL_LIMIT, || {
            let inside = processes(name).unwrap_or_default();
            for pid in &inside {
                // It may have ended since it was listed.
                let _ = kill_process(*pid, Signal::KILL);
            }
            inside.is_empty()
        });
        if !emptied {
            eprintln!("{name}: a process in it survives kill -9");
        }
        if let Err(err) = ip(&["netns", "del", name]) {
            eprintln!("{err}");
        }
    }
}

/// The processes of which a thread is in the namespace, but for our own.
fn processes(namespace: &str) -> Result<Vec<Pid>, String> {
    let listed = ip(&["netns", "pids", namespace])?;
    let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw));
    // A child that was not waited for yet is listed for ever.
    let ends = |pid: Pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.map_or(true, |s| s.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    };
    Ok(pids.filter(|pid| *pid != rustix::process::getpid() && !ends(*pid)).collect())
}

fn ip(args: &[&str]) -> Result<String, String> {
    tool(Command::new("ip").args(args)).map_err(|err| format!("ip {}: {err}", args.join(" ")))
}

fn tool(command: &mut Command) -> Result<String, String> {
    let done = command::finish(command, TOOL_LIMIT).map_err(|err: io::Error| err.to_string())?;
    if done.success() { Ok(done.stdout) } else { Err(done.stderr.trim().to_owned()) }
}
