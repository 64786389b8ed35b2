//! Databases with the shipped hooks: what they told their clients is in the snapshot, and nothing in
//! it needs repair.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::SOON;
use crate::harness::guest::Guest;
use crate::harness::image;
use crate::harness::machine::Init;
use crate::{by_hand, shared};

const NONE: &Value = &Value::Null;

const HOOKS: [(&str, &str); 2] = [
    ("mariadb", include_str!("../../packaging/fsfreeze-hook.d/mariadb.sample")),
    ("redis", include_str!("../../packaging/fsfreeze-hook.d/redis.sample")),
];

/// Data and binary log on file systems of different kinds, which must be frozen as one.
const START: &str = "start() { \
    setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\" </dev/null >>/run/$1.log 2>&1 & }; \
    start mariadbd --no-defaults --datadir=/srv/mysql --lc-messages-dir=/mnt/database/usr/share/mysql \
        --log-bin=/home/binlog/log --sync-binlog=1 --socket=/run/mysqld/mysqld.sock --skip-networking \
        --innodb-flush-log-at-trx-commit=0 --innodb-log-file-size=8M --innodb-buffer-pool-size=8M \
        --aria-pagecache-buffer-size=8M; \
    start redis-server --port 6379 --save '' --appendonly yes --dir /srv/redis";

/// One row after the other; the numbers of those that the server calls committed go to /run.
const WRITE: &str = "\
    count() { n=0; while echo $((n += 1)); do :; done; }; \
    for table in i m; do \
        count | sed \"s/.*/INSERT INTO t.$table VALUES (&); SELECT &;/\" | mariadb -sN --unbuffered >/run/rows.$table 2>&1 & \
    done; \
    count | sed 's/^/RPUSH rows /' | redis-cli >/run/rows.r 2>&1 &";

const TABLES: [&str; 3] = ["i", "m", "r"];

#[test]
fn what_databases_committed_before_the_freeze_is_in_the_snapshot() {
    let Some(mut guest) = shared::own(Init::Systemd) else { return };
    install(&mut guest);
    start_databases(&mut guest);
    guest.shell.ok("mariadb -e 'CREATE DATABASE t; CREATE TABLE t.i (n INT PRIMARY KEY) ENGINE=InnoDB; \
         CREATE TABLE t.m (n INT PRIMARY KEY) ENGINE=MyISAM'");
    guest.shell.ok(&format!("({WRITE}) >/dev/null 2>&1"));
    go_on(&mut guest);

    by_hand::start(&mut guest, "-F");
    let mut agent = guest.agent();
    agent.sync(SOON);
    let frozen = agent.get("guest-fsfreeze-freeze", NONE);
    let committed = TABLES.map(|table| rows(&mut guest, table));
    let images = guest.snapshot(&["home", "srv"]);
    guest.shell.ok("sleep 1");
    assert_eq!(TABLES.map(|table| rows(&mut guest, table)), committed, "the hooks hold the writers back");
    guest.shell.ok("timeout 60 mariadb -e 'SELECT COUNT(*) FROM t.i' && timeout 60 redis-cli llen rows");
    assert_eq!(agent.get("guest-fsfreeze-thaw", NONE), frozen);
    go_on(&mut guest);

    // Thawed by another agent than the one that froze: the hooks' sessions outlive the first one.
    agent.get("guest-fsfreeze-freeze", NONE);
    guest.shell.ok("kill -KILL $(cat /run/hand.pid); rm -f /run/qemu-ga.pid");
    let before = TABLES.map(|table| rows(&mut guest, table));
    guest.shell.ok("qemu-ga -F >/run/hand.log 2>&1 & echo $! >/run/hand.pid");
    agent.sync(SOON);
    assert_eq!(agent.get("guest-fsfreeze-status", NONE), "frozen");
    assert_eq!(TABLES.map(|table| rows(&mut guest, table)), before, "locked without the agent");
    agent.get("guest-fsfreeze-thaw", NONE);
    go_on(&mut guest);
    guest.shell.ok("! ls -d /run/qemu-ga-mariadb /run/qemu-ga-redis");
    by_hand::stop(&mut guest);
    guest.shell.ok("! grep -E 'mariadb|redis' /run/hand.log");

    // In the place of the disks that went on: what a restore of the backup is.
    guest
        .shell
        .ok("pkill -x mariadbd; pkill -x redis-server; while pgrep -x 'mariadbd|redis-server'; do sleep 0.2; done");
    let [home, srv] = images.as_slice() else { panic!("two images: {images:?}") };
    let checked = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(home).output().expect("run e2fsck");
    assert!(checked.status.success(), "e2fsck: {}", String::from_utf8_lossy(&checked.stdout));
    for (image, mount, name) in [(home, "/home", "newhome"), (srv, "/srv", "newsrv")] {
        guest.shell.ok(&format!("umount {mount}"));
        plug(&mut guest, &copy(image), name, false);
        guest.shell.ok(&format!("mount /dev/disk/by-id/virtio-{name} {mount}"));
    }
    guest.shell.ok("! dmesg | grep -iE 'corrupt|ext4-fs error|i/o error'");
    guest.shell.ok("rm /run/mariadbd.log /run/redis-server.log");
    start_databases(&mut guest);
    for (table, committed) in TABLES.into_iter().zip(committed) {
        let count = match table {
            "r" => "redis-cli llen rows".to_owned(),
            _ => format!("mariadb -sNe 'SELECT COUNT(*) FROM t.{table} WHERE n <= {committed}'"),
        };
        let found: u64 = guest.shell.ok(&count).parse().expect("a number");
        assert!(found >= committed, "{found} of {committed} rows of '{table}' are in the snapshot");
    }
    let tables = guest.shell.ok("mariadb -sNe 'CHECK TABLE t.i, t.m'");
    assert!(tables.lines().all(|line| line.ends_with("OK")), "{tables}");
    guest.shell.ok("! grep -E 'ERROR|orrupt|crashed' /run/mariadbd.log");
    guest.shell.ok("! grep -iE 'error|truncat|bad file|corrupt' /run/redis-server.log");
}

