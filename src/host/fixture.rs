//! Machines for tests: a directory built from a short description.
//!
//! A captured `/sys` is thousands of files, most of them one number. Here a machine is one text
//! file, `tests/fixtures/NAME.machine`, that lists only what is read:
//!
//! ```text
//! # a comment
//! /sys/devices/virtual/block/dm-0/dev -> 253:0      a file with one line
//! /sys/block/dm-0 => ../devices/virtual/block/dm-0  a symbolic link
//! /sys/devices/virtual/block/dm-0/slaves/           an empty directory
//! /proc/diskstats:                                  a file with the lines that follow,
//! | 253 0 dm-0 1 2 3                                each behind a bar and a blank
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Host;
use super::fake::FakeKernel;

/// A machine in a directory that goes away with it.
pub struct Machine {
    dir: tempfile::TempDir,
    /// What the machine's host hands out as its kernel.
    pub kernel: FakeKernel,
}

impl Machine {
    /// The machine described in `tests/fixtures/NAME.machine`.
    pub fn load(name: &str) -> Machine {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.machine"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Machine::new(&text)
    }

    /// The machine that this text describes.
    pub fn new(text: &str) -> Machine {
        let machine = Machine {
            dir: tempfile::tempdir().expect("a temporary directory"),
            kernel: FakeKernel::default(),
        };
        machine.add(text);
        machine
    }

    /// Puts more into the machine.
    pub fn add(&self, text: &str) {
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((path, target)) = line.split_once(" => ") {
                symlink(target.trim(), self.place(path)).expect("a link");
            } else if let Some((path, content)) = line.split_once(" -> ") {
                self.file(path, format!("{content}\n"));
            } else if let Some(path) = line.strip_suffix('/') {
                fs::create_dir_all(self.place(path)).expect("a directory");
            } else if let Some(path) = line.strip_suffix(':') {
                let mut content = String::new();
                while let Some(line) = lines.next_if(|line| line.starts_with('|')) {
                    content += line.strip_prefix("| ").unwrap_or(&line[1..]);
                    content.push('\n');
                }
                self.file(path, content);
            } else {
                panic!("no file, link or directory: {line}");
            }
        }
    }

    /// Puts one file into the machine, with any bytes.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.place(path), content).expect("a file");
    }

    /// Takes a file, a link or a whole directory away.
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.symlink_metadata().expect("something to remove").is_dir() {
            fs::remove_dir_all(path).expect("removed");
        } else {
            fs::remove_file(path).expect("removed");
        }
    }

    /// Where a path of the machine lies in this one.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim().trim_start_matches('/'))
    }

    /// The machine as command handlers see it.
    pub fn host(&self) -> Host {
        Host::new(self.dir.path(), Box::new(self.kernel.clone()))
    }

    /// A path whose directory exists.
    fn place(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_what_its_description_says() {
        let machine = Machine::new("# disk\n/a/b -> 1 2\n/l => ../x\n/d/\n/m:\n| one\n|\n| two\n/e:\n");
        let host = machine.host();
        assert_eq!(host.read_text("/a/b").expect("a file"), "1 2\n");
        assert_eq!(host.link("/l").expect("a link"), Path::new("../x"));
        assert_eq!(host.list("/d").expect("a directory").len(), 0);
        assert_eq!(host.read_text("/m").expect("a file"), "one\n\ntwo\n");
        assert_eq!(host.read_text("/e").expect("a file"), "");
        machine.remove("/a");
        assert!(!host.exists("/a/b"));
    }
}
