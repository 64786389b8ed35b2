//! The operator's programs around a freeze.

use super::*;

fn script(path: &Path, body: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

pub(super) fn hook(root: &Path, body: &str) -> PathBuf {
    script(&root.join("hook"), &format!("echo $1 >> {}/log\n{body}", root.display()));
    PathBuf::from("/hook")
}

pub(super) fn hook_log(guest: &Guest) -> String {
    std::fs::read_to_string(guest.root.path().join("log")).unwrap_or_default()
}

#[test]
fn a_hook_that_fails_stops_the_freeze_and_is_told_of_the_thaw() {
    let guest = Guest::new(|config, root| {
        config.fsfreeze_hook = Some(hook(root, "[ $1 = thaw ] || { echo no space for the dump >&2; exit 3; }"));
    });
    let error = freeze(&guest.agent, None).expect_err("the hook failed").desc;
    let text =
        "child process has failed to execute fsfreeze hook '/hook' (freeze): exit status 3: no space for the dump";
    assert_eq!(error, text);
    assert_eq!(hook_log(&guest), "freeze\nthaw\n");
    assert!(guest.effects().is_empty());
}

#[test]
fn hooks_run_in_pairs_and_not_for_a_thaw_without_a_freeze() {
    let guest = Guest::new(|config, root| config.fsfreeze_hook = Some(hook(root, "")));
    guest.count_freezes(|_| None);
    assert_eq!(thaw(&guest.agent), Ok(0));
    assert_eq!(hook_log(&guest), "");
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert_eq!(thaw(&guest.agent), Ok(0));
    assert_eq!(hook_log(&guest), "freeze\nthaw\n");
}

#[test]
fn a_hook_that_anybody_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let guest = Guest::new(|config, root| {
        config.fsfreeze_hook = Some(hook(root, ""));
        std::fs::set_permissions(root.join("hook"), std::fs::Permissions::from_mode(0o777)).expect("a mode");
    });
    let error = freeze(&guest.agent, None).expect_err("refused").desc;
    assert!(error.contains("others than root may write to it"), "{error}");
    assert_eq!(hook_log(&guest), "");
}

#[test]
fn a_thaw_hook_that_fails_is_reported_and_everything_is_thawed() {
    let guest = Guest::new(|config, root| config.fsfreeze_hook = Some(hook(root, "[ $1 = freeze ]")));
    let frozen = guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    let error = thaw(&guest.agent).expect_err("the hook failed").desc;
    assert!(error.starts_with("file systems thawed (2), but: "), "{error}");
    assert_eq!(total(&frozen), 0);
    assert!(!guest.agent.freezer.is_frozen());
}

/// A guest whose hook is a directory with these scripts; each notes its name and what it was told.
pub(super) fn with_directory(scripts: &'static [(&'static str, &'static str)]) -> Guest {
    Guest::new(|config, root| {
        std::fs::create_dir(root.join("hook.d")).expect("a directory");
        for (name, body) in scripts {
            script(&root.join("hook.d").join(name), &format!("echo {name} $1 >> {}/log\n{body}", root.display()));
        }
        config.fsfreeze_hook = Some("/hook".into());
    })
}

#[test]
fn the_scripts_of_a_directory_are_told_in_order_and_of_the_thaw_in_reverse() {
    let guest = with_directory(&[("20-b", ""), ("10-a", "")]);
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert_eq!(hook_log(&guest), "10-a freeze\n20-b freeze\n");
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert_eq!(hook_log(&guest), "10-a freeze\n20-b freeze\n20-b thaw\n10-a thaw\n");
    assert!(!guest.state.path().join("qga.state.hooks").exists());
}

