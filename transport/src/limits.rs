//! [`LinkLimits`]: bounds of everything a link may use. Handshakes, lanes and carriers look here.

use std::time::Duration;

use t3fs_runtime::net::KERNEL_PATIENCE;
use t3fs_runtime::time::is_longer;
use t3fs_runtime::wire::{BODY_MAX, BULK_MAX};

/// Bounds of everything a link may use. The defaults fit a server of a few hundred nodes.
#[derive(Clone, Debug)]
pub struct LinkLimits {
    /// From accepting a connection to its last handshake message.
    pub handshake: Duration,
    /// Connections that may be in their handshake at once; the oldest gives way.
    pub handshakes_max: usize,
    /// Links that one shard keeps.
    pub links_max: usize,
    /// For one attempt at one address.
    pub connect: Duration,
    /// Pause after a failed attempt; doubles up to the maximum.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Silence after which a link with asks in flight is pinged.
    pub ping_after: Duration,
    /// Silence after which a link with asks in flight is given up.
    pub dead_after: Duration,
    /// The same two for a link that nobody waits on.
    pub idle_ping_after: Duration,
    pub idle_dead_after: Duration,
    /// Frames and bytes that may wait on one link before asks are refused.
    pub queue_frames: usize,
    pub queue_bytes: usize,
    /// The same for replies, which have nobody to refuse them to.
    pub reply_frames: usize,
    pub reply_bytes: usize,
    /// Bytes that each shard pins for RDMA devices, receive buffers included, from the first queue
    /// pair on. Each further device has receive buffers of its own.
    pub rdma_memory: usize,
    /// Receive buffers of 8 KiB, for all connections of a shard together.
    pub rdma_receive_buffers: usize,
    /// Packets that one connection may have under way towards us.
    pub rdma_credits: u16,
    /// Work that one queue pair may have outstanding.
    pub rdma_send_queue: usize,
    /// Queue pairs of one shard on one device; further connections use TCP.
    pub rdma_connections: usize,
    /// How long completions are polled for before the device's events are waited for.
    pub rdma_spin: Duration,
}

impl LinkLimits {
    /// Memory that one link may hold besides what its shard pins, in bytes: what waits to be sent,
    /// and the largest frame on its way here.
    pub fn link_bytes_max(&self) -> usize {
        self.queue_bytes + self.reply_bytes + BODY_MAX + BULK_MAX
    }
}

impl LinkLimits {
    pub const DEFAULT: LinkLimits = LinkLimits {
        handshake: Duration::from_secs(2),
        handshakes_max: 256,
        links_max: 16_384,
        // Longer than the first repetition of a lost SYN takes.
        connect: Duration::from_millis(1500),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_secs(1),
        ping_after: Duration::from_millis(500),
        dead_after: Duration::from_secs(3),
        idle_ping_after: Duration::from_secs(10),
        idle_dead_after: Duration::from_secs(30),
        queue_frames: 8_192,
        queue_bytes: 64 << 20,
        reply_frames: 16_384,
        reply_bytes: 192 << 20,
        rdma_memory: 64 << 20,
        rdma_receive_buffers: 1024,
        rdma_credits: 32,
        rdma_send_queue: 128,
        rdma_connections: 1024,
        rdma_spin: Duration::from_micros(50),
    };
}

impl Default for LinkLimits {
    fn default() -> Self {
        LinkLimits::DEFAULT
    }
}

const D: LinkLimits = LinkLimits::DEFAULT;
// A ping has time to be answered. A link that nobody waits on may take longer.
const _: () = assert!(is_longer(D.dead_after, 2, D.ping_after));
const _: () = assert!(is_longer(D.idle_dead_after, 1, D.idle_ping_after));
const _: () = assert!(is_longer(D.idle_ping_after, 1, D.ping_after));
// Pings notice sooner than the kernel.
const _: () = assert!(is_longer(KERNEL_PATIENCE, 2, D.dead_after));
// Linux repeats a lost SYN after a second.
const _: () = assert!(is_longer(D.connect, 1, Duration::from_secs(1)));
const _: () = assert!(is_longer(D.handshake, 1, D.connect));
const _: () = assert!(is_longer(D.backoff_max, 1, D.backoff_min));
// What has nobody to refuse it to has more room; each holds a whole payload.
const _: () = assert!(D.reply_bytes > D.queue_bytes && D.reply_frames > D.queue_frames);
const _: () = assert!(D.queue_bytes >= BULK_MAX);
