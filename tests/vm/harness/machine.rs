//! The virtual machine: its disks, ports and sockets, as QEMU's command line.

use std::path::{Path, PathBuf};

/// What runs as the guest's first process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Init {
    Systemd,
    Sysv,
    /// sysvinit with OpenRC instead of its own scripts.
    Openrc,
    /// No root file system at all: busybox in an initial ram disk, without udev.
    Busybox,
}

/// The name of the agent's port, and the device behind it for hot-plug.
pub const AGENT_PORT: &str = "org.qemu.guest_agent.0";
pub const AGENT_DEVICE: &str = "agentport";
/// The bus with the agent's port and room for more; the shell has a bus of its own.
pub const PORT_BUS: &str = "ports.0";

pub struct Disk {
    /// QEMU's name of it; the guest sees the disks as vda, vdb ... in this order.
    pub id: &'static str,
    pub path: PathBuf,
    pub format: &'static str,
}

/// What a machine has beyond the usual.
pub struct Extra {
    /// Processors and memory, as options of QEMU.
    pub size: &'static str,
    /// Empty disks, as QEMU's name and length in bytes; `devices` attaches them.
    pub disks: Vec<(&'static str, u64)>,
    /// Words of `-device`.
    pub devices: Vec<&'static str>,
}

impl Default for Extra {
    fn default() -> Self {
        Self { size: "-m 384 -smp 1", disks: Vec::new(), devices: Vec::new() }
    }
}

pub struct Machine {
    pub init: Init,
    pub extra: Extra,
    pub disks: Vec<Disk>,
    /// Disks, logs and the process id.
    pub dir: PathBuf,
    /// Sockets, at a path short enough for them.
    pub sockets: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

impl Machine {
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(name)
    }

    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    pub fn pidfile(&self) -> PathBuf {
        self.dir.join("qemu.pid")
    }

    /// The image of one of the `Extra` disks.
    pub fn extra_disk(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.img"))
    }

    /// Also across a restart, as a guest resumed from disk must find the machine it left.
    pub fn arguments(&self) -> Vec<String> {
        let mut line = Line::default();
        // Always emulated: a /dev/kvm may be there and not work.
        // QEMU aborts when it has no translation buffer left for a processor that is plugged in.
        let buffer = if self.extra.size.contains("maxcpus") { 1024 } else { 256 };
        line.words(&format!("-accel tcg,tb-size={buffer} -cpu Nehalem -machine pc"));
        line.words(self.extra.size);
        line.words("-nodefaults -no-user-config -display none");
        line.option("-pidfile", &self.pidfile());
        line.option("-kernel", &self.kernel);
        line.option("-initrd", &self.initrd);
        line.word("-append");
        line.word(match self.init {
            Init::Busybox => "console=ttyS0 quiet mitigations=off nokaslr rdinit=/init",
            _ => "console=ttyS0 quiet mitigations=off nokaslr test.root=/dev/vda resume=/dev/vdd",
        });
        for disk in &self.disks {
            line.drive(disk.id, disk.format, &disk.path);
            line.words(&format!("-device virtio-blk-pci,drive={}", disk.id));
        }
        for (id, _) in &self.extra.disks {
            line.drive(id, "raw", &self.extra_disk(id));
        }
        for device in &self.extra.devices {
            line.words(&format!("-device {device}"));
        }
        // First UART: the console. Second: the agent by isa-serial, as /dev/ttyS1.
        line.word("-chardev");
        line.word(&format!("file,id=console,path={},append=on", self.console().display()));
        line.words("-serial chardev:console");
        self.chardev(&mut line, "serial");
        line.words("-serial chardev:serial");

        line.words("-device virtio-serial-pci,id=shellbus");
        self.chardev(&mut line, "shell");
        line.words("-device virtserialport,bus=shellbus.0,chardev=shell,name=test.shell");

        line.words("-device virtio-serial-pci,id=ports,max_ports=8");
        self.chardev(&mut line, "agent");
        line.word("-device");
        line.word(&format!("virtserialport,bus={PORT_BUS},chardev=agent,name={AGENT_PORT},id={AGENT_DEVICE}"));
        // A spare one, for ports that are plugged in later.
        self.chardev(&mut line, "spare");

        line.word("-qmp");
        line.word(&format!("unix:{},server=on,wait=off", self.socket("qmp").display()));
        line.0
    }

    fn chardev(&self, line: &mut Line, name: &str) {
        line.word("-chardev");
        line.word(&format!("socket,id={name},path={},server=on,wait=off", self.socket(name).display()));
    }
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn word(&mut self, word: &str) {
        self.0.push(word.to_owned());
    }

    fn words(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(str::to_owned));
    }

    fn drive(&mut self, id: &str, format: &str, path: &Path) {
        self.words("-drive");
        let path = path.display();
        self.word(&format!("if=none,id={id},format={format},cache=unsafe,discard=unmap,file={path}"));
    }

    fn option(&mut self, name: &str, path: &Path) {
        self.word(name);
        self.word(&path.to_string_lossy());
    }
}
