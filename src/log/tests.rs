use super::*;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use tempfile::TempDir;
use tracing::{debug, info, warn};

/// A log to a file, and a syslog daemon, in a directory.
struct Scene {
    dir: TempDir,
    control: LogControl,
    syslog: UnixDatagram,
}

impl Scene {
    /// Runs `test` with this log as the thread's.
    fn run(test: impl FnOnce(&Scene)) {
        let dir = tempfile::tempdir().unwrap();
        let syslog = UnixDatagram::bind(dir.path().join("dev-log")).unwrap();
        syslog.set_nonblocking(true).unwrap();
        let sink = Sink::file(&dir.path().join("log")).unwrap();
        let (subscriber, control) = new(sink, Syslog::at(&dir.path().join("dev-log")));
        let scene = Scene { dir, control, syslog };
        tracing::subscriber::with_default(subscriber, || test(&scene));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The log without its times, which must be there.
    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        let line = |line: &str| {
            let (time, text) = line.split_once(": ").unwrap();
            let (seconds, micros) = time.split_once('.').unwrap();
            assert!(seconds.len() == 10 && micros.len() == 6, "{line}");
            format!("{text}\n")
        };
        text.lines().map(line).collect()
    }

    fn audited(&self) -> Option<String> {
        let mut buffer = [0; 1024];
        let size = self.syslog.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
    }
}

#[test]
fn only_warnings_and_errors_are_shown_unless_verbose() {
    Scene::run(|scene| {
        for verbose in [false, true] {
            scene.control.set_verbose(verbose);
            error!("one {}", 1);
            warn!(count = 2, name = "x", "two");
            info!("three");
            debug!("four");
        }
        let quiet = "critical: one 1\nwarning: two count=2 name=\"x\"\n";
        assert_eq!(scene.log("log"), format!("{quiet}{quiet}info: three\ndebug: four\n"));
    });
}

#[test]
fn a_line_cannot_be_forged() {
    Scene::run(|scene| {
        warn!("data: {}", "a\nb\r\x1b[2J\tü\u{9b}2J\u{202e}");
        assert_eq!(scene.log("log"), "warning: data: a\\nb\\r\\x1b[2J\tü\\u{9b}2J\\u{202e}\n");
    });
}

#[test]
fn audit_events_go_to_syslog_whatever_the_verbosity() {
    Scene::run(|scene| {
        info!(target: AUDIT, "guest-ping called");
        assert_eq!(scene.audited().as_deref(), Some("<14>qemu-ga: info: guest-ping called"));
        info!("not audited");
        assert_eq!(scene.audited(), None);
        assert_eq!(scene.log("log"), "");
    });
}

#[test]
fn a_restarted_syslog_is_found_again_and_a_full_one_does_not_block() {
    Scene::run(|scene| {
        info!(target: AUDIT, "one");
        fs::remove_file(scene.path("dev-log")).unwrap();
        let restarted = UnixDatagram::bind(scene.path("dev-log")).unwrap();
        // A socket whose peer is still open keeps working; shutting it down is what a restart does.
        scene.syslog.shutdown(std::net::Shutdown::Both).unwrap();
        for _ in 0..10_000 {
            info!(target: AUDIT, "two");
        }
        let mut buffer = [0; 64];
        let size = restarted.recv(&mut buffer).unwrap();
        assert!(buffer[..size].ends_with(b"two"));
    });
}

#[test]
fn nothing_is_written_during_a_hold_and_everything_after_it() {
    Scene::run(|scene| {
        scene.control.hold();
        warn!("one");
        info!(target: AUDIT, "two");
        debug!("never shown");
        assert_eq!((scene.log("log").as_str(), scene.audited()), ("", None));
        scene.control.release();
        warn!("three");
        assert_eq!(scene.log("log"), "warning: one\nwarning: three\n");
        let audited = scene.audited().unwrap();
        assert!(audited.starts_with("<14>qemu-ga: ") && audited.ends_with(": info: two"), "{audited}");
    });
}

#[test]
fn a_log_file_wanted_while_frozen_is_made_at_the_release() {
    Scene::run(|scene| {
        scene.control.hold();
        scene.control.open_file_on_release(&scene.path("late"));
        warn!("one");
        assert!(!scene.path("late").exists());
        scene.control.release();
        assert_eq!((scene.log("late").as_str(), scene.log("log").as_str()), ("warning: one\n", ""));
    });
}

