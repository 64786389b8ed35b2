//! Under systemd: started when its port appears, and by hand with systemctl.

use std::time::Duration;

use crate::harness::SOON;
use crate::{script, shared};

#[test]
fn systemctl_stops_and_starts_the_agent() {
    let Some(mut guest) = shared::systemd() else { return };
    assert_eq!(guest.shell.ok("systemctl is-active qemu-guest-agent"), "active");
    let mut agent = guest.agent();
    script::play(&mut agent, &mut guest.shell);

    guest.shell.ok("systemctl stop qemu-guest-agent");
    assert_eq!(guest.shell.run("systemctl is-active qemu-guest-agent").text, "inactive");
    assert_ne!(guest.shell.run("pidof qemu-ga").status, 0, "no agent is left");

    // Asked while there is no agent: it waits in the port, and is answered by the next agent.
    agent.send(b"{\"execute\":\"guest-sync\",\"arguments\":{\"id\":99}}\n");
    guest.shell.ok("systemctl start qemu-guest-agent");
    agent.sync(SOON);
    script::play(&mut agent, &mut guest.shell);

    let before = guest.shell.ok("pidof qemu-ga");
    guest.shell.ok("systemctl restart qemu-guest-agent");
    agent.sync(SOON);
    assert_ne!(guest.shell.ok("pidof qemu-ga"), before);
    let unit = "systemctl show -P NRestarts -P Result qemu-guest-agent";
    assert_eq!(guest.shell.ok(unit).replace('\n', " "), "success 0", "no crash was papered over");
}

#[test]
fn udev_starts_the_agent_when_its_port_is_plugged_in() {
    let Some(mut guest) = shared::systemd() else { return };
    for _ in 0..2 {
        guest.unplug_agent_port();
        guest
            .shell
            .until("the unit ends with its port", "! systemctl is-active -q qemu-guest-agent && ! pidof qemu-ga");
        guest.plug_agent_port();
        let mut agent = guest.agent();
        agent.sync(SOON);
        assert_eq!(guest.shell.ok("systemctl is-active qemu-guest-agent"), "active");
        script::play(&mut agent, &mut guest.shell);
    }
}

#[test]
fn systemd_restarts_a_killed_agent() {
    let Some(mut guest) = shared::systemd() else { return };
    let mut agent = guest.agent();
    let before = guest.shell.ok("pidof qemu-ga");
    // Twice: a supervisor that gives up after some quick deaths leaves the host without an agent.
    for _ in 0..2 {
        guest.shell.ok("pkill -KILL -x qemu-ga");
        agent.sync(SOON);
        assert!(agent.answers(Duration::from_secs(60)));
    }
    assert_ne!(guest.shell.ok("pidof qemu-ga"), before);
}

/// The host upgrades the agent: the program that restarts it goes on, and its result is the next one's.
#[test]
fn a_program_outlives_the_agents_that_it_restarts_and_its_result_is_there() {
    let Some(mut guest) = shared::systemd() else { return };
    for (how, done) in [
        ("systemctl restart qemu-guest-agent", "systemctl restart"),
        ("kill -KILL $(systemctl show -P MainPID qemu-guest-agent)", "kill -9"),
    ] {
        let mut agent = guest.agent();
        agent.sync(SOON);
        let before = guest.shell.ok("systemctl show -P MainPID qemu-guest-agent");
        let script = format!(
            "echo before; {how}; \
             until p=$(systemctl show -P MainPID qemu-guest-agent) && [ $p != {before} ] && [ $p != 0 ]; do sleep 0.1; done; \
             head -c 3000000 /dev/zero >&2; echo after"
        );
        let arguments = serde_json::json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true});
        let pid = agent.get("guest-exec", &arguments)["pid"].clone();
        guest.shell.until(
            "another agent runs",
            &format!("p=$(systemctl show -P MainPID qemu-guest-agent); [ $p != {before} ] && [ $p != 0 ]"),
        );
        agent.sync(SOON);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let status = loop {
            let status = agent.get("guest-exec-status", &serde_json::json!({"pid": pid}));
            if status["exited"] == true {
                break status;
            }
            assert!(std::time::Instant::now() < deadline, "{done}: it does not end");
        };
        assert_eq!(status["out-data"], "YmVmb3JlCmFmdGVyCg==", "{done}: before and after");
        assert_eq!(status["err-data"].as_str().map(str::len), Some(4_000_000), "{done}");
        assert!(status.get("exitcode").is_none_or(|code| code == 0), "{done}");
    }
    guest.shell.ok("systemctl stop qemu-guest-agent");
    guest.shell.until("the keeper ends with the last agent", "! pgrep -x qga-keeper");
    guest.shell.ok("systemctl start qemu-guest-agent");
}
