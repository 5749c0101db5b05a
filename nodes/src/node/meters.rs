//! What the shards of this process have counted, for `t3fs-node stats`.

use t3fs_runtime::Cx;
use t3fs_runtime::glommio::Remote;
use t3fs_runtime::meter::Meters;

use super::on_shard;
use crate::failure::Failure;
use crate::stats::{MessageRow, StageRow, Stats};

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
