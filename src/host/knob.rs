//! Writes to kernel attributes that act while they are written, and may take minutes: taking a
//! block of memory offline moves all that is in it elsewhere, and tries again until a signal comes.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::Mode;
use nix::unistd::write;

use super::Host;
use super::stuck::Inside;

/// Interrupts the write. By default it does nothing, and nobody else uses it here.
const INTERRUPT: Signal = Signal::SIGURG;

/// A signal that comes just before the write begins is lost, so it is sent again after this.
const AGAIN: Duration = Duration::from_millis(20);

/// How long an interrupted write may take to give up before its thread is left alone.
const GIVE_UP: Duration = Duration::from_secs(1);

impl Host {
    /// Writes to an attribute that exists, in one write, which is interrupted at the deadline.
    ///
    /// # Errors
    /// The system's own; `ETIMEDOUT` when the write was interrupted, `EBUSY` when an earlier write to
    /// the same attribute hangs.
    pub fn turn(&self, path: impl AsRef<Path>, data: &'static str, deadline: Instant) -> io::Result<()> {
        let path = self.path(path);
        let inside = self.enter(&path, deadline)?;
        catch_interrupt();
        let (sender, result) = sync_channel(1);
        let writer = thread::Builder::new().name("knob".to_owned()).spawn(move || {
            let written = write_once(&path, data);
            drop(inside);
            // Nobody listens when this took too long.
            let _ = sender.send(written);
        })?;
        let mut wait = deadline.saturating_duration_since(Instant::now());
        loop {
            match result.recv_timeout(wait) {
                Ok(Err(Errno::EINTR)) => return Err(Errno::ETIMEDOUT.into()),
                Ok(written) => return Ok(written?),
                Err(RecvTimeoutError::Disconnected) => return Err(Errno::EIO.into()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline + GIVE_UP => {
                    return Err(Errno::ETIMEDOUT.into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    // It may just have ended: then there is no thread to interrupt.
                    let _ = pthread_kill(writer.as_pthread_t(), INTERRUPT);
                    wait = AGAIN;
                }
            }
        }
    }

    /// Waits a moment for a write to the same attribute that is under way.
    fn enter(&self, path: &Path, deadline: Instant) -> io::Result<Inside> {
        let end = deadline.min(Instant::now() + GIVE_UP);
        loop {
            match self.known.stuck.enter(path) {
                Some(inside) => return Ok(inside),
                None if Instant::now() >= end => return Err(Errno::EBUSY.into()),
                None => thread::sleep(AGAIN),
            }
        }
    }
}

/// Not by `std::fs`, which tries again when it is interrupted.
fn write_once(path: &Path, data: &str) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    match write(&file, data.as_bytes())? {
        length if length == data.len() => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// A signal interrupts only what it has a handler for.
fn catch_interrupt() {
    extern "C" fn nothing(_: nix::libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it may run at any time.
        #[expect(unsafe_code, reason = "no safe wrapper")]
        // Without a handler the write is not interrupted, and its thread is left alone.
        let _ = unsafe { sigaction(INTERRUPT, &action) };
    });
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::super::fixture::Machine;
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    fn errno(result: io::Result<()>) -> Option<i32> {
        result.expect_err("no success").raw_os_error()
    }

    #[test]
    fn a_write_reaches_the_attribute() {
        let machine = Machine::new("/sys/state -> offline");
        machine.host().turn("/sys/state", "online!!", soon()).expect("written");
        assert_eq!(machine.host().read_text("/sys/state").expect("a file"), "online!!");
    }

    #[test]
    fn what_does_not_exist_is_not_made() {
        let machine = Machine::new("/sys/");
        assert_eq!(errno(machine.host().turn("/sys/state", "1", soon())), Some(Errno::ENOENT as i32));
        assert!(!machine.host().exists("/sys/state"));
    }

    /// To open a pipe that nobody reads takes for ever, or until a signal comes.
    #[test]
    fn a_write_that_hangs_is_interrupted_at_the_deadline() {
        let machine = Machine::new("/sys/");
        let pipe = machine.path("/sys/state");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
        let (host, start) = (machine.host(), Instant::now());
        for _ in 0..2 {
            assert_eq!(errno(host.turn("/sys/state", "1", soon())), Some(Errno::ETIMEDOUT as i32));
        }
        assert!(start.elapsed() < GIVE_UP, "{:?}", start.elapsed());

        // Nothing is left behind: the next one does its work.
        let reader = thread::spawn(move || {
            let mut text = String::new();
            fs::File::open(pipe)?.read_to_string(&mut text)?;
            io::Result::Ok(text)
        });
        host.turn("/sys/state", "1", Instant::now() + Duration::from_secs(60)).expect("written");
        assert_eq!(reader.join().expect("no panic").expect("read"), "1");
    }

    #[test]
    fn nobody_is_sent_after_one_that_hangs() {
        let machine = Machine::new("/sys/state -> 0");
        let host = machine.host();
        let inside = host.known.stuck.enter(&machine.path("/sys/state")).expect("nobody is there");
        assert_eq!(errno(host.turn("/sys/state", "1", soon())), Some(Errno::EBUSY as i32));
        // Somebody else who is just at it, such as what puts on line what is plugged in, is waited for.
        let other = thread::spawn(move || {
            thread::sleep(AGAIN);
            drop(inside);
        });
        host.turn("/sys/state", "1", Instant::now() + Duration::from_secs(60)).expect("written");
        other.join().expect("no panic");
    }
}
