//! What keeps a pair of processes from RDMA, most decisive first, and what to change.

use std::net::IpAddr;

use t3fs_transport::{Address, Fabric, FabricUse};

use super::view::NoRdma;

/// What this side has, and what the other says.
pub struct RdmaCase<'a> {
    pub node: u32,
    pub fabric: FabricUse,
    /// Why this process uses no RDMA at all.
    pub here: Option<&'a str>,
    pub built_with_rdma: bool,
    pub device_ips: &'a [IpAddr],
    /// Empty: it does not listen, and dials us.
    pub addresses: &'a [Address],
    pub avoided: &'a [Address],
    /// Where packets to an address leave this host.
    pub source: &'a dyn Fn(IpAddr) -> Option<IpAddr>,
    /// What the handshake of the link said.
    pub handshake: Option<&'a str>,
    pub last_error: Option<&'a str>,
}

fn why(reason: impl Into<String>, change: impl Into<String>) -> NoRdma {
    NoRdma { reason: reason.into(), change: change.into() }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    texts.join(", ")
}

/// Always says something: a link over TCP has a reason.
pub fn why_not_rdma(c: &RdmaCase<'_>) -> NoRdma {
    if c.fabric == FabricUse::Tcp {
        return why("fabric is tcp here", "set fabric to auto and start this process again");
    }
    if !c.built_with_rdma {
        return why("this t3fs-node was built without RDMA", "build it with `--features rdma`");
    }
    if let Some(here) = c.here {
        return why(
            format!("this process has no RDMA device: {here}"),
            "mend that, and start it again: devices are looked for at the start",
        );
    }
    let theirs = c.addresses.iter().filter(|a| a.fabric == Fabric::Rdma);
    let theirs: Vec<Address> = theirs.copied().collect();
    if !c.addresses.is_empty() && theirs.is_empty() {
        return why(
            format!("node {} announces no RDMA address", c.node),
            format!("`t3fs-node doctor` on its host ({}) says why", c.addresses[0].socket.ip()),
        );
    }
    let reached =
        |a: &Address| (c.source)(a.socket.ip()).is_some_and(|from| c.device_ips.contains(&from));
    if let Some(first) = theirs.first()
        && !theirs.iter().any(reached)
    {
        let from = match (c.source)(first.socket.ip()) {
            Some(from) => format!("packets there leave from {from}, which no device of ours has"),
            None => "there is no route to it".into(),
        };
        let devices = list(c.device_ips);
        return why(
            format!("no device here is on the way to {first}: {from} (devices: {devices})"),
            format!("give one of the devices an address or a route towards {}", first.socket.ip()),
        );
    }
    let open = theirs.iter().filter(|a| reached(a) && !c.avoided.contains(a));
    if !theirs.is_empty() && open.count() == 0 {
        let last = c.last_error.map_or(String::new(), |e| format!(" (last error: {e})"));
        return why(
            format!("{} failed while another address worked{last}", list(c.avoided)),
            "look at cable, port and switch; it is tried again by itself, by new connections",
        );
    }
    match c.handshake {
        Some(said) => why(
            format!("when the connection was made, {said}"),
            "the devices above and those of the other host say more; the next connection of this \
             pair tries RDMA again, and starting either side again makes one",
        ),
        None => why(
            "the connection was made when RDMA could not be had, and is kept while it works",
            "the next connection of this pair will use it; starting either side again makes one",
        ),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: every obstacle is named with what to change, the decisive one first. Method: a case
    //! that has all of them, from which one after the other is taken away.
    use super::*;

    #[test]
    fn the_first_obstacle_is_named() {
        let all =
            |texts: &[&str]| -> Vec<Address> { texts.iter().map(|t| t.parse().unwrap()).collect() };
        let ours: Vec<IpAddr> = vec!["10.8.0.1".parse().unwrap()];
        let plain = all(&["TCP://10.0.0.3:8000"]);
        let far = all(&["RDMA://10.9.0.3:8000", "TCP://10.0.0.3:8000"]);
        let near = all(&["RDMA://10.8.0.3:8000", "TCP://10.0.0.3:8000"]);
        let source = |ip: IpAddr| {
            let text = ip.to_string();
            let from = if text.starts_with("10.8.") { "10.8.0.1" } else { "10.0.0.1" };
            Some(from.parse().unwrap())
        };
        let mut c = RdmaCase {
            node: 3,
            fabric: FabricUse::Tcp,
            here: Some("port down"),
            built_with_rdma: false,
            device_ips: &ours,
            addresses: &plain,
            avoided: &near[..1],
            source: &source,
            handshake: Some("no memory windows"),
            last_error: Some("timed out"),
        };
        let says = |c: &RdmaCase<'_>, reason: &str, change: &str| {
            let why = why_not_rdma(c);
            assert!(why.reason.contains(reason), "{why:?}");
            assert!(why.change.contains(change), "{why:?}");
        };
        says(&c, "fabric is tcp", "fabric to auto");
        c.fabric = FabricUse::Auto;
        says(&c, "built without RDMA", "--features rdma");
        c.built_with_rdma = true;
        says(&c, "port down", "start it again");
        c.here = None;
        says(&c, "node 3 announces no RDMA", "doctor` on its host (10.0.0.3)");
        c.addresses = &far;
        says(&c, "leave from 10.0.0.1", "towards 10.9.0.3");
        c.addresses = &near;
        says(&c, "RDMA://10.8.0.3:8000 failed", "cable");
        says(&c, "timed out", "by itself");
        c.avoided = &[];
        says(&c, "no memory windows", "of the other host");
        c.handshake = None;
        says(&c, "is kept while it works", "next connection");
        c.addresses = &[]; // a client
        says(&c, "is kept while it works", "next connection");
    }
}
