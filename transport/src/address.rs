//! `RDMA://ip:port` and `TCP://ip:port`: where a node listens, and by what means.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The means by which bytes travel.
/// The better one is first in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Fabric {
    Rdma,
    Tcp,
}

/// Where a node listens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Address {
    pub fabric: Fabric,
    pub socket: SocketAddr,
}

/// A bare socket speaks TCP.
impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Address {
        Address { fabric: Fabric::Tcp, socket }
    }
}

/// What is wrong with a text that should be an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressError(String);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address; write TCP://IP:PORT or RDMA://IP:PORT", self.0)
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Address, AddressError> {
        let bad = || AddressError(s.into());
        let (fabric, rest) = s.split_once("://").ok_or_else(bad)?;
        let fabric = match fabric {
            "RDMA" => Fabric::Rdma,
            "TCP" => Fabric::Tcp,
            _ => return Err(bad()),
        };
        Ok(Address { fabric, socket: rest.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fabric = match self.fabric {
            Fabric::Rdma => "RDMA",
            Fabric::Tcp => "TCP",
        };
        write!(f, "{fabric}://{}", self.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for s in ["TCP://127.0.0.1:9000", "RDMA://10.0.0.1:8000", "TCP://[::1]:1"] {
            assert_eq!(s.parse::<Address>().unwrap().to_string(), s);
        }
        for s in [
            "",
            "127.0.0.1:1",
            "tcp://1.2.3.4:5",
            "TCP://host:5",
            "TCP://1.2.3.4",
            "UDP://1.2.3.4:5",
        ] {
            assert!(s.parse::<Address>().unwrap_err().to_string().contains("TCP://IP:PORT"), "{s}");
        }
    }
}
