//! How large the files are that the process may write (`RLIMIT_FSIZE`).

use nix::sys::signal::{SigHandler, Signal, signal};

/// Makes a write beyond the limit an error. Without this it ends the process. Programs that we start
/// have the default again.
pub fn report_as_error() {
    #[expect(unsafe_code, reason = "no safe wrapper")]
    // SAFETY: a signal that is ignored runs none of our code.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}
