//! The doctor's answer for people.

use crate::node::doctor::view::{DoctorView, HostReport, LinkReport, PeerReport, ProcessReport};
use crate::service::bytes;

/// Lines without their ends.
pub fn render(view: &DoctorView) -> Vec<String> {
    let mut out = vec![format!("t3fs-node {}", view.version)];
    host(&view.host, &mut out);
    if let Some(process) = &view.process {
        about(process, &mut out);
        let mut said = None;
        for peer in &process.peers {
            out.push(String::new());
            describe(peer, &mut out);
            match &peer.not_rdma {
                Some(why) if said == Some(why) => out.push("  no RDMA: as above".into()),
                Some(why) => out.push(format!("  no RDMA: {}; {}", why.reason, why.change)),
                None => continue,
            }
            said = peer.not_rdma.as_ref();
        }
        if process.linked && process.peers.is_empty() {
            out.push("no other process is known".into());
        }
    }
    out
}

fn host(host: &HostReport, out: &mut Vec<String>) {
    let built = if host.built_with_rdma { "built with RDMA" } else { "built without RDMA" };
    out.push(format!("fabric     {}; {built}", host.fabric));
    out.push(match &host.why_not_rdma {
        Some(why) => format!("RDMA       not used: {why}"),
        None => "RDMA       used".into(),
    });
    if !host.device_filter.is_empty() {
        out.push(format!("filter     {}", host.device_filter.join(", ")));
    }
    match host.devices.as_slice() {
        [] => out.push("devices    none".into()),
        devices => out.extend(devices.iter().map(|d| format!("device     {}", d.about))),
    }
}

fn about(p: &ProcessReport, out: &mut Vec<String>) {
    let ProcessReport { pid, node, roles, cluster, .. } = p;
    out.push(format!("process    {pid}: node {node} ({roles}) of cluster {cluster}"));
    if !p.linked {
        out.push("addresses  none: a cluster of one process, which nobody else can reach".into());
        return;
    }
    out.push(match p.addresses.as_slice() {
        [] => "addresses  none: it does not listen, others are dialled".into(),
        all => format!("addresses  {}", all.join(", ")),
    });
    let (pinned, shards) = (bytes(p.pinned_bytes), p.shards);
    out.push(format!("pinned     {pinned} for RDMA, in {shards} shards"));
    if let Some(trouble) = &p.trouble {
        out.push(format!("mgmtd      {trouble}; the list of servers may be incomplete"));
    }
}

fn describe(peer: &PeerReport, out: &mut Vec<String>) {
    let state = if peer.reachable { "" } else { ": CANNOT BE REACHED" };
    let at = match peer.addresses.as_slice() {
        [] => "does not listen".into(),
        all => all.join(", "),
    };
    out.push(format!("node {} ({}){state}; {at}", peer.node, peer.roles));
    if let Some(why) = &peer.why_unreachable {
        out.push(format!("  {why}"));
    }
    if !peer.avoided.is_empty() {
        out.push(format!("  avoided for now: {}", peer.avoided.join(", ")));
    }
    if !peer.links.is_empty() {
        out.push(format!(
            "  {:8} {:7} {:22} {:>5} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "shards",
            "carrier",
            "address",
            "epoch",
            "up for",
            "sent",
            "received",
            "read",
            "written"
        ));
    }
    out.extend(peer.links.iter().map(row));
    for link in &peer.links {
        if let Some(error) = &link.last_error {
            let LinkReport { shard, remote_shard, .. } = link;
            out.push(format!("  last error of {shard}-{remote_shard}: {error}"));
        }
    }
}

fn row(l: &LinkReport) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let carrier = l.carrier.clone().unwrap_or_else(|| l.state.clone());
    let up_for = l.up_seconds.map(|s| format!("{s} s"));
    format!(
        "  {:8} {:7} {:22} {:>5} {:>8} {:>9} {:>9} {:>9} {:>9}",
        format!("{}-{}", l.shard, l.remote_shard),
        carrier,
        or_dash(&l.address),
        l.epoch,
        or_dash(&up_for),
        bytes(l.sent_bytes),
        bytes(l.received_bytes),
        bytes(l.read_bytes),
        bytes(l.written_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::doctor::view::NoRdma;

    /// Goal: what decides is in the text. Method: one link of each kind.
    #[test]
    fn a_view_is_readable() {
        let link = |carrier: &str| LinkReport {
            state: "up".into(),
            carrier: Some(carrier.into()),
            address: Some("10.8.0.2:8000".into()),
            epoch: 2,
            up_seconds: Some(61),
            read_bytes: 3 << 20,
            ..LinkReport::default()
        };
        let not_rdma = Some(NoRdma { reason: "port down".into(), change: "plug it in".into() });
        let down =
            LinkReport { state: "down".into(), last_error: Some("refused".into()), ..link("x") };
        let peers = vec![
            PeerReport {
                node: 2,
                reachable: true,
                links: vec![link("RDMA")],
                ..PeerReport::default()
            },
            PeerReport {
                node: 3,
                reachable: true,
                links: vec![link("TCP")],
                not_rdma,
                ..PeerReport::default()
            },
            PeerReport {
                node: 4,
                links: vec![LinkReport { carrier: None, ..down }],
                ..PeerReport::default()
            },
        ];
        let process = ProcessReport { node: 1, linked: true, peers, ..ProcessReport::default() };
        let view = DoctorView { process: Some(process), ..DoctorView::default() };
        assert_eq!(view.unreachable(), [4]);
        let text = render(&view).join("\n");
        for part in [
            "0-0      RDMA    10.8.0.2:8000",
            "61 s",
            "3.0 MiB",
            "no RDMA: port down; plug",
            "node 4 (): CANNOT BE REACHED",
            "0-0      down",
            "last error of 0-0: refused",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        let json = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<DoctorView>(&json).unwrap(), view, "it travels whole");
    }
}
