use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::host::fake::{self, Effect, FakeKernel};

/// A guest whose programs write down how they were called.
struct Guest {
    dir: tempfile::TempDir,
    host: Host,
}

impl Guest {
    fn new() -> Guest {
        let dir = tempfile::tempdir().expect("directory");
        let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
        Guest { dir, host }
    }

    fn file(self, path: &str, text: &str) -> Guest {
        let path = self.host.path(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
        fs::write(path, text).expect("file");
        self
    }

    /// A program that ends with this status after it said something.
    fn program(self, name: &str, status: i32) -> Guest {
        let script = format!(
            "#!/bin/sh\necho \"${{0##*/}} $*\" >> \"${{0%/*}}/../../calls\"\n\
             [ {status} = 0 ] || echo {name} cannot\nexit {status}\n"
        );
        let path = format!("/usr/sbin/{name}");
        let guest = self.file(&path, &script);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(guest.host.path(&path), mode).expect("mode");
        guest
    }

    fn systemd(self) -> Guest {
        fs::create_dir_all(self.host.path(SYSTEMD)).expect("directory");
        self
    }

    fn kernel(self, state: &str, mem_sleep: &str) -> Guest {
        let guest = self.file("/sys/power/state", state).file("/sys/power/resume", "253:2\n");
        if mem_sleep.is_empty() { guest } else { guest.file("/sys/power/mem_sleep", mem_sleep) }
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn shut_down(&self, mode: Mode) -> std::result::Result<(), String> {
        shut_down(&self.host, mode).map_err(|error| error.desc)
    }

    fn suspend(&self, sleep: Sleep) -> std::result::Result<(), String> {
        suspend(&self.host, sleep).map_err(|error| error.desc)
    }

    fn knob(&self, name: &str) -> String {
        self.host.read_text(format!("/sys/power/{name}")).expect("a knob")
    }
}

const ALL: [Sleep; 3] = [Sleep::Disk, Sleep::Ram, Sleep::Hybrid];

#[test]
fn modes() {
    assert_eq!(Mode::parse(None), Ok(Mode::PowerDown));
    assert_eq!(Mode::parse(Some("powerdown")), Ok(Mode::PowerDown));
    assert_eq!(Mode::parse(Some("halt")), Ok(Mode::Halt));
    assert_eq!(Mode::parse(Some("reboot")), Ok(Mode::Reboot));
    for bad in ["", "Halt", "poweroff", "halt "] {
        let error = Mode::parse(Some(bad)).expect_err("bad");
        assert_eq!(error.desc, "mode is invalid (valid values are: halt|powerdown|reboot");
    }
}

#[test]
fn systemctl_does_it_where_systemd_is_init() {
    let guest = Guest::new().systemd().program("systemctl", 0).program("poweroff", 0);
    for mode in [Mode::PowerDown, Mode::Halt, Mode::Reboot] {
        assert_eq!(guest.shut_down(mode), Ok(()));
    }
    assert_eq!(guest.calls(), ["systemctl poweroff", "systemctl halt", "systemctl reboot"]);
}

#[test]
fn systemctl_is_left_alone_where_it_only_lies_about() {
    let guest = Guest::new().program("systemctl", 0).program("poweroff", 0);
    assert_eq!(guest.shut_down(Mode::PowerDown), Ok(()));
    assert_eq!(guest.calls(), ["poweroff"]);
}

#[test]
fn a_halt_is_no_powerdown_on_sysv() {
    let guest = Guest::new().program("shutdown", 0).program("halt", 0).program("poweroff", 0);
    assert_eq!(guest.shut_down(Mode::Halt), Ok(()));
    assert_eq!(guest.shut_down(Mode::PowerDown), Ok(()));
    assert_eq!(guest.calls(), [format!("shutdown -h -H +0 {MESSAGE}"), "poweroff".to_owned()]);
}

#[test]
fn only_shutdown() {
    let guest = Guest::new().program("shutdown", 0);
    for mode in [Mode::PowerDown, Mode::Reboot] {
        assert_eq!(guest.shut_down(mode), Ok(()));
    }
    let expected = [format!("shutdown -h -P +0 {MESSAGE}"), format!("shutdown -r +0 {MESSAGE}")];
    assert_eq!(guest.calls(), expected);
}

/// It would send systemd a signal that means something else, and say that all is well.
#[test]
fn busybox_is_not_asked_where_systemd_is_init() {
    let guest = Guest::new().systemd().program("systemctl", 1).program("busybox", 0);
    let error = guest.shut_down(Mode::Reboot).expect_err("nobody does it");
    assert_eq!(error, "child process has failed to shutdown: systemctl cannot\n");
    assert_eq!(guest.calls(), ["systemctl reboot"]);
}

#[test]
fn openrc_and_busybox_without_links() {
    let guest = Guest::new().program("openrc-shutdown", 0);
    for mode in [Mode::PowerDown, Mode::Halt, Mode::Reboot] {
        assert_eq!(guest.shut_down(mode), Ok(()));
    }
    let expected = ["openrc-shutdown -P now", "openrc-shutdown -H now", "openrc-shutdown -r now"];
    assert_eq!(guest.calls(), expected);

    let guest = Guest::new().program("busybox", 0);
    assert_eq!(guest.shut_down(Mode::Halt), Ok(()));
    assert_eq!(guest.calls(), ["busybox halt"]);
}

#[test]
fn the_next_program_is_tried_and_the_last_failure_told() {
    let guest = Guest::new().program("reboot", 1).program("shutdown", 3);
    let error = guest.shut_down(Mode::Reboot).expect_err("both fail");
    assert_eq!(error, "child process has failed to shutdown: shutdown cannot\n");
    assert_eq!(guest.calls(), ["reboot".to_owned(), format!("shutdown -r +0 {MESSAGE}")]);

    let error = Guest::new().shut_down(Mode::Halt).expect_err("no program");
    assert_eq!(error, "child process has failed to shutdown: failed to exec 'halt': No such file or directory");
}

#[test]
fn a_guest_that_cannot_sleep_says_so() {
    for guest in [
        Guest::new(),
        Guest::new().kernel("freeze", "[s2idle]"),
        // Programs that fail because the kernel cannot do it.
        Guest::new().kernel("freeze", "").systemd().program("systemctl", 1),
        Guest::new().program("pm-is-supported", 1).program("pm-suspend", 0),
    ] {
        for sleep in ALL {
            assert_eq!(guest.suspend(sleep).expect_err("refused"), UNSUPPORTED);
        }
    }
}

#[test]
fn the_kernel_itself() {
    let guest = Guest::new()
        .kernel("freeze mem disk\n", "[s2idle] deep\n")
        .file("/sys/power/disk", "[platform] shutdown reboot suspend test_resume\n");
    assert_eq!(guest.suspend(Sleep::Ram), Ok(()));
    // The file keeps what lies behind the word that was written.
    assert!(guest.knob("mem_sleep").starts_with("deep"));
    assert!(guest.knob("state").starts_with("mem"));

    let guest = guest.kernel("freeze mem disk\n", "s2idle [deep]\n");
    assert_eq!(guest.suspend(Sleep::Disk), Ok(()));
    assert!(guest.knob("state").starts_with("disk"));
    assert_eq!(guest.knob("mem_sleep"), "s2idle [deep]\n");

    let guest = guest.kernel("freeze mem disk\n", "");
    assert_eq!(guest.suspend(Sleep::Hybrid), Ok(()));
    assert!(guest.knob("state").starts_with("disk"));
    assert!(guest.knob("disk").starts_with("platform"), "{}", guest.knob("disk"));
}

#[test]
fn no_sleep_on_disk_without_a_way_back() {
    let guest = Guest::new().kernel("mem disk", "").file("/sys/power/resume", "0:0\n");
    assert_eq!(guest.suspend(Sleep::Disk).expect_err("refused"), UNSUPPORTED);
    assert_eq!(guest.knob("state"), "mem disk");
}

#[test]
fn no_sleep_from_which_the_host_cannot_wake_us() {
    let guest = Guest::new().kernel("freeze mem", "[s2idle]").systemd().program("systemctl", 0);
    assert_eq!(guest.suspend(Sleep::Ram).expect_err("refused"), UNSUPPORTED);
    assert_eq!(guest.calls(), Vec::<String>::new());
}

/// A kernel that is busy so often, with which a guest can sleep; and what it was asked.
fn busy(times: usize) -> (Guest, FakeKernel) {
    let kernel = FakeKernel::default();
    let mut left = times;
    kernel.script(move |effect| match effect {
        Effect::Knob(path, _) if path.ends_with("/state") && left > 0 => {
            left -= 1;
            nix::errno::Errno::EBUSY.into()
        }
        _ => fake::Outcome::Done,
    });
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(kernel.clone()));
    let guest = Guest { dir, host }.kernel("freeze mem disk\n", "s2idle [deep]\n");
    (guest.file("/sys/power/disk", "[platform] shutdown reboot suspend\n"), kernel)
}

fn words(kernel: &FakeKernel) -> Vec<String> {
    let word = |effect| if let Effect::Knob(_, word) = effect { Some(word) } else { None };
    kernel.effects().into_iter().filter_map(word).collect()
}

/// As just after the machine was woken up.
#[test]
fn a_busy_kernel_is_asked_once_more_after_a_moment() {
    for (sleep, expected) in [
        (Sleep::Ram, &["mem", "mem"][..]),
        (Sleep::Disk, &["disk", "disk"]),
        (Sleep::Hybrid, &["suspend", "disk", "disk", "platform"]),
    ] {
        let (guest, kernel) = busy(1);
        let before = guest.host.kernel().now();
        assert_eq!(guest.suspend(sleep), Ok(()));
        assert_eq!(words(&kernel), expected);
        assert!(guest.host.kernel().now() > before, "it was left alone for a moment");
    }
}

#[test]
fn a_kernel_that_stays_busy_is_told() {
    for sleep in ALL {
        let (guest, kernel) = busy(usize::MAX);
        let error = guest.suspend(sleep).expect_err("busy");
        assert_eq!(error, "suspend: cannot write to '/sys/power/state': Device or resource busy");
        assert_eq!(words(&kernel).iter().filter(|word| ["mem", "disk"].contains(&word.as_str())).count(), 2);
    }
}

#[test]
fn another_reason_is_told_at_once() {
    let kernel = FakeKernel::default();
    kernel.script(|_| nix::errno::Errno::ENOMEM.into());
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(kernel.clone()));
    let guest = Guest { dir, host }.kernel("mem\n", "");
    let error = guest.suspend(Sleep::Ram).expect_err("no memory");
    assert_eq!(error, "suspend: cannot write to '/sys/power/state': Cannot allocate memory");
    assert_eq!(words(&kernel), ["mem"]);
}

