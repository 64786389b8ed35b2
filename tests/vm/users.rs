//! `guest-get-users`: people who really logged in, on a console and over the network.

use std::time::Instant;

use serde_json::Value;

use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::harness::shell::Shell;
use crate::harness::{SOON, until};
use crate::{people, shared};

const NONE: &Value = &Value::Null;

/// Names and login times in microseconds, by name.
fn users(agent: &mut Agent) -> Vec<(String, u64)> {
    let reply = agent.get("guest-get-users", NONE);
    let users = reply.as_array().expect("an array").iter().map(|user| {
        assert_eq!(user.as_object().map(|members| members.len()), Some(2), "no domain on Linux: {user}");
        let seconds = user["login-time"].as_f64().expect("a number");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of this century")]
        let micros = (seconds * 1e6).round() as u64;
        (user["user"].as_str().expect("a name").to_owned(), micros)
    });
    let mut users: Vec<_> = users.collect();
    users.sort();
    users
}

/// What logind knows of the sessions of a user: when each began, the oldest first. Newer ones count
/// the user's service manager as well, which is nobody.
fn sessions(shell: &mut Shell, user: &str) -> Vec<u64> {
    let script = format!(
        "for id in $(loginctl list-sessions --no-legend | awk '$3 == \"{user}\" && !/ manager/ {{ print $1 }}'); do \
         path=$(busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager GetSession s $id); \
         path=${{path#o \\\"}}; busctl get-property org.freedesktop.login1 ${{path%\\\"}} org.freedesktop.login1.Session Timestamp; \
         done | awk '{{ print $2 }}' | sort -n"
    );
    shell.ok(&script).lines().map(|line| line.parse().expect("microseconds")).collect()
}

/// When the entries of a user in utmp were written, the oldest first.
fn entries(shell: &mut Shell, user: &str) -> Vec<u64> {
    let script = format!(
        "perl -e 'open F, \"</run/utmp\" or exit; while (read(F, $record, 384) == 384) {{ \
         ($type, $name, $seconds, $micros) = unpack(\"s x42 Z32 x264 L L\", $record); \
         printf \"%d%06d\\n\", $seconds, $micros if $type == 7 && $name eq \"{user}\" }}' | sort -n"
    );
    shell.ok(&script).lines().map(|line| line.parse().expect("microseconds")).collect()
}

fn wait_sessions(guest: &mut Guest, count: usize) {
    let counted = format!("test $(loginctl list-sessions --no-legend | grep -vc ' manager') = {count}");
    guest.shell.until(&format!("logind has {count} sessions"), &counted);
}

/// A guest without logind: what the login program wrote.
pub fn known_by_utmp(guest: &mut Guest, agent: &mut Agent) {
    guest.shell.ok("groupadd carol && useradd -m -g carol -s /bin/sh carol");
    assert_eq!(users(agent), [], "the runlevel's record is nobody's");
    people::set_password(agent, "carol", "first secret", false).expect("set");
    let mut console = people::console_of_init(guest);
    assert!(console.log_in("carol", "first secret"));
    console.enter("tty");
    console.expect(&["/dev/ttyS1"]);
    // Newer login programs write none.
    let written = entries(&mut guest.shell, "carol");
    let expected: Vec<_> = written.first().map(|since| ("carol".to_owned(), *since)).into_iter().collect();
    assert_eq!(users(agent), expected);
    console.enter("exit");
    guest.shell.until("she has left", "! pgrep -u carol");
    until("init has noted it", SOON, || entries(&mut guest.shell, "carol").is_empty().then_some(()));
    assert_eq!(users(agent), []);
}

#[test]
fn users_on_a_console_and_over_the_network() {
    if shared::known_of_stock("knows of nobody who is not in utmp") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    for user in ["ann", "bob"] {
        people::make(&mut guest, user);
    }
    assert_eq!(users(&mut agent), [], "nobody");

    people::set_password(&mut agent, "ann", "first secret", false).expect("set");
    let mut console = people::console(&mut guest);
    // The getty's own entry in utmp is nobody's.
    console.expect(&["login: "]);
    assert_eq!(users(&mut agent), []);
    console.enter("");
    assert!(!console.log_in("ann", "another secret"));
    assert!(console.log_in("ann", "first secret"));
    console.enter("tty");
    console.expect(&["/dev/ttyS1"]);
    let on_console = *sessions(&mut guest.shell, "ann").first().expect("a session");
    // Newer distributions have no utmp at all.
    let in_utmp = entries(&mut guest.shell, "ann").first().copied();
    let since = in_utmp.map_or(on_console, |entry| entry.min(on_console));
    let ann = |since: u64| ("ann".to_owned(), since);
    assert_eq!(users(&mut agent), [ann(since)]);

    // The same user once more, and another one; only with a terminal does sshd write utmp.
    let key = people::key(&mut guest);
    for user in ["ann", "bob"] {
        agent.get("guest-ssh-add-authorized-keys", &people::keys(user, &[&key]));
    }
    people::ssh_session(&mut guest, "ann", true);
    people::ssh_session(&mut guest, "bob", false);
    let by_ssh = entries(&mut guest.shell, "ann").get(1).copied();
    assert_eq!(by_ssh.is_some(), in_utmp.is_some());
    assert!(entries(&mut guest.shell, "bob").is_empty());
    let [_, second] = sessions(&mut guest.shell, "ann")[..] else { panic!("two sessions of ann") };
    let [bob] = sessions(&mut guest.shell, "bob")[..] else { panic!("one session of bob") };
    let bob = ("bob".to_owned(), bob);
    assert_eq!(users(&mut agent), [ann(since), bob.clone()], "each once, with the oldest login");

    if in_utmp.is_some() {
        guest.shell.ok("mv /run/utmp /run/utmp.away");
        assert_eq!(users(&mut agent), [ann(on_console), bob.clone()], "logind alone knows all");
        guest.shell.ok("mv /run/utmp.away /run/utmp");
    }

    // Without logind there is utmp, and nobody waits for long.
    guest.shell.ok("kill -STOP $(pidof systemd-logind)");
    let asked = Instant::now();
    assert_eq!(users(&mut agent), in_utmp.map(ann).into_iter().collect::<Vec<_>>());
    assert!(asked.elapsed().as_secs() < 5, "a stuck logind takes {:?}", asked.elapsed());
    guest.shell.ok("kill -CONT $(pidof systemd-logind)");

    console.enter("exit");
    console.expect(&["login: "]);
    wait_sessions(&mut guest, 2);
    let since = by_ssh.map_or(second, |entry| entry.min(second));
    assert_eq!(users(&mut agent), [ann(since), bob]);
    guest.shell.ok("pkill -KILL -x sleep -u ann,bob");
    wait_sessions(&mut guest, 0);
    assert_eq!(users(&mut agent), []);
    people::leave_console(&mut guest);
}
