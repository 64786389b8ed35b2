//! Guest files: open, read, write, seek, flush, close.
//!
//! I/O is direct, without a buffer of ours: no stale reads, and a full disk shows at the write.
//! Opening and reading never wait for the other end of a pipe, and a write does so for a while only.

mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Command, Ctx, Empty, Lane, Stream};
use crate::host::cached::is_in_memory;
use crate::log::AUDIT;
use crate::protocol::base64::{self, Payload};
use crate::protocol::error::{Error, Result, echo};
use write::Writing;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-file-open", |cx, a| cx.call(open, a)),
    Command::new("guest-file-close", |cx, a| cx.call(close, a)),
    Command::new("guest-file-read", |cx, a| cx.stream(read, a)).lane(Lane::Prompt),
    Command::new("guest-file-write", |cx, a| cx.call(write, a)).secret().lane(Lane::Prompt),
    Command::new("guest-file-seek", |cx, a| cx.call(seek, a)),
    Command::new("guest-file-flush", |cx, a| cx.call(flush, a)),
];

/// Most bytes that one read may ask for: their base64 stays below the 64 MiB of a message.
const READ_LIMIT: i64 = 48 << 20;

/// What a read without `count` gives.
const READ_DEFAULT: i64 = 4096;

/// Bytes that are read, encoded and sent at a time. A multiple of three, so that the pieces of
/// base64 can be put together.
const PIECE: usize = 96 << 10;

/// Permissions of files that we create: a root agent must not leave files behind that everybody
/// may write.
const CREATE_MODE: u32 = 0o644;

type Shared = Arc<GuestFile>;

struct GuestFile {
    file: Mutex<File>,
    /// A regular file without a device behind it: small pieces are read and written on the loop,
    /// which costs a third of the way over a worker.
    in_memory: bool,
}

impl GuestFile {
    fn new(file: File) -> GuestFile {
        let in_memory = is_in_memory(&file);
        GuestFile { file: Mutex::new(file), in_memory }
    }

    /// Goes on where so many bytes of this file may be read or written.
    fn may_take(&self, cx: &Ctx<'_>, bytes: usize) -> nix::Result<()> {
        if self.in_memory && bytes <= INLINE { Ok(()) } else { cx.host.may_wait() }
    }
}

/// The open guest files of one agent. They outlive connections and end with the agent.
#[derive(Default)]
pub struct Files {
    open: Mutex<HashMap<i64, Shared>>,
}

impl Files {
    fn table(&self) -> MutexGuard<'_, HashMap<i64, Shared>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, handle: i64) -> Result<Shared> {
        self.table().get(&handle).cloned().ok_or_else(|| unknown(handle))
    }

    /// Forgets a handle; the file is closed when nothing uses it any more.
    fn remove(&self, handle: i64) -> Result<Shared> {
        self.table().remove(&handle).ok_or_else(|| unknown(handle))
    }
}

fn unknown(handle: i64) -> Error {
    Error::new(format!("handle '{handle}' has not been found"))
}

/// Takes a file for one operation. It is only in use by another one when that was abandoned and
/// still hangs in the system.
fn take(file: &GuestFile, handle: i64) -> Result<MutexGuard<'_, File>> {
    match file.file.try_lock() {
        Ok(file) => Ok(file),
        Err(std::sync::TryLockError::Poisoned(file)) => Ok(file.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => {
            Err(Error::new(format!("handle '{handle}' is in use by an earlier request that has not come to an end")))
        }
    }
}

#[derive(Deserialize)]
struct Open<'a> {
    path: &'a str,
    mode: Option<&'a str>,
}

/// Opens a file of the guest; the handle is a number that no client of this guest has seen yet.
fn open(cx: &Ctx<'_>, args: Open<'_>) -> Result<i64> {
    let (path, word) = (args.path, args.mode.unwrap_or("r"));
    let mode = Mode::parse(word).ok_or_else(|| Error::new(format!("invalid file open mode '{}'", echo(word))))?;
    tracing::info!(target: AUDIT, "guest-file-open called, filepath: {}, mode: {}", echo(path), echo(word));
    let files = &cx.agent.files;
    let limit = cx.agent.config().limits.file_handles;
    if files.table().len() >= limit {
        return Err(Error::new(format!("failed to open file '{}': {limit} files are open already", echo(path))));
    }
    let file =
        mode.open(path).map_err(|e| Error::os(format!("failed to open file '{}' (mode: '{word}')", echo(path)), &e))?;
    let handle = cx.agent.state.next_handle().map_err(|e| Error::new(e.to_string()))?;
    files.table().insert(handle, Arc::new(GuestFile::new(file)));
    cx.undo_if_abandoned(move |agent| {
        let _ = agent.files.remove(handle);
    });
    tracing::info!(target: AUDIT, "guest-file-open, handle: {handle}");
    Ok(handle)
}

