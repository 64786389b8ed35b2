use super::*;

fn wait(pid: Pid) -> Exit {
    reap(pid).expect("our child").expect("it ended")
}

#[test]
fn a_program_runs_and_its_id_stays_until_it_is_reaped() {
    let pid = Program { path: "/bin/sh", args: &["-c", "exit 7"], ..Program::default() }.spawn().expect("it starts");
    let exit = loop {
        if let Some(exit) = reap_if_ended(pid).expect("our child") {
            break exit;
        }
    };
    assert_eq!(exit, Exit::Code(7));
    assert_eq!(reap_if_ended(pid).expect_err("gone").raw_os_error(), Some(libc::ECHILD));
}

#[test]
fn failures_leave_no_process_behind() {
    for _ in 0..20 {
        let error = Program { path: "/nonexistent", ..Program::default() }.spawn().expect_err("no such program");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
    let children = std::fs::read_to_string("/proc/thread-self/children");
    assert_eq!(children.unwrap_or_default(), "");
}

#[test]
fn an_ignored_signal_is_not_inherited() {
    // The test runner ignores SIGPIPE, as every Rust program does.
    let pid = Program { path: "/bin/sh", args: &["-c", "kill -PIPE $$"], ..Program::default() }.spawn();
    assert_eq!(wait(pid.expect("it starts")), Exit::Signal(libc::SIGPIPE));
}

#[test]
fn a_search_goes_on_after_a_file_that_may_not_be_executed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    for (name, mode) in [("a", 0o644), ("b", 0o755)] {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join("tool"), "exit 3").expect("a file");
        std::fs::set_permissions(dir.join("tool"), PermissionsExt::from_mode(mode)).expect("chmod");
    }
    let root = dir.path().display();
    let start = |path: &str| {
        let env: &[&str] = &[path];
        Program { path: "tool", env: Some(env), ..Program::default() }.spawn()
    };
    assert_eq!(wait(start(&format!("PATH={root}/none:{root}/a:{root}/b")).expect("found")), Exit::Code(3));
    let denied = start(&format!("PATH={root}/a:{root}/none")).expect_err("not executable");
    assert_eq!(denied.raw_os_error(), Some(libc::EACCES));
}

#[test]
fn a_name_that_is_too_long_for_any_directory_is_said_to_be() {
    let name = "x".repeat(300);
    let error = Program { path: &name, ..Program::default() }.spawn().expect_err("no such name");
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn descriptors_without_close_on_exec_are_not_inherited() {
    let null = open("/dev/null", OFlag::O_RDONLY, Mode::empty()).expect("no O_CLOEXEC");
    let path = format!("/proc/self/fd/{}", null.as_raw_fd());
    let args = ["-c", "test -e $0", path.as_str()];
    let pid = Program { path: "/bin/sh", args: &args, ..Program::default() }.spawn().expect("it starts");
    assert_eq!(wait(pid), Exit::Code(1));
}
