//! Which of a node's addresses a pair of shards tries, and in which order.
//!
//! An `RDMA://` address comes first where a usable device of ours is on the way to it, then TCP.
//! Several devices of a node share the load: each pair of shards begins with another one. An
//! address that failed while another one of the same node worked is *avoided* for a while, which
//! doubles, so that a dead NIC does not cost every connection its time limit; avoided addresses are
//! tried when nothing else is left.
//!
//! **Invariant:** an address is never left out for having failed, only put last: a node that can be
//! reached is reached.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use t3fs_runtime::Time;

use crate::address::{Address, Fabric};

/// For how long an address is avoided after its first failure, and at most.
const AVOID_MIN: Duration = Duration::from_secs(1);
const AVOID_MAX: Duration = Duration::from_secs(60);

/// Which fabrics a process may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FabricUse {
    /// RDMA where both sides have it, else TCP.
    #[default]
    Auto,
    Tcp,
    /// Nothing but RDMA.
    Rdma,
}

/// What the order depends on, apart from the addresses.
pub(crate) struct Wish<'a> {
    pub(crate) fabric: FabricUse,
    /// Whether a usable device of ours is on the way there.
    pub(crate) reaches: &'a dyn Fn(IpAddr) -> bool,
    pub(crate) avoided: &'a dyn Fn(Address) -> bool,
    /// The same number on both sides; neighbouring pairs of shards have neighbouring ones.
    pub(crate) pair: u64,
    /// Where the last connection was made.
    pub(crate) worked: Option<SocketAddr>,
}

/// How good an address is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Rdma,
    Tcp,
    /// A socket announced for RDMA, which speaks TCP as well.
    MakeDo,
}

/// The addresses to try, best first, each socket once. `RDMA` in the result: offer a queue pair.
pub(crate) fn order(addresses: &[Address], wish: &Wish<'_>) -> Vec<Address> {
    let mut all: Vec<(Class, Address)> = Vec::with_capacity(2 * addresses.len());
    for a in addresses {
        let plain = Address { fabric: Fabric::Tcp, socket: a.socket };
        let reached = || (wish.reaches)(a.socket.ip());
        match (a.fabric, wish.fabric) {
            (Fabric::Rdma, FabricUse::Rdma) => all.push((Class::Rdma, *a)),
            (Fabric::Rdma, FabricUse::Auto) if reached() => {
                all.push((Class::Rdma, *a));
                // Where it is avoided: a device that fails may leave its interface working.
                all.push((Class::MakeDo, plain));
            }
            (Fabric::Rdma, FabricUse::Auto | FabricUse::Tcp) => all.push((Class::MakeDo, plain)),
            (Fabric::Tcp, FabricUse::Auto | FabricUse::Tcp) => all.push((Class::Tcp, plain)),
            (Fabric::Tcp, FabricUse::Rdma) => {}
        }
    }
    let devices: Vec<Address> =
        all.iter().filter(|(c, _)| *c == Class::Rdma).map(|(_, a)| *a).collect();
    // How far an address is from the one that this pair begins with.
    let turn = |a: &Address| {
        let n = devices.len() as u64;
        let place = devices.iter().position(|d| d == a);
        place.map_or(0, |place| (place as u64 + n - wish.pair % n) % n)
    };
    all.sort_by_key(|(class, a)| {
        let another = Some(a.socket) != wish.worked;
        ((wish.avoided)(*a), *class, another, turn(a))
    });
    let mut once: Vec<Address> = Vec::with_capacity(all.len());
    for (_, a) in all {
        if !once.iter().any(|b| b.socket == a.socket) {
            once.push(a);
        }
    }
    once
}

/// The address that packets to `to` leave from: the kernel's route says so, nothing is sent.
pub fn source_towards(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?; // any port does
    socket.local_addr().ok().map(|a| a.ip().to_canonical())
}

/// The addresses of one node that failed while others worked.
#[derive(Default)]
pub(crate) struct Avoided(BTreeMap<Address, Avoid>);

struct Avoid {
    until: Time,
    length: Duration,
}

impl Avoided {
    pub(crate) fn contains(&self, address: Address, now: Time) -> bool {
        self.0.get(&address).is_some_and(|a| now < a.until)
    }

    pub(crate) fn add(&mut self, address: Address, now: Time) {
        let length = match self.0.get(&address) {
            // Many links find out the same thing at the same time.
            Some(a) if now < a.until => return,
            Some(a) => (2 * a.length).min(AVOID_MAX),
            None => AVOID_MIN,
        };
        self.0.insert(address, Avoid { until: now + length, length });
    }

    pub(crate) fn remove(&mut self, address: Address) {
        self.0.remove(&address);
    }

