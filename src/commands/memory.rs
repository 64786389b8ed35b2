//! Blocks of memory: which there are, and taking them online and offline.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Command;
use crate::host::Host;
use crate::host::linux::memory::{self, Block};
use crate::protocol::args;
use crate::protocol::error::{Error, Result};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-get-memory-blocks", |cx, a| cx.call(|cx, args| blocks(cx.host, args), a)),
    Command::new("guest-set-memory-blocks", |cx, a| cx.call(|cx, args| set_blocks(cx.host, args), a)),
    Command::new("guest-get-memory-block-info", |cx, a| cx.call(|cx, args| block_info(cx.host, args), a)),
];

/// All blocks of one request together may take this long. To take one offline, the kernel moves
/// all that is in it elsewhere, for as long as it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists the blocks of memory by number; none where the kernel has no memory hot-plug.
fn blocks(host: &Host, _: args::Empty) -> Result<Vec<Block>> {
    match memory::all(host) {
        Ok(blocks) if blocks.is_empty() => Err(Error::new("guest reported zero memory blocks!")),
        Ok(blocks) => Ok(blocks),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(reason) => Err(no_directory(&reason)),
    }
}

fn no_directory(reason: &io::Error) -> Error {
    Error::os(format!("open(\"{}/\")", memory::DIRECTORY), reason)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SetBlocks {
    mem_blks: Vec<Wish>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wish {
    phys_index: u64,
    online: bool,
    #[serde(rename = "can-offline")]
    _can_offline: Option<bool>,
}

/// What became of one block.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Outcome {
    phys_index: u64,
    response: Response,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<i32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Response {
    Success,
    NotFound,
    OperationNotSupported,
    OperationFailed,
}

/// Takes blocks online and offline. Each block has its own result; none of them fails the whole.
fn set_blocks(host: &Host, args: SetBlocks) -> Result<Vec<Outcome>> {
    let deadline = Instant::now() + PATIENCE;
    let supported = host.path(memory::DIRECTORY).metadata();
    let word = memory::online_word(host);
    let set = |wish: Wish| {
        let phys_index = wish.phys_index;
        let result = match &supported {
            Ok(_) => set(host, phys_index, if wish.online { word } else { "offline" }, deadline),
            Err(reason) => Err((Response::OperationNotSupported, reason.raw_os_error())),
        };
        let (response, error_code) = result.err().unwrap_or((Response::Success, None));
        Outcome { phys_index, response, error_code }
    };
    Ok(args.mem_blks.into_iter().map(set).collect())
}

fn set(
    host: &Host,
    block: u64,
    word: &'static str,
    deadline: Instant,
) -> std::result::Result<(), (Response, Option<i32>)> {
    let online = word.starts_with("online");
    match memory::is_online(host, block) {
        Ok(Some(now)) if now == online => Ok(()),
        Ok(Some(_)) => memory::set_online(host, block, word, deadline)
            .map_err(|reason| (Response::OperationFailed, reason.raw_os_error())),
        Ok(None) if online => Ok(()),
        Ok(None) => Err((Response::OperationNotSupported, Some(nix::libc::ENOENT))),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Err((Response::NotFound, reason.raw_os_error())),
        Err(reason) => Err((Response::OperationFailed, reason.raw_os_error())),
    }
}

#[derive(Debug, Serialize)]
struct BlockInfo {
    size: u64,
}

/// Says how large a block is, in bytes.
fn block_info(host: &Host, _: args::Empty) -> Result<BlockInfo> {
    let size = memory::block_size(host).map_err(|reason| {
        if host.exists(memory::DIRECTORY) {
            Error::os(format!("open sysfs file \"{}\"", memory::BLOCK_SIZE), &reason)
        } else {
            no_directory(&reason)
        }
    })?;
    Ok(BlockInfo { size })
}

#[cfg(test)]
mod tests;