#[test]
fn helpers_for_sleep() {
    let guest = Guest::new().kernel("mem disk", "").systemd().program("systemctl", 0);
    for sleep in ALL {
        assert_eq!(guest.suspend(sleep), Ok(()));
    }
    let expected = ["systemctl hibernate", "systemctl suspend", "systemctl hybrid-sleep"];
    assert_eq!(guest.calls(), expected);

    let guest = Guest::new().program("pm-is-supported", 0).program("pm-suspend-hybrid", 0);
    assert_eq!(guest.suspend(Sleep::Hybrid), Ok(()));
    assert_eq!(guest.calls(), ["pm-is-supported --suspend-hybrid", "pm-suspend-hybrid"]);
}

#[test]
fn the_failure_of_the_last_helper_is_told_when_the_kernel_could() {
    let guest = Guest::new()
        .kernel("mem disk", "")
        .file("/sys/power/disk", "[platform] suspend\n")
        .file("/sys/power/resume", "8:2\n")
        .systemd()
        .program("systemctl", 1);
    let error = helper(&guest.host, "systemctl", &["suspend"]).expect_err("it fails");
    let text = "the helper program 'systemctl suspend' returned an unexpected exit status code (1)";
    assert_eq!(error.expect("a text").desc, text);
    // The kernel is next, and can.
    assert_eq!(guest.suspend(Sleep::Ram), Ok(()));
    assert_eq!(guest.calls(), ["systemctl suspend"; 2]);
}

