//! Where nodes of a test live. Usually all on the loopback of this machine. With
//! `T3FS_TEST_PLACES=IP[@NAMESPACE],IP[@NAMESPACE]` nodes with odd numbers live at the first and
//! those with even ones at the second, each shard in that network namespace (a file such as
//! `/run/netns/a`; needs root): then whatever the network between them does, happens to the suite.
//! `T3FS_TEST_SLOW=N` says that everything takes N times as long there.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use t3fs_runtime::NodeId;

#[derive(Clone, Debug)]
pub struct Place {
    pub ip: IpAddr,
    space: Option<PathBuf>,
}

/// Where this node lives.
pub fn of(node: NodeId) -> Place {
    let Ok(told) = std::env::var("T3FS_TEST_PLACES") else {
        return Place { ip: IpAddr::from([127, 0, 0, 1]), space: None };
    };
    let places: Vec<&str> = told.split(',').collect();
    assert_eq!(places.len(), 2, "T3FS_TEST_PLACES={told}");
    let place = places[1 - node.0 as usize % 2];
    let (ip, space) = place.split_once('@').map_or((place, None), |(ip, s)| (ip, Some(s)));
    Place { ip: ip.parse().expect("an address in T3FS_TEST_PLACES"), space: space.map(Into::into) }
}

impl Place {
    /// Makes sockets of this thread belong to the place.
    pub fn enter(&self) {
        if let Some(space) = &self.space {
            let file = std::fs::File::open(space).expect("a network namespace");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter it");
        }
    }
}

/// So long at most, on a machine and a network that are as fast as usual.
pub fn usually(limit: Duration) -> Duration {
    let slow = std::env::var("T3FS_TEST_SLOW").ok().map(|n| n.parse().expect("a number"));
    limit * slow.unwrap_or(1)
}
