//! The agent under test: its program, the files that go with it, and what is known of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::machine::Init;

/// A file for the guest.
pub struct File {
    pub from: PathBuf,
    /// Absolute, without symbolic links in its directory.
    pub to: String,
    pub mode: u32,
}

pub struct Subject {
    pub program: PathBuf,
    /// The C agent of the distribution rather than ours: the same session must pass, but it is
    /// known to be worse in some points, which tests then leave out by name.
    pub stock: bool,
}

/// `QGA_UNDER_TEST`, or the release build of this crate.
pub fn under_test() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        let program = std::env::var_os("QGA_UNDER_TEST").map_or_else(release_build, PathBuf::from);
        assert!(
            program.is_file(),
            "{} is not there: build it first, with `cargo build --release`, or name another agent in QGA_UNDER_TEST",
            program.display()
        );
        let version = output_of(&program, "--version");
        assert!(version.starts_with("QEMU Guest Agent "), "{}: {version}", program.display());
        Subject { program, stock: !version.contains("qemu-ga-rs") }
    })
}

fn crate_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn release_build() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    crate_root().join(target).join("release/qemu-ga")
}

fn output_of(program: &Path, argument: impl AsRef<std::ffi::OsStr>) -> String {
    let output =
        Command::new(program).arg(argument).output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Subject {
    /// Program and packaging, as an installation of the package would place them.
    pub fn files(&self, init: Init) -> Vec<File> {
        let file = |from: PathBuf, to: &str, mode| File { from, to: to.to_owned(), mode };
        let mut files = vec![file(self.program.clone(), "/usr/sbin/qemu-ga", 0o755)];
        // The C agent goes with its own files: ours use options and notices it does not know.
        let (unit, rule, script) = if self.stock {
            (
                PathBuf::from("/usr/lib/systemd/system/qemu-guest-agent.service"),
                PathBuf::from("/usr/lib/udev/rules.d/60-qemu-guest-agent.rules"),
                None,
            )
        } else {
            (
                crate_root().join("systemd/qemu-guest-agent.service"),
                crate_root().join("systemd/60-qemu-guest-agent.rules"),
                Some(crate_root().join("packaging/sysv/qemu-ga")),
            )
        };
        if init != Init::Busybox {
            let hook = crate_root().join("packaging/fsfreeze-hook");
            files.push(file(hook, "/etc/qemu/fsfreeze-hook", 0o755));
        }
        match init {
            Init::Systemd => {
                files.push(file(unit, "/usr/lib/systemd/system/qemu-guest-agent.service", 0o644));
                files.push(file(rule, "/usr/lib/udev/rules.d/60-qemu-guest-agent.rules", 0o644));
            }
            Init::Sysv => files.extend(script.map(|script| file(script, "/etc/init.d/qemu-ga", 0o755))),
            Init::Openrc => {
                let service = crate_root().join("packaging/openrc/qemu-guest-agent");
                files.push(file(service, "/etc/init.d/qemu-guest-agent", 0o755));
            }
            Init::Busybox => {}
        }
        files
    }

    /// The shared libraries and the loader, at their places in a merged /usr.
    pub fn libraries(&self) -> Vec<File> {
        let listing = output_of(Path::new("ldd"), &self.program);
        let paths = listing.split_whitespace().filter(|word| word.starts_with('/'));
        paths
            .map(|path| {
                let to = if path.starts_with("/usr/") { path.to_owned() } else { format!("/usr{path}") };
                File { from: PathBuf::from(path), to, mode: 0o755 }
            })
            .collect()
    }
}
