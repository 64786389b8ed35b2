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

/// Users `ghost` (12345) and `root`, in a mount namespace of their own, and the rights of the agent, all
/// if none are named.
struct Machine(TempDir, &'static str);

/// What the policies of Fedora and RHEL give the agent for this (`virt_qemu_ga_manage_ssh`).
const BY_POLICY: &str = "-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+sys_admin";

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
        Machine(dir, "")
    }

    fn confined() -> Machine {
        Machine(Machine::new().0, BY_POLICY)
    }

    fn make_dir(&self, name: &str, owner: u32, mode: u32) {
        fs::create_dir(self.path(name)).expect("a directory");
        self.set(name, owner, mode);
    }

    fn make_file(&self, name: &str, text: &str, owner: u32, mode: u32) {
        fs::write(self.path(name), text).expect("a file");
        self.set(name, owner, mode);
    }

    fn set(&self, name: &str, owner: u32, mode: u32) {
        chown(self.path(name), Some(owner), Some(owner)).expect("chown");
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).expect("chmod");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("home").join(name)
    }

    fn ask(&self, action: &Value) -> Value {
        let script = "mount --bind $0/passwd /etc/passwd && mount --bind $0/group /etc/group && \
             exec ${2:+setpriv --bounding-set=$2 --inh-caps=$2} $1 authorized-keys-worker";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(self.0.path()).args([QEMU_GA, self.1]);
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

#[test]
fn keys_where_selinux_does_not_let_the_agent_become_the_user() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("not root, so there are no rights to take away");
    }
    let machine = Machine::confined();
    let add = json!({"Add": {"keys": ["ssh-rsa A", "ssh-rsa B"], "reset": false}});
    assert_eq!(machine.ask(&add), json!({"Ok": []}));
    assert_eq!(owner(machine.path(".ssh")), (12345, 12346, 0o700));
    assert_eq!(owner(machine.path(".ssh/authorized_keys")), (12345, 12346, 0o600));
    assert_eq!(machine.ask(&json!({"Remove": {"keys": ["ssh-rsa A"]}})), json!({"Ok": []}));
    assert_eq!(machine.ask(&json!("Get")), json!({"Ok": ["ssh-rsa B"]}));
    assert_eq!(owner(machine.path(".ssh/authorized_keys")), (12345, 12346, 0o600));
}

/// What becoming the user keeps from him is kept from him without that, too.
#[test]
fn rights_that_are_not_the_users_are_not_used_for_him() {
    if !nix::unistd::geteuid().is_root() {
        return support::skip("not root, so there are no rights to take away");
    }
    let add = json!({"Add": {"keys": ["ssh-rsa A"], "reset": false}});
    let denied = |machine: &Machine, action: &Value| {
        let answer = machine.ask(action);
        let text = answer["Err"].as_str().unwrap_or_default();
        assert!(text.ends_with("Permission denied"), "{action}: {answer}");
    };
    for machine in [Machine::new(), Machine::confined()] {
        // A hard link to a secret of root's.
        machine.make_dir(".ssh", 12345, 0o700);
        machine.make_file("secret", "ssh-rsa SECRET\n", 0, 0o600);
        fs::hard_link(machine.path("secret"), machine.path(".ssh/authorized_keys")).expect("a link");
        denied(&machine, &json!("Get"));
        denied(&machine, &add);
        assert_eq!(fs::read_to_string(machine.path(".ssh/authorized_keys")).expect("a file"), "ssh-rsa SECRET\n");
        // What root lets everybody read may be read, and replaced in a directory of the user's.
        machine.set("secret", 0, 0o644);
        assert_eq!(machine.ask(&json!("Get")), json!({"Ok": ["ssh-rsa SECRET"]}));
        assert_eq!(machine.ask(&add), json!({"Ok": []}));
        assert_eq!(owner(machine.path(".ssh/authorized_keys")), (12345, 12346, 0o600));
        // A directory of root's.
        machine.set(".ssh", 0, 0o755);
        denied(&machine, &json!({"Remove": {"keys": ["ssh-rsa A"]}}));
        assert_eq!(machine.ask(&json!("Get")), json!({"Ok": ["ssh-rsa SECRET", "ssh-rsa A"]}));
        machine.set(".ssh", 0, 0o700);
        denied(&machine, &json!("Get"));
        // A home of root's.
        fs::remove_dir_all(machine.path(".ssh")).expect("gone");
        machine.set("", 0, 0o755);
        denied(&machine, &add);
        assert!(!machine.path(".ssh").exists());
    }
}
