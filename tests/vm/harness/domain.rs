//! The guest as a domain of libvirt, driven by `virsh`.
//!
//! The daemon is one of our own, without privileges and with all its files in a directory in /tmp:
//! nothing of the machine is touched, and a libvirt that runs there is not met.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::guest::{Reaper, copy_into, furnish, unique_name};
use super::machine::{AGENT_PORT, Extra, Init, Machine};
use super::shell::Shell;
use super::{LATER, SOON, image, until};

/// The domain's name.
const NAME: &str = "guest";

/// The hardware address of its only interface.
pub const MAC: &str = "52:54:00:12:34:56";

/// What may serve `qemu:///session`: a daemon, and the name of its socket.
const DAEMONS: [(&str, &str); 2] = [("/usr/sbin/virtqemud", "virtqemud-sock"), ("/usr/sbin/libvirtd", "libvirt-sock")];

/// Nobody, where the tests run as root: root's daemon would be the machine's.
const NOBODY: u32 = 65534;

pub struct Domain {
    pub shell: Shell,
    uri: String,
    machine: Machine,
    daemon: Child,
    _reaper: Reaper,
}

/// The daemon that is installed, or why there can be no domain.
fn daemon() -> Result<(&'static str, &'static str), String> {
    if !Path::new("/usr/bin/virsh").exists() {
        return Err("virsh is not installed (Debian: libvirt-clients)".to_owned());
    }
    let found = DAEMONS.into_iter().find(|(program, _)| Path::new(program).exists());
    found.ok_or_else(|| "no virtqemud or libvirtd (Debian: libvirt-daemon-driver-qemu, libvirt-daemon)".to_owned())
}

/// Whether this machine can have domains.
pub fn possible() -> Result<(), String> {
    image::images().map_err(str::to_owned)?;
    daemon().map(|_| ())
}

impl Domain {
    /// A systemd guest with two processors, booted to its end.
    pub fn boot() -> Self {
        let images = image::images().unwrap_or_else(|reason| panic!("no guest image: {reason}"));
        let (program, socket) = daemon().unwrap_or_else(|reason| panic!("no domain: {reason}"));
        // All below /tmp: nobody may not be let into where the images are.
        let dir = PathBuf::from("/tmp").join(format!("qga-vm-{}", unique_name()));
        let mut machine = furnish(images, Init::Systemd, Extra::default(), dir.clone(), dir.clone());
        machine.kernel = copy_into(&dir, &machine.kernel);
        machine.initrd = copy_into(&dir, &machine.initrd);
        fs::write(dir.join("domain.xml"), description(&machine)).expect("write the domain's description");
        for name in ["config/libvirt", "cache", "run"] {
            fs::create_dir_all(dir.join(name)).expect("make a directory");
        }
        fs::write(dir.join("config/libvirt/qemu.conf"), "stdio_handler = \"file\"\n").expect("write qemu.conf");
        // Where the reaper looks.
        symlink(format!("run/libvirt/qemu/run/{NAME}.pid"), machine.pidfile()).expect("make a link");
        let status = Command::new("chown").args(["-R", &user().to_string()]).arg(&dir).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot give the files to their user");

        let reaper = Reaper::watch(&machine);
        let log = fs::File::create(dir.join("daemon.log")).expect("make a log");
        let mut command = unprivileged(&dir, program);
        command.arg("-p").arg(dir.join("daemon.pid"));
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("start the daemon");
        let socket = dir.join("run/libvirt").join(socket);
        until("the daemon listens", SOON, || socket.exists().then_some(()));
        let driver = "qemu+unix:///session?socket=";
        let uri = format!("{driver}{}", socket.display());

        let created = virsh(&uri, &machine, &["create", &dir.join("domain.xml").to_string_lossy()]);
        assert!(created.0, "virsh create: {}{}", created.1, log_of(&machine));
        let shell = Shell::connect(&machine.socket("shell"));
        let mut domain = Self { shell, uri, machine, daemon, _reaper: reaper };
        domain.wait_booted();
        domain
    }

    pub fn wait_booted(&mut self) {
        let done = "systemctl is-system-running --wait || systemctl --failed --no-legend";
        assert!(self.shell.attempt(done, LATER).is_some(), "the domain did not boot within {LATER:?}");
    }

    /// A command on the domain that must succeed; what virsh prints.
    pub fn ok(&self, command: &str) -> String {
        self.virsh(command).unwrap_or_else(|said| panic!("virsh {command}: {said}"))
    }

