//! The real binary as its callers see it: options, exit statuses, files, signals.

#![allow(clippy::unwrap_used)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_qemu-ga");
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory of its own for each test, with what an agent leaves there.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The agent, without the machine's own configuration.
    fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(AGENT);
        command.args(args).current_dir(self.dir.path()).env("QGA_CONF", self.path("absent.conf"));
        command.env_remove("POSIXLY_CORRECT").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[impl AsRef<OsStr>]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts an agent in the foreground that listens on `s`, and waits until it answers.
    fn serve(&self, args: &[&str]) -> Agent {
        let all = [&["-m", "unix-listen", "-p", "s", "-t", "."], args].concat();
        let child = self.command(&all).stderr(Stdio::piped()).spawn().unwrap();
        let agent = Agent { child: Some(child), pid: None };
        assert_eq!(self.ask("s", "guest-ping"), "{\"return\": {}}\n");
        agent
    }

    /// Starts a daemon that listens on `s` and has the process id file `pid`.
    fn daemon(&self, args: &[&str]) -> (Agent, Output) {
        let output = self.run(&[&["-d", "-m", "unix-listen", "-p", "s", "-t", ".", "-f", "pid"], args].concat());
        let pid = self.read("pid").trim().parse().ok().map(Pid::from_raw);
        (Agent { child: None, pid }, output)
    }

    /// Sends a command without arguments and gives the reply.
    fn ask(&self, socket: &str, command: &str) -> String {
        let path = self.path(socket);
        let mut stream = soon("a connection", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        writeln!(stream, "{{\"execute\":\"{command}\"}}").unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        reply
    }
}

/// A running agent, killed at the end of its test.
struct Agent {
    child: Option<Child>,
    pid: Option<Pid>,
}

impl Agent {
    fn pid(&self) -> Pid {
        let child = self.child.as_ref().map(|child| Pid::from_raw(child.id().try_into().unwrap()));
        child.or(self.pid).expect("no process id")
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().unwrap().is_none(),
            None => self.pid.is_some_and(is_running),
        }
    }

    /// The status and stderr of an agent that ends by now.
    fn end(mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().unwrap();
        let status = soon("the end of the agent", || child.try_wait().unwrap());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status, stderr)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        } else if let Some(pid) = self.pid.filter(|pid| is_running(*pid)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Whether a daemon lives. A dead one may stay a zombie where nobody reaps orphans.
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The first thread may be gone before the others, and the files go with the last one.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.contains("(qemu-ga) ") && !(stat.contains("(qemu-ga) Z") && threads <= 1)
}

/// Waits for something that takes a moment.
fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The status, stdout and stderr of a program that has ended.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_ends_the_program_writes_to_stdout_with_status_0() {
    let scene = Scene::new();
    for (args, start) in [
        (&["-h"][..], "Usage: qemu-ga"),
        (&["-D", "--help", "-V"], "Usage: qemu-ga"),
        (&["-V", "--foo"], "QEMU Guest Agent 11.1.3 (qemu-ga-rs "),
        (&["-b", "help"], "guest-"),
        (&["--allow-rpcs=?"], "guest-"),
    ] {
        let (status, stdout, stderr) = outcome(&scene.run(args));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(stdout.starts_with(start), "{args:?}: {stdout}");
    }
}

#[test]
fn a_bad_option_is_complained_about_once_with_a_hint_and_status_1() {
    let scene = Scene::new();
    let (status, stdout, stderr) = outcome(&scene.run(&["-v", "--foo", "-h"]));
    assert_eq!(status, Some(1));
    assert_eq!(stderr, format!("{AGENT}: unrecognized option '--foo'\n"));
    assert_eq!(stdout, format!("Unknown option, try '{AGENT} --help' for more information.\n"));
}

#[test]
fn a_full_disk_under_stdout_is_no_success() {
    let scene = Scene::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(scene.command(&["-D"]).stdout(full).status().unwrap().code(), Some(1));
}

#[test]
fn a_broken_configuration_fails_even_help() {
    let scene = Scene::new();
    scene.write("c.conf", "verbose=1\n");
    let (status, stdout, stderr) = outcome(&scene.run(&["-h", "-c", "c.conf"]));
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    let reason = "critical: error loading configuration from path: c.conf, Key file does not start with a group\n";
    assert!(stderr.ends_with(reason), "{stderr}");
}

