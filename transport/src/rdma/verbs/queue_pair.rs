//! Reliable connected queue pairs.

use std::any::Any;
use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rdma_mummy_sys::*;

use super::device::window::{VerbsWindow, WindowState};
use super::device::{Device, LAST, Scratch};
use super::handles::{RawQueuePair, check, last_error};
use crate::rdma::nic::{Access, Endpoint, Local, QueuePair, Window, Work};

/// 134 ms until something unacknowledged is sent again, and how often: a dead peer is noticed
/// within a second; devices that stretch the time need up to four. Not 7, which
/// soft-RoCE takes for endless.
const TIMEOUT: u8 = 15;
const RETRIES: u8 = 6;
/// Credits keep the peer from running out of receive buffers. If it does, we wait for it; that it
/// is dead is noticed elsewhere.
const RETRIES_WITHOUT_BUFFER: u8 = 7;
/// 80 us until a peer tries again that found no receive buffer.
const WAIT_FOR_BUFFER: u8 = 6;
const HOPS: u8 = 64;
/// How long the end of a queue pair may take, which is a matter of microseconds.
const END: Duration = Duration::from_millis(5);
/// Bytes of a GID that name the subnet.
const SUBNET: usize = 8;

pub(super) struct VerbsQueuePair {
    raw: Option<RawQueuePair>,
    endpoint: Endpoint,
    inline: u32,
    connected: Cell<bool>,
    failed: Cell<bool>,
    device: Rc<Device>,
}

