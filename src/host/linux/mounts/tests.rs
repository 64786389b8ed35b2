use super::*;
use crate::host::fake::FakeKernel;
use proptest::prelude::*;

fn host(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().expect("a directory");
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        std::fs::write(path, content).expect("written");
    }
    let host = Host::new(root.path(), Box::new(FakeKernel::default()));
    (root, host)
}

fn table(table: &str) -> Vec<Mount> {
    let (_root, host) = host(&[("proc/self/mountinfo", table.as_bytes())]);
    all(&host).expect("a table")
}

fn points(mounts: &[Mount]) -> Vec<&str> {
    mounts.iter().map(|m| m.point.to_str().expect("text")).collect()
}

#[test]
fn a_line_has_all_its_fields() {
    let mounts = table("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root ro,errors=continue\n");
    assert_eq!(
        mounts,
        [Mount {
            id: 36,
            parent: 35,
            dev: (98, 0),
            root: "/mnt1".into(),
            point: "/mnt2".into(),
            fs_type: "ext3".into(),
            source: "/dev/root".into(),
            read_only: true,
            covered: false,
            prompt: true,
            also: vec![],
        }]
    );
}

#[test]
fn a_read_only_view_of_a_writable_file_system_is_writable() {
    assert!(!table("36 35 98:0 / /mnt ro - ext4 /dev/vda rw\n")[0].read_only);
}

#[test]
fn escapes_are_decoded() {
    let mounts = table("1 0 8:1 / /a\\040b\\011c\\012d\\134040\\043 rw - ext4 /dev/disk\\040x rw\n");
    assert_eq!(points(&mounts), ["/a b\tc\nd\\040#"]);
    assert_eq!(mounts[0].source, "/dev/disk x");
}

#[test]
fn half_escapes_stay() {
    assert_eq!(points(&table("1 0 8:1 / /a\\04 rw - ext4 x rw\n")), ["/a\\04"]);
    assert_eq!(points(&table("1 0 8:1 / /a\\800 rw - ext4 x rw\n")), ["/a\\800"]);
    assert_eq!(points(&table("1 0 8:1 / /a\\ rw - ext4 x rw\n")), ["/a\\"]);
}

#[test]
fn names_that_are_no_utf8_survive() {
    let (_root, host) = host(&[("proc/self/mountinfo", b"1 0 8:1 / /\xff\xfe rw - ext4 /dev/sda1 rw\n")]);
    assert_eq!(all(&host).expect("a table")[0].point.as_os_str().as_bytes(), b"/\xff\xfe");
}

#[test]
fn an_empty_source_is_a_source() {
    assert_eq!(table("1 0 0:5 / /x rw - tmpfs  rw\n")[0].source, "");
}

#[test]
fn a_bad_line_loses_only_itself() {
    let mounts = table(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n2 1 8:2 / /b rw ext4 /dev/sda2 rw\n3 1 8:3 / /c rw - ext4 s rw",
    );
    assert_eq!(points(&mounts), ["/", "/c"]);
}

#[test]
fn only_block_devices_are_local_and_each_once() {
    let text = "\
        20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        21 20 0:5 / /proc rw - proc proc rw\n\
        22 20 0:40 / /net rw - nfs4 server:/x rw\n\
        23 20 8:2 / /home rw - xfs /dev/sda2 rw\n\
        24 20 8:1 /srv /srv rw - ext4 /dev/sda1 rw\n\
        25 20 8:2 / /again rw - xfs /dev/sda2 rw\n";
    let (_root, host) = host(&[("proc/self/mountinfo", text.as_bytes())]);
    let mounts = local(&host).expect("a table");
    assert_eq!(points(&mounts), ["/", "/home"]);
    assert_eq!(mounts[0].also, [PathBuf::from("/srv")]);
    assert!(mounts[1].is_at(Path::new("/again")));
    assert!(!mounts[1].is_at(Path::new("/srv")));
}