#[test]
fn a_dump_read_back_gives_the_same_dump() {
    let scene = Scene::new();
    let args = ["-D", "-Fdrv", "-m", "unix-listen", "-p", " /a\\b\t", "-b", "guest-exec,x", "-a", "guest-ping"];
    let first = scene.run(&args);
    scene.write("c.conf", &text(&first.stdout));
    assert_eq!(outcome(&first).0, Some(0));
    assert_eq!(text(&scene.run(&["-D", "-c", "c.conf"]).stdout), text(&first.stdout));
}

#[test]
fn operands_end_the_options_if_the_environment_wants_posix() {
    let scene = Scene::new();
    let dump = |posix: bool| {
        let mut command = scene.command(&["-D", "operand", "-v"]);
        if posix {
            command.env("POSIXLY_CORRECT", "");
        }
        text(&command.output().unwrap().stdout)
    };
    assert!(dump(false).contains("verbose=true\n"));
    assert!(dump(true).contains("verbose=false\n"));
}

#[test]
fn arguments_need_not_be_utf8() {
    let scene = Scene::new();
    let odd = OsString::from_vec(b"/dev/\xff".to_vec());
    let output = scene.run(&[OsStr::new("-D"), OsStr::new("-p"), &odd]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.windows(12).any(|part| part == b"path=/dev/\xff\n"));
}

#[test]
fn a_start_that_fails_at_its_log_leaves_nothing_behind() {
    let scene = Scene::new();
    let output = scene.run(&["-m", "unix-listen", "-p", "s", "-t", ".", "-l", "no/log"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!scene.path("s").exists() && !scene.path("qga.state").exists());
}

#[test]
fn the_reason_of_a_failed_start_is_in_the_log_and_on_stderr() {
    let scene = Scene::new();
    let (status, _, stderr) = outcome(&scene.run(&["-p", "none", "-t", ".", "-l", "log"]));
    assert_eq!(status, Some(1));
    assert_eq!(stderr, "qemu-ga: error opening channel 'none': No such file or directory\n");
    let log = fs::read_to_string(scene.path("log")).unwrap();
    assert!(
        log.contains("critical: error opening channel 'none'") && log.contains("failed to create guest agent channel")
    );
}

#[test]
fn a_failed_start_has_status_1_and_names_the_object() {
    let scene = Scene::new();
    let in_place = ["-m", "unix-listen", "-p", "s", "-t", "."];
    nix::unistd::mkfifo(&scene.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (args, reasons) in [
        (
            &["-p", "none", "-t", "."][..],
            &["error opening channel 'none': No such file or directory", "failed to create guest agent channel"][..],
        ),
        (&["-m", "unix-listen", "-t", "."], &["must specify a path for this channel"]),
        (
            &["-m", "unix-listen", "-p", "s", "-t", "no"],
            &["unable to create state file at path ", "failed to load persistent state"],
        ),
        (
            &[&in_place[..], &["-l", "no/log"]].concat(),
            &["unable to open specified log file: No such file or directory"],
        ),
        // A FIFO that nobody reads.
        (&[&in_place[..], &["-l", "fifo"]].concat(), &["unable to open specified log file: No such device"]),
        (&[&in_place[..], &["-d", "-f", "no/pid"]].concat(), &["Could not create '", "No such file or directory"]),
    ] {
        let (status, _, stderr) = outcome(&scene.run(args));
        assert_eq!(status, Some(1), "{args:?}");
        for reason in reasons {
            assert!(stderr.contains(reason), "{args:?}: {stderr}");
        }
        let _ = fs::remove_file(scene.path("s"));
    }
}

#[test]
fn term_and_int_end_a_quiet_agent_with_status_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let scene = Scene::new();
        let agent = scene.serve(&["-f", "pid"]);
        agent.signal(signal);
        let (status, stderr) = agent.end();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{signal}");
        assert!(!scene.path("pid").exists());
        assert_eq!(scene.read("qga.state"), "[global]\nfd_counter=1000\n");
    }
}

