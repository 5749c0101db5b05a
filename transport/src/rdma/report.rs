//! What is known of the ports of RDMA devices, found by `devices.rs` and `verbs/`.

use std::fmt;
use std::net::IpAddr;

/// What carries a port's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    InfiniBand,
    Ethernet,
    Other,
}

/// An address of a port, as the device knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Position in the port's table.
    pub index: u8,
    pub raw: [u8; 16],
    /// The address of the network interface behind it: of a RoCE v2 entry it is the GID itself, of
    /// InfiniBand it is what IP over InfiniBand has been given.
    pub addresses: Vec<IpAddr>,
    /// Network interface that it belongs to.
    pub interface: Option<String>,
}

/// One port of one device.
#[derive(Clone, Debug)]
pub struct DeviceReport {
    pub device: String,
    /// Counted from 1.
    pub port: u8,
    pub link_layer: LinkLayer,
    /// In words: active, down.
    pub state: &'static str,
    /// Payload of one packet on the wire, in bytes.
    pub mtu: u32,
    /// On Ethernet only those of RoCE v2.
    pub gids: Vec<Gid>,
    pub queue_pairs_max: u32,
    pub shared_receive_queues_max: u32,
    pub windows_max: u32,
    /// READs outstanding on a queue pair.
    pub reads_max: u8,
    /// The kernel plays the device (soft-RoCE): for tests. It does not keep peers within the bounds
    /// of a window, only within the memory that is registered.
    pub software: bool,
    pub(super) lid: u16,
    /// Why it cannot be used, as a sentence; `None` if it can.
    pub unusable: Option<String>,
}

impl DeviceReport {
    /// IP addresses by which this port is found.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.gids.iter().flat_map(|gid| gid.addresses.iter().copied()).collect()
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.link_layer {
            LinkLayer::InfiniBand => "InfiniBand",
            LinkLayer::Ethernet if self.software => "RoCE v2 in software",
            LinkLayer::Ethernet => "RoCE v2",
            LinkLayer::Other => "unknown link",
        };
        write!(f, "{} port {}: ", self.device, self.port)?;
        if self.mtu > 0 {
            write!(f, "{kind}, {}, MTU {}", self.state, self.mtu)?;
        } else {
            write!(f, "nothing known")?;
        }
        for gid in &self.gids {
            for address in &gid.addresses {
                write!(f, ", {address}")?;
                if let Some(interface) = &gid.interface {
                    write!(f, " on {interface}")?;
                }
            }
        }
        match &self.unusable {
            Some(why) => write!(f, "; not used: {why}"),
            None => write!(f, "; usable"),
        }
    }
}

/// A port to open queue pairs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRef {
    pub(super) device: String,
    pub(super) port: u8,
    pub(super) gid_index: u8,
    pub(super) gid: [u8; 16],
    pub(super) lid: u16,
    pub(super) ethernet: bool,
    pub(super) mtu: u32,
    pub(super) reads_max: u8,
    pub(super) software: bool,
}

impl PortRef {
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {} GID {}", self.device, self.port, self.gid_index)
    }
}
