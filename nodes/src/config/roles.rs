//! What a process can be.

use std::fmt;

use t3fs_actors::proto::mgmtd::Role as ServerRole;

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

/// What there is to know of a role.
struct RoleFacts {
    role: Role,
    name: &'static str,
    /// Where it is found by default. A process with several roles listens once, at the port of its
    /// first in the list.
    port: u16,
    /// What mgmtd is told; `None`: it is no server.
    served: Option<ServerRole>,
}

const ROLES: [RoleFacts; 5] = [
    facts(Role::Mgmtd, "mgmtd", 8000, Some(ServerRole::Mgmtd)),
    facts(Role::Meta, "meta", 8001, Some(ServerRole::Meta)),
    facts(Role::Storage, "storage", 8002, Some(ServerRole::Storage)),
    facts(Role::Kv, "kv", 8003, Some(ServerRole::Kv)),
    // A client does not listen: nobody needs to find it.
    facts(Role::Client, "client", 0, None),
];

const fn facts(role: Role, name: &'static str, port: u16, served: Option<ServerRole>) -> RoleFacts {
    RoleFacts { role, name, port, served }
}

/// What a server that others have told of is, for people.
pub fn name_of(served: ServerRole) -> &'static str {
    let facts = ROLES.iter().find(|facts| facts.served == Some(served));
    facts.expect("all are in the list").name
}

/// The port of a mgmtd whose address names none.
pub const MGMTD_PORT: u16 = 8000;
/// The port of a metadata store whose address names none.
pub const KV_PORT: u16 = 8003;

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = ROLES.iter().find(|facts| facts.role == *self);
        f.write_str(facts.expect("all are in the list").name)
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
        Roles::new(&ROLES.map(|facts| facts.role))
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
        !self.served().is_empty()
    }

    /// What mgmtd is told that it is.
    pub fn served(&self) -> Vec<ServerRole> {
        let own = ROLES.iter().filter(|facts| self.has(facts.role));
        own.filter_map(|facts| facts.served).collect()
    }

    /// Where it listens if not told.
    pub fn port(&self) -> u16 {
        ROLES.iter().find(|facts| self.has(facts.role)).map_or(0, |facts| facts.port)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Role::to_string).collect();
        f.write_str(&names.join(","))
    }
}

fn parse(name: &str) -> Result<Role, Failure> {
    if let Some(facts) = ROLES.iter().find(|facts| facts.name == name) {
        return Ok(facts.role);
    }
    Err(refused(match name {
        "fuse" => "the role fuse is called client here".into(),
        "monitor" => "this version has no role monitor yet: leave it out of the roles".into(),
        "admin_cli" => "admin_cli is no role: `t3fs-node help` lists the commands".into(),
        _ => {
            let known = ROLES.map(|facts| facts.name);
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
        let mut ports = ROLES.map(|facts| facts.port).to_vec();
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
