//! What verbs hand out, each destroyed when it is dropped, and errors as sentences.
//!
//! A handle does not keep what it was made of: whoever holds several declares them so that the
//! parents are dropped last.

use std::io;
use std::ptr::NonNull;

use rdma_mummy_sys::*;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $destroy:ident) => {
        $(#[$doc])*
        pub(super) struct $name(NonNull<$raw>);

        impl $name {
            /// Takes what verbs have made; null is the system's last error.
            pub(super) fn made(raw: *mut $raw, what: &str) -> Result<$name, String> {
                NonNull::new(raw).map($name).ok_or_else(|| last_error(what))
            }

            pub(super) fn raw(&self) -> *mut $raw {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by verbs, destroyed here only.
                let code = unsafe { $destroy(self.0.as_ptr()) };
                if code != 0 {
                    // A device that was taken away; the kernel cleans up behind it.
                    tracing::error!("{} failed: {}", stringify!($destroy), os_error(code));
                }
            }
        }
    };
}

handle!(
    /// An opened device.
    Context,
    ibv_context,
    ibv_close_device
);
handle!(Domain, ibv_pd, ibv_dealloc_pd);
handle!(
    /// Registered memory.
    Region,
    ibv_mr,
    ibv_dereg_mr
);
handle!(Channel, ibv_comp_channel, ibv_destroy_comp_channel);
handle!(CompletionQueue, ibv_cq, ibv_destroy_cq);
handle!(SharedReceiveQueue, ibv_srq, ibv_destroy_srq);
handle!(RawWindow, ibv_mw, ibv_dealloc_mw);
handle!(RawQueuePair, ibv_qp, ibv_destroy_qp);

/// An error code of verbs: positive, negative, or -1 with `errno`.
pub(super) fn os_error(code: i32) -> io::Error {
    match code {
        -1 => io::Error::last_os_error(),
        _ => io::Error::from_raw_os_error(code.abs()),
    }
}

pub(super) fn last_error(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

pub(super) fn check(code: i32, what: &str) -> Result<(), String> {
    match code {
        0 => Ok(()),
        _ => Err(format!("{what}: {}", os_error(code))),
    }
}

/// What became of failed work, in words.
pub(super) fn status(status: ibv_wc_status::Type) -> &'static str {
    use ibv_wc_status::*;
    match status {
        IBV_WC_SUCCESS => "done",
        IBV_WC_LOC_LEN_ERR => "a message longer than its buffer",
        IBV_WC_LOC_QP_OP_ERR => "the device refused the work as malformed",
        IBV_WC_LOC_PROT_ERR => "memory of ours that is not registered for this",
        IBV_WC_WR_FLUSH_ERR => "the queue pair had failed before",
        IBV_WC_MW_BIND_ERR => "a memory window could not be opened",
        IBV_WC_BAD_RESP_ERR => "an answer that does not belong to the request",
        IBV_WC_LOC_ACCESS_ERR => "the peer reached for memory of ours that is not open to it",
        IBV_WC_REM_INV_REQ_ERR => "the peer refused the request as malformed",
        IBV_WC_REM_ACCESS_ERR => "the peer's memory is not open to us",
        IBV_WC_REM_OP_ERR => "the peer's device failed",
        IBV_WC_RETRY_EXC_ERR => "the peer does not answer",
        IBV_WC_RNR_RETRY_EXC_ERR => "the peer has no receive buffers",
        IBV_WC_REM_ABORT_ERR => "the peer aborted",
        IBV_WC_FATAL_ERR => "the device failed",
        IBV_WC_RESP_TIMEOUT_ERR => "the peer's answer did not come in time",
        _ => "the device reports an error",
    }
}