    /// Forgets addresses that the node has no more.
    pub(crate) fn keep(&mut self, addresses: &[Address]) {
        self.0.retain(|a, _| addresses.contains(a));
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the best common fabric first, everything reachable somewhere in the list, NICs shared.
    //! Method: two nodes' addresses under every setting.
    use super::*;

    fn all(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    const TWO_NICS: [&str; 3] =
        ["RDMA://10.8.0.1:8000", "RDMA://10.8.1.1:8000", "TCP://192.168.0.1:8000"];

    /// Our devices reach 10.8.*; `pair` and the addresses avoided vary.
    fn ordered(addresses: &[&str], fabric: FabricUse, pair: u64, avoid: &[&str]) -> Vec<String> {
        let avoid = all(avoid);
        let wish = Wish {
            fabric,
            reaches: &|ip| ip.to_string().starts_with("10.8."),
            avoided: &|a| avoid.contains(&a),
            pair,
            worked: None,
        };
        order(&all(addresses), &wish).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rdma_first_and_spread_then_tcp() {
        let even = ordered(&TWO_NICS, FabricUse::Auto, 6, &[]);
        assert_eq!(even, TWO_NICS);
        let odd = ordered(&TWO_NICS, FabricUse::Auto, 7, &[]);
        assert_eq!(odd, [TWO_NICS[1], TWO_NICS[0], TWO_NICS[2]]);
    }

    #[test]
    fn a_device_that_no_route_of_ours_uses_comes_after_tcp() {
        let far = ["RDMA://10.9.0.1:8000", "TCP://192.168.0.1:8000"];
        assert_eq!(ordered(&far, FabricUse::Auto, 0, &[]), [far[1], "TCP://10.9.0.1:8000"]);
        assert_eq!(ordered(&far[..1], FabricUse::Auto, 0, &[]), ["TCP://10.9.0.1:8000"]);
        assert_eq!(ordered(&far, FabricUse::Rdma, 0, &[]), far[..1], "the peer may route better");
    }

    #[test]
    fn one_socket_is_tried_once() {
        let same = ["RDMA://10.8.0.1:8000", "TCP://10.8.0.1:8000"];
        assert_eq!(ordered(&same, FabricUse::Auto, 0, &[]), same[..1]);
        assert_eq!(ordered(&same, FabricUse::Tcp, 0, &[]), same[1..]);
        assert_eq!(
            ordered(&same, FabricUse::Auto, 0, &same[..1]),
            same[1..],
            "without a queue pair"
        );
        assert_eq!(ordered(&same[..1], FabricUse::Auto, 0, &same[..1]), same[1..]);
    }

    #[test]
    fn what_failed_comes_last_but_comes() {
        let got = ordered(&TWO_NICS, FabricUse::Auto, 0, &TWO_NICS[..1]);
        assert_eq!(got, [TWO_NICS[1], TWO_NICS[2], "TCP://10.8.0.1:8000"]);
        let got = ordered(&TWO_NICS, FabricUse::Rdma, 0, &TWO_NICS[..1]);
        assert_eq!(got, [TWO_NICS[1], TWO_NICS[0]]);
        let got = ordered(&TWO_NICS[2..], FabricUse::Auto, 0, &TWO_NICS[2..]);
        assert_eq!(got, TWO_NICS[2..]);
        assert_eq!(ordered(&TWO_NICS[2..], FabricUse::Rdma, 0, &[]), [""; 0]);
    }

    #[test]
    fn only_tcp_means_every_address_without_a_queue_pair() {
        let got = ordered(&TWO_NICS, FabricUse::Tcp, 0, &[]);
        assert_eq!(got, [TWO_NICS[2], "TCP://10.8.0.1:8000", "TCP://10.8.1.1:8000"]);
    }

    #[test]
    fn the_one_that_worked_is_first_of_its_fabric() {
        let addresses = all(&TWO_NICS);
        let mut wish = Wish {
            fabric: FabricUse::Auto,
            reaches: &|ip| ip.to_string().starts_with("10.8."),
            avoided: &|_| false,
            pair: 0,
            worked: Some(addresses[1].socket),
        };
        assert_eq!(order(&addresses, &wish)[0], addresses[1]);
        wish.worked = Some(addresses[2].socket);
        assert_eq!(order(&addresses, &wish), addresses, "RDMA goes before what worked over TCP");
    }

    #[test]
    fn avoiding_grows_ends_and_is_forgotten() {
        let a = all(&TWO_NICS)[0];
        let mut avoided = Avoided::default();
        let mut now = Time::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            avoided.add(a, now);
            avoided.add(a, now); // another link
            let end = now + Duration::from_secs(seconds);
            assert!(avoided.contains(a, now) && !avoided.contains(a, end));
            now = end;
        }
        avoided.remove(a);
        avoided.add(a, now);
        assert!(!avoided.contains(a, now + AVOID_MIN), "from the beginning");
        avoided.keep(&[]);
        assert!(!avoided.contains(a, now));
    }

    #[test]
    fn the_kernel_knows_where_packets_leave() {
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(source_towards(loopback), Some(loopback));
    }
}