#[test]
fn btrfs_has_the_number_of_its_source() {
    let text = "\
        20 1 0:30 /@ / rw - btrfs /dev/vda2 rw\n\
        21 20 0:30 /@home /home rw - btrfs /dev/vda2 rw\n\
        22 20 0:31 / /pool rw - btrfs /dev/vdb rw\n\
        23 20 0:31 / /pool2 rw - btrfs /dev/vdc rw\n\
        24 20 0:32 / /gone rw - btrfs /dev/nowhere rw\n\
        25 20 254:16 / /odd rw - ext4 /dev/vdb rw\n";
    let (_root, host) = host(&[
        ("proc/self/mountinfo", text.as_bytes()),
        ("sys/class/block/vda2/dev", b"254:2\n"),
        ("sys/class/block/vdb/dev", b"254:16\n"),
        ("sys/class/block/vdc/dev", b"254:32\n"),
    ]);
    let mounts = local(&host).expect("a table");
    assert_eq!(points(&mounts), ["/", "/pool"]);
    assert_eq!(mounts[0].dev, (254, 2));
    assert_eq!(mounts[0].also, [PathBuf::from("/home")]);
    assert_eq!(mounts[1].also, [PathBuf::from("/pool2"), PathBuf::from("/odd")]);
}

#[test]
fn pools_are_listed_where_they_are_asked_for() {
    let text = "\
        20 1 0:30 / / rw - zfs rpool/ROOT rw\n\
        21 20 0:31 / /tmp rw - tmpfs tmpfs rw\n\
        22 20 0:32 / /home rw - zfs rpool/home rw\n\
        23 20 0:33 / /home/.zfs/snapshot/a rw - zfs rpool/home@a rw\n\
        24 20 0:32 / /srv rw - zfs rpool/home rw\n\
        25 20 0:34 / /b rw - btrfs /dev/gone rw\n";
    let (_root, host) = host(&[("proc/self/mountinfo", text.as_bytes())]);
    assert_eq!(points(&local(&host).expect("a table")), [""; 0]);
    let mounts = local_and_pools(&host).expect("a table");
    assert_eq!(points(&mounts), ["/", "/home", "/b"]);
    assert_eq!(mounts[1].also, [PathBuf::from("/srv")]);
}

#[test]
fn a_source_may_be_a_link() {
    let (root, host) = host(&[
        ("proc/self/mountinfo", b"20 1 0:30 / / rw - btrfs /dev/mapper/root rw\n"),
        ("sys/class/block/dm-0/dev", b"253:0\n"),
        ("dev/mapper/control", b""),
    ]);
    std::os::unix::fs::symlink("../dm-0", root.path().join("dev/mapper/root")).expect("linked");
    assert_eq!(local(&host).expect("a table")[0].dev, (253, 0));
}

fn covered(text: &str) -> Vec<bool> {
    table(text).iter().map(|m| m.covered).collect()
}

#[test]
fn what_lies_below_another_mount_is_covered() {
    // On top of it.
    assert_eq!(
        covered("2 1 8:1 / / rw - a b rw\n3 2 8:2 / /m rw - a b rw\n4 3 8:3 / /m rw - a b rw\n"),
        [false, true, false]
    );
    // Over a directory above it, with a child.
    let text = "2 1 8:1 / / rw - a b rw\n3 2 8:2 / /m/x rw - a b rw\n4 3 8:3 / /m/x/y rw - a b rw\n5 2 8:4 / /m rw - a b rw\n6 5 8:5 / /m/x rw - a b rw\n";
    assert_eq!(covered(text), [false, true, true, false, false]);
    // A child of one that has another on top.
    let text =
        "2 1 8:1 / / rw - a b rw\n3 2 8:2 / /m rw - a b rw\n4 3 8:3 / /m/x rw - a b rw\n5 3 8:4 / /m rw - a b rw\n";
    assert_eq!(covered(text), [false, true, true, false]);
}

#[test]
fn mounts_that_are_their_own_parents_end() {
    assert_eq!(covered("1 1 8:1 / / rw - a b rw\n2 3 8:1 / /x rw - a b rw\n3 2 8:1 / /x/y rw - a b rw\n").len(), 3);
}

#[test]
fn a_missing_table_is_an_error() {
    let (_root, host) = host(&[]);
    assert_eq!(local(&host).expect_err("nothing").kind(), io::ErrorKind::NotFound);
}