#[test]
fn input_that_never_runs_dry_does_not_keep_a_term_out() {
    let scene = Scene::new();
    for method in ["virtio-serial", "isa-serial"] {
        let child = scene.command(&["-m", method, "-p", "/dev/zero", "-t", "."]).spawn().unwrap();
        let mut agent = Agent { child: Some(child), pid: None };
        soon("the start", || scene.path("qga.state").exists().then_some(()));
        agent.signal(Signal::SIGTERM);
        soon("the end of the agent", || (!agent.is_running()).then_some(()));
        fs::remove_file(scene.path("qga.state")).unwrap();
    }
}

#[test]
fn a_term_during_the_start_is_not_lost() {
    for _ in 0..20 {
        let scene = Scene::new();
        let args = ["-d", "-m", "unix-listen", "-p", "s", "-t", ".", "-f", "pid"];
        let mut child = scene.command(&args).spawn().unwrap();
        // The daemon has written its id, and may be anywhere between that and its loop.
        let pid = soon("a process id", || scene.read("pid").strip_suffix('\n').and_then(|pid| pid.parse().ok()));
        let agent = Agent { child: None, pid: Some(Pid::from_raw(pid)) };
        agent.signal(Signal::SIGTERM);
        soon("the end of the daemon", || (!is_running(agent.pid())).then_some(()));
        child.wait().unwrap();
        assert!(!scene.path("pid").exists(), "the process id file was left behind");
    }
}

