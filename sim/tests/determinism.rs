//! Goal: a seed is the whole of a run, and seeds reach everything.
//! Method: the toy cluster and the disk check twice with one seed, text and hash; different seeds;
//! counters of every kind of event and fault over 100 seeds.

mod toy;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use t3fs_runtime::DiskId;
use t3fs_runtime::disk::{ALIGN, DiskError, OpenMode};
use t3fs_sim::checks::{ALL, Check, run_seed};
use t3fs_sim::{DiskFaults, Menu, NodeSpec, World};

fn log_of(check: &Check, seed: u64) -> (String, u64) {
    let text = Rc::new(RefCell::new(String::new()));
    let into = Rc::clone(&text);
    let sink = Box::new(move |line: &str| {
        into.borrow_mut().push_str(line);
        into.borrow_mut().push('\n');
    });
    let outcome = run_seed(check, seed, None, Some(sink));
    assert_eq!(outcome.result, Ok(()), "seed {seed}");
    (text.take(), outcome.hash)
}

#[test]
fn one_seed_is_one_log() {
    for check in ALL.iter().chain([&toy::TOY]) {
        for seed in 1..=5 {
            let (first, second) = (log_of(check, seed), log_of(check, seed));
            assert!(first.0.len() > 1000, "{}: {} bytes of log", check.name, first.0.len());
            assert!(first == second, "{} seed {seed}", check.name);
            // Nobody reading must not change the run.
            assert_eq!(run_seed(check, seed, None, None).hash, first.1);
        }
    }
}

#[test]
fn different_seeds_are_different_runs() {
    let hash = |seed| run_seed(&toy::TOY, seed, None, None).hash;
    let mut hashes: Vec<u64> = (1..=20).map(hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20);
}

/// A node that uses its disk and takes whatever that answers.
fn disk_user(seed: u64) -> World {
    let world = World::new(seed);
    let node = world.add_node(NodeSpec::new().disk(1 << 20).boot(|b| {
        let cx = b.cx.clone();
        b.cx.spawn(async move {
            let disk = cx.disk(DiskId(0));
            let _ = disk.make_dir("d").await;
            for n in 0.. {
                let name = format!("d/{}", cx.rand() % 3);
                let used: Result<(), DiskError> = async {
                    let (file, _) = disk.open(&name, OpenMode::OrCreate).await?;
                    let buf = disk.alloc(ALIGN).await;
                    let _ = disk.write(file, cx.rand() % 400 * ALIGN as u64, buf).await;
                    let _ = disk.sync(file).await;
                    let _ = disk.read(file, 0, ALIGN).await;
                    disk.close(file).await?;
                    match n % 4 {
                        0 => disk.sync_dir("d").await,
                        1 => disk.remove(&name).await,
                        _ => Ok(()),
                    }
                }
                .await;
                if used.is_err() {
                    cx.sleep(Duration::from_micros(100)).await;
                }
            }
        });
    }));
    let faults = DiskFaults {
        read_error_ppm: 50_000,
        write_error_ppm: 50_000,
        sync_error_ppm: 50_000,
        no_space_ppm: 50_000,
        flip_on_write_ppm: 50_000,
        flip_on_read_ppm: 50_000,
        dead: false,
    };
    world.unleash_any(
        Menu { disk: faults, ..Menu::new(&[node], &[node]) },
        Duration::from_millis(300),
    );
    world.run_for(Duration::from_millis(300)).unwrap();
    world.heal();
    world
}

/// A fault that never happens is not tested against.
#[test]
fn every_kind_of_fault_happens_in_100_seeds() {
    let mut sum: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=100 {
        let toy = run_seed(&toy::TOY, seed, None, None);
        assert_eq!(toy.result, Ok(()), "seed {seed}");
        for (name, n) in toy.coverage.into_iter().chain(disk_user(seed).coverage()) {
            *sum.entry(name).or_default() += n;
        }
    }
    let never: Vec<_> = sum.iter().filter(|(_, n)| **n == 0).collect();
    assert!(never.is_empty(), "never happened: {never:?}\n{sum:#?}");
}

/// Goal: the checks can fail. Method: each deliberate bug of the toy is found within 200 seeds.
#[test]
fn deliberate_bugs_are_found() {
    let checks = ALL.iter().chain([&toy::TOY]);
    for (check, mutant) in checks.flat_map(|c| c.mutants.iter().map(move |m| (c, *m))) {
        let found = (1..=200).find(|seed| {
            let run = || run_seed(check, *seed, Some(mutant), None).result.is_err();
            std::panic::catch_unwind(run).unwrap_or(true)
        });
        assert!(found.is_some(), "{} --mutant {mutant} was not found", check.name);
    }
}
