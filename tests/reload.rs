//! Policy as the operator sees it: what a start and a reload say of it, and that a reload fails closed.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use support::{Agent, Client, signal, until};

/// An agent with a configuration file that nobody named on its command line.
struct Scene {
    dir: tempfile::TempDir,
    child: Child,
}

impl Scene {
    fn start(conf: &str) -> Scene {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("conf"), conf).expect("a file");
        let mut command = Agent::command(dir.path());
        command.env("QGA_CONF", dir.path().join("conf")).args(["-m", "unix-listen", "-v", "-p"]);
        let child = command.arg(dir.path().join("s")).arg("-l").arg(dir.path().join("log")).spawn().expect("a start");
        let scene = Scene { dir, child };
        scene.until_said("log", "started");
        until("it listens", || std::os::unix::net::UnixStream::connect(scene.path("s")).ok());
        scene
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn until_said(&self, file: &str, text: &str) {
        until(&format!("{text:?} in {file}"), || self.read(file).contains(text).then_some(()));
    }

    /// Has the settings read again; what the log says of that.
    fn reload(&self) -> String {
        let before = self.read("log").len();
        signal(self.child.id(), "HUP");
        until("a word about the reload", || {
            let said = self.read("log").split_off(before);
            said.contains("reloaded").then_some(said)
        })
    }

    fn ask(&self, command: &str) -> Value {
        let stream = std::os::unix::net::UnixStream::connect(self.path("s")).expect("it listens");
        Client::new(stream).call(command, json!({}))
    }

    fn refuses(&self, command: &str) -> bool {
        self.ask(command)["error"]["desc"] == format!("Command {command} has been disabled: the command is not allowed")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reload_without_the_file_or_its_groups_keeps_the_policy_and_says_so() {
    let scene = Scene::start("[general]\nallow-rpcs=guest-ping,guest-sync\n");
    assert!(scene.refuses("guest-get-host-name"));
    let text = scene.read("conf");
    for less in [None, Some(""), Some("# emptied\n"), Some("[general\n")] {
        match less {
            None => fs::remove_file(scene.path("conf")).expect("a file"),
            Some(less) => fs::write(scene.path("conf"), less).expect("a file"),
        }
        let said = scene.reload();
        assert!(said.contains("critical: configuration not reloaded, the old one stays: "), "{less:?}: {said}");
        assert!(scene.refuses("guest-get-host-name"), "{less:?}");
        assert_eq!(scene.ask("guest-ping"), json!({"return": {}}));
    }
    scene.until_said("stderr", "critical: configuration not reloaded, the old one stays: ");
    fs::write(scene.path("conf"), text).expect("a file");
    assert!(scene.reload().contains("info: configuration reloaded"));
}

#[test]
fn a_policy_that_becomes_wider_is_a_warning_with_the_names() {
    let scene = Scene::start("[general]\nblock-rpcs=guest-exec,guest-get-host-name\n");
    fs::write(scene.path("conf"), "[general]\nblock-rpcs=guest-exec,guest-ping\n").expect("a file");
    let text = "warning: the new configuration allows what was refused: guest-get-host-name\n";
    let said = scene.reload();
    assert!(said.contains(text), "{said}");
    scene.until_said("stderr", text);
    assert!(scene.refuses("guest-ping") && !scene.refuses("guest-get-host-name"));
    let said = scene.reload();
    assert!(!said.contains("allows what was refused"), "{said}");
}

#[test]
fn slips_in_the_lists_are_warnings_at_the_start_and_at_every_reload() {
    let scene = Scene::start("[general]\nblock-rpcs=guest_exec,guest-ping guest-info\n");
    let texts = [
        "warning: 'guest_exec' in the block list is not a command\n",
        "warning: the names in 'guest-ping guest-info' of the block list are not separated by commas\n",
    ];
    for text in texts {
        scene.until_said("stderr", text);
        assert!(scene.read("log").contains(text));
    }
    for _ in 0..2 {
        let said = scene.reload();
        assert!(texts.iter().all(|text| said.contains(text)), "{said}");
    }
    until("stderr has them all", || (scene.read("stderr").matches(texts[0]).count() == 3).then_some(()));
    assert!(scene.refuses("guest-ping") && scene.refuses("guest-info"));
}

#[test]
fn slips_on_the_command_line_are_seen_by_the_caller_of_a_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let args = ["-d", "-m", "unix-listen", "-p", "s", "-l", "log", "-b", "Guest-Exec", "-a", "guest-ping guest-sync"];
    let mut command = Agent::command(dir.path());
    let output = command.args(args).current_dir(dir.path()).stderr(Stdio::piped()).output().expect("a start");
    let pid = fs::read_to_string(dir.path().join("pid")).expect("a daemon").trim().parse().expect("a number");
    signal(pid, "KILL");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for said in [&*stderr, &fs::read_to_string(dir.path().join("log")).expect("a log")] {
        assert!(said.contains("warning: 'Guest-Exec' in the block list is not a command\n"), "{said}");
        assert!(
            said.contains("warning: no name in the allow list is that of a command: nothing is allowed\n"),
            "{said}"
        );
    }
}

#[test]
fn numbers_out_of_range_do_not_keep_the_agent_from_its_start() {
    let text = "[fsfreeze]\ntimeout=9223372036854775807\nhook-timeout=18446744073709551615\n";
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("conf"), text).expect("a file");
    // It is killed, never told to end: that would thaw this machine's file systems.
    let boot_id = fs::read("/proc/sys/kernel/random/boot_id").expect("an id");
    fs::write(dir.path().join("qga.state.isfrozen"), boot_id).expect("a file");
    let socket = dir.path().join("s");
    let mut command = Agent::command(dir.path());
    command.env("QGA_CONF", dir.path().join("conf")).args(["-m", "unix-listen", "-p"]).arg(&socket);
    let mut child = command.spawn().expect("a start");
    let stream = until("it listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    assert_eq!(Client::new(stream).ask("guest-fsfreeze-status", json!({})), "frozen");
    child.kill().and_then(|()| child.wait()).expect("our child");
    let said = fs::read_to_string(Path::new(dir.path()).join("stderr")).expect("a file");
    assert!(said.contains("[fsfreeze] timeout=9223372036854775807 is too large, 31536000 is taken"), "{said}");
}
