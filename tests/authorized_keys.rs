//! The process that handles a user's keys: `authorized-keys-worker` of the real program.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const QEMU_GA: &str = env!("CARGO_BIN_EXE_qemu-ga");

fn talk(mut command: Command, request: &Value) -> Value {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(request.to_string().as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    serde_json::from_slice(&output.stdout).expect("an answer")
}

#[test]
fn an_unknown_user_is_named() {
    let mut worker = Command::new(QEMU_GA);
    worker.arg("authorized-keys-worker");
    let answer = talk(worker, &json!({"user": "nosuchuser-zz", "action": "Get"}));
    assert_eq!(answer, json!({"Err": "failed to lookup user 'nosuchuser-zz': No such user"}));
}

#[test]
fn a_request_that_makes_no_sense_is_answered() {
    let mut worker = Command::new(QEMU_GA);
    worker.arg("authorized-keys-worker");
    assert!(talk(worker, &json!({"user": 1}))["Err"].is_string());
}

/// Users `ghost` (12345) and `root`, in a mount namespace of their own.
struct Machine(TempDir);

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("a directory");
        chown(&home, Some(12345), Some(12346)).expect("chown");
        let passwd = format!("root:x:0:0::/root:/bin/sh\nghost:x:12345:12346::{}:/bin/sh\n", home.display());
        fs::write(dir.path().join("passwd"), passwd).expect("a file");
        fs::write(dir.path().join("group"), "root:x:0:\nghost:x:12346:\nmore:x:12347:ghost\n").expect("a file");
        Machine(dir)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("home").join(name)
    }

    fn ask(&self, action: &Value) -> Value {
        let script =
            "mount --bind $0/passwd /etc/passwd && mount --bind $0/group /etc/group && exec $1 authorized-keys-worker";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(self.0.path()).arg(QEMU_GA);
        talk(command, &json!({"user": "ghost", "action": action}))
    }
}

fn owner(path: impl AsRef<Path>) -> (u32, u32, u32) {
    let meta = fs::metadata(path).expect("it is there");
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

#[test]
fn files_belong_to_the_user() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("not root, so it cannot become another user");
    }
    let machine = Machine::new();
    let add = json!({"Add": {"keys": ["ssh-rsa A"], "reset": false}});
    assert_eq!(machine.ask(&add), json!({"Ok": []}));
    assert_eq!(owner(machine.path(".ssh")), (12345, 12346, 0o700));
    assert_eq!(owner(machine.path(".ssh/authorized_keys")), (12345, 12346, 0o600));
    assert_eq!(machine.ask(&json!("Get")), json!({"Ok": ["ssh-rsa A"]}));
}

#[test]
fn what_the_user_may_not_read_is_an_error_and_stays() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("not root, so it cannot become another user");
    }
    let machine = Machine::new();
    fs::create_dir(machine.path(".ssh")).expect("a directory");
    chown(machine.path(".ssh"), Some(12345), Some(12346)).expect("chown");
    let file = machine.path(".ssh/authorized_keys");
    fs::write(&file, "ssh-rsa OLD\n").expect("a file");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("chmod");
    for action in [
        json!("Get"),
        json!({"Add": {"keys": ["ssh-rsa A"], "reset": false}}),
        json!({"Remove": {"keys": ["ssh-rsa OLD"]}}),
    ] {
        let answer = machine.ask(&action);
        assert!(answer["Err"].as_str().is_some_and(|text| text.ends_with("Permission denied")), "{answer}");
    }
    assert_eq!(fs::read_to_string(&file).expect("a file"), "ssh-rsa OLD\n");
}

#[test]
fn a_directory_that_the_user_may_not_write_is_an_error() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("not root, so it cannot become another user");
    }
    let machine = Machine::new();
    fs::create_dir(machine.path(".ssh")).expect("a directory");
    let answer = machine.ask(&json!({"Add": {"keys": ["ssh-rsa A"], "reset": false}}));
    assert!(answer["Err"].as_str().is_some_and(|text| text.contains("Permission denied")), "{answer}");
    assert_eq!(fs::read_dir(machine.path(".ssh")).expect("a directory").count(), 0);
}
