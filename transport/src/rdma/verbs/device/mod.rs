//! A shard's use of one port: the opened device, registered memory, one completion queue, and the
//! receive buffers that all queue pairs share.

pub(super) mod window;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

use rdma_mummy_sys::*;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::NicSettings;
use super::discover::List;
use super::handles::*;
use crate::rdma::memory::RdmaPool;
use crate::rdma::nic::{Completion, Outcome, PACKET};
use crate::rdma::report::PortRef;
use window::Windows;

/// In the number of a piece of work: it is a receive buffer, and the rest is its slot.
const RECEIVE: u64 = 1 << 63;
/// The number of the work that ends a queue pair, above all that callers may use.
pub(super) const LAST: u64 = RECEIVE - 1;
/// Completions taken at a time.
const BATCH: usize = 64;
/// Bytes that are asked to travel within the work itself; devices that refuse get asked for less.
const INLINE: [u32; 4] = [256, 128, 64, 0];

/// Fields are dropped in this order, which verbs ask for: nothing before what was made of it.
pub(super) struct Device {
    pub(super) windows: Windows,
    /// Completions that were taken out of the queue before anybody polled.
    early: RefCell<VecDeque<Completion>>,
    pub(super) scratch: RefCell<Scratch>,
    pub(super) inline: Cell<u32>,
    pub(super) live: Cell<usize>,
    pub(super) queue_pairs_max: usize,
    pub(super) send_queue: usize,
    pub(super) port: PortRef,
    pub(super) receive: SharedReceiveQueue,
    pub(super) completions: CompletionQueue,
    channel: Channel,
    /// The pool, and the receive buffers, as the device knows them.
    pub(super) region: Region,
    slots_region: Region,
    pub(super) domain: Domain,
    _context: Context,
    pub(super) pool: RdmaPool,
    pub(super) slots: Slots,
}

/// Work on its way to the device, and the memory it is about; room that is used again.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) list: Vec<ibv_send_wr>,
    pub(super) places: Vec<ibv_sge>,
}

/// Receive buffers side by side.
pub(super) struct Slots {
    memory: RdmaPool,
    /// True while the device may write to the buffer.
    posted: RefCell<Vec<bool>>,
}

impl Slots {
    fn new(count: usize) -> Result<Slots, String> {
        assert!(count > 0 && count <= usize::from(u16::MAX), "{count} receive buffers");
        let memory = RdmaPool::new(count * PACKET)?;
        Ok(Slots { memory, posted: RefCell::new(vec![false; count]) })
    }

    pub(super) fn count(&self) -> usize {
        self.posted.borrow().len()
    }

    fn address(&self, slot: u16) -> usize {
        self.memory.span().0 + usize::from(slot) * PACKET
    }

    pub(super) fn packet(&self, slot: u16, len: u32) -> &[u8] {
        assert!(len as usize <= PACKET && !self.posted.borrow()[usize::from(slot)]);
        // SAFETY: within the mapping (the slot is one of ours) and not posted, so nobody writes
        // to it before it is given back.
        unsafe { std::slice::from_raw_parts(self.address(slot) as *const u8, len as usize) }
    }
}

