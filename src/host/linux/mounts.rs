//! What is mounted: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! An own reader, because `procfs-core`'s leaves the octal escapes in place, turns one odd line or
//! one byte that is no UTF-8 into an error for the whole table, and makes two hash maps for each
//! line. Here a line that makes no sense is left out, and nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;
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
    let tree = Tree::new(&lines);
    Ok(lines.iter().map(|line| tree.mount(line)).collect())
}

/// The file systems on block devices, each once, at the place where it was mounted first.
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

/// Picks those on block devices, and others that `wanted` asks for; each file system once.
fn select(host: &Host, wanted: impl Fn(&Line<'_>) -> bool) -> io::Result<Vec<Mount>> {
    let text = host.read("/proc/self/mountinfo")?;
    let lines = parse(&text);
    let tree = Tree::new(&lines);
    let mut first: BTreeMap<Dev, usize> = BTreeMap::new();
    let mut local: Vec<Mount> = Vec::new();
    for line in &lines {
        // Asked first, so that a hundred subvolumes cost one look at the source, and a file system
        // on several devices stays one whichever of them is named.
        if let Some(&first) = first.get(&line.dev) {
            local[first].also.push(line.point());
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
            Some(mount) => mount.also.push(line.point()),
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

/// File systems that no path into them has to ask a server or a daemon about.
const KERNEL_ONLY: &[&[u8]] = &[
    b"btrfs",
    b"devtmpfs",
    b"erofs",
    b"ext2",
    b"ext3",
    b"ext4",
    b"f2fs",
    b"iso9660",
    b"ramfs",
    b"squashfs",
    b"tmpfs",
    b"vfat",
    b"xfs",
];

/// Of those, the ones that count free blocks in memory. XFS may wait for its log, btrfs for a lock,
/// and vfat reads its whole table at first.
const SIZE_IN_MEMORY: &[&[u8]] = &[b"erofs", b"ext2", b"ext3", b"ext4", b"iso9660", b"squashfs"];

/// Which mount hangs on which. Sorted lists, which are quicker to make than maps: the kernel's order
/// is nearly that of the numbers, and few mounts are looked up.
struct Tree<'t> {
    by_id: Vec<(u64, &'t Line<'t>)>,
    /// Where something is mounted: the mount below, the length of the path, and the path.
    places: Vec<(u64, usize, &'t [u8])>,
}

impl<'t> Tree<'t> {
    fn new(lines: &'t [Line<'t>]) -> Tree<'t> {
        let mut by_id: Vec<_> = lines.iter().map(|line| (line.id, line)).collect();
        by_id.sort_unstable_by_key(|&(id, _)| id);
        let mut places: Vec<_> = lines.iter().map(|line| (line.parent, line.point.len(), &*line.point)).collect();
        places.sort_unstable_by_key(|&(below, length, _)| (below, length));
        Tree { by_id, places }
    }

    fn get(&self, id: u64) -> Option<&'t Line<'t>> {
        let index = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[index].1)
    }

    fn has(&self, below: u64, path: &[u8]) -> bool {
        let place = (below, path.len());
        let start = self.places.partition_point(|&(below, length, _)| (below, length) < place);
        let same_length = self.places[start..].iter().take_while(|&&(below, length, _)| (below, length) == place);
        { same_length }.any(|&(_, _, other)| other == path)
    }

    fn mount(&self, line: &Line<'_>) -> Mount {
        let os = |field| OsString::from_vec(unescape(field).into_owned());
        Mount {
            id: line.id,
            parent: line.parent,
            dev: line.dev,
            root: os(line.root).into(),
            point: line.point(),
            fs_type: os(line.fs_type).to_string_lossy().into_owned(),
            source: os(line.source),
            read_only: line.read_only(),
            covered: self.is_covered(line),
            prompt: self.is_prompt(line),
            also: Vec::new(),
        }
    }

    /// Whether another mount hides this one.
    ///
    /// Looking a path up goes through every mount on the way. So a mount is hidden by one on top of
    /// it, by one over a directory above it on the same parent, and by whatever hides its parent.
    fn is_covered(&self, line: &Line<'_>) -> bool {
        let on_top = |line: &Line<'_>| line.id != line.parent && self.has(line.id, &line.point);
        // What lies on top of its parent is what hides it, and is seen.
        let with_parent = |(line, parent): (&Line<'_>, &Line<'_>)| on_top(parent) && parent.point != line.point;
        on_top(line)
            || self.is_overlaid(line)
            || self.way_up(line).any(|pair| with_parent(pair) || self.is_overlaid(pair.1))
    }

    /// Whether something is mounted over a directory above, on the same parent.
    fn is_overlaid(&self, line: &Line<'_>) -> bool {
        let point = line.point.as_ref();
        let slashes = (0..point.len().saturating_sub(1)).filter(|&index| point[index] == b'/');
        slashes.map(|index| &point[..index.max(1)]).any(|above| self.has(line.parent, above))
    }

    fn is_prompt(&self, line: &Line<'_>) -> bool {
        SIZE_IN_MEMORY.contains(&line.fs_type)
            && self.way_up(line).all(|(_, parent)| KERNEL_ONLY.contains(&parent.fs_type))
    }

    /// Each mount on the way from this one to the root, with the one that it hangs on.
    fn way_up<'a>(&'a self, line: &'a Line<'a>) -> impl Iterator<Item = (&'a Line<'a>, &'a Line<'a>)> {
        let parent = |line: &Line<'_>| self.get(line.parent).filter(|parent| parent.id != line.id);
        let pairs = std::iter::successors(parent(line).map(|up| (line, up)), move |&(_, up)| Some((up, parent(up)?)));
        // Parents are a tree; the bound is for a table that is not.
        pairs.take(self.by_id.len())
    }
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
