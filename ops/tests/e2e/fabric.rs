//! Goal: by what fabric processes talk is chosen, told, and never in the way of starting. Method:
//! the doctor on a cluster of one process and of three; settings that cannot be had; and the binary
//! with the feature `rdma` on a host whose libibverbs is hidden.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use t3fs_ops::command;
use t3fs_ops::process::Process;

use crate::harness::{
    COMMAND_LIMIT, Mount, Site, assert_refused, binary, finish, run, skip_without,
    skip_without_root, t3fs,
};

const SECRET: &str = "0123456789abcdef";

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// What `doctor --json` prints, and whether it found everybody.
fn doctor(place: &Path) -> (Value, bool) {
    let mut command = t3fs(["doctor", "--json"]);
    let done = finish(command.arg(place));
    let view = serde_json::from_str(&done.stdout);
    let view = view.unwrap_or_else(|e| panic!("{e}: {}{}", done.stdout, done.stderr));
    (view, done.success())
}

/// Whether the binary under test can do RDMA at all.
fn built_with_rdma() -> bool {
    run(&mut t3fs(["doctor", "--host", "--json"])).contains("\"built_with_rdma\":true")
}

#[test]
fn one_process_has_nobody_to_talk_to() {
    if skip_without(&[]) {
        return;
    }
    let mut alone = Mount::new("doctoralone");
    let (view, well) = doctor(&alone.dir());
    assert!(well, "{view}");
    assert_eq!(view["process"]["linked"], false, "{view}");
    assert_eq!(view["process"]["pid"], alone.node().pid(), "{view}");
    let table = run(t3fs(["doctor"]).arg(alone.dir()));
    assert!(table.contains("cluster of one process"), "{table}");
    alone.down();

    let setup = alone.site.setup(1).arg("--listen").arg("127.0.0.1:0").arg("--log").arg("info");
    alone.up(setup);
    let log = alone.node().log();
    assert_eq!(log.matches("fabric: ").count(), 1, "said once: {log}");
    assert!(log.contains("pinned"), "the budget is reported: {log}");
    // The data folder is as good as the mount.
    let (view, well) = doctor(&alone.site.data(0));
    assert!(well && view["process"]["linked"] == true, "{view}");
    let address = view["process"]["addresses"][0].as_str().expect("it listens");
    assert!(address.starts_with("TCP://127.0.0.1:"), "{view}");
    assert_eq!(view["process"]["peers"].as_array().map(Vec::len), Some(0), "{view}");
    alone.down();
}