/// What an fopen-style mode asks for.
#[derive(Clone, Copy)]
struct Mode {
    base: u8,
    update: bool,
}

impl Mode {
    fn parse(mode: &str) -> Option<Mode> {
        let (&base, rest) = mode.as_bytes().split_first()?;
        let update = match rest {
            b"" | b"b" => false,
            b"+" | b"b+" | b"+b" => true,
            _ => return None,
        };
        matches!(base, b'r' | b'w' | b'a').then_some(Mode { base, update })
    }

    fn open(self, path: &str) -> io::Result<File> {
        let mut options = File::options();
        options
            .read(self.base == b'r' || self.update)
            .write(self.base == b'w' || (self.base == b'r' && self.update))
            .append(self.base == b'a')
            .mode(0o000)
            .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK);
        if self.base == b'r' {
            return options.open(path);
        }
        match options.clone().create_new(true).open(path) {
            Ok(file) => {
                file.set_permissions(std::fs::Permissions::from_mode(CREATE_MODE))?;
                Ok(file)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => options.truncate(self.base == b'w').open(path),
            Err(e) => Err(e),
        }
    }
}

#[derive(Deserialize)]
struct Handle {
    handle: i64,
}

/// Closes a file. The handle is gone afterwards, also when the system reports an error.
fn close(cx: &Ctx<'_>, args: Handle) -> Result<Empty> {
    tracing::info!(target: AUDIT, "guest-file-close called, handle: {}", args.handle);
    let file = cx.agent.files.remove(args.handle)?;
    if let Ok(file) = Arc::try_unwrap(file) {
        let file = file.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        nix::unistd::close(OwnedFd::from(file)).map_err(|e| Error::os("failed to close handle", &e.into()))?;
    }
    Ok(Empty {})
}

/// Pieces of up to this many bytes may be handled on the loop.
const INLINE: usize = 64 << 10;

#[derive(Deserialize)]
struct ReadArgs {
    handle: i64,
    count: Option<i64>,
}

/// Reads on from the current position, up to `count` bytes. `eof` says that the end was met.
fn read(cx: &Ctx<'_>, args: ReadArgs) -> Result<Reading> {
    let file = cx.agent.files.get(args.handle)?;
    let count = args.count.unwrap_or(READ_DEFAULT);
    let left = usize::try_from(count)
        .ok()
        .filter(|_| count <= READ_LIMIT)
        .ok_or_else(|| Error::new(format!("value '{count}' is invalid for argument count")))?;
    file.may_take(cx, left)?;
    drop(take(&file, args.handle)?);
    let mut reading = Reading { file, left, data: Vec::new(), count: 0, ended: None };
    // The first piece is read before anything is answered, so that an error can be.
    match reading.fill() {
        Err(e) if reading.data.is_empty() => Err(Error::os("failed to read file", &e)),
        _ => Ok(reading),
    }
}

/// A file that is read while its reply is sent.
struct Reading {
    file: Shared,
    left: usize,
    data: Vec<u8>,
    /// Bytes handed on.
    count: usize,
    /// No more will be read: at the end of the file, or not.
    ended: Option<bool>,
}

impl Reading {
    /// Reads the next piece. An error after some data ends the reply; the next read will meet it.
    fn fill(&mut self) -> io::Result<()> {
        let mut file = self.file.file.lock().unwrap_or_else(PoisonError::into_inner);
        let want = self.left.min(PIECE);
        self.data.resize(want, 0);
        let mut have = 0;
        let mut result = Ok(());
        while have < want {
            match file.read(&mut self.data[have..]) {
                Ok(0) => {
                    self.ended = Some(true);
                    break;
                }
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.ended = Some(false);
                    result = Err(e);
                    break;
                }
            }
        }
        self.data.truncate(have);
        self.left -= have;
        if self.left == 0 {
            self.ended.get_or_insert(false);
        }
        result
    }
}

