//! Programs of guest-exec beside the agent's own life.

#[path = "support/mod.rs"]
mod support;

use serde_json::{Value, json};
use support::{Agent, Client, until};

fn start(client: &mut Client, arguments: Value) -> u32 {
    let pid = client.ask("guest-exec", arguments)["pid"].as_u64().expect("a pid");
    u32::try_from(pid).expect("a pid")
}

#[test]
fn programs_whose_results_nobody_fetches_are_no_zombies() {
    let agent = Agent::start(&[]);
    let mut client = agent.connect();
    let pids: Vec<_> = (0..200).map(|_| start(&mut client, json!({"path": "false"}))).collect();
    let parent = agent.child.id();
    let children = || std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("its children");
    until("none is left", || children().is_empty().then_some(()));
    for pid in pids {
        assert_eq!(client.ask("guest-exec-status", json!({"pid": pid})), json!({"exited": true, "exitcode": 1}));
    }
}

#[test]
fn a_program_has_what_a_login_would_give_it() {
    let agent =
        Agent::start_after(&["env", "-i", "QGA_CONF=", "NOTIFY_SOCKET=/nonexistent"], "unset PWD OLDPWD SHLVL _");
    let mut client = agent.connect();
    let pid = start(&mut client, json!({"path": "env", "capture-output": true}));
    let status = until("it ends", || {
        let status = client.ask("guest-exec-status", json!({"pid": pid}));
        (status["exited"] == true).then_some(status)
    });
    let out = status["out-data"].as_str().expect("output");
    // HOME=
    for text in ["HOME=", "USER=", "LOGNAME=", "SHELL=", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    {
        assert!(decoded(out).contains(text), "{text}: {}", decoded(out));
    }
    assert!(!decoded(out).contains("NOTIFY_SOCKET"), "that is the agent's");
}

fn decoded(base64: &str) -> String {
    let value =
        |byte| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|&b| b == byte);
    let mut bytes = Vec::new();
    for group in base64.as_bytes().chunks(4) {
        let digits: Vec<_> = group.iter().filter_map(|&byte| value(byte)).collect();
        let number = digits.iter().fold(0, |number, digit| number << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&number.to_be_bytes()[5..][..digits.len() - 1]);
    }
    String::from_utf8(bytes).expect("UTF-8")
}
