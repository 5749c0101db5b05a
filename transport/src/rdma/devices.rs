//! Which RDMA devices this host has, what they can do, and why one cannot be used.
//!
//! Found once a process and shared by its shards. Finding never fails: where nothing can be used, a
//! sentence says what is missing. Nobody names network cards; the port for a connection is the one
//! that has the connection's local address ([`Devices::port_at`]), so the kernel's routes choose.

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
        write!(f, "{} port {}: {kind}, {}, MTU {}", self.device, self.port, self.state, self.mtu)?;
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

/// The RDMA devices of this host.
#[derive(Clone, Debug)]
pub struct Devices {
    ports: Vec<DeviceReport>,
    /// Why no list of devices could be had.
    missing: Option<String>,
}

impl Devices {
    /// Looks at all devices; those that are not named by the filter are not used. An empty filter
    /// names all.
    pub fn find(filter: &[String]) -> Devices {
        let (mut ports, missing) = match look() {
            Ok(ports) => (ports, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let named = |device: &str| filter.is_empty() || filter.iter().any(|f| f == device);
        for port in &mut ports {
            if !named(&port.device) {
                port.unusable = Some("the device filter does not name it".into());
            }
        }
        let missing = missing.or_else(|| {
            let wrong = filter.iter().find(|f| !ports.iter().any(|port| port.device == **f))?;
            let usable = ports.iter().any(|port| port.unusable.is_none());
            (!usable).then(|| format!("the device filter names {wrong}, which this host lacks"))
        });
        Devices { ports, missing }
    }

    /// Every port of every device, usable or not.
    pub fn report(&self) -> Vec<DeviceReport> {
        self.ports.clone()
    }

    /// Why no port can be used, as a sentence; `None` if one can.
    pub fn why_none(&self) -> Option<String> {
        if self.ports.iter().any(|port| port.unusable.is_none()) {
            return None;
        }
        if let Some(missing) = &self.missing {
            return Some(missing.clone());
        }
        let reasons: Vec<_> = self
            .ports
            .iter()
            .filter_map(|p| Some(format!("{} port {}: {}", p.device, p.port, p.unusable.as_ref()?)))
            .collect();
        match reasons.is_empty() {
            true => Some("this host has no RDMA device".into()),
            false => Some(reasons.join("; ")),
        }
    }

    /// IP addresses of usable ports, in the order of the devices.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let usable = self.ports.iter().filter(|port| port.unusable.is_none());
        usable.flat_map(DeviceReport::addresses).collect()
    }

    /// The usable port that has this address of the host. The error is a sentence.
    pub fn port_at(&self, local: IpAddr) -> Result<PortRef, String> {
        let local = local.to_canonical();
        let has = |gid: &&Gid| gid.addresses.contains(&local);
        let here = || self.ports.iter().filter_map(|p| Some((p, p.gids.iter().find(has)?)));
        if let Some((port, gid)) = here().find(|(port, _)| port.unusable.is_none()) {
            return Ok(PortRef {
                device: port.device.clone(),
                port: port.port,
                gid_index: gid.index,
                gid: gid.raw,
                lid: port.lid,
                ethernet: port.link_layer == LinkLayer::Ethernet,
                mtu: port.mtu,
                reads_max: port.reads_max,
                software: port.software,
            });
        }
        if let Some((port, _)) = here().next() {
            let why = port.unusable.as_deref().unwrap_or_default();
            return Err(format!("{} port {} has {local}, but: {why}", port.device, port.port));
        }
        if let Some(why) = self.why_none() {
            return Err(why);
        }
        let known: Vec<_> = self.addresses().iter().map(IpAddr::to_string).collect();
        Err(format!("no RDMA device has {local}; those here have {}", known.join(", ")))
    }
}

#[cfg(feature = "rdma")]
fn look() -> Result<Vec<DeviceReport>, String> {
    super::verbs::discover()
}

#[cfg(not(feature = "rdma"))]
fn look() -> Result<Vec<DeviceReport>, String> {
    Err("this binary was built without RDMA (cargo feature rdma)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: &str, address: &str, unusable: Option<&str>) -> DeviceReport {
        let address: IpAddr = address.parse().unwrap();
        DeviceReport {
            device: device.into(),
            port: 1,
            link_layer: LinkLayer::Ethernet,
            state: "active",
            mtu: 1024,
            gids: vec![Gid {
                index: 3,
                raw: [7; 16],
                addresses: vec![address],
                interface: Some("eth0".into()),
            }],
            queue_pairs_max: 1000,
            shared_receive_queues_max: 100,
            windows_max: 1000,
            reads_max: 16,
            software: false,
            lid: 0,
            unusable: unusable.map(String::from),
        }
    }

    /// Goal: an address leads to the port that has it, and else to the reason. Method: a usable
    /// and an unusable port, asked for their addresses and for one that nobody has.
    #[test]
    fn a_port_is_found_by_address() {
        let ports =
            vec![port("mlx5_0", "10.0.0.1", None), port("mlx5_1", "10.0.1.1", Some("it is down"))];
        let devices = Devices { ports, missing: None };
        let found = devices.port_at("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!((found.device(), found.gid_index, found.gid), ("mlx5_0", 3, [7; 16]));
        let down = devices.port_at("10.0.1.1".parse().unwrap()).unwrap_err();
        assert_eq!(down, "mlx5_1 port 1 has 10.0.1.1, but: it is down");
        let unknown = devices.port_at("10.0.2.1".parse().unwrap()).unwrap_err();
        assert_eq!(unknown, "no RDMA device has 10.0.2.1; those here have 10.0.0.1");
        assert_eq!(devices.addresses(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(devices.why_none(), None);
    }

    /// Goal: where nothing can be used there is always a reason. Method: no devices, only unusable
    /// ones, and this host, whatever it has.
    #[test]
    fn there_is_always_a_reason() {
        let none = Devices { ports: vec![], missing: None };
        assert_eq!(none.why_none().unwrap(), "this host has no RDMA device");
        let down =
            Devices { ports: vec![port("a", "10.0.0.1", Some("it is down"))], missing: None };
        assert_eq!(down.why_none().unwrap(), "a port 1: it is down");
        assert!(down.report()[0].to_string().ends_with("10.0.0.1 on eth0; not used: it is down"));
        for filter in [vec![], vec!["nonesuch".to_string()]] {
            let here = Devices::find(&filter);
            assert_eq!(here.why_none().is_some(), here.addresses().is_empty(), "{here:?}");
            if !filter.is_empty() {
                assert!(here.port_at("10.0.0.1".parse().unwrap()).is_err());
            }
        }
    }
}