#[cfg(feature = "logind")]
mod with_logind {
    use super::*;
    use crate::host::linux::logind::tests::Bus;

    #[test]
    fn logind_is_asked_first() {
        let guest = Guest::new().systemd().program("systemctl", 0).program("poweroff", 0);
        let guest = guest.kernel("mem disk", "s2idle [deep]");
        let bus = Bus::start(guest.dir.path());
        for mode in [Mode::PowerDown, Mode::Halt, Mode::Reboot] {
            assert_eq!(guest.shut_down(mode), Ok(()));
        }
        for action in ["Suspend", "Hibernate", "HybridSleep"] {
            bus.can(action, "yes");
        }
        for sleep in ALL {
            assert_eq!(guest.suspend(sleep), Ok(()));
        }
        let shutdown = ["PowerOff(false)", "Halt(false)", "Reboot(false)"];
        let sleep = ["Hibernate(false)", "Suspend(false)", "HybridSleep(false)"];
        assert_eq!(bus.calls(), [shutdown, sleep].concat());
        assert_eq!(guest.calls(), Vec::<String>::new());
        assert_eq!(guest.knob("state"), "mem disk");
    }

    #[test]
    fn when_it_refuses_the_programs_are_tried() {
        let guest = Guest::new().systemd().program("systemctl", 0);
        let bus = Bus::start(guest.dir.path());
        bus.refuse("blocked");
        assert_eq!(guest.shut_down(Mode::PowerDown), Ok(()));
        assert_eq!(bus.calls(), ["PowerOff(false)"]);
        assert_eq!(guest.calls(), ["systemctl poweroff"]);
    }

