//! In which order to freeze: a file system before those that it is stored on.
//!
//! `FIFREEZE` of a loop-mounted file system writes to the file behind it. If the file system with
//! that file were frozen first, the write would wait for a thaw that cannot come.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::host::Host;
use crate::host::linux::mounts::{Dev, Mount, dev_of, parse_dev};

/// Stacks of devices are not deeper than this; a cycle in a broken table ends here.
const DEPTH: usize = 32;

/// Sorts in reverse mount order, but each before the ones that it is stored on.
pub(super) fn stored_last(host: &Host, mounts: Vec<Mount>) -> Vec<Mount> {
    let index: HashMap<Dev, usize> = mounts.iter().enumerate().map(|(at, m)| (m.dev, at)).collect();
    // For each: the mounts among ours that it is stored on.
    let below: Vec<Vec<usize>> = mounts
        .iter()
        .enumerate()
        .map(|(at, mount)| {
            let mut found = Vec::new();
            stores(host, mount.dev, DEPTH, &mut |dev| found.extend(index.get(&dev)));
            found.retain(|&other| other != at);
            found
        })
        .collect();
    // Depth first from the oldest mount, foundations first; then turned round.
    let mut order = Vec::with_capacity(mounts.len());
    let mut seen = vec![false; mounts.len()];
    for at in 0..mounts.len() {
        visit(at, &below, &mut seen, &mut order);
    }
    let mut slots: Vec<Option<Mount>> = mounts.into_iter().map(Some).collect();
    order.into_iter().rev().filter_map(|at| slots[at].take()).collect()
}

fn visit(at: usize, below: &[Vec<usize>], seen: &mut [bool], order: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[at], true) {
        return;
    }
    for &foundation in &below[at] {
        visit(foundation, below, seen, order);
    }
    order.push(at);
}

/// Calls `each` with every device that `dev` is stored on: the members of a mapped or RAID device,
/// and the file system that holds the file behind a loop device.
fn stores(host: &Host, dev: Dev, depth: usize, each: &mut dyn FnMut(Dev)) {
    if depth == 0 {
        return;
    }
    let node = format!("/sys/dev/block/{}:{}", dev.0, dev.1);
    let mut below = Vec::new();
    for slave in host.list(format!("{node}/slaves")).unwrap_or_default() {
        let number = Path::new(&node).join("slaves").join(slave).join("dev");
        below.extend(host.read_attribute(number).ok().and_then(|text| parse_dev(text.as_bytes())));
    }
    if let Ok(file) = host.read_attribute(format!("{node}/loop/backing_file")) {
        below.extend(std::fs::metadata(host.path(&file)).ok().and_then(|meta| dev_of(meta.dev())));
    }
    // A partition is stored on its disk.
    if host.exists(format!("{node}/partition")) {
        below.extend(host.read_attribute(format!("{node}/../dev")).ok().and_then(|text| parse_dev(text.as_bytes())));
    }
    for dev in below {
        each(dev);
        stores(host, dev, depth - 1, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeKernel;

    fn mount(dev: Dev, point: &str) -> Mount {
        Mount {
            id: 1,
            parent: 1,
            dev,
            root: "/".into(),
            point: point.into(),
            fs_type: "ext4".into(),
            source: "/dev/x".into(),
            read_only: false,
            covered: false,
            prompt: false,
            also: Vec::new(),
        }
    }

    fn points(host: &Host, mounts: &[Mount]) -> Vec<String> {
        let ordered = stored_last(host, mounts.to_vec());
        ordered.iter().map(|m| m.point.display().to_string()).collect()
    }

    #[test]
    fn without_stacks_the_order_is_the_reverse_of_mounting() {
        let host = Host::new("/nonexistent", Box::new(FakeKernel::default()));
        let mounts = [mount((8, 1), "/"), mount((8, 2), "/home"), mount((8, 3), "/var")];
        assert_eq!(points(&host, &mounts), ["/var", "/home", "/"]);
    }

    #[test]
    fn a_loop_mount_is_frozen_before_the_file_system_with_its_file() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::new(root.path(), Box::new(FakeKernel::default()));
        let sys = root.path().join("sys/dev/block/7:0/loop");
        std::fs::create_dir_all(&sys).expect("sysfs");
        std::fs::write(root.path().join("image"), "").expect("the file behind the loop");
        std::fs::write(sys.join("backing_file"), "/image\n").expect("sysfs");
        let stored_on = dev_of(std::fs::metadata(root.path()).expect("there").dev()).expect("fits");
        // Mounted before the file system that stores it was: reverse mount order would hang.
        let mounts = [mount((7, 0), "/loop"), mount(stored_on, "/data")];
        assert_eq!(points(&host, &mounts), ["/loop", "/data"]);
        let mounts = [mount(stored_on, "/data"), mount((7, 0), "/loop")];
        assert_eq!(points(&host, &mounts), ["/loop", "/data"]);
    }

    #[test]
    fn devices_that_are_stored_on_each_other_do_not_hang_us() {
        let root = tempfile::tempdir().expect("a directory");
        for (dev, slave) in [("253:0", "253:1"), ("253:1", "253:0")] {
            let dir = root.path().join(format!("sys/dev/block/{dev}/slaves/x"));
            std::fs::create_dir_all(&dir).expect("sysfs");
            std::fs::write(dir.join("dev"), slave).expect("sysfs");
        }
        let host = Host::new(root.path(), Box::new(FakeKernel::default()));
        let mounts = [mount((253, 0), "/a"), mount((253, 1), "/b")];
        assert_eq!(points(&host, &mounts).len(), 2);
    }
}
