//! Writing all of it, or saying why not.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the other end of a pipe or a device may take nothing at all. Replies go out in order, so
/// a ping behind the write waits as long: less than a second, as behind anything else that hangs.
const STALLED: Duration = Duration::from_millis(500);

/// How long one write may take that is taken in drops.
const LONGEST: Duration = Duration::from_secs(60);

/// While it waits, a write looks this often whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// One write, of as many pieces as there are.
pub(super) struct Writing<'f> {
    file: &'f mut File,
    /// When it waited for the first time, and when something was taken last.
    since: Option<(Instant, Instant)>,
    stalled: Duration,
    longest: Duration,
}

impl<'f> Writing<'f> {
    pub fn new(file: &'f mut File) -> Writing<'f> {
        Writing { file, since: None, stalled: STALLED, longest: LONGEST }
    }

    /// Writes the whole piece. `stop` says that nobody waits for it any more.
    ///
    /// # Errors
    /// The system's reason why the rest was not taken; `WouldBlock` when there was no room for too long.
    pub fn all(&mut self, mut piece: &[u8], stop: impl Fn() -> bool) -> io::Result<()> {
        while !piece.is_empty() {
            match self.file.write(piece) {
                // A device that takes nothing and has no reason.
                Ok(0) => return Err(io::Error::from_raw_os_error(nix::libc::EIO)),
                Ok(taken) => {
                    piece = &piece[taken..];
                    if let Some((_, progress)) = &mut self.since {
                        *progress = Instant::now();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(&stop) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Until there may be room; false when that was waited for long enough.
    fn wait(&mut self, stop: impl Fn() -> bool) -> bool {
        let now = Instant::now();
        let &mut (start, progress) = self.since.get_or_insert((now, now));
        let end = (start + self.longest).min(progress + self.stalled);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || stop() {
                return false;
            }
            let look = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::ZERO);
            // A file that cannot be polled, or whose reader is gone: the next write says so.
            match poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)], look) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                _ => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// A pipe of one page; writing does not block.
    fn pipe() -> (File, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).expect("its size");
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("its mode");
        (read.into(), write.into())
    }

    #[test]
    fn a_slow_reader_gets_all_of_it() {
        let (mut read, mut write) = pipe();
        let (full, was_full) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            was_full.recv().expect("it waits");
            let mut all = Vec::new();
            let mut part = [0; 1000];
            while let Ok(count @ 1..) = read.read(&mut part) {
                all.extend_from_slice(&part[..count]);
            }
            all
        });
        let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let mut writing = Writing::new(&mut write);
        writing
            .all(&data, || {
                let _ = full.send(());
                false
            })
            .expect("all of it");
        drop(write);
        assert_eq!(reader.join().expect("no panic"), data);
    }

    #[test]
    fn a_reader_that_does_not_read_is_an_error_in_the_end() {
        let (_read, mut write) = pipe();
        let mut writing = Writing { stalled: Duration::from_millis(30), ..Writing::new(&mut write) };
        let error = writing.all(&[0; 10_000], || false).expect_err("no room");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EAGAIN));
    }

    #[test]
    fn a_reader_that_never_comes_to_an_end_does_not_keep_the_worker() {
        let (mut read, mut write) = pipe();
        let reader = std::thread::spawn(move || while let Ok(1..) = read.read(&mut [0; 4096]) {});
        let mut writing = Writing {
            stalled: Duration::from_secs(60),
            longest: Duration::from_millis(30),
            ..Writing::new(&mut write)
        };
        let error = (0..).find_map(|_| writing.all(&[0; 100_000], || false).err()).expect("endless");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(write);
        reader.join().expect("no panic");
    }

    #[test]
    fn a_write_that_nobody_waits_for_ends_at_once() {
        let (_read, mut write) = pipe();
        let start = Instant::now();
        let long = Duration::from_secs(60);
        let mut writing = Writing { stalled: long, ..Writing::new(&mut write) };
        assert!(writing.all(&[0; 10_000], || true).is_err());
        assert!(start.elapsed() < long, "it did not wait");
    }

    #[test]
    fn a_reader_that_left_is_a_broken_pipe() {
        let (read, mut write) = pipe();
        let reader = std::thread::spawn(move || drop(read));
        let error = Writing::new(&mut write).all(&[0; 1 << 20], || false).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        reader.join().expect("no panic");
    }
}
