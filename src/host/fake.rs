//! A scripted kernel for tests: it records what was asked and fails when told to.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;

use super::Kernel;
use super::kernel::{Linux, Trim, Uname, Uptime, Usage};
use super::linux::netlink;
use super::linux::rtc::Fields;

/// One call that reached the kernel, with the path behind its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `FIFREEZE`
    Freeze(String),
    /// `FITHAW`
    Thaw(String),
    /// `syncfs`
    Sync(String),
    /// `clock_settime`, in nanoseconds
    SetTime(i64),
    /// `RTC_SET_TIME`: the device, and `2023-11-14 22:13:20`
    SetRtc(String, String),
    /// A write to an attribute
    Knob(String, String),
    /// `FITRIM` with start, length and minimum
    Trim(String, u64, u64, u64),
    /// `statvfs`
    Usage(String),
    /// The health page of an NVMe disk
    NvmeHealth(String),
}

/// A kernel that does nothing but remember. Clones share one memory.
#[derive(Clone, Default)]
pub struct FakeKernel {
    effects: Arc<Mutex<Vec<Effect>>>,
    script: Arc<Mutex<Script>>,
    dead: Arc<Mutex<Vec<String>>>,
    route: Arc<Mutex<Option<Route>>>,
    pinned: Arc<Mutex<bool>>,
    mounts: Arc<Mutex<HashMap<String, u64>>>,
    looked_at: Arc<Mutex<Option<Event>>>,
    /// Time passes only by `sleep`.
    clock: Arc<Mutex<Clock>>,
    uptime: Arc<Mutex<Uptime>>,
    device_clock: Arc<Mutex<Option<i64>>>,
}

/// A moment in November 2023, until somebody sets it.
struct Clock(i64);

impl Default for Clock {
    fn default() -> Clock {
        Clock(1_700_000_000_123_456_789)
    }
}

/// What becomes of a call.
pub enum Outcome {
    /// It succeeds.
    Done,
    /// It fails so.
    Fails(io::Error),
    /// It does not return until the other end is dropped; then the script is asked again.
    Hangs(Receiver<Infallible>),
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Fails(errno.into())
    }
}

/// Decides the outcome of a call.
/// Something that a test has happen.
type Event = Box<dyn FnOnce() + Send>;

type Script = Option<Box<dyn FnMut(&Effect) -> Outcome + Send>>;

/// Answers a request to the route socket with datagrams.
type Route = Box<dyn FnMut(&[u8]) -> io::Result<Vec<Vec<u8>>> + Send>;

impl FakeKernel {
    /// All calls so far.
    pub fn effects(&self) -> Vec<Effect> {
        self.effects.lock().expect("no test panics while it holds this").clone()
    }

    /// From now on, `script` decides what fails.
    pub fn script(&self, script: impl FnMut(&Effect) -> Outcome + Send + 'static) {
        *self.script.lock().expect("no test panics while it holds this") = Some(Box::new(script));
    }

    /// From now on, `statvfs` of paths that end so, and health pages of nodes that do, never answer.
    pub fn hang(&self, path: &str) {
        self.dead.lock().expect("no test panics while it holds this").push(path.to_owned());
    }

    fn hang_if_dead(&self, path: &str) {
        let dead = self.dead.lock().expect("no test panics while it holds this").clone();
        while dead.iter().any(|dead| path.ends_with(dead)) {
            std::thread::park();
        }
    }

    /// From now on, `route` answers the requests to the route socket; until then there is none.
    pub fn route(&self, route: impl FnMut(&[u8]) -> io::Result<Vec<Vec<u8>>> + Send + 'static) {
        *self.route.lock().expect("no test panics while it holds this") = Some(Box::new(route));
    }

    /// From now on, so much more time has passed since boot.
    pub fn run(&self, awake: i64, asleep: i64) {
        let mut uptime = self.uptime.lock().expect("no test panics while it holds this");
        (uptime.awake, uptime.asleep) = (uptime.awake + awake, uptime.asleep + asleep);
    }

    /// From now on, clocks that are devices show this; until then there are none that can be read.
    pub fn set_device_clock(&self, time: Option<i64>) {
        *self.device_clock.lock().expect("no test panics while it holds this") = time;
    }

    /// The same kernel, as a process sees it that was started later.
    #[must_use]
    pub fn of_another_process(&self) -> FakeKernel {
        FakeKernel { pinned: Arc::default(), ..self.clone() }
    }

    /// From now on, what is opened at a path that ends so is on the mount with this number.
    pub fn mount(&self, point: &str, id: u64) {
        self.mounts.lock().expect("no test panics while it holds this").insert(point.to_owned(), id);
    }

    /// What happens when a mount is looked at for the first time.
    pub fn when_a_mount_is_looked_at(&self, event: impl FnOnce() + Send + 'static) {
        *self.looked_at.lock().expect("no test panics while it holds this") = Some(Box::new(event));
    }

    /// Whether the process was told to stay in memory.
    pub fn is_pinned(&self) -> bool {
        *self.pinned.lock().expect("no test panics while it holds this")
    }

