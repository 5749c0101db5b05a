//! Goal: what an acknowledged fsync covered survives `kill -9`, at once and without repair by hand,
//! and the namespace is the outcome of a prefix of the operations. Method: `crash-writer` logs what
//! it does outside the mount; `t3fs_ops::crash::verify` compares after the restart. Rounds continue
//! on the same data, and every round's folder is checked again after each later crash.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use t3fs_ops::command::poll_until;
use t3fs_ops::crash::log::History;
use t3fs_ops::crash::verify::verify;
use t3fs_ops::noise::Noise;

use crate::harness::{Mount, Site, is_nightly, skip_without};

/// The promise, for a start after a crash as well.
const START_LIMIT: Duration = Duration::from_secs(10);

struct Round {
    dir: PathBuf,
    history: History,
}

#[test]
fn acknowledged_data_survives_kill_9() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("crash");
    let setup = site.setup(1);
    rounds(Mount::with(site, setup));
}

#[test]
fn acknowledged_data_survives_kill_9_with_three_replicas() {
    if skip_without(&[]) {
        return;
    }
    let site = Site::new("crash3");
    let setup = site.setup(3).arg("--replicas").arg("3");
    rounds(Mount::with(site, setup));
}

fn rounds(mut mount: Mount) {
    let count = match env::var("T3FS_ROUNDS") {
        Ok(count) => count.parse().expect("T3FS_ROUNDS is a number"),
        Err(_) => {
            if is_nightly() {
                20
            } else {
                3
            }
        }
    };
    let seed = match env::var("T3FS_SEED") {
        Ok(seed) => seed.parse().expect("T3FS_SEED is a number"),
        Err(_) => Noise::any_seed(),
    };
    eprintln!("seed: T3FS_SEED={seed} (the moment of the crash still differs)");
    let mut dice = Noise::new(seed);
    let mut rounds: Vec<Round> = Vec::new();
    for number in 0..count {
        let run_for = Duration::from_millis(200 + dice.word() % 2_000);
        let round = crash_once(&mut mount, number, dice.word(), run_for);
        rounds.push(round);
        for (number, round) in rounds.iter().enumerate() {
            match verify(&round.dir, &round.history) {
                Ok(verified) => eprintln!("round {number}: {verified:?}"),
                Err(complaint) => panic!("round {number}, seed {seed}: {complaint}"),
            }
        }
    }
    for round in &rounds {
        fs::remove_dir_all(&round.dir).expect("rm -rf");
    }
    mount.restart();
    assert_eq!(fs::read_dir(mount.dir()).expect("a folder").count(), 0);
}

/// Writes for a while, kills, starts again.
fn crash_once(mount: &mut Mount, number: u64, seed: u64, run_for: Duration) -> Round {
    let dir = mount.path(&format!("round-{number}"));
    fs::create_dir(&dir).expect("mkdir");
    // The folder itself is not in the log, so it has to be there whatever happens.
    fs::File::open(mount.dir()).and_then(|root| root.sync_all()).expect("fsync of the root");
    let log = mount.site.path(&format!("log-{number}"));
    let mut writer = Command::new(env!("CARGO_BIN_EXE_crash-writer"))
        .arg(&dir)
        .arg(&log)
        .arg(seed.to_string())
        .stdin(Stdio::null())
        .spawn()
        .expect("crash-writer");
    // No condition to wait for: the moment is meant to be a random one.
    thread::sleep(run_for);
    let early = writer.try_wait().expect("a child");
    let setup = mount.kill();
    let ended =
        poll_until(Duration::from_secs(20), || writer.try_wait().is_ok_and(|s| s.is_some()));
    if !ended {
        writer.kill().expect("a child");
        panic!("the writer still runs, though the file system is gone");
    }
    assert!(early.is_none(), "the writer met an error before the crash, see above");
    let start = Instant::now();
    mount.up(setup);
    let took = start.elapsed();
    assert!(took < START_LIMIT, "the start after the crash took {took:?}");
    let history = History::read(&log).expect("the log");
    assert!(history.durable() > 0, "nothing was synced in {run_for:?}");
    Round { dir, history }
}
