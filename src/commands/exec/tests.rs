use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::children::Outcome;
use super::reply::Reply;
use super::*;
use crate::agent::Agent;
use crate::commands::testing::{self, call};
use crate::dispatch;
use crate::host::Host;
use crate::host::linux::spawn::Exit;
use crate::protocol::frame::{Event, Framer};
use crate::session::Session;

fn agent() -> Agent {
    testing::agent(Host::real(), testing::config())
}

fn start(agent: &Agent, arguments: Value) -> i64 {
    let started = call(agent, "guest-exec", arguments).expect("it starts");
    started["pid"].as_i64().expect("a pid")
}

fn status(agent: &Agent, pid: i64) -> std::result::Result<Value, String> {
    call(agent, "guest-exec-status", json!({"pid": pid}))
}

/// Asks until the program has ended.
fn finish(agent: &Agent, pid: i64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let result = status(agent, pid).expect("the pid is known");
        if result["exited"] == true {
            return result;
        }
        std::thread::yield_now();
    }
    panic!("process {pid} does not end");
}

fn shell(agent: &Agent, script: &str, mut more: Value) -> Value {
    more["path"] = "/bin/sh".into();
    more["arg"] = json!(["-c", script]);
    let pid = start(agent, more);
    finish(agent, pid)
}

/// What a script writes to its standard output.
fn says(agent: &Agent, script: &str, more: Value) -> String {
    let mut more = more;
    more["capture-output"] = true.into();
    let result = shell(agent, script, more);
    assert_eq!(result.get("err-data"), None, "{result}");
    text(&result["out-data"])
}

fn text(base64: &Value) -> String {
    let data = base64.as_str().unwrap_or_default();
    String::from_utf8(Payload::parse(data).expect("base64").to_vec()).expect("UTF-8")
}

#[test]
fn every_capture_mode_keeps_its_streams() {
    let agent = agent();
    let script = "echo out; echo err >&2; exit 3";
    let out = ("out-data", "b3V0Cg==");
    let err = ("err-data", "ZXJyCg==");
    for (mode, expected) in [
        (json!(true), vec![out, err]),
        (json!("separated"), vec![out, err]),
        (json!("stdout"), vec![out]),
        (json!("stderr"), vec![err]),
        (json!("merged"), vec![("out-data", "b3V0CmVycgo=")]),
        (json!(false), vec![]),
        (json!("none"), vec![]),
    ] {
        let mut wanted = json!({"exited": true, "exitcode": 3});
        for (name, data) in expected {
            wanted[name] = data.into();
            wanted[name.replace("data", "truncated")] = false.into();
        }
        assert_eq!(shell(&agent, script, json!({"capture-output": mode})), wanted, "{mode}");
    }
}

#[test]
fn unknown_modes_are_refused_in_upstreams_words() {
    let refusal = |mode: Value| {
        call(&agent(), "guest-exec", json!({"path": "/bin/true", "capture-output": mode})).expect_err("refused")
    };
    assert_eq!(refusal(json!("bogus")), "Parameter 'capture-output' does not accept value 'bogus'");
    for mode in [json!(1), json!(1.5), json!([]), json!({}), Value::Null] {
        let expected = "Invalid parameter type for 'capture-output', expected: GuestExecCaptureOutput";
        assert_eq!(refusal(mode), expected);
    }
}

#[test]
fn a_result_is_handed_out_once() {
    let agent = agent();
    let pid = start(&agent, json!({"path": "true"}));
    assert_eq!(finish(&agent, pid), json!({"exited": true, "exitcode": 0}));
    assert_eq!(status(&agent, pid), Err(format!("PID {pid} does not exist")));
    assert_eq!(status(&agent, -1), Err("PID -1 does not exist".into()));
    assert_eq!(status(&agent, i64::MAX), Err("PID 9223372036854775807 does not exist".into()));
}

#[test]
fn an_undelivered_result_can_be_asked_for_again() {
    let agent = agent();
    let pid = start(&agent, json!({"path": "/bin/echo", "arg": ["x"], "capture-output": true}));
    let result = finish(&agent, pid);
    let out = Arc::new(Output { data: b"x\n".to_vec().into(), truncated: false });
    agent.children.put_back(pid, Outcome { exit: Exit::Code(0), out: Some(out), err: None });
    assert_eq!(status(&agent, pid), Ok(result));
    assert!(status(&agent, pid).is_err());
}

