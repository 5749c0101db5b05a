//! Where somebody is: an address, or the name of a host, with a port.
//!
//! A name is looked up when it is used and not before, so that a process may start before its name
//! server does. All addresses of a name are tried. Looking up waits for the network: never on a
//! shard's thread.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use t3fs_transport::Fabric;

/// Longest name of a host (RFC 1035), in bytes.
const NAME_MAX: usize = 253;

/// A host by address or name, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    At(SocketAddr),
    Named { name: String, port: u16 },
}

impl Host {
    /// `IP`, `IP:PORT`, `NAME`, `NAME:PORT`; version 6 also as `[IP]`. Nothing is looked up.
    pub fn parse(text: &str, port: u16) -> Option<Host> {
        Host::parse_open(text).map(|(host, said)| host.with_port(said.unwrap_or(port)))
    }

    /// The same without a port for those that say none: what was said of it, beside a host with
    /// port 0.
    pub fn parse_open(text: &str) -> Option<(Host, Option<u16>)> {
        if let Ok(at) = text.parse::<SocketAddr>() {
            return Some((Host::At(at), Some(at.port())));
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some((Host::At(SocketAddr::new(ip, 0)), None));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text, None),
        };
        is_name(name).then(|| (Host::Named { name: name.to_owned(), port: 0 }, port))
    }

    fn with_port(self, port: u16) -> Host {
        match self {
            Host::At(at) => Host::At(SocketAddr::new(at.ip(), port)),
            Host::Named { name, .. } => Host::Named { name, port },
        }
    }

    /// Without looking anything up.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Host::At(at) => Some(*at),
            Host::Named { .. } => None,
        }
    }

    /// All its addresses; may wait for a name server. An error is a sentence with the name.
    pub fn look_up(&self) -> Result<Vec<SocketAddr>, String> {
        let (name, port) = match self {
            Host::At(at) => return Ok(vec![*at]),
            Host::Named { name, port } => (name, *port),
        };
        let mut all: Vec<SocketAddr> = Vec::new();
        match (name.as_str(), port).to_socket_addrs() {
            Ok(found) => {
                for at in found.filter(|at| !at.ip().is_unspecified()) {
                    if !all.contains(&at) {
                        all.push(at);
                    }
                }
            }
            Err(e) => return Err(format!("the host {name} is not found: {}", why(&e))),
        }
        if all.is_empty() { Err(format!("the host {name} has no address")) } else { Ok(all) }
    }
}

/// The library's words without its preface.
fn why(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// Letters, digits, dashes, dots and underscores, and not only digits and dots, which would be an
/// address that was mistyped.
fn is_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(good)
        && !text.starts_with(['.', '-'])
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::At(at) => at.fmt(f),
            Host::Named { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// Where a mgmtd may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MgmtdPlace {
    pub fabric: Fabric,
    pub host: Host,
}

impl fmt::Display for MgmtdPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fabric = match self.fabric {
            Fabric::Rdma => "RDMA",
            Fabric::Tcp => "TCP",
        };
        write!(f, "{fabric}://{}", self.host)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: names and addresses are told apart, and nonsense from both.
    use super::*;

    #[test]
    fn texts_are_hosts_or_refused() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1:7"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
            ("[::1]:80", "[::1]:80"),
            ("storage-1.example.org", "storage-1.example.org:7"),
            ("kv_1:80", "kv_1:80"),
            ("localhost", "localhost:7"),
        ] {
            assert_eq!(Host::parse(text, 7).unwrap().to_string(), shown);
        }
        for text in ["", ":80", "10.0.0.256", "1.2.3", "host:", "host:99999", "a b", "-x", "a/b"] {
            assert_eq!(Host::parse(text, 7), None, "{text}");
        }
    }

    #[test]
    fn this_host_is_found_and_none_is_named() {
        let here = Host::parse("localhost:80", 7).unwrap().look_up().unwrap();
        assert!(here.iter().all(|at| at.ip().is_loopback() && at.port() == 80), "{here:?}");
        // Reserved for hosts that do not exist (RFC 6761).
        let why = Host::parse("no-such-host.invalid", 7).unwrap().look_up().unwrap_err();
        assert!(why.contains("no-such-host.invalid"), "{why}");
        let at = Host::parse("10.0.0.1", 7).unwrap();
        assert_eq!(at.look_up().unwrap(), [at.address().unwrap()]);
    }
}
