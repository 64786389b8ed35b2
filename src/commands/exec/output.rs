//! What a program wrote, in our memory or in a file in memory that outlives us.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::host::Host;
use crate::host::linux::selinux;

/// Output of one stream.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// What was written, up to [`super::collector::CAPTURE_LIMIT`].
    pub data: Data,
    /// More than that was written.
    pub truncated: bool,
}

/// Bytes that are appended to, and read in pieces.
#[derive(Debug)]
pub(super) enum Data {
    Memory(Vec<u8>),
    /// The next agent has it too.
    Shared {
        file: File,
        len: usize,
    },
}

impl Default for Data {
    fn default() -> Data {
        Data::Memory(Vec::new())
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data::Memory(bytes)
    }
}

impl Output {
    /// Output that outlives the agent, where the system has files in memory.
    pub fn lasting() -> Output {
        static CONFINED: OnceLock<bool> = OnceLock::new();
        // SELinux would report each attempt to the administrator.
        if *CONFINED.get_or_init(|| selinux::is_confined(&Host::real())) {
            return Output::default();
        }
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"qemu-ga-output", flags);
        file.map_or_else(|_| Output::default(), |file| Output::adopted(file.into()))
    }

    /// Output of which an earlier agent has collected a part.
    pub fn adopted(file: File) -> Output {
        let len = file.metadata().ok().and_then(|meta| usize::try_from(meta.len()).ok()).unwrap_or(0);
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
        let truncated = SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_GROW);
        Output { data: Data::Shared { file, len }, truncated }
    }

    /// Nothing is kept from here on, by the next agent neither.
    pub fn cut(&mut self) {
        if let (false, Data::Shared { file, .. }) = (self.truncated, &self.data) {
            let _ = fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW));
        }
        self.truncated = true;
    }

    /// The file that it is in, if it outlives us.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.data {
            Data::Shared { file, .. } => Some(file.as_fd()),
            Data::Memory(_) => None,
        }
    }

    /// Appends at most so many bytes; fewer at the end of the pipe, or when there is no room for them
    /// and the output was cut. An error may come after some.
    pub fn read_from(&mut self, pipe: &File, most: u64, scratch: &mut Vec<u8>) -> io::Result<u64> {
        let (file, len) = match &mut self.data {
            Data::Memory(data) => return pipe.take(most).read_to_end(data).map(|read| read as u64),
            Data::Shared { file, len } => (file, len),
        };
        scratch.resize(64 << 10, 0);
        let mut left = usize::try_from(most).unwrap_or(usize::MAX);
        while left > 0 {
            let part = left.min(scratch.len());
            let read = match (&*pipe).read(&mut scratch[..part]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if file.write_all_at(&scratch[..read], *len as u64).is_err() {
                self.cut();
                return Ok(most);
            }
            *len += read;
            left -= read;
        }
        Ok(most - left as u64)
    }
}

impl Data {
    pub fn len(&self) -> usize {
        match self {
            Data::Memory(data) => data.len(),
            Data::Shared { len, .. } => *len,
        }
    }

    /// A part of it. What cannot be read is zero.
    pub fn piece(&self, range: std::ops::Range<usize>) -> Cow<'_, [u8]> {
        match self {
            Data::Memory(data) => Cow::Borrowed(&data[range]),
            Data::Shared { file, .. } => {
                let mut bytes = vec![0; range.len()];
                let _ = file.read_exact_at(&mut bytes, range.start as u64);
                Cow::Owned(bytes)
            }
        }
    }
}