    #[test]
    fn why_it_refused_to_shut_down_is_told_when_the_programs_fail_too() {
        let guest = Guest::new().systemd().program("systemctl", 1).program("shutdown", 1);
        let bus = Bus::start(guest.dir.path());
        bus.refuse("Access denied due to active block inhibitor");
        let error = guest.shut_down(Mode::PowerDown).expect_err("all refuse");
        assert_eq!(error, "logind refused: Access denied due to active block inhibitor");
        assert_eq!(guest.calls(), ["systemctl poweroff", &format!("shutdown -h -P +0 {MESSAGE}")]);
    }

    #[test]
    fn sleep_that_it_does_not_know_is_the_kernels() {
        let guest = Guest::new().systemd().program("systemctl", 0).kernel("mem", "");
        let bus = Bus::start(guest.dir.path());
        bus.can("Suspend", "na");
        assert_eq!(guest.suspend(Sleep::Ram), Ok(()));
        assert!(guest.knob("state").starts_with("mem"));
        assert_eq!(bus.calls(), Vec::<String>::new());
        assert_eq!(guest.calls(), Vec::<String>::new());
    }

    #[test]
    fn why_it_refused_to_sleep_is_told_when_nothing_else_works() {
        let guest = Guest::new().kernel("mem disk", "").file("/sys/power/resume", "0:0");
        let bus = Bus::start(guest.dir.path());
        bus.can("Hibernate", "yes");
        bus.refuse("Operation inhibited");
        let error = guest.suspend(Sleep::Disk).expect_err("nothing works");
        assert_eq!(error, "logind refused: Operation inhibited");
        assert_eq!(bus.calls(), ["Hibernate(false)"]);
    }
}
