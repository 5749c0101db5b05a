//! Which RDMA devices this host has, what they can do, and why one cannot be used.
//!
//! Found once a process and shared by its shards. Finding never fails: where nothing can be used, a
//! sentence says what is missing. Nobody names network cards; the port for a connection is the one
//! that has the connection's local address ([`Devices::port_at`]), so the kernel's routes choose.

use std::net::IpAddr;

use super::report::{DeviceReport, Gid, LinkLayer, PortRef};

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
