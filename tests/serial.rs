//! The serial channel over a pseudo-terminal.

mod support;

use std::io::{Read, Write};
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{BaudRate, ControlFlags, InputFlags, LocalFlags, OutputFlags, cfgetospeed, tcgetattr};
use support::{Agent, until};

/// A pseudo-terminal that the agent does not inherit: it would keep its own line open.
fn pseudo_terminal() -> OpenptyResult {
    let pty = openpty(None, None).expect("a pseudo-terminal");
    for side in [&pty.master, &pty.slave] {
        fcntl(side, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("our descriptor");
    }
    pty
}

#[test]
fn the_line_is_raw_and_answers_byte_for_byte() {
    let pty = pseudo_terminal();
    let name = nix::unistd::ttyname(&pty.slave).expect("a name");
    let dir = tempfile::TempDir::new().expect("a directory");
    let mut command = Agent::command(dir.path());
    command.args(["-m", "isa-serial", "-p"]).arg(&name);
    let child = command.spawn().expect("the agent starts");
    let agent = Agent { child, dir };
    let settings = until("the line is raw", || {
        let settings = tcgetattr(pty.slave.as_fd()).ok()?;
        (!settings.local_flags.contains(LocalFlags::ECHO)).then_some(settings)
    });
    assert!(!settings.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ISIG));
    assert!(!settings.input_flags.intersects(InputFlags::ICRNL | InputFlags::IXON | InputFlags::ISTRIP));
    assert!(!settings.output_flags.contains(OutputFlags::OPOST));
    assert!(settings.control_flags.contains(ControlFlags::CS8 | ControlFlags::CREAD));
    assert!(!settings.control_flags.contains(ControlFlags::PARODD), "stray bits of a speed");
    assert_eq!(cfgetospeed(&settings), BaudRate::B38400);

    let mut host = std::fs::File::from(pty.master);
    host.write_all(b"\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":77}}\r\n").expect("a write");
    let expected = b"\xff{\"return\": 77}\n";
    let mut seen = vec![0; expected.len()];
    host.read_exact(&mut seen).expect("a reply");
    assert_eq!(seen, expected);
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_line_that_is_hung_up_ends_the_agent_instead_of_leaving_it_deaf() {
    let pty = pseudo_terminal();
    let name = nix::unistd::ttyname(&pty.slave).expect("a name");
    let dir = tempfile::TempDir::new().expect("a directory");
    let mut command = Agent::command(dir.path());
    command.args(["-m", "isa-serial", "-p"]).arg(&name);
    let mut agent = Agent { child: command.spawn().expect("the agent starts"), dir };
    until("it listens", || {
        let settings = tcgetattr(pty.slave.as_fd()).ok()?;
        (!settings.local_flags.contains(LocalFlags::ECHO)).then_some(())
    });
    drop(pty);
    let status = until("it ends", || agent.child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(0));
    assert!(agent.log().contains("error reading channel"), "{}", agent.log());
}
