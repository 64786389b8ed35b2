//! Every command that only asks, in a real guest, by libvirt's rules.

use serde_json::{Value, json};

use crate::harness::{SOON, subject};
use crate::libvirt_rules::{self, INVENTORY};
use crate::shared;

#[test]
fn libvirt_takes_every_reply() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    agent.sync(SOON);
    for command in INVENTORY {
        agent.post(command, &Value::Null);
        let line = agent.line(SOON).expect("a reply");
        let said = String::from_utf8_lossy(&line).into_owned();
        libvirt_rules::check_line(command, &line).unwrap_or_else(|reason| panic!("{command}: {reason}: {said}"));
        let reply: Value = serde_json::from_slice(&line).expect("JSON");
        // Without memory that can be unplugged there are no blocks; nothing else fails. An older
        // agent does not know all of them.
        let unknown = subject::under_test().stock && reply["error"]["class"] == "CommandNotFound";
        assert!(reply.get("return").is_some() || command.contains("memory") || unknown, "{command}: {said}");
    }

    // libvirt turns the list round, to have it in the order of mounting.
    let listed = agent.get("guest-get-fsinfo", &Value::Null);
    let mut listed: Vec<&str> =
        listed.as_array().expect("an array").iter().filter_map(|entry| entry["mountpoint"].as_str()).collect();
    listed.reverse();
    let mounted = guest.shell.ok("awk '$1 ~ \"^/dev/\" { print $2 }' /proc/mounts");
    let mounted: Vec<&str> = mounted.lines().collect();
    assert_eq!(json!(listed), json!(mounted));
}
