//! Notice of a system time that was set: a timer that is cancelled by it (timerfd_create(2)). The
//! end of a sleep counts, too.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A descriptor that becomes readable when the time is set.
pub struct ClockSet(TimerFd);

impl AsFd for ClockSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ClockSet {
    /// Watches from now on.
    ///
    /// # Errors
    /// The system's own: `EINVAL` before Linux 3.0.
    pub fn watch() -> nix::Result<ClockSet> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let watch = ClockSet(timer);
        watch.arm()?;
        Ok(watch)
    }

    /// At a time that never comes; all that ends it is that somebody sets the clock.
    fn arm(&self) -> nix::Result<()> {
        let never = Expiration::OneShot(TimeSpec::new(libc::time_t::MAX, 0));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        match self.0.set(never, flags) {
            // Set once more since; the timer is armed all the same (timerfd_create(2), NOTES).
            Err(Errno::ECANCELED) => Ok(()),
            armed => armed,
        }
    }

    /// Whether the time was set since this was last asked.
    ///
    /// # Errors
    /// The timer does not work any more.
    pub fn take(&self) -> nix::Result<bool> {
        match nix::unistd::read(&self.0, &mut [0; 8]) {
            Err(Errno::ECANCELED) => self.arm().map(|()| true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            // The end of time has come, on a system whose time has 32 bits.
            Ok(_) => Err(Errno::EOVERFLOW),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_is_silent() {
        let watch = ClockSet::watch().expect("a timer");
        assert_eq!(watch.take(), Ok(false));
        watch.arm().expect("armed again");
        assert_eq!(watch.take(), Ok(false));
    }
}
