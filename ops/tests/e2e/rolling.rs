//! Goal: a cluster goes over to this build node by node, and back, while programs work on it; so
//! nodes of the last landed build and of this one serve each other in every combination. Method:
//! the example cluster of the landed build, its hosts replaced one after the other under a load
//! that verifies on one mount what it wrote on the other.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use t3fs_ops::{landed, workspace};

use crate::cluster::{CLIENTS, Cluster, MANAGERS, STORES};
use crate::harness::{binary, run, skip_without_hosts};
use crate::load::Load;

/// For a load to stand still while the metadata store is replaced, on a busy machine.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a load goes on beside what was replaced.
const AFTER: Duration = Duration::from_secs(2);

#[test]
fn old_and_new_nodes_are_one_cluster() {
    if skip_without_hosts(&["cp", "diff"]) {
        return;
    }
    if !landed::binary().exists() {
        let commit = landed::commit();
        let is_ci = std::env::var("CI").as_deref() == Ok("true");
        assert!(!is_ci || !landed::is_known(), "git has {commit}, and nobody has built it");
        eprintln!("\n******** SKIPPED: no build of {commit}; `cargo ops test` makes it ********\n");
        return;
    }
    let mut cluster = Cluster::mounted_by("cluster-rolling", landed::binary());
    let copy = |name: &str, to: &str, cluster: &Cluster| {
        let to = cluster.mount_point(to).join(name);
        run(Command::new("cp").arg("-a").arg(workspace::root().join("transport")).arg(to));
    };
    let same = |name: &str, on: &str, cluster: &Cluster| {
        let on = cluster.mount_point(on).join(name);
        run(Command::new("diff").arg("-r").arg(workspace::root().join("transport")).arg(on));
    };
    copy("landed", "client1", &cluster);

    // Those who are asked first, so that old ones ask new ones; then the other way.
    let kv = ["kv"];
    roll(&mut cluster, STORES.iter().chain(&MANAGERS).chain(&kv), binary());
    copy("new-servers", "client2", &cluster);
    roll_mounts(&mut cluster, binary());
    copy("new", "client2", &cluster);
    for name in ["landed", "new-servers", "new"] {
        same(name, "client1", &cluster);
    }
    roll_mounts(&mut cluster, landed::binary());
    roll(&mut cluster, kv.iter().chain(&MANAGERS).chain(&STORES), landed::binary());
    for name in ["landed", "new-servers", "new"] {
        same(name, "client1", &cluster);
    }
}

/// Servers, under a load on both mounts.
fn roll<'a>(cluster: &mut Cluster, hosts: impl Iterator<Item = &'a &'static str>, binary: PathBuf) {
    for host in hosts {
        let [writer, reader] = CLIENTS.map(|client| cluster.mount_point(client));
        let load = Load::start(&writer, &reader);
        cluster.replace(host, binary.clone());
        std::thread::sleep(AFTER);
        load.finish_within(PAUSE_MAX, &format!("{host} became {}", binary.display()));
        cluster.becomes_whole("client1", Duration::from_secs(60));
    }
}

/// Mounts, each under a load on the other.
fn roll_mounts(cluster: &mut Cluster, binary: PathBuf) {
    for (one, other) in [(0, 1), (1, 0)] {
        let at = cluster.mount_point(CLIENTS[other]);
        let load = Load::start(&at, &at);
        cluster.replace(CLIENTS[one], binary.clone());
        std::thread::sleep(AFTER);
        load.finish_within(PAUSE_MAX, &format!("{} became {}", CLIENTS[one], binary.display()));
        let [writer, reader] = [one, other].map(|i| cluster.mount_point(CLIENTS[i]));
        let load = Load::start(&writer, &reader);
        std::thread::sleep(AFTER);
        load.finish_without_error("one mount of each build");
    }
}