impl VerbsQueuePair {
    pub(super) fn new(device: &Rc<Device>) -> Result<VerbsQueuePair, String> {
        if device.live.get() == device.queue_pairs_max {
            return Err(format!("all {} queue pairs of the device are in use", device.live.get()));
        }
        let (raw, inline) = create(device)?;
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|e| format!("no random number: {e}"))?;
        let port = &device.port;
        let endpoint = Endpoint {
            // SAFETY: just made.
            queue_pair: unsafe { (*raw.raw()).qp_num },
            first_packet: u32::from_ne_bytes(random) & 0xff_ffff,
            gid: port.gid,
            lid: port.lid,
            mtu_log2: port.mtu.ilog2() as u8,
            reads_max: port.reads_max,
        };
        device.live.set(device.live.get() + 1);
        let device = device.clone();
        let (connected, failed) = (Cell::new(false), Cell::new(false));
        let raw = Some(raw);
        let queue_pair = VerbsQueuePair { raw, endpoint, inline, connected, failed, device };
        queue_pair.initialise()?;
        Ok(queue_pair)
    }

    fn raw(&self) -> *mut ibv_qp {
        self.raw.as_ref().expect("until it is dropped").raw()
    }

    fn modify(&self, attributes: &mut ibv_qp_attr, mask: ibv_qp_attr_mask) -> c_int {
        // SAFETY: ours; the call copies the attributes.
        unsafe { ibv_modify_qp(self.raw(), attributes, mask.0 as c_int) }
    }

    fn initialise(&self) -> Result<(), String> {
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = self.device.port.port;
        // What the windows open; nothing else of our memory has a key that allows it.
        attributes.qp_access_flags = (ibv_access_flags::IBV_ACCESS_REMOTE_READ
            | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE)
            .0;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
            | ibv_qp_attr_mask::IBV_QP_PORT
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
        check(self.modify(&mut attributes, mask), "a queue pair cannot be initialised")
    }

    fn ready_to_receive(&self, to: &Endpoint) -> Result<(), String> {
        let port = &self.device.port;
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTR;
        attributes.path_mtu = mtu(self.endpoint.mtu_log2.min(to.mtu_log2))?;
        attributes.dest_qp_num = to.queue_pair;
        attributes.rq_psn = to.first_packet & 0xff_ffff;
        attributes.max_dest_rd_atomic = self.endpoint.reads_max;
        attributes.min_rnr_timer = WAIT_FOR_BUFFER;
        let path = &mut attributes.ah_attr;
        path.dlid = to.lid;
        path.port_num = port.port;
        // InfiniBand needs the GID between subnets only, Ethernet always.
        path.is_global = u8::from(port.ethernet || port.gid[..SUBNET] != to.gid[..SUBNET]);
        path.grh.dgid = ibv_gid { raw: to.gid };
        path.grh.sgid_index = port.gid_index;
        path.grh.hop_limit = HOPS;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_AV
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
        check(self.modify(&mut attributes, mask), "the peer's queue pair cannot be reached")
    }

    fn ready_to_send(&self, to: &Endpoint) -> Result<(), String> {
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attributes.sq_psn = self.endpoint.first_packet;
        attributes.timeout = TIMEOUT;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RETRIES_WITHOUT_BUFFER;
        attributes.max_rd_atomic = self.endpoint.reads_max.min(to.reads_max);
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_SQ_PSN
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC;
        check(self.modify(&mut attributes, mask), "a queue pair cannot be made ready to send")
    }

    /// One piece of work as verbs want it; `at` is where its memory is described.
    fn describe(&self, work: &Work<'_>, at: &mut ibv_sge) -> Result<ibv_send_wr, String> {
        // SAFETY: plain data; null pointers and zeroes mean that there is nothing.
        let mut wr: ibv_send_wr = unsafe { std::mem::zeroed() };
        let mut attach = |wr: &mut ibv_send_wr, local: &Local<'_>| {
            *at = self.place(local);
            wr.sg_list = at;
            wr.num_sge = c_int::from(local.len > 0);
        };
        let signalled = |signal: bool| if signal { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
        match work {
            Work::Send { id, packet, signal } => {
                wr.wr_id = *id;
                wr.opcode = ibv_wr_opcode::IBV_WR_SEND;
                wr.send_flags = signalled(*signal) | ibv_send_flags::IBV_SEND_SOLICITED.0;
                if packet.len <= self.inline {
                    wr.send_flags |= ibv_send_flags::IBV_SEND_INLINE.0;
                }
                attach(&mut wr, packet);
            }
            Work::SendCopy { id, packet, signal } => {
                assert!(packet.len() <= self.inline as usize, "too much to be copied");
                wr.wr_id = *id;
                wr.opcode = ibv_wr_opcode::IBV_WR_SEND;
                wr.send_flags = signalled(*signal)
                    | ibv_send_flags::IBV_SEND_SOLICITED.0
                    | ibv_send_flags::IBV_SEND_INLINE.0;
                *at =
                    ibv_sge { addr: packet.as_ptr() as u64, length: packet.len() as u32, lkey: 0 };
                wr.sg_list = at;
                wr.num_sge = 1;
            }
            Work::Read { id, into, from } => {
                wr.wr_id = *id;
                wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
                wr.send_flags = signalled(true);
                wr.wr.rdma = rdma_t { remote_addr: from.address, rkey: from.key };
                attach(&mut wr, into);
            }
            Work::Write { id, from, to, signal } => {
                wr.wr_id = *id;
                wr.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
                wr.send_flags = signalled(*signal);
                wr.wr.rdma = rdma_t { remote_addr: to.address, rkey: to.key };
                attach(&mut wr, from);
            }
            Work::Open { id, window, memory, access, signal } => {
                wr.wr_id = *id;
                wr.opcode = ibv_wr_opcode::IBV_WR_BIND_MW;
                wr.send_flags = signalled(*signal);
                let (mw, rkey) = state_of(*window)
                    .open(self.endpoint.queue_pair)
                    .ok_or("the device had no memory window")?;
                let place = self.place(memory);
                let access = match access {
                    Access::Read => ibv_access_flags::IBV_ACCESS_REMOTE_READ,
                    Access::Write => ibv_access_flags::IBV_ACCESS_REMOTE_WRITE,
                };
                let bind_info = ibv_mw_bind_info {
                    mr: self.device.region.raw(),
                    addr: place.addr,
                    length: u64::from(place.length),
                    mw_access_flags: access.0,
                };
                wr.bind_mw_tso_union.bind_mw = bind_mw_t { mw, rkey, bind_info };
            }
            Work::Close { id, window } => {
                wr.wr_id = *id;
                wr.opcode = ibv_wr_opcode::IBV_WR_LOCAL_INV;
                wr.send_flags = signalled(true);
                wr.imm_data_invalidated_rkey_union.invalidated_rkey = state_of(*window).key();
            }
        }
        assert!(wr.wr_id < LAST, "ids from 2^63 - 1 on are ours");
        Ok(wr)
    }

    /// Waits, in the error state, until all work has completed. Some devices take away completions
    /// with the queue pair, and so receive buffers, which would be lost one by one.
    fn drain(&self) {
        // SAFETY: plain data: a message of no bytes.
        let mut last: ibv_send_wr = unsafe { std::mem::zeroed() };
        last.wr_id = LAST;
        last.opcode = ibv_wr_opcode::IBV_WR_SEND;
        last.send_flags = ibv_send_flags::IBV_SEND_SIGNALED.0;
        let until = Instant::now() + END;
        let mut posted = false;
        loop {
            let ended = self.device.forget(self.endpoint.queue_pair);
            if ended || !self.connected.get() || Instant::now() >= until {
                return;
            }
            if !posted {
                let mut bad = ptr::null_mut();
                // There may be no room for it yet.
                // SAFETY: the work is copied by the call.
                posted = unsafe { ibv_post_send(self.raw(), &mut last, &mut bad) } == 0;
            }
        }
    }

    fn place(&self, local: &Local<'_>) -> ibv_sge {
        let end = u64::from(local.at) + u64::from(local.len);
        assert!(end <= local.piece.capacity() as u64, "beyond the end of a piece");
        let addr = local.piece.address() + u64::from(local.at);
        let (base, len) = self.device.pool.span();
        let in_pool = addr >= base as u64 && addr + u64::from(local.len) <= (base + len) as u64;
        assert!(in_pool, "a piece of another pool");
        // SAFETY: ours, and alive.
        let lkey = unsafe { (*self.device.region.raw()).lkey };
        ibv_sge { addr, length: local.len, lkey }
    }
}

