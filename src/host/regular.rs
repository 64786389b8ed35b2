//! Files that have to be regular ones.
//!
//! A FIFO in the place of one, or a terminal, would keep the reader waiting for ever; so would a
//! file whose owner holds a lease on it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// Opens a file for reading, and does not wait for anybody.
///
/// # Errors
/// Those of open(2), and that it is not a regular file.
pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<File> {
    only(File::options().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?)
}

/// A whole file.
///
/// # Errors
/// Those of `open`, and of reading.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    open(path)?.read_to_end(&mut data)?;
    Ok(data)
}

/// A file that was opened without waiting.
///
/// # Errors
/// That it is not a regular one.
pub(crate) fn only(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("Not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::host::Host;
    use crate::host::fixture::Machine;
    use crate::host::linux::{rtc, utmp};

    type Reader = fn(&Host);

    /// What reads a file, by its path.
    const READERS: [(&str, Reader); 6] = [
        ("/run/utmp", |host| assert_eq!(utmp::logins(host), [])),
        ("/var/run/utmp", |host| assert_eq!(utmp::logins(host), [])),
        ("/etc/os-release", |host| assert!(host.read_text("/etc/os-release").is_err())),
        ("/etc/localtime", |host| assert!(host.read("/etc/localtime").is_err())),
        ("/etc/shadow", |host| assert!(host.read("/etc/shadow").is_err())),
        ("/etc/adjtime", |host| assert!(!rtc::has_local_time(host))),
    ];

    /// Fails when the work does not end: it waits for a writer that never comes.
    fn ends(name: &str, work: impl FnOnce() + Send + 'static) {
        let (done, wait) = mpsc::channel();
        let worker = std::thread::spawn(move || {
            work();
            done.send(()).expect("somebody waits");
        });
        if let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(Duration::from_secs(20)) {
            panic!("{name} waits");
        }
        worker.join().unwrap_or_else(|_| panic!("{name} fails"));
    }

    #[test]
    fn a_fifo_or_a_terminal_in_place_of_a_file_keeps_nobody_waiting() {
        for (path, reader) in READERS {
            let fifo = Machine::new("/etc/");
            let place = fifo.path(path);
            std::fs::create_dir_all(place.parent().expect("a directory")).expect("made");
            mkfifo(&place, Mode::S_IRWXU).expect("a FIFO");
            // A device that gives bytes without end.
            let endless = Machine::new(&format!("{path} => /dev/zero"));
            for machine in [fifo, endless] {
                ends(path, move || {
                    reader(&machine.host());
                    reader(&machine.host().in_haste());
                });
            }
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| dir.path().join(name);
        std::fs::write(place("file"), "x").expect("a file");
        symlink("file", place("link")).expect("a link");
        mkfifo(&place("fifo"), Mode::S_IRWXU).expect("a FIFO");
        assert!(open(place("file")).is_ok() && open(place("link")).is_ok());
        for other in [place("fifo"), place("."), "/dev/null".into()] {
            let refusal = open(&other).expect_err("not a regular file");
            assert_eq!(refusal.to_string(), "Not a regular file", "{}", other.display());
        }
        assert_eq!(open(place("none")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
