//! A cluster inside the VM of `ops/rdma-vm`: each process has an address of its own on the first
//! RDMA device, and a folder in the VM's memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use t3fs_ops::command;
use t3fs_ops::process::Process;

use crate::harness::{Watchdog, binary, detach, program_limit, run};

const DEVICE: &str = "eth0";
/// Name, roles, number, address.
pub const SERVERS: [(&str, &str, u32, &str); 4] = [
    ("manager", "kv,mgmtd,meta", 11, "10.8.0.2"),
    ("storage1", "storage", 21, "10.8.0.3"),
    ("storage2", "storage", 22, "10.8.0.4"),
    ("storage3", "storage", 23, "10.8.0.5"),
];
/// For a process to start, and for the cluster to be whole again.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Dropping it ends and removes everything.
pub struct Rack {
    // Dropped in this order.
    processes: Vec<(String, Process)>,
    _watchdog: Watchdog,
    dir: tempfile::TempDir,
    /// The setting of all processes that are told nothing else.
    fabric: &'static str,
}

impl Drop for Rack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, process) in &self.processes {
                let log = process.log();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("---- {name}, newest line first ----\n{}", tail.join("\n"));
            }
        }
        // The mount first: it waits for servers otherwise.
        self.processes.retain(|(name, _)| name != "client");
        detach(&self.mount_point());
        self.processes.clear();
    }
}

impl Rack {
    /// All servers, chains of three replicas, and a mount. They find each other at `RDMA://`
    /// addresses and use this fabric: `rdma` is RDMA only. One of them may do without.
    pub fn new(fabric: &'static str, without: Option<&str>) -> Rack {
        let dir = tempfile::tempdir().expect("a folder");
        let mount_point = dir.path().join("mnt");
        fs::create_dir_all(&mount_point).expect("a mount point");
        let watchdog = Watchdog::start(mount_point);
        let mut rack = Rack { processes: Vec::new(), _watchdog: watchdog, dir, fabric };
        fs::write(rack.path("secret"), "a secret for this test alone").expect("write");
        run(Command::new("chmod").arg("600").arg(rack.path("secret")));
        for (name, _, _, ip) in SERVERS {
            // It may have it from an earlier test.
            let added = Command::new("ip")
                .args(["addr", "replace", &format!("{ip}/24"), "dev", DEVICE])
                .status();
            assert!(added.is_ok_and(|s| s.success()), "{ip} on {DEVICE}");
            let settings = [("T3FS_FABRIC", if without == Some(name) { "tcp" } else { fabric })];
            rack.start(name, &settings);
        }
        for (name, ..) in SERVERS {
            rack.wait_for(name, "serves cluster");
        }
        let mut make = rack.command();
        make.args(["make-chains", "--replicas", "3", "--nodes", "3", "--targets-per-disk", "2"]);
        let made = run(&mut make);
        println!("{}", made.trim());
        rack.start("client", &[]);
        rack.wait_for("client", "mounted");
        rack
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.path("mnt")
    }

    /// A command of the product that knows the cluster.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env("T3FS_CLUSTER_ID", "rack")
            .env("T3FS_CLUSTER", format!("RDMA://{}:8000", SERVERS[0].3))
            .env("T3FS_FABRIC", self.fabric)
            .env("T3FS_SECRET_FILE", self.path("secret"))
            .env("T3FS_SHARDS", "1")
            // Processes get processors late here; that shall not look like death.
            .env("T3FS_HEARTBEAT_MS", "500")
            .env("T3FS_NODE_LEASE_MS", "6000")
            .env("T3FS_MGMTD_LEASE_MS", "6000")
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// Starts a process that does not run, with settings beside the usual ones.
    pub fn start(&mut self, name: &str, settings: &[(&str, &str)]) {
        assert!(self.processes.iter().all(|(n, _)| n != name), "{name} runs");
        let mut start = self.command();
        start.arg("run").env("T3FS_STATE", self.path(&format!("state-{name}")));
        match SERVERS.iter().find(|(server, ..)| *server == name) {
            Some((_, roles, id, ip)) => {
                start.env("T3FS_ROLES", roles).env("T3FS_NODE_ID", id.to_string());
                start.env("T3FS_LISTEN", ip);
            }
            None => {
                start.env("T3FS_ROLES", "client").env("T3FS_MOUNT", self.mount_point());
            }
        }
        start.envs(settings.iter().copied());
        let process = Process::start(start, &self.path(&format!("{name}.log"))).expect("t3fs-node");
        self.processes.push((name.to_owned(), process));
    }

    #[track_caller]
    pub fn wait_for(&mut self, name: &str, words: &str) {
        let process = self.processes.iter_mut().find(|(n, _)| n == name);
        let (_, process) = process.unwrap_or_else(|| panic!("{name} does not run"));
        if let Err(why) = process.wait_for(words, PATIENCE) {
            panic!("{name}: {why}");
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        let at = self.processes.iter().position(|(n, _)| n == name).expect("it runs");
        let (_, mut process) = self.processes.remove(at);
        process.kill().expect("kill -9");
    }

    /// Copies a tree onto the mount and makes sure that servers have it.
    pub fn copy(&self, tree: &Path, name: &str) {
        let to = self.mount_point().join(name);
        run(Command::new("cp").arg("-a").arg(tree).arg(&to));
        run(Command::new("sync").arg("-f").arg(&to));
    }

    /// Compares it with the tree; nothing of it may come from the kernel's memory.
    #[track_caller]
    pub fn compare(&self, tree: &Path, name: &str) {
        fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
        run(Command::new("diff").arg("-r").arg(tree).arg(self.mount_point().join(name)));
    }

    /// The links of a process that are up, with the numbers of its peers, as the doctor has them.
    pub fn links(&self, name: &str) -> Vec<(u64, Value)> {
        let mut doctor = self.command();
        doctor.args(["doctor", "--json"]);
        match name {
            "client" => doctor.arg(self.mount_point()),
            server => doctor.arg(self.path(&format!("state-{server}"))),
        };
        let said = run(&mut doctor);
        let view: Value = serde_json::from_str(&said).expect("JSON");
        let peers = view["process"]["peers"].as_array().expect("a list of peers");
        let links = peers.iter().flat_map(|peer| {
            let number = peer["node"].as_u64().expect("a number");
            let links = peer["links"].as_array().into_iter().flatten();
            links.filter(|l| l["state"] == "up").map(move |link| (number, link.clone()))
        });
        links.collect()
    }

    /// Waits until all replicas are back and alike.
    #[track_caller]
    pub fn becomes_whole(&self) {
        let mut last = String::new();
        let whole = command::poll_until(PATIENCE, || {
            let mut check = Command::new(binary());
            check.arg("check").arg(self.mount_point());
            let done = command::finish(&mut check, program_limit()).expect("check ends");
            last = format!("{}{}", done.stdout, done.stderr);
            done.success()
        });
        assert!(whole, "not whole: {last}");
        println!("{}", last.trim());
    }
}