#[test]
fn the_doctor_knows_every_pair_of_a_cluster() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("doctor");
    let manager = free_port();
    let with_env = |args: &[&str]| {
        let mut command = t3fs(args);
        command.env("T3FS_SECRET", SECRET).env("T3FS_CLUSTER_ID", &site.name);
        command.env("T3FS_CLUSTER", format!("TCP://{manager}")).env("T3FS_SHARDS", "1");
        command
    };
    let start = |roles: &str, id: &str, listen: SocketAddr| {
        let mut command = with_env(&["--roles", roles, "--node-id", id]);
        command.args(["--listen", &listen.to_string()]).arg("--state").arg(site.path(id));
        let mut process = Process::start(command, &site.path(&format!("log{id}"))).expect("a node");
        process.wait_for("serves cluster", COMMAND_LIMIT).expect("it serves");
        process
    };
    let one = start("kv,mgmtd,meta", "1", manager);
    let two = start("storage", "2", free_port());
    let mut three = start("storage", "3", free_port());
    assert_eq!(two.log().matches("fabric: ").count(), 1, "said once: {}", two.log());

    // That there is a third, the second hears from the first, which takes its moment. The two
    // stores have had nothing to say to each other: the doctor sees to it.
    let (mut view, mut well) = doctor(&site.path("2"));
    let heard = Instant::now() + COMMAND_LIMIT;
    while view["process"]["peers"].as_array().is_none_or(|p| p.len() < 2) && Instant::now() < heard
    {
        (view, well) = doctor(&site.path("2"));
    }
    assert!(well, "{view}");
    let peers = view["process"]["peers"].as_array().expect("a list").clone();
    let nodes: Vec<u64> = peers.iter().filter_map(|p| p["node"].as_u64()).collect();
    assert_eq!(nodes, [1, 3], "{view}");
    assert_eq!(peers[0]["roles"], "mgmtd,kv,meta", "{view}");
    for peer in &peers {
        assert_eq!(peer["reachable"], true, "{peer}");
        let up = peer["links"].as_array().expect("a list").iter().find(|l| l["state"] == "up");
        let up = up.unwrap_or_else(|| panic!("no link is up: {peer}"));
        assert_eq!(up["carrier"], "TCP", "{peer}");
        let why = &peer["not_rdma"];
        let (reason, change) = (why["reason"].as_str(), why["change"].as_str());
        assert!(reason.is_some_and(|r| r.contains("RDMA")), "{peer}");
        assert!(change.is_some_and(|c| !c.is_empty()), "{peer}");
    }

    three.kill().expect("kill -9");
    // The node learns of it from the end of the connection, which takes its moment.
    let noticed = Instant::now() + COMMAND_LIMIT;
    let done = loop {
        let done = finish(t3fs(["doctor"]).arg(site.path("2")));
        let told = done.code() == Some(1) && done.stdout.contains("refused");
        if told || Instant::now() > noticed {
            break done;
        }
    };
    assert_eq!(done.code(), Some(1), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("cannot be reached: node 3"), "{}", done.stderr);
    assert!(done.stdout.contains("node 1 (mgmtd,kv,meta); TCP://127.0.0.1:"), "{}", done.stdout);
    assert!(done.stdout.contains("refused"), "why is told: {}", done.stdout);

    // From outside, without a process of its own.
    let done = finish(with_env(&["doctor", "--json"]).args(["--cluster", &manager.to_string()]));
    assert!(done.stderr.contains("cannot be reached: node 3"), "{}{}", done.stdout, done.stderr);
    let view: Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(view["process"]["peers"].as_array().map(Vec::len), Some(3), "{view}");
    drop((one, two));
}

#[test]
fn only_rdma_needs_a_device() {
    let devices = fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    if skip_without(&[]) || devices > 0 {
        return;
    }
    let site = Site::new("rdmaonly");
    let mut up = t3fs(["up", "--listen", "127.0.0.1:0", "--fabric", "rdma"]);
    up.arg(site.mount_point()).arg("--data").arg(site.path("none"));
    assert_refused(&mut up, &["fabric is rdma", "no RDMA device", "set fabric to auto"]);
    assert!(!site.path("none").exists(), "nothing is made");
    let mut run = t3fs(["--roles", "kv", "--node-id", "1", "--fabric", "roce"]);
    assert_refused(run.env("T3FS_SECRET", SECRET), &["fabric", "auto, tcp or rdma"]);
}

#[test]
fn a_binary_with_rdma_serves_where_there_is_no_libibverbs() {
    if skip_without_root() || skip_without(&["unshare", "ldconfig"]) {
        return;
    }
    if !built_with_rdma() {
        return eprintln!(
            "\n******** SKIPPED a_binary_with_rdma: {} has no feature rdma ********\n",
            binary().display()
        );
    }
    let site = Site::new("nolibrary");
    fs::create_dir_all(site.data(0)).expect("a data folder");
    // Mounts of this namespace are its own, the library's cover as well as the file system's.
    let script = format!(
        "for lib in $(ldconfig -p | sed -n 's/.*libibverbs[.]so[.]1 .*=> //p'); do
             mount --bind /dev/null \"$(readlink -f \"$lib\")\"
         done
         {node} up {mnt} --data {data} --cluster-id {name} --listen 127.0.0.1:0 --detach --log info
         echo content > {mnt}/file
         {node} doctor {mnt}
         {node} down {mnt}
         cat {data}/log/*",
        node = binary().display(),
        mnt = site.mount_point().display(),
        data = site.data(0).display(),
        name = site.name
    );
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "bash", "-euc", &script]);
    let done = command::finish(&mut hidden, COMMAND_LIMIT * 2).expect("it ends");
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(done.success(), "{said}");
    assert!(said.contains("built with RDMA") && said.contains("libibverbs"), "{said}");
    assert_eq!(said.matches("fabric: TCP; no RDMA: ").count(), 1, "said once: {said}");
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "no alarm: {said}");
}
