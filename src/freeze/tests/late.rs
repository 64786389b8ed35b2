//! Calls that hang, and what they do when they come back.

use super::*;

/// A guest on which one call hangs until the sender is dropped.
fn hanging(
    hangs: impl Fn(&Effect) -> bool + Send + 'static,
) -> (Guest, std::sync::mpsc::Sender<std::convert::Infallible>) {
    let guest = Guest::new(|config, _| config.fsfreeze.freeze_timeout = Duration::from_millis(500));
    let (release, gate) = channel();
    let mut gate = Some(gate);
    guest.count_freezes(move |effect| if hangs(effect) { gate.take().map(Outcome::Hangs) } else { None });
    (guest, release)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// The killed process ends only with its `FIFREEZE`, and nobody takes that back.
#[test]
fn an_agent_killed_while_a_given_up_freeze_goes_on_leaves_its_marker() {
    let (guest, release) = hanging(|effect| matches!(effect, Effect::Freeze(path) if path.ends_with("/home")));
    freeze(&guest.agent, None).expect_err("given up");
    assert!(!guest.agent.freezer.is_frozen() && guest.agent.freezer.is_busy());
    assert!(guest.marker() && guest.restarted().freezer.is_frozen());
    thaw(&guest.agent).expect("nothing to do");
    assert!(guest.marker());
    drop(release);
    until("the marker is removed", || !guest.marker());
    until("the agent may end", || !guest.agent.freezer.is_busy());
}

/// Otherwise what comes late would be taken back in the middle of it.
#[test]
fn no_freeze_begins_while_a_given_up_one_goes_on() {
    let (guest, release) = hanging(|effect| matches!(effect, Effect::Freeze(path) if path.ends_with("/home")));
    freeze(&guest.agent, None).expect_err("given up");
    let refusal = freeze(&guest.agent, Some(&["/"])).expect_err("refused").desc;
    assert_eq!(refusal, "Command guest-fsfreeze-freeze-list has been disabled: the agent is in frozen state");
    drop(release);
    until("it has ended", || !guest.agent.freezer.late.is_pending());
    assert_eq!(freeze(&guest.agent, Some(&["/"])), Ok(1));
    assert!(guest.marker());
    assert_eq!(thaw(&guest.agent), Ok(1));
}

#[test]
fn a_thaw_that_hangs_keeps_nothing_else_frozen() {
    // That of the file system which is thawed first.
    let (guest, release) = hanging(|effect| matches!(effect, Effect::Thaw(path) if !path.ends_with("/home")));
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert!(thaw(&guest.agent).is_ok() && !guest.agent.freezer.is_frozen());
    let thawed = |point: &str| guest.effects().iter().position(|effect| *effect == format!("thaw {point}"));
    assert!(thawed("/home").is_some_and(|at| thawed("/").is_none_or(|later| at < later)), "{:?}", guest.effects());
    drop(release);
    until("it goes on by itself", || thawed("/").is_some());
}

/// Thawing writes to what a file system is stored on.
#[test]
fn what_an_earlier_agent_froze_is_thawed_foundations_first() {
    let guest = Guest::plain();
    let mounts = "21 20 253:1 / /home rw - ext4 /dev/dm-1 rw\n22 20 8:1 / /srv rw - ext4 /dev/sda1 rw\n";
    std::fs::write(guest.root.path().join("proc/self/mountinfo"), mounts).expect("a file");
    guest.device("dm-1", "253:1", Some("sda1"));
    guest.device("sda1", "8:1", None);
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    let killed = guest.effects().len();
    assert_eq!(thaw(&guest.restarted()), Ok(2));
    let thawed = guest.effects().split_off(killed);
    assert_eq!(thawed.iter().position(|effect| effect == "thaw /srv"), Some(0), "{thawed:?}");
    assert!(thawed.contains(&"thaw /home".to_owned()), "{thawed:?}");
}

/// A killed agent that is in the kernel still, until `end` is called.
fn killed_agent(guest: &Guest) -> impl FnOnce() {
    let me = nix::unistd::geteuid();
    let process = guest.root.path().join("proc/4711");
    std::fs::create_dir_all(process.join("task/4712")).expect("a directory");
    std::fs::write(process.join("comm"), "qemu-ga\n").expect("a file");
    std::fs::write(process.join("status"), format!("Uid:\t{me}\t{me}\t{me}\t{me}\n")).expect("a file");
    let thread = "State:\tD (disk sleep)\nSigPnd:\t0000000000000100\n";
    std::fs::write(process.join("task/4712/status"), thread).expect("a file");
    move || std::fs::remove_dir_all(process).expect("removed")
}

/// Nobody would know of what it still freezes.
#[test]
fn a_thaw_while_a_killed_agents_freeze_goes_on_keeps_the_marker() {
    let guest = hooks::with_directory(&[("1", "")]);
    let frozen = guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, Some(&["/home"])), Ok(1));
    let end = killed_agent(&guest);
    let next = guest.restarted();
    let error = thaw(&next).expect_err("not all").desc;
    let text = "file systems thawed (1), but the freeze of an agent that was killed (process 4711) goes on";
    assert_eq!(error, text);
    assert!(next.freezer.is_frozen() && next.freezer.is_unfinished() && guest.marker());
    assert_eq!(hooks::hook_log(&guest), "1 freeze\n", "the thaw is still to come");
    // It ends, and what it froze is found by the next thaw.
    end();
    *frozen.lock().expect("not poisoned").entry(guest.root.path().join("home").display().to_string()).or_insert(0) = 1;
    assert_eq!(thaw(&next), Ok(1));
    assert_eq!((total(&frozen), guest.marker(), next.freezer.is_unfinished()), (0, false, false));
    assert_eq!(hooks::hook_log(&guest), "1 freeze\n1 thaw\n");
}

#[test]
fn an_agent_that_froze_itself_does_not_wait_for_a_killed_one() {
    let guest = Guest::plain();
    guest.count_freezes(|_| None);
    let _goes_on = killed_agent(&guest);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert!(!guest.marker());
}
