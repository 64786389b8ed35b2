//! A guest from its first boot to its removal. Nothing of it is left behind, whatever ends the test.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use super::agent::Agent;
use super::machine::{AGENT_DEVICE, AGENT_PORT, Disk, Extra, Init, Machine, PORT_BUS};
use super::qmp::Qmp;
use super::shell::Shell;
use super::terminal::Terminal;
use super::{LATER, SOON, image, inject, subject, until};

pub struct Guest {
    pub qmp: Qmp,
    pub shell: Shell,
    machine: Machine,
    qemu: Child,
    _reaper: Reaper,
}

impl Guest {
    /// A new guest with the agent installed, booted to its end.
    pub fn boot(init: Init) -> Self {
        Self::boot_with(init, Extra::default())
    }

    /// The same, of a machine that has more.
    pub fn boot_with(init: Init, extra: Extra) -> Self {
        let images = image::images().unwrap_or_else(|reason| panic!("no guest image: {reason}"));
        let machine = prepare(images, init, extra);
        let reaper = Reaper::watch(&machine);
        let (qemu, qmp, shell) = power_on(&machine, &[]);
        let mut guest = Self { qmp, shell, machine, qemu, _reaper: reaper };
        guest.wait_booted();
        guest
    }

    /// Until the guest has done all that it does at boot.
    pub fn wait_booted(&mut self) {
        let init = self.machine.init;
        let done = match init {
            // "degraded" is told apart by the caller's checks.
            Init::Systemd => "systemctl is-system-running --wait || systemctl --failed --no-legend",
            Init::Sysv => {
                "while [ \"$(runlevel)\" != 'N 2' ]; do sleep 0.2; done; while pgrep -x rc; do sleep 0.2; done"
            }
            Init::Openrc => {
                "while [ \"$(runlevel)\" != 'N 2' ]; do sleep 0.2; done; while pgrep -x openrc; do sleep 0.2; done"
            }
            Init::Busybox => "true",
        };
        let output = self.shell.attempt(done, LATER);
        assert!(output.is_some(), "the {init:?} guest did not boot within {LATER:?}");
    }

    /// The host side of the agent's virtio-serial port.
    pub fn agent(&self) -> Agent {
        Agent::connect(&self.machine.socket("agent"))
    }

    /// The host side of /dev/ttyS1.
    pub fn serial(&self) -> Agent {
        Agent::connect(&self.machine.socket("serial"))
    }

    /// The same line, for a person at it.
    pub fn terminal(&self) -> Terminal {
        Terminal::connect(&self.machine.socket("serial"))
    }

    /// The host side of a port made with `plug_spare`.
    pub fn spare(&self) -> Agent {
        Agent::connect(&self.machine.socket("spare"))
    }

    pub fn plug_agent_port(&mut self) {
        self.plug("agent", AGENT_PORT, AGENT_DEVICE);
    }

    pub fn unplug_agent_port(&mut self) {
        self.unplug(AGENT_DEVICE);
    }

    /// A further port, of any name.
    pub fn plug_spare(&mut self, name: &str) {
        self.plug("spare", name, "spareport");
    }

    pub fn unplug_spare(&mut self) {
        self.unplug("spareport");
    }

    fn plug(&mut self, chardev: &str, name: &str, id: &str) {
        let port = json!({"driver": "virtserialport", "bus": PORT_BUS, "chardev": chardev, "name": name, "id": id});
        self.qmp.execute("device_add", &port);
    }

    fn unplug(&mut self, id: &str) {
        // No DEVICE_DELETED to wait for: a port goes at once, without asking the guest.
        self.qmp.execute("device_del", &json!({"id": id}));
    }

    /// Whether QEMU has come to its end.
    pub fn has_ended(&mut self) -> bool {
        self.qemu.try_wait().expect("wait for QEMU").is_some()
    }

    pub fn wait_ended(&mut self) {
        until("QEMU ends", SOON, || self.has_ended().then_some(()));
    }

