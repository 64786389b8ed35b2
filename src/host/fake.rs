//! A scripted kernel for tests: it records what was asked and fails when told to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use super::Kernel;

/// One call that reached the kernel, with the path behind its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `FIFREEZE`
    Freeze(String),
    /// `FITHAW`
    Thaw(String),
    /// `syncfs`
    Sync(String),
}

/// A kernel that does nothing but remember. Clones share one memory.
#[derive(Clone, Default)]
pub struct FakeKernel {
    effects: Arc<Mutex<Vec<Effect>>>,
    script: Arc<Mutex<Script>>,
}

/// Decides the outcome of a call; `None` is success.
type Script = Option<Box<dyn FnMut(&Effect) -> Option<io::Error> + Send>>;

impl FakeKernel {
    /// All calls so far.
    pub fn effects(&self) -> Vec<Effect> {
        self.effects.lock().expect("no test panics while it holds this").clone()
    }

    /// From now on, `script` decides what fails.
    pub fn script(&self, script: impl FnMut(&Effect) -> Option<io::Error> + Send + 'static) {
        *self.script.lock().expect("no test panics while it holds this") = Some(Box::new(script));
    }

    fn call(&self, effect: Effect) -> io::Result<()> {
        let mut script = self.script.lock().expect("no test panics while it holds this");
        let outcome = script.as_mut().and_then(|script| script(&effect));
        self.effects.lock().expect("no test panics while it holds this").push(effect);
        outcome.map_or(Ok(()), Err)
    }
}

fn path(dir: BorrowedFd<'_>) -> String {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
        .map_or_else(|e| e.to_string(), |path| path.to_string_lossy().into_owned())
}

impl Kernel for FakeKernel {
    fn freeze(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Effect::Freeze(path(dir)))
    }

    fn thaw(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Effect::Thaw(path(dir)))
    }

    fn sync(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Effect::Sync(path(dir)))
    }
}
