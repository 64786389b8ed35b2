//! Users of the guest, and the ways in which they get in: the console, ssh, su.

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::harness::shell::{Output, Shell, base64};
use crate::harness::terminal::Terminal;

/// A key pair, and ssh with it. The host key is as new as the guest.
pub const KEY: &str = "/run/people/key";
const SSH: &str = "ssh -i /run/people/key -o BatchMode=yes -o IdentitiesOnly=yes -o LogLevel=ERROR \
                   -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";

/// The number of a user, which is also that of his group.
fn number(user: &str) -> u32 {
    1000 + user.bytes().map(u32::from).sum::<u32>()
}

/// A user with a home directory and no password, as at the first time.
pub fn make(guest: &mut Guest, user: &str) {
    make_in(&mut guest.shell, user);
}

pub fn make_in(shell: &mut Shell, user: &str) {
    let id = number(user);
    shell.ok(&format!(
        "mkdir -p /run/people; test -e {KEY} || ssh-keygen -q -t ed25519 -N '' -C tester -f {KEY}; \
         loginctl terminate-user {user} 2>/dev/null; pkill -KILL -u {user}; userdel -rf {user} 2>/dev/null; \
         groupadd -g {id} {user} && useradd -m -u {id} -g {id} -s /bin/sh {user}"
    ));
}

pub fn set_password(agent: &mut Agent, user: &str, password: &str, crypted: bool) -> Result<(), String> {
    let password = base64(password.as_bytes());
    let arguments = json!({"username": user, "password": password, "crypted": crypted});
    match agent.call("guest-set-user-password", &arguments) {
        Ok(reply) => {
            assert_eq!(reply, json!({}));
            Ok(())
        }
        Err(refusal) => Err(refusal.text),
    }
}

/// The public key of `KEY`.
pub fn key(guest: &mut Guest) -> String {
    guest.shell.ok(&format!("cat {KEY}.pub"))
}

pub fn keys(user: &str, keys: &[&str]) -> Value {
    json!({"username": user, "keys": keys})
}

/// Run a command by ssh.
pub fn ssh(guest: &mut Guest, user: &str, command: &str) -> Output {
    guest.shell.ok("systemctl start ssh");
    guest.shell.run(&format!("{SSH} {user}@127.0.0.1 '{command}'"))
}

/// A session by ssh that stays until its user is killed; with a terminal, so that sshd enters it
/// into utmp as well.
pub fn ssh_session(guest: &mut Guest, user: &str, with_terminal: bool) {
    guest.shell.ok("systemctl start ssh");
    let option = if with_terminal { "-tt" } else { "" };
    guest.shell.ok(&format!("{SSH} {option} {user}@127.0.0.1 'echo in; exec sleep 1000' >/run/people/ssh.log 2>&1 &"));
    guest.shell.until("the session begins", "grep -q in /run/people/ssh.log");
}

/// Whether PAM lets `user` in with this password. Asked by nobody, since root needs none.
pub fn su(guest: &mut Guest, user: &str, password: &str) -> bool {
    su_in(&mut guest.shell, user, password)
}

pub fn su_in(shell: &mut Shell, user: &str, password: &str) -> bool {
    let become_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let output = shell.run(&format!("printf '%s\\n' '{password}' | {become_nobody} su {user} -c 'id -un'"));
    let is_in = output.text.ends_with(user);
    assert_eq!(output.status == 0, is_in, "{}", output.text);
    is_in
}

/// A getty on the second serial line, as `serial-getty@.service` would start it.
pub fn console(guest: &mut Guest) -> Terminal {
    guest.shell.ok("systemctl reset-failed console 2>/dev/null; \
         systemd-run -q --unit=console -p UtmpIdentifier=ttyS1 -p TTYVHangup=yes -p TTYPath=/dev/ttyS1 -p Restart=always \
         -p RestartSec=0 agetty --noclear --keep-baud ttyS1 115200,9600 vt100");
    guest.terminal()
}

/// The same under sysvinit: whoever started a getty notes in utmp that its session is over.
pub fn console_of_init(guest: &mut Guest) -> Terminal {
    guest.shell.ok(
        "echo 'T1:2345:respawn:/sbin/agetty --noclear --keep-baud ttyS1 115200,9600 vt100' >>/etc/inittab; telinit q",
    );
    guest.terminal()
}

pub fn leave_console(guest: &mut Guest) {
    guest.shell.ok("systemctl stop console");
}