    /// Switch the same machine on again; it resumes or boots, which is for the caller to find out.
    pub fn power_on(&mut self) {
        assert!(self.has_ended(), "the machine is still on");
        (self.qemu, self.qmp, self.shell) = power_on(&self.machine, &[]);
    }

    /// Write the running machine to a file and switch it off.
    pub fn save(&mut self) {
        let file = self.machine.dir.join("saved");
        self.qmp.execute("stop", &json!({}));
        self.qmp.execute("migrate", &json!({"uri": format!("exec:cat >{}", file.display())}));
        until("the machine is saved", SOON, || {
            let progress = self.qmp.execute("query-migrate", &json!({}));
            (progress["status"] == "completed").then_some(())
        });
        self.qmp.execute("quit", &json!({}));
        self.wait_ended();
    }

    /// Go on where `save` left off.
    pub fn restore(&mut self) {
        let file = self.machine.dir.join("saved");
        let incoming = ["-incoming".to_owned(), format!("exec:cat {}", file.display())];
        (self.qemu, self.qmp, self.shell) = power_on(&self.machine, &incoming);
        until("the machine is restored", SOON, || {
            let status = self.qmp.execute("query-status", &json!({}));
            (status["status"] == "paused").then_some(())
        });
        self.qmp.execute("cont", &json!({}));
    }

    /// Disk snapshots as a backup program takes them, all at the same moment: from now on QEMU
    /// writes elsewhere. The images that hold what was written up to now.
    pub fn snapshot(&mut self, ids: &[&str]) -> Vec<PathBuf> {
        let mut bases = Vec::new();
        let mut actions = Vec::new();
        for disk in self.machine.disks.iter_mut().filter(|disk| ids.contains(&disk.id)) {
            let overlay = disk.path.with_extension(format!("{}.qcow2", disk.format));
            let data = json!({"device": disk.id, "snapshot-file": overlay, "format": "qcow2"});
            actions.push(json!({"type": "blockdev-snapshot-sync", "data": data}));
            bases.push(std::mem::replace(&mut disk.path, overlay));
            disk.format = "qcow2";
        }
        self.qmp.execute("transaction", &json!({"actions": actions}));
        bases
    }

    /// The image of one of the machine's `Extra` disks.
    pub fn extra_disk(&self, id: &str) -> PathBuf {
        self.machine.extra_disk(id)
    }

    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.machine.console()).unwrap_or_default()).into_owned()
    }

    /// What one wants to see after a failure: console, journal, the agent's own log, QEMU's words.
    pub fn report(&mut self) {
        let mut text = String::new();
        let mut section = |title: &str, content: &str| {
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            text += &format!("---- {title} ----\n{tail}\n");
        };
        section("QEMU", &fs::read_to_string(self.machine.dir.join("qemu.log")).unwrap_or_default());
        section("the guest's console", &self.console());
        for (title, script) in [
            ("its processes", "ps axo pid,stat,wchan:20,args | grep -v ' \\['"),
            ("the agent's own log", "tail -n 30 /run/*.log /var/log/qemu-ga*"),
            ("its journal", "journalctl -n 60 --no-pager -o short-monotonic"),
        ] {
            let answer = self.shell.attempt(script, Duration::from_secs(20));
            section(title, &answer.map_or("the guest's shell does not answer".to_owned(), |output| output.text));
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        remove(&self.machine);
    }
}

fn remove(machine: &Machine) {
    // First of all, so that the reaper does not take a later process of that number for QEMU.
    let _ = fs::remove_file(machine.pidfile());
    if std::env::var_os("QGA_VM_KEEP").is_none() {
        let _ = fs::remove_dir_all(&machine.dir);
    }
    let _ = fs::remove_dir_all(&machine.sockets);
}