    fn call(&self, effect: Effect) -> io::Result<()> {
        loop {
            let outcome = {
                let mut script = self.script.lock().expect("no test panics while it holds this");
                let outcome = script.as_mut().map_or(Outcome::Done, |script| script(&effect));
                if !matches!(outcome, Outcome::Hangs(_)) {
                    self.effects.lock().expect("no test panics while it holds this").push(effect.clone());
                }
                outcome
            };
            match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Fails(error) => return Err(error),
                // Not under the lock: other calls go on meanwhile.
                Outcome::Hangs(hold) => _ = hold.recv(),
            }
        }
    }
}

fn path(dir: BorrowedFd<'_>) -> String {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
        .map_or_else(|e| e.to_string(), |path| path.to_string_lossy().into_owned())
}

impl Kernel for FakeKernel {
    fn freeze(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Effect::Freeze(path(dir)))
    }

    fn thaw(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Effect::Thaw(path(dir)))
    }

    fn sync(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Effect::Sync(path(dir)))
    }

    /// Not known.
    fn loop_backing(&self, _: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As [`FakeKernel::mount`] says; else nothing is known.
    fn mounted_at(&self, dir: BorrowedFd<'_>) -> (Option<u64>, Option<u64>) {
        let path = path(dir);
        if let Some(happen) = self.looked_at.lock().expect("no test panics while it holds this").take() {
            happen();
        }
        let mounts = self.mounts.lock().expect("no test panics while it holds this");
        (mounts.iter().find_map(|(point, id)| path.ends_with(point).then_some(*id)), None)
    }

    fn pin_memory(&self, on: bool) -> io::Result<()> {
        *self.pinned.lock().expect("no test panics while it holds this") = on;
        Ok(())
    }

    fn avoid_disk(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn now(&self) -> i64 {
        self.clock.lock().expect("no test panics while it holds this").0
    }

    fn set_now(&self, nanoseconds: i64) -> io::Result<()> {
        self.call(Effect::SetTime(nanoseconds))?;
        self.clock.lock().expect("no test panics while it holds this").0 = nanoseconds;
        Ok(())
    }

    fn uptime(&self) -> io::Result<Uptime> {
        Ok(*self.uptime.lock().expect("no test panics while it holds this"))
    }

    fn device_now(&self, _: BorrowedFd<'_>) -> io::Result<i64> {
        let clock = self.device_clock.lock().expect("no test panics while it holds this");
        clock.ok_or(Errno::EOPNOTSUPP.into())
    }

    fn sleep(&self, length: Duration) {
        let length = i64::try_from(length.as_nanos()).expect("a short time");
        self.clock.lock().expect("no test panics while it holds this").0 += length;
    }

    /// The file takes the word, too.
    fn write_knob(&self, path: &Path, word: &str) -> io::Result<()> {
        self.call(Effect::Knob(path.display().to_string(), word.to_owned()))?;
        Linux.write_knob(path, word)
    }

    fn set_rtc(&self, device: BorrowedFd<'_>, time: &Fields) -> io::Result<()> {
        self.call(Effect::SetRtc(path(device), time.to_string()))
    }

    fn uname(&self) -> io::Result<Uname> {
        Ok(Uname {
            nodename: "guest".to_owned(),
            release: "6.1.0-13-amd64".to_owned(),
            version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.55-1 (2023-09-29)".to_owned(),
            machine: "x86_64".to_owned(),
        })
    }

    fn load(&self) -> io::Result<[f64; 3]> {
        Ok([0.553_710_937_5, 0.25, 0.0])
    }

    /// Trims half of what is asked for, in the whole range 10 MiB.
    fn trim(&self, dir: BorrowedFd<'_>, range: Trim) -> io::Result<Trim> {
        self.call(Effect::Trim(path(dir), range.start, range.len, range.minimum))?;
        Ok(Trim { len: (range.len / 2).min(10 << 20), minimum: range.minimum.max(4096), ..range })
    }

    /// 25 GiB, so that there are four of them.
    fn xfs_group(&self, _: BorrowedFd<'_>) -> io::Result<u64> {
        Ok(25 << 30)
    }

    /// 100 GiB, of which 60 are free and 55 available.
    fn usage(&self, path: &Path) -> io::Result<Usage> {
        let path = path.display().to_string();
        self.hang_if_dead(&path);
        self.call(Effect::Usage(path))?;
        Ok(Usage { total: 100 << 30, free: 60 << 30, available: 55 << 30 })
    }

    /// Bytes that count up.
    fn nvme_health(&self, node: &Path) -> io::Result<[u8; 512]> {
        let node = node.display().to_string();
        self.hang_if_dead(&node);
        self.call(Effect::NvmeHealth(node))?;
        Ok(std::array::from_fn(|index| u8::try_from(index % 256).unwrap_or_default()))
    }

    /// Those of its own dump.
    fn link_names(&self, links: &HashSet<u32>) -> io::Result<HashMap<u32, String>> {
        let (mut all, _) = netlink::interfaces(self)?;
        all.retain(|link| links.contains(&link.index));
        Ok(all.into_iter().map(|link| (link.index, link.name)).collect())
    }

    fn netlink_route(&self, request: &[u8], answer: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
        let mut route = self.route.lock().expect("no test panics while it holds this");
        let route = route.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        // As the kernel, which sends nothing after the end.
        let _ = route(request)?.iter().try_for_each(|datagram| answer(datagram));
        Ok(())
    }
}
