//! Which devices and ports there are, and whether a link can use them.

use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rdma_mummy_sys::*;

use super::handles::{Context, check};
use crate::rdma::report::{DeviceReport, Gid, LinkLayer};

/// A device with fewer queue pairs than this is no network card.
const QUEUE_PAIRS_MIN: u32 = 16;
/// READs kept outstanding; more gain nothing.
const READS_MAX: c_int = 16;
/// The vendor that soft-RoCE names.
const SOFT_ROCE: u32 = 0xff_ffff;
const DEVICES: &str = "/sys/class/infiniband";
/// Of an interface of IP over InfiniBand: four bytes of its own, then the port's GID.
const IPOIB_ADDRESS: usize = 20;

/// The devices that libibverbs knows.
pub(super) struct List {
    all: *mut *mut ibv_device,
    count: usize,
}

impl List {
    pub(super) fn get() -> Result<List, String> {
        let mut count: c_int = 0;
        // SAFETY: no arguments but the count.
        let all = unsafe { ibv_get_device_list(&mut count) };
        if !all.is_null() {
            return Ok(List { all, count: usize::try_from(count).unwrap_or(0) });
        }
        let error = std::io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => {
                "libibverbs.so.1 is not installed (Debian: libibverbs1 and ibverbs-providers)"
                    .into()
            }
            Some(libc::ENOSYS) => {
                "the kernel has no RDMA verbs (modprobe ib_uverbs, in containers on the host)"
                    .into()
            }
            _ => format!("libibverbs lists no devices: {error}"),
        })
    }

    fn iter(&self) -> impl Iterator<Item = *mut ibv_device> + '_ {
        // SAFETY: so many pointers are in the list.
        (0..self.count).map(|i| unsafe { *self.all.add(i) })
    }

    pub(super) fn named(&self, wanted: &str) -> Option<*mut ibv_device> {
        self.iter().find(|device| name_of(*device) == wanted)
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: from `ibv_get_device_list`, freed once.
        unsafe { ibv_free_device_list(self.all) };
    }
}

/// A name within a structure of verbs.
fn name(chars: &[c_char]) -> String {
    // SAFETY: arrays of verbs end with a zero.
    unsafe { CStr::from_ptr(chars.as_ptr()) }.to_string_lossy().into_owned()
}

fn name_of(device: *mut ibv_device) -> String {
    // SAFETY: of a list that is still there.
    unsafe { name(&(*device).name) }
}

/// An address of a network interface of this host.
struct Interface {
    name: String,
    address: IpAddr,
}

/// Every port of every device, or why that cannot be said.
pub(in crate::rdma) fn discover() -> Result<Vec<DeviceReport>, String> {
    let list = List::get()?;
    let interfaces = interfaces();
    let mut found = Vec::new();
    for device in list.iter() {
        match ports(device, &interfaces) {
            Ok(ports) => found.extend(ports),
            Err(why) => found.push(unknown(name_of(device), 1, why)),
        }
    }
    for missed in kernel_devices() {
        if !found.iter().any(|port| port.device == missed) {
            let why = "libibverbs has no driver for it, or this container may not use it (needs \
                       ibverbs-providers and /dev/infiniband)";
            found.push(unknown(missed, 1, why.into()));
        }
    }
    Ok(found)
}

/// Names of the devices that the kernel shows.
fn kernel_devices() -> Vec<String> {
    let entries = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn unknown(device: String, port: u8, why: String) -> DeviceReport {
    DeviceReport {
        device,
        port,
        link_layer: LinkLayer::Other,
        state: "unknown",
        mtu: 0,
        gids: Vec::new(),
        queue_pairs_max: 0,
        shared_receive_queues_max: 0,
        windows_max: 0,
        reads_max: 0,
        software: false,
        lid: 0,
        unusable: Some(why),
    }
}

fn ports(device: *mut ibv_device, interfaces: &[Interface]) -> Result<Vec<DeviceReport>, String> {
    // SAFETY: of a list that is still there.
    let context = unsafe { ibv_open_device(device) };
    let context = Context::made(context, "it cannot be opened").map_err(|why| {
        // libibverbs hides what the system says of the device's file.
        // SAFETY: of a list that is still there.
        let path = Path::new("/dev/infiniband").join(unsafe { name(&(*device).dev_name) });
        match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) => format!("{}: {e}", path.display()),
            Ok(_) => why,
        }
    })?;
    // SAFETY: plain data, filled by the call.
    let mut limits: ibv_device_attr = unsafe { std::mem::zeroed() };
    // SAFETY: an open device.
    check(unsafe { ibv_query_device(context.raw(), &mut limits) }, "it tells no limits")?;
    // SAFETY: of a list that is still there.
    let node_type = unsafe { (*device).node_type };
    let name = name_of(device);
    let ports = 1..=limits.phys_port_cnt.max(1);
    Ok(ports.map(|port| one_port(&context, &name, port, node_type, &limits, interfaces)).collect())
}

