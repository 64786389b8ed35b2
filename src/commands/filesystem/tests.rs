use super::*;
use crate::commands::{golden, testing};
use crate::host::fake::{self, Effect};
use crate::host::fixture::Machine;
use std::fmt::Write;

#[test]
fn file_systems_of_all_machines() {
    let machines =
        ["btrfs-raid", "ccw", "container", "nested-dm", "nvme-multipath", "sata-nvme-lvm", "virtio-blk", "virtio-scsi"];
    for name in machines {
        golden::check(name, "fsinfo", &list(&Machine::load(name).host()).expect("file systems"));
    }
}

/// bcachefs names all its devices at once.
#[test]
fn each_device_of_a_file_system_on_several_is_named_without_dev() {
    for (source, name) in [
        ("/dev/sda1:/dev/sdb", "sda1:sdb"),
        ("/dev/sda1:/dev/mapper/x-y:/dev/sdc", "sda1:mapper/x-y:sdc"),
        ("/dev/sda1", "sda1"),
        ("pool/dev/home", "pool/dev/home"),
        ("ubi0:rootfs", "ubi0:rootfs"),
    ] {
        let machine = Machine::new("/proc/self/");
        machine.file("/proc/self/mountinfo", format!("30 1 0:40 / /srv rw - bcachefs {source} rw\n"));
        let list = list(&machine.host()).expect("file systems");
        let names: Vec<&str> = list.iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, [name]);
    }
}

/// The machine `virtio-blk` with many more mounts: of directories, of memory, and of 40 volumes.
fn crowded() -> Machine {
    let machine = Machine::load("virtio-blk");
    let table = machine.host().read_text("/proc/self/mountinfo").expect("a table");
    let mut table = table + "99 26 254:1 /x /bind/x rw - ext4 /dev/vda1 rw\n";
    for i in 100..400 {
        let _ = match i % 3 {
            0 => writeln!(table, "{i} 26 254:1 /d{i} /bind/{i} rw - ext4 /dev/vda1 rw"),
            1 => writeln!(table, "{i} 26 0:{i} / /tmpfs/{i} rw - tmpfs tmpfs rw"),
            _ => writeln!(table, "{i} 26 252:{} / /volumes/{i} rw - ext4 /dev/vdx{i} rw", i % 40),
        };
    }
    machine.file("/proc/self/mountinfo", table);
    machine
}

#[test]
fn hundreds_of_mounts_are_one_entry_for_each_file_system() {
    let machine = crowded();
    let infos = list(&machine.host()).expect("file systems");
    // Four of the machine's own, and 40 volumes that /sys does not know.
    assert_eq!(infos.len(), 44);
    assert_eq!(infos.iter().filter(|info| info.name.starts_with("252:")).count(), 40);
    assert!(infos.iter().all(|info| info.used_bytes.is_some()));
    assert_eq!(infos.last().map(|info| info.mountpoint.as_str()), Some("/"));
}

#[test]
fn a_dead_mount_has_no_sizes_and_holds_nothing_up() {
    let machine = Machine::load("virtio-blk");
    machine.kernel.hang("/boot/efi");
    let host = machine.host();
    for _ in 0..2 {
        let start = std::time::Instant::now();
        let infos = list(&host).expect("file systems");
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
        for info in &infos {
            let dead = info.mountpoint == "/boot/efi";
            assert_eq!(info.used_bytes.is_none(), dead, "{}", info.mountpoint);
            assert_eq!(info.total_bytes_privileged.is_none(), dead, "{}", info.mountpoint);
        }
    }
}

#[test]
fn a_failing_statvfs_drops_the_sizes() {
    let machine = Machine::load("virtio-blk");
    machine.kernel.script(|effect| match effect {
        Effect::Usage(path) if path.ends_with("/boot/efi") => Errno::EIO.into(),
        _ => fake::Outcome::Done,
    });
    let infos = list(&machine.host()).expect("file systems");
    let without: Vec<_> = infos.iter().filter(|info| info.total_bytes.is_none()).collect();
    assert_eq!(without.len(), 1);
    assert_eq!(without[0].mountpoint, "/boot/efi");
}

