use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn home(text: Option<&[u8]>) -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    if let Some(text) = text {
        fs::create_dir(home.path().join(".ssh")).expect("a directory");
        fs::write(file(&home), text).expect("a file");
    }
    home
}

fn file(home: &TempDir) -> PathBuf {
    home.path().join(".ssh/authorized_keys")
}

fn text(home: &TempDir) -> String {
    fs::read_to_string(file(home)).expect("a file")
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

fn get(home: &TempDir) -> Result<Vec<String>, String> {
    perform(home.path(), Actor::User, &Action::Get)
}

fn add(home: &TempDir, keys: &[&str], reset: bool) -> Result<(), String> {
    let keys = keys.iter().map(|&key| key.to_owned()).collect();
    perform(home.path(), Actor::User, &Action::Add { keys, reset }).map(|keys| assert!(keys.is_empty()))
}

fn remove(home: &TempDir, keys: &[&str]) -> Result<(), String> {
    let keys = keys.iter().map(|&key| key.to_owned()).collect();
    perform(home.path(), Actor::User, &Action::Remove { keys }).map(|keys| assert!(keys.is_empty()))
}

#[test]
fn keys_come_in_the_order_of_the_file() {
    let home = home(Some(b"# a comment\n\n  ssh-rsa A one  \r\nfrom=\"x\" ssh-rsa B\n #no\nssh-rsa C"));
    let expected = ["ssh-rsa A one", "from=\"x\" ssh-rsa B", "ssh-rsa C"];
    assert_eq!(get(&home), Ok(expected.map(str::to_owned).to_vec()));
}

#[test]
fn a_missing_file_is_an_error_for_get_only() {
    let home = home(None);
    let path = file(&home);
    let path = path.display();
    let expected =
        format!("failed to read '{path}': Failed to open file \u{201c}{path}\u{201d}: No such file or directory");
    assert_eq!(get(&home), Err(expected));
    assert_eq!(remove(&home, &["ssh-rsa A"]), Ok(()));
    assert!(!home.path().join(".ssh").exists());
}

#[test]
fn the_directory_and_the_file_are_made_for_the_user_alone() {
    let home = home(None);
    assert_eq!(add(&home, &["ssh-rsa A", "ssh-rsa B", "ssh-rsa A"], false), Ok(()));
    assert_eq!(text(&home), "ssh-rsa A\nssh-rsa B\n");
    assert_eq!((mode(home.path().join(".ssh")), mode(file(&home))), (0o700, 0o600));
    let names: Vec<_> = fs::read_dir(home.path().join(".ssh")).expect("a directory").collect();
    assert_eq!(names.len(), 1, "a temporary file stayed: {names:?}");
}

#[test]
fn foreign_lines_stay_byte_for_byte() {
    let foreign = b"# mine\r\n\n\xff\xfe no text\nrestrict ssh-rsa A me \n".as_slice();
    let home = home(Some(foreign));
    assert_eq!(add(&home, &["ssh-rsa B"], false), Ok(()));
    assert_eq!(fs::read(file(&home)).expect("a file"), [foreign, b"ssh-rsa B\n"].concat());
    assert_eq!(remove(&home, &["ssh-rsa B"]), Ok(()));
    assert_eq!(fs::read(file(&home)).expect("a file"), foreign);
}

#[test]
fn a_last_line_without_end_is_ended() {
    let home = home(Some(b"ssh-rsa A"));
    assert_eq!(add(&home, &["ssh-rsa B"], false), Ok(()));
    assert_eq!(text(&home), "ssh-rsa A\nssh-rsa B\n");
}

#[test]
fn what_get_lists_can_be_removed() {
    let home = home(Some(b"  ssh-rsa A \r\nssh-rsa B\n"));
    let keys = get(&home).expect("keys");
    assert_eq!(remove(&home, &[&keys[0]]), Ok(()));
    assert_eq!(text(&home), "ssh-rsa B\n");
}

#[test]
fn a_reset_replaces_all() {
    let home = home(Some(b"# x\nssh-rsa A\n"));
    assert_eq!(add(&home, &["ssh-rsa B"], true), Ok(()));
    assert_eq!(text(&home), "ssh-rsa B\n");
    assert_eq!(add(&home, &[], true), Ok(()));
    assert_eq!(text(&home), "");
}

#[test]
fn nothing_to_do_leaves_the_file_alone() {
    let home = home(Some(b"ssh-rsa A\n"));
    let before = fs::metadata(file(&home)).expect("a file").ino();
    assert_eq!(add(&home, &["ssh-rsa A"], false), Ok(()));
    assert_eq!(remove(&home, &["ssh-rsa B"]), Ok(()));
    assert_eq!(fs::metadata(file(&home)).expect("a file").ino(), before);
}

#[test]
fn what_sshd_would_distrust_is_mended() {
    let home = home(Some(b"ssh-rsa A\n"));
    set_mode(home.path().join(".ssh"), 0o775);
    set_mode(file(&home), 0o666);
    assert_eq!(add(&home, &["ssh-rsa A"], false), Ok(()));
    assert_eq!((mode(home.path().join(".ssh")), mode(file(&home))), (0o755, 0o644));
}

#[test]
fn links_out_of_the_home_are_refused_and_nothing_is_written() {
    let outside = home(Some(b"ssh-rsa A\n"));
    for (link, target) in [
        (".ssh", outside.path().join(".ssh")),
        (".ssh/authorized_keys", outside.path().join(".ssh/authorized_keys")),
        (".ssh", PathBuf::from("../..")),
        (".ssh", PathBuf::from("..")),
        (".ssh", PathBuf::from("/")),
        (".ssh", PathBuf::from("a/../../x")),
        (".ssh/authorized_keys", PathBuf::from("../../x")),
        // In the home by its words only.
        (".ssh", PathBuf::from("HOME/../x")),
        (".ssh", PathBuf::from("HOMEx")),
    ] {
        let home = home(None);
        let link = home.path().join(link);
        fs::create_dir_all(link.parent().expect("a parent")).expect("a directory");
        fs::create_dir(home.path().join("a")).expect("a directory");
        let target = target.to_str().expect("text").replace("HOME", home.path().to_str().expect("text"));
        symlink(&target, &link).expect("a link");
        for result in [get(&home).map(drop), add(&home, &["ssh-rsa B"], true), remove(&home, &["ssh-rsa A"])] {
            let error = result.expect_err("refused");
            assert!(error.ends_with("A symbolic link leads out of the home directory"), "{error}");
        }
    }
    assert_eq!(text(&outside), "ssh-rsa A\n");
}

#[test]
fn a_link_inside_the_home_is_followed() {
    let home = home(None);
    fs::create_dir(home.path().join("dotfiles")).expect("a directory");
    symlink("dotfiles", home.path().join(".ssh")).expect("a link");
    assert_eq!(add(&home, &["ssh-rsa A"], false), Ok(()));
    assert_eq!(fs::read_to_string(home.path().join("dotfiles/authorized_keys")).expect("a file"), "ssh-rsa A\n");
}

/// As dotfile managers make them.
#[test]
fn an_absolute_link_back_into_the_home_is_followed() {
    let home = home(None);
    let path = home.path();
    fs::create_dir_all(path.join("dot/ssh")).expect("a directory");
    symlink(path.join("dot"), path.join("files")).expect("a link");
    symlink(path.join("files/ssh"), path.join(".ssh")).expect("a link");
    assert_eq!(add(&home, &["ssh-rsa A"], false), Ok(()));
    assert_eq!(fs::read_to_string(path.join("dot/ssh/authorized_keys")).expect("a file"), "ssh-rsa A\n");
    assert_eq!(get(&home), Ok(vec!["ssh-rsa A".to_owned()]));
    assert_eq!(remove(&home, &["ssh-rsa A"]), Ok(()));
    assert_eq!(text(&home), "");
    assert!(path.join(".ssh").is_symlink());

    // The file itself, and by the home's other name, as where /home is a link to /var/home.
    fs::write(path.join("keys"), "ssh-rsa B\n").expect("a file");
    fs::remove_file(file(&home)).expect("a file");
    symlink(path.join("keys"), file(&home)).expect("a link");
    assert_eq!(get(&home), Ok(vec!["ssh-rsa B".to_owned()]));
    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = elsewhere.path().join("home");
    symlink(path, &other).expect("a link");
    assert_eq!(perform(&other, Actor::User, &Action::Get), Ok(vec!["ssh-rsa B".to_owned()]));
}

/// The user changes what is there while it is looked at: where root acts for him, that is all
/// that stands between him and the files of others.
#[test]
fn a_race_does_not_lead_out_of_the_home() {
    let outside = home(Some(b"ssh-rsa SECRET\n"));
    let home = home(Some(b"ssh-rsa OLD\n"));
    let path = home.path().to_owned();
    fs::create_dir(path.join("a")).expect("a directory");
    symlink(outside.path().join(".ssh"), path.join("out")).expect("a link");
    symlink(path.join("a/../.ssh-real"), path.join("in")).expect("a link");
    fs::rename(path.join(".ssh"), path.join(".ssh-real")).expect("moved");
    fs::rename(path.join("in"), path.join(".ssh")).expect("moved");
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut good, mut bad) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Two names exchange what they stand for, at once, and then back again.
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                for (one, other) in [(".ssh", "out"), (".ssh", "out"), ("a", "out"), ("a", "out")] {
                    let (one, other) = (path.join(one), path.join(other));
                    nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &one, nix::fcntl::AT_FDCWD, &other, flags)
                        .expect("exchanged");
                    std::thread::yield_now();
                }
            }
        });
        // As long as it takes until both have won often.
        for round in 0..1_000_000 {
            match perform(home.path(), Actor::User, &Action::Get) {
                Ok(keys) => {
                    assert!(!keys.iter().any(|key| key.contains("SECRET")), "{keys:?}");
                    good += 1;
                }
                Err(_) => bad += 1,
            }
            let add = Action::Add { keys: vec![format!("ssh-rsa {}", round % 3)], reset: true };
            let _ = perform(home.path(), Actor::User, &add);
            if good >= 100 && bad >= 100 {
                break;
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(good >= 100 && bad >= 100, "it was a race: {good} and {bad}");
    assert_eq!(text(&outside), "ssh-rsa SECRET\n");
    assert_eq!(names_below(outside.path()).len(), 2, "nothing else came there");
}

#[test]
fn a_link_to_itself_is_no_way_out() {
    let home = home(None);
    symlink(".ssh", home.path().join(".ssh")).expect("a link");
    let error = get(&home).expect_err("a loop");
    assert!(error.ends_with("Too many levels of symbolic links"), "{error}");
}

#[test]
fn what_is_no_file_is_an_error_and_is_not_replaced() {
    let home = home(None);
    fs::create_dir_all(file(&home)).expect("a directory");
    assert!(get(&home).is_err());
    assert!(add(&home, &["ssh-rsa A"], false).is_err());
    fs::remove_dir(file(&home)).expect("an empty directory");
    nix::unistd::mkfifo(&file(&home), Mode::S_IRWXU).expect("a FIFO");
    assert!(get(&home).is_err(), "and does not hang");
    assert!(add(&home, &["ssh-rsa A"], false).is_err());
    assert!(fs::metadata(file(&home)).is_ok());
}

#[test]
fn a_file_of_gigabytes_is_not_read() {
    let home = home(Some(b""));
    fs::File::options().write(true).open(file(&home)).and_then(|f| f.set_len(1 << 40)).expect("a sparse file");
    assert!(get(&home).expect_err("refused").contains("File too large"));
    assert!(add(&home, &["ssh-rsa A"], false).is_err());
}

#[test]
fn a_home_that_is_not_there_is_named() {
    let gone = Path::new("/nonexistent/ghost");
    let keys = vec!["ssh-rsa A".to_owned()];
    let error = perform(gone, Actor::User, &Action::Add { keys, reset: false }).expect_err("no home");
    assert_eq!(error, "failed to create directory '/nonexistent/ghost/.ssh': No such file or directory");
}

/// Where a path in the home leads, by the rules and not by the system: `Err` is out of it.
fn leads_to(home: &Path, links: &[(String, String)]) -> Result<PathBuf, ()> {
    let mut here = PathBuf::new();
    let mut ahead = vec![".ssh".to_owned()];
    for _ in 0..1000 {
        let Some(name) = ahead.pop() else { return Ok(here) };
        if name == ".." {
            if !here.pop() {
                return Err(());
            }
            continue;
        }
        let next = here.join(&name);
        match links.iter().find(|(link, _)| Path::new(link) == next) {
            None if !ahead.is_empty() && !home.join(&next).is_dir() => return Err(()),
            None => here = next,
            Some((_, target)) => {
                let mut target = target.as_str();
                if target.starts_with('/') {
                    target = target.strip_prefix(home.to_str().expect("text")).ok_or(())?;
                    here = PathBuf::new();
                }
                ahead.extend(target.split('/').rev().filter(|name| !name.is_empty()).map(str::to_owned));
            }
        }
    }
    Err(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Directories a and b, links in them and in the home to anywhere: the key comes to where the
    /// links lead, or nowhere.
    #[test]
    fn links_are_followed_inside_the_home_and_never_out_of_it(
        links in proptest::collection::vec(
            ("(a/|b/)?(x|y)", "(HOME/|/|/tmp/|OUT/)?(\\.\\./)?(a|b|x|y|\\.\\.)(/(a|b|x|y|\\.\\.)){0,2}"), 0..6),
        ssh in "(HOME/|\\.\\./)?(a|b|x|y)(/(a|b|x|y|\\.\\.)){0,2}",
    ) {
        let outer = tempfile::tempdir().expect("a directory");
        let home = outer.path().join("home");
        let out = outer.path().join("out");
        for dir in [home.join("a"), home.join("b"), out.join("a"), out.join("b")] {
            fs::create_dir_all(dir).expect("a directory");
        }
        let before = names_below(&out);
        let mut made = Vec::new();
        for (link, target) in links.into_iter().chain([(".ssh".to_owned(), ssh)]) {
            let target = target.replace("HOME", home.to_str().expect("text")).replace("OUT", out.to_str().expect("text"));
            if symlink(&target, home.join(&link)).is_ok() {
                made.push((link, target));
            }
        }
        let add = Action::Add { keys: vec!["ssh-rsa A".to_owned()], reset: false };
        let added = perform(&home, Actor::User, &add);
        let expected = leads_to(&home, &made).ok().filter(|dir| home.join(dir).is_dir());
        let Some(dir) = expected else {
            prop_assert!(added.is_err());
            prop_assert_eq!(names_below(&out), before);
            prop_assert!(names_below(outer.path()).iter().all(|name| !name.ends_with("authorized_keys")));
            return Ok(());
        };
        prop_assert_eq!(added, Ok(Vec::new()), "{:?}", made);
        let text = fs::read_to_string(home.join(dir).join("authorized_keys")).expect("a file");
        prop_assert_eq!(text, "ssh-rsa A\n");
    }
}

/// All that lies in a directory.
fn names_below(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() && !entry.is_symlink() {
            names.extend(names_below(&entry));
        }
        names.push(entry);
    }
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_file_keeps_its_lines(old in proptest::collection::vec(any::<u8>(), 0..400)) {
        let home = home(Some(&old));
        prop_assert!(get(&home).is_ok());
        let key = "ssh-ed25519 KEY";
        prop_assert_eq!(add(&home, &[key], false), Ok(()));
        let new = fs::read(file(&home)).expect("a file");
        prop_assert!(new.starts_with(&old));
        prop_assert!(new.ends_with(b"ssh-ed25519 KEY\n"));
        prop_assert_eq!(remove(&home, &[key]), Ok(()));
        prop_assert_eq!(get(&home).is_ok_and(|keys| keys.iter().any(|k| k == key)), false);
    }
}

#[test]
fn that_no_process_can_be_started_is_said_in_the_systems_words() {
    let error = std::io::Error::from(nix::errno::Errno::EAGAIN);
    let expected = "failed to act for user 'bob': Resource temporarily unavailable";
    assert_eq!(worker::no_process("bob", &error), expected);
}
