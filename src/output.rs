//! Bytes on their way to the client.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// Replies up to this size are gathered in one buffer.
const GATHER: usize = 64 << 10;

/// With so many bytes unsent nothing new is begun: no request, no read, no part of a long reply.
pub const HIGH: usize = 1 << 20;

/// A queue of reply bytes. Small replies share a buffer that is used again and again; large ones
/// keep their own.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are already written.
    sent: usize,
    len: usize,
    /// All bytes that were ever written.
    written: u64,
    /// Bytes that were in the last chunk when `len` was last brought up to date.
    counted: usize,
    spare: Vec<u8>,
}

impl Output {
    /// Bytes that wait to be written.
    pub fn len(&mut self) -> usize {
        let last = self.chunks.back().map_or(0, Vec::len);
        self.len += last - self.counted;
        self.counted = last;
        self.len
    }

    /// Whether all is written.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Whether so much waits that nothing new should be begun.
    pub fn is_high(&mut self) -> bool {
        self.len() >= HIGH
    }

    /// How many bytes were ever written.
    pub fn sent(&self) -> u64 {
        self.written
    }

    /// What [`Output::sent`] will be when all that waits is written.
    pub fn end(&mut self) -> u64 {
        self.written + self.len() as u64
    }

    /// The buffer to append the next small reply to.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        self.len();
        if self.chunks.back().is_none_or(|last| last.len() >= GATHER) {
            self.counted = 0;
            self.chunks.push_back(std::mem::take(&mut self.spare));
        }
        let last = self.chunks.len() - 1;
        &mut self.chunks[last]
    }

    /// Appends a reply that has a buffer of its own.
    pub fn push(&mut self, bytes: Vec<u8>) {
        if bytes.len() < GATHER / 4 {
            return self.tail().extend_from_slice(&bytes);
        }
        self.len();
        self.counted = 0;
        self.chunks.push_back(bytes);
    }

    /// Drops everything that is not written yet.
    pub fn clear(&mut self) {
        let (spare, written) = (std::mem::take(&mut self.spare), self.written);
        *self = Output { spare, written, ..Output::default() };
    }

    /// Writes as much as `write` takes. Gives `each_done` the large buffers that are empty again.
    ///
    /// # Errors
    /// Those of `write`, `WouldBlock` among them.
    pub fn write_with(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
        mut each_done: impl FnMut(Vec<u8>),
    ) -> io::Result<()> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let mut used = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                let start = if used == 0 { self.sent } else { 0 };
                *slice = IoSlice::new(&chunk[start..]);
                used += 1;
            }
            let mut written = write(&slices[..used])?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.len -= written;
            self.written += written as u64;
            while let Some(first) = self.chunks.front() {
                let rest = first.len() - self.sent;
                if written < rest {
                    self.sent += written;
                    break;
                }
                written -= rest;
                self.sent = 0;
                if let Some(mut done) = self.chunks.pop_front() {
                    if self.chunks.is_empty() {
                        self.counted = 0;
                    }
                    done.clear();
                    if done.capacity() <= 2 * GATHER && self.spare.capacity() < done.capacity() {
                        self.spare = done;
                    } else {
                        each_done(done);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_writes_lose_nothing_and_keep_the_order() {
        let mut out = Output::default();
        let mut expected = Vec::new();
        for i in 0..200u32 {
            let piece = vec![b'a' + u8::try_from(i % 26).expect("small"); (i as usize * 977) % 50_000];
            expected.extend_from_slice(&piece);
            if i % 3 == 0 { out.tail().extend_from_slice(&piece) } else { out.push(piece) }
        }
        assert_eq!(out.len(), expected.len());
        let mut seen = Vec::new();
        let mut step = 1;
        while !out.is_empty() {
            step = step * 7 % 10_007;
            let mut budget = step;
            let result = out.write_with(
                |slices| {
                    if budget == 0 {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    let mut taken = 0;
                    for slice in slices {
                        let n = slice.len().min(budget);
                        seen.extend_from_slice(&slice[..n]);
                        budget -= n;
                        taken += n;
                    }
                    Ok(taken)
                },
                drop,
            );
            assert!(result.is_ok() || budget == 0);
        }
        assert_eq!(seen, expected);
    }
}
