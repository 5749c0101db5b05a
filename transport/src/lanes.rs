//! The frames that wait for one connection: two bounded lanes, and the link's own pings before
//! them. What a carrier does with them is its own business.

use std::collections::VecDeque;

use t3fs_runtime::Lane;
use t3fs_runtime::wire::{Frame, FrameKind};

use crate::frame::fits;
use crate::limits::LinkLimits;

/// Frames and bytes that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Lanes {
    bounds: [Load; 2],
    queues: [VecDeque<Frame>; 2],
    /// Asks, then replies: the former can be refused, the latter have a larger bound.
    load: [Load; 2],
    /// What the peer speaks, once there is a connection.
    spoken: Option<u16>,
    ping: bool,
    pong: bool,
}

fn is_reply(frame: &Frame) -> usize {
    usize::from(matches!(frame.kind, FrameKind::Reply | FrameKind::Refused))
}

/// Bytes of all payloads of a frame.
pub(crate) fn bulk_bytes(frame: &Frame) -> usize {
    frame.payload.bulks.iter().map(|b| b.len()).sum()
}

fn size(frame: &Frame) -> usize {
    frame.payload.body.len() + bulk_bytes(frame)
}

impl Lanes {
    pub(crate) fn new(limits: &LinkLimits) -> Lanes {
        Lanes {
            bounds: [
                Load { frames: limits.queue_frames, bytes: limits.queue_bytes },
                Load { frames: limits.reply_frames, bytes: limits.reply_bytes },
            ],
            queues: Default::default(),
            load: Default::default(),
            spoken: None,
            ping: false,
            pong: false,
        }
    }

    /// Queues a frame behind those of its lane. A frame may always wait alone.
    pub(crate) fn push(&mut self, mut frame: Frame) -> Result<(), &'static str> {
        if let Some(spoken) = self.spoken {
            frame.settle(spoken);
        }
        let p = &frame.payload;
        if !fits(p.body.len(), p.bulks.len(), bulk_bytes(&frame)) {
            return Err("the message is larger than a frame may be");
        }
        let (class, size) = (is_reply(&frame), size(&frame));
        let (load, bound) = (&mut self.load[class], self.bounds[class]);
        let full = load.frames >= bound.frames || load.bytes + size > bound.bytes;
        if full && load.frames > 0 {
            return Err("the link's queue is full");
        }
        load.frames += 1;
        load.bytes += size;
        self.queues[frame.lane as usize].push_back(frame);
        Ok(())
    }

    /// There is a connection, to a peer that speaks so much.
    pub(crate) fn speak(&mut self, spoken: u16) {
        self.spoken = Some(spoken);
        self.load = Default::default();
        for frame in self.queues.iter_mut().flatten() {
            frame.settle(spoken);
            let load = &mut self.load[is_reply(frame)];
            load.frames += 1;
            load.bytes += size(frame);
        }
    }

    pub(crate) fn spoken(&self) -> Option<u16> {
        self.spoken
    }

    pub(crate) fn ping(&mut self) {
        self.ping = true;
    }

    pub(crate) fn pong(&mut self) {
        self.pong = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.ping && !self.pong && self.queues.iter().all(|q| q.is_empty())
    }

    /// What waits here.
    pub(crate) fn load(&self) -> Load {
        let [asks, replies] = self.load;
        Load { frames: asks.frames + replies.frames, bytes: asks.bytes + replies.bytes }
    }

    pub(crate) fn has_ping(&self) -> bool {
        self.ping
    }

    pub(crate) fn has_pong(&self) -> bool {
        self.pong
    }

    pub(crate) fn take_ping(&mut self) -> bool {
        std::mem::take(&mut self.ping)
    }

    pub(crate) fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.pong)
    }

    /// The first frame of a lane.
    pub(crate) fn peek(&self, lane: Lane) -> Option<&Frame> {
        self.queues[lane as usize].front()
    }

    /// Takes the first frame of a lane out. From here on it counts as sent.
    pub(crate) fn take(&mut self, lane: Lane) -> Option<Frame> {
        let frame = self.queues[lane as usize].pop_front()?;
        let load = &mut self.load[is_reply(&frame)];
        load.frames -= 1;
        load.bytes -= size(&frame);
        Some(frame)
    }

    /// Empties the lanes; the asks among what waited, which were certainly not sent.
    pub(crate) fn take_unsent(&mut self) -> Vec<u64> {
        self.load = Default::default();
        let frames = self.queues.iter_mut().flat_map(|q| q.drain(..));
        frames.filter(|f| is_reply(f) == 0).map(|f| f.ask).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use t3fs_runtime::NodeId;
    use t3fs_runtime::wire::{BULK_MAX, Payload};

    use super::*;

    fn frame(kind: FrameKind, lane: Lane, ask: u64, bulk: usize) -> Frame {
        let bulks = if bulk > 0 { vec![vec![ask as u8; bulk].into()] } else { vec![] };
        Frame {
            kind,
            lane,
            shard: 0,
            slot: 0,
            epoch: 1,
            from_node: NodeId(1),
            from_shard: 0,
            ask,
            ttl_us: 1,
            reply_room: 0,
            caller: None,
            older: None,
            payload: Payload { body: Bytes::from_static(b"body"), bulks },
        }
    }

    #[test]
    fn queues_are_bounded_and_one_frame_always_fits() {
        let limits = LinkLimits { queue_frames: 3, queue_bytes: 1000, ..LinkLimits::default() };
        let mut lanes = Lanes::new(&limits);
        lanes.push(frame(FrameKind::Ask, Lane::Bulk, 1, 5000)).unwrap();
        assert!(lanes.push(frame(FrameKind::Ask, Lane::Bulk, 2, 1)).is_err());
        assert!(lanes.push(frame(FrameKind::Reply, Lane::Bulk, 3, 5000)).is_ok(), "replies apart");
        while lanes.take(Lane::Bulk).is_some() {}
        assert_eq!(lanes.load(), Load::default());
        for ask in 0..3 {
            lanes.push(frame(FrameKind::Ask, Lane::Control, ask, 0)).unwrap();
        }
        assert!(lanes.push(frame(FrameKind::Ask, Lane::Control, 3, 0)).is_err());
        assert_eq!(lanes.take_unsent(), [0, 1, 2]);
        assert_eq!(lanes.load(), Load::default());
    }

    #[test]
    fn an_oversize_frame_is_refused() {
        let mut lanes = Lanes::new(&LinkLimits::default());
        let big = frame(FrameKind::Ask, Lane::Bulk, 1, BULK_MAX + 1);
        assert!(lanes.push(big).unwrap_err().contains("larger"));
    }
}
