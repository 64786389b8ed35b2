//! Freezing and thawing, with a program of the guest that wants to write meanwhile.

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::agent::Agent;
use crate::harness::guest::Guest;
use crate::{by_hand, shared};

const NONE: &Value = &Value::Null;

fn status(agent: &mut Agent) -> Value {
    agent.get("guest-fsfreeze-status", NONE)
}

/// `touch` in the background; its process id.
fn touch(guest: &mut Guest, path: &str) -> String {
    guest.shell.ok(&format!("touch {path} >/dev/null 2>&1 & echo $!"))
}

fn wait_blocked(guest: &mut Guest, pid: &str) {
    guest.shell.until("touch blocks", &format!("grep -q '^State:.D' /proc/{pid}/status"));
}

fn wait_finished(guest: &mut Guest, pid: &str, path: &str) {
    guest.shell.until("touch finishes after the thaw", &format!("! test -e /proc/{pid} && test -e {path}"));
}

#[test]
fn nobody_writes_between_freeze_and_thaw() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    assert_eq!(status(&mut agent), "thawed");
    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    assert!(frozen.as_u64().is_some_and(|count| count >= 3), "/, /home and /srv at least: {frozen}");
    assert_eq!(status(&mut agent), "frozen");

    let on_ext4 = touch(&mut guest, "/home/foo");
    let on_xfs = touch(&mut guest, "/srv/foo");
    wait_blocked(&mut guest, &on_ext4);
    wait_blocked(&mut guest, &on_xfs);

    let refusal = agent.refused("guest-file-open", &json!({"path": "/tmp/testqga", "mode": "w"}));
    assert_eq!(refusal.class, "CommandNotFound", "{}", refusal.text);
    agent.refused("guest-fsfreeze-freeze", NONE);
    assert_eq!(agent.get("guest-ping", NONE), json!({}));
    // All that time the writers got nowhere.
    wait_blocked(&mut guest, &on_ext4);
    wait_blocked(&mut guest, &on_xfs);
    guest.shell.ok("! test -e /home/foo && ! test -e /srv/foo");

    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen, "thaws as many as were frozen");
    assert_eq!(status(&mut agent), "thawed");
    wait_finished(&mut guest, &on_ext4, "/home/foo");
    wait_finished(&mut guest, &on_xfs, "/srv/foo");
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), 0, "clients thaw once more to be sure");
}

#[test]
fn freeze_list_freezes_what_is_named() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    assert_eq!(agent.get("guest-fsfreeze-freeze-list", &json!({"mountpoints": ["/srv"]})), 1);
    assert_eq!(status(&mut agent), "frozen");
    guest.shell.ok("touch /home/foo");
    let pid = touch(&mut guest, "/srv/foo");
    wait_blocked(&mut guest, &pid);
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), 1);
    wait_finished(&mut guest, &pid, "/srv/foo");
    assert_eq!(status(&mut agent), "thawed");
}

/// journald waits for the frozen disk then, and whoever waits for journald would wait with it.
#[test]
fn a_journal_on_the_frozen_root_holds_nobody_up_and_loses_nothing() {
    let Some(mut guest) = shared::systemd() else { return };
    guest.shell.ok("mkdir -p /var/log/journal && systemctl restart systemd-journald && journalctl --flush && \
         journalctl -q --header | grep -q /var/log/journal");
    let mut agent = guest.agent();
    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    // More than sockets and buffers take: journald stands still, and so do those who log.
    guest.shell.ok("(for n in $(seq 20); do seq 1000 | logger -t held; done; touch /run/logged) >/dev/null 2>&1 &");
    for _ in 0..20 {
        assert_eq!(agent.get("guest-ping", NONE), json!({}));
        assert_eq!(status(&mut agent), "frozen");
        // Each refusal is worth a line.
        agent.refused("guest-exec", &json!({"path": "/bin/true"}));
    }
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen);
    guest.shell.until("those who log go on", "test -e /run/logged");
    guest
        .shell
        .until("the agent's own lines come", "journalctl -q -u qemu-guest-agent | grep -q 'guest-fsthaw called'");
    guest.shell.ok("rm -rf /run/logged /var/log/journal && systemctl restart systemd-journald");
}

/// A killed agent must not leave a guest that nobody can thaw.
#[test]
fn a_new_agent_knows_what_the_killed_one_froze() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    agent.get("guest-fsfreeze-freeze", NONE);
    let pid = touch(&mut guest, "/home/foo");
    wait_blocked(&mut guest, &pid);
    let before = guest.shell.ok("pidof qemu-ga");
    guest.shell.ok("pkill -KILL -x qemu-ga");
    guest.shell.until("systemd starts it again", &format!("pidof qemu-ga | grep -vx {before}"));
    agent.sync(SOON);
    assert_eq!(status(&mut agent), "frozen");
    agent.get("guest-fsfreeze-thaw", NONE);
    assert_eq!(status(&mut agent), "thawed");
    wait_finished(&mut guest, &pid, "/home/foo");
}

#[test]
fn stopping_a_frozen_agent_thaws_first() {
    if shared::known_of_stock("ignores TERM while frozen, and is killed in the end") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    agent.get("guest-fsfreeze-freeze", NONE);
    let pid = touch(&mut guest, "/home/foo");
    wait_blocked(&mut guest, &pid);
    guest.shell.ok("timeout 100 systemctl stop qemu-guest-agent");
    wait_finished(&mut guest, &pid, "/home/foo");
    assert_eq!(guest.shell.ok("systemctl show -P Result qemu-guest-agent"), "success");
    guest.shell.ok("! test -e /run/qga.state.isfrozen");
}

#[test]
fn a_forgotten_freeze_ends_by_itself() {
    if shared::known_of_stock("stays frozen until somebody comes") {
        return;
    }
    let Some(mut guest) = shared::systemd() else { return };
    guest.shell.ok("printf '[fsfreeze]\\ntimeout=5\\n' >/run/forgetful.conf");
    by_hand::start(&mut guest, "-c /run/forgetful.conf");
    let mut agent = guest.agent();
    agent.sync(SOON);
    agent.get("guest-fsfreeze-freeze", NONE);
    let pid = touch(&mut guest, "/home/foo");
    wait_finished(&mut guest, &pid, "/home/foo");
    assert_eq!(status(&mut agent), "thawed");
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), 0, "the sign that it was not frozen all the time");
    by_hand::stop(&mut guest);
}

/// The packaged hook and its directory: what is in there runs before the freeze and after the thaw.
#[test]
fn hooks_run_around_the_freeze() {
    let Some(mut guest) = shared::systemd() else { return };
    guest.shell.ok(
        "cd /etc/qemu/fsfreeze-hook.d && printf '#!/bin/sh\\necho $1 >>/run/hooked\\n' >note && chmod 755 note && rm -f /run/hooked",
    );
    by_hand::start(&mut guest, "-F");
    let mut agent = guest.agent();
    agent.sync(SOON);
    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    assert_eq!(guest.shell.ok("cat /run/hooked"), "freeze");
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen);
    assert_eq!(guest.shell.ok("cat /run/hooked"), "freeze\nthaw");
    guest.shell.ok("rm /etc/qemu/fsfreeze-hook.d/note");
    by_hand::stop(&mut guest);
}
