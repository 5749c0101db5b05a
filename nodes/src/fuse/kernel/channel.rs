//! The way back to the kernel: the descriptors of one mount, and what is under way on them.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use rustix::io::Errno as OsError;

use super::abi::{INTERRUPT_BIT, out_header};
use super::inflight::{InFlight, PendingRequest};
use super::interrupts::Interrupts;
use super::types::Errno;

/// Shared by the event loops and by all replies that are still to come.
pub struct Channel {
    /// Each with requests of its own: an answer goes where its request came from.
    devices: Vec<OwnedFd>,
    in_flight: InFlight,
    interrupts: Interrupts,
}

impl Channel {
    pub fn new(devices: Vec<OwnedFd>) -> Channel {
        assert!(!devices.is_empty(), "a mount has a descriptor");
        Channel { devices, in_flight: InFlight::default(), interrupts: Interrupts::default() }
    }

    pub fn devices(&self) -> &[OwnedFd] {
        &self.devices
    }

    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Takes note of a request before it is worked on.
    pub fn begin(&self, request: PendingRequest, closes: bool) {
        self.in_flight.begin(request);
        if closes && self.interrupts.any_ending() {
            self.interrupts.closing(&request);
        }
    }

    /// Answers a request, once. False: it was answered before (its caller was killed), or the
    /// kernel does not want the answer any more.
    pub fn answer(&self, unique: u64, error: i32, body: &[u8]) -> bool {
        let Some(request) = self.in_flight.end(unique) else { return false };
        match self.write(request.device, unique, error, body) {
            Ok(()) => true,
            // The caller, or the whole mount, is gone.
            Err(OsError::NOENT | OsError::NODEV) => false,
            Err(e) => {
                tracing::error!("the kernel did not take the answer to request {unique}: {e}");
                false
            }
        }
    }

    /// The kernel asks to interrupt a request.
    pub fn interrupt(&self, unique: u64) {
        if let Some(request) = self.in_flight.get(unique) {
            return self.interrupts.interrupted(&request);
        }
        // Answered meanwhile, or an event loop has read it and not noted it yet. The kernel knows
        // which: where the request is still open it takes this answer and asks again.
        for device in 0..self.devices.len() {
            let again = -Errno::EAGAIN.0;
            match self.write(device as u16, unique | INTERRUPT_BIT, again, &[]) {
                Ok(()) | Err(OsError::NOENT | OsError::NODEV) => {}
                Err(e) => tracing::warn!("an interrupt of request {unique} was lost: {e}"),
            }
        }
    }

    /// Ends the calls of threads that die, until the mount ends.
    pub fn watch_interrupts(&self) {
        let waits = |unique| self.in_flight.get(unique).is_some();
        self.interrupts.watch(waits, |unique| {
            self.answer(unique, -Errno::EINTR.0, &[]);
        });
    }

    /// A notification: something that no request has asked for.
    pub fn notify(&self, code: i32, body: &[u8]) -> io::Result<()> {
        match self.write(0, 0, code, body) {
            // The kernel does not know it, so it has nothing of it in its memory.
            Ok(()) | Err(OsError::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn write(&self, device: u16, unique: u64, error: i32, body: &[u8]) -> rustix::io::Result<()> {
        let header = out_header(body.len(), error, unique);
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        let parts = if body.is_empty() { &parts[..1] } else { &parts[..] };
        // A message is taken whole or not at all.
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.devices[usize::from(device)], parts))
            .map(drop)
    }
}
