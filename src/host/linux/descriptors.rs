//! How many files the process may have open (`RLIMIT_NOFILE`).

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Files of clients and pipes of programs up to their limits, and what the agent itself needs: a
/// freeze must not fail for want of a descriptor.
const WANTED: rlim_t = 4096;

/// Fewer would not do for the loop, its signals and one client.
const LEAST: rlim_t = 32;

/// The limit is too low to serve anybody.
#[derive(Debug, thiserror::Error)]
#[error("the limit of open files (RLIMIT_NOFILE) is {0}, the agent needs {LEAST}")]
pub struct TooFew(rlim_t);

/// Whether there are enough descriptors to serve at all, now that the limit is as high as it may be.
///
/// # Errors
/// When there are not.
pub fn check_limit() -> Result<(), TooFew> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft < LEAST => Err(TooFew(soft)),
        _ => Ok(()),
    }
}

/// The limits that we were started with.
static GIVEN: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Takes more than the customary 1024, if the system lets us. Programs that we start do not inherit
/// it, because some of them use `select`, which ends there.
pub fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < WANTED.min(hard) && setrlimit(Resource::RLIMIT_NOFILE, WANTED.min(hard), hard).is_ok() {
        let _ = GIVEN.set((soft, hard));
    }
}

/// The soft and the hard limit for programs that we start; `None` when ours is what we were given.
pub fn limit_of_children() -> Option<(rlim_t, rlim_t)> {
    GIVEN.get().copied()
}
