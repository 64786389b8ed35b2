//! What is mounted: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! An own reader, because `procfs-core`'s leaves the octal escapes in place, turns one odd line or
//! one byte that is no UTF-8 into an error for the whole table, and makes two hash maps for each
//! line. Here a line that makes no sense is left out, and nothing else.

mod tree;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_PATH;

use crate::host::Host;
use tree::Tree;

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
    /// Looking its path up and asking how full it is needs no server and no disk, so neither can hang.
    pub prompt: bool,
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
    let text = host.read("/proc/self/mountinfo")?;
    let lines = parse(&text);
    let tree = Tree::new(&lines, own_root(host, &lines));
    Ok(lines.iter().map(|line| tree.mount(line)).collect())
}

/// The file systems on block devices, each once, at the place where it was mounted first of those
/// that can be reached.
///
/// This is the list that freeze, trim and fsinfo share. `dev` is always a block device: btrfs,
/// whose own number is an anonymous one, is given that of its source.
///
/// # Errors
/// Only when there is no table to read.
pub fn local(host: &Host) -> io::Result<Vec<Mount>> {
    select(host, |_| false)
}

/// As [`local`], and those whose disks the kernel does not tell: zfs, bcachefs, ubifs, and btrfs
/// without a known source. Their `dev` has major 0.
///
/// # Errors
/// Only when there is no table to read.
pub fn local_and_pools(host: &Host) -> io::Result<Vec<Mount>> {
    select(host, |line| match line.fs_type {
        // Snapshots are mounted when somebody looks at them, by the hundred.
        b"zfs" => !line.source.contains(&b'@'),
        b"bcachefs" | b"btrfs" | b"ubifs" => true,
        _ => false,
    })
}

/// Where an overlay keeps what is written to it; `None` when it takes no writes, or is no overlay.
pub fn overlay_upper(host: &Host, id: u64) -> Option<PathBuf> {
    let text = host.read("/proc/self/mountinfo").ok()?;
    let lines = parse(&text);
    let overlay = lines.iter().find(|line| line.id == id && line.fs_type == b"overlay")?;
    let upper = overlay.options.split(|&byte| byte == b',').find_map(|option| option.strip_prefix(b"upperdir="))?;
    Some(OsString::from_vec(unescape(upper).into_owned()).into())
}

/// The devices that the options of a mount name beside its source: where its log or journal is, or its
/// real-time part.
pub(crate) fn named_devices(host: &Host, id: u64) -> Vec<Dev> {
    const NAMES: [&[u8]; 4] = [b"logdev=", b"rtdev=", b"jdev=", b"journal_path="];
    let Ok(text) = host.read("/proc/self/mountinfo") else { return Vec::new() };
    let lines = parse(&text);
    let options = lines.iter().filter(|line| line.id == id).flat_map(|line| line.options.split(|&byte| byte == b','));
    let named = options.filter_map(|option| NAMES.iter().find_map(|name| option.strip_prefix(*name)));
    named.filter_map(|path| block_device(host, &unescape(path))).collect()
}

/// Picks those on block devices, and others that `wanted` asks for; each file system once.
fn select(host: &Host, wanted: impl Fn(&Line<'_>) -> bool) -> io::Result<Vec<Mount>> {
    let text = host.read("/proc/self/mountinfo")?;
    let lines = parse(&text);
    let tree = Tree::new(&lines, own_root(host, &lines));
    let mut first: BTreeMap<Dev, usize> = BTreeMap::new();
    let mut local: Vec<Mount> = Vec::new();
    for line in &lines {
        // Asked first, so that a hundred subvolumes cost one look at the source, and a file system
        // on several devices stays one whichever of them is named.
        if let Some(&first) = first.get(&line.dev) {
            tree.mounted_again(&mut local[first], line);
            continue;
        }
        let mut dev = line.dev;
        if dev.0 == 0 {
            let source = if line.fs_type == b"btrfs" { block_device(host, &unescape(line.source)) } else { None };
            match source {
                Some(source) => dev = source,
                None if wanted(line) => {}
                None => continue,
            }
        }
        let known = *first.entry(dev).or_insert(local.len());
        first.insert(line.dev, known);
        match local.get_mut(known) {
            Some(mount) => tree.mounted_again(mount, line),
            None => local.push(Mount { dev, ..tree.mount(line) }),
        }
    }
    Ok(local)
}

/// The number of the block device that a mount names as its source.
fn block_device(host: &Host, source: &[u8]) -> Option<Dev> {
    if !source.starts_with(b"/") {
        return None;
    }
    let source = OsStr::from_bytes(source);
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
pub(crate) fn dev_of(rdev: u64) -> Option<Dev> {
    let major = nix::sys::stat::major(rdev).try_into().ok()?;
    let minor = nix::sys::stat::minor(rdev).try_into().ok()?;
    Some((major, minor))
}

/// One line, as it stands there. Most lines are looked at and dropped, so nothing is copied.
struct Line<'t> {
    id: u64,
    parent: u64,
    dev: Dev,
    root: &'t [u8],
    /// Not escaped any more.
    point: Cow<'t, [u8]>,
    fs_type: &'t [u8],
    source: &'t [u8],
    /// Those of the file system, as opposed to those of the mount.
    options: &'t [u8],
}

impl<'t> Line<'t> {
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &'t [u8]) -> Option<Line<'t>> {
        // Not split at runs of blanks: a source may be empty.
        let mut fields = line.split(|&byte| byte == b' ');
        let id = parse_number(fields.next()?)?;
        let parent = parse_number(fields.next()?)?;
        let dev = parse_dev(fields.next()?)?;
        let root = fields.next()?;
        let point = unescape(fields.next()?);
        let _options_of_the_mount = fields.next()?;
        fields.find(|&field| field == b"-")?;
        let fs_type = fields.next().filter(|field| !field.is_empty())?;
        let source = fields.next()?;
        let options = fields.next().unwrap_or_default();
        point.starts_with(b"/").then_some(Line { id, parent, dev, root, point, fs_type, source, options })
    }

    fn read_only(&self) -> bool {
        self.options == b"ro" || self.options.starts_with(b"ro,")
    }

    fn point(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.point.to_vec()))
    }
}

/// The lines that make sense.
fn parse(text: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::with_capacity(text.len() / SHORT_LINE);
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', text).chain([text.len()]) {
        lines.extend(Line::parse(&text[start..end]));
        start = end + 1;
    }
    lines
}

/// Few lines are shorter.
const SHORT_LINE: usize = 64;

/// The number of the mount on which our root directory lies, when something is mounted over it.
fn own_root(host: &Host, lines: &[Line<'_>]) -> Option<u64> {
    lines.iter().filter(|line| &*line.point == b"/").nth(1)?;
    let root = host.path("/");
    // Of another machine, nothing can be told.
    let ours = (root == Path::new("/")).then_some(root)?;
    mount_id(&File::options().read(true).custom_flags(O_PATH).open(ours).ok()?)
}

/// The number of the mount that a file was opened through. Linux 3.15 and later tell it.
pub(crate) fn mount_id(file: &impl AsRawFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

fn parse_number<T: TryFrom<u64>>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    });
    number?.try_into().ok()
}

/// `98:0`
pub(crate) fn parse_dev(text: &[u8]) -> Option<Dev> {
    let colon = text.iter().position(|&b| b == b':')?;
    Some((parse_number(&text[..colon])?, parse_number(&text[colon + 1..])?))
}

/// Takes back the kernel's `\ooo` for blanks, tabs, line ends, backslashes and `#`.
fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
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
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests;