fn one_port(
    context: &Context,
    device: &str,
    port: u8,
    node_type: ibv_node_type::Type,
    limits: &ibv_device_attr,
    interfaces: &[Interface],
) -> DeviceReport {
    // SAFETY: plain data, filled by the call.
    let mut attributes: ibv_port_attr = unsafe { std::mem::zeroed() };
    // SAFETY: an open device; it knows the size of the structure.
    let code = unsafe { ibv_query_port(context.raw(), port, &mut attributes) };
    if let Err(why) = check(code, "it tells nothing about this port") {
        return unknown(device.into(), port, why);
    }
    let link_layer = match attributes.link_layer {
        IBV_LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
        IBV_LINK_LAYER_INFINIBAND | IBV_LINK_LAYER_UNSPECIFIED => LinkLayer::InfiniBand,
        _ => LinkLayer::Other,
    };
    let number = |n: c_int| u32::try_from(n).unwrap_or(0);
    let windows = (ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A
        | ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B)
        .0;
    let has_windows = limits.device_cap_flags & windows != 0;
    let reads = limits.max_qp_rd_atom.min(limits.max_qp_init_rd_atom).clamp(0, READS_MAX);
    let mut report = DeviceReport {
        device: device.into(),
        port,
        link_layer,
        state: state(attributes.state),
        mtu: 128 << attributes.active_mtu.min(ibv_mtu::IBV_MTU_4096),
        gids: gids(context, port, attributes.gid_tbl_len, link_layer, interfaces),
        queue_pairs_max: number(limits.max_qp),
        shared_receive_queues_max: number(limits.max_srq),
        windows_max: if has_windows { number(limits.max_mw) } else { 0 },
        reads_max: reads as u8,
        software: limits.vendor_id == SOFT_ROCE,
        lid: attributes.lid,
        unusable: None,
    };
    report.unusable = unusable(&report, node_type, attributes.state);
    report
}

fn state(state: ibv_port_state::Type) -> &'static str {
    match state {
        ibv_port_state::IBV_PORT_ACTIVE => "active",
        ibv_port_state::IBV_PORT_DOWN => "down",
        ibv_port_state::IBV_PORT_INIT => "initialising",
        ibv_port_state::IBV_PORT_ARMED => "armed",
        _ => "of unknown state",
    }
}

/// What keeps a port from being used.
fn unusable(
    report: &DeviceReport,
    node_type: ibv_node_type::Type,
    state: ibv_port_state::Type,
) -> Option<String> {
    let some = |why: &str| Some(why.to_string());
    if node_type != ibv_node_type::IBV_NODE_CA {
        return some("it is no InfiniBand or RoCE adapter (iWARP and others are not supported)");
    }
    if report.shared_receive_queues_max == 0 {
        return some("it has no shared receive queues");
    }
    if report.windows_max == 0 {
        return some("it has no memory windows of type 2, which keep peers out of other memory");
    }
    if report.queue_pairs_max < QUEUE_PAIRS_MIN {
        return Some(format!("it has {} queue pairs only", report.queue_pairs_max));
    }
    if report.reads_max == 0 {
        return some("it does no RDMA READ");
    }
    match (state, report.link_layer) {
        (ibv_port_state::IBV_PORT_ACTIVE, _) => {}
        (ibv_port_state::IBV_PORT_INIT, LinkLayer::InfiniBand) => {
            return some("it waits for a subnet manager (start opensm, or look at the switch)");
        }
        (_, LinkLayer::Ethernet) => {
            return some("the port is down (cable, switch, or `ip link set ... up`)");
        }
        _ => return some("the port is down (cable or switch)"),
    }
    if report.addresses().is_empty() {
        return some(match report.link_layer {
            LinkLayer::Ethernet if report.gids.is_empty() => {
                "it has no RoCE v2 GID (RoCE v1 is not supported; see the driver's settings)"
            }
            LinkLayer::Ethernet => "its network interface has no IP address",
            _ => "no interface of IP over InfiniBand has an IP address on it (modprobe ib_ipoib)",
        });
    }
    None
}

