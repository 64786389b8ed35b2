use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::stat::Mode;

use super::*;
use crate::host::fake::FakeKernel;

fn host() -> Host {
    Host::new("/", Box::new(FakeKernel::default()))
}

fn shell(script: &str) -> Program<'_> {
    Program::new("/bin/sh").args(["-c", script])
}

fn output(program: &Program<'_>) -> String {
    let finished = host().run(program).expect("the program ends");
    String::from_utf8(finished.output).expect("text")
}

fn error(program: &Program<'_>) -> String {
    host().run_to("try", program).expect_err("the program fails").desc
}

#[test]
fn both_streams_arrive_in_order() {
    assert_eq!(output(&shell("echo a; echo b >&2; echo c")), "a\nb\nc\n");
}

#[test]
fn error_texts_are_upstreams() {
    assert_eq!(error(&shell("echo no >&2; exit 3")), "child process has failed to try: no\n");
    assert_eq!(error(&shell("exit 3")), "child process has failed to try: exit status 3");
    assert_eq!(error(&shell("kill -9 $$")), "child process has terminated abnormally");
    assert_eq!(error(&shell("echo x; kill -9 $$")), "child process has terminated abnormally: x\n");
    assert_eq!(
        error(&Program::new("/nonexistent/program")),
        "child process has failed to try: failed to exec '/nonexistent/program': No such file or directory"
    );
    host().run_to("try", &shell("echo fine")).expect("success");
}

#[test]
fn a_program_that_talks_before_it_listens_does_not_deadlock() {
    let input = vec![b'x'; 1 << 20];
    let program = shell("head -c 1000000 /dev/zero; wc -c").input(&input);
    assert!(output(&program).ends_with("1048576\n"));
}

#[test]
fn input_that_nobody_reads_is_no_error() {
    let input = vec![b'x'; 1 << 20];
    host().run_to("try", &shell("exec <&-; exit 0").input(&input)).expect("success");
}

#[test]
fn without_input_the_program_reads_nothing() {
    assert_eq!(output(&shell("wc -c")), "0\n");
}

#[test]
fn output_is_bounded_and_its_end_is_kept() {
    let output = output(&shell("head -c 3000000 /dev/zero; echo reason"));
    assert_eq!(output.len(), OUTPUT_LIMIT);
    assert!(output.ends_with("reason\n"));
}

#[test]
fn a_background_process_that_keeps_the_pipe_is_not_waited_for() {
    let started = Instant::now();
    assert_eq!(output(&shell("sleep 60 & echo done")), "done\n");
    assert!(started.elapsed() < Duration::from_secs(30));
    // The process is not ours any more and goes on; it ends by itself.
}

#[test]
fn the_deadline_kills_the_whole_group() {
    let dir = tempfile::tempdir().expect("directory");
    let fifo = dir.path().join("alive");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("fifo");
    let reader = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo);
    let reader = reader.expect("fifo");
    let script = format!("exec 3>{}; sleep 60 & echo x >&3; echo said; wait", fifo.display());
    let program = shell(&script).deadline(Duration::from_millis(500));
    let failure = host().run(&program).expect_err("it sleeps");
    assert_eq!(failure.to_string(), "'/bin/sh' did not finish within 0 s");
    let Failure::TimedOut { output, .. } = failure else { panic!("{failure}") };
    assert_eq!(output, b"said\n");
    // Hung up means that nobody holds the other end: neither the shell nor its child.
    let mut byte = [0; 8];
    assert_eq!((&reader).read(&mut byte).expect("what the shell wrote"), 2, "it ran");
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(20_000_u16)).expect("poll");
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLHUP));
}

#[test]
fn the_deadline_holds_for_a_program_that_never_stops_talking() {
    let program = shell("yes").deadline(Duration::from_millis(100));
    assert!(matches!(host().run(&program), Err(Failure::TimedOut { .. })));
}

#[test]
fn the_program_leads_a_session_of_its_own() {
    let said =
        output(&shell("read pid comm state parent group session rest < /proc/self/stat; echo $pid $group $session"));
    let ids: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{said}");
}

#[test]
fn signals_are_back_to_default_and_unblocked() {
    let said = output(&shell(
        "while read key value; do case $key in SigIgn:|SigBlk:) echo $value;; esac; done < /proc/self/status",
    ));
    let masks = said.lines().map(|mask| u64::from_str_radix(mask, 16).expect("mask"));
    // Signals 32 and 33 belong to the C library, which lets nobody touch them.
    let ours = masks.map(|mask| mask & !(0b11 << 31));
    assert_eq!(ours.collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn no_descriptor_of_ours_reaches_the_program() {
    let file = File::open("/dev/null").expect("open");
    // Out of the way of what the shell opens for itself, and inheritable.
    let number = fcntl(&file, FcntlArg::F_DUPFD(200)).expect("descriptor");
    let there = format!("test -e /proc/$$/fd/{number} && readlink /proc/$$/fd/{number}");
    assert_eq!(output(&shell(&there)), "");
}

#[test]
fn programs_are_looked_for_below_the_root() {
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    let sbin = dir.path().join("usr/sbin");
    fs::create_dir_all(&sbin).expect("directory");
    fs::write(sbin.join("tool"), "#!/bin/sh\n").expect("file");
    assert_eq!(host.program("tool"), None, "it may not be executed");
    fs::set_permissions(sbin.join("tool"), fs::Permissions::from_mode(0o755)).expect("mode");
    assert_eq!(host.program("tool"), Some(sbin.join("tool")));
    assert_eq!(host.program("/usr/sbin/tool"), Some(sbin.join("tool")));
    assert_eq!(host.program("/sbin/tool"), None);
    assert_eq!(host.program("sh"), None, "that of the machine is none of this root");
    assert!(host.run(&Program::new("sh")).expect_err("missing").is_missing());
}

/// A directory of `PATH` may be another user's, and `chpasswd` is given passwords.
#[test]
fn the_systems_programs_come_before_those_of_the_path() {
    let dir = tempfile::tempdir().expect("directory");
    let host = Host::new(dir.path(), Box::new(FakeKernel::default()));
    let path = std::env::var_os("PATH").expect("tests are run with a PATH");
    let ours = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let dirs: Vec<_> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    let mut others: Vec<_> = Vec::new();
    for dir in dirs {
        if !ours.contains(&dir) && !others.contains(&dir) {
            others.push(dir);
        }
    }
    for dir in ours.iter().rev().chain(&others) {
        let dir = host.path(dir);
        fs::create_dir_all(&dir).expect("directory");
        fs::write(dir.join("tool"), "#!/bin/sh\n").expect("file");
        fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(0o755)).expect("mode");
    }
    for dir in ours.iter().chain(&others) {
        let place = host.path(dir).join("tool");
        assert_eq!(host.program("tool"), Some(place.clone()));
        fs::remove_file(place).expect("there");
    }
}