#[test]
fn thousands_of_mounts_are_read_in_linear_time() {
    use std::fmt::Write;
    let build = |count: u32| {
        let mut text = String::from("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
        for i in 2..count {
            let _ = writeln!(text, "{i} 1 8:{} / /srv/volumes/{i} rw - ext4 /dev/sda1 rw", i % 7);
        }
        text
    };
    let (_root, host) = host(&[("proc/self/mountinfo", build(20_000).as_bytes())]);
    let start = std::time::Instant::now();
    assert_eq!(local(&host).expect("a table").len(), 7);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_mount_is_prompt_when_nothing_on_its_way_can_hang() {
    let text = "\
        2 1 8:1 / / rw - ext4 a rw\n\
        3 2 8:2 / /x rw - xfs a rw\n\
        4 3 8:3 / /x/e rw - ext4 a rw\n\
        5 2 0:9 / /n rw - nfs4 a rw\n\
        6 5 8:4 / /n/e rw - ext4 a rw\n\
        7 2 8:5 / /f rw - fuseblk a rw\n\
        8 6 7:0 / /n/e/loop rw - squashfs a rw\n";
    let prompt: Vec<_> = table(text).iter().map(|m| m.prompt).collect();
    assert_eq!(prompt, [true, false, true, false, false, false, false]);
}

/// A process keeps the root directory that it has, also when something is mounted over it.
#[test]
fn what_is_mounted_over_our_own_root_hides_nothing_from_us() {
    let text = b"\
        2 1 8:1 / / rw - ext4 a rw\n\
        3 2 8:2 / /x rw - xfs a rw\n\
        4 3 8:3 / /x/e rw - ext4 a rw\n\
        5 2 0:9 / / rw - tmpfs a rw\n\
        6 5 8:4 / /y rw - ext4 a rw\n";
    let covered = |own_root| {
        let lines = parse(text);
        let tree = Tree::new(&lines, own_root);
        lines.iter().map(|line| tree.is_covered(line)).collect::<Vec<_>>()
    };
    assert_eq!(covered(Some(2)), [false, false, false, true, true]);
    assert_eq!(covered(Some(5)), [true, true, true, false, false]);
    assert_eq!(covered(None), [true, true, true, false, false]);
}

/// The container's root or a directory of the same disk: one that can be reached is enough.
#[test]
fn of_several_places_the_first_that_can_be_reached_is_taken() {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(root.path().join("proc/self")).expect("a directory");
    let text = "\
        2 1 0:1 / / rw - tmpfs a rw\n\
        3 2 8:2 / /x rw - ext4 a rw\n\
        4 2 8:2 /sub /y rw - ext4 a rw\n\
        5 2 8:2 / /z rw - ext4 a rw\n\
        6 3 0:9 / /x rw - tmpfs a rw\n";
    std::fs::write(root.path().join("proc/self/mountinfo"), text).expect("a file");
    let host = Host::new(root.path(), Box::new(crate::host::fake::FakeKernel::default()));
    let [mount] = local(&host).expect("a table").try_into().expect("one file system");
    assert_eq!((mount.id, mount.point.to_str(), mount.covered), (4, Some("/y"), false));
    assert_eq!(mount.also, [PathBuf::from("/x"), PathBuf::from("/z")]);
}

proptest! {
    #[test]
    fn garbage_never_panics(table in prop::collection::vec(any::<u8>(), 0..400)) {
        let lines = parse(&table);
        let tree = Tree::new(&lines, None);
        lines.iter().for_each(|line| drop(tree.mount(line)));
    }

    #[test]
    fn near_misses_never_panic(ids in prop::collection::vec((0u64..6, 0u64..6, 0u32..3), 0..8), cut in 0usize..200) {
        let mut text = String::new();
        for (id, parent, minor) in ids {
            text += &format!("{id} {parent} 8:{minor} / /m/{parent} rw - ext4 \\04{minor} ro\n");
        }
        let lines = parse(&text.as_bytes()[..cut.min(text.len())]);
        let tree = Tree::new(&lines, None);
        lines.iter().for_each(|line| drop(tree.mount(line)));
    }
}
