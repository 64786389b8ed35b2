//! The classic session, as people type it over any channel, and what they get to see.

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::agent::{Agent, DELIMITER};
use crate::harness::shell::{Shell, base64, unbase64};

/// All of it that is safe to repeat.
pub fn play(agent: &mut Agent, shell: &mut Shell) {
    agent.sync(SOON);
    greet(agent);
    use_a_file(agent, shell);
}

pub fn greet(agent: &mut Agent) {
    agent.send(b"{\"execute\":\"guest-sync\",\"arguments\":{\"id\":1234}}\n");
    assert_eq!(parsed(&line(agent)), json!({"return": 1234}));

    agent.send(b"{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":123456}}\n");
    let reply = line(agent);
    assert_eq!(reply.first(), Some(&DELIMITER), "exactly one FF goes before this reply");
    assert_eq!(parsed(&reply[1..]), json!({"return": 123_456}));

    agent.send(b"{\"execute\":\"guest-ping\"}\n");
    assert_eq!(parsed(&line(agent)), json!({"return": {}}));

    let info = agent.get("guest-info", &Value::Null);
    let version = info["version"].as_str().expect("a version");
    let numbers: Vec<&str> = version.split('.').collect();
    assert!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{version}");
    let commands = info["supported_commands"].as_array().expect("a list of commands");
    for command in commands {
        let members: Vec<&String> = command.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["enabled", "name", "success-response"], "clients compare whole entries");
    }
    let row = |name: &str| {
        let found = commands.iter().find(|command| command["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is listed")).clone()
    };
    assert_eq!(row("guest-ping"), json!({"name": "guest-ping", "enabled": true, "success-response": true}));
    assert_eq!(row("guest-shutdown")["success-response"], false);

    // The two mistakes a person makes.
    let unknown = agent.refused("guest-pong", &Value::Null);
    assert_eq!(
        (unknown.class.as_str(), unknown.text.as_str()),
        ("CommandNotFound", "The command guest-pong has not been found")
    );
    agent.send(b"{\"execute\":\"guest-ping\"\"}\n");
    assert!(agent.reply(SOON).is_err(), "not JSON");
    agent.sync(SOON);
}

const PATH: &str = "/tmp/testqga";

pub fn use_a_file(agent: &mut Agent, shell: &mut Shell) {
    let handle = agent.get("guest-file-open", &json!({"path": PATH, "mode": "w+"}));
    assert!(handle.as_i64().is_some_and(|handle| handle >= 1000), "{handle}");
    let with = |mut arguments: Value| {
        arguments["handle"] = handle.clone();
        arguments
    };
    let text = "aGVsbG8gd29ybGQhCg==";
    assert_eq!(unbase64(text), b"hello world!\n");
    let written = agent.get("guest-file-write", &with(json!({"buf-b64": text})));
    assert_eq!(written, json!({"count": 13, "eof": false}));
    assert_eq!(agent.get("guest-file-flush", &with(json!({}))), json!({}));
    assert_eq!(shell.ok(&format!("cat {PATH}")), "hello world!", "the guest sees what was flushed");

    for (whence, offset, position) in [
        (json!(0), 6, 6),
        (json!("set"), 3, 3),
        (json!(1), 2, 5),
        (json!("cur"), -1, 4),
        (json!(2), 0, 13),
        (json!("end"), -13, 0),
    ] {
        let reply = agent.get("guest-file-seek", &with(json!({"offset": offset, "whence": whence})));
        assert_eq!(reply, json!({"position": position, "eof": false}), "whence {whence} offset {offset}");
    }
    assert_eq!(agent.get("guest-file-close", &with(json!({}))), json!({}));
    agent.refused("guest-file-close", &with(json!({})));

    let handle = agent.get("guest-file-open", &json!({"path": PATH, "mode": "r"}));
    let read = agent.get("guest-file-read", &json!({"handle": handle, "count": 1024}));
    assert_eq!(read, json!({"buf-b64": text, "count": 13, "eof": true}));
    agent.get("guest-file-close", &json!({"handle": handle}));

    // The other way round: what the guest wrote, more of it than fits into one read of a port.
    shell.ok("seq 1 3000 >/tmp/testqga");
    let all: String = (1..=3000).map(|number| format!("{number}\n")).collect();
    let handle = agent.get("guest-file-open", &json!({"path": PATH}));
    let read = agent.get("guest-file-read", &json!({"handle": handle, "count": 1 << 20}));
    assert_eq!(read["buf-b64"], json!(base64(all.as_bytes())));
    agent.get("guest-file-close", &json!({"handle": handle}));
    shell.ok("rm /tmp/testqga");
}

fn line(agent: &mut Agent) -> Vec<u8> {
    let line = agent.line(SOON).expect("a reply");
    assert!(line[1..].is_ascii(), "replies are ASCII: {}", String::from_utf8_lossy(&line));
    line
}

fn parsed(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
}
