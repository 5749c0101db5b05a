//! Memory windows: the only way by which a peer reaches our memory.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use rdma_mummy_sys::*;

use super::Device;
use crate::rdma::nic::Window;
use crate::rdma::verbs::handles::RawWindow;

/// A window, which is made anew when its queue pair has failed: whether it was opened is unknown
/// then, and while it is, some devices do not let go of the queue pair.
pub(in crate::rdma::verbs) struct VerbsWindow(pub(in crate::rdma::verbs) Rc<WindowState>);

pub(in crate::rdma::verbs) struct WindowState {
    raw: RefCell<Option<RawWindow>>,
    /// Of the next opening, or the present one.
    key: Cell<u32>,
    /// Number of the queue pair that it was opened to last.
    opened_to: Cell<Option<u32>>,
    device: Rc<Device>,
}

/// The windows of a device.
#[derive(Default)]
pub(in crate::rdma::verbs) struct Windows(RefCell<Vec<Weak<WindowState>>>);

impl VerbsWindow {
    pub(in crate::rdma::verbs) fn new(device: &Rc<Device>) -> Result<VerbsWindow, String> {
        let state = Rc::new(WindowState {
            raw: RefCell::new(None),
            key: Cell::new(0),
            opened_to: Cell::new(None),
            device: device.clone(),
        });
        state.make()?;
        let mut all = device.windows.0.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|window| window.strong_count() > 0);
        }
        all.push(Rc::downgrade(&state));
        Ok(VerbsWindow(state))
    }
}

impl Windows {
    /// Takes all windows away from a queue pair that has failed; they are made anew when they are
    /// used again.
    pub(in crate::rdma::verbs) fn leave(&self, queue_pair: u32) {
        for window in self.0.borrow().iter().filter_map(Weak::upgrade) {
            if window.opened_to.get() == Some(queue_pair) {
                window.raw.take();
                window.opened_to.set(None);
            }
        }
    }
}

impl WindowState {
    fn make(&self) -> Result<(), String> {
        let domain = self.device.domain.raw();
        // SAFETY: the protection domain lives as long as the device, which this holds.
        let raw = unsafe { ibv_alloc_mw(domain, ibv_mw_type::IBV_MW_TYPE_2) };
        let raw = RawWindow::made(raw, "no memory window to be had")?;
        // SAFETY: just made.
        self.key.set(unsafe { (*raw.raw()).rkey });
        self.raw.replace(Some(raw));
        Ok(())
    }

    /// The window and its new key, for the work that opens it to this queue pair.
    pub(in crate::rdma::verbs) fn open(&self, queue_pair: u32) -> Option<(*mut ibv_mw, u32)> {
        self.opened_to.set(Some(queue_pair));
        Some((self.raw.borrow().as_ref()?.raw(), self.key.get()))
    }

    /// The work that opens it has been posted: the key it has from now on, which the device is told
    /// with the next opening.
    pub(in crate::rdma::verbs) fn opened(&self) {
        if let Some(raw) = self.raw.borrow().as_ref() {
            // SAFETY: ours, and alive.
            unsafe { (*raw.raw()).rkey = self.key.get() };
        }
    }

    pub(in crate::rdma::verbs) fn key(&self) -> u32 {
        self.key.get()
    }
}

impl Window for VerbsWindow {
    fn next_key(&self) -> u32 {
        let there = self.0.raw.borrow().is_some();
        if !there && let Err(why) = self.0.make() {
            // Opening it will fail, and with it the queue pair.
            tracing::warn!("{why}");
        }
        // SAFETY: reads no memory.
        self.0.key.set(unsafe { ibv_inc_rkey(self.0.key.get()) });
        self.0.key.get()
    }
}
