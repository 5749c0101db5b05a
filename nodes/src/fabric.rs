//! By what means this process talks to others: the RDMA devices it may use, looked at once at the
//! start, and the addresses that others are told (decision 011: one port for both fabrics).

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use t3fs_transport::rdma::{Devices, Nics, RECEIVE_BUFFER};
use t3fs_transport::{Address, Fabric, FabricUse, LinkLimits};

use crate::config::Settings;
use crate::config::values::{Advertised, Listen};
use crate::failure::{Failure, refused};

/// Decided before anything is started.
#[derive(Clone)]
pub struct FabricPlan {
    pub wanted: FabricUse,
    /// `None`: nobody looked, because they shall not be used.
    pub devices: Option<Arc<Devices>>,
    pub filter: Vec<String>,
    /// Bytes that each shard pins if there is a device.
    memory: usize,
}

impl FabricPlan {
    /// Looks for devices; refuses to go on without any where nothing else may be used.
    pub fn find(settings: &Settings) -> Result<FabricPlan, Failure> {
        let plan = FabricPlan::look(settings);
        match plan.why_not_rdma() {
            Some(why) if plan.wanted == FabricUse::Rdma => Err(refused(format!(
                "fabric is rdma, and there is no RDMA device to use: {why}; mend that \
                 (`t3fs-node doctor` shows what there is), or set fabric to auto"
            ))),
            _ => Ok(plan),
        }
    }

    /// The same, whatever there is.
    pub fn look(settings: &Settings) -> FabricPlan {
        let (wanted, filter) = (settings.fabric, settings.device_filter.clone());
        let devices = (wanted != FabricUse::Tcp).then(|| Arc::new(Devices::find(&filter)));
        FabricPlan { wanted, devices, filter, memory: settings.rdma_memory }
    }

    /// Of a process that talks to nobody: what it could use.
    pub fn idle() -> FabricPlan {
        let devices = Some(Arc::new(Devices::find(&[])));
        FabricPlan { wanted: FabricUse::Auto, devices, filter: Vec::new(), memory: 0 }
    }

    /// The addresses of the devices in use.
    pub fn device_ips(&self) -> Vec<IpAddr> {
        self.devices.as_ref().map(|d| d.addresses()).unwrap_or_default()
    }

    /// Why this process does not use RDMA at all.
    pub fn why_not_rdma(&self) -> Option<String> {
        match &self.devices {
            None => Some("fabric is tcp".into()),
            Some(devices) => devices.why_none(),
        }
    }

    /// Where queue pairs come from.
    pub fn nics(&self) -> Nics {
        match &self.devices {
            Some(devices) if self.why_not_rdma().is_none() => Nics::Devices(Arc::clone(devices)),
            _ => Nics::None,
        }
    }

    /// The memory of each shard is as it was set.
    pub fn limits(&self) -> LinkLimits {
        LinkLimits { rdma_memory: self.memory, ..LinkLimits::default() }
    }

    /// Bytes that each shard pins at most, once it has a queue pair on each device.
    pub fn pinned_bytes(&self) -> usize {
        if self.why_not_rdma().is_some() {
            return 0;
        }
        let further = self.device_ips().len().saturating_sub(1);
        self.memory + further * self.limits().rdma_receive_buffers * RECEIVE_BUFFER
    }

    /// The one line about it.
    pub fn describe(&self) -> String {
        let Some(why) = self.why_not_rdma() else {
            let ips: Vec<String> = self.device_ips().iter().map(ToString::to_string).collect();
            let else_tcp = if self.wanted == FabricUse::Rdma { "" } else { ", else TCP" };
            return format!("fabric: RDMA by the devices at {}{else_tcp}", ips.join(", "));
        };
        format!("fabric: TCP; no RDMA: {why}")
    }

    /// Where to listen, and what others are told of it.
    pub fn addresses(
        &self,
        listen: Listen,
        port: u16,
        advertise: &[Advertised],
    ) -> Result<(SocketAddr, Vec<Address>), Failure> {
        let mut at = SocketAddr::new(listen.ip, listen.port.unwrap_or(port));
        if at.port() == 0 {
            // What is announced must be known before anything listens.
            let free = TcpListener::bind(at).and_then(|l| l.local_addr());
            at = free.map_err(|e| refused(format!("cannot listen at {at}: {e}")))?;
        }
        let told = announced(at, advertise, self.wanted, &self.device_ips()).map_err(refused)?;
        Ok((at, told))
    }
}

