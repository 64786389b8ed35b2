//! Passwords: `guest-set-user-password`.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Command, Ctx, Empty};
use crate::host::Host;
use crate::host::linux::selinux;
use crate::host::run::Program;
use crate::log::AUDIT;
use crate::protocol::base64::Payload;
use crate::protocol::error::{Error, Result, echo};

pub(super) const COMMANDS: &[Command] =
    &[Command::new("guest-set-user-password", |cx, a| cx.call(set_user_password, a)).secret()];

const ACTION: &str = "set user password";

/// The tool of the shadow suite, which knows about PAM, SELinux and the lock on the file.
const CHPASSWD: &str = "chpasswd";

/// Has the same tool in it, on images without a shadow suite.
const BUSYBOX: &str = "busybox";

const SHADOW: &str = "/etc/shadow";

#[derive(Deserialize)]
struct SetUserPassword<'a> {
    username: &'a str,
    password: Secret<'a>,
    crypted: bool,
}

/// Text that must not get into a log.
#[derive(Deserialize)]
struct Secret<'a>(&'a str);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Sets the password of a user that exists; `crypted` says that it was hashed by the caller.
fn set_user_password(cx: &Ctx<'_>, args: SetUserPassword<'_>) -> Result<Empty> {
    let user = args.username;
    let password = Payload::parse(args.password.0)?.to_secret();
    if password.iter().any(|byte| matches!(byte, b'\n' | b'\0')) {
        return Err(Error::new("forbidden characters in raw password"));
    }
    if user.contains(['\n', ':', '\0']) {
        return Err(Error::new("forbidden characters in username"));
    }
    let host = cx.host;
    let shown = echo(user);
    tracing::info!(target: AUDIT, "guest-set-user-password called: user {shown:?}");
    // Some clients set the same hash again every few minutes (kubevirt/kubevirt#7813). No SELinux
    // policy lets the agent find out, and each attempt would be reported to the administrator.
    if args.crypted && !selinux::is_confined(host) && hash(host, user).is_some_and(|now| *now == *password) {
        return Ok(Empty {});
    }
    // Large enough from the start: growing would leave a copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(user.len() + password.len() + 2));
    line.extend_from_slice(user.as_bytes());
    line.push(b':');
    line.extend_from_slice(&password);
    line.push(b'\n');

    let crypted = args.crypted.then_some("-e");
    let program = if host.program(CHPASSWD).is_none() && host.program(BUSYBOX).is_some() {
        Program::new(BUSYBOX).args(std::iter::once(CHPASSWD).chain(crypted))
    } else {
        Program::new(CHPASSWD).args(crypted)
    };
    host.run_to(ACTION, &program.input(&line))?;
    Ok(Empty {})
}

/// The hash that a local user has now.
fn hash(host: &Host, user: &str) -> Option<Zeroizing<Vec<u8>>> {
    let shadow = Zeroizing::new(host.read(SHADOW).ok()?);
    let mut fields = shadow.split(|&b| b == b'\n').map(|line| line.split(|&b| b == b':'));
    let mut fields = fields.find_map(|mut fields| (fields.next() == Some(user.as_bytes())).then_some(fields))?;
    Some(Zeroizing::new(fields.next()?.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::agent::Agent;
    use crate::commands::testing::{self, call};
    use crate::host::fake::FakeKernel;

    /// A machine with the given program, which notes its arguments and its input.
    fn machine(program: &str, end: &str) -> (TempDir, Agent) {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("usr/sbin")).expect("a directory");
        fs::create_dir(root.path().join("etc")).expect("a directory");
        fs::write(root.path().join("etc/shadow"), "root:*:1::::::\nbob:$6$x$y:1::::::\n").expect("a file");
        let note = root.path().join("note");
        let script = format!("#!/bin/sh\necho \"$*\" >{0}\ncat >>{0}\n{end}\n", note.display());
        let file = root.path().join("usr/sbin").join(program);
        fs::write(&file, script).expect("a file");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("chmod");
        let agent = testing::agent(Host::new(root.path(), Box::new(FakeKernel::default())), testing::config());
        (root, agent)
    }

    fn set(agent: &Agent, user: &str, password: &[u8], crypted: bool) -> std::result::Result<Value, String> {
        let mut base64 = Vec::new();
        crate::protocol::base64::encode(password, &mut base64);
        let password = String::from_utf8(base64).expect("ASCII");
        let args = json!({"username": user, "password": password, "crypted": crypted});
        call(agent, "guest-set-user-password", args)
    }

    fn note(root: &TempDir) -> Option<String> {
        fs::read_to_string(root.path().join("note")).ok()
    }

    #[test]
    fn the_password_goes_in_by_standard_input_only() {
        let (root, agent) = machine("chpasswd", "");
        assert_eq!(set(&agent, "bob", b"a:b c", false), Ok(json!({})));
        assert_eq!(note(&root).as_deref(), Some("\nbob:a:b c\n"));
        assert_eq!(set(&agent, "bob", b"$6$x$z", true), Ok(json!({})));
        assert_eq!(note(&root).as_deref(), Some("-e\nbob:$6$x$z\n"));
    }

    #[test]
    fn busybox_will_do() {
        let (root, agent) = machine("busybox", "");
        assert_eq!(set(&agent, "bob", b"x", true), Ok(json!({})));
        assert_eq!(note(&root).as_deref(), Some("chpasswd -e\nbob:x\n"));
    }

    #[test]
    fn the_hash_that_is_there_already_is_not_set_again() {
        let (root, agent) = machine("chpasswd", "");
        assert_eq!(set(&agent, "bob", b"$6$x$y", true), Ok(json!({})));
        assert_eq!(note(&root), None);
        assert_eq!(set(&agent, "bob", b"$6$x$y", false), Ok(json!({})));
        assert!(note(&root).is_some(), "as a password it is another one");
    }

    #[test]
    fn selinux_has_nothing_to_report_about_shadow() {
        let (root, agent) = machine("chpasswd", "");
        fs::create_dir_all(root.path().join("proc/thread-self/attr")).expect("a directory");
        fs::write(root.path().join("proc/thread-self/attr/current"), "system_u:system_r:virt_qemu_ga_t:s0\0")
            .expect("a file");
        assert_eq!(set(&agent, "bob", b"$6$x$y", true), Ok(json!({})));
        assert_eq!(note(&root).as_deref(), Some("-e\nbob:$6$x$y\n"), "set without a look at what is there");
    }

    #[test]
    fn what_would_make_another_line_is_refused() {
        let (root, agent) = machine("chpasswd", "");
        let password = Err("forbidden characters in raw password".to_owned());
        assert_eq!(set(&agent, "bob", b"x\nroot:y", false), password);
        assert_eq!(set(&agent, "bob", b"x\0y", false), password, "and not cut");
        for user in ["bob\nroot", "bob:x", "bob\0"] {
            assert_eq!(set(&agent, user, b"x", false), Err("forbidden characters in username".to_owned()));
        }
        assert_eq!(note(&root), None);
    }

    #[test]
    fn what_the_program_says_is_in_the_error() {
        let (_root, agent) = machine("chpasswd", "echo 'chpasswd: no such user' >&2; exit 1");
        let error = set(&agent, "bob", b"x", false).expect_err("it fails");
        assert_eq!(error, "child process has failed to set user password: chpasswd: no such user\n");
        let (_root, agent) = machine("chpasswd", "exit 3");
        let error = set(&agent, "bob", b"x", false).expect_err("it fails");
        assert_eq!(error, "child process has failed to set user password: exit status 3");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret("aGk=")), "<hidden>");
    }
}