#[test]
fn a_covered_mount_has_not_the_sizes_of_what_covers_it() {
    let machine = Machine::load("virtio-blk");
    let table = machine.host().read_text("/proc/self/mountinfo").expect("a table");
    machine.file("/proc/self/mountinfo", table + "90 40 0:77 / /boot/efi rw - nfs4 server:/ rw\n");
    let infos = list(&machine.host()).expect("file systems");
    let covered = infos.iter().find(|info| info.mountpoint == "/boot/efi").expect("listed");
    assert!(covered.used_bytes.is_none());
    assert!(machine.kernel.effects().iter().all(|e| !matches!(e, Effect::Usage(path) if path.ends_with("efi"))));
}

#[test]
fn more_used_than_there_is_does_not_wrap() {
    let mut info = list(&Machine::load("ccw").host()).expect("file systems").remove(0);
    info.set_sizes(Some(Usage { total: 1, free: 2, available: u64::MAX }));
    assert_eq!((info.used_bytes, info.total_bytes), (Some(0), Some(u64::MAX)));
}

#[test]
fn without_a_mount_table_there_is_an_error() {
    let machine = Machine::new("/proc/\n");
    let text = "Could not open '/proc/self/mountinfo': No such file or directory";
    assert_eq!(list(&machine.host()).expect_err("no table").desc, text);
    assert_eq!(trim_all(&machine.host(), 0, &|| false).expect_err("no table").desc, text);
}

/// `virtio-blk` with directories to open at its mount points.
fn trimmable() -> Machine {
    let machine = Machine::load("virtio-blk");
    machine.add("/boot/efi/\n/snap/core20/2015/\n/media/cidata drive/\n");
    machine
}

/// Path, bytes trimmed, minimum, error.
type Outcome<'a> = (&'a str, Option<u64>, Option<u64>, Option<&'a str>);

fn outcomes(trimmed: &Trimmed) -> Vec<Outcome<'_>> {
    trimmed.paths.iter().map(|p| (p.path.as_str(), p.trimmed, p.minimum, p.error.as_deref())).collect()
}

#[test]
fn each_path_has_numbers_or_an_error() {
    let machine = trimmable();
    machine.kernel.script(|effect| match effect {
        Effect::Trim(path, ..) if path.ends_with("efi") => Errno::EOPNOTSUPP.into(),
        _ => fake::Outcome::Done,
    });
    let read_only = Some("failed to trim: Read-only file system");
    assert_eq!(
        outcomes(&trim_all(&machine.host(), 8192, &|| false).expect("a list")),
        [
            ("/media/cidata drive", None, None, read_only),
            ("/snap/core20/2015", None, None, read_only),
            ("/boot/efi", None, None, Some("trim not supported")),
            // 100 GiB in two pieces of 10 MiB each.
            ("/", Some(20 << 20), Some(8192), None),
        ]
    );
}

/// Start, length and minimum of what was trimmed at a mount point.
fn pieces(machine: &Machine, point: &str) -> Vec<(u64, u64, u64)> {
    let path = machine.path(point).display().to_string();
    let path = path.trim_end_matches('/').to_owned();
    let piece = |effect| match effect {
        Effect::Trim(trimmed, start, len, minimum) if trimmed == path => Some((start, len, minimum)),
        _ => None,
    };
    machine.kernel.effects().into_iter().filter_map(piece).collect()
}

#[test]
fn ext4_is_trimmed_in_pieces_that_cover_everything() {
    let machine = trimmable();
    trim_all(&machine.host(), 7, &|| false).expect("a list");
    assert_eq!(pieces(&machine, "/"), [(0, 64 << 30, 7), (64 << 30, u64::MAX - (64 << 30), 7)]);
}

