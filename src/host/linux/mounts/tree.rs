//! Which mounts hang on which: what is covered by another one, and what can be reached without waiting.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Line, Mount, unescape};

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
pub(super) struct Tree<'t> {
    by_id: Vec<(u64, &'t Line<'t>)>,
    /// Where something is mounted: the mount below, the length of the path, and the path.
    places: Vec<(u64, usize, &'t [u8])>,
    /// The mount on which our own root lies, when something else is mounted over it: every path of
    /// ours begins below that.
    own_root: Option<u64>,
}

impl<'t> Tree<'t> {
    pub(super) fn new(lines: &'t [Line<'t>], own_root: Option<u64>) -> Tree<'t> {
        let mut by_id: Vec<_> = lines.iter().map(|line| (line.id, line)).collect();
        by_id.sort_unstable_by_key(|&(id, _)| id);
        let mut places: Vec<_> = lines.iter().map(|line| (line.parent, line.point.len(), &*line.point)).collect();
        places.sort_unstable_by_key(|&(below, length, _)| (below, length));
        Tree { by_id, places, own_root }
    }

    fn get(&self, id: u64) -> Option<&'t Line<'t>> {
        let index = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[index].1)
    }

    fn has(&self, below: u64, path: &[u8]) -> bool {
        if Some(below) == self.own_root && path == b"/" {
            return false;
        }
        let place = (below, path.len());
        let start = self.places.partition_point(|&(below, length, _)| (below, length) < place);
        let same_length = self.places[start..].iter().take_while(|&&(below, length, _)| (below, length) == place);
        { same_length }.any(|&(_, _, other)| other == path)
    }

    pub(super) fn mount(&self, line: &Line<'_>) -> Mount {
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

    /// Adds a further place; that takes over when the first one is hidden.
    pub(super) fn mounted_again(&self, mount: &mut Mount, line: &Line<'_>) {
        if !mount.covered || self.is_covered(line) {
            mount.also.push(line.point());
            return;
        }
        let mut also = std::mem::take(&mut mount.also);
        also.insert(0, std::mem::take(&mut mount.point));
        *mount = Mount { dev: mount.dev, also, ..self.mount(line) };
    }

    /// Whether another mount hides this one.
    ///
    /// Looking a path up goes through every mount on the way. So a mount is hidden by one on top of
    /// it, by one over a directory above it on the same parent, and by whatever hides its parent.
    pub(super) fn is_covered(&self, line: &Line<'_>) -> bool {
        let on_top = |line: &Line<'_>| line.id != line.parent && self.has(line.id, &line.point);
        let over_root = |line: &Line<'_>| Some(line.parent) == self.own_root && &*line.point == b"/";
        // What lies on top of its parent is what hides it, and is seen.
        let with_parent = |(line, parent): (&Line<'_>, &Line<'_>)| on_top(parent) && parent.point != line.point;
        on_top(line)
            || self.is_overlaid(line)
            || over_root(line)
            || self.way_up(line).any(|pair| with_parent(pair) || over_root(pair.1) || self.is_overlaid(pair.1))
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
