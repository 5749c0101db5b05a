//! Which disks hold which replicas: chains over distinct disks, heads spread evenly.
//!
//! A chain starts on each disk in turn and goes on over the disks behind it, wrapping. So every
//! disk is head, second, third .. of equally many chains, and has equally many targets.

use t3fs_actors::proto::ids::{ChainId, TargetId};

use super::identity::{ChainRecord, ClusterFile};

/// Adds the chains that give `new_disks` (indexes into `file.disks`) at least `targets_per_disk`
/// targets each. Their other replicas are new targets on other disks.
///
/// # Panics
/// With fewer disks than replicas; the caller has refused that.
pub fn add(file: &mut ClusterFile, new_disks: &[usize], targets_per_disk: usize) {
    let (disks, replicas) = (file.disks.len(), usize::from(file.replicas));
    assert!(replicas >= 1 && disks >= replicas, "{replicas} replicas on {disks} disks");
    // Every round makes each new disk a head once, and by that a member `replicas` times.
    let rounds = targets_per_disk.div_ceil(replicas).max(1);
    let mut next_target =
        1 + file.disks.iter().flat_map(|d| &d.targets).map(|t| t.0).max().unwrap_or(0);
    let mut next_chain = 1 + file.chains.iter().map(|c| c.id.0).max().unwrap_or(0);
    for _ in 0..rounds {
        for &start in new_disks {
            let mut targets = Vec::with_capacity(replicas);
            for step in 0..replicas {
                let target = TargetId(next_target);
                next_target += 1;
                file.disks[(start + step) % disks].targets.push(target);
                targets.push(target);
            }
            file.chains.push(ChainRecord { id: ChainId(next_chain), targets });
            next_chain += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: distinct disks in every chain, and the load even. Method: all small shapes.
    use super::*;
    use crate::data::DiskRecord;

    fn cluster(disks: usize, replicas: u8) -> ClusterFile {
        let disk = |i: usize| DiskRecord {
            uuid: i.to_string(),
            folder: format!("/{i}").into(),
            targets: Vec::new(),
        };
        ClusterFile {
            cluster: "c".into(),
            cluster_uuid: "u".into(),
            replicas,
            created: 0,
            disks: (0..disks).map(disk).collect(),
            chains: Vec::new(),
        }
    }

    fn heads(file: &ClusterFile) -> Vec<usize> {
        let mut heads = vec![0; file.disks.len()];
        for c in &file.chains {
            heads[file.disk_of(c.targets[0]).unwrap()] += 1;
        }
        heads
    }

    #[test]
    fn every_disk_carries_the_same() {
        for disks in 1..6 {
            for replicas in 1..=disks.min(3) {
                for per_disk in 1..5 {
                    let mut f = cluster(disks, replicas as u8);
                    add(&mut f, &(0..disks).collect::<Vec<_>>(), per_disk);
                    assert_eq!(ClusterFile::parse(&f.render()).as_ref(), Ok(&f));
                    let targets: Vec<_> = f.disks.iter().map(|d| d.targets.len()).collect();
                    assert!(targets.iter().all(|&n| n == targets[0] && n >= per_disk));
                    assert!(heads(&f).iter().all(|&n| n == heads(&f)[0]));
                    assert_eq!(f.chains[0].id, ChainId(1));
                }
            }
        }
    }

    #[test]
    fn an_added_disk_gets_chains_of_its_own() {
        let mut f = cluster(3, 2);
        add(&mut f, &[0, 1, 2], 1);
        let before = f.chains.clone();
        f.disks.push(DiskRecord { uuid: "n".into(), folder: "/n".into(), targets: vec![] });
        add(&mut f, &[3], 1);
        assert_eq!(f.chains[..before.len()], before);
        assert_eq!(f.chains.len(), before.len() + 1);
        assert_eq!(heads(&f)[3], 1);
        assert_eq!(ClusterFile::parse(&f.render()), Ok(f));
    }
}