/// The servers from their disk, and the hooks.
fn install(guest: &mut Guest) {
    let disk = image::images().expect("there is a guest").join("database.img");
    plug(guest, &disk, "database", true);
    guest.shell.ok("mkdir /mnt/database && mount -o ro /dev/disk/by-id/virtio-database /mnt/database && \
         ln -s /mnt/database/usr/sbin/mariadbd /usr/local/sbin && \
         ln -s /mnt/database/usr/bin/mariadb /mnt/database/usr/bin/redis-* /usr/local/bin && \
         printf '/mnt/database%s/lib/x86_64-linux-gnu\n' '' /usr >/etc/ld.so.conf.d/database.conf && ldconfig && \
         cp -a /mnt/database/mysql /srv && install -d -o nobody /home/binlog /srv/redis /run/mysqld");
    for (name, text) in HOOKS {
        let text = text.replacen("\nUSERS=", "\nUSERS=nobody # ", 1);
        guest.shell.ok(&format!(
            "cd /etc/qemu/fsfreeze-hook.d && cat >{name} <<'END OF HOOK' && chmod 755 {name}\n{text}\nEND OF HOOK\n"
        ));
    }
}

fn start_databases(guest: &mut Guest) {
    guest.shell.ok(START);
    guest.shell.until("MariaDB starts", "mariadb -e 'SELECT 1'");
    guest.shell.until("Redis starts", "redis-cli info persistence | grep -q loading:0");
}

/// The number of rows that a writer was told are committed. Nothing here touches a disk.
fn rows(guest: &mut Guest, table: &str) -> u64 {
    let last = guest.shell.ok(&format!("tail -n 1 /run/rows.{table}"));
    last.parse().unwrap_or_else(|_| panic!("the writer of '{table}' said {last}"))
}

fn go_on(guest: &mut Guest) {
    for table in TABLES {
        let more = format!("test \"$(wc -l </run/rows.{table})\" -gt $(($(cat /run/seen.{table}) + 20))");
        guest.shell.ok(&format!("wc -l </run/rows.{table} >/run/seen.{table}"));
        guest.shell.until(&format!("the writer of '{table}' goes on"), &more);
    }
}

/// The snapshot itself is what the guest's disk still refers to.
fn copy(image: &Path) -> PathBuf {
    let copy = image.with_extension("copy");
    let status = Command::new("cp").arg("--sparse=always").args([image, &copy]).status();
    assert!(status.is_ok_and(|status| status.success()), "copy {}", image.display());
    copy
}

fn plug(guest: &mut Guest, image: &Path, name: &str, read_only: bool) {
    let file = json!({"driver": "file", "filename": image, "read-only": read_only});
    let node = json!({"driver": "raw", "node-name": name, "read-only": read_only, "file": file});
    guest.qmp.execute("blockdev-add", &node);
    let device = json!({"driver": "virtio-blk-pci", "drive": name, "id": format!("{name}-disk"), "serial": name});
    guest.qmp.execute("device_add", &device);
    guest.shell.until("the disk appears", &format!("test -b /dev/disk/by-id/virtio-{name}"));
}
