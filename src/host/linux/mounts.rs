//! What is mounted: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! An own reader, because `procfs-core`'s leaves the octal escapes in place, turns one odd line or
//! one byte that is no UTF-8 into an error for the whole table, and makes two hash maps for each
//! line. Here a line that makes no sense is left out, and nothing else.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::host::Host;

/// A device number: major, minor.
pub type Dev = (u32, u32);

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number for this mount; `statx` gives the same for a file on it.
    pub id: u64,
    /// The mount that this one is attached to.
    pub parent: u64,
    /// The device. Major 0 means that there is none, as for tmpfs or nfs.
    pub dev: Dev,
    /// The directory of the file system that is seen at `point`.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// `ext4`, `fuse.sshfs`...
    pub fs_type: String,
    /// The device node, or whatever the file system calls its source.
    pub source: OsString,
    /// The file system as a whole takes no writes; a read-only view of a writable one does not count.
    pub read_only: bool,
    /// Cannot be reached by its path: something else was mounted over it later.
    pub covered: bool,
    /// Further places where the same file system is mounted; only [`local`] fills this.
    pub also: Vec<PathBuf>,
}

impl Mount {
    /// Whether this file system is mounted at this path, here or elsewhere.
    pub fn is_at(&self, path: &Path) -> bool {
        self.point == path || self.also.iter().any(|point| point == path)
    }
}

/// All mounts that the agent sees, in the order in which they were made.
///
/// # Errors
/// Only when there is no table to read.
pub fn all(host: &Host) -> io::Result<Vec<Mount>> {
    let mut mounts = parse(&host.read("/proc/self/mountinfo")?);
    mark_covered(&mut mounts);
    Ok(mounts)
}

/// The file systems on block devices, each once, at the place where it was mounted first.
///
/// This is the list that freeze, trim and fsinfo share. `dev` is always a block device: btrfs,
/// whose own number is an anonymous one, is given that of its source.
///
/// # Errors
/// Only when there is no table to read.
pub fn local(host: &Host) -> io::Result<Vec<Mount>> {
    Ok(select(host, all(host)?, |_| false))
}

/// As [`local`], and those whose disks the kernel does not tell: zfs, bcachefs, ubifs, and btrfs
/// without a known source. Their `dev` has major 0.
///
/// # Errors
/// Only when there is no table to read.
pub fn local_and_pools(host: &Host) -> io::Result<Vec<Mount>> {
    let is_pool = |mount: &Mount| match mount.fs_type.as_str() {
        // Snapshots are mounted when somebody looks at them, by the hundred.
        "zfs" => !mount.source.as_bytes().contains(&b'@'),
        "bcachefs" | "btrfs" | "ubifs" => true,
        _ => false,
    };
    Ok(select(host, all(host)?, is_pool))
}

/// Picks those on block devices, and others that `wanted` asks for; each file system once.
fn select(host: &Host, mounts: Vec<Mount>, wanted: impl Fn(&Mount) -> bool) -> Vec<Mount> {
    let mut first: HashMap<Dev, usize> = HashMap::new();
    let mut local: Vec<Mount> = Vec::new();
    for mut mount in mounts {
        let own = mount.dev;
        // Asked first, so that a hundred subvolumes cost one look at the source, and a file system
        // on several devices stays one whichever of them is named.
        if let Some(&index) = first.get(&own) {
            local[index].also.push(mount.point);
            continue;
        }
        if own.0 == 0 {
            let source = if mount.fs_type == "btrfs" { block_device(host, &mount.source) } else { None };
            match source {
                Some(dev) => mount.dev = dev,
                None if wanted(&mount) => {}
                None => continue,
            }
        }
        if let Some(&index) = first.get(&mount.dev) {
            first.insert(own, index);
            local[index].also.push(mount.point);
            continue;
        }
        first.insert(own, local.len());
        first.insert(mount.dev, local.len());
        local.push(mount);
    }
    local
}