impl Stream for Reading {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if self.count == 0 {
            out.reserve_exact(self.data.len() / 3 * 4 + 256);
            out.extend_from_slice(b"{\"buf-b64\": \"");
        } else {
            // Its error, if any, is met again by the next read.
            let _ = self.fill();
            out.reserve_exact(self.data.len() / 3 * 4 + 256);
        }
        base64::encode(&self.data, out);
        self.count += self.data.len();
        if self.ended.is_some() {
            self.cut(out);
        }
        self.ended.is_none()
    }

    fn cut(&self, out: &mut Vec<u8>) {
        let eof = self.ended.unwrap_or(false);
        out.extend_from_slice(format!("\", \"count\": {}, \"eof\": {eof}}}", self.count).as_bytes());
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WriteArgs<'a> {
    handle: i64,
    buf_b64: &'a str,
    count: Option<i64>,
}

#[derive(Serialize)]
struct Written {
    count: usize,
    eof: bool,
}

/// Writes base64 data at the current position: all of it, or it is an error.
fn write(cx: &Ctx<'_>, args: WriteArgs<'_>) -> Result<Written> {
    let shared = cx.agent.files.get(args.handle)?;
    // At least so many bytes: the last two may be padding.
    shared.may_take(cx, (args.buf_b64.len() / 4 * 3).saturating_sub(2))?;
    let payload = Payload::parse(args.buf_b64)?;
    let limit = match args.count {
        None => payload.len(),
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|&count| count <= payload.len())
            .ok_or_else(|| Error::new(format!("value '{count}' is invalid for argument count")))?,
    };
    let mut file = take(&shared, args.handle)?;
    let mut writing = Writing::new(&mut file);
    let mut left = limit;
    let mut scratch = Vec::new();
    let all = payload.chunks(&mut scratch, |piece| {
        let piece = &piece[..piece.len().min(left)];
        left -= piece.len();
        writing.all(piece, || cx.should_stop()).map(|()| left > 0)
    });
    scratch.as_mut_slice().zeroize();
    // What was taken before the error stays: clients look at the error, but hardly at a `count`.
    all.map_err(|e| Error::os("failed to write to file", &e))?;
    Ok(Written { count: limit, eof: false })
}

#[derive(Deserialize)]
struct SeekArgs {
    handle: i64,
    offset: i64,
    whence: Whence,
}

#[derive(Serialize)]
struct Position {
    position: u64,
    eof: bool,
}

/// Moves the position; `whence` is a protocol number or a word, not the platform's constant.
fn seek(cx: &Ctx<'_>, args: SeekArgs) -> Result<Position> {
    let shared = cx.agent.files.get(args.handle)?;
    let failed = |e: &io::Error| Error::os("failed to seek file", e);
    let target = match args.whence {
        Whence::Set => {
            SeekFrom::Start(args.offset.try_into().map_err(|_| failed(&io::ErrorKind::InvalidInput.into()))?)
        }
        Whence::Cur => SeekFrom::Current(args.offset),
        Whence::End => SeekFrom::End(args.offset),
        Whence::Other(code) => return Err(Error::new(format!("invalid whence code {code}"))),
    };
    let position = take(&shared, args.handle)?.seek(target).map_err(|e| failed(&e))?;
    Ok(Position { position, eof: false })
}

enum Whence {
    Set,
    Cur,
    End,
    Other(i64),
}

impl<'de> Deserialize<'de> for Whence {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Whence, D::Error> {
        from.deserialize_any(WhenceVisitor)
    }
}

/// An alternate: the type on the wire picks the branch, and numbers of any kind the integer's.
struct WhenceVisitor;

impl Visitor<'_> for WhenceVisitor {
    type Value = Whence;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuestFileWhence")
    }

    fn visit_i64<E>(self, code: i64) -> std::result::Result<Whence, E> {
        Ok(match code {
            0 => Whence::Set,
            1 => Whence::Cur,
            2 => Whence::End,
            other => Whence::Other(other),
        })
    }

    fn visit_u64<E: de::Error>(self, code: u64) -> std::result::Result<Whence, E> {
        Err(E::invalid_type(de::Unexpected::Unsigned(code), &"integer"))
    }

    fn visit_f64<E: de::Error>(self, code: f64) -> std::result::Result<Whence, E> {
        Err(E::invalid_type(de::Unexpected::Float(code), &"integer"))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> std::result::Result<Whence, E> {
        match word {
            "set" => Ok(Whence::Set),
            "cur" => Ok(Whence::Cur),
            "end" => Ok(Whence::End),
            other => Err(E::unknown_variant(other, &["set", "cur", "end"])),
        }
    }
}

/// Nothing is buffered, so there is nothing to do but to check the handle.
fn flush(cx: &Ctx<'_>, args: Handle) -> Result<Empty> {
    cx.agent.files.get(args.handle)?;
    Ok(Empty {})
}

#[cfg(test)]
mod tests;
