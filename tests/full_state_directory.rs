//! `--check-freeze` on a state directory that is really full: on a tmpfs in a mount namespace of its own.

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::Agent;

/// The problems that the check tells of the state directory, on a tmpfs with these options after this script;
/// and what is in the directory afterwards, if that is not `used`.
fn problems(options: &str, script: &str) -> (Vec<String>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let check = "agent=$1; shift; mount -t tmpfs -o $1 none $D; cd $D; eval \"$2\"
                 QGA_CONF= \"$agent\" -t $D --check-freeze --json || [ $? = 1 ]; echo; ls -A | grep -vx used || :";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", check, "sh"])
        .arg(Agent::program())
        .args([options, script])
        .env("D", dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let report = values.next().expect("a report").expect("JSON");
    let left = text[values.byte_offset()..].trim().to_owned();
    let all: Vec<String> = serde_json::from_value(report["problems"].clone()).expect("a list of texts");
    // A container has others, such as rights that it lacks.
    let of_state: Vec<String> = all.into_iter().filter(|text| text.contains("no state can be kept")).collect();
    assert!(of_state.is_empty() || report["reliable"] == false);
    let dir = dir.path().display().to_string();
    (of_state.iter().map(|text| text.replace(&dir, "DIR")).collect(), left)
}

#[test]
fn a_state_directory_that_takes_no_marker_is_told_before_the_freeze() {
    if !nix::unistd::geteuid().is_root() {
        support::skip("not root, who alone can mount");
        return;
    }
    let room = (Vec::new(), String::new());
    let full = (vec!["no state can be kept in DIR: No space left on device".to_owned()], String::new());
    assert_eq!(problems("size=64k,nr_inodes=3", ":"), room);
    assert_eq!(problems("size=64k,nr_inodes=3", "touch used"), room, "one is left");
    assert_eq!(problems("size=64k,nr_inodes=2", "touch used"), full, "no file can be made");
    let fill = "head -c 65536 /dev/zero >used";
    assert_eq!(problems("size=64k,nr_inodes=9", fill), full, "a file can be made, and nothing be written");
    assert_eq!(problems("size=68k,nr_inodes=9", fill), room, "a page is left");
}