impl QueuePair for VerbsQueuePair {
    fn number(&self) -> u32 {
        self.endpoint.queue_pair
    }

    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    fn copied_max(&self) -> usize {
        self.inline as usize
    }

    fn connect(&self, to: &Endpoint) -> Result<(), String> {
        self.connected.set(true);
        self.ready_to_receive(to)?;
        self.ready_to_send(to)
    }

    fn post(&self, work: &[Work<'_>]) -> Result<(), String> {
        if self.failed.get() {
            return Err("the queue pair has been stopped".into());
        }
        let mut scratch = self.device.scratch.borrow_mut();
        let Scratch { list, places } = &mut *scratch;
        list.clear();
        places.clear();
        places.resize(work.len(), ibv_sge { addr: 0, length: 0, lkey: 0 });
        for (one, at) in work.iter().zip(&mut *places) {
            list.push(self.describe(one, at)?);
        }
        if list.is_empty() {
            return Ok(());
        }
        let first = list.as_mut_ptr();
        for i in 1..list.len() {
            // SAFETY: both are within the list, which does not move any more.
            unsafe { (*first.add(i - 1)).next = first.add(i) };
        }
        let mut bad = ptr::null_mut();
        // SAFETY: a list that ends, over places that are still there; both are copied by the call.
        // What they name is kept by the caller until the work has completed.
        let code = unsafe { ibv_post_send(self.raw(), first, &mut bad) };
        for one in work {
            if let Work::Open { window, .. } = one {
                state_of(*window).opened();
            }
        }
        check(code, "the queue pair takes no work")
    }

    fn fail(&self) {
        if self.failed.replace(true) {
            return;
        }
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
        if let Err(why) = check(
            self.modify(&mut attributes, ibv_qp_attr_mask::IBV_QP_STATE),
            "a queue pair cannot be stopped",
        ) {
            // The queue pair is destroyed soon, which ends everything.
            tracing::warn!(device = self.device.port.device, "{why}");
        }
        self.device.windows.leave(self.endpoint.queue_pair);
    }
}

impl Drop for VerbsQueuePair {
    fn drop(&mut self) {
        self.fail();
        // The windows that somebody meant to open after the queue pair had failed.
        self.device.windows.leave(self.endpoint.queue_pair);
        self.drain();
        self.raw.take();
        // After, since the others leave them, and the number is used again one day.
        self.device.forget(self.endpoint.queue_pair);
        self.device.live.set(self.device.live.get() - 1);
    }
}

/// With as much inline data as the device allows.
fn create(device: &Device) -> Result<(RawQueuePair, u32), String> {
    loop {
        let mut wish = ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: device.completions.raw(),
            recv_cq: device.completions.raw(),
            srq: device.receive.raw(),
            cap: ibv_qp_cap {
                max_send_wr: device.send_queue as u32,
                max_recv_wr: 0,
                max_send_sge: 1,
                max_recv_sge: 0,
                max_inline_data: device.inline.get(),
            },
            qp_type: ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: all of one device, which outlives the queue pair.
        let raw = unsafe { ibv_create_qp(device.domain.raw(), &mut wish) };
        if raw.is_null() {
            let why = last_error("no queue pair to be had");
            match device.less_inline() {
                true => continue,
                false => return Err(why),
            }
        }
        let made = RawQueuePair::made(raw, "no queue pair")?;
        return Ok((made, wish.cap.max_inline_data));
    }
}

fn blank() -> ibv_qp_attr {
    // SAFETY: plain data.
    unsafe { std::mem::zeroed() }
}

fn mtu(log2: u8) -> Result<ibv_mtu::Type, String> {
    match log2 {
        8..=12 => Ok(ibv_mtu::IBV_MTU_256 + u32::from(log2 - 8)),
        _ => Err(format!("the peer offers packets of 2^{log2} bytes")),
    }
}

fn state_of(window: &dyn Window) -> &WindowState {
    let any: &dyn Any = window;
    &any.downcast_ref::<VerbsWindow>().expect("a window of this device").0
}
