//! Calls into the kernel that have no file behind them, as a narrow interface.
//!
//! If something can be had from a file or a program it does not belong here: files are faked by a
//! directory. A test scripts this trait with `host::fake`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::path::Path;
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

    /// The device number that `stat` gives for the file behind a loop device, given its node. It stays
    /// right when the file cannot be reached by its path any more.
    fn loop_backing(&self, node: &Path) -> io::Result<u64>;

    /// What is mounted where this was opened: the number of the mount, which Linux 3.15 and later tell, and
    /// the device number that `stat` gives.
    fn mounted_at(&self, dir: BorrowedFd<'_>) -> (Option<u64>, Option<u64>);

    /// Keeps all that the process has mapped in memory, or lets it go again (mlockall(2)).
    fn pin_memory(&self, on: bool) -> io::Result<()>;

    /// Whether this thread, and those that it starts from then on, get memory without waiting for something
    /// to be written to a disk (`PR_SET_IO_FLUSHER`, Linux 5.6).
    fn avoid_disk(&self, on: bool) -> io::Result<()>;

    /// The system time in nanoseconds since 1970, UTC.
    fn now(&self) -> i64;

    /// Sets the system time, in nanoseconds since 1970, UTC; `EOVERFLOW` for a time that the
    /// system's type of time cannot express.
    fn set_now(&self, nanoseconds: i64) -> io::Result<()>;

    /// The time since boot.
    fn uptime(&self) -> io::Result<Uptime>;

    /// The time of a clock that is a device, in nanoseconds since its own beginning
    /// (clock_getres(2), "Dynamic clocks").
    fn device_now(&self, device: BorrowedFd<'_>) -> io::Result<i64>;

    /// Waits. Here so that a test can let time pass without waiting.
    fn sleep(&self, length: Duration);

    /// Sets a hardware clock (`RTC_SET_TIME`, rtc(4)).
    fn set_rtc(&self, device: BorrowedFd<'_>, time: &Fields) -> io::Result<()>;

    /// Writes to an attribute that exists. What the kernel does then it does before this returns:
    /// for `/sys/power/state` that is after the machine was woken up.
    fn write_knob(&self, path: &Path, word: &str) -> io::Result<()>;

    /// What the kernel calls itself (uname(2)).
    fn uname(&self) -> io::Result<Uname>;

    /// The load averages of the last 1, 5 and 15 minutes (sysinfo(2)), which `/proc/loadavg` has
    /// with two decimals only.
    fn load(&self) -> io::Result<[f64; 3]>;

    /// Tells the disk which of the file system's blocks hold nothing (`FITRIM`).
    fn trim(&self, dir: BorrowedFd<'_>, range: Trim) -> io::Result<Trim>;

    /// How large the allocation groups of the XFS that `dir` lies on are, in bytes
    /// (`XFS_IOC_FSGEOMETRY_V4`). No free extent reaches from one into the next.
    fn xfs_group(&self, dir: BorrowedFd<'_>) -> io::Result<u64>;

    /// How full the file system at this path is (`statvfs`). May hang on a dead mount.
    fn usage(&self, path: &Path) -> io::Result<Usage>;

    /// The SMART / health log page of the NVMe disk behind this device node. May hang.
    fn nvme_health(&self, node: &Path) -> io::Result<[u8; 512]>;

    /// Asks the route socket for a dump (rtnetlink(7)) and hands over the datagrams of the answer,
    /// until `answer` has seen the last one.
    fn netlink_route(&self, request: &[u8], answer: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()>;

    /// The names of the links with these numbers (`SIOCGIFNAME`, netdevice(7)), which costs a tenth of
    /// a dump. Those that are gone are left out.
    fn link_names(&self, links: &HashSet<u32>) -> io::Result<HashMap<u32, String>>;
}

/// The answer of [`Kernel::uptime`], in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uptime {
    /// How long the system ran (`CLOCK_MONOTONIC`).
    pub awake: i64,
    /// How long it slept (what `CLOCK_BOOTTIME` has beyond that).
    pub asleep: i64,
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

/// `struct fstrim_range` of linux/fs.h. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Where to begin.
    pub start: u64,
    /// How far to go; in the answer, how much was trimmed.
    pub len: u64,
    /// Free pieces shorter than this are passed over; in the answer, the size that really counted.
    pub minimum: u64,
}

/// Sizes of a file system in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All of it.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What others than root may still use.
    pub available: u64,
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
    // linux/fs.h: _IOWR('X', 121, struct fstrim_range)
    nix::ioctl_readwrite!(fitrim, b'X', 121, [u64; 3]);
    // linux/loop.h: LOOP_GET_STATUS64
    nix::ioctl_read_bad!(loop_status, 0x4c05, super::LoopInfo);
    // xfs/xfs_fs.h: _IOR('X', 124, struct xfs_fsop_geom_v4), 112 bytes everywhere
    nix::ioctl_read!(xfs_geometry, b'X', 124, [u32; 28]);
    // linux/nvme_ioctl.h: _IOWR('N', 0x41, struct nvme_admin_cmd)
    nix::ioctl_readwrite!(nvme_admin, b'N', 0x41, super::NvmeCommand);
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

    fn loop_backing(&self, node: &Path) -> io::Result<u64> {
        use std::os::fd::AsRawFd;
        let device = std::fs::File::open(node)?;
        let mut info = LoopInfo::default();
        // SAFETY: the descriptor is open for the length of the call, and `info` has the layout of
        // `struct loop_info64`.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::loop_status(device.as_raw_fd(), &raw mut info) }?;
        Ok(info.device)
    }

    #[allow(clippy::useless_conversion, reason = "dev_t has other widths elsewhere")]
    fn mounted_at(&self, dir: BorrowedFd<'_>) -> (Option<u64>, Option<u64>) {
        let device = nix::sys::stat::fstat(dir).ok().map(|found| u64::from(found.st_dev));
        (super::linux::mounts::mount_id(&dir), device)
    }

    fn pin_memory(&self, on: bool) -> io::Result<()> {
        use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
        if on {
            mlockall(MlockAllFlags::MCL_CURRENT)?;
        } else {
            munlockall()?;
        };
        Ok(())
    }

    fn avoid_disk(&self, on: bool) -> io::Result<()> {
        use nix::libc::{c_int, c_ulong, prctl};
        /// linux/prctl.h
        const PR_SET_IO_FLUSHER: c_int = 57;
        let none: c_ulong = 0;
        // SAFETY: this option takes a number, and the others have to be zero.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        let result = unsafe { prctl(PR_SET_IO_FLUSHER, c_ulong::from(on), none, none, none) };
        nix::errno::Errno::result(result)?;
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
        use nix::errno::Errno;
        use nix::sys::time::TimeSpec;
        use nix::time::{ClockId, clock_settime};
        let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
        #[allow(clippy::useless_conversion, reason = "time_t and long have 32 bits on some targets")]
        let time = match (seconds.try_into(), rest.try_into()) {
            (Ok(seconds), Ok(rest)) => TimeSpec::new(seconds, rest),
            _ => return Err(Errno::EOVERFLOW.into()),
        };
        clock_settime(ClockId::CLOCK_REALTIME, time)?;
        Ok(())
    }

    fn uptime(&self) -> io::Result<Uptime> {
        use nix::time::ClockId;
        let awake = read_clock(ClockId::CLOCK_MONOTONIC)?;
        // Later, so that what lies between the two only makes it more. Since Linux 2.6.39.
        let all = read_clock(ClockId::CLOCK_BOOTTIME).unwrap_or(awake);
        Ok(Uptime { awake, asleep: all - awake })
    }

    fn device_now(&self, device: BorrowedFd<'_>) -> io::Result<i64> {
        use std::os::fd::AsRawFd;
        // linux/posix-timers.h: FD_TO_CLOCKID
        const CLOCKFD: nix::libc::clockid_t = 3;
        read_clock(nix::time::ClockId::from_raw(!device.as_raw_fd() << 3 | CLOCKFD))
    }

    fn sleep(&self, length: Duration) {
        std::thread::sleep(length);
    }

    fn write_knob(&self, path: &Path, word: &str) -> io::Result<()> {
        use std::io::Write;
        std::fs::File::options().write(true).open(path)?.write_all(word.as_bytes())
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

    fn link_names(&self, links: &HashSet<u32>) -> io::Result<HashMap<u32, String>> {
        super::netlink::link_names(links)
    }

    fn trim(&self, dir: BorrowedFd<'_>, range: Trim) -> io::Result<Trim> {
        use std::os::fd::AsRawFd;
        let mut fields = [range.start, range.len, range.minimum];
        // SAFETY: the descriptor is open for the length of the call and `fields` has the layout of
        // `struct fstrim_range`, three 64-bit integers.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::fitrim(dir.as_raw_fd(), &raw mut fields) }?;
        let [start, len, minimum] = fields;
        Ok(Trim { start, len, minimum })
    }

    fn xfs_group(&self, dir: BorrowedFd<'_>) -> io::Result<u64> {
        use std::os::fd::AsRawFd;
        let mut geometry = [0; 28];
        // SAFETY: the descriptor is open for the length of the call and `geometry` has the size of
        // `struct xfs_fsop_geom_v4`.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        unsafe { ioctl::xfs_geometry(dir.as_raw_fd(), &raw mut geometry) }?;
        let [block_size, _, blocks_of_a_group, ..] = geometry;
        Ok(u64::from(block_size) * u64::from(blocks_of_a_group))
    }

    #[expect(clippy::useless_conversion, reason = "the fields are 32 bits wide elsewhere")]
    fn usage(&self, path: &Path) -> io::Result<Usage> {
        let stat = nix::sys::statvfs::statvfs(path)?;
        let unit = u64::from(stat.fragment_size());
        let bytes = |blocks: nix::libc::fsblkcnt_t| u64::from(blocks).saturating_mul(unit);
        Ok(Usage {
            total: bytes(stat.blocks()),
            free: bytes(stat.blocks_free()),
            available: bytes(stat.blocks_available()),
        })
    }

    fn nvme_health(&self, node: &Path) -> io::Result<[u8; 512]> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;
        let disk = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(node)?;
        let mut page = [0; 512];
        let mut command = NvmeCommand::health(&mut page);
        // SAFETY: the descriptor is open for the length of the call, `command` has the layout of
        // `struct nvme_admin_cmd`, and the kernel writes `data_len` bytes to `page` at most.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        let status = unsafe { ioctl::nvme_admin(disk.as_raw_fd(), &raw mut command) }?;
        match status {
            0 => Ok(page),
            // A positive value is the disk's own refusal.
            _ => Err(io::Error::other(format!("NVMe status {status:#x}"))),
        }
    }
}

#[allow(clippy::useless_conversion, reason = "time_t and long have 32 bits on some targets")]
fn read_clock(clock: nix::time::ClockId) -> io::Result<i64> {
    let time = nix::time::clock_gettime(clock)?;
    Ok(i64::from(time.tv_sec()).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec().into()))
}

/// `struct loop_info64` of linux/loop.h; of it we want the first field.
#[derive(Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct LoopInfo {
    device: u64,
    rest: [u64; 28],
}

/// `struct nvme_admin_cmd` of linux/nvme_ioctl.h.
#[derive(Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    data: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

impl NvmeCommand {
    /// Get Log Page, "SMART / Health Information", of the whole disk (NVMe base specification 5.1.12).
    fn health(page: &mut [u8; 512]) -> NvmeCommand {
        const GET_LOG_PAGE: u8 = 2;
        const HEALTH: u32 = 2;
        // Reading must not count as having seen the events.
        const RETAIN_EVENTS: u32 = 1 << 15;
        const LAST_DWORD: u32 = (512 / 4 - 1) << 16;
        NvmeCommand {
            opcode: GET_LOG_PAGE,
            namespace: u32::MAX,
            data: page.as_mut_ptr() as usize as u64,
            data_len: 512,
            cdw10: HEALTH | RETAIN_EVENTS | LAST_DWORD,
            ..NvmeCommand::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_loop_device_has_the_kernels_size() {
        // 5 numbers of 64 bits, 4 of 32, three texts of 64, 64 and 32 bytes, 2 numbers of 64 bits.
        assert_eq!(size_of::<LoopInfo>(), 40 + 16 + 160 + 16);
    }

    #[test]
    fn the_nvme_command_has_the_kernels_layout() {
        assert_eq!(size_of::<NvmeCommand>(), 72);
        assert_eq!(std::mem::offset_of!(NvmeCommand, data), 24);
        assert_eq!(std::mem::offset_of!(NvmeCommand, cdw10), 40);
        assert_eq!(NvmeCommand::health(&mut [0; 512]).cdw10, 0x007f_8002);
    }

    #[test]
    fn time_goes_on() {
        let (first, second) = (Linux.uptime().expect("clocks"), Linux.uptime().expect("clocks"));
        assert!(first.awake > 0 && first.awake <= second.awake, "{first:?} {second:?}");
        assert!(first.asleep >= 0);
        // That is no clock.
        let file = std::fs::File::open("/dev/null").expect("a device");
        assert!(Linux.device_now(std::os::fd::AsFd::as_fd(&file)).is_err());
    }

    #[test]
    fn links_are_named_by_number() {
        // The loop-back link is the first one of each name space.
        let names = Linux.link_names(&HashSet::from([1, u32::MAX, i32::MAX.unsigned_abs()])).expect("a socket");
        assert_eq!(names, HashMap::from([(1, "lo".to_owned())]));
    }

    #[test]
    fn the_root_directory_has_a_size() {
        let usage = Linux.usage(Path::new("/")).expect("a root");
        assert!(usage.total >= usage.free && usage.free >= usage.available, "{usage:?}");
    }
}
