//! The kernel's own way to sleep: `/sys/power` (Documentation/power/interface.rst).

use std::io;
use std::time::Duration;

use crate::host::Host;

const STATE: &str = "/sys/power/state";
const MEM_SLEEP: &str = "/sys/power/mem_sleep";
const DISK: &str = "/sys/power/disk";
const RESUME: &str = "/sys/power/resume";

/// How long a busy kernel is left alone.
const MOMENT: Duration = Duration::from_secs(1);

/// A way to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Memory is written to the swap device, the machine is switched off.
    Disk,
    /// Memory stays powered, all else is off.
    Ram,
    /// As `Ram`, with a copy on the swap device in case the power fails.
    Hybrid,
}

/// A knob that could not be turned.
#[derive(Debug)]
pub struct Failure {
    /// The file.
    pub path: &'static str,
    /// Why.
    pub reason: io::Error,
}

impl Sleep {
    /// Whether the kernel offers it.
    pub fn is_offered(self, host: &Host) -> bool {
        match self {
            Sleep::Disk => offers(host, STATE, "disk"),
            Sleep::Ram => offers(host, STATE, "mem") && has_deep(host),
            Sleep::Hybrid => offers(host, STATE, "disk") && offers(host, DISK, "suspend"),
        }
    }

    /// Whether the kernel would find the memory again after sleep on disk: without a device to
    /// resume from it boots anew, and everything that ran is lost.
    pub fn returns(self, host: &Host) -> bool {
        self == Sleep::Ram || host.read_attribute(RESUME).is_ok_and(|device| device != "0:0")
    }

    /// Sleeps. Returns after the machine was woken up.
    pub fn enter(self, host: &Host) -> Result<(), Failure> {
        match self {
            Sleep::Disk => set(host, STATE, "disk"),
            Sleep::Ram => choose_deep(host).and_then(|()| set(host, STATE, "mem")),
            Sleep::Hybrid => {
                let before = chosen(host, DISK);
                set(host, DISK, "suspend")?;
                let result = set(host, STATE, "disk");
                if let Some(before) = before {
                    // Later sleep on disk is to switch the machine off again.
                    let _ = set(host, DISK, &before);
                }
                result
            }
        }
    }
}

/// Whether suspend to memory is what the host waits for. With `s2idle` alone the processors merely
/// idle: the hypervisor sees no suspend, reports none, and cannot wake the machine up. Kernels
/// before 4.10 have no such choice, there `mem` is it.
pub fn has_deep(host: &Host) -> bool {
    !host.exists(MEM_SLEEP) || offers(host, MEM_SLEEP, "deep")
}

/// Makes suspend to memory mean `deep`, where that is possible and not so yet.
pub fn choose_deep(host: &Host) -> Result<(), Failure> {
    match chosen(host, MEM_SLEEP) {
        Some(mode) if mode != "deep" => set(host, MEM_SLEEP, "deep"),
        _ => Ok(()),
    }
}

/// The word in brackets, as in `s2idle [deep]`.
fn chosen(host: &Host, path: &str) -> Option<String> {
    let text = host.read_attribute(path).ok()?;
    let mut words = text.split_whitespace();
    let word = words.find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))?;
    Some(word.to_owned())
}

fn offers(host: &Host, path: &str, word: &str) -> bool {
    let text = host.read_attribute(path).unwrap_or_default();
    text.split_whitespace().any(|offered| offered.trim_matches(['[', ']']) == word)
}

/// Turns a knob. Just after the machine was woken up the kernel may still be busy with that, so
/// it gets a moment and is asked once more.
fn set(host: &Host, path: &'static str, word: &str) -> Result<(), Failure> {
    let mut written = host.write(path, word);
    if written.as_ref().is_err_and(|reason| reason.raw_os_error() == Some(nix::libc::EBUSY)) {
        tracing::info!("'{path}' is busy, trying again in {MOMENT:?}");
        host.kernel().sleep(MOMENT);
        written = host.write(path, word);
    }
    written.map_err(|reason| Failure { path, reason })
}
