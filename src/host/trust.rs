//! Whether what root is about to run or to believe is root's alone.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::protocol::error::os_reason;

/// As many links as the kernel follows.
const LINKS: u32 = 40;

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// Why a path is not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Distrust {
    /// Nothing is there, or it cannot be looked at.
    #[error("{}", os_reason(.0))]
    Unseen(#[from] io::Error),
    /// Others than root decide what is there.
    #[error("{0}")]
    Others(String),
}

/// What lets others than root (and ourselves) decide what is in a file or directory.
pub(crate) fn distrust(found: &Metadata) -> Option<&'static str> {
    if !is_owned(found) {
        return Some("its owner is not root");
    }
    (found.mode() & OTHERS_WRITE != 0).then_some("others than root may write to it")
}

fn is_owned(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw()
}

/// Looks at what an absolute path leads to, as the kernel would, if none but root can make it lead
/// elsewhere: all directories up to `/` and all links on the way are root's, and others may write to
/// none of them, or only in the manner of `/tmp`, where nobody touches what is another's.
///
/// From `/` on each directory is known to be root's before anything in it is looked at. So nobody
/// else can change later where the path leads, and a program that was checked can be run by it: a
/// script sees its own name then, and no descriptor is left open in it, which the way by
/// `/proc/self/fd` would cost, together with the need for a mounted `/proc`.
pub(crate) fn follow(path: &Path) -> Result<Metadata, Distrust> {
    let mut rest = parts(path);
    let mut here = PathBuf::from("/");
    let mut found = look(&here)?;
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if !found.is_dir() {
            return Err(io::Error::from(Errno::ENOTDIR).into());
        }
        if part == ".." {
            here.pop();
        } else {
            here.push(part);
        }
        found = look(&here)?;
        if found.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(io::Error::from(Errno::ELOOP).into());
            }
            let target = fs::read_link(&here)?;
            here.pop();
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            rest.append(&mut parts(&target));
            found = look(&here)?;
        }
    }
    Ok(found)
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// Looks at one step of the way. What is neither a directory nor a link is the end of it, and the
/// caller's to judge.
fn look(here: &Path) -> Result<Metadata, Distrust> {
    let found = fs::symlink_metadata(here)?;
    let open_to_all = found.is_dir() && found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0;
    let leads_on = found.is_dir() || found.is_symlink();
    if open_to_all || leads_on && !is_owned(&found) {
        let here = here.display();
        return Err(Distrust::Others(format!("'{here}' is not root's alone: others than root may replace it")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// Some user.
    const SOMEBODY: u32 = 65534;

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// `a/b/program`, and nothing wrong with it.
        fn new() -> Tree {
            let tree = Tree(tempfile::tempdir().expect("a directory"));
            fs::create_dir_all(tree.path("a/b")).expect("directories");
            fs::write(tree.path("a/b/program"), "").expect("a file");
            for (path, mode) in [("a", 0o755), ("a/b", 0o755), ("a/b/program", 0o755)] {
                tree.mode(path, mode);
            }
            tree
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).expect("a mode");
        }

        /// Whether the path can be trusted, its end included.
        fn is_trusted(&self, path: &str) -> bool {
            follow(&self.path(path)).is_ok_and(|found| distrust(&found).is_none())
        }
    }

    #[test]
    fn others_than_root_have_no_part_in_any_directory_up_to_the_root() {
        for part in ["a", "a/b"] {
            let tree = Tree::new();
            assert!(tree.is_trusted("a/b/program"));
            for bad in [0o775, 0o757, 0o777] {
                tree.mode(part, bad);
                assert!(!tree.is_trusted("a/b/program"), "{part} {bad:o}");
            }
            tree.mode(part, 0o1777);
            assert!(tree.is_trusted("a/b/program"), "a sticky {part} of root's lets nobody touch root's files");
        }
    }

    #[test]
    fn links_are_followed_through_what_is_trusted_only() {
        let tree = Tree::new();
        fs::create_dir(tree.path("bad")).expect("a directory");
        fs::write(tree.path("bad/program"), "").expect("a file");
        for (name, target) in [
            ("good", "a/b/program"),
            ("up", "a/b/../../good"),
            ("self", "self"),
            ("gone", "a/none"),
            ("out", "bad/program"),
        ] {
            symlink(target, tree.path(name)).expect("a link");
        }
        symlink(tree.path("a/b/program"), tree.path("bad/back")).expect("a link");
        for name in ["good", "up", "out", "bad/back"] {
            assert!(tree.is_trusted(name), "{name}");
        }
        tree.mode("bad", 0o777);
        for name in ["out", "bad/back", "self", "gone", "bad/../good", "good/x"] {
            assert!(!tree.is_trusted(name), "{name}");
        }
        assert!(tree.is_trusted("good"));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skip is said")]
    fn what_belongs_to_another_user_is_not_trusted_sticky_or_not() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED trust of other users' files: only root can give files away");
            return;
        }
        for (part, mode) in [("a", 0o1755), ("a/b", 0o755), ("a/b/program", 0o755)] {
            let tree = Tree::new();
            tree.mode(part, mode);
            chown(tree.path(part), Some(SOMEBODY), None).expect("given away");
            assert!(!tree.is_trusted("a/b/program"), "{part}");
        }
        // A link of theirs beside files of root's, as in /tmp.
        let tree = Tree::new();
        tree.mode("a", 0o1777);
        symlink("b/program", tree.path("a/link")).expect("a link");
        assert!(tree.is_trusted("a/link"));
        std::os::unix::fs::lchown(tree.path("a/link"), Some(SOMEBODY), None).expect("given away");
        assert!(!tree.is_trusted("a/link"));
    }
}