#[test]
fn a_signal_is_no_exit_code() {
    let agent = agent();
    for signal in [9, 15, 11, 40] {
        let result = shell(&agent, &format!("kill -{signal} $$"), json!({}));
        assert_eq!(result, json!({"exited": true, "signal": signal}));
    }
}

#[test]
fn it_is_not_over_while_a_captured_stream_is_open() {
    let agent = agent();
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let held = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&read));
    let script = format!("exec 3<{held}; {{ read x <&3; }} & echo hi");
    let pid = start(&agent, json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true}));
    until_reaped(&agent, pid);
    assert_eq!(status(&agent, pid), Ok(json!({"exited": false})));
    drop((read, write));
    assert_eq!(text(&finish(&agent, pid)["out-data"]), "hi\n");
}

#[test]
fn a_program_that_cannot_start_is_told_at_once() {
    let agent = agent();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("not-executable");
    std::fs::write(&file, "#!/bin/sh\n").expect("a file");
    let file = file.to_str().expect("UTF-8");
    for (path, reason) in [
        ("/nonexistent", "No such file or directory"),
        ("", "No such file or directory"),
        ("no-such-program-anywhere", "No such file or directory"),
        ("/tmp", "Permission denied"),
        (file, "Permission denied"),
        ("/bin/true/x", "Not a directory"),
        ("a\0b", "Invalid argument"),
    ] {
        let error = call(&agent, "guest-exec", json!({"path": path})).expect_err("an error");
        assert!(error.starts_with("Failed to execute child process \u{201c}"), "{error}");
        assert!(error.ends_with(&format!("\u{201d} ({reason})")), "{error}");
    }
    assert!(call(&agent, "guest-exec", json!({"path": "/bin/true", "arg": ["a\0"]})).is_err());
    let bad = call(&agent, "guest-exec", json!({"path": "/bin/true", "input-data": "!!"}));
    assert_eq!(bad, Err("Base64 data contains invalid characters".into()));
}

#[test]
fn the_path_of_the_given_environment_is_searched() {
    let agent = agent();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ours");
    std::fs::write(&path, "echo $0-$1-$FOO").expect("a script without #!");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = path.to_str().expect("UTF-8");
    let search = format!("PATH=/nonexistent:{}", dir.path().display());
    let pid =
        start(&agent, json!({"path": "ours", "arg": ["a b"], "env": [search, "FOO=bar"], "capture-output": true}));
    assert_eq!(text(&finish(&agent, pid)["out-data"]), format!("{path}-a b-bar\n"));
    let nowhere = call(&agent, "guest-exec", json!({"path": "true", "env": ["PATH=/nowhere"]}));
    assert!(nowhere.expect_err("not found").contains("No such file or directory"));
}

#[test]
fn the_environment_is_replaced_or_inherited() {
    let agent = agent();
    let env = |more: Value| {
        let mut more = more;
        more["path"] = "/usr/bin/env".into();
        more["capture-output"] = true.into();
        let pid = start(&agent, more);
        text(&finish(&agent, pid)["out-data"])
    };
    assert_eq!(env(json!({"env": []})), "");
    assert_eq!(env(json!({"env": ["plain", "A=1", "A=2"]})), "plain\nA=1\nA=2\n");
    let ours = env(json!({}));
    for name in ["PATH", "HOME", "USER", "LOGNAME", "SHELL"] {
        let value = ours.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        assert!(value.is_some_and(|value| !value.is_empty()), "{name}: {ours}");
    }
}

#[test]
fn a_program_starts_clean() {
    let agent = agent();
    assert_eq!(says(&agent, "exec ls /proc/self/fd", json!({})), "0\n1\n2\n3\n");
    let status = says(&agent, "exec cat /proc/self/status", json!({}));
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().to_owned()
    };
    assert_eq!(line("SigIgn:"), "0000000000000000");
    assert_eq!(line("SigBlk:"), "0000000000000000");
    assert!(u32::from_str_radix(&line("Umask:"), 8).expect("octal") & 0o022 == 0o022);
    let stat = says(&agent, "exec cat /proc/self/stat", json!({}));
    let fields: Vec<_> = stat.split(' ').collect();
    assert_eq!((fields[0], fields[0]), (fields[4], fields[5]), "group and session: {stat}");
}

