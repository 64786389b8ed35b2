//! Mounted file systems: what they are on, how full they are, and giving back what they do not use.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer};

use super::{Command, Ctx, Lane};
use crate::host::Host;
use crate::host::kernel::{Trim, Usage};
use crate::host::linux::address::{self, Address};
use crate::host::linux::block::Device;
use crate::host::linux::btrfs;
use crate::host::linux::mounts::{self, Mount};
use crate::host::linux::serial::Serials;
use crate::protocol::args;
use crate::protocol::error::{Error, Result, os_reason};

pub(super) const COMMANDS: &[Command] = &[
    Command::new("guest-get-fsinfo", |cx, a| cx.call(fsinfo, a)),
    Command::new("guest-fstrim", |cx, a| cx.call(fstrim, a)).lane(Lane::Freeze),
];

/// A mounted file system. All but the sizes is always there (O17).
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct FsInfo {
    name: String,
    mountpoint: String,
    #[serde(rename = "type")]
    fs_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    /// What others than root can ever use: used and available.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    /// All of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes_privileged: Option<u64>,
    disk: Vec<Address>,
}

/// Lists the file systems on disks of this machine, in reverse order of mounting.
fn fsinfo(cx: &Ctx<'_>, _: args::Empty) -> Result<Vec<FsInfo>> {
    list(cx.host)
}

fn list(host: &Host) -> Result<Vec<FsInfo>> {
    let mut mounts = mounts::local_and_pools(host).map_err(|error| no_mount_table(&error))?;
    mounts.reverse();
    // Sizes that might take for ever are asked for on a helper thread, while we look disks up.
    // What lies behind a covered mount point is not the file system meant.
    let slow: Vec<_> = (0..mounts.len()).filter(|&i| !mounts[i].covered && !mounts[i].prompt).collect();
    let points = slow.iter().map(|&index| host.path(&mounts[index].point)).collect();
    let kernel = host.kernel_handle();
    let pending = host.patience().start(points, move |point| kernel.usage(point));

    let serials = Serials::new(host);
    let mut list: Vec<_> = mounts.iter().map(|mount| describe(host, &serials, mount)).collect();

    for (mount, info) in mounts.iter().zip(&mut list).filter(|(mount, _)| !mount.covered && mount.prompt) {
        info.set_sizes(host.kernel().usage(&host.path(&mount.point)).ok());
    }
    for (index, usage) in slow.into_iter().zip(pending.wait()) {
        list[index].set_sizes(usage.and_then(io::Result::ok));
    }
    Ok(list)
}

fn no_mount_table(error: &io::Error) -> Error {
    Error::os("Could not open '/proc/self/mountinfo'", error)
}

/// Everything but the sizes.
fn describe(host: &Host, serials: &Serials<'_>, mount: &Mount) -> FsInfo {
    let device = if mount.dev.0 == 0 { None } else { Device::by_number(host, mount.dev) };
    let name = match &device {
        Some(device) => device.name().to_owned(),
        None if mount.dev.0 == 0 && !mount.source.is_empty() => without_dev(&mount.source.to_string_lossy()),
        None => format!("{}:{}", mount.dev.0, mount.dev.1),
    };
    let members = match device {
        Some(device) if mount.fs_type == "btrfs" => btrfs::members(host, device),
        device => device.into_iter().collect(),
    };
    let mut disk = Vec::new();
    for leaf in members.into_iter().flat_map(|member| member.leaves(host)) {
        for address in address::of(host, serials, &leaf) {
            if !disk.contains(&address) {
                disk.push(address);
            }
        }
    }
    FsInfo {
        name,
        mountpoint: mount.point.to_string_lossy().into_owned(),
        fs_type: mount.fs_type.clone(),
        used_bytes: None,
        total_bytes: None,
        total_bytes_privileged: None,
        disk,
    }
}

/// What a file system calls its source: a device, or as with bcachefs several of them.
fn without_dev(source: &str) -> String {
    let names: Vec<&str> = source.split(':').map(|name| name.strip_prefix("/dev/").unwrap_or(name)).collect();
    names.join(":")
}

impl FsInfo {
    fn set_sizes(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        let used = usage.total.saturating_sub(usage.free);
        self.used_bytes = Some(used);
        self.total_bytes = Some(used.saturating_add(usage.available));
        self.total_bytes_privileged = Some(usage.total);
    }
}

#[derive(serde::Deserialize)]
struct Fstrim {
    minimum: Option<Bytes>,
}