#[test]
fn a_daemon_serves_when_its_caller_returns() {
    let scene = Scene::new();
    let (mut daemon, output) = scene.daemon(&[]);
    assert_eq!(outcome(&output), (Some(0), String::new(), String::new()));
    assert!(daemon.is_running(), "the process id file does not hold the daemon's id");
    assert_eq!(fs::metadata(scene.path("pid")).unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(scene.path("s")).unwrap();
    assert_eq!(scene.ask("s", "guest-ping"), "{\"return\": {}}\n");
    daemon.signal(Signal::SIGTERM);
    soon("the end of the daemon", || (!daemon.is_running()).then_some(()));
    assert!(!scene.path("pid").exists());
}

#[test]
fn a_daemon_is_detached() {
    let scene = Scene::new();
    let (daemon, _) = scene.daemon(&[]);
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    for number in ["0", "1", "2"] {
        assert_eq!(fs::read_link(proc.join("fd").join(number)).unwrap(), Path::new("/dev/null"));
    }
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let session = stat.split_whitespace().nth(5).unwrap();
    assert_eq!(session, daemon.pid().to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("Umask:\t0077\n"), "{status}");
    assert!(status.contains("SigBlk:\t0000000000000000\n"), "{status}");
}

#[test]
fn a_second_daemon_fails_and_harms_nothing() {
    let scene = Scene::new();
    let (mut daemon, _) = scene.daemon(&[]);
    let pid = scene.read("pid");
    for args in [
        &["-d", "-m", "unix-listen", "-p", "s2", "-t", ".", "-f", "pid"][..],
        &["-d", "-m", "unix-listen", "-p", "s", "-t", ".", "-f", "pid"],
        &["-d", "-m", "unix-listen", "-f", "pid"],
        &["-d", "-D", "-f", "pid"],
    ] {
        let output = scene.run(args);
        let dumps = args.contains(&"-D");
        assert_eq!(output.status.code(), Some(if dumps { 0 } else { 1 }), "{args:?}");
        assert_eq!(scene.read("pid"), pid, "{args:?}");
    }
    let (_, _, stderr) = outcome(&scene.run(&["-d", "-m", "unix-listen", "-p", "s2", "-t", ".", "-f", "pid"]));
    assert!(stderr.contains("Cannot lock pid file: Resource temporarily unavailable\n"), "{stderr}");
    assert!(!scene.path("s2").exists());
    assert!(daemon.is_running());
    assert_eq!(scene.ask("s", "guest-ping"), "{\"return\": {}}\n");
}

#[test]
fn the_process_id_file_of_a_killed_daemon_is_taken_over() {
    let scene = Scene::new();
    let (mut first, _) = scene.daemon(&[]);
    first.signal(Signal::SIGKILL);
    soon("the end of the daemon", || (!first.is_running()).then_some(()));
    let (mut second, output) = scene.daemon(&[]);
    assert_eq!(outcome(&output), (Some(0), String::new(), String::new()));
    assert!(second.is_running() && second.pid() != first.pid());
}

#[test]
fn a_log_line_has_time_and_level_and_everything_is_logged_only_on_request() {
    let scene = Scene::new();
    scene.write("log", "old line\n");
    let agent = scene.serve(&["-v", "-l", "log"]);
    agent.signal(Signal::SIGTERM);
    let (_, stderr) = agent.end();
    assert_eq!(stderr, "");
    let log = scene.read("log");
    let lines = log.strip_prefix("old line\n").unwrap();
    assert!(lines.contains(": info: QEMU Guest Agent ") && lines.contains(": debug: "), "{lines}");
    for line in lines.lines() {
        let (seconds, rest) = line.split_once('.').unwrap();
        let (micros, _) = rest.split_once(": ").unwrap();
        assert!(seconds.len() == 10 && micros.len() == 6 && micros.bytes().all(|byte| byte.is_ascii_digit()), "{line}");
    }
}

#[test]
fn a_stderr_that_nobody_reads_does_not_stop_the_agent() {
    let scene = Scene::new();
    let agent = scene.serve(&["-v"]);
    let mut stream = UnixStream::connect(scene.path("s")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..2000 {
        stream.write_all(b"{\"execute\":\"guest-ping\"}\n").unwrap();
        let mut reply = String::new();
        replies.read_line(&mut reply).unwrap();
        assert_eq!(reply, "{\"return\": {}}\n");
    }
    agent.signal(Signal::SIGTERM);
    let (status, stderr) = agent.end();
    assert_eq!(status.code(), Some(0));
    assert!(stderr.len() > 32 << 10, "the pipe was not full");
}

#[test]
fn hup_makes_a_rotated_log_anew() {
    let scene = Scene::new();
    let (daemon, _) = scene.daemon(&["-v", "-l", "log"]);
    fs::rename(scene.path("log"), scene.path("log.1")).unwrap();
    daemon.signal(Signal::SIGHUP);
    soon("a new log", || scene.path("log").exists().then_some(()));
    assert_eq!(scene.ask("s", "guest-ping"), "{\"return\": {}}\n");
    soon("a line in the new log", || scene.read("log").contains(": ").then_some(()));
}

#[test]
fn an_inherited_socket_is_served_whatever_is_configured() {
    let scene = Scene::new();
    let listener = UnixListener::bind(scene.path("inherited")).unwrap();
    let hand_over = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", hand_over, AGENT, "-m", "isa-serial", "-p", "/nonexistent", "-t", "."]);
    command.current_dir(scene.dir.path()).env("QGA_CONF", "").stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let agent = Agent { child: Some(child), pid: None };
    assert_eq!(scene.ask("inherited", "guest-ping"), "{\"return\": {}}\n");
    agent.signal(Signal::SIGTERM);
    let (status, stderr) = agent.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn an_agent_that_starts_frozen_says_so_and_makes_no_file() {
    let scene = Scene::new();
    scene.write("qga.state.isfrozen", "");
    let agent = scene.serve(&["-v", "-l", "log"]);
    assert_eq!(scene.ask("s", "guest-fsfreeze-status"), "{\"return\": \"frozen\"}\n");
    assert!(!scene.path("log").exists() && !scene.path("qga.state").exists());
    agent.signal(Signal::SIGKILL);
    let (_, stderr) = agent.end();
    assert!(stderr.contains("warning: previous instance appears to have exited with frozen filesystems"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "written while frozen: {stderr}");
}

#[test]
fn the_packaged_configuration_is_what_the_agent_would_do_without_it() {
    let scene = Scene::new();
    let packaged = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/qemu-ga.conf");
    assert_eq!(outcome(&scene.run(&["-D", "-c", packaged])), outcome(&scene.run(&["-D"])));
}

#[test]
fn the_manual_names_every_option() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/man/qemu-ga.8")).unwrap();
    // In roff a dash that is meant as one is escaped.
    let manual = manual.replace("\\-", "-");
    for option in qemu_ga::cli::Args::command().get_arguments().filter(|option| !option.is_hide_set()) {
        let long = option.get_long().unwrap();
        assert!(manual.contains(&format!("--{long}")), "--{long}");
    }
}
