//! A client that gives up on a slow freeze and asks again, and again.

use super::hooks::{hook_log, with_directory};
use super::*;

fn refusal(command: &str) -> Error {
    Error::disabled(command, "the agent is in frozen state")
}

/// All that a freeze could touch.
fn traces(guest: &Guest) -> (Vec<String>, String, bool, Vec<u8>) {
    let marker = std::fs::read(guest.state.path().join("qga.state.isfrozen")).expect("a marker");
    (guest.effects(), hook_log(guest), guest.kernel.is_pinned(), marker)
}

#[test]
fn a_freeze_while_frozen_is_refused_and_touches_nothing() {
    let guest = with_directory(&[("1", ""), ("2", "")]);
    let frozen = guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    let before = traces(&guest);
    assert!(before.2, "memory is locked");
    assert_eq!(freeze(&guest.agent, None), Err(refusal("guest-fsfreeze-freeze")));
    assert_eq!(freeze(&guest.agent, Some(&["/"])), Err(refusal("guest-fsfreeze-freeze-list")));
    assert_eq!(freeze(&guest.agent, Some(&[])), Err(refusal("guest-fsfreeze-freeze-list")));
    assert_eq!(traces(&guest), before);
    assert!(guest.agent.freezer.standby().is_kept());
    assert!(guest.agent.freezer.is_frozen() && guest.agent.freezer.frozen_since().is_some());
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert_eq!((total(&frozen), guest.marker()), (0, false));
    assert!(!guest.agent.freezer.standby().is_kept());
    assert_eq!(hook_log(&guest), "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
}

/// The second one waits for the first, which is in its hook, and finds everything frozen.
#[test]
fn a_freeze_that_waited_for_another_one_in_its_hook_is_refused() {
    let guest = Guest::new(|config, root| {
        let fifo = root.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let wait = format!("[ $1 = thaw ] || read line < {} || true", fifo.display());
        config.fsfreeze_hook = Some(super::hooks::hook(root, &wait));
    });
    let frozen = guest.count_freezes(|_| None);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| freeze(&guest.agent, None));
        // Opens when the hook does: the first freeze is at work, under its lock.
        let release = File::options().write(true).open(guest.root.path().join("fifo")).expect("a FIFO");
        let second = scope.spawn(|| freeze(&guest.agent, None));
        let third = scope.spawn(|| freeze(&guest.agent, Some(&["/home"])));
        drop(release);
        assert_eq!(first.join().expect("no panic").map_err(|error| error.desc), Ok(2));
        assert_eq!(second.join().expect("no panic"), Err(refusal("guest-fsfreeze-freeze")));
        assert_eq!(third.join().expect("no panic"), Err(refusal("guest-fsfreeze-freeze-list")));
    });
    assert_eq!(total(&frozen), 2);
    assert!(guest.agent.freezer.is_frozen() && guest.marker() && guest.kernel.is_pinned());
    assert_eq!(hook_log(&guest), "freeze\n");
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert_eq!(hook_log(&guest), "freeze\nthaw\n");
}

/// A file system that is half frozen is nothing that a host should take for thawed.
#[test]
fn status_is_frozen_while_a_freeze_that_was_given_up_goes_on() {
    let guest = Guest::new(|config, _| config.fsfreeze.freeze_timeout = Duration::from_millis(500));
    let (release, gate) = channel();
    let mut gate = Some(gate);
    guest.count_freezes(move |effect| match effect {
        Effect::Freeze(path) if path.ends_with("/home") => gate.take().map(Outcome::Hangs),
        _ => None,
    });
    let status = || {
        let row = crate::commands::find("guest-fsfreeze-status").expect("a command");
        let request = testing::request(row.name, &serde_json::json!({}));
        let done = crate::dispatch::work(&guest.agent, row, &request, &crate::commands::Stop::default(), |_| true);
        String::from_utf8(done.reply).expect("text")
    };
    freeze(&guest.agent, None).expect_err("given up");
    assert_eq!(status(), "{\"return\": \"frozen\"}\n");
    drop(release);
    let end = Instant::now() + Duration::from_secs(30);
    while guest.agent.freezer.is_busy() {
        assert!(Instant::now() < end, "it does not end");
        std::thread::yield_now();
    }
    assert_eq!(status(), "{\"return\": \"thawed\"}\n");
}

#[test]
fn a_freeze_whose_marker_cannot_be_made_is_refused_with_the_reason() {
    let guest = with_directory(&[("1", "")]);
    std::os::unix::fs::symlink("/dev/full", guest.state.path().join("qga.state.isfrozen")).expect("a link");
    let error = freeze(&guest.agent, None).expect_err("refused").desc;
    assert!(error.starts_with("failed to note the freeze in the state directory: "), "{error}");
    assert_eq!(hook_log(&guest), "1 freeze\n1 thaw\n");
    assert!(!guest.effects().iter().any(|effect| effect.starts_with("freeze")), "{:?}", guest.effects());
    assert!(guest.agent.freezer.is_thawed() && !guest.kernel.is_pinned());
}
