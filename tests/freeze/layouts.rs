//! File systems on top of each other, in every way that could make a freeze wait for itself.
//!
//! In the wrong order each of these hangs in the kernel, until the agent's deadline ends it with an
//! error; in the right one it takes no time.

use serde_json::json;

use crate::bench::{Bench, Layout, UPPER_FIRST, all_finish};
use crate::support::Agent;

/// Freezes all of them, sees that writers wait for the thaw, and nobody else.
fn freezes_and_thaws(layout: &Layout, count: usize) {
    let Some(bench) = Bench::new(layout, &[]) else { return };
    let mut client = bench.agent.connect();
    for _ in 0..2 {
        assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), count, "{}", bench.agent.log());
        let writers = bench.write();
        assert_eq!(client.ask("guest-fsfreeze-status", json!({})), "frozen");
        assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), count);
        all_finish(writers);
    }
}

#[test]
fn ext4_on_a_loop_on_ext4_on_a_loop_on_ext4() {
    let layout = Layout {
        script: "image a 200M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 image a/b 120M; mkfs.ext4 -q -F a/b.img; mkdir b c; mount -o loop a/b.img b
                 image b/c 60M; mkfs.ext4 -q -F b/c.img; mount -o loop b/c.img c",
        points: &["a", "b", "c"],
        needs: &["ext4"],
    };
    freezes_and_thaws(&layout, 3);
}

/// Reverse mount order, which is upstream's, freezes the lower one first here.
#[test]
fn the_upper_one_was_mounted_before_the_lower_one_moved_to_its_place() {
    freezes_and_thaws(&UPPER_FIRST, 2);
}

/// The journal is written in the freeze: its image must still take it. The lower file system is the one
/// that was mounted last.
#[test]
fn ext4_with_its_journal_on_a_loop_on_ext4() {
    let layout = Layout {
        script: "image tmp 200M; mkfs.ext4 -q -F tmp.img; mount -o loop tmp.img tmp
                 truncate -s 40M tmp/j.img; j=$(loop tmp/j.img); mke2fs -q -F -O journal_dev -b 4096 $j
                 image b 100M; mkfs.ext4 -q -F -b 4096 -J device=$j b.img; mount -o loop b.img b
                 mkdir a; mount -o loop tmp.img a; umount -l tmp",
        points: &["a", "b"],
        needs: &["ext4"],
    };
    freezes_and_thaws(&layout, 2);
}

#[test]
fn xfs_with_its_log_on_a_loop_on_ext4() {
    let layout = Layout {
        script: "image tmp 300M; mkfs.ext4 -q -F tmp.img; mount -o loop tmp.img tmp
                 truncate -s 100M tmp/l.img; l=$(loop tmp/l.img)
                 image b 400M; mkfs.xfs -q -l logdev=$l b.img; mount -o loop,logdev=$l b.img b
                 mkdir a; mount -o loop tmp.img a; umount -l tmp",
        points: &["a", "b"],
        needs: &["ext4", "xfs"],
    };
    freezes_and_thaws(&layout, 2);
}

/// Files on btrfs have another device number than their file system.
#[test]
fn ext4_on_a_loop_in_a_subvolume_of_btrfs() {
    let layout = Layout {
        script: "image pool 400M; mkfs.btrfs -q pool.img >/dev/null 2>&1; mount -o loop pool.img pool
                 btrfs -q subvolume create pool/images
                 image pool/images/b 60M; mkfs.ext4 -q -F pool/images/b.img; mkdir b; mount -o loop pool/images/b.img b
                 mkdir seen; mount -o bind pool/images seen",
        points: &["b", "pool", "seen"],
        needs: &["ext4", "btrfs"],
    };
    freezes_and_thaws(&layout, 2);
}

#[test]
fn btrfs_on_two_loops_on_ext4() {
    let layout = Layout {
        script: "image a 700M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 truncate -s 300M a/1.img a/2.img; one=$(loop a/1.img); two=$(loop a/2.img)
                 mkfs.btrfs -q $one $two >/dev/null 2>&1; mkdir pool; mount $one pool",
        points: &["a", "pool"],
        needs: &["ext4", "btrfs"],
    };
    freezes_and_thaws(&layout, 2);
}

/// The overlay is no file system of a disk; the image in it lies on its upper layer.
#[test]
fn ext4_on_a_loop_in_an_overlay() {
    let layout = Layout {
        script: "image a 200M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 mkdir a/lower a/upper a/work merged b
                 mount -t overlay -o lowerdir=$T/a/lower,upperdir=$T/a/upper,workdir=$T/a/work overlay merged
                 truncate -s 60M merged/b.img; mkfs.ext4 -q -F merged/b.img; mount -o loop merged/b.img b",
        points: &["a", "b"],
        needs: &["ext4", "overlay"],
    };
    freezes_and_thaws(&layout, 2);
}

#[test]
fn what_is_mounted_several_times_is_frozen_once_by_any_of_its_names() {
    let layout = Layout {
        script: "image a 60M; mkfs.ext4 -q -F a.img; mount -o loop a.img a; mkdir a/sub b c
                 mount -o bind a/sub b; mount \"$(findmnt -no SOURCE a)\" c",
        points: &["b", "c"],
        needs: &["ext4", "findmnt"],
    };
    freezes_and_thaws(&layout, 1);
}

