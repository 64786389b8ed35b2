use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;

use super::*;
use crate::host::fake::{Effect, FakeKernel, Outcome};

/// 2024-07-03 09:46:40.5 UTC
const SUMMER: i64 = 1_720_000_000_500_000_000;

struct Guest {
    dir: tempfile::TempDir,
    kernel: FakeKernel,
    host: Host,
}

impl Guest {
    fn new(files: &[(&str, &str)]) -> Guest {
        let dir = tempfile::tempdir().expect("directory");
        let kernel = FakeKernel::default();
        let host = Host::new(dir.path(), Box::new(kernel.clone()));
        for (path, text) in files {
            let path = host.path(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
            fs::write(&path, text).expect("file");
            if text.starts_with("#!") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
            }
        }
        Guest { host, kernel, dir }
    }

    fn set(&self, time: Option<i64>) -> std::result::Result<(), String> {
        let result = match time {
            Some(time) => set_both(&self.host, time),
            None => from_hardware(&self.host),
        };
        result.map_err(|error| error.desc)
    }

    fn device(&self) -> String {
        let root = self.dir.path().canonicalize().expect("directory");
        root.join("dev/rtc0").to_string_lossy().into_owned()
    }
}

const CLOCK: &[(&str, &str)] = &[("/sys/class/rtc/rtc0/since_epoch", "1700000100\n"), ("/dev/rtc0", "")];

#[test]
fn a_time_that_the_system_cannot_express() {
    let guest = Guest::new(CLOCK);
    guest.kernel.script(|_| Errno::EOVERFLOW.into());
    let error = guest.set(Some(i64::MAX)).expect_err("too large");
    assert_eq!(error, "Time 9223372036854775807 is too large");
}

fn refuse(effect: &Effect, system: bool) -> Outcome {
    let refused = matches!(effect, Effect::SetTime(_)) == system;
    if refused { Errno::EPERM.into() } else { Outcome::Done }
}

#[test]
fn both_clocks_are_set() {
    let guest = Guest::new(CLOCK);
    guest.set(Some(SUMMER)).expect("success");
    let rtc = Effect::SetRtc(guest.device(), "2024-07-03 09:46:40".to_owned());
    assert_eq!(guest.kernel.effects(), [Effect::SetTime(SUMMER), rtc]);
}

#[test]
fn a_hardware_clock_with_local_time_is_set_to_local_time() {
    let guest = Guest::new(&[CLOCK, &[("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n")]].concat());
    let zone = rtc::local_zone(&guest.host).expect("local time");
    let shown = SUMMER / SECOND + i64::from(zone.at(SUMMER / SECOND).0);
    let shown = rtc::Fields::new(shown).expect("fields").to_string();
    guest.set(Some(SUMMER)).expect("success");
    assert_eq!(guest.kernel.effects().last(), Some(&Effect::SetRtc(guest.device(), shown)));
}

#[test]
fn without_a_time_the_system_takes_that_of_the_hardware() {
    let guest = Guest::new(CLOCK);
    guest.set(None).expect("success");
    assert_eq!(guest.kernel.effects(), [Effect::SetTime(1_700_000_100 * SECOND)]);
}

#[test]
fn times_before_1970_are_refused() {
    let guest = Guest::new(CLOCK);
    for time in [-1, -SECOND, i64::MIN] {
        assert_eq!(guest.set(Some(time)).expect_err("refused"), "Invalid time: Numerical result out of range");
    }
    assert_eq!(guest.kernel.effects(), []);
    guest.set(Some(0)).expect("1970 itself");
    guest.set(Some(i64::MAX)).expect("2262");
}

#[test]
fn a_refusal_says_which_half_failed() {
    let guest = Guest::new(CLOCK);
    guest.kernel.script(|effect| refuse(effect, true));
    let error = guest.set(Some(SUMMER)).expect_err("refused");
    assert_eq!(error, "Failed to set time to guest: Operation not permitted");
    assert_eq!(guest.set(None).expect_err("refused"), error);

    let guest = Guest::new(CLOCK);
    guest.kernel.script(|effect| refuse(effect, false));
    assert_eq!(
        guest.set(Some(SUMMER)).expect_err("refused"),
        "the system time was set, but failed to set hardware clock to system time: \
         '/dev/rtc0': Operation not permitted"
    );
}

#[test]
fn without_any_hardware_clock_it_is_an_error_as_upstream() {
    let guest = Guest::new(&[]);
    let text = "failed to set hardware clock to system time: there is no hardware clock";
    assert_eq!(guest.set(None).expect_err("no clock"), text);
    let error = guest.set(Some(SUMMER)).expect_err("no clock");
    assert_eq!(error, format!("the system time was set, but {text}"));
    assert_eq!(guest.kernel.effects(), [Effect::SetTime(SUMMER)]);
}

#[test]
fn hwclock_is_asked_when_the_kernel_shows_no_clock() {
    let tool = "#!/bin/sh\n[ \"$*\" = -w ] && exit 0\necho \"no $*\" >&2; exit 1\n";
    let guest = Guest::new(&[("/usr/sbin/hwclock", tool)]);
    guest.set(Some(SUMMER)).expect("success");
    let error = guest.set(None).expect_err("the program says no");
    assert_eq!(error, "child process has failed to set hardware clock to system time: no -s\n");
}