    /// A command on the domain, in words; its name is put behind the first. What virsh prints.
    pub fn virsh(&self, command: &str) -> Result<String, String> {
        let mut words: Vec<&str> = command.split(' ').collect();
        words.insert(1, NAME);
        self.virsh_words(&words)
    }

    /// The words as they are, where one of them has blanks.
    pub fn virsh_words(&self, words: &[&str]) -> Result<String, String> {
        let (ok, said) = virsh(&self.uri, &self.machine, words);
        if ok { Ok(said) } else { Err(said) }
    }

    pub fn wait_state(&self, state: &str) {
        until(&format!("the domain is {state}"), LATER, || {
            // A domain without a definition is gone when it is off.
            let now = self.virsh("domstate").unwrap_or_else(|said| said);
            now.contains(state).then_some(())
        });
    }

    /// A file of the domain's user.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.machine.dir.join(name);
        fs::write(&path, text).expect("write a file");
        path.to_string_lossy().into_owned()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = log_of(&self.machine);
            let console = fs::read(self.machine.console()).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            let journal = self.shell.attempt("journalctl -n 60 --no-pager -o short-monotonic", Duration::from_secs(20));
            let journal = journal.map_or("the guest's shell does not answer".to_owned(), |output| output.text);
            for (title, content) in [("the domain's console", console), ("its journal", journal)] {
                let _ = write!(text, "---- {title} ----\n{content}\n");
            }
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
        let _ = virsh(&self.uri, &self.machine, &["destroy", NAME]);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // Whatever is left, the reaper sees to.
    }
}

fn log_of(machine: &Machine) -> String {
    let mut text = String::new();
    for name in ["daemon.log", "cache/libvirt/qemu/log/guest.log"] {
        let log = fs::read_to_string(machine.dir.join(name)).unwrap_or_default();
        let _ = write!(text, "---- {name} ----\n{log}\n");
    }
    text
}

/// Whose daemon it is.
fn user() -> u32 {
    match nix::unistd::geteuid().as_raw() {
        0 => NOBODY,
        user => user,
    }
}

/// A program as that user, who is at home in the directory.
fn unprivileged(dir: &Path, program: &str) -> Command {
    let mut command = if user() == NOBODY {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", program]);
        command
    } else {
        Command::new(program)
    };
    command
        .env("HOME", dir)
        .env("XDG_CONFIG_HOME", dir.join("config"))
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .env("XDG_RUNTIME_DIR", dir.join("run"))
        .env("LC_ALL", "C.UTF-8")
        .current_dir(dir);
    command
}

/// Whether it succeeded, and what it printed.
fn virsh(uri: &str, machine: &Machine, words: &[&str]) -> (bool, String) {
    let mut command = unprivileged(&machine.dir, "virsh");
    command.args(["-c", uri]).args(words).stdin(Stdio::null());
    let output = command.output().expect("run virsh");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// As `Machine::arguments`, with what libvirt's commands need besides: a second processor, a
/// network, sleep.
fn description(machine: &Machine) -> String {
    let mut disks = String::new();
    for (disk, letter) in machine.disks.iter().zip('a'..) {
        write!(
            disks,
            "<disk type='file' device='disk'><driver name='qemu' type='{}' cache='unsafe' discard='unmap'/>\
             <source file='{}'/><target dev='vd{letter}' bus='virtio'/></disk>",
            disk.format,
            disk.path.display()
        )
        .expect("write to a string");
    }
    let (kernel, initrd) = (machine.kernel.display(), machine.initrd.display());
    let (console, shell) = (machine.console(), machine.socket("shell"));
    let (console, shell) = (console.display(), shell.display());
    format!(
        "<domain type='qemu'>
  <name>{NAME}</name>
  <memory unit='MiB'>384</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet mitigations=off nokaslr test.root=/dev/vda resume=/dev/vdd</cmdline>
  </os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>256</tb-cache></tcg></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Nehalem</model></cpu>
  <clock offset='utc'/>
  <pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='yes'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    <controller type='virtio-serial' index='0'/>
    <controller type='virtio-serial' index='1'/>
    <serial type='file'><source path='{console}' append='on'/><target port='0'/></serial>
    <channel type='unix'><source mode='bind' path='{shell}'/><target type='virtio' name='test.shell'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/></channel>
    <channel type='unix'><target type='virtio' name='{AGENT_PORT}'/>
      <address type='virtio-serial' controller='1' bus='0' port='1'/></channel>
    <interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>
    <memballoon model='none'/>
  </devices>
</domain>
"
    )
}
