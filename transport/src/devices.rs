//! The RDMA devices of this host, as far as this build knows.

use std::fmt;
use std::net::IpAddr;

/// What there is to say of one port of a device.
#[derive(Clone, Debug)]
pub struct DeviceReport {
    pub device: String,
    pub port: u8,
    pub state: &'static str,
    /// `None`: it is used.
    pub unusable: Option<String>,
}

impl DeviceReport {
    pub fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.device, self.port)
    }
}

/// The devices that may be used.
#[derive(Clone, Debug, Default)]
pub struct Devices {}

impl Devices {
    pub fn find(_filter: &[String]) -> Devices {
        Devices {}
    }

    pub fn report(&self) -> Vec<DeviceReport> {
        Vec::new()
    }

    /// Why there is none to use, if so.
    pub fn why_none(&self) -> Option<String> {
        Some("this program was built without RDMA".into())
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}
