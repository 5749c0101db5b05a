//! What one shard has of RDMA devices: its memory, and the ports that it has opened.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use t3fs_runtime::net::Net;
use t3fs_runtime::{Shard, Time};

use super::Nics;
use super::dock::Dock;
use super::memory::RdmaPool;
use super::nic::{Nic, PACKET};
use super::shell::{Half, Port};
use crate::limits::LinkLimits;
use crate::pool::HeapPool;

/// A port that could not be opened is tried again after this long.
const AGAIN: Duration = Duration::from_secs(10);

pub(crate) struct Ports {
    nics: Nics,
    limits: LinkLimits,
    heap: HeapPool,
    shard: Weak<Shard>,
    net: Rc<dyn Net>,
    pool: OnceCell<RdmaPool>,
    opened: RefCell<Vec<(IpAddr, Opened)>>,
    stopped: Cell<bool>,
}

enum Opened {
    Port(Rc<Port>),
    Failed { why: String, at: Time },
}

impl Ports {
    pub(crate) fn new(
        nics: Nics,
        limits: &LinkLimits,
        shard: &Rc<Shard>,
        net: Rc<dyn Net>,
        heap: HeapPool,
    ) -> Ports {
        let (limits, shard) = (limits.clone(), Rc::downgrade(shard));
        let (pool, opened, stopped) = (OnceCell::new(), RefCell::default(), Cell::new(false));
        Ports { nics, limits, heap, shard, net, pool, opened, stopped }
    }

    /// A queue pair on the device that has this address of ours. The error says why there is none.
    pub(crate) fn half(&self, local: IpAddr) -> Result<Half, String> {
        self.at(local.to_canonical())?.half(&self.limits)
    }

    /// Opens the device that has this address of ours, if it can be; the log says why not.
    pub(crate) fn open(&self, local: IpAddr) {
        let _ = self.at(local.to_canonical()); // asked for again, and told, by each connection
    }

    fn at(&self, local: IpAddr) -> Result<Rc<Port>, String> {
        let shard = self.shard.upgrade().filter(|_| !self.stopped.get());
        let shard = shard.ok_or("this shard has ended")?;
        let now = shard.cx().now();
        for (ip, opened) in &*self.opened.borrow() {
            match opened {
                Opened::Port(port) if *ip == local => return Ok(Rc::clone(port)),
                Opened::Failed { why, at } if *ip == local && now.since(*at) < AGAIN => {
                    return Err(why.clone());
                }
                _ => {}
            }
        }
        let nic = self.open_nic(&self.nics, local);
        let opened = match &nic {
            Ok((nic, pool)) => {
                let dock = Dock::new(Rc::clone(nic), pool.clone(), self.heap.clone());
                let spin = self.limits.rdma_spin;
                Opened::Port(Port::start(dock, Rc::clone(nic), &shard, &*self.net, spin)?)
            }
            Err(why) => {
                if !matches!(self.nics, Nics::None) {
                    tracing::info!("no RDMA at {local}: {why}");
                }
                Opened::Failed { why: why.clone(), at: now }
            }
        };
        let mut all = self.opened.borrow_mut();
        all.retain(|(ip, _)| *ip != local);
        all.push((local, opened));
        match &all.last().expect("just put there").1 {
            Opened::Port(port) => Ok(Rc::clone(port)),
            Opened::Failed { why, .. } => Err(why.clone()),
        }
    }

    fn open_nic(&self, nics: &Nics, local: IpAddr) -> Result<(Rc<dyn Nic>, RdmaPool), String> {
        let buffers = self.limits.rdma_receive_buffers;
        match nics {
            Nics::None => Err("this process uses no RDMA devices".into()),
            Nics::Soft(wire) => {
                let pool = self.pool()?;
                Ok((Rc::new(wire.nic(&pool, buffers)?), pool))
            }
            Nics::Faulty(nics, faults) => {
                let (nic, pool) = self.open_nic(nics, local)?;
                Ok((faults.around(nic), pool))
            }
            Nics::Devices(devices) => {
                let port = devices.port_at(local)?;
                let pool = self.pool()?;
                Ok((open_device(&port, &pool, &self.limits)?, pool))
            }
        }
    }

    /// The memory of this shard; taken when the first device is opened.
    fn pool(&self) -> Result<RdmaPool, String> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool.clone());
        }
        let buffers = self.limits.rdma_receive_buffers * PACKET;
        let pool = RdmaPool::new(self.limits.rdma_memory.saturating_sub(buffers))?;
        Ok(self.pool.get_or_init(|| pool).clone())
    }

    /// Pinned bytes, receive buffers included, and bytes of the pool that are in use.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let Some(pool) = self.pool.get() else { return (0, 0) };
        let open = self.opened.borrow();
        let ports = open.iter().filter_map(|(_, o)| match o {
            Opened::Port(port) => Some(port.receive_buffers() * PACKET),
            Opened::Failed { .. } => None,
        });
        (pool.bytes() + ports.sum::<usize>(), pool.bytes() - pool.free_bytes())
    }

    /// Ends the tasks; connections have ended before.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        for (_, opened) in self.opened.take() {
            if let Opened::Port(port) = opened {
                port.stop();
            }
        }
    }
}

#[cfg(feature = "rdma")]
fn open_device(
    port: &super::PortRef,
    pool: &RdmaPool,
    limits: &LinkLimits,
) -> Result<Rc<dyn Nic>, String> {
    let settings = super::verbs::NicSettings {
        receive_buffers: limits.rdma_receive_buffers,
        send_queue: limits.rdma_send_queue,
        queue_pairs: limits.rdma_connections,
    };
    Ok(Rc::new(super::verbs::VerbsNic::open(port, pool, &settings)?))
}

#[cfg(not(feature = "rdma"))]
fn open_device(_: &super::PortRef, _: &RdmaPool, _: &LinkLimits) -> Result<Rc<dyn Nic>, String> {
    Err("this binary was built without RDMA (cargo feature rdma)".into())
}
