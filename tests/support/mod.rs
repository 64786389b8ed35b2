//! An agent process of its own for a test, and a client that talks to it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Everything that is waited for comes within this, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running `qemu-ga` in the foreground; killed when dropped.
pub struct Agent {
    pub child: Child,
    pub dir: TempDir,
}

impl Agent {
    /// Listens on a Unix socket in a directory of its own.
    pub fn start(args: &[&str]) -> Agent {
        let dir = TempDir::new().expect("a directory");
        let socket = dir.path().join("s");
        let mut command = Agent::command(dir.path());
        command.args(["-m", "unix-listen", "-p"]).arg(&socket).args(args);
        let child = command.spawn().expect("the agent starts");
        let agent = Agent { child, dir };
        until("the socket is there", || UnixStream::connect(&socket).ok());
        agent
    }

    /// The same in surroundings that a shell makes before; `wrapper` is what runs the shell, such as
    /// `unshare`, and `$D` in the script the directory.
    pub fn start_after(wrapper: &[&str], script: &str) -> Agent {
        let dir = TempDir::new().expect("a directory");
        let socket = dir.path().join("s");
        let agent = Agent::command(dir.path());
        let words: Vec<_> = wrapper.iter().copied().chain(["sh", "-ec"]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(format!("{script}\nexec \"$@\""))
            .arg("sh")
            .arg(agent.get_program())
            .args(agent.get_args())
            .args(["-m", "unix-listen", "-p"])
            .arg(&socket)
            .env("QGA_CONF", "")
            .env("D", dir.path())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr")).expect("a file"));
        let child = command.spawn().expect("the shell runs");
        let agent = Agent { child, dir };
        until("the socket is there", || UnixStream::connect(&socket).ok());
        agent
    }

    /// The program; `QGA_UNDER_TEST` names another one, such as the C one, to see what that does in
    /// the same places.
    pub fn program() -> PathBuf {
        let other = std::env::var_os("QGA_UNDER_TEST");
        other.map_or_else(|| env!("CARGO_BIN_EXE_qemu-ga").into(), PathBuf::from)
    }

    /// The program with settings that keep it off this machine's files.
    pub fn command(dir: &Path) -> Command {
        let mut command = Command::new(Agent::program());
        command
            .env("QGA_CONF", "")
            .arg("-t")
            .arg(dir)
            .arg("-f")
            .arg(dir.join("pid"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.join("stderr")).expect("a file"));
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.path("s")).expect("it listens");
        Client::new(stream)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// Asks it to end, and gives its exit status.
    pub fn terminate(mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        until("it ends", || self.child.try_wait().expect("our child")).code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by its name.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.expect("kill runs").success(), "no process {pid}");
}

/// Polls for something that will come, and says what it was that did not.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says, past the capture of test output, that a test cannot run here.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("test");
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// One connection.
pub struct Client {
    pub stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Client { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the agent reads");
    }

    /// The next line without its end; `None` at the end of the connection.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        let mut piece = [0; 65536];
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Some(line);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no reply in time: {error}"),
            }
        }
    }

    /// The next reply.
    pub fn reply(&mut self) -> Value {
        let line = self.line().expect("a reply, not the end");
        serde_json::from_slice(&line).expect("JSON")
    }

    /// The next reply of an agent that may die before it.
    pub fn last_words(&mut self) -> Option<Value> {
        let mut piece = [0; 65536];
        while !self.buffer.contains(&b'\n') {
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("neither a reply nor an end: {error}"),
            }
        }
        Some(self.reply())
    }

    /// Sends a command and gives the whole reply.
    pub fn call(&mut self, command: &str, arguments: Value) -> Value {
        self.send(serde_json::json!({"execute": command, "arguments": arguments}).to_string());
        self.reply()
    }

    /// Sends a command that succeeds and gives what it returns.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let reply = self.call(command, arguments);
        reply.get("return").unwrap_or_else(|| panic!("{command}: {reply}")).clone()
    }

    /// Whether nothing comes for a while. For what must not happen; never to wait for something.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a socket");
        let outcome = self.stream.read(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        outcome.is_err() && self.buffer.is_empty()
    }
}