impl Device {
    pub(super) fn open(
        port: &PortRef,
        pool: &RdmaPool,
        settings: &NicSettings,
    ) -> Result<Device, String> {
        let list = List::get()?;
        let raw = list.named(&port.device).ok_or("the device is gone")?;
        // SAFETY: of a list that is still there.
        let context = unsafe { ibv_open_device(raw) };
        let context = Context::made(context, "the device cannot be opened")?;
        // SAFETY: plain data, filled by the call.
        let mut limits: ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: an open device.
        let code = unsafe { ibv_query_device(context.raw(), &mut limits) };
        check(code, "the device tells no limits")?;
        let limit = |l: c_int| usize::try_from(l).unwrap_or(0);

        let slots = Slots::new(settings.receive_buffers.min(limit(limits.max_srq_wr)))?;
        let send_queue = settings.send_queue.min(limit(limits.max_qp_wr));
        // All that can be outstanding may complete at once, and a full completion queue is fatal.
        let room = limit(limits.max_cqe).saturating_sub(slots.count());
        let queue_pairs_max = settings.queue_pairs.min(room / send_queue).min(limit(limits.max_qp));
        if queue_pairs_max == 0 {
            return Err(format!("the device has completion queues of {} only", limits.max_cqe));
        }
        if queue_pairs_max < settings.queue_pairs {
            let (device, asked) = (&port.device, settings.queue_pairs);
            tracing::info!(device, asked, queue_pairs_max, "fewer connections than asked for");
        }
        let entries = slots.count() + queue_pairs_max * send_queue;

        // SAFETY: an open device; what is made is destroyed before it (order of the fields).
        let domain = unsafe { ibv_alloc_pd(context.raw()) };
        let domain = Domain::made(domain, "no protection domain")?;
        let region = register(&domain, pool, ibv_access_flags::IBV_ACCESS_MW_BIND)?;
        let slots_region = register(&domain, &slots.memory, ibv_access_flags(0))?;
        // SAFETY: as above.
        let channel = unsafe { ibv_create_comp_channel(context.raw()) };
        let channel = Channel::made(channel, "no completion channel")?;
        // SAFETY: as above; the channel outlives the queue.
        let completions = unsafe {
            ibv_create_cq(context.raw(), entries as c_int, ptr::null_mut(), channel.raw(), 0)
        };
        let completions =
            CompletionQueue::made(completions, &format!("no completion queue of {entries}"))?;
        let mut shared = ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            attr: ibv_srq_attr { max_wr: slots.count() as u32, max_sge: 1, srq_limit: 0 },
        };
        // SAFETY: as above.
        let receive = unsafe { ibv_create_srq(domain.raw(), &mut shared) };
        let receive = SharedReceiveQueue::made(receive, "no shared receive queue")?;