#[test]
fn xfs_is_trimmed_in_pieces_of_whole_groups() {
    let machine = Machine::load("virtio-scsi");
    machine.add("/boot/\n/data/\n");
    trim_all(&machine.host(), 0, &|| false).expect("a list");
    assert_eq!(pieces(&machine, "/data"), [(0, 50 << 30, 0), (50 << 30, u64::MAX - (50 << 30), 0)]);
}

#[test]
fn other_file_systems_are_trimmed_at_once() {
    let machine = Machine::load("virtio-scsi");
    let table = machine.host().read_text("/proc/self/mountinfo").expect("a table");
    machine.file("/proc/self/mountinfo", table.replace(" xfs ", " btrfs "));
    machine.add("/boot/\n/data/\n");
    trim_all(&machine.host(), 0, &|| false).expect("a list");
    assert_eq!(pieces(&machine, "/data"), [(0, u64::MAX, 0)]);
}

#[test]
fn a_piece_that_fails_ends_the_path() {
    let machine = trimmable();
    machine.kernel.script(|effect| match effect {
        Effect::Trim(_, start, ..) if *start > 0 => Errno::EIO.into(),
        _ => fake::Outcome::Done,
    });
    let trimmed = trim_all(&machine.host(), 0, &|| false).expect("a list");
    assert_eq!(outcomes(&trimmed)[3], ("/", None, None, Some("failed to trim: Input/output error")));
}

#[test]
fn a_trim_that_is_stopped_ends_with_the_piece_at_work() {
    let machine = trimmable();
    let pieces = |kernel: &crate::host::fake::FakeKernel| {
        kernel.effects().iter().filter(|effect| matches!(effect, Effect::Trim(..))).count()
    };
    // The last path is `/`, of two pieces; what stands before it is read-only but for one.
    let kernel = machine.kernel.clone();
    let trimmed = trim_all(&machine.host(), 0, &move || pieces(&kernel) >= 2).expect("a list");
    assert_eq!(pieces(&machine.kernel), 2);
    assert_eq!(outcomes(&trimmed)[3], ("/", None, None, Some("failed to trim: stopped")));
    // Asked to stop before it began, it does nothing.
    let trimmed = trim_all(&machine.host(), 0, &|| true).expect("a list");
    assert_eq!(pieces(&machine.kernel), 2);
    assert!(trimmed.paths.iter().all(|path| path.error.as_deref() == Some("failed to trim: stopped")));
}

#[test]
fn what_cannot_discard_is_not_asked() {
    let machine = Machine::load("sata-nvme-lvm");
    machine.add("/boot/efi/\n/home/\n/srv/\n");
    let trimmed = trim_all(&machine.host(), 0, &|| false).expect("a list");
    let home = outcomes(&trimmed).into_iter().find(|outcome| outcome.0 == "/home").expect("listed");
    assert_eq!(home.3, Some("trim not supported"));
    let gone = outcomes(&trimmed).into_iter().find(|outcome| outcome.0.starts_with("/srv/x")).expect("listed");
    assert_eq!(gone.3, Some("failed to open: No such file or directory"));
}

#[test]
fn the_minimum_has_64_bits_and_no_sign() {
    let parse = |minimum: &str| {
        let arguments = format!("{{\"minimum\":{minimum}}}").parse().expect("JSON");
        let request = testing::request("guest-fstrim", &arguments);
        let args = args::parse::<Fstrim>(request.arguments()).map_err(|error| error.desc)?;
        Ok(args.minimum.map(|minimum| minimum.0))
    };
    assert_eq!(parse("18446744073709551615"), Ok(Some(u64::MAX)));
    assert_eq!(parse("0"), Ok(Some(0)));
    assert_eq!(parse("-1"), Err("Parameter 'minimum' may not be negative".to_owned()));
    for other in ["1.5", "\"1\"", "null", "true", "[]", "{}"] {
        let expected = "Invalid parameter type for 'minimum', expected: integer".to_owned();
        assert_eq!(parse(other), Err(expected), "{other}");
    }
}