/// Private copies of the images, with the agent in them.
fn prepare(images: &Path, init: Init, extra: Extra) -> Machine {
    let name = unique_name();
    let dir = images.parent().expect("the cache").join("runs").join(&name);
    let sockets = PathBuf::from("/tmp").join(format!("qga-vm-{name}"));
    furnish(images, init, extra, dir, sockets)
}

/// Different for each guest of each process.
pub(super) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Disks and logs go to `dir`.
pub(super) fn furnish(images: &Path, init: Init, extra: Extra, dir: PathBuf, sockets: PathBuf) -> Machine {
    for directory in [&dir, &sockets] {
        fs::create_dir_all(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    }
    let copy = |name: &str| copy_into(&dir, &images.join(name));
    let subject = subject::under_test();
    let (mut disks, mut initrd) = (Vec::new(), images.join("initrd"));
    if init == Init::Busybox {
        initrd = copy("initrd");
        let mut files = subject.files(init);
        files.extend(subject.libraries());
        inject::into_initrd(&initrd, &files);
    } else {
        let root = copy(match init {
            Init::Sysv => "sysv.img",
            Init::Openrc => "openrc.img",
            _ => "systemd.img",
        });
        inject::into_image(&root, &subject.files(init), &subject.libraries());
        let disk = |id, path| Disk { id, path, format: "raw" };
        disks.push(disk("root", root));
        disks.push(disk("home", copy("home.img")));
        disks.push(disk("srv", copy("srv.img")));
        disks.push(disk("swap", copy("swap.img")));
    }
    let machine = Machine { init, extra, disks, kernel: images.join("vmlinuz"), initrd, dir, sockets };
    for (id, length) in &machine.extra.disks {
        let image = fs::File::create(machine.extra_disk(id)).expect("make a disk");
        image.set_len(*length).expect("a sparse file");
    }
    machine
}

/// A copy of a sparse file, under the same name.
pub(super) fn copy_into(dir: &Path, file: &Path) -> PathBuf {
    let to = dir.join(file.file_name().expect("a file"));
    let status = Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([file, &to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot copy {}", file.display());
    to
}

fn power_on(machine: &Machine, further: &[String]) -> (Child, Qmp, Shell) {
    // Left over from the former QEMU, and not to be mistaken for the new one's.
    for name in ["qmp", "shell", "agent", "serial", "spare"] {
        let _ = fs::remove_file(machine.socket(name));
    }
    let log =
        fs::File::options().create(true).append(true).open(machine.dir.join("qemu.log")).expect("open QEMU's log");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(machine.arguments())
        .args(further)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("start qemu-system-x86_64");
    until("QEMU starts", SOON, || {
        let ended = qemu.try_wait().expect("wait for QEMU");
        let words = || fs::read_to_string(machine.dir.join("qemu.log")).unwrap_or_default();
        assert!(ended.is_none(), "QEMU ended at once: {}", words());
        machine.socket("qmp").exists().then_some(())
    });
    let qmp = Qmp::connect(&machine.socket("qmp"));
    let shell = Shell::connect(&machine.socket("shell"));
    (qemu, qmp, shell)
}

/// Kills QEMU and removes its files when this process is gone, however it went: it waits for the
/// end of a pipe that only this process holds open. A `Guest` in a static is never dropped.
pub(super) struct Reaper(Child);

impl Reaper {
    /// Everything that has its process id in a `.pid` file in the machine's directory is killed.
    pub(super) fn watch(machine: &Machine) -> Self {
        let keep = std::env::var_os("QGA_VM_KEEP").is_some();
        let script = "trap '' INT TERM HUP; cat >/dev/null; \
                      for pid in \"$1\"/*.pid; do kill -KILL \"$(cat \"$pid\")\"; done; rm -rf \"$2\"; \
                      [ -z \"$3\" ] || rm -rf \"$3\"";
        let child = Command::new("sh")
            .args(["-c", script, "reaper"])
            .args([&machine.dir, &machine.sockets])
            .arg(if keep { Path::new("") } else { &machine.dir })
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the reaper");
        Self(child)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
