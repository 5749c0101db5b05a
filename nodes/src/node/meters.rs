//! What the shards of this process have counted, for `t3fs-node stats`.

use serde::{Deserialize, Serialize};
use t3fs_runtime::Cx;
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::meter::Meters;

use super::on_shard;
use crate::failure::Failure;

/// Of one kind of message, over all shards since the process began. Times are from its arrival at
/// the shard until its reply left; those within which half and 99 % were are up to twice the true
/// ones. Bytes are of what came from other nodes and went back there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRow {
    pub message: String,
    pub handled: u64,
    pub failed: u64,
    pub late: u64,
    pub mean_us: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRow {
    pub stage: String,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub version: String,
    pub shards: usize,
    pub messages: Vec<MessageRow>,
    pub stages: Vec<StageRow>,
}

/// Looks from other threads.
#[derive(Clone)]
pub struct MeterReader {
    pub(super) remotes: Vec<Remote>,
}

impl MeterReader {
    pub fn look(&self) -> Result<Stats, Failure> {
        let mut sum = Meters::default();
        for remote in &self.remotes {
            sum.merge(&on_shard(remote, "stats", async |cx: Cx| cx.meters())?);
        }
        let us = |d: core::time::Duration| d.as_micros() as u64;
        let messages = sum.messages.iter().map(|(kind, m)| MessageRow {
            message: kind.name.to_owned(),
            handled: m.times.count(),
            failed: m.failed,
            late: m.late,
            mean_us: us(m.times.mean()),
            p50_us: us(m.times.within(500)),
            p99_us: us(m.times.within(990)),
            max_us: us(m.times.max()),
            bytes_in: m.bytes_in,
            bytes_out: m.bytes_out,
        });
        let stages = sum.stages.iter();
        let stages = stages.map(|(stage, n)| StageRow { stage: (*stage).to_owned(), count: *n });
        Ok(Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: self.remotes.len(),
            messages: messages.collect(),
            stages: stages.collect(),
        })
    }
}