#[test]
fn a_log_file_that_cannot_be_made_at_the_release_loses_no_line() {
    Scene::run(|scene| {
        scene.control.hold();
        scene.control.open_file_on_release(&scene.path("no/log"));
        warn!("one");
        scene.control.release();
        let complaint = "warning: unable to open specified log file: No such file or directory\n";
        assert_eq!(scene.log("log"), format!("warning: one\n{complaint}"));
    });
}

#[test]
fn a_rotated_log_is_reopened_but_not_while_held() {
    Scene::run(|scene| {
        warn!("one");
        fs::rename(scene.path("log"), scene.path("log.1")).unwrap();
        scene.control.reopen();
        warn!("two");
        fs::rename(scene.path("log"), scene.path("log.2")).unwrap();
        scene.control.hold();
        scene.control.reopen();
        assert!(!scene.path("log").exists());
        scene.control.release();
        warn!("three");
        let logs = ["log.1", "log.2", "log"].map(|name| scene.log(name));
        assert_eq!(logs, ["warning: one\n", "warning: two\n", "warning: three\n"]);
    });
}

#[test]
fn a_huge_line_does_not_keep_its_memory() {
    Scene::run(|scene| {
        warn!("{}", "x".repeat(1 << 20));
        assert!(lock(&scene.control.0.line).capacity() <= USUAL_LINE);
    });
}

#[test]
fn who_logs_does_not_wait_for_a_disk_that_hangs_and_what_is_lost_is_counted() {
    Scene::run(|scene| {
        scene.control.start_writer().unwrap();
        scene.control.set_verbose(true);
        // The writer is in the middle of a line, for as long as this is held.
        let hangs = lock(&scene.control.0.outlet);
        for number in 0..15_000 {
            info!("line {number}");
        }
        scene.control.reopen();
        scene.control.hold();
        scene.control.release();
        scene.control.finish(Duration::from_millis(1));
        assert_eq!(scene.log("log"), "");
        drop(hangs);
        scene.control.finish(Duration::from_secs(60));
        let log = scene.log("log");
        let (first, rest) = log.split_once('\n').unwrap();
        let lost: usize = first.strip_prefix("warning: ").unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(first, format!("warning: {lost} older log lines are lost"));
        let kept: Vec<String> = (lost..15_000).map(|number| format!("info: line {number}")).collect();
        assert_eq!(rest.lines().collect::<Vec<_>>(), kept);
    });
}

#[test]
fn a_writer_writes_all_lines_in_order_and_none_during_a_hold() {
    Scene::run(|scene| {
        scene.control.start_writer().unwrap();
        scene.control.start_writer().unwrap();
        for round in 0..50 {
            warn!("{round} before");
            scene.control.hold();
            let held = scene.log("log");
            warn!("{round} during");
            assert_eq!(scene.log("log"), held);
            scene.control.release();
        }
        scene.control.finish(Duration::from_secs(60));
        let all = (0..50).map(|round| format!("warning: {round} before\nwarning: {round} during\n"));
        assert_eq!(scene.log("log"), all.collect::<String>());
    });
}

#[test]
fn a_flood_is_cut_and_costs_no_other_line() {
    Scene::run(|scene| {
        scene.control.start_writer().unwrap();
        for _ in 0..10_000 {
            warn!("flood");
        }
        warn!("another");
        scene.control.finish(Duration::from_secs(60));
        assert_eq!(scene.log("log"), format!("{}warning: another\n", "warning: flood\n".repeat(200)));
        // A minute later.
        lock(&scene.control.0.queue).budget.age();
        warn!("flood");
        scene.control.finish(Duration::from_secs(60));
        let end = "another\nwarning: 9800 more log lines of the last minute were left out\nwarning: flood\n";
        assert!(scene.log("log").ends_with(end), "{}", scene.log("log"));
    });
}

#[test]
fn what_was_left_out_is_told_although_nothing_more_comes() {
    Scene::run(|scene| {
        scene.control.start_writer().unwrap();
        for _ in 0..300 {
            warn!("flood");
        }
        lock(&scene.control.0.queue).budget.age();
        // As the end of its wait does.
        scene.control.0.more.notify_one();
        let end = Instant::now() + Duration::from_secs(60);
        while !scene.log("log").ends_with("warning: 100 more log lines of the last minute were left out\n") {
            assert!(Instant::now() < end, "{}", scene.log("log"));
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_value_that_panics_while_it_is_formatted_does_not_silence_the_log() {
    struct Bad;
    impl Debug for Bad {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("a bug");
        }
    }
    Scene::run(|scene| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| warn!("{:?}", Bad)));
        assert!(caught.is_err());
        warn!("after");
        assert_eq!(scene.log("log"), "warning: after\n");
    });
}
