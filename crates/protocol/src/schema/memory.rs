//! Blocks of memory: which there are, and taking them online and offline.

use serde::{Deserialize, Serialize};

use super::{Command, Platforms};

const NO_DIRECTORY: &str = "open(\"/sys/devices/system/memory/\"): {reason}";

/// `guest-get-memory-blocks`: lists the blocks of memory; none where the kernel has no memory hot-plug (O11).
///
/// On Linux from `/sys/devices/system/memory`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetMemoryBlocks {}

impl Command for GuestGetMemoryBlocks {
    const NAME: &'static str = "guest-get-memory-blocks";
    const SINCE: &'static str = "2.3";
    const PLATFORMS: Platforms = Platforms::Linux;
    const ERRORS: &'static [&'static str] = &["guest reported zero memory blocks!", NO_DIRECTORY];
    type Returns<'r> = Vec<MemoryBlock>;
}

/// A block of memory, or what to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryBlock {
    /// Its number: the physical address divided by the size of blocks.
    pub phys_index: u64,
    /// Whether the kernel uses it, or shall use it.
    pub online: bool,
    /// Whether the kernel may take it offline. Always in replies, ignored in arguments. True is
    /// not a promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_offline: Option<bool>,
}

/// `guest-set-memory-blocks`: takes blocks of memory online and offline, and returns what became of each.
///
/// A block that fails does not fail the command. To take one offline may take long, since what is in it has to be
/// moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestSetMemoryBlocks {
    /// The blocks, each with the state that it shall have.
    pub mem_blks: Vec<MemoryBlock>,
}

impl Command for GuestSetMemoryBlocks {
    const NAME: &'static str = "guest-set-memory-blocks";
    const SINCE: &'static str = "2.3";
    const PLATFORMS: Platforms = Platforms::Linux;
    type Returns<'r> = Vec<MemoryBlockResponse>;
}

/// What became of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryBlockResponse {
    /// Its number.
    pub phys_index: u64,
    /// What became of it.
    pub response: MemoryBlockResponseType,
    /// The system's number (errno) of what is wrong, if something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<i32>,
}

/// What can become of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryBlockResponseType {
    /// It has the wanted state, or had it before.
    Success,
    /// There is no such block.
    NotFound,
    /// The kernel can't do this.
    OperationNotSupported,
    /// The kernel tried and failed, as with memory that can't be moved.
    OperationFailed,
}

/// `guest-get-memory-block-info`: says how large blocks of memory are (O11).
///
/// On Linux from `/sys/devices/system/memory/block_size_bytes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetMemoryBlockInfo {}

impl Command for GuestGetMemoryBlockInfo {
    const NAME: &'static str = "guest-get-memory-block-info";
    const SINCE: &'static str = "2.3";
    const PLATFORMS: Platforms = Platforms::Linux;
    const ERRORS: &'static [&'static str] = &[NO_DIRECTORY];
    type Returns<'r> = MemoryBlockInfo;
}

/// What all blocks of memory have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBlockInfo {
    /// Bytes of one block.
    pub size: u64,
}