#[test]
fn a_script_that_fails_ends_the_freeze_and_thaws_those_before_it_and_itself() {
    let guest = with_directory(&[("1", ""), ("2", "[ $1 = thaw ] || { echo cannot lock; exit 3; }"), ("3", "")]);
    let error = freeze(&guest.agent, None).expect_err("the second fails").desc;
    let text = "child process has failed to execute fsfreeze hook '/hook.d/2' (freeze): exit status 3: cannot lock";
    assert_eq!(error, text);
    assert_eq!(hook_log(&guest), "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
    assert!(guest.effects().is_empty());
}

#[test]
fn a_refused_script_disturbs_nobody() {
    use std::os::unix::fs::PermissionsExt;
    let guest = with_directory(&[("1", ""), ("2", "")]);
    let second = guest.root.path().join("hook.d/2");
    std::fs::set_permissions(second, std::fs::Permissions::from_mode(0o757)).expect("a mode");
    let error = freeze(&guest.agent, None).expect_err("refused").desc;
    assert_eq!(error, "fsfreeze hook '/hook.d/2' is not run: others than root may write to it");
    assert_eq!(hook_log(&guest), "");
}

/// The second is looked at before the first runs, which then lets others write to it.
#[test]
fn a_script_that_others_may_change_by_the_time_it_is_due_is_not_run() {
    for (way, text) in [("2", "others than root may write to it"), ("", "others than root may replace it")] {
        let guest = with_directory(&[("1", ". ${0%/*}/../way"), ("2", "")]);
        let hooks = guest.root.path().join("hook.d");
        let way = format!("[ $1 = thaw ] || chmod 757 '{}'", hooks.join(way).display());
        std::fs::write(guest.root.path().join("way"), way).expect("a file");
        let error = freeze(&guest.agent, None).expect_err("refused").desc;
        assert!(error.starts_with("fsfreeze hook '/hook.d/2' is not run: ") && error.ends_with(text), "{error}");
        assert!(!hook_log(&guest).contains('2'), "{}", hook_log(&guest));
    }
}

#[test]
fn a_hook_that_is_missing_when_it_is_looked_for_is_not_run_when_it_turns_up() {
    let guest = Guest::new(|config, root| {
        script(&root.join("appears"), &format!("echo appears >> {}/log", root.display()));
        config.fsfreeze_hook = Some("/missing".into());
    });
    let error = freeze(&guest.agent, None).expect_err("missing").desc;
    let text = "child process has failed to execute fsfreeze hook '/missing' (freeze): No such file or directory";
    assert_eq!(error, text);
    assert!(!guest.state.path().join("qga.state.hooks").exists(), "it was told nothing");
    std::fs::rename(guest.root.path().join("appears"), guest.root.path().join("missing")).expect("it turns up");
    assert_eq!(thaw(&guest.agent), Ok(0));
    assert_eq!(hook_log(&guest), "");
}

#[test]
fn a_hook_whose_name_is_not_utf8_is_run() {
    use std::os::unix::ffi::OsStrExt;
    let guest = with_directory(&[("1", "")]);
    let name = std::ffi::OsStr::from_bytes(b"2-caf\xe9");
    let root = guest.root.path();
    script(&root.join("hook.d").join(name), &format!("echo bytes $1 >> {}/log", root.display()));
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    assert_eq!(thaw(&guest.agent), Ok(2));
    assert_eq!(hook_log(&guest), "1 freeze\nbytes freeze\nbytes thaw\n1 thaw\n");
}

#[test]
fn a_script_that_hangs_is_killed_and_told_of_the_thaw() {
    let mut guest = with_directory(&[("1", "[ $1 = thaw ] || exec sleep 600"), ("2", "")]);
    guest.set(|config| config.fsfreeze.hook_timeout = Duration::from_millis(300));
    let error = freeze(&guest.agent, None).expect_err("it hangs").desc;
    assert!(error.contains("hook '/hook.d/1' (freeze): not done after"), "{error}");
    assert_eq!(hook_log(&guest), "1 freeze\n1 thaw\n");
}

#[test]
fn a_freeze_that_fails_tells_all_scripts_of_the_thaw() {
    let guest = with_directory(&[("1", ""), ("2", "")]);
    guest.count_freezes(|effect| matches!(effect, Effect::Freeze(_)).then(|| Errno::EIO.into()));
    freeze(&guest.agent, None).expect_err("refused by the kernel");
    assert_eq!(hook_log(&guest), "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
}

#[test]
fn a_script_that_fails_to_thaw_does_not_keep_the_others_from_theirs() {
    let guest = with_directory(&[("1", ""), ("2", "[ $1 = freeze ]"), ("3", "[ $1 = freeze ]")]);
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    let error = thaw(&guest.agent).expect_err("two fail").desc;
    assert!(error.contains("'/hook.d/3' (thaw): exit status 1; ") && error.contains("'/hook.d/2' (thaw)"), "{error}");
    assert!(hook_log(&guest).ends_with("3 thaw\n2 thaw\n1 thaw\n"));
    assert_eq!(thaw(&guest.agent), Ok(0), "nobody is told twice");
}

/// Killed at any time: what the scripts were told is on disk, and the next agent goes on from there.
#[test]
fn the_next_agent_tells_exactly_those_that_a_killed_one_left_waiting() {
    let guest = with_directory(&[("1", ""), ("2", ""), ("3", "")]);
    let killed_after = |told: &[&str]| {
        let told: Vec<PathBuf> = told.iter().map(PathBuf::from).collect();
        guest.agent.state.note_hooks(&told).expect("noted");
        std::fs::write(guest.root.path().join("log"), "").expect("a file");
        guest.restarted()
    };
    let next = killed_after(&["/hook.d/1", "/hook.d/2"]);
    assert!(owes_hooks(&next));
    settle_hooks(&next);
    assert_eq!(hook_log(&guest), "2 thaw\n1 thaw\n");
    settle_hooks(&next);
    assert_eq!(hook_log(&guest), "2 thaw\n1 thaw\n", "once");
    assert!(!owes_hooks(&guest.restarted()));

    // A freeze that comes before that brings the old pairs to an end first.
    guest.count_freezes(|_| None);
    let next = killed_after(&["/hook.d/1"]);
    assert_eq!(freeze(&next, None), Ok(2));
    assert_eq!(hook_log(&guest), "1 thaw\n1 freeze\n2 freeze\n3 freeze\n");
    assert_eq!(thaw(&next), Ok(2));
}

#[test]
fn a_freeze_of_a_killed_agent_is_thawed_with_its_hooks() {
    let guest = with_directory(&[("1", ""), ("2", "")]);
    guest.count_freezes(|_| None);
    assert_eq!(freeze(&guest.agent, None), Ok(2));
    let next = guest.restarted();
    assert!(next.freezer.is_frozen() && !owes_hooks(&next), "the thaw is still to come");
    assert_eq!(thaw(&next), Ok(2));
    assert_eq!(hook_log(&guest), "1 freeze\n2 freeze\n2 thaw\n1 thaw\n");
}

/// The stock agent's marker is empty, and it keeps no list of hooks.
#[test]
fn after_a_freeze_of_another_agent_all_hooks_are_told_of_the_thaw() {
    let guest = with_directory(&[("1", ""), ("2", "")]);
    std::fs::write(guest.state.path().join("qga.state.isfrozen"), "").expect("a marker");
    let next = guest.restarted();
    guest.count_freezes(|_| None);
    assert_eq!(thaw(&next), Ok(0));
    assert_eq!(hook_log(&guest), "2 thaw\n1 thaw\n");
}

#[test]
fn a_hook_that_cannot_be_noted_is_told_neither() {
    let guest = with_directory(&[("1", ""), ("2", "")]);
    // Like a full disk, for root too.
    std::fs::create_dir(guest.state.path().join("qga.state.hooks")).expect("a directory");
    let error = freeze(&guest.agent, None).expect_err("refused").desc;
    assert!(error.starts_with("failed to note the fsfreeze hooks in the state directory"), "{error}");
    assert_eq!(hook_log(&guest), "");
}