#[test]
fn input_arrives_whole_however_large() {
    let agent = agent();
    for size in [0, 1, 65_536, 65_537, 200_001, 3_000_000] {
        let mut base64 = Vec::new();
        crate::protocol::base64::encode(&vec![b'z'; size], &mut base64);
        let input = String::from_utf8(base64).expect("ASCII");
        assert_eq!(says(&agent, "wc -c", json!({"input-data": input})).trim(), size.to_string());
    }
    assert_eq!(says(&agent, "wc -c", json!({})).trim(), "0", "no input is an empty one");
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    let agent = agent();
    let mut input = Vec::new();
    crate::protocol::base64::encode(&vec![0; 3_000_000], &mut input);
    let input = String::from_utf8(input).expect("ASCII");
    let pid = start(&agent, json!({"path": "/bin/sleep", "arg": ["1000"], "input-data": input}));
    let other = start(&agent, json!({"path": "/bin/echo", "arg": ["x"], "capture-output": true}));
    assert_eq!(text(&finish(&agent, other)["out-data"]), "x\n");
    assert_eq!(status(&agent, pid), Ok(json!({"exited": false})));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).expect("pid")), nix::sys::signal::SIGKILL)
        .expect("kill");
    assert_eq!(finish(&agent, pid), json!({"exited": true, "signal": 9}));
    wait_for_collector_to_end(&agent);
}

#[test]
fn output_is_cut_at_16_mib_and_marked() {
    let agent = agent();
    for (size, truncated) in [(16 << 20, false), ((16 << 20) + 1, true), (40 << 20, true)] {
        let result = shell(&agent, &format!("head -c {size} /dev/zero"), json!({"capture-output": true}));
        assert_eq!(result["out-truncated"], truncated, "{size}");
        assert_eq!(result["out-data"].as_str().map(str::len), Some(22_369_624), "{size}");
    }
}

#[test]
fn floods_do_not_mix() {
    let agent = agent();
    let pids: Vec<_> = (0..8)
        .map(|i| {
            let script = format!("yes {i} | head -c 1000000; yes {i} | head -c 100000 >&2");
            start(&agent, json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true}))
        })
        .collect();
    for (i, pid) in pids.into_iter().enumerate() {
        let result = finish(&agent, pid);
        assert_eq!(text(&result["out-data"]), format!("{i}\n").repeat(500_000));
        assert_eq!(text(&result["err-data"]), format!("{i}\n").repeat(50_000));
    }
    wait_for_collector_to_end(&agent);
}

fn wait_for_collector_to_end(agent: &Agent) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while agent.children.is_collecting() {
        assert!(Instant::now() < deadline, "the thread does not end");
        std::thread::yield_now();
    }
}

fn limited(running: usize, finished: usize, bytes: usize) -> Agent {
    let mut config = testing::config();
    config.limits.running_children = running;
    config.limits.finished_children = finished;
    config.limits.finished_bytes = bytes;
    testing::agent(Host::real(), config)
}

#[test]
fn too_many_running_programs_are_refused() {
    let agent = limited(2, 2, 1 << 20);
    // They end when this test does, whichever way.
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let held = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&read));
    let waiting = json!({"path": "/bin/sh", "arg": ["-c", format!("read x <{held}")]});
    let pids = [start(&agent, waiting.clone()), start(&agent, waiting.clone())];
    let error = call(&agent, "guest-exec", waiting.clone()).expect_err("refused");
    assert_eq!(error, "Failed to execute child process \u{201c}/bin/sh\u{201d} (2 programs are running already)");
    drop((read, write));
    for pid in pids {
        finish(&agent, pid);
    }
    let pid = start(&agent, json!({"path": "/bin/true"}));
    finish(&agent, pid);
}

/// As the loop does it when a child has ended.
fn until_reaped(agent: &Agent, pid: i64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        agent.children.reap();
        std::thread::yield_now();
    }
}

#[test]
fn the_oldest_unread_results_are_dropped() {
    let agent = limited(100, 3, 1 << 20);
    let pids: Vec<_> = (0..10)
        .map(|_| {
            let pid = start(&agent, json!({"path": "/bin/true"}));
            until_reaped(&agent, pid);
            pid
        })
        .collect();
    // The last one came in after the limit had been looked at.
    let (dropped, kept) = pids.split_at(6);
    for &pid in dropped {
        assert_eq!(status(&agent, pid), Err(format!("PID {pid} does not exist")));
    }
    for &pid in kept {
        assert_eq!(status(&agent, pid), Ok(json!({"exited": true, "exitcode": 0})));
    }
}

