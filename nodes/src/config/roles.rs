//! What a process can be.

use std::fmt;

use crate::failure::{Failure, refused};

/// One of the things that a process can be. Order is the order of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Serves the embedded metadata store to others.
    Kv,
    Mgmtd,
    Storage,
    Meta,
    /// Mounts.
    Client,
}

/// Every role with its name and the port where it is found by default. A process with several
/// roles listens once, at the port of its first in this list.
const ROLES: [(Role, &str, u16); 5] = [
    (Role::Mgmtd, "mgmtd", 8000),
    (Role::Meta, "meta", 8001),
    (Role::Storage, "storage", 8002),
    (Role::Kv, "kv", 8003),
    // A client does not listen: nobody needs to find it.
    (Role::Client, "client", 0),
];

/// The port of a mgmtd whose address names none.
pub const MGMTD_PORT: u16 = 8000;
/// The port of a metadata store whose address names none.
pub const KV_PORT: u16 = 8003;

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = ROLES.iter().find(|(role, ..)| role == self);
        f.write_str(named.expect("all are in the list").1)
    }
}

/// What one process is: sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Vec<Role>);

impl Roles {
    pub fn new(roles: &[Role]) -> Roles {
        let mut roles = roles.to_vec();
        roles.sort();
        roles.dedup();
        Roles(roles)
    }

    /// Every role: a whole cluster in one process.
    pub fn all() -> Roles {
        Roles::new(&ROLES.map(|(role, ..)| role))
    }

    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Roles, Failure> {
        let names = names.iter().map(|n| n.as_ref().trim()).filter(|n| !n.is_empty());
        let roles: Vec<Role> = names.map(parse).collect::<Result<_, _>>()?;
        Ok(Roles::new(&roles))
    }

    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether others ask it for anything.
    pub fn is_server(&self) -> bool {
        self.0.iter().any(|r| *r != Role::Client)
    }

    /// Where it listens if not told.
    pub fn port(&self) -> u16 {
        let first = ROLES.iter().find(|(role, ..)| self.has(*role));
        first.map_or(0, |(_, _, port)| *port)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Role::to_string).collect();
        f.write_str(&names.join(","))
    }
}

fn parse(name: &str) -> Result<Role, Failure> {
    if let Some((role, ..)) = ROLES.iter().find(|(_, known, _)| *known == name) {
        return Ok(*role);
    }
    Err(refused(match name {
        "fuse" => "the role fuse is called client here".into(),
        "monitor" => "this version has no role monitor yet: leave it out of the roles".into(),
        "admin_cli" => "admin_cli is no role: `t3fs-node help` lists the commands".into(),
        _ => {
            let known: Vec<&str> = ROLES.iter().map(|(_, known, _)| *known).collect();
            format!("{name:?} is no role; roles are {}", known.join(", "))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_order_and_ports_that_differ() {
        let roles = |text: &str| Roles::parse(&text.split(',').collect::<Vec<_>>()).unwrap();
        assert_eq!(roles("meta,mgmtd,meta").to_string(), "mgmtd,meta");
        assert_eq!(roles("storage, meta ,mgmtd").port(), 8000);
        assert_eq!((roles("storage").port(), roles("kv,storage").port()), (8002, 8002));
        assert_eq!((roles("client").port(), roles("client").is_server()), (0, false));
        assert_eq!(Roles::all().to_string(), "kv,mgmtd,storage,meta,client");
        let mut ports: Vec<u16> = ROLES.iter().map(|(_, _, port)| *port).collect();
        ports.dedup();
        assert_eq!(ports.len(), ROLES.len());
    }

    #[test]
    fn what_is_no_role_is_refused_with_the_right_hint() {
        for (name, says) in
            [("monitor", "no role monitor"), ("fuse", "client"), ("x", "mgmtd, meta, storage")]
        {
            let line = Roles::parse(&[name]).unwrap_err().line;
            assert!(line.contains(says), "{line}");
        }
    }
}