        let device = Device {
            windows: Windows::default(),
            early: RefCell::default(),
            scratch: RefCell::default(),
            inline: Cell::new(INLINE[0]),
            live: Cell::new(0),
            queue_pairs_max,
            send_queue,
            port: port.clone(),
            receive,
            completions,
            channel,
            region,
            slots_region,
            domain,
            _context: context,
            pool: pool.clone(),
            slots,
        };
        let events = device.events();
        fcntl_getfl(events)
            .and_then(|flags| fcntl_setfl(events, flags | OFlags::NONBLOCK))
            .map_err(|e| format!("the completion channel cannot be polled: {e}"))?;
        for slot in 0..device.slots.count() {
            device.post_receive(slot as u16)?;
        }
        Ok(device)
    }

    #[cfg(test)]
    pub(super) fn pool_key(&self) -> u32 {
        // SAFETY: ours, and alive.
        unsafe { (*self.region.raw()).rkey }
    }

    /// The next smaller amount of inline data to ask for.
    pub(super) fn less_inline(&self) -> bool {
        let less = INLINE.iter().find(|bytes| **bytes < self.inline.get());
        less.inspect(|bytes| self.inline.set(**bytes)).is_some()
    }

    fn post_receive(&self, slot: u16) -> Result<(), String> {
        let mut posted = self.slots.posted.borrow_mut();
        let posted = &mut posted[usize::from(slot)];
        assert!(!*posted, "receive buffer {slot} is given back twice");
        let mut piece = ibv_sge {
            addr: self.slots.address(slot) as u64,
            length: PACKET as u32,
            // SAFETY: ours, and alive.
            lkey: unsafe { (*self.slots_region.raw()).lkey },
        };
        let mut work = ibv_recv_wr {
            wr_id: RECEIVE | u64::from(slot),
            next: ptr::null_mut(),
            sg_list: &mut piece,
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        // SAFETY: the work is copied by the call; the buffer stays until the queue is destroyed.
        let code = unsafe { ibv_post_srq_recv(self.receive.raw(), &mut work, &mut bad) };
        check(code, "a receive buffer is refused")?;
        *posted = true;
        Ok(())
    }

    pub(super) fn repost(&self, slot: u16) {
        if let Err(why) = self.post_receive(slot) {
            // There is room by construction. What is lost is one buffer of many.
            tracing::error!(device = self.port.device, "{why}");
        }
    }

    pub(super) fn poll(&self, into: &mut VecDeque<Completion>, looks: usize) -> usize {
        let before = into.len();
        into.append(&mut self.early.borrow_mut());
        self.take_completions(into, if into.len() > before { 1 } else { looks });
        into.len() - before
    }

    /// Up to `BATCH` completions out of the device's queue, at which it looks so many times; how
    /// many.
    fn take_completions(&self, into: &mut VecDeque<Completion>, looks: usize) -> usize {
        // As one: an array of uninitialised ones is copied from somewhere.
        let mut batch = MaybeUninit::<[ibv_wc; BATCH]>::uninit();
        let room: *mut ibv_wc = batch.as_mut_ptr().cast();
        let queue = self.completions.raw();
        // SAFETY: our queue, and room for so many.
        let look = |_| unsafe { ibv_poll_cq(queue, BATCH as c_int, room) };
        let found = (0..looks).map(look).find(|found| *found != 0).unwrap_or(0);
        let Ok(found) = usize::try_from(found) else {
            tracing::error!(device = self.port.device, "completions cannot be polled");
            return 0;
        };
        // SAFETY: so many have been filled in.
        let all = unsafe { std::slice::from_raw_parts(room, found) };
        into.extend(all.iter().map(|one| self.completion(one)));
        found
    }

    fn completion(&self, one: &ibv_wc) -> Completion {
        let fine = one.status == ibv_wc_status::IBV_WC_SUCCESS;
        let outcome = match one.wr_id & RECEIVE {
            0 if fine => Outcome::Done,
            0 => Outcome::Failed(status(one.status)),
            _ => {
                let slot = (one.wr_id & !RECEIVE) as u16;
                self.slots.posted.borrow_mut()[usize::from(slot)] = false;
                if fine {
                    Outcome::Received { slot, len: one.byte_len }
                } else {
                    self.repost(slot);
                    Outcome::Failed(status(one.status))
                }
            }
        };
        Completion { queue_pair: one.qp_num, id: one.wr_id & !RECEIVE, outcome }
    }

    /// Takes everything out of the queue that belongs to a queue pair which is being destroyed;
    /// whether its last work was among it.
    pub(super) fn forget(&self, queue_pair: u32) -> bool {
        let mut early = self.early.take();
        while self.take_completions(&mut early, 1) == BATCH {}
        let mut last = false;
        early.retain(|completion| {
            let of_it = completion.queue_pair == queue_pair;
            last |= of_it && completion.id == LAST;
            if of_it && let Outcome::Received { slot, .. } = completion.outcome {
                self.repost(slot);
            }
            !of_it
        });
        self.early.replace(early);
        last
    }

    /// Packets are sent as solicited.
    pub(super) fn arm(&self, for_own_work: bool) -> Result<(), String> {
        let solicited_only = c_int::from(!for_own_work);
        // SAFETY: our queue.
        let code = unsafe { ibv_req_notify_cq(self.completions.raw(), solicited_only) };
        check(code, "completions cannot be waited for")
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as the channel, which this borrows.
        unsafe { BorrowedFd::borrow_raw((*self.channel.raw()).fd) }
    }

    pub(super) fn take_events(&self) {
        let (mut queue, mut unused) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: our channel, which does not block; its only queue is ours.
        while unsafe { ibv_get_cq_event(self.channel.raw(), &mut queue, &mut unused) } == 0 {
            // SAFETY: the queue that the event was for.
            unsafe { ibv_ack_cq_events(queue, 1) };
        }
    }
}

/// Registers all of a pool for local use, and whatever else is named.
fn register(domain: &Domain, pool: &RdmaPool, more: ibv_access_flags) -> Result<Region, String> {
    let (base, len) = pool.span();
    let access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | more;
    // SAFETY: mapped, and kept by whoever keeps the region.
    let raw = unsafe { ibv_reg_mr(domain.raw(), base as *mut _, len, access.0 as c_int) };
    Region::made(raw, &format!("{} MiB of memory cannot be registered", len >> 20)).map_err(|why| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        match limit {
            Some(bytes) if bytes < len as u64 => format!(
                "{why}; this process may lock {} KiB only (ulimit -l, LimitMEMLOCK=)",
                bytes >> 10
            ),
            _ => why,
        }
    })
}
