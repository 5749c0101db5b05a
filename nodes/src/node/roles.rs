//! What a process consists of: its roles give a list of parts ([`parts`]), each of which can be
//! started and stopped. They start in the order of the list, because each asks those before it, and
//! stop in the reverse order. [`Node`] walks the list; what happens on a shard is in `parts.rs`.

use std::sync::Arc;

use t3fs_actors::proto::kv::Kv;
use t3fs_runtime::{Addr, Cx};
use t3fs_transport::Fabric;

use super::assembly::{Assembly, KvPlace, Targets};
use super::ending::{Until, not_flushed, on_all};
use super::keeper::Keeper;
use super::link::{self, Addresses};
use super::{
    ATTEMPT, ATTEMPT_MIN, GoOn, Node, STEP_MAX, names, on_shard, parts, reach, until_answered,
    until_done,
};
use crate::config::definitions::{find, key};
use crate::config::roles::Role;
use crate::door;
use crate::failure::{Failure, failed};

/// Starts a part. What it makes for those after it, it leaves in the node.
type Start = fn(&mut Node, GoOn<'_>) -> Result<(), Failure>;
/// Ends what the start has made, also when that has failed half way.
type Stop = fn(&mut Node, Until<'_>) -> Result<(), Failure>;

/// One part of a process.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) start: Start,
    pub(super) stop: Stop,
}

/// The parts of this process, in the order of their start.
pub(super) fn parts(a: &Assembly) -> Vec<Part> {
    let has = |role| a.roles.has(role);
    let (linked, stores) = (a.link.is_some(), !matches!(a.kv, KvPlace::Unused));
    let all: [(bool, &str, Start, Stop); 9] = [
        (linked, "links", begun_with_shards, stop_links),
        (stores, "metadata store", start_store, close_store),
        (has(Role::Mgmtd), "mgmtd", start_mgmtd, ends_with_shards),
        (true, "agent", start_agent, ends_with_shards),
        (linked, "listening", listen, ends_with_shards),
        (has(Role::Storage), "storage targets", start_targets, close_targets),
        (has(Role::Meta), "meta", start_meta, ends_with_shards),
        (true, "announcement", announce, ends_with_shards),
        (has(Role::Client), "clients", start_clients, stop_clients),
    ];
    let wanted = all.into_iter().filter(|(wanted, ..)| *wanted);
    wanted.map(|(_, name, start, stop)| Part { name, start, stop }).collect()
}

/// A shard has its links before it does anything else.
fn begun_with_shards(_: &mut Node, _: GoOn<'_>) -> Result<(), Failure> {
    Ok(())
}

/// Nothing of it is to be written or told.
fn ends_with_shards(_: &mut Node, _: Until<'_>) -> Result<(), Failure> {
    Ok(())
}

fn stop_links(node: &mut Node, until: Until<'_>) -> Result<(), Failure> {
    on_all(&node.shards.remotes, "links", until, async |_: Cx| {
        link::stop();
        Ok(())
    })
}

/// The store of this process, or the one to use.
fn start_store(node: &mut Node, go_on: GoOn<'_>) -> Result<(), Failure> {
    let shown = match node.assembly.kv.clone() {
        KvPlace::Here(folder) => {
            let shown = folder.display().to_string();
            let (kv, empty) =
                on_shard(node.first_shard(), "metadata store", async move |cx: Cx| {
                    parts::start_kv(&cx, &folder)
                })??;
            (node.kv, node.store) = (Some(kv), Some(kv));
            // A mistyped folder, or one whose disk is not mounted, is empty too.
            if empty && node.assembly.link.is_some() {
                node.about += &format!(", new, empty store in {shown}");
            }
            shown
        }
        KvPlace::There(at) => {
            let what = format!("the metadata store at t3fs-kv://{at}");
            let found = until_done(&what, go_on, || {
                let all = at.look_up().map_err(failed)?;
                on_shard(node.first_shard(), "metadata store", async move |_: Cx| {
                    link::find_any(&all, link::KV).await
                })?
            })?;
            node.role_names.note(found.node, "kv");
            let shown = format!("t3fs-kv://{at}");
            node.kv_named = Some((found.node, at));
            node.store = Some(Addr::from_raw(found));
            shown
        }
        KvPlace::Unused => return Ok(()),
    };
    if !node.assembly.uses_store() {
        return Ok(());
    }
    let (kv, state) = (store_of(node), node.assembly.state.clone());
    on_shard(node.first_shard(), "metadata store", async move |_: Cx| {
        parts::know_store(kv, shown, &state)
    })?
}

/// After everyone who could still ask it.
fn close_store(node: &mut Node, until: Until<'_>) -> Result<(), Failure> {
    let Some(kv) = node.kv else { return Ok(()) };
    on_all(&node.shards.remotes[..1], "close", until, async move |cx: Cx| {
        parts::close_kv(&cx, kv).await
    })
}

fn start_mgmtd(node: &mut Node, go_on: GoOn<'_>) -> Result<(), Failure> {
    until_answered("the metadata store", go_on, || {
        let a = Arc::clone(&node.assembly);
        on_shard(node.first_shard(), "mgmtd", async move |cx: Cx| {
            parts::check_store(&cx, &a).await
        })?
    })?;
    let a = Arc::clone(&node.assembly);
    let started =
        on_shard(node.first_shard(), "mgmtd", async move |cx: Cx| parts::start_mgmtd(&cx, &a));
    node.mgmtd = Some(started?);
    Ok(())
}

fn store_of(node: &Node) -> Addr<Kv> {
    node.store.expect("a mgmtd or meta is given a store")
}

fn start_agent(node: &mut Node, _: GoOn<'_>) -> Result<(), Failure> {
    let addresses = node.peers.clone().map(|p| Addresses::new(p, node.role_names.clone()));
    let (a, mgmtd, contact) = (Arc::clone(&node.assembly), node.mgmtd, node.contact.clone());
    let started = on_shard(node.first_shard(), "agent", async move |cx: Cx| {
        parts::start_agent(&cx, &a, mgmtd, addresses, contact)
    });
    node.agent = Some(started?);
    Ok(())
}

/// From here on others can connect, and this process looks for the mgmtds.
fn listen(node: &mut Node, _: GoOn<'_>) -> Result<(), Failure> {
    let a = Arc::clone(&node.assembly);
    let (Some(peers), Some(plan)) = (node.peers.clone(), &a.link) else { return Ok(()) };
    let (agent, mgmtd) = (node.agent(), node.mgmtd.map(Addr::raw));
    let kv = node.kv.map(Addr::raw);
    let published = [(link::MGMTD, mgmtd), (link::KV, kv), (link::AGENT, Some(agent.raw()))];
    for (service, addr) in published {
        if let Some(addr) = addr {
            peers.publish(service, addr.shard, addr.slot);
        }
    }
    if let Some(at) = plan.listen {
        let bound = on_shard(node.first_shard(), "listening", async move |_: Cx| link::listen(at))?
            .map_err(|why| match why.line.contains("in use") {
                true => failed(format!(
                    "{why}; another process listens there, end it or say another address with \
                     {}",
                    find(key::listen).expect("it is defined").flag()
                )),
                false => why,
            })?;
        let served = plan.advertise.iter().filter(|a| a.fabric == Fabric::Rdma);
        let also: String = served.map(|a| format!(" and {a}")).collect();
        node.about += &format!(", node {}, at TCP://{bound}{also}", a.node.0);
    }
    let mgmtds = names::Names::start(plan.mgmtds.iter().map(|p| p.host.clone()).collect());
    let (own, contact, to) = (plan.advertise.clone(), node.contact.clone(), peers.clone());
    on_shard(node.first_shard(), "mgmtd", async move |cx: Cx| {
        link::keep_finding_mgmtds(&cx, agent, mgmtd, to, mgmtds, own, contact);
    })?;
    if !a.roles.is_empty() {
        let (roles, named) = (node.role_names.clone(), node.kv_named.take());
        let (remote, contact) = (node.first_shard().clone(), node.contact.clone());
        node.reach = Some(reach::watch(peers, roles, remote, named, contact));
    }
    Ok(())
}

fn start_targets(node: &mut Node, go_on: GoOn<'_>) -> Result<(), Failure> {
    let (a, agent) = (Arc::clone(&node.assembly), node.agent());
    let (budget, remotes) = (node.budget, node.shards.remotes.clone());
    let keeper = Keeper { a: Arc::clone(&a), budget, agent, remotes };
    match &a.targets {
        Targets::Local(data) => {
            let known = until_done("mgmtd", go_on, || {
                on_shard(node.first_shard(), "mgmtd", async move |cx: Cx| {
                    parts::routing(&cx, agent).await
                })?
            })?;
            keeper.start_local(data, &known)?;
            let data = Arc::clone(data);
            on_shard(node.first_shard(), "chains", async move |cx: Cx| {
                parts::create_chains(&cx, &data, agent).await
            })?
        }
        Targets::Assigned { server, .. } => keeper.start_assigned(Arc::clone(server)),
        Targets::None => unreachable!("the role storage has folders"),
    }
}

/// Those of a server come from a host that has ended by then, or ends with the shards.
fn close_targets(node: &mut Node, until: Until<'_>) -> Result<(), Failure> {
    let agent = node.agent();
    on_all(&node.shards.remotes, "close", until, async move |cx: Cx| {
        parts::close_targets(&cx, agent).await
    })
}

fn start_meta(node: &mut Node, go_on: GoOn<'_>) -> Result<(), Failure> {
    let (agent, lease) = (node.agent(), node.assembly.leases.node);
    let meta = until_answered("the metadata store", go_on, || {
        on_shard(node.first_shard(), "meta", async move |cx: Cx| {
            parts::start_meta(&cx.within(STEP_MAX / 4), agent, lease).await
        })?
    })?;
    node.metas.push(meta);
    Ok(())
}

fn announce(node: &mut Node, _: GoOn<'_>) -> Result<(), Failure> {
    let (agent, metas) = (node.agent(), node.metas.clone());
    on_shard(node.first_shard(), "announcement", async move |cx: Cx| {
        parts::announce(&cx, agent, metas).await
    })?
}

fn start_clients(node: &mut Node, go_on: GoOn<'_>) -> Result<(), Failure> {
    let (a, agent, contact) = (&node.assembly, node.agent(), &node.contact);
    let go_on = || match contact.is_refusal() && !a.roles.is_server() {
        true => Err(failed("not trying again")),
        false => go_on(),
    };
    for (index, remote) in node.shards.remotes.iter().enumerate() {
        let mut attempt = ATTEMPT_MIN;
        until_done("the cluster", &go_on, || {
            let (label, budget) = (format!("{} shard {index}", a.label), node.budget);
            let io_timeout = a.tunables.patience();
            let within = attempt;
            attempt = (attempt * 2).min(ATTEMPT);
            let started = on_shard(remote, "client", async move |cx: Cx| {
                let cx = cx.within(within);
                parts::start_client(&cx, agent, &label, io_timeout, &budget).await
            })?;
            // A user whose process finds no mgmtd need not hear what that has led to.
            started.map_err(|e| match contact.hint() {
                why if why.is_empty() => e,
                why => failed(format!("no mgmtd can be used{why}")),
            })
        })?;
    }
    if let Targets::Local(_) = a.targets {
        on_shard(node.first_shard(), "root directory", parts::give_root_to_user)??;
    }
    Ok(())
}

fn stop_clients(node: &mut Node, until: Until<'_>) -> Result<(), Failure> {
    on_all(&node.shards.remotes, "flush", until, async |cx: Cx| {
        let client = door::client();
        door::set_client(None);
        match client {
            Some(client) => client.stop(&cx).await.map_err(not_flushed),
            None => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    //! Goal: roles decide which parts there are, and their order is that of the list.
    use super::*;
    use crate::config::roles::Roles;
    use crate::config::{Flags, Leases, load_from};
    use crate::mount::MountOptions;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn names_of(roles: &[Role], kv: KvPlace) -> Vec<&'static str> {
        let (settings, tunables) = load_from(Flags::default(), std::iter::empty()).unwrap();
        let assembly = Assembly {
            cluster: "c".into(),
            node: super::super::ALONE,
            incarnation: 1,
            identity: String::new(),
            roles: Roles::new(roles),
            shards: 1,
            leases: Leases { heartbeat: SECOND, node: SECOND, mgmtd: SECOND },
            link: None,
            kv,
            state: "/nowhere".into(),
            targets: Targets::None,
            label: "here".into(),
            mount_options: MountOptions::default(),
            settings,
            tunables,
        };
        parts(&assembly).iter().map(|part| part.name).collect()
    }

    #[test]
    fn roles_are_lists_of_parts() {
        let here = || KvPlace::Here("/nowhere".into());
        assert_eq!(names_of(&[Role::Kv], here()), ["metadata store", "agent", "announcement"]);
        assert_eq!(
            names_of(&[Role::Client], KvPlace::Unused),
            ["agent", "announcement", "clients"]
        );
        let all = [Role::Client, Role::Meta, Role::Storage, Role::Mgmtd, Role::Kv];
        let in_order = [
            "metadata store",
            "mgmtd",
            "agent",
            "storage targets",
            "meta",
            "announcement",
            "clients",
        ];
        assert_eq!(names_of(&all, here()), in_order);
    }
}
