//! What a freeze would do, before it does anything: which file systems, in which order.

use std::io;
use std::path::{Path, PathBuf};

use super::order::{self, Ordered};
use crate::host::Host;
use crate::host::linux::mounts::{self, Mount};

/// One file system on a disk of this guest.
pub(super) struct Planned {
    pub mount: Mount,
    /// Where those are mounted that it is stored on; they come later.
    pub stored_on: Vec<PathBuf>,
    /// Why it is left alone.
    pub skip: Option<&'static str>,
}

/// All file systems on disks in the order of freezing, or those of them that are mounted at `points`.
///
/// # Errors
/// When there is no mount table.
pub(super) fn plan(host: &Host, points: Option<&[&str]>) -> io::Result<Vec<Planned>> {
    let points = points.map(|points| points.iter().map(|point| normal(point)).collect::<Vec<_>>());
    let wanted = |mount: &Mount| points.as_ref().is_none_or(|points| points.iter().any(|point| mount.is_at(point)));
    // All are put in order first: two of them may hang together by one that is not wanted.
    let ordered = order::stored_last(host, mounts::local(host)?).into_iter();
    let planned = |Ordered { mount, stored_on }| Planned { skip: reason_to_skip(&mount), mount, stored_on };
    let planned: Vec<_> = ordered.filter(|ordered| wanted(&ordered.mount)).map(planned).collect();
    let is_known = |point: &&PathBuf| planned.iter().any(|planned| planned.mount.is_at(point));
    for point in points.iter().flatten().filter(|point| !is_known(point)).take(MENTIONED) {
        tracing::warn!("{} is not frozen: no disk is mounted there", point.display());
    }
    Ok(planned)
}

/// Of a list's names that lead nowhere, so many are logged.
const MENTIONED: usize = 16;

/// Only what the kernel itself keeps on a disk, and what can be reached, is touched at all.
pub(super) fn reason_to_skip(mount: &Mount) -> Option<&'static str> {
    if mount.covered {
        return Some("something else is mounted over it");
    }
    // Its daemon may hang, or wait for a disk that is frozen by then.
    mount.fs_type.starts_with("fuse").then_some("a program serves it (FUSE)")
}

/// `/mnt/` and `/mnt//` mean `/mnt`.
fn normal(point: &str) -> PathBuf {
    Path::new(point).components().collect()
}
