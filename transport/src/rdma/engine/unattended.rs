//! For fuzzing: an engine without a device, whose work is done as soon as it is queued.

use super::{Dock, Doing, Engine};
use crate::flow::Lost;

/// What lies in memory that the other side has, wherever one looks.
pub const FOREIGN: [u8; 4] = [1, 0, 0, 0];

fn fill(memory: &mut [u8]) {
    memory.chunks_mut(FOREIGN.len()).for_each(|c| c.copy_from_slice(&FOREIGN[..c.len()]));
}

impl Engine {
    /// Everything queued is done, in order; whether there was anything.
    pub(crate) fn finish_all(&mut self, dock: &Dock) -> Result<bool, Lost> {
        let mut any = false;
        while let Some(mut task) = self.queued.pop_front() {
            any = true;
            match &mut task.doing {
                Doing::Read { into, .. } => fill(into.as_mut_slice()),
                Doing::Close { exposure } => {
                    let e = self.exposures.get_mut(exposure).expect("it is being closed");
                    fill(e.piece.as_mut_slice());
                }
                Doing::Send(_) | Doing::SendCopy(..) | Doing::Write { .. } | Doing::Open { .. } => {
                }
            }
            let id = task.id;
            self.posted.push_back(task);
            self.on_done(id, dock)?;
        }
        Ok(any)
    }
}
