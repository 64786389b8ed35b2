//! A real guest under QEMU: building it, booting it, and talking to everything in it.
//!
//! Used by the VM suite (`tests/vm`) and by the demo (`examples/demo.rs`).
//!
//! Everything waits by polling, up to a deadline, and **panics** with the reason when the deadline
//! passes: both users want to stop right there, with the guest's console in the report. Limits are
//! in minutes, since guests here run on emulated processors, often several on a busy machine.

use std::time::{Duration, Instant};

pub mod agent;
pub mod domain;
pub mod guest;
pub mod image;
pub mod inject;
pub mod lines;
pub mod machine;
pub mod qmp;
pub mod shell;
pub mod subject;
pub mod terminal;

/// For anything that a healthy guest does in a second or two.
pub const SOON: Duration = Duration::from_secs(120);
/// For a boot, a suspend to disk, a way down.
pub const LATER: Duration = Duration::from_secs(420);

/// Poll until the probe gives something; panic when `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