/// What others are told of a node that listens at `at`, best first.
fn announced(
    at: SocketAddr,
    advertise: &[Advertised],
    wanted: FabricUse,
    device_ips: &[IpAddr],
) -> Result<Vec<Address>, String> {
    let here = |ip: &IpAddr| {
        let same_kind = at.is_ipv6() || ip.is_ipv4();
        if at.ip().is_unspecified() { same_kind } else { at.ip() == *ip }
    };
    let told = |fabric, socket| Address { fabric, socket };
    let devices: Vec<Address> = device_ips
        .iter()
        .filter(|ip| here(ip))
        .map(|ip| told(Fabric::Rdma, SocketAddr::new(*ip, at.port())))
        .collect();
    let all_said = advertise.iter().any(|a| a.fabric == Some(Fabric::Rdma));
    let mut all: Vec<Address> = if all_said { Vec::new() } else { devices.clone() };
    if advertise.is_empty() && !at.ip().is_unspecified() {
        all.push(told(Fabric::Tcp, at));
    } else if advertise.is_empty() {
        all.extend(devices.iter().map(|a| told(Fabric::Tcp, a.socket)));
    }
    all.extend(advertise.iter().map(|a| told(a.fabric.unwrap_or(Fabric::Tcp), a.socket)));
    all.retain(|a| match wanted {
        FabricUse::Auto => true,
        FabricUse::Tcp => a.fabric == Fabric::Tcp,
        FabricUse::Rdma => a.fabric == Fabric::Rdma,
    });
    all.sort();
    all.dedup();
    if !all.is_empty() {
        return Ok(all);
    }
    let ips: Vec<String> = device_ips.iter().map(ToString::to_string).collect();
    Err(match wanted {
        FabricUse::Rdma => format!(
            "fabric is rdma, and this server listens at {at}, where no RDMA device is; say \
             --listen with one of {}, or set fabric to auto",
            ips.join(", ")
        ),
        FabricUse::Tcp if all_said => {
            "fabric is tcp, and advertise names RDMA addresses only; give \
             one as TCP://IP:PORT"
                .into()
        }
        _ => format!(
            "listen is {at}, which others cannot use; say with --advertise what they shall use"
        ),
    })
}

#[cfg(test)]
mod tests {
    //! Goal: a node announces what it serves, and nothing that others cannot use. Method: every
    //! kind of listening with and without two devices.
    use super::*;

    const NICS: [&str; 2] = ["10.8.0.5", "10.8.1.5"];

    fn told(
        listen: &str,
        advertise: &[&str],
        wanted: FabricUse,
        nics: &[&str],
    ) -> Result<Vec<String>, String> {
        let nics: Vec<IpAddr> = nics.iter().map(|t| t.parse().unwrap()).collect();
        let parse = |t: &&str| match t.parse::<Address>() {
            Ok(a) => Advertised { fabric: Some(a.fabric), socket: a.socket },
            Err(_) => Advertised { fabric: None, socket: t.parse().unwrap() },
        };
        let advertise: Vec<Advertised> = advertise.iter().map(parse).collect();
        let all = announced(listen.parse().unwrap(), &advertise, wanted, &nics)?;
        Ok(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_address_of_each_fabric_where_a_device_is() {
        let at = |listen, wanted| told(listen, &[], wanted, &NICS);
        let both = ["RDMA://10.8.0.5:8000", "TCP://10.8.0.5:8000"].map(str::to_owned);
        assert_eq!(at("10.8.0.5:8000", FabricUse::Auto).unwrap(), both);
        assert_eq!(at("10.8.0.5:8000", FabricUse::Rdma).unwrap(), both[..1]);
        assert_eq!(at("10.8.0.5:8000", FabricUse::Tcp).unwrap(), both[1..]);
        assert_eq!(at("10.0.0.5:8000", FabricUse::Auto).unwrap(), ["TCP://10.0.0.5:8000"]);
        let why = at("10.0.0.5:8000", FabricUse::Rdma).unwrap_err();
        assert!(why.contains("--listen with one of 10.8.0.5, 10.8.1.5"), "{why}");
    }

    #[test]
    fn who_listens_everywhere_announces_the_devices() {
        let everywhere = |wanted, nics: &[&str]| told("0.0.0.0:8000", &[], wanted, nics);
        let rdma = NICS.map(|ip| format!("RDMA://{ip}:8000"));
        let tcp = NICS.map(|ip| format!("TCP://{ip}:8000"));
        assert_eq!(
            everywhere(FabricUse::Auto, &NICS).unwrap(),
            [rdma.clone(), tcp.clone()].concat()
        );
        assert_eq!(everywhere(FabricUse::Rdma, &NICS).unwrap(), rdma);
        assert!(everywhere(FabricUse::Auto, &[]).unwrap_err().contains("--advertise"));
        let six = told("0.0.0.0:8000", &[], FabricUse::Rdma, &["fd00::5"]);
        assert!(six.is_err(), "0.0.0.0 is of version 4 only");
    }

    #[test]
    fn what_is_said_goes_before_what_is_found() {
        let plain = told("0.0.0.0:8000", &["10.0.0.5:9000"], FabricUse::Auto, &NICS).unwrap();
        assert_eq!(plain, ["RDMA://10.8.0.5:8000", "RDMA://10.8.1.5:8000", "TCP://10.0.0.5:9000"]);
        let said = ["RDMA://10.8.1.5:8000", "TCP://10.0.0.5:8000"];
        assert_eq!(told("0.0.0.0:8000", &said, FabricUse::Auto, &NICS).unwrap(), said);
        let why = told("0.0.0.0:8000", &said[..1], FabricUse::Tcp, &[]).unwrap_err();
        assert!(why.contains("TCP://IP:PORT"), "{why}");
    }
}