#[test]
fn the_result_of_an_id_that_is_in_use_again_is_the_younger_ones() {
    let agent = agent();
    let pid = start(&agent, json!({"path": "false"}));
    until_reaped(&agent, pid);
    let slot = agent.children.reserve(&agent.config().limits).expect("room");
    // The kernel gives ids again when it has gone once around.
    let program = Program { path: "true", ..Program::default() };
    let other = program.spawn().expect("it starts");
    agent.children.rename(pid, other);
    slot.enter(other, |_| Vec::new(), [false, false]).expect("a program");
    assert_eq!(finish(&agent, other.as_raw().into()), json!({"exited": true, "exitcode": 0}));
    assert!(status(&agent, other.as_raw().into()).is_err(), "there is one");
}

#[test]
fn unread_output_is_bounded() {
    let agent = limited(100, 100, 2_500_000);
    let pids: Vec<_> = (0..5)
        .map(|_| {
            let pid =
                start(&agent, json!({"path": "head", "arg": ["-c", "1000000", "/dev/zero"], "capture-output": true}));
            until_reaped(&agent, pid);
            pid
        })
        .collect();
    wait_for_collector_to_end(&agent);
    let known = pids.iter().filter(|&&pid| status(&agent, pid).is_ok()).count();
    assert_eq!(known, 2);
    assert!(status(&agent, pids[0]).is_err(), "the oldest goes first");
}

#[test]
fn a_streamed_result_is_complete_json_wherever_it_is_cut() {
    let out = Some(Arc::new(Output { data: vec![1; 500_000].into(), truncated: true }));
    let err = Some(Arc::new(Output { data: vec![2; 400_000].into(), truncated: false }));
    let outcome = Outcome { exit: Exit::Code(0), out, err };
    let mut pieces = 0;
    loop {
        let mut reply = Reply::new(&outcome);
        let mut json = Vec::new();
        let more = (0..pieces).map(|_| reply.next(&mut json)).last();
        assert!(json.len() <= pieces * 300_000, "a piece is small");
        reply.cut(&mut json);
        let value: Value = serde_json::from_slice(&json).expect("complete");
        if more == Some(false) {
            assert_eq!(value["err-data"].as_str().map(str::len), Some(533_336));
            break;
        }
        pieces += 1;
    }
    assert!(pieces > 3);
}

/// Asks for a long result as a client does; `gone` is a client that leaves before the end.
fn stream_to_client(agent: &Agent, pid: i64, gone: bool) {
    let (mut session, mut out) = (Session::new(), crate::output::Output::default());
    let now = Instant::now();
    let text = format!("{{\"execute\":\"guest-exec-status\",\"arguments\":{{\"pid\":{pid}}}}}");
    let Some(Event::Message(message)) = Framer::default().next(&mut text.as_bytes()) else { panic!("not a message") };
    assert!(session.message(message, now, agent, &mut out).is_none(), "it goes to a worker");
    let job = session.take_jobs().pop().expect("a job");
    let mut pieces = Vec::new();
    let done = dispatch::work(agent, job.row, &job.request, &job.stop, |piece| {
        pieces.push(piece);
        true
    });
    for piece in pieces {
        session.piece(job.seq, piece, now, agent, &mut out);
        if gone {
            session.hang_up(false, now, agent, &mut out);
        }
    }
    session.done(job.seq, done, now, agent, &mut out);
    while let Some(undo) = session.take_undo() {
        undo(agent);
    }
}

#[test]
fn a_long_result_is_gone_when_it_was_sent_and_only_then() {
    let agent = agent();
    let arguments = json!({"path": "head", "arg": ["-c", "1000000", "/dev/zero"], "capture-output": true});
    let pid = start(&agent, arguments);
    until_reaped(&agent, pid);
    wait_for_collector_to_end(&agent);
    stream_to_client(&agent, pid, true);
    stream_to_client(&agent, pid, false);
    assert_eq!(status(&agent, pid), Err(format!("PID {pid} does not exist")));
}

#[test]
fn many_threads_start_programs_at_once() {
    let agent = agent();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for i in 0..25 {
                    let pid =
                        start(&agent, json!({"path": "/bin/echo", "arg": [i.to_string()], "capture-output": true}));
                    assert_eq!(text(&finish(&agent, pid)["out-data"]), format!("{i}\n"));
                }
            });
        }
    });
    wait_for_collector_to_end(&agent);
}
