//! Calls into the kernel that have no file behind them, as a narrow interface.
//!
//! If something can be had from a file or a program it does not belong here: files are faked by a
//! directory. A test scripts this trait with `host::fake`.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::linux::rtc::Fields;

/// The kernel as handlers see it. Errors are the system's own.
pub trait Kernel: Send + Sync {
    /// Blocks all writes to the file system that `dir` lies on (`FIFREEZE`).
    fn freeze(&self, dir: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes one `freeze` back (`FITHAW`); `EINVAL` when the file system is not frozen.
    fn thaw(&self, dir: BorrowedFd<'_>) -> io::Result<()>;

    /// Writes everything dirty of the file system that `dir` lies on to its disk (`syncfs`).
    fn sync(&self, dir: BorrowedFd<'_>) -> io::Result<()>;

    /// The system time in nanoseconds since 1970, UTC.
    fn now(&self) -> i64;

    /// Sets the system time, in nanoseconds since 1970, UTC.
    fn set_now(&self, nanoseconds: i64) -> io::Result<()>;

    /// Waits. Here so that a test can let time pass without waiting.
    fn sleep(&self, length: Duration);

    /// Sets a hardware clock (`RTC_SET_TIME`, rtc(4)).
    fn set_rtc(&self, device: BorrowedFd<'_>, time: &Fields) -> io::Result<()>;

    /// What the kernel calls itself (uname(2)).
    fn uname(&self) -> io::Result<Uname>;

    /// The load averages of the last 1, 5 and 15 minutes (sysinfo(2)), which `/proc/loadavg` has
    /// with two decimals only.
    fn load(&self) -> io::Result<[f64; 3]>;

    /// Asks the route socket for a dump (rtnetlink(7)) and hands over the datagrams of the answer,
    /// until `answer` has seen the last one.
    fn netlink_route(&self, request: &[u8], answer: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()>;
}

/// The answer of [`Kernel::uname`]. Bytes that are no UTF-8 are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uname {
    /// The host name.
    pub nodename: String,
    /// As in `6.1.0-13-amd64`.
    pub release: String,
    /// As in `#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)`.
    pub version: String,
    /// As in `x86_64`.
    pub machine: String,
}

/// The running Linux.
pub struct Linux;

#[allow(missing_docs)]
mod ioctl {
    // linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int); the argument is not used.
    nix::ioctl_readwrite!(fifreeze, b'X', 119, nix::libc::c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, nix::libc::c_int);
    // linux/rtc.h
    nix::ioctl_write_ptr!(rtc_set_time, b'p', 0x0a, crate::host::linux::rtc::Fields);
}

impl Kernel for Linux {
    fn freeze(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut unused = 0;
        // SAFETY: the descriptor is open for the length of the call and `unused` outlives it.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::fifreeze(dir.as_raw_fd(), &raw mut unused) }?;
        Ok(())
    }

    fn thaw(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut unused = 0;
        // SAFETY: as in `freeze`.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::fithaw(dir.as_raw_fd(), &raw mut unused) }?;
        Ok(())
    }

    fn sync(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        nix::unistd::syncfs(dir)?;
        Ok(())
    }

    fn now(&self) -> i64 {
        use std::time::{SystemTime, UNIX_EPOCH};
        let nanoseconds = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()),
            Err(before) => i64::try_from(before.duration().as_nanos()).map(|before| -before),
        };
        nanoseconds.unwrap_or(i64::MAX)
    }

    fn set_now(&self, nanoseconds: i64) -> io::Result<()> {
        use nix::sys::time::{TimeSpec, TimeValLike};
        use nix::time::{ClockId, clock_settime};
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(nanoseconds))?;
        Ok(())
    }

    fn sleep(&self, length: Duration) {
        std::thread::sleep(length);
    }

    fn set_rtc(&self, device: BorrowedFd<'_>, time: &Fields) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open and `time` has the layout of `struct rtc_time`.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::rtc_set_time(device.as_raw_fd(), time) }?;
        Ok(())
    }

    fn uname(&self) -> io::Result<Uname> {
        let uname = nix::sys::utsname::uname()?;
        let text = |field: &std::ffi::OsStr| field.to_string_lossy().into_owned();
        Ok(Uname {
            nodename: text(uname.nodename()),
            release: text(uname.release()),
            version: text(uname.version()),
            machine: text(uname.machine()),
        })
    }

    fn load(&self) -> io::Result<[f64; 3]> {
        Ok(nix::sys::sysinfo::sysinfo()?.load_average().into())
    }

    fn netlink_route(&self, request: &[u8], answer: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
        super::netlink::dump(request, answer)
    }
}