/// The number of the block device that a mount names as its source.
fn block_device(host: &Host, source: &OsStr) -> Option<Dev> {
    if !source.as_bytes().starts_with(b"/") {
        return None;
    }
    if let Ok(node) = std::fs::metadata(host.path(source)) {
        if node.file_type().is_block_device() {
            return dev_of(node.rdev());
        }
    }
    // A container may have no node for it; the kernel knows its name all the same.
    let target = host.link(source).unwrap_or_else(|_| PathBuf::from(source));
    let attribute = Path::new("/sys/class/block").join(target.file_name()?).join("dev");
    parse_dev(host.read_attribute(attribute).ok()?.as_bytes())
}

/// Splits a number as `stat` gives it.
fn dev_of(rdev: u64) -> Option<Dev> {
    let major = nix::sys::stat::major(rdev).try_into().ok()?;
    let minor = nix::sys::stat::minor(rdev).try_into().ok()?;
    Some((major, minor))
}

/// The lines that make sense.
fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    // Not split at runs of blanks: a source may be empty.
    let mut fields = line.split(|&b| b == b' ');
    let id = parse_number(fields.next()?)?;
    let parent = parse_number(fields.next()?)?;
    let dev = parse_dev(fields.next()?)?;
    let root = PathBuf::from(unescape(fields.next()?));
    let point = PathBuf::from(unescape(fields.next()?));
    let _options_of_the_mount = fields.next()?;
    fields.find(|&field| field == b"-")?;
    let fs_type = fields.next().filter(|field| !field.is_empty())?;
    let source = unescape(fields.next()?);
    let mut options = fields.next().unwrap_or_default().split(|&b| b == b',');
    point.is_absolute().then(|| Mount {
        id,
        parent,
        dev,
        root,
        point,
        fs_type: unescape(fs_type).to_string_lossy().into_owned(),
        source,
        read_only: options.next() == Some(b"ro"),
        covered: false,
        also: Vec::new(),
    })
}

fn parse_number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `98:0`
pub(super) fn parse_dev(text: &[u8]) -> Option<Dev> {
    let colon = text.iter().position(|&b| b == b':')?;
    Some((parse_number(&text[..colon])?, parse_number(&text[colon + 1..])?))
}

/// Takes back the kernel's `\ooo` for blanks, tabs, line ends, backslashes and `#`.
fn unescape(field: &[u8]) -> OsString {
    if !field.contains(&b'\\') {
        return OsStr::from_bytes(field).to_owned();
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', &[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            _ => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

/// Finds the mounts that another one hides.
///
/// Looking a path up goes through every mount on the way. So a mount is hidden by one on top of
/// it, by one over a directory above it on the same parent, and by whatever hides its parent.
fn mark_covered(mounts: &mut [Mount]) {
    let by_id: HashMap<u64, usize> = mounts.iter().enumerate().map(|(i, m)| (m.id, i)).collect();
    let places: HashSet<(u64, &Path)> = mounts.iter().map(|m| (m.parent, m.point.as_path())).collect();
    let on_top = |m: &Mount| m.id != m.parent && places.contains(&(m.id, m.point.as_path()));
    let above = |m: &Mount| m.point.ancestors().skip(1).any(|path| places.contains(&(m.parent, path)));
    let hides = mounts.iter().map(|m| (on_top(m), above(m))).collect::<Vec<_>>();
    if !hides.iter().any(|&(on_top, above)| on_top || above) {
        return;
    }
    for index in 0..mounts.len() {
        let mut at = index;
        let mut covered = hides[at].0;
        // Parents are a tree; the bound is for a table that is not.
        for _ in 0..mounts.len() {
            covered |= hides[at].1;
            let Some(&parent) = by_id.get(&mounts[at].parent) else { break };
            if covered || parent == at {
                break;
            }
            // What lies on top of its parent is what hides it, and is seen.
            covered = hides[parent].0 && mounts[parent].point != mounts[at].point;
            at = parent;
        }
        mounts[index].covered = covered;
    }
}

#[cfg(test)]
mod tests;
