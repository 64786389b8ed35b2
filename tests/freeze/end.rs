//! How a freeze ends: by a thaw, by the end of the agent, after its death.

use std::time::Duration;

use serde_json::json;

use crate::bench::{Bench, CLASSIC, UPPER_FIRST, all_finish};
use crate::support::{self, until};

#[test]
fn writers_wait_from_freeze_to_thaw() {
    let Some(bench) = Bench::new(&CLASSIC, &[]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    // The inner one is stored on the outer one: frozen in the other order this would hang.
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    let mut writers = bench.write();
    // For what must not happen; there is nothing to wait for.
    std::thread::sleep(Duration::from_millis(300));
    for writer in &mut writers {
        assert!(writer.try_wait().expect("our child").is_none(), "a write went through");
    }
    let again = client.call("guest-fsfreeze-freeze", json!({}));
    assert_eq!(again["error"]["class"], "CommandNotFound");
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    all_finish(writers);
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 0);
}

#[test]
fn an_agent_that_is_told_to_end_while_frozen_thaws_first() {
    let Some(mut bench) = Bench::new(&CLASSIC, &[]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    let pid = bench.agent.child.id();
    support::signal(pid, "TERM");
    assert_eq!(client.ask("guest-ping", json!({})), json!({}), "the first one is only remembered");
    support::signal(pid, "TERM");
    let status = until("it ends", || bench.agent.child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(0));
    all_finish(bench.write());
}

#[test]
fn an_agent_that_was_told_to_end_goes_when_its_client_has_thawed() {
    let Some(mut bench) = Bench::new(&CLASSIC, &[]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    support::signal(bench.agent.child.id(), "TERM");
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    let status = until("it ends", || bench.agent.child.try_wait().expect("our child"));
    assert_eq!(status.code(), Some(0));
    all_finish(bench.write());
}

#[test]
fn a_killed_agent_comes_back_frozen_and_its_thaw_works() {
    let Some(mut bench) = Bench::new(&CLASSIC, &[]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    bench.agent.child.kill().expect("our child");
    let mut client = bench.restart();
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
    // This one sees the machine's mounts too; none of those is frozen, so two it is.
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    all_finish(bench.write());
}

/// Thawing the upper one first waits for the lower one, for ever.
#[test]
fn a_killed_agents_freeze_is_thawed_when_the_upper_one_was_mounted_first() {
    let Some(mut bench) = Bench::new(&UPPER_FIRST, &[]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    bench.agent.child.kill().expect("our child");
    let mut client = bench.restart();
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "thawed");
    all_finish(bench.write());
}

/// What the thaw needs is in memory, and may be swapped out again afterwards.
#[test]
fn memory_is_locked_from_freeze_to_thaw() {
    let Some(bench) = Bench::new(&CLASSIC, &[]) else { return };
    let locked = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", bench.agent.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let mut client = bench.agent.connect();
    assert_eq!(locked(), 0);
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 2);
    assert!(locked() > 1000, "{} KiB", locked());
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 2);
    assert_eq!(locked(), 0);
}