fn gids(
    context: &Context,
    port: u8,
    table: c_int,
    link_layer: LinkLayer,
    interfaces: &[Interface],
) -> Vec<Gid> {
    let table = usize::try_from(table).unwrap_or(0);
    let mut found = Vec::new();
    for index in 0..table.min(256) {
        // SAFETY: plain data, filled by the call.
        let mut entry: ibv_gid_entry = unsafe { std::mem::zeroed() };
        // SAFETY: an open device and room for one entry.
        let code = unsafe {
            ibv_query_gid_ex(context.raw(), u32::from(port), index as u32, &mut entry, 0)
        };
        // SAFETY: all views of a GID are plain bytes.
        let raw = unsafe { entry.gid.raw };
        let ethernet = link_layer == LinkLayer::Ethernet;
        // An empty entry is an error of the call, or zero.
        if code != 0 || raw == [0; 16] || (ethernet && entry.gid_type != IBV_GID_TYPE_ROCE_V2) {
            continue;
        }
        let (addresses, interface) = match ethernet {
            true => (address_of(raw).into_iter().collect(), interface_name(entry.ndev_ifindex)),
            false => over_infiniband(raw, interfaces),
        };
        found.push(Gid { index: index as u8, raw, addresses, interface });
    }
    found
}

/// The IP address that a GID of RoCE v2 is, unless it is one of the link only.
fn address_of(raw: [u8; 16]) -> Option<IpAddr> {
    let address = Ipv6Addr::from(raw);
    match address.to_ipv4_mapped() {
        Some(v4) => Some(IpAddr::V4(v4)),
        None => (!address.is_unicast_link_local()).then_some(IpAddr::V6(address)),
    }
}

fn interface_name(index: u32) -> Option<String> {
    let mut buffer = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call asks for.
    let found = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr()) };
    (!found.is_null()).then(|| name(&buffer))
}

/// Addresses of the interfaces of IP over InfiniBand whose hardware address contains the GID.
fn over_infiniband(gid: [u8; 16], interfaces: &[Interface]) -> (Vec<IpAddr>, Option<String>) {
    let on_port = |name: &str| {
        let path = Path::new("/sys/class/net").join(name).join("address");
        let text = fs::read_to_string(path).unwrap_or_default();
        let bytes: Vec<_> =
            text.trim().split(':').map_while(|b| u8::from_str_radix(b, 16).ok()).collect();
        bytes.len() == IPOIB_ADDRESS && bytes.ends_with(&gid)
    };
    let here: Vec<_> = interfaces.iter().filter(|i| on_port(&i.name)).collect();
    (here.iter().map(|i| i.address).collect(), here.first().map(|i| i.name.clone()))
}

/// All addresses of network interfaces, but those that are of a link only.
fn interfaces() -> Vec<Interface> {
    let mut first = std::ptr::null_mut();
    // SAFETY: fills in a list, which is freed below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next: *const libc::ifaddrs = first;
    while !next.is_null() {
        // SAFETY: an entry of the list, which is freed below only.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        // SAFETY: names end with a zero; an address has the size that its family says.
        let (name, address) = unsafe { (CStr::from_ptr(entry.ifa_name), ip(entry.ifa_addr)) };
        if let Some(address) = address {
            found.push(Interface { name: name.to_string_lossy().into_owned(), address });
        }
    }
    // SAFETY: from `getifaddrs`, freed once.
    unsafe { libc::freeifaddrs(first) };
    found
}

/// # Safety
/// Null, or a socket address of the size that its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: as the caller promises; the family says which structure it is.
    unsafe {
        match c_int::from((*address).sa_family) {
            libc::AF_INET => {
                let v4 = &*address.cast::<libc::sockaddr_in>();
                Some(IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes())))
            }
            libc::AF_INET6 => {
                let v6 = Ipv6Addr::from((*address.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr);
                (!v6.is_unicast_link_local()).then_some(IpAddr::V6(v6))
            }
            _ => None,
        }
    }
}