/// Unsigned, although the schema says integer: clients send all 64 bits (O25).
struct Bytes(u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(value: D) -> std::result::Result<Bytes, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("integer")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Bytes, E> {
                Ok(Bytes(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Bytes, E> {
                let negative = |_| E::custom("Parameter 'minimum' may not be negative");
                u64::try_from(value).map(Bytes).map_err(negative)
            }
        }
        // As it is written: to `deserialize_u64` a negative number is one with the same bits.
        value.deserialize_any(Visitor)
    }
}

#[derive(Debug, Serialize)]
struct Trimmed {
    paths: Vec<TrimmedPath>,
}

/// Either the numbers or the error, never both.
#[derive(Debug, Serialize)]
struct TrimmedPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trimmed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Tells the disks which blocks hold nothing. A file system that cannot has an error beside it, and
/// the others are trimmed all the same.
fn fstrim(cx: &Ctx<'_>, args: Fstrim) -> Result<Trimmed> {
    let should_stop = || cx.should_stop();
    let trimmed = trim_all(cx.host, args.minimum.map_or(0, |minimum| minimum.0), &should_stop);
    if should_stop() {
        tracing::warn!("guest-fstrim was left before it had come to its end");
    }
    trimmed
}

fn trim_all(host: &Host, minimum: u64, should_stop: &dyn Fn() -> bool) -> Result<Trimmed> {
    let mounts = mounts::local(host).map_err(|error| no_mount_table(&error))?;
    let entry = |mount: &Mount| {
        let path = mount.point.to_string_lossy().into_owned();
        match trim(host, mount, minimum, should_stop) {
            Ok(range) => TrimmedPath { path, trimmed: Some(range.len), minimum: Some(range.minimum), error: None },
            Err(error) => TrimmedPath { path, trimmed: None, minimum: None, error: Some(error) },
        }
    };
    Ok(Trimmed { paths: mounts.iter().rev().map(entry).collect() })
}

/// File systems are trimmed in pieces of about this size, so that somebody who has to wait for a
/// trim that nobody wants any more waits for one piece and not for the whole disk. It is a multiple
/// of the size of a block group of ext4, which remembers of each whether it was trimmed whole.
const PIECE: u64 = 64 << 30;

/// The size of pieces in which this file system can be trimmed.
///
/// For XFS it is a number of allocation groups: a free extent that lies in two pieces would be
/// trimmed and counted twice. btrfs trims what is in no chunk with each call, of others we know too
/// little: they are trimmed at once.
fn piece(host: &Host, mount: &Mount, dir: &File) -> Option<u64> {
    match mount.fs_type.as_str() {
        "ext4" => Some(PIECE),
        "xfs" => {
            let group = host.kernel().xfs_group(dir.as_fd()).ok().filter(|&group| group > 0)?;
            Some((PIECE / group).max(1).saturating_mul(group))
        }
        _ => None,
    }
}

/// Trims one file system: how much, and the minimum that counted.
fn trim(host: &Host, mount: &Mount, minimum: u64, should_stop: &dyn Fn() -> bool) -> std::result::Result<Trim, String> {
    if should_stop() {
        return Err(STOPPED.to_owned());
    }
    if mount.covered {
        return Err("failed to open: the mount point is covered by another mount".to_owned());
    }
    if mount.read_only {
        return Err(failed_to_trim(&Errno::EROFS.into()));
    }
    // A btrfs may have other devices that do.
    let device = Device::by_number(host, mount.dev).filter(|_| mount.fs_type != "btrfs");
    if device.is_some_and(|device| !device.discards(host)) {
        return Err(NOT_SUPPORTED.to_owned());
    }
    let dir = open(host, &mount.point).map_err(|error| format!("failed to open: {}", os_reason(&error)))?;
    let piece = piece(host, mount, &dir);
    let end = if piece.is_some() { size(host, &mount.point) } else { 0 };
    let piece = piece.unwrap_or(u64::MAX);
    let mut sum = Trim { start: 0, len: 0, minimum };
    let mut start = 0;
    loop {
        let is_last = end.saturating_sub(start) <= piece;
        let len = if is_last { u64::MAX - start } else { piece };
        let done = host.kernel().trim(dir.as_fd(), Trim { start, len, minimum }).map_err(|e| failed_to_trim(&e))?;
        sum.len = sum.len.saturating_add(done.len);
        sum.minimum = done.minimum;
        if is_last {
            return Ok(sum);
        }
        if should_stop() {
            return Err(STOPPED.to_owned());
        }
        start += piece;
    }
}

const NOT_SUPPORTED: &str = "trim not supported";

/// Hardly anybody reads this: a trim is stopped when its client is gone.
const STOPPED: &str = "failed to trim: stopped";

fn failed_to_trim(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOTTY | Errno::EOPNOTSUPP) => NOT_SUPPORTED.to_owned(),
        _ => format!("failed to trim: {}", os_reason(error)),
    }
}

/// Opens a mount point; a dead one is an error after a while.
fn open(host: &Host, point: &Path) -> io::Result<File> {
    let open = |path: &Path| File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    let late = || Err(Errno::ETIMEDOUT.into());
    host.patience().one(host.path(point), open).unwrap_or_else(late)
}

/// How large a file system is; 0 when unknown.
fn size(host: &Host, point: &Path) -> u64 {
    let kernel = host.kernel_handle();
    let usage = host.patience().one(host.path(point), move |point| kernel.usage(point));
    usage.and_then(io::Result::ok).map_or(0, |usage| usage.total)
}

#[cfg(test)]
mod tests;