#[test]
fn vfat_is_written_back_and_does_not_count() {
    let layout = Layout {
        script: "image a 60M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 image efi 40M; mkfs.vfat efi.img >/dev/null; mount -o loop efi.img efi",
        points: &["a", "efi"],
        needs: &["ext4", "vfat"],
    };
    let Some(bench) = Bench::new(&layout, &["-v"]) else { return };
    let mut client = bench.agent.connect();
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", bench.listed()), 1);
    bench.shell("timeout 20 touch efi/goes-through");
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 1);
    assert!(bench.agent.log().contains("/efi is only synced"), "{}", bench.agent.log());
}

/// One logical volume on two loop devices whose images lie on one of the file systems.
#[test]
fn ext4_on_a_mapped_device_on_loops_on_ext4() {
    let layout = Layout {
        script: "image a 200M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 truncate -s 40M a/1.img a/2.img; one=$(loop a/1.img); two=$(loop a/2.img)
                 name=qga-test-$$
                 printf '0 81920 linear %s 0\\n81920 81920 linear %s 0\\n' $one $two | dmsetup create $name
                 mkfs.ext4 -q -F /dev/mapper/$name; mkdir b; mount /dev/mapper/$name b
                 dmsetup remove --deferred $name",
        points: &["a", "b"],
        needs: &["ext4", "device-mapper"],
    };
    freezes_and_thaws(&layout, 2);
}

/// As a distribution's installer makes it, only that the disks are files.
#[test]
fn ext4_on_a_logical_volume_on_loops_on_ext4() {
    let layout = Layout {
        script: "image a 200M; mkfs.ext4 -q -F a.img; mount -o loop a.img a
                 truncate -s 40M a/1.img a/2.img; one=$(loop a/1.img); two=$(loop a/2.img)
                 vg=qga-test-$$; pvcreate -qq $one $two; vgcreate -qq $vg $one $two; echo $vg >groups
                 lvcreate -qq -y -l 100%FREE -n data $vg
                 mkfs.ext4 -q -F /dev/$vg/data; mkdir b; mount /dev/$vg/data b",
        points: &["a", "b"],
        needs: &["ext4", "device-mapper", "lvcreate"],
    };
    freezes_and_thaws(&layout, 2);
}

/// What lies below another mount cannot be reached; that is said, and hurts nobody.
#[test]
fn what_is_covered_is_left_alone() {
    let layout = Layout {
        script: "image a 60M; mkfs.ext4 -q -F a.img; mount -o loop a.img a; mount -t tmpfs none a
                 image b 60M; mkfs.ext4 -q -F b.img; mount -o loop b.img b",
        points: &["b"],
        needs: &["ext4"],
    };
    let Some(bench) = Bench::new(&layout, &[]) else { return };
    let mut client = bench.agent.connect();
    let covered = bench.agent.path("a");
    let nowhere = bench.agent.path("nowhere");
    let both = json!({"mountpoints": [covered, bench.points[0], nowhere]});
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", both), 1);
    assert_eq!(client.ask("guest-fsfreeze-thaw", json!({})), 1);
    let text = format!("{} is not frozen: something else is mounted over it", covered.display());
    assert!(bench.agent.log().contains(&text), "{}", bench.agent.log());
    let text = format!("{} is not frozen: no disk is mounted there", nowhere.display());
    assert!(bench.agent.log().contains(&text), "{}", bench.agent.log());
}

/// The image's name is gone, and its file has another device number than its file system.
#[test]
fn a_deleted_image_on_btrfs_that_was_mounted_later() {
    let layout = Layout {
        script: "image pool 400M; mkfs.btrfs -q pool.img >/dev/null 2>&1; mkdir tmp b; mount -o loop pool.img tmp
                 btrfs -q subvolume create tmp/images
                 truncate -s 60M tmp/images/b.img; mkfs.ext4 -q -F tmp/images/b.img; mount -o loop tmp/images/b.img b
                 rm tmp/images/b.img; mount -o loop pool.img pool; umount -l tmp",
        points: &["pool", "b"],
        needs: &["ext4", "btrfs"],
    };
    freezes_and_thaws(&layout, 2);
}

/// Hidden where it was mounted first, in sight where it was mounted later.
#[test]
fn what_is_covered_at_one_of_its_places_is_frozen_at_another() {
    let layout = Layout {
        script: "image a 60M; mkfs.ext4 -q -F a.img; mount -o loop a.img a; mkdir c
                 mount -o bind a c; mount -t tmpfs none a",
        points: &["c"],
        needs: &["ext4"],
    };
    freezes_and_thaws(&layout, 1);
}

/// The dry run sees the order that the freeze takes, and takes no step.
#[test]
fn the_check_tells_the_order_and_freezes_nothing() {
    let Some(bench) = Bench::new(&crate::bench::CLASSIC, &[]) else { return };
    let agent = Agent::program().display().to_string();
    let json = bench.shell(&format!("QGA_CONF= {agent} -t . --check-freeze --json"));
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let frozen = report["file-systems"].as_array().expect("a list").iter().filter(|row| row["action"] == "freeze");
    let ours = frozen.filter_map(|row| row["mountpoint"].as_str()?.strip_prefix(bench.agent.dir.path().to_str()?));
    assert_eq!(ours.collect::<Vec<_>>(), ["/inner", "/outer"]);
    all_finish(bench.write());
}
