//! An agent in a mount namespace with file systems to freeze.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::{self, Agent, Client, until};

/// What is mounted where.
pub struct Layout {
    /// A shell script that mounts it, with the directory `$T` to itself.
    pub script: &'static str,
    /// The mount points below `$T` that are named to the agent.
    pub points: &'static [&'static str],
    /// File systems the kernel must have, and programs.
    pub needs: &'static [&'static str],
}

/// An xfs whose image lies on an ext4.
pub const CLASSIC: Layout = Layout {
    script: "image outer 700M; mkfs.ext4 -q -F outer.img; mount -o loop outer.img outer
             image outer/inner 320M; mkfs.xfs -q outer/inner.img; mkdir inner; mount -o loop outer/inner.img inner",
    points: &["outer", "inner"],
    needs: &["ext4", "xfs"],
};

/// `b` lies in a file on `a`, and was mounted before `a` was at its place.
pub const UPPER_FIRST: Layout = Layout {
    script: "image tmp 200M; mkfs.ext4 -q -F tmp.img; mount -o loop tmp.img tmp
             image tmp/b 100M; mkfs.ext4 -q -F tmp/b.img; mkdir b a; mount -o loop tmp/b.img b
             mount -o loop tmp.img a; umount -l tmp",
    points: &["a", "b"],
    needs: &["ext4"],
};

/// The functions that layouts use.
const PRELUDE: &str = r#"set -e; cd "$T"
image() { mkdir -p "$1"; truncate -s "$2" "$1.img"; }
loop() { losetup -f --show "$1" | tee -a "$T/loops"; }"#;

/// An agent that sees a layout.
pub struct Bench {
    pub agent: Agent,
    /// Keeps the namespace, also when the agent is dead.
    keeper: Child,
    pub points: Vec<PathBuf>,
    args: Vec<String>,
}

fn enter(pid: u32, program: &[&str]) -> Child {
    Command::new("nsenter").args(["-m", "-t", &pid.to_string()]).args(program).spawn().expect("nsenter runs")
}

pub fn all_finish(writers: Vec<Child>) {
    for mut writer in writers {
        let status = until("the write finishes", || writer.try_wait().expect("our child"));
        assert!(status.success());
    }
}

fn has_program(program: &str) -> bool {
    let look = format!("command -v {program} >/dev/null");
    Command::new("sh").args(["-c", &look]).status().is_ok_and(|status| status.success())
}

/// Why this machine cannot run a test with this layout, if it cannot.
fn obstacle(layout: &Layout) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices".into());
    }
    let known = std::fs::read_to_string("/proc/filesystems").expect("readable");
    let tools = ["unshare", "nsenter", "fsfreeze"];
    let missing = |need: &&&str| match **need {
        kind @ ("ext4" | "xfs" | "btrfs" | "vfat") => {
            let mkfs = format!("mkfs.{kind}");
            // A module comes when it is asked for.
            let _ = Command::new("modprobe").args(["-q", kind]).status();
            !known.lines().any(|line| line.split_whitespace().last() == Some(kind)) || !has_program(&mkfs)
        }
        "overlay" => !known.contains("overlay"),
        "device-mapper" => !Command::new("dmsetup").arg("version").output().is_ok_and(|output| output.status.success()),
        program => !has_program(program),
    };
    let need = layout.needs.iter().chain(&tools).find(missing)?;
    Some(format!("no {need} here"))
}

impl Bench {
    /// `None`, said on stderr, when this machine cannot have it.
    pub fn new(layout: &Layout, args: &[&str]) -> Option<Bench> {
        if let Some(why) = obstacle(layout) {
            support::skip(&why);
            return None;
        }
        let dir = tempfile::TempDir::new().expect("a directory");
        let script = format!("{PRELUDE}\n{}\nexec \"$@\"", layout.script);
        let mut agent = Agent::command(dir.path());
        agent.args(["-m", "unix-listen", "-p"]).arg(dir.path().join("s")).args(args);
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(agent.get_program()).args(agent.get_args()).env("QGA_CONF", "").env("T", dir.path());
        command.stderr(std::fs::File::options().append(true).open(dir.path().join("stderr")).expect("a file"));
        let points = layout.points.iter().map(|point| dir.path().join(point)).collect();
        let mut child = command.spawn().expect("unshare runs");
        let socket = dir.path().join("s");
        until("the agent listens", || {
            assert!(child.try_wait().expect("our child").is_none(), "the layout cannot be mounted");
            UnixStream::connect(&socket).ok()
        });
        let keeper = enter(child.id(), &["sleep", "600"]);
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        until("the keeper is inside", || (namespace(keeper.id()) == namespace(child.id())).then_some(()));
        let args = args.iter().map(ToString::to_string).collect();
        Some(Bench { agent: Agent { child, dir }, keeper, points, args })
    }

    /// Starts a program in the agent's mount namespace.
    pub fn inside(&self, program: &[&str]) -> Child {
        enter(self.keeper.id(), program)
    }

    /// Runs a shell script there, to its end, and gives what it printed.
    pub fn shell(&self, script: &str) -> String {
        self.shell_with(Stdio::null(), script)
    }

    /// As [`Bench::shell`], with something for its standard input.
    pub fn shell_with(&self, stdin: Stdio, script: &str) -> String {
        let keeper = self.keeper.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &keeper, "sh", "-c", &format!("set -e; cd \"$T\"; {script}")]);
        let output = command.env("T", self.agent.dir.path()).stdin(stdin).output().expect("nsenter runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts a write to each file system.
    pub fn write(&self) -> Vec<Child> {
        let touch = |point: &PathBuf| self.inside(&["touch", &point.join("file").display().to_string()]);
        self.points.iter().map(touch).collect()
    }

    pub fn listed(&self) -> serde_json::Value {
        json!({"mountpoints": self.points})
    }

    /// Options for the agents that are started from now on.
    pub fn add_args(&mut self, args: &[String]) {
        self.args.extend_from_slice(args);
    }

    /// Starts the agent again, with the same state, after the last one ended.
    pub fn restart(&mut self) -> Client {
        self.agent.child.wait().expect("our child");
        let socket = self.agent.path("s");
        let _ = std::fs::remove_file(&socket);
        let mut command = Agent::command(self.agent.dir.path());
        command.args(["-m", "unix-listen", "-p"]).arg(&socket).args(&self.args);
        let mut inside = Command::new("nsenter");
        inside.args(["-m", "-t", &self.keeper.id().to_string()]);
        inside.arg(command.get_program()).args(command.get_args()).env("QGA_CONF", "");
        inside.stderr(std::fs::File::options().append(true).open(self.agent.path("stderr")).expect("a file"));
        self.agent.child = inside.spawn().expect("nsenter runs");
        until("it listens again", || UnixStream::connect(&socket).ok().map(Client::new))
    }
}

/// Whatever went wrong: nothing stays frozen, or the kernel could not take the mounts down.
impl Drop for Bench {
    fn drop(&mut self) {
        for point in &self.points {
            let script = format!("while fsfreeze -u {} 2>/dev/null; do :; done", point.display());
            let _ = self.inside(&["sh", "-c", &script]).wait();
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let _ = self.agent.child.kill();
        let _ = self.agent.child.wait();
        // Now that the namespace and its mounts are gone.
        for group in std::fs::read_to_string(self.agent.path("groups")).unwrap_or_default().lines() {
            let _ = Command::new("vgremove").args(["-qq", "-f", "-y", group]).status();
        }
        let loops = std::fs::read_to_string(self.agent.path("loops")).unwrap_or_default();
        for device in loops.lines() {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}
